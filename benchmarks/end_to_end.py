"""End-to-end inference from image files and boxes to poses: `kpzoo.Predictor` against a loop of `model.predict`.

python benchmarks/end_to_end.py --write
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import macs
import measure
import numpy as np
import tensorflow as tf
from inference import lively

import kpzoo
from kpzoo import crops, geometry, heatmaps, images
from kpzoo.inference import batching
from kpzoo.inference.acceleration import accelerate, has_bfloat16
from kpzoo.scenes import drawn

FIRST = "picture by picture, model.predict"


def make_pictures(folder: Path, count: int) -> tuple[list[Path], list[np.ndarray]]:
    """Writes drawn scenes, and returns their files and boxes."""
    paths, boxes = [], []
    for seed in range(count):
        pixels, persons = drawn.draw_scene(seed, crowding=0.5)
        paths.append(folder / f"{seed:04d}.jpg")
        images.write_image(paths[-1], pixels)
        boxes.append(np.array([person["bbox"] for person in persons], float).reshape(-1, 4))
    return paths, boxes


def one_by_one(model, paths, boxes) -> list[np.ndarray]:
    """Returns the keypoints of a simple loop over images, with the flip test as a second call."""
    codec, preset = model.preset.rules, model.preset
    rule, found = codec.crop, []
    cut = batching.cropper(preset.image_hw, rule.fill_rgb)
    for path, given in zip(paths, boxes, strict=True):
        views = geometry.views(given, rule, preset.image_hw)
        maps = geometry.crop_to_image(views, preset.image_hw).astype(np.float32)
        image = np.asarray(cut(images.read_image(path), maps))
        both = [model.predict({"image": side}, verbose=0)["heatmaps"] for side in (image, image[:, :, ::-1])]
        merged = heatmaps.merge_flipped(codec, *both, preset.skeleton.flip_order)
        found.append(crops.to_image(maps, heatmaps.decode(codec, merged[:, None])[0]).numpy())
    return found


def network_alone(model, count: int, size: int):
    """Returns a call that predicts `count` crops with the flip test, in batches of `size`."""
    image = tf.random.stateless_uniform((count, *model.preset.image_hw, 3), (0, 0), 0, 255)
    ask, parts = accelerate(model), [image[start : start + size] for start in range(0, count, size)]
    return lambda: [ask(part)[0].numpy() for part in parts]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cpn_res50", help="a name of `kpzoo models`, for one instance")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    model = lively(kpzoo.build(args.model))
    with tempfile.TemporaryDirectory() as folder:
        paths, boxes = make_pictures(Path(folder), args.pictures)
        count = sum(map(len, boxes))

        def stream(**options):
            predictor = kpzoo.Predictor(model, **options)
            return lambda: list(predictor.stream(paths, boxes))

        alternatives = {
            FIRST: lambda: one_by_one(model, paths, boxes),
            "kpzoo.Predictor, batches of 8": stream(),
            "kpzoo.Predictor, batches of 1": stream(batch_size=1),
            "the network alone, batches of 8": network_alone(model, count, 8),
        }
        if has_bfloat16():
            alternatives["kpzoo.Predictor, batches of 8, bfloat16"] = stream(precision="bfloat16")
        times = measure.interleaved(alternatives, args.rounds, warm_up=1)
    work = dict.fromkeys(times, 2 * count * macs.accelerated(model)) | {FIRST: 2 * count * macs.of_all(model)}
    first = times[FIRST].median
    columns = {
        "crops/s": lambda found: count / found.median * 1000,
        "over the first": lambda found: f"{first / found.median:.2f}x",
    }
    measure.report(
        "end_to_end",
        "Images and boxes to poses",
        "python benchmarks/end_to_end.py --write",
        {f"{args.model}, {args.pictures} images, {count} boxes, flip test": measure.rows(times, work, **columns)},
        [],
        notes=[
            "The time includes decoding of images, cropping, inference with flip test, and decoding of heatmaps to "
            "image coordinates.",
            "GFLOP/s are the operations of the network divided by the total time. The row of the network alone uses "
            "crops that are in memory.",
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
