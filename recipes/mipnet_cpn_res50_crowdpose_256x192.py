"""CPN with MIMBs, ResNet-50, 256x192, on CrowdPose: both papers in one network.

    python recipes/mipnet_cpn_res50_crowdpose_256x192.py --data ~/crowdpose --weights cpn_res50.weights.h5

`~/crowdpose` holds `annotations/crowdpose_{trainval,test}.json` and the pictures in `images/`. It goes on from CPN's
weights, which fill all but the MIMBs; `recipes/cpn_res50_crowdpose_256x192.py` trains it. Neither paper trains such a
network. Loss, batch and schedule are those of that recipe: CPN's for COCO, a quarter as long.

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
EPOCHS = 90


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("mipnet_cpn_res50", image_hw=(256, 192), skeleton=skeleton, weights=weights)
    schedule = training.halving(LEARNING_RATE, every=EPOCHS_PER_HALVING * steps_per_epoch)
    model.compile(training.AdamL2(schedule, l2=1e-5), MultiInstanceLoss(CPNLoss(top_k=8, flavour="official")))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "mipnet_cpn_res50_crowdpose_256x192", baseline="cpn_res50"),
        compiled,
        splits=("trainval", "test"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="cpn",
        crops_per_epoch=CROPS_PER_EPOCH,
        protocol="crowdpose",
    )
