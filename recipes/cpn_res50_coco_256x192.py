"""CPN, ResNet-50, 256x192, on COCO train2017 (arXiv:1711.07319, tables 3 and 6).

    python recipes/cpn_res50_coco_256x192.py --data ~/coco --out runs/cpn_res50    # --smoke: minutes on a CPU

`~/coco` holds `annotations/person_keypoints_{train,val}2017.json`, `train2017/` and `val2017/`. A run that was stopped
goes on where it was. The numbers are those of the authors' code: batches of 32 crops, Adam at 5e-4, halved after each
60 x 60,000 crops, L2 of 1e-5 on the kernels, OHKM over 8 of 17 keypoints.

Measured: not run at full length. The authors' implementation reports 69.7 AP on COCO minival with a detector of 55.3
person AP. Differs from it: one augmented crop for each draw of a person instead of four, crops that are not cut to
whole pixels, and the ResNet starts from the weights in --weights, or from none.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import CPNLoss

BATCH_SIZE = 32  # 8 people x 4 crops in the authors' code
LEARNING_RATE = 5e-4
EPOCHS_PER_HALVING = 60
CROPS_PER_EPOCH = 60_000
EPOCHS = 350  # of the released model


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("cpn_res50", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.halving(LEARNING_RATE, every=EPOCHS_PER_HALVING * steps_per_epoch)
    model.compile(training.AdamL2(schedule, l2=1e-5), CPNLoss(top_k=8, flavour="official"))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "cpn_res50_coco_256x192"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="cpn",
        crops_per_epoch=CROPS_PER_EPOCH,
    )
