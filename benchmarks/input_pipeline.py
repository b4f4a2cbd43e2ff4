"""Samples per second of the training pipeline with full augmentation, against a loop of OpenCV and NumPy.

    python benchmarks/input_pipeline.py --data coco --split train --write

The samples are crops of 256x192 with the targets of two people. The loop does on one core what a worker process of
other projects does per sample: `cv2.imread`, `cv2.warpAffine`, brightness augmentation, and Gaussian targets in NumPy.
The pack is that of `kpzoo data pack` for the same folder.
"""

import argparse
import itertools
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import measure

import cv2  # isort: skip
import numpy as np
import tensorflow as tf

import kpzoo
from kpzoo import crops, geometry, heatmaps
from kpzoo.data import augment, batches, pack, packing
from kpzoo.scenes import Crowd, Cutouts, compose_scene

BATCH = 32
IMAGE_HW = (256, 192)
AUGMENT = replace(augment.AUGMENTS["cpn"], half_body_probability=0.3)  # turned, scaled, mirrored, brightened, halved
COMPOSED = ("kpzoo, composed crops, 1 thread", "kpzoo, composed crops, 2 threads")
SCENES = "whole composed scenes, then their crop, 1 core"
LOOP = "loop of OpenCV and NumPy, 1 core"
NOTHING = "overhead: an element through one map"
FEWER = 16  # times fewer batches of whole scenes, which take so much longer
SAMPLES = 288  # of which the stages are timed
FILL = (0.0, 0.0, 0.0)  # of HRNet's crops


def sample_time(make_iterator, num_batches: int, warm_up: int = 4):
    """Returns a call that measures the time per sample after a warm-up."""

    def call():
        iterator = make_iterator()
        for _ in range(warm_up):
            next(iterator)
        started = time.perf_counter()
        for _ in range(num_batches):
            next(iterator)
        return measure.OwnTime((time.perf_counter() - started) / num_batches / BATCH * 1000)

    return call


def stream_on(cores: int, model, data, crowd=None):
    """Returns a function that makes an iterator over the batches of kpzoo with `cores` threads."""

    def make():
        options = tf.data.Options()
        options.threading.private_threadpool_size = cores
        stream = batches.make_dataset(data, model, BATCH, augment=AUGMENT, crowd=crowd, check_images=False)
        return iter(stream.with_options(options))

    return make


