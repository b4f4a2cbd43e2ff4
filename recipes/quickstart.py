"""The complete workflow, offline: generate data, train, evaluate, draw, export; then two people per box.

    python recipes/quickstart.py --out runs/quickstart

A small CPN learns 17 keypoints on generated images of articulated figures, under `MirroredStrategy`, and is evaluated
on images that were not used for training. Two networks then continue from its weights on images of overlapping people:
the same CPN, and the CPN with MIMBs (MIPNet), which predicts two people per box. An interrupted run is resumed.
"""

import argparse
from pathlib import Path

import keras

import kpzoo
from kpzoo import evaluation, export, images, training
from kpzoo.data import augment
from kpzoo.files import prepare_streams
from kpzoo.losses import CPNLoss, MultiInstanceLoss
from kpzoo.scenes import drawn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder for all output")
parser.add_argument("--images", type=int, default=2000, help="number of training images")
parser.add_argument("--epochs", type=int, default=5, help="passes over the training images")
parser.add_argument("--devices", type=int, help="number of replicas: GPUs, or logical CPUs if there are no GPUs")

NUM_VAL = 120
BATCH_SIZE = 16
LEARNING_RATE = 5e-3
IMAGE_HW = (128, 96)
AUGMENT = augment.Augment(scale=(0.85, 1.2), rotation=20.0, rotation_probability=0.6, flip_probability=0.5)
SPARSE = dict(people=(1, 2))
CROWDED = dict(people=(2, 2), crowding=0.9)
CROWD_EPOCHS = 2
# In trainings of minutes, OHKM gives a lower AP than L2: most of its gradient is from occluded keypoints.
LOSS = CPNLoss(refine_loss="l2", flavour="pytorch")


def make_scenes(folder: Path, num_train: int, num_val: int, **how) -> list[kpzoo.data.PoseData]:
    """Draws the training and the held-out scenes, unless they exist, and returns both."""
    for split, count in (("train", num_train), ("val", num_val)):
        if not (folder / f"annotations/person_keypoints_{split}.json").exists():
            print(f"drawing {count} scenes for {split} …", flush=True)
            drawn.write_drawn(folder, count, split=split, **how)
    return [kpzoo.data.load(folder, split) for split in ("train", "val")]


def fit(name: str, train, folder: Path, epochs: int, learning_rate: float, args, val, weights=None, validate=None):
    """Trains a model, from the weights of another run if they are given; shows what it finds in held-out scenes."""
    steps = kpzoo.data.num_persons(train) // BATCH_SIZE

    def make_model():
        keras.utils.set_random_seed(0)
        model = kpzoo.build(name, image_hw=IMAGE_HW, weights=weights)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, epochs * steps, warmup_target=learning_rate, warmup_steps=steps // 2
        )
        model.compile(training.AdamL2(schedule), MultiInstanceLoss(LOSS) if model.preset.num_instances > 1 else LOSS)
        return model

    return training.run(
        make_model,
        train,
        folder,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        augment=AUGMENT,
        validate=validate,
        draw=lambda model: evaluation.progress_sheet(model, val),
        devices=args.devices,
    )


def main(args: argparse.Namespace) -> None:
    prepare_streams()
    train, val = make_scenes(args.out / "scenes", args.images, NUM_VAL, **SPARSE)
    keras.utils.set_random_seed(0)
    before = kpzoo.evaluate(kpzoo.build("cpn_nano", image_hw=IMAGE_HW), val, boxes="gt")
    model = fit(
        "cpn_nano",
        train,
        args.out / "cpn",
        args.epochs,
        LEARNING_RATE,
        args,
        val,
        validate=lambda model: kpzoo.evaluate(model, val, boxes="gt", flip=False).values,
    )
    after = kpzoo.evaluate(model, val, boxes="gt", results_path=args.out / "results.json")
    print(f"\nAP on {NUM_VAL} held-out scenes before training: {before.values['AP']:.3f}")
    print(f"and after:\n{after}\n")
    sheet = images.write_image(args.out / "predictions.png", evaluation.prediction_sheet(model, val, 12))
    served = export.to_savedmodel(model, args.out / "serving/cpn_nano/1", overwrite=True)

    print("Now people who overlap: the same network with and without MIMBs")
    train, val = make_scenes(args.out / "crowds", args.images // 3, NUM_VAL, **CROWDED)
    start, sheets, table = args.out / "cpn" / training.WEIGHTS, [], []
    for name, folder in (("cpn_nano", "crowd_cpn"), ("mipnet_nano", "crowd_mipnet")):
        model = fit(name, train, args.out / folder, CROWD_EPOCHS, LEARNING_RATE / 2, args, val, weights=start)
        every, one = (kpzoo.evaluate(model, val, box_nms=max_iou).values["AP"] for max_iou in (None, 0.5))
        table.append(f"{name:<24}{every:>11.3f}{one:>35.3f}")
        sheets.append(images.write_image(args.out / f"{folder}.png", evaluation.prediction_sheet(model, val, 12)))
    both = images.write_image(args.out / "two_in_a_box.png", evaluation.heatmap_sheet(model, val, 8, found=True))

    print(f"\nAP on {NUM_VAL} crowded scenes  every box   one box of each overlapping pair")
    print("\n".join(table))
    print(f"\ntraining       {args.out / 'cpn/summary.html'}\nposes          {args.out / 'results.json'}")
    print(f"pictures       {sheet}\nSavedModel     {served}")
    print(f"crowds         {sheets[0]} without MIMBs, {sheets[1]} with\nboth heatmaps  {both}")
    print(f"More pictures: kpzoo predict PHOTO --model {args.out / 'cpn'} --out poses")


if __name__ == "__main__":
    main(parser.parse_args())
