"""HRNet-W48, 384x288, on CrowdPose: the baseline of MIPNet there.

    python recipes/hrnet_w48_crowdpose_384x288.py --data ~/crowdpose --weights imagenet_w48.weights.h5

`~/crowdpose` holds `annotations/crowdpose_{trainval,test}.json` and the pictures in `images/`. It starts from an HRNet
trained on ImageNet.

Measured: not run at full length. MIPNet's paper finds it 0.9 AP below MIPNet on CrowdPose val, with annotated boxes.
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
        common.arguments(__doc__, "hrnet_w48_crowdpose_384x288"),
        compiled,
        splits=("trainval", "test"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="hrnet",
        protocol="crowdpose",
    )
