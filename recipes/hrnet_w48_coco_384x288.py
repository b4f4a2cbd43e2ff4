"""HRNet-W48, 384x288, on COCO train2017 (arXiv:1902.09212, table 1): what MIPNet's best model starts from.

    python recipes/hrnet_w48_coco_384x288.py --data ~/coco --weights imagenet_w48.weights.h5

`~/coco` holds `annotations/person_keypoints_{train,val}2017.json`, `train2017/` and `val2017/`. The paper starts from
an HRNet trained on ImageNet; without `--weights` the training starts from random weights.

Measured: not run at full length. The authors report 76.3 AP on COCO val2017 with a detector of 56.4 person AP.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss

BATCH_SIZE = 96  # 24 on each of 4 GPUs
EPOCHS = 210
LEARNING_RATE = 1e-3
DROPS = (170, 200)  # epochs after which the learning rate falls to a tenth


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("hrnet_w48", image_hw=(384, 288), skeleton=skeleton, weights=weights)
    schedule = training.tenths(LEARNING_RATE, at=[epoch * steps_per_epoch for epoch in DROPS])
    model.compile(keras.optimizers.Adam(schedule), HeatmapLoss())
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "hrnet_w48_coco_384x288"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="hrnet",
    )
