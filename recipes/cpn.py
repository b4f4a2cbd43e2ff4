"""CPN and the networks that its paper compares it with, with the training settings of CPN's authors.

    python recipes/cpn.py cpn_res50_coco_256x192 --data ~/coco --weights imagenet_res50.weights.h5
    python recipes/cpn.py cpn_res50_coco_256x192 --smoke    # three steps on generated images, minutes on a CPU
    python recipes/cpn.py                                   # lists the runs

The numbers are those of the authors' code (arXiv:1711.07319). An epoch is 60,000 crops; the learning rate is halved
every 60 epochs. CPN uses L2 regularization of the kernels and online hard keypoint mining (OHKM) over 8 keypoints. The
hourglasses (arXiv:1603.06937) and the ResNet-50 that is dilated from res4 on are trained without L2, because their
target heatmaps have a maximum of 1 and not of 255. The authors train on COCO only, for 350 epochs. CrowdPose has a
quarter of the people, so its runs take 90 epochs; the other settings are those of COCO.

CPN starts from a ResNet trained on ImageNet (`--weights`), and on CrowdPose from weights trained on COCO:

    kpzoo convert resnet50.pth imagenet_res50.weights.h5 --model cpn_res50

Without `--weights` the training starts from random weights. Differences from the authors' code: a batch has one
augmented crop of a person instead of four (their batch of 32 is 8 people x 4 crops), and crops are not rounded to whole
pixels. An interrupted run is resumed. Data folders:

COCO       annotations/person_keypoints_{train,val}2017.json, train2017/, val2017/
CrowdPose  annotations/crowdpose_{trainval,test}.json, images/

None of the runs has been trained at full length. Sources of the published AP:

[1] authors' implementation, COCO minival, boxes of a detector of 55.3 person AP; the paper has 71.6 for ResNet-50 at
384x288 (table 8)
[2] paper (table 3), COCO minival, the same boxes; 44.1 with only res5 dilated (`trunk_stride=16`), 41.3 with no stage
dilated (`trunk_stride=32`)
"""

import common
import keras
from common import COCO, CROWDPOSE, Run

from kpzoo import training
from kpzoo.losses import CPNLoss, HeatmapLoss

EPOCHS_PER_HALVING = 60
L2 = 1e-5
TOP_K = 8  # keypoints that OHKM keeps

# fmt: off
RUNS = [
    #   model            data       (H, W)      batch rate  epochs drops augment published
    Run("cpn_res50",     COCO,      (256, 192), 32,   5e-4, 350,   (),   "cpn",  "69.7 [1]", crops_per_epoch=60_000),
    Run("cpn_res50",     COCO,      (384, 288), 24,   5e-4, 350,   (),   "cpn",  "72.3 [1]", crops_per_epoch=60_000),
    Run("cpn_res101",    COCO,      (384, 288), 24,   5e-4, 350,   (),   "cpn",  "72.9 [1]", crops_per_epoch=60_000),
    Run("cpn_res152",    COCO,      (384, 288), 24,   5e-4, 350,   (),   "cpn",  "none",     crops_per_epoch=60_000),
    Run("dilated_res50", COCO,      (256, 192), 32,   5e-4, 350,   (),   "cpn",  "66.5 [2]", crops_per_epoch=60_000),
    Run("hourglass_1",   COCO,      (256, 192), 32,   5e-4, 350,   (),   "cpn",  "54.5 [2]", crops_per_epoch=60_000),
    Run("hourglass_2",   COCO,      (256, 192), 32,   5e-4, 350,   (),   "cpn",  "66.5 [2]", crops_per_epoch=60_000),
    Run("hourglass_8",   COCO,      (256, 192), 32,   5e-4, 350,   (),   "cpn",  "66.9 [2]", crops_per_epoch=60_000),
    Run("cpn_res50",     CROWDPOSE, (256, 192), 32,   5e-4,  90,   (),   "cpn",  "none",     crops_per_epoch=60_000),
    Run("cpn_res101",    CROWDPOSE, (384, 288), 24,   5e-4,  90,   (),   "cpn",  "none",     crops_per_epoch=60_000),
    Run("cpn_res152",    CROWDPOSE, (384, 288), 24,   5e-4,  90,   (),   "cpn",  "none",     crops_per_epoch=60_000),
    Run("dilated_res50", CROWDPOSE, (256, 192), 32,   5e-4,  90,   (),   "cpn",  "none",     crops_per_epoch=60_000),
    Run("hourglass_1",   CROWDPOSE, (256, 192), 32,   5e-4,  90,   (),   "cpn",  "none",     crops_per_epoch=60_000),
    Run("hourglass_2",   CROWDPOSE, (256, 192), 32,   5e-4,  90,   (),   "cpn",  "none",     crops_per_epoch=60_000),
    Run("hourglass_8",   CROWDPOSE, (256, 192), 32,   5e-4,  90,   (),   "cpn",  "none",     crops_per_epoch=60_000),
]
# fmt: on


def compiled(run, model, steps_per_epoch):
    schedule = training.halving(run.learning_rate, every=EPOCHS_PER_HALVING * steps_per_epoch)
    if run.model.startswith("cpn"):
        model.compile(training.AdamL2(schedule, l2=L2), CPNLoss(top_k=TOP_K, flavour="official"))
    else:
        model.compile(keras.optimizers.Adam(schedule), HeatmapLoss())
    return model


if __name__ == "__main__":
    common.main(__doc__, RUNS, compiled)
