"""ResNet-50, dilated from res4 on, 256x192, on COCO train2017: a rival in CPN's paper (arXiv:1711.07319, table 3).

    python recipes/dilated_res50_coco_256x192.py --data ~/coco --out runs/dilated_res50

`~/coco` holds `annotations/person_keypoints_{train,val}2017.json`, `train2017/` and `val2017/`. The schedule is that of
CPN's code, without L2, since labels reach 1 here and not 255.

Measured: not run at full length. The paper reports 66.5 AP on COCO minival with a detector of 55.3 person AP; 44.1 with
only res5 dilated (`trunk_stride=16`), 41.3 with none (`trunk_stride=32`).
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
    model = kpzoo.build("dilated_res50", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.halving(LEARNING_RATE, every=EPOCHS_PER_HALVING * steps_per_epoch)
    model.compile(keras.optimizers.Adam(schedule), HeatmapLoss())
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "dilated_res50_coco_256x192"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="cpn",
        crops_per_epoch=CROPS_PER_EPOCH,
    )
