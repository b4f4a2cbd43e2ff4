"""MIPNet, HRNet-W48, 384x288, on COCO train2017 (arXiv:2101.11223): the paper's best model.

    python recipes/mipnet_hrnet_w48_coco_384x288.py --data ~/coco --weights pose_hrnet_w48_384x288.weights.h5

It goes on from the authors' HRNet, whose weights fill all but the MIMBs: `kpzoo convert pose_hrnet_w48_384x288.pth
pose_hrnet_w48_384x288.weights.h5 --model hrnet_w48`. `--smoke` takes minutes on a CPU and needs none.

Measured: not run at full length. The authors report, with annotated boxes, 78.8 AP on COCO val2017 and 74.1 AP on
OCHuman val. Two people of a crop are learned at once: a batch of 80 crops is 160 rows behind the first MIMB.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss, MultiInstanceLoss

BATCH_SIZE = 80  # 10 on each of 8 GPUs
EPOCHS = 110
LEARNING_RATE = 1e-3
DROPS = (70, 100)  # epochs after which the learning rate falls to a tenth


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("mipnet_hrnet_w48", image_hw=(384, 288), skeleton=skeleton, weights=weights)
    schedule = training.tenths(LEARNING_RATE, at=[epoch * steps_per_epoch for epoch in DROPS])
    model.compile(keras.optimizers.Adam(schedule), MultiInstanceLoss(HeatmapLoss()))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "mipnet_hrnet_w48_coco_384x288", baseline="hrnet_w48"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="hrnet",
    )
