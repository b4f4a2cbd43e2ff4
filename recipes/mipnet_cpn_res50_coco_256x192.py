"""CPN with MIMBs, ResNet-50, 256x192, on COCO train2017: both papers in one network.

    python recipes/mipnet_cpn_res50_coco_256x192.py --data ~/coco --weights cpn_res50.weights.h5

It goes on from CPN's weights, which fill all but the MIMBs; `recipes/cpn_res50_coco_256x192.py` trains it, and `kpzoo
convert` makes the file of a published one. Loss, batch and learning rate are CPN's, the number of epochs is MIPNet's.

Measured: not run at full length. Nobody has published this network.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import CPNLoss, MultiInstanceLoss

BATCH_SIZE = 32
LEARNING_RATE = 5e-4
EPOCHS_PER_HALVING = 60
CROPS_PER_EPOCH = 60_000
EPOCHS = 110


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("mipnet_cpn_res50", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.halving(LEARNING_RATE, every=EPOCHS_PER_HALVING * steps_per_epoch)
    model.compile(training.AdamL2(schedule, l2=1e-5), MultiInstanceLoss(CPNLoss(top_k=8, flavour="official")))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "mipnet_cpn_res50_coco_256x192", baseline="cpn_res50"),
        compiled,
        splits=("train2017", "val2017"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="cpn",
        crops_per_epoch=CROPS_PER_EPOCH,
    )
