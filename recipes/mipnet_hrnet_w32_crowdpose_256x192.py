"""MIPNet, HRNet-W32, 256x192, on CrowdPose (arXiv:2101.11223).

    python recipes/mipnet_hrnet_w32_crowdpose_256x192.py --data ~/crowdpose --weights hrnet_w32.weights.h5

`~/crowdpose` holds `annotations/crowdpose_{trainval,test}.json` and the pictures in `images/`. It goes on from the
baseline, whose weights fill all but the MIMBs. `--smoke` takes minutes on a CPU and needs neither.

Measured: not run at full length. The authors report 70.0 AP on CrowdPose test, with larger networks and a detector's
boxes. Their evaluation there uses no pose NMS, and neither does this one.
"""

import common
import keras

import kpzoo
from kpzoo import training
from kpzoo.losses import HeatmapLoss, MultiInstanceLoss

BATCH_SIZE = 128
EPOCHS = 210
LEARNING_RATE = 1e-3
DROPS = (170, 200)  # epochs after which the learning rate falls to a tenth


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("mipnet_hrnet_w32", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.tenths(LEARNING_RATE, at=[epoch * steps_per_epoch for epoch in DROPS])
    model.compile(keras.optimizers.Adam(schedule), MultiInstanceLoss(HeatmapLoss()))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "mipnet_hrnet_w32_crowdpose_256x192", baseline="hrnet_w32"),
        compiled,
        splits=("trainval", "test"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="hrnet",
        protocol="crowdpose",
    )
