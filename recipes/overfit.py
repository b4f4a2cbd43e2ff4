"""Does anything learn at all? Trains a model on a handful of persons until it knows them by heart.

    python recipes/overfit.py --data ~/coco --split val2017 --model cpn_res50 --persons 8 --out runs/overfit

It takes the largest persons with many labelled keypoints and scores the model on the very same crops. A sound data
set, model and loss reach an AP above 0.95; anything less points at boxes, keypoint order, normalisation or labels
before days are spent on a training. (`--steps 400` is about a quarter of an hour for a ResNet-50 on two CPU cores.)
"""

import argparse
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

import kpzoo
from kpzoo import evaluation, images, training
from kpzoo.losses import default_loss

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, required=True, help="a COCO-format folder")
parser.add_argument("--split", default="train", help="part of the annotation file's name")
parser.add_argument("--model", default="cpn_res50", help="a name of `kpzoo models`")
parser.add_argument("--persons", type=int, default=8, help="how many persons to learn by heart")
parser.add_argument("--steps", type=int, default=400, help="training steps, each over all of them")
parser.add_argument("--learning-rate", type=float, default=1e-3, help="falls along a cosine")
parser.add_argument("--out", type=Path, default=Path("runs/overfit"), help="the run's folder")


def largest_persons(data, count: int):
    """Returns the data with the `count` largest of its persons with at least two thirds of their keypoints labelled."""
    persons = data.annotations.persons
    known = (persons.visibility > 0).sum(axis=1) * 3 >= 2 * data.skeleton.num_keypoints
    sizes = np.where(known & ~persons.is_crowd & persons.has_box, persons.area, 0.0)
    keep = np.zeros(len(sizes), bool)
    keep[np.argsort(-sizes, kind="stable")[:count]] = True
    return replace(data, annotations=replace(data.annotations, persons=persons.take(keep & (sizes > 0))))


def main(args: argparse.Namespace) -> None:
    data = largest_persons(kpzoo.data.load(args.data, args.split), args.persons)
    count = training.num_persons(data)

    def make_model():
        keras.utils.set_random_seed(0)
        model = kpzoo.build(args.model, skeleton=data.skeleton)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.9  # a few hundred steps: the statistics for inference have to follow quickly
        schedule = keras.optimizers.schedules.CosineDecay(args.learning_rate, args.steps)
        model.compile(keras.optimizers.Adam(schedule), default_loss(model.preset))
        return model

    model = training.run(
        make_model,
        data,
        args.out,
        epochs=max(1, args.steps // 50),
        steps_per_epoch=min(50, args.steps),
        batch_size=count,
        augment=None,
        validate=lambda model: kpzoo.evaluate(model, data, flip=False).values,
    )
    print(kpzoo.evaluate(model, data, flip=False))
    print(images.write_image(args.out / "persons.jpg", evaluation.prediction_sheet(model, data, count)))


if __name__ == "__main__":
    main(parser.parse_args())
