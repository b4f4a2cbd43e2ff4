"""The whole job in one go, offline: draw a data set, train, evaluate, look, export.

    python recipes/quickstart.py --out runs/quickstart

A small CPN learns 17 keypoints from drawn scenes of articulated figures, under `MirroredStrategy`, and is scored on
scenes that it has not seen. A run that was stopped goes on where it was.
"""

import argparse
from pathlib import Path

import keras

import kpzoo
from kpzoo import evaluation, export, images, training
from kpzoo.data import crops, synthetic
from kpzoo.losses import CPNLoss

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder for everything that is made")
parser.add_argument("--images", type=int, default=2000, help="training scenes")
parser.add_argument("--epochs", type=int, default=6, help="passes over them")
parser.add_argument("--devices", type=int, help="replicas: GPUs, or logical CPUs where there is none")

NUM_VAL = 120
BATCH_SIZE = 16
LEARNING_RATE = 5e-3
IMAGE_HW = (128, 96)
AUGMENT = crops.Augment(scale=(0.85, 1.2), rotation=20.0, rotation_probability=0.6, flip_probability=0.5)


def make_scenes(folder: Path, num_train: int) -> None:
    """Draws the training and the held-out scenes, unless they are there."""
    for split, count in (("train", num_train), ("val", NUM_VAL)):
        if not (folder / f"annotations/person_keypoints_{split}.json").exists():
            print(f"drawing {count} scenes for {split} …", flush=True)
            synthetic.make_dataset(folder, count, split=split, people=(1, 2))


def main(args: argparse.Namespace) -> None:
    scenes = args.out / "scenes"
    make_scenes(scenes, args.images)
    train, val = (kpzoo.data.load(scenes, split) for split in ("train", "val"))
    steps = training.num_persons(train) // BATCH_SIZE

    def make_model():
        keras.utils.set_random_seed(0)
        model = kpzoo.build("cpn_nano", image_hw=IMAGE_HW)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, args.epochs * steps, warmup_target=LEARNING_RATE, warmup_steps=steps // 2
        )
        # OHKM pays in long trainings; in one of minutes it spends its gradient on keypoints that nobody can see.
        model.compile(training.AdamL2(schedule), CPNLoss(refine_loss="l2", flavour="pytorch"))
        return model

    before = kpzoo.evaluate(make_model(), val, boxes="gt")
    model = training.run(
        make_model,
        train,
        args.out / "cpn",
        epochs=args.epochs,
        batch_size=BATCH_SIZE,
        augment=AUGMENT,
        validate=lambda model: kpzoo.evaluate(model, val, boxes="gt", flip=False).values,
        devices=args.devices,
    )
    after = kpzoo.evaluate(model, val, boxes="gt", results_path=args.out / "results.json")
    print(f"\nAP on {NUM_VAL} held-out scenes before training: {before.values['AP']:.3f}")
    print(f"and after:\n{after}\n")
    sheet = images.write_image(args.out / "predictions.png", evaluation.prediction_sheet(model, val, 12))
    served = export.to_savedmodel(model, args.out / "serving/cpn_nano/1", overwrite=True)
    print(f"training log   {args.out / 'cpn/log.csv'}\nposes          {args.out / 'results.json'}")
    print(f"pictures       {sheet}\nSavedModel     {served}")
    print(f"More pictures: kpzoo predict PHOTO --model {args.out / 'cpn'} --out poses")


if __name__ == "__main__":
    main(parser.parse_args())
