r"""CPN nano with 14 keypoints on Leeds Sports Pose Extended in COCO format (photos of athletes, one person each).

    python recipes/cpn_nano_lspet_128x128.py --data lspet --out runs/first
    python recipes/cpn_nano_lspet_128x128.py --data lspet --out runs/second --epochs 44 --seed 1 \
        --weights runs/first/model.weights.h5

The data folder has `annotations/lspet_train.json`, `annotations/lspet_val.json` and the images in `images/train` and
`images/val`. An interrupted run is resumed. PCK@0.2 and AP on the validation images are printed every six epochs
(without flip test) and at the end (with flip test), both with annotated boxes.

Differences from CPN's own training, for short trainings on few images: L2 loss instead of OHKM, one cosine schedule
instead of halving, a higher learning rate, batches of 16, bfloat16. The first training uses crops of 128x96 with little
rotation and scaling. It learns fast but overfits: results on training images are far better than on validation
images. The second training continues from its weights with square crops, which lying or jumping athletes fill better,
and with stronger augmentation: rotation, scaling, color, and a rectangle erased from half of the crops.
`docs/shipped_weights.md` has the results of both.
"""

import argparse
from pathlib import Path

import keras

import kpzoo
from kpzoo import evaluation, images, training
from kpzoo.data import augment
from kpzoo.losses import CPNLoss

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
parser.add_argument("--out", type=Path, default=Path("runs/cpn_nano_lspet_128x128"), help="run folder")
parser.add_argument("--weights", type=Path, help="weights of the first training; selects the second training")
parser.add_argument("--epochs", type=int, default=48, help="passes over the training images")
parser.add_argument("--devices", type=int, help="number of replicas: GPUs, or logical CPUs if there are no GPUs")
parser.add_argument("--seed", type=int, default=0, help="random seed of weights, order and augmentation")

BATCH_SIZE = 16
LEARNING_RATE = 4e-3
L2 = 1e-5
FIRST = (128, 96), augment.Augment((0.8, 1.25), 30.0, 0.6, 0.5, brightness=(0.8, 1.2))
SECOND = (128, 128), augment.Augment((0.65, 1.35), 60.0, 0.7, 0.5, brightness=(0.6, 1.4), erase_probability=0.5)


def main(args: argparse.Namespace) -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    train, val = (kpzoo.data.load(args.data, split) for split in ("train", "val"))
    steps = kpzoo.data.num_persons(train) // BATCH_SIZE
    image_hw, augment = SECOND if args.weights else FIRST

    def make_model():
        keras.utils.set_random_seed(args.seed)
        model = kpzoo.build("cpn_nano", image_hw=image_hw, skeleton=train.skeleton, weights=args.weights)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, args.epochs * steps, warmup_target=LEARNING_RATE, warmup_steps=steps // 2
        )
        model.compile(training.AdamL2(schedule, l2=L2), CPNLoss(refine_loss="l2", flavour="pytorch"))
        return model

    model = training.run(
        make_model,
        train,
        args.out,
        epochs=args.epochs,
        batch_size=BATCH_SIZE,
        augment=augment,
        seed=args.seed,
        validate=lambda model: kpzoo.evaluate(model, val, flip=False).values,
        validate_every=6,
        draw=lambda model: evaluation.progress_sheet(model, val),
        devices=args.devices,
    )
    print(kpzoo.evaluate(model, val, results_path=args.out / "results.json"))
    print(images.write_image(args.out / "predictions.jpg", evaluation.prediction_sheet(model, val, 48, columns=8)))


if __name__ == "__main__":
    main(parser.parse_args())
