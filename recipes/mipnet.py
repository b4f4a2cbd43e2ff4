"""MIPNet on SimpleBaseline, HRNet and CPN: networks with multi-instance modulation blocks (MIMBs), two people per crop.

    python recipes/mipnet.py mipnet_hrnet_w48_coco_384x288 --data ~/coco --weights pose_hrnet_w48_384x288.weights.h5
    python recipes/mipnet.py mipnet_hrnet_w48_coco_384x288 --smoke    # three steps on generated images, on a CPU
    python recipes/mipnet.py                                          # lists the runs

Each run starts from the trained weights of its baseline, which fill everything but the MIMBs. `recipes/hrnet.py` and
`recipes/cpn.py` train the baselines, `kpzoo convert` converts published ones (see docs/weights.md). Both people of a
crop are learned in the same step, so a batch of 128 crops has 256 rows after the first MIMB. HRNet-W48's batch of 80
was 10 crops on each of 8 GPUs.

MIPNet's settings are those of the authors' scripts (arXiv:2101.11223): Adam without weight decay, a learning rate that
is divided by 10 after the epochs in `drops`. For ResNets on CrowdPose they have a script of ResNet-101 only; ResNet-50
and ResNet-152 use its schedule and its single MIMB before the last stage. CPN with MIMBs combines two papers, and
neither of them trains it. Its loss, L2, batch and halving schedule are those of CPN (`recipes/cpn.py`), its epochs
those of MIPNet on COCO and of CPN on CrowdPose. CrowdPose is evaluated without pose NMS, as in the authors' evaluation.
An interrupted run is resumed. Data folders:

COCO       annotations/person_keypoints_{train,val}2017.json, train2017/, val2017/
CrowdPose  annotations/crowdpose_{trainval,test}.json, images/

None of the runs has been trained at full length. Sources of the published AP:

[1] authors, COCO val2017, annotated boxes; the same model has 74.1 on OCHuman val, annotated boxes
[2] authors, CrowdPose test, boxes of a detector, no NMS; 78.1, 71.1 and 59.4 on easy, medium and hard images
"""

import common
import keras
from common import COCO, CROWDPOSE, Run

from kpzoo import training
from kpzoo.losses import CPNLoss, HeatmapLoss, MultiInstanceLoss

# Of CPN, see its page.
CROPS = 60_000  # per epoch
EPOCHS_PER_HALVING = 60
L2 = 1e-5
TOP_K = 8  # keypoints that OHKM keeps

C5 = {"mimb_stages": ["c5"]}  # a single MIMB, before the last stage
SIMPLE = "simplebaseline"  # augmentation
RES50, RES101, RES152 = "simplebaseline_res50", "simplebaseline_res101", "simplebaseline_res152"  # baselines

# fmt: off
RUNS = [
    #   model               data       (H, W)      batch rate epochs drops     augment published  baseline crops options
    Run("mipnet_res50",     COCO,      (256, 192), 128, 1e-3, 110, (70, 100),  SIMPLE,  "none",     RES50),
    Run("mipnet_res101",    COCO,      (256, 192), 128, 1e-3, 110, (70, 100),  SIMPLE,  "none",     RES101),
    Run("mipnet_res152",    COCO,      (256, 192), 128, 1e-3, 110, (70, 100),  SIMPLE,  "none",     RES152),
    Run("mipnet_hrnet_w32", COCO,      (256, 192), 128, 1e-3, 210, (170, 200), "hrnet", "none",     "hrnet_w32"),
    Run("mipnet_hrnet_w48", COCO,      (384, 288),  80, 1e-3, 110, (70, 100),  "hrnet", "78.8 [1]", "hrnet_w48"),
    Run("mipnet_cpn_res50", COCO,      (256, 192),  32, 5e-4, 110, (),         "cpn",   "none",     "cpn_res50", CROPS),
    Run("mipnet_res50",     CROWDPOSE, (256, 192), 128, 1e-3, 210, (90, 120),  SIMPLE,  "none",     RES50,  None, C5),
    Run("mipnet_res101",    CROWDPOSE, (256, 192), 128, 1e-3, 210, (90, 120),  SIMPLE,  "none",     RES101, None, C5),
    Run("mipnet_res152",    CROWDPOSE, (256, 192), 128, 1e-3, 210, (90, 120),  SIMPLE,  "none",     RES152, None, C5),
    Run("mipnet_hrnet_w32", CROWDPOSE, (256, 192), 128, 1e-3, 210, (170, 200), "hrnet", "none",     "hrnet_w32"),
    Run("mipnet_hrnet_w48", CROWDPOSE, (384, 288),  80, 1e-3, 210, (170, 200), "hrnet", "70.0 [2]", "hrnet_w48"),
    Run("mipnet_cpn_res50", CROWDPOSE, (256, 192),  32, 5e-4,  90, (),         "cpn",   "none",     "cpn_res50", CROPS),
]
# fmt: on


def compiled(run, model, steps_per_epoch):
    if run.model == "mipnet_cpn_res50":
        schedule = training.halving(run.learning_rate, every=EPOCHS_PER_HALVING * steps_per_epoch)
        optimizer = training.AdamL2(schedule, l2=L2)
        loss = CPNLoss(top_k=TOP_K, flavour="official")
    else:
        schedule = training.tenths(run.learning_rate, at=[epoch * steps_per_epoch for epoch in run.drops])
        optimizer = keras.optimizers.Adam(schedule)
        loss = HeatmapLoss()
    model.compile(optimizer, MultiInstanceLoss(loss))
    return model


if __name__ == "__main__":
    common.main(__doc__, RUNS, compiled)
