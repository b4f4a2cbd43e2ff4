"""SimpleBaseline, ResNet-152, 256x192, on CrowdPose.

    python recipes/simplebaseline_res152_crowdpose_256x192.py --data ~/crowdpose --weights imagenet_res152.weights.h5

`~/crowdpose` holds `annotations/crowdpose_{trainval,test}.json` and the pictures in `images/`. The schedule is
mmpose's, from ImageNet's ResNet.

Measured: not run at full length. MMPose reports 65.6 AP on CrowdPose test, with a detector's boxes.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss

BATCH_SIZE = 512  # 64 on each of 8 GPUs
EPOCHS = 210
LEARNING_RATE = 5e-4
DROPS = (170, 200)  # epochs after which the learning rate falls to a tenth


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("simplebaseline_res152", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.tenths(LEARNING_RATE, at=[epoch * steps_per_epoch for epoch in DROPS])
    model.compile(keras.optimizers.Adam(schedule), HeatmapLoss())
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "simplebaseline_res152_crowdpose_256x192"),
        compiled,
        splits=("trainval", "test"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="simplebaseline",
        protocol="crowdpose",
    )
