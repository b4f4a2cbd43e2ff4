"""Hourglass, 2 stacks (arXiv:1603.06937), 256x192, on COCO train2017: a rival in CPN's paper (its table 3).

    python recipes/hourglass_2_coco_256x192.py --data ~/coco --out runs/hourglass_2

`~/coco` holds `annotations/person_keypoints_{train,val}2017.json`, `train2017/` and `val2017/`. Its authors trained on
MPII; the schedule here is that of CPN's code, without L2, since labels reach 1 and not 255.

Measured: not run at full length. CPN's paper reports 66.5 AP on COCO minival with a detector of 55.3 person AP.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss

BATCH_SIZE = 32
LEARNING_RATE = 5e-4
EPOCHS_PER_HALVING = 60
CROPS_PER_EPOCH = 60_000
EPOCHS = 350


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("hourglass_2", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.halving(LEARNING_RATE, every=EPOCHS_PER_HALVING * steps_per_epoch)
    model.compile(keras.optimizers.Adam(schedule), HeatmapLoss())
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "hourglass_2_coco_256x192"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="cpn",
        crops_per_epoch=CROPS_PER_EPOCH,
    )
