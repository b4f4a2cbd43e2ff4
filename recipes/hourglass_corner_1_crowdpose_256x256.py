"""Hourglass in CornerNet's style, one stack, 256x256, on CrowdPose: mmpose's hourglass52.

    python recipes/hourglass_corner_1_crowdpose_256x256.py --data ~/crowdpose --out runs/hourglass_corner_1_crowdpose

`~/crowdpose` holds `annotations/crowdpose_{trainval,test}.json` and the pictures in `images/`. MMPose trains this
network on COCO, not on CrowdPose; the schedule is that of its training, from random weights.

Measured: not run at full length. MMPose reports no figure on CrowdPose.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss

BATCH_SIZE = 256  # 32 on each of 8 GPUs
EPOCHS = 210
LEARNING_RATE = 5e-4
DROPS = (170, 200)  # epochs after which the learning rate falls to a tenth


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("hourglass_corner_1", image_hw=(256, 256), skeleton=skeleton, weights=weights)
    schedule = training.tenths(LEARNING_RATE, at=[epoch * steps_per_epoch for epoch in DROPS])
    model.compile(keras.optimizers.Adam(schedule), HeatmapLoss())
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "hourglass_corner_1_crowdpose_256x256"),
        compiled,
        splits=("trainval", "test"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="hrnet",
        protocol="crowdpose",
    )
