"""Sanity check: trains a model on a few persons until it overfits them.

    python recipes/overfit.py --data ~/coco --split val2017 --model cpn_res50 --persons 8 --out runs/overfit

It takes the largest persons with many labelled keypoints and evaluates the model on the same crops. With correct data,
model and loss, AP exceeds 0.95. A lower value points to an error in boxes, keypoint order, normalization or target
heatmaps, before a long training is started. (`--steps 400` takes about a quarter of an hour for a ResNet-50 on two CPU
cores.)
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
parser.add_argument("--data", type=Path, required=True, help="folder of a data set in COCO format")
parser.add_argument("--split", default="train", help="split, a part of the annotation file's name")
parser.add_argument("--model", default="cpn_res50", help="model name, see `kpzoo models`")
parser.add_argument("--persons", type=int, default=8, help="number of persons to train on")
parser.add_argument("--steps", type=int, default=400, help="training steps, each on all persons")
parser.add_argument("--learning-rate", type=float, default=1e-3, help="initial learning rate of a cosine schedule")
parser.add_argument("--out", type=Path, default=Path("runs/overfit"), help="run folder")


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
    count = kpzoo.data.num_persons(data)

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
