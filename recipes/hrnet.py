"""HRNet, SimpleBaseline and CornerNet's hourglass, with the training settings of their authors.

    python recipes/hrnet.py hrnet_w32_coco_256x192 --data ~/coco --weights imagenet_w32.weights.h5
    python recipes/hrnet.py hrnet_w32_coco_256x192 --smoke    # three steps on generated images, minutes on a CPU
    python recipes/hrnet.py                                   # lists the runs

Adam without weight decay; the learning rate is divided by 10 after the epochs in `drops`. HRNet (arXiv:1902.09212) and
SimpleBaseline (arXiv:1804.06208) start from ImageNet weights (`--weights`). For ResNets, `kpzoo convert` writes them:

    kpzoo convert resnet50.pth imagenet_res50.weights.h5 --model simplebaseline_res50

Without `--weights` the training starts from random weights. So does mmpose's training of hourglass52, which is
`hourglass_corner_1` here. The settings of SimpleBaseline on CrowdPose are mmpose's; the other runs on CrowdPose use the
settings of COCO. The HRNets and SimpleBaselines are the baselines of MIPNet (`recipes/mipnet.py`). Batches of 96 and
128 were 24 and 32 crops on each of 4 GPUs, batches of 256 and 512 were 32 and 64 crops on each of 8 GPUs. An
interrupted run is resumed. Data folders:

COCO       annotations/person_keypoints_{train,val}2017.json, train2017/, val2017/
CrowdPose  annotations/crowdpose_{trainval,test}.json, images/

None of the runs has been trained at full length. Sources of the published AP:

[1] authors, COCO val2017, boxes of a detector of 56.4 person AP
[2] MMPose, COCO val2017, the same boxes
[3] MMPose, CrowdPose test, boxes of a detector
[4] MIPNet's paper (arXiv:2101.11223), CrowdPose val, annotated boxes: the difference to MIPNet
"""

import common
import keras
from common import COCO, CROWDPOSE, Run

from kpzoo import training
from kpzoo.losses import HeatmapLoss

# fmt: off
RUNS = [
    #   model                    data       (H, W)      batch  rate  epochs  drops       augment           published
    Run("hrnet_w32",             COCO,      (256, 192), 128,   1e-3, 210,    (170, 200), "hrnet",          "74.4 [1]"),
    Run("hrnet_w48",             COCO,      (384, 288),  96,   1e-3, 210,    (170, 200), "hrnet",          "76.3 [1]"),
    Run("simplebaseline_res50",  COCO,      (256, 192), 128,   1e-3, 140,    (90, 120),  "simplebaseline", "70.4 [1]"),
    Run("simplebaseline_res101", COCO,      (256, 192), 128,   1e-3, 140,    (90, 120),  "simplebaseline", "71.4 [1]"),
    Run("simplebaseline_res152", COCO,      (256, 192), 128,   1e-3, 140,    (90, 120),  "simplebaseline", "72.0 [1]"),
    Run("hourglass_corner_1",    COCO,      (256, 256), 256,   5e-4, 210,    (170, 200), "hrnet",          "72.6 [2]"),
    Run("hrnet_w32",             CROWDPOSE, (256, 192), 128,   1e-3, 210,    (170, 200), "hrnet",          "67.5 [3]"),
    Run("hrnet_w48",             CROWDPOSE, (384, 288),  96,   1e-3, 210,    (170, 200), "hrnet",          "-0.9 [4]"),
    Run("simplebaseline_res50",  CROWDPOSE, (256, 192), 512,   5e-4, 210,    (170, 200), "simplebaseline", "63.7 [3]"),
    Run("simplebaseline_res101", CROWDPOSE, (256, 192), 512,   5e-4, 210,    (170, 200), "simplebaseline", "64.7 [3]"),
    Run("simplebaseline_res152", CROWDPOSE, (256, 192), 512,   5e-4, 210,    (170, 200), "simplebaseline", "65.6 [3]"),
    Run("hourglass_corner_1",    CROWDPOSE, (256, 256), 256,   5e-4, 210,    (170, 200), "hrnet"),
]
# fmt: on


def compiled(run, model, steps_per_epoch):
    schedule = training.tenths(run.learning_rate, at=[epoch * steps_per_epoch for epoch in run.drops])
    model.compile(keras.optimizers.Adam(schedule), HeatmapLoss())
    return model


if __name__ == "__main__":
    common.main(__doc__, RUNS, compiled)