def opencv_loop(data):
    """Returns a function that makes an iterator over the batches of the loop."""
    persons = batches._persons(data, data.skeleton, check_images=False)
    boxes, points = persons["boxes_image_xywh"], persons["labels"][..., :2]
    views = geometry.views(boxes, geometry.CROP_RULES["hrnet"], IMAGE_HW)
    nearest = batches.nearest_persons(persons["image_ids"], boxes, 1)[:, 0]
    cells = np.arange(IMAGE_HW[0] // 4), np.arange(IMAGE_HW[1] // 4)

    def sample(person, rng):
        scale = rng.uniform(*AUGMENT.scale)
        angle = np.radians(rng.uniform(-AUGMENT.rotation, AUGMENT.rotation)) * (rng.random() < 0.5)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        steps = views[person, 2:] * scale / IMAGE_HW[::-1] * (1 if rng.random() < 0.5 else -1, 1)
        linear = turn * steps
        offset = views[person, :2] - linear @ np.array([IMAGE_HW[1] / 2, IMAGE_HW[0] / 2])
        matrix = np.column_stack([linear, offset])
        image = cv2.imread(persons["paths"][person])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(image, matrix, IMAGE_HW[::-1], flags=flags)[..., ::-1]
        crop = np.clip(crop * rng.uniform(*AUGMENT.brightness, 3).astype(np.float32), 0, 255)
        both = [person, nearest[person] if nearest[person] >= 0 else person]
        crop_xy = (points[both] - offset) @ np.linalg.inv(linear).T / 4  # (2, K, 2)
        place = (crop_xy + 0.5).astype(int).astype(np.float32)
        rows, columns = (
            np.exp(-((side - place[..., 1 - axis, None]) ** 2) / 8).astype(np.float32)
            for axis, side in enumerate(cells)
        )
        return crop, np.einsum("nkh,nkw->nhwk", rows, columns)

    def make():
        cv2.setNumThreads(1)
        rng = np.random.default_rng(0)
        order = itertools.cycle(rng.permutation(len(views)))
        while True:
            made = [sample(next(order), rng) for _ in range(BATCH)]
            yield [np.stack(parts) for parts in zip(*made, strict=True)]

    return make


def scene_loop(data):
    """Returns a function that makes an iterator over batches of crops of composed scenes."""
    source = Cutouts(data)

    def sample(number):
        image, people = compose_scene((0, number), source, crowding=0.7)
        boxes = np.array([person["bbox"] for person in people[-1:]], np.float32)
        x, y, width, height = geometry.views(boxes, geometry.CROP_RULES["hrnet"], IMAGE_HW)[0]
        zoom = width / IMAGE_HW[1]
        matrix = np.array([[zoom, 0, x - width / 2], [0, zoom, y - height / 2]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, matrix, IMAGE_HW[::-1], flags=flags).astype(np.float32)

    def make():
        cv2.setNumThreads(1)
        for first in itertools.count(0, BATCH):
            yield np.stack([sample(first + index) for index in range(BATCH)])

    return make


def ways(data, model, folder: str, num_batches: int) -> dict:
    """Returns calls that measure the time per sample of each alternative. The pack is written to `folder`."""
    crowd = Crowd(data, share=1.0, folder=f"{folder}/cutouts")
    packed = pack.open_pack(packing.write_pack(data, f"{folder}/pack", image_hw=IMAGE_HW))
    sources = {
        LOOP: opencv_loop(data),
        "kpzoo, 1 thread": stream_on(1, model, data),
        "kpzoo, 2 threads": stream_on(2, model, data),
        "kpzoo, packed, 1 thread": stream_on(1, model, packed),
        "kpzoo, packed, 2 threads": stream_on(2, model, packed),
        COMPOSED[0]: stream_on(1, model, data, crowd),
        COMPOSED[1]: stream_on(2, model, data, crowd),
    }
    calls = {name: sample_time(source, num_batches) for name, source in sources.items()}
    calls[SCENES] = sample_time(scene_loop(data), max(1, num_batches // FEWER), warm_up=1)
    return calls


def stages(data, count: int) -> dict:
    """Returns calls that do one stage of the work for `count` samples on one thread."""
    persons = batches._persons(data, data.skeleton, check_images=False)
    views = geometry.views(persons["boxes_image_xywh"], geometry.CROP_RULES["hrnet"], IMAGE_HW)
    places = np.arange(count) % len(views)
    draws = [augment.draws_of(0, np.int64(number)) for number in range(count)]
    whole = replace(AUGMENT, half_body_probability=0.0)  # needs no person
    boxes = [tf.constant(views[place]) for place in places]
    turned = [augment.augmented_view(whole, box, None, draw) for box, draw in zip(boxes, draws, strict=True)]
    matrices = [crops.view_matrix(*view, IMAGE_HW) for view in turned]
    paths = persons["paths"].astype(str)[places]
    points = tf.constant(persons["labels"][places, :, :2].repeat(2, axis=0), tf.float32)
    points = tf.reshape(points, (count, 2, -1, 2)) / 3
    visible = tf.ones(points.shape[:3])

    def window(contents, matrix):
        part = crops._window(matrix, tf.io.extract_jpeg_shape(contents)[:2], IMAGE_HW)
        return tf.io.decode_and_crop_jpeg(contents, part, channels=3, dct_method="INTEGER_ACCURATE"), part[:2], matrix

    def one_thread(stream):
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        stream = stream.with_options(options)
        return tf.function(lambda: stream.reduce(np.int64(0), lambda number, *_: number + 1))

    def of(stream, step):
        return one_thread(stream.map(step, num_parallel_calls=1))

    codec = heatmaps.CODECS["hrnet"]
    contents = tf.data.Dataset.from_tensor_slices([tf.io.read_file(path) for path in paths])
    contents = tf.data.Dataset.zip(contents, tf.data.Dataset.from_tensor_slices(matrices)).cache()
    windows = contents.map(window).cache()
    images = windows.map(lambda *parts: crops._warp_compiled(*parts, IMAGE_HW, FILL)).cache()
    targets = tf.data.Dataset.from_tensor_slices((points, visible)).batch(BATCH)
    for stream in (contents, windows, images):
        sum(1 for _ in stream)
    return {
        NOTHING: of(images, lambda image: image),
        "read the file": of(tf.data.Dataset.from_tensor_slices(paths), tf.io.read_file),
        "decode all of the JPEG": of(
            contents, lambda c, _: tf.io.decode_jpeg(c, channels=3, dct_method="INTEGER_ACCURATE")
        ),
        "decode the window": of(contents, window),
        "warp, compiled": of(windows, lambda *parts: crops._warp_compiled(*parts, IMAGE_HW, FILL)),
        "warp, TensorFlow's operation": of(windows, lambda *parts: crops._warp(*parts, IMAGE_HW, FILL)),
        "brighten": of(images, lambda image: augment.brightened(image, AUGMENT, draws[0], FILL)),
        "batch": one_thread(images.batch(BATCH)),
        "targets of two people": of(targets, lambda p, v: heatmaps.encode(codec, p, v, IMAGE_HW)),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of photos in COCO format")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batches", type=int, default=16, help="of 32 samples, in one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="writes the file of results")
    args = parser.parse_args(argv)
    data = kpzoo.data.load(args.data, args.split)
    model = kpzoo.build("mipnet_tiny", image_hw=IMAGE_HW)
    with tempfile.TemporaryDirectory() as folder:
        found = measure.interleaved(ways(data, model, folder, args.batches), args.rounds, warm_up=0)
    lines = [
        {
            "way": name,
            "samples/s": f"{1000 / time.median:.0f} ({1000 / time.high:.0f} … {1000 / time.low:.0f})",
            "of the loop": found[LOOP].median / time.median,
        }
        for name, time in found.items()
    ]
    two, loop = 1000 / found["kpzoo, 2 threads"].median, 1000 / found[LOOP].median
    packed = 1000 / found["kpzoo, packed, 2 threads"].median
    times = measure.interleaved(stages(data, SAMPLES), args.rounds, warm_up=1)
    parts = [
        {"stage": name, "µs/sample (middle half)": str(time.scaled(1000 / SAMPLES))} for name, time in times.items()
    ]
    decoding = (times["decode the window"].median - times[NOTHING].median) / SAMPLES  # ms
    whole, whole_packed = (found[f"kpzoo, {kind}1 thread"].median for kind in ("", "packed, "))
    rest = whole - decoding
    one, both, scenes = (found[name].median for name in (*COMPOSED, SCENES))
    folder, pictures = Path(args.data).resolve().name, set(data.annotations.persons.image_index.tolist())
    measure.report(
        "input_pipeline",
        "Input pipeline: 256x192, targets of two people, full augmentation",
        f"python benchmarks/input_pipeline.py --data {folder} --split {args.split} --write",
        {"Samples per second": lines, "Time per stage of a sample, one thread": parts},
        [
            measure.bar("samples/s on 2 cores", two, at_least=450),
            measure.bar("times as fast as the loop on one core", two / loop, at_least=1.7, unit="x"),
            measure.bar("packed: times as fast as not packed", packed / two, at_least=2.0, unit="x"),
            measure.bar("composed crops: times as fast as whole scenes", scenes / both, at_least=8.0, unit="x"),
        ],
        notes=[
            f"Decoding of the JPEG window takes {decoding / whole:.0%} of the time of a sample in one thread. All "
            f"other steps take {1000 * rest:.0f} µs. For a pack to be twice as fast, decoding of its smaller JPEG may "
            f"take {1000 * (whole / 2 - rest):.0f} µs; it takes about {1000 * (whole_packed - rest):.0f} µs.",
            f"A composed crop (`--crowd`) takes {one - whole:.1f} ms more in one thread than a crop of a photo. Two "
            f"threads compose {one / both:.2f} times as many as one: Python plans the people of a scene one at a time, "
            "and OpenCV draws them into the crop in parallel.",
            f"The photos are those of {folder}, split {args.split}: {batches.num_persons(data)} labelled people in "
            f"{len(pictures)} photos, read from the page cache.",
            "The time of every stage includes the overhead of passing an element on, the row `overhead`.",
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
