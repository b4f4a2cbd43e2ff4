"""SimpleBaseline, ResNet-152, 256x192, on COCO train2017 (arXiv:1804.06208, table 1).

    python recipes/simplebaseline_res152_coco_256x192.py --data ~/coco --weights imagenet_res152.weights.h5

`~/coco` holds `annotations/person_keypoints_{train,val}2017.json`, `train2017/` and `val2017/`. The paper starts from
ImageNet's ResNet: `kpzoo convert resnet152.pth imagenet_res152.weights.h5 --model simplebaseline_res152` writes the
file.

Measured: not run at full length. The authors report 72.0 AP on COCO val2017 with a detector of 56.4 person AP.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss

BATCH_SIZE = 128  # 32 on each of 4 GPUs
EPOCHS = 140
LEARNING_RATE = 1e-3
DROPS = (90, 120)  # epochs after which the learning rate falls to a tenth


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("simplebaseline_res152", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.tenths(LEARNING_RATE, at=[epoch * steps_per_epoch for epoch in DROPS])
    model.compile(keras.optimizers.Adam(schedule), HeatmapLoss())
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "simplebaseline_res152_coco_256x192"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="simplebaseline",
    )
