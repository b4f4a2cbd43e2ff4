"""MIPNet, HRNet-W48, 384x288, on CrowdPose (arXiv:2101.11223): the paper's best model there.

    python recipes/mipnet_hrnet_w48_crowdpose_384x288.py --data ~/crowdpose --weights hrnet_w48.weights.h5

`~/crowdpose` holds `annotations/crowdpose_{trainval,test}.json` and the pictures in `images/`. It goes on from the
baseline, whose weights fill all but the MIMBs.

Measured: not run at full length. The authors report 70.0 AP on CrowdPose test (78.1, 71.1 and 59.4 of easy, medium and
hard pictures), with a detector's boxes and no NMS.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss, MultiInstanceLoss

BATCH_SIZE = 80  # 10 on each of 8 GPUs
EPOCHS = 210
LEARNING_RATE = 1e-3
DROPS = (170, 200)  # epochs after which the learning rate falls to a tenth


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("mipnet_hrnet_w48", image_hw=(384, 288), skeleton=skeleton, weights=weights)
    schedule = training.tenths(LEARNING_RATE, at=[epoch * steps_per_epoch for epoch in DROPS])
    model.compile(keras.optimizers.Adam(schedule), MultiInstanceLoss(HeatmapLoss()))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "mipnet_hrnet_w48_crowdpose_384x288", baseline="hrnet_w48"),
        compiled,
        splits=("trainval", "test"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="hrnet",
        protocol="crowdpose",
    )
