"""Hourglass in CornerNet's style, one stack, 256x256, on COCO train2017: mmpose's hourglass52.

    python recipes/hourglass_corner_1_coco_256x256.py --data ~/coco --out runs/hourglass_corner_1

`~/coco` holds `annotations/person_keypoints_{train,val}2017.json`, `train2017/` and `val2017/`. The schedule is
mmpose's, from random weights.

Measured: not run at full length. MMPose reports 72.6 AP on COCO val2017 with a detector of 56.4 person AP.
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
        common.arguments(__doc__, "hourglass_corner_1_coco_256x256"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="hrnet",
    )
