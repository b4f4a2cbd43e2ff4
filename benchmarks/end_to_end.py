"""End-to-end inference: from pictures and boxes to poses, and from photos on disk to a file of results.

python benchmarks/end_to_end.py --images PHOTOS --write      # drawn pictures without --images

The whole way is that of `kpzoo predict`: reading, person detector, crops, poses with the flip test, OKS-NMS and a
COCO results file. It is compared with a plain loop of calls of OpenVINO through the same stages.
"""

import argparse
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import cv2
import macs
import measure
import numpy as np
import tensorflow as tf
from inference import lively

import kpzoo
from kpzoo import boxes as person_boxes
from kpzoo import crops, geometry, heatmaps, images
from kpzoo.data.results import Results, write_results
from kpzoo.inference import batching, box_poses, detectors, engines, openvino_engine
from kpzoo.inference.acceleration import has_bfloat16
from kpzoo.inference.folded_model import FoldedModel, decoded, frozen_graph
from kpzoo.scenes import drawn

FIRST = "picture by picture, model.predict"
BATCH = 8


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


def network_alone(function, preset, count: int):
    """Returns a call that predicts `count` crops in memory with the flip test, in batches."""
    image = tf.random.stateless_uniform((count, *preset.image_hw, 3), (0, 0), 0, 255).numpy()
    parts = [np.ascontiguousarray(image[start : start + BATCH]) for start in range(0, count, BATCH)]
    return lambda: [function(part)[0].numpy() for part in parts]


def with_boxes(model, paths, boxes, engine: str, rounds: int) -> tuple[dict, list[dict]]:
    """Returns the table and the bar of pictures and boxes in memory against ready crops."""
    count = sum(map(len, boxes))
    pictures = [images.read_image(path) for path in paths]

    def stream(source, **options):
        predictor = kpzoo.Predictor(model, **options)
        return lambda: list(predictor.stream(source, boxes))

    predictor = kpzoo.Predictor(model, engine=engine)
    in_memory, ready = "kpzoo.Predictor, pictures in memory", "kpzoo.accelerate, ready crops"
    alternatives = {
        FIRST: lambda: one_by_one(model, paths, boxes),
        "kpzoo.Predictor, files": stream(paths, engine=engine),
        "kpzoo.Predictor, files, batches of 1": stream(paths, engine=engine, batch_size=1),
        in_memory: lambda: list(predictor.stream(pictures, boxes)),
        ready: network_alone(predictor._function, model.preset, count),
    }
    if has_bfloat16() and "bfloat16" in engines.PRECISIONS[engine]:
        alternatives["kpzoo.Predictor, files, bfloat16"] = stream(paths, engine=engine, precision="bfloat16")
    times = measure.interleaved(alternatives, rounds, warm_up=1)
    both = 1 + model.preset.skeleton.sides_known
    work = dict.fromkeys(times, both * count * macs.accelerated(model)) | {FIRST: both * count * macs.of_all(model)}
    first = times[FIRST].median
    columns = {
        "crops/s": lambda found: count / found.median * 1000,
        "over the first": lambda found: f"{first / found.median:.2f}x",
    }
    title = f"{model.name}, {engine}, {len(paths)} pictures, {count} boxes, flip test, batches of {BATCH}"
    name = f"{model.name}: pictures in memory with boxes over ready crops"
    bar = measure.bar(name, times[ready].median / times[in_memory].median, at_least=0.85, unit="x")
    return {title: measure.rows(times, work, **columns)}, [bar]


class Whole:
    """The whole way in one engine, from files to a file of results, and its networks alone."""

    def __init__(self, model, paths: list[Path], out: Path, engine: str):
        self.paths, self.out = paths, out
        self.predictor = kpzoo.Predictor(model, engine=engine, batch_size=BATCH)
        self.num_people = self()  # the first run prepares the networks
        self._calls = self._recorded()

    def __call__(self) -> int:
        found = [(place, one.poses) for place, one in enumerate(self.predictor.stream(self.paths))]
        return written(self.out, found)

    def networks(self) -> None:
        """Runs the detector's and the pose network on the inputs that they had."""
        for call in self._calls:
            call()

    def _recorded(self) -> list:
        calls, predictor = [], self.predictor
        start, made = predictor._start, predictor.detector._made

        def keep_crops(image, flip):
            image = np.array(image)
            calls.append(lambda: [part.numpy() for part in start(image, flip=flip)()])
            return start(image, flip=flip)

        def keep_canvas(network, batch):
            calls.append(lambda: [np.asarray(part) for part in network(batch)])
            return network(batch)

        predictor._start, before = keep_crops, dict(made)
        made.update({size: partial(keep_canvas, network) for size, network in before.items()})
        self()
        predictor._start = start
        made.update(before)
        return calls


def written(out: Path, found: list) -> int:
    """Writes a COCO results file of (image id, poses), and returns the number of poses."""
    ids = np.concatenate([np.full(len(poses), place) for place, poses in found])
    points, scores, of_poses = (
        np.concatenate([getattr(poses, name) for _, poses in found])
        for name in ("keypoints_xy", "keypoint_scores", "scores")
    )
    write_results(out, Results(ids, points, scores, of_poses), 1)
    return len(ids)


