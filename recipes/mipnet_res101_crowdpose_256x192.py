"""MIPNet, ResNet-101, 256x192, on CrowdPose (arXiv:2101.11223).

    python recipes/mipnet_res101_crowdpose_256x192.py --data ~/crowdpose --weights simplebaseline_res101.weights.h5

`~/crowdpose` holds `annotations/crowdpose_{trainval,test}.json` and the pictures in `images/`. The schedule and the
place of the only MIMB, before the last stage, are those of the authors' script.

Measured: not run at full length. The authors report 70.0 AP on CrowdPose test, with HRNet-W48 and a detector's boxes.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss, MultiInstanceLoss

BATCH_SIZE = 128
EPOCHS = 210
LEARNING_RATE = 1e-3
DROPS = (90, 120)  # epochs after which the learning rate falls to a tenth


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("mipnet_res101", image_hw=(256, 192), skeleton=skeleton, weights=weights, mimb_stages=["c5"])
    schedule = training.tenths(LEARNING_RATE, at=[epoch * steps_per_epoch for epoch in DROPS])
    model.compile(keras.optimizers.Adam(schedule), MultiInstanceLoss(HeatmapLoss()))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "mipnet_res101_crowdpose_256x192", baseline="simplebaseline_res101"),
        compiled,
        splits=("trainval", "test"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="simplebaseline",
        protocol="crowdpose",
    )
