"""CPN, ResNet-101, 384x288, on CrowdPose (arXiv:1711.07319 trains on COCO).

    python recipes/cpn_res101_crowdpose_384x288.py --data ~/crowdpose --weights cpn_res101_coco.weights.h5

`~/crowdpose` holds `annotations/crowdpose_{trainval,test}.json` and the pictures in `images/`. CPN's authors trained
nothing on CrowdPose. Batches, learning rate, L2 and mining are those of their code for COCO; the training is a quarter
as long, since there are a quarter as many people.

Measured: not run at full length. The authors report no figure on CrowdPose.
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
EPOCHS = 90


def compiled(skeleton, weights, steps_per_epoch):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("cpn_res101", image_hw=(384, 288), skeleton=skeleton, weights=weights)
    schedule = training.halving(LEARNING_RATE, every=EPOCHS_PER_HALVING * steps_per_epoch)
    model.compile(training.AdamL2(schedule, l2=1e-5), CPNLoss(top_k=8, flavour="official"))
    return model


if __name__ == "__main__":
    common.train(
        common.arguments(__doc__, "cpn_res101_crowdpose_384x288"),
        compiled,
        splits=("trainval", "test"),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        augment="cpn",
        crops_per_epoch=CROPS_PER_EPOCH,
        protocol="crowdpose",
    )