def plain_loop(model, paths: list[Path], out: Path):
    """Returns a call that goes the whole way picture by picture, with OpenVINO's own calls and OpenCV."""
    import openvino

    detector, preset, core = detectors.get(detectors.DEFAULT), model.preset, openvino.Core()
    side = max(detector.model.preset.image_hw)
    spec = [tf.TensorSpec((None, side, side, 3), tf.float32, name="image")]
    names = ("person_logits", "person_boxes")
    boxes_of = frozen_graph(
        FoldedModel(detector.model), lambda image, forward: tuple(forward({"image": image}).values()), spec, names
    )
    spec = [tf.TensorSpec((None, *preset.image_hw, 3), tf.float32, name="image")]
    poses_of = frozen_graph(FoldedModel(model), partial(decoded, model, True), spec, engines.KEYPOINTS)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    find, ask = (
        core.compile_model(openvino_engine.converted(graph, outputs), "CPU", hints).create_infer_request()
        for graph, outputs in ((boxes_of, names), (poses_of, engines.KEYPOINTS))
    )
    rule = preset.rules.crop

    def one(path) -> kpzoo.poses.Poses:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        scale = side / max(height, width)
        small = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        canvas = np.full((1, side, side, 3), person_boxes.PAD, np.float32)
        canvas[0, : small.shape[0], : small.shape[1]] = small
        answer = find.infer([canvas], share_inputs=True)
        found, scores = person_boxes.decode_boxes(*(answer[name][0] for name in names), detector.min_score)
        boxed = batching.BoxedPicture(None, *detector._best(found / scale, scores, image.shape[:2]))
        if not len(boxed.boxes_xywh):
            return kpzoo.poses.Poses.empty(preset.skeleton)
        views = geometry.views(boxed.boxes_xywh, rule, preset.image_hw)
        maps = geometry.crop_to_image(views, preset.image_hw)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = preset.image_hw[::-1]
        cut = [cv2.warpAffine(image, matrix, size, flags=flags, borderValue=rule.fill_rgb) for matrix in maps]
        answer = ask.infer([np.stack(cut).astype(np.float32)], share_inputs=True)
        points = np.einsum("pij,pnkj->pnki", maps[:, :, :2], answer["keypoints_crop_xy"]) + maps[:, None, None, :, 2]
        boxed.outputs.append((points, answer["keypoint_scores"].copy()))
        poses = box_poses.poses_of(boxed, preset)
        return poses[box_poses.suppress(poses, preset, box_poses.POSE_NMS)]

    return lambda: written(out, [(place, one(path)) for place, path in enumerate(paths)])


def whole_way(model, paths: list[Path], out: Path, engine: str, rounds: int) -> tuple[dict, list[dict]]:
    """Returns the table and the bars of the whole way."""
    whole = Whole(model, paths, out, engine)
    ours, alone, plain = f"kpzoo, {engine}", "its networks alone", "plain loop of OpenVINO calls"
    alternatives = {ours: whole, alone: whole.networks}
    if engines.is_installed("openvino"):
        alternatives[plain] = plain_loop(model, paths, out)
    times = measure.interleaved(alternatives, rounds, warm_up=1)
    columns = {
        "photos/s": lambda found: len(paths) / found.median * 1000,
        "people/s": lambda found: whole.num_people / found.median * 1000,
    }
    share = times[alone].median / times[ours].median
    bars = [measure.bar(f"{model.name}, whole way: share of the networks", share, at_least=0.85, unit="")]
    if plain in times:
        ratio = times[plain].median / times[ours].median
        bars.append(measure.bar(f"{model.name}, whole way over the plain loop", ratio, at_least=1.0, unit="x"))
    title = f"{model.name}, whole way, {len(paths)} pictures, {whole.num_people} poses"
    return {title: measure.rows(times, **columns)}, bars


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["cpn_res50", "cpn_lite0"], help="names of `kpzoo models`")
    parser.add_argument("--engine", choices=engines.ENGINES, default="openvino")
    parser.add_argument("--images", type=Path, help="folder of photos for the whole way; drawn ones if not given")
    parser.add_argument("--count", type=int, default=100, help="pictures of the whole way")
    parser.add_argument("--pictures", type=int, default=4, help="drawn pictures with boxes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    tables, bars = {}, []
    with tempfile.TemporaryDirectory() as folder:
        paths, boxes = make_pictures(Path(folder), args.pictures)
        photos = images.list_images(args.images)[: args.count] if args.images else None
        photos = photos or make_pictures(Path(folder), args.count)[0]
        for name in args.models:
            model = lively(kpzoo.build(name))
            parts = [with_boxes(model, paths, boxes, args.engine, args.rounds)]
            parts.append(whole_way(model, photos, Path(folder) / "results.json", args.engine, args.rounds))
            for table, reached in parts:
                tables, bars = {**tables, **table}, [*bars, *reached]
    measure.report(
        "end_to_end",
        "Pictures to poses",
        f"python benchmarks/end_to_end.py{' --images PHOTOS' if args.images else ''} --write",
        tables,
        bars,
        notes=[
            "The time with boxes includes decoding of files, cropping, inference with flip test, and decoding of "
            "heatmaps to image coordinates. GFLOP/s are the operations of the network divided by the total time.",
            "The whole way: files, the default person detector, crops, poses with the flip test, OKS-NMS, and a COCO "
            "results file. The networks alone have the same inputs in memory.",
            "The plain loop has OpenCV's crops, and runs picture by picture. Its detector has one square input.",
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
