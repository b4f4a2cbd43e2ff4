"""CPN, ResNet-50, 256x192, on COCO train2017 (arXiv:1711.07319, tables 3 and 6).

    python recipes/cpn_res50_coco_256x192.py --data ~/coco --out runs/cpn_res50    # --smoke: a minute on a CPU

`~/coco` holds `annotations/person_keypoints_{train,val}2017.json`, `train2017/` and `val2017/`. A run that was stopped
goes on where it was. The numbers are those of the authors' code: batches of 32 crops, Adam at 5e-4, halved after each
60 x 60,000 crops, L2 of 1e-5 on the kernels, OHKM over 8 of 17 keypoints.

Measured: not run at full length. The authors' implementation reports 69.7 AP on COCO minival with a detector of 55.3
person AP. Differs from it: one augmented crop for each draw of a person instead of four, crops that are not cut to
whole pixels, and the ResNet starts from the weights in --weights, or from none.
"""

import argparse
import tempfile
from pathlib import Path

import keras

import kpzoo
from kpzoo import training
from kpzoo.data import synthetic
from kpzoo.losses import CPNLoss

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="the COCO folder")
parser.add_argument("--out", type=Path, default=Path("runs/cpn_res50_coco_256x192"), help="the run's folder")
parser.add_argument("--weights", type=Path, help="a .weights.h5 file to start from")
parser.add_argument("--devices", type=int, help="replicas: GPUs, or logical CPUs where there is none")
parser.add_argument("--smoke", action="store_true", help="three steps on a few drawn scenes, to see that all works")

BATCH_SIZE = 32  # 8 people x 4 crops in the authors' code
LEARNING_RATE = 5e-4
CROPS_PER_HALVING = 60 * 60_000
CROPS = 350 * 60_000  # of the released model
CROPS_PER_EPOCH = 60_000


def main(args: argparse.Namespace) -> None:
    batch_size, steps_per_epoch, epochs = BATCH_SIZE, CROPS_PER_EPOCH // BATCH_SIZE, CROPS // CROPS_PER_EPOCH
    if args.smoke:
        batch_size, steps_per_epoch, epochs = 4, 3, 1
        args.out = Path(tempfile.mkdtemp(prefix="cpn_res50_smoke_"))
        for split in ("train2017", "val2017"):
            synthetic.make_dataset(args.out / "scenes", 4, split=split)
        args.data = args.out / "scenes"
    elif args.data is None:
        parser.error("--data FOLDER is needed, or --smoke")
    train, val = (kpzoo.data.load(args.data, split) for split in ("train2017", "val2017"))

    def make_model():
        keras.utils.set_random_seed(0)
        model = kpzoo.build("cpn_res50", image_hw=(256, 192), weights=args.weights)
        schedule = training.halving(LEARNING_RATE, every=CROPS_PER_HALVING // batch_size)
        model.compile(training.AdamL2(schedule, l2=1e-5), CPNLoss(top_k=8, flavour="official"))
        return model

    model = training.run(
        make_model,
        train,
        args.out,
        epochs=epochs,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        augment="cpn",
        validate=lambda model: kpzoo.evaluate(model, val, flip=False).values,
        validate_every=10,
        devices=args.devices,
    )
    print(kpzoo.evaluate(model, val))
    print(f"The run is in {args.out}.")


if __name__ == "__main__":
    main(parser.parse_args())
