"""CPN, ResNet-50, 384x288, on COCO train2017 (arXiv:1711.07319, table 8).

    python recipes/cpn_res50_coco_384x288.py --data ~/coco --out runs/cpn_res50

`~/coco` holds `annotations/person_keypoints_{train,val}2017.json`, `train2017/` and `val2017/`. The numbers are those
of the authors' code: batches of 24 crops, Adam at 5e-4, halved after each 60 x 60,000 crops, L2 of 1e-5 on the kernels,
OHKM over 8 of 17 keypoints. They start from ImageNet's ResNet: name its weights in --weights.

Measured: not run at full length. The authors' implementation reports 72.3 AP on COCO minival with a detector of 55.3
person AP, the paper 71.6.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import CPNLoss

BATCH_SIZE = 24
LEARNING_RATE = 5e-4
EPOCHS_PER_HALVING = 60
CROPS_PER_EPOCH = 60_000
EPOCHS = 350  # of the released models


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("cpn_res50", image_hw=(384, 288), skeleton=skeleton, weights=weights)
    schedule = training.halving(LEARNING_RATE, every=EPOCHS_PER_HALVING * steps_per_epoch)
    model.compile(training.AdamL2(schedule, l2=1e-5), CPNLoss(top_k=8, flavour="official"))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "cpn_res50_coco_384x288"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="cpn",
        crops_per_epoch=CROPS_PER_EPOCH,
    )
