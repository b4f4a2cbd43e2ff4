"""Hourglass, 2 stacks (arXiv:1603.06937), 256x192, on CrowdPose: a rival in CPN's paper (its table 3), on COCO there.

    python recipes/hourglass_2_crowdpose_256x192.py --data ~/crowdpose --out runs/hourglass_2_crowdpose

`~/crowdpose` holds `annotations/crowdpose_{trainval,test}.json` and the pictures in `images/`. Its authors trained on
MPII, CPN's on COCO, neither on CrowdPose. The schedule is that of CPN's code for COCO, a quarter as long, since there
are a quarter as many people, and without L2, since labels reach 1 here and not 255.

Measured: not run at full length. The authors report no figure on CrowdPose.
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
EPOCHS = 90


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("hourglass_2", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.halving(LEARNING_RATE, every=EPOCHS_PER_HALVING * steps_per_epoch)
    model.compile(keras.optimizers.Adam(schedule), HeatmapLoss())
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "hourglass_2_crowdpose_256x192"),
        compiled,
        splits=("trainval", "test"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="cpn",
        crops_per_epoch=CROPS_PER_EPOCH,
        protocol="crowdpose",
    )
