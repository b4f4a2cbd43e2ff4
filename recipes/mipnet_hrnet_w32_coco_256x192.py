"""MIPNet, HRNet-W32, 256x192, on COCO train2017 (arXiv:2101.11223).

    python recipes/mipnet_hrnet_w32_coco_256x192.py --data ~/coco --weights pose_hrnet_w32_256x192.weights.h5

It goes on from the authors' HRNet, whose weights fill all but the MIMBs: `kpzoo convert pose_hrnet_w32_256x192.pth
pose_hrnet_w32_256x192.weights.h5 --model hrnet_w32`.

Measured: not run at full length. The paper's figures quoted in this project are of HRNet-W48 at 384x288. Two people of
a crop are learned at once: a batch of 128 crops is 256 rows behind the first MIMB.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss, MultiInstanceLoss

BATCH_SIZE = 128
EPOCHS = 210
LEARNING_RATE = 1e-3
DROPS = (170, 200)  # epochs after which the learning rate falls to a tenth


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("mipnet_hrnet_w32", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.tenths(LEARNING_RATE, at=[epoch * steps_per_epoch for epoch in DROPS])
    model.compile(keras.optimizers.Adam(schedule), MultiInstanceLoss(HeatmapLoss()))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "mipnet_hrnet_w32_coco_256x192", baseline="hrnet_w32"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="hrnet",
    )
