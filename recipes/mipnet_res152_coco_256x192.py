"""MIPNet, ResNet-152, 256x192, on COCO train2017 (arXiv:2101.11223).

    python recipes/mipnet_res152_coco_256x192.py --data ~/coco --weights simplebaseline_res152.weights.h5

It goes on from the baseline, whose weights fill all but the MIMBs; `recipes/simplebaseline_res152_coco_256x192.py`
trains it, and `kpzoo convert` makes the file of a published one.

Measured: not run at full length. The paper's figures quoted in this project are of other sizes. Two people of a crop
are learned at once: a batch of 128 crops is 256 rows behind the first MIMB.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss, MultiInstanceLoss

BATCH_SIZE = 128
EPOCHS = 110
LEARNING_RATE = 1e-3
DROPS = (70, 100)  # epochs after which the learning rate falls to a tenth


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("mipnet_res152", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.tenths(LEARNING_RATE, at=[epoch * steps_per_epoch for epoch in DROPS])
    model.compile(keras.optimizers.Adam(schedule), MultiInstanceLoss(HeatmapLoss()))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "mipnet_res152_coco_256x192", baseline="simplebaseline_res152"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="simplebaseline",
    )
