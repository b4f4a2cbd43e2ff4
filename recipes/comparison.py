"""Compares the pose networks in the package with MoveNet Thunder, on the same photos and boxes.

    python recipes/comparison.py --data data --thunder movenet_thunder.onnx    # minutes; writes docs/comparison.md

The data folder contains coco_people/, coco_real/ and lspet/, each with images/val/ and annotations/. All figures are of
pycocotools' protocol, with the areas and the ignored annotations of the files.

Thunder runs under ONNX Runtime (`pip install 'kpzoo[onnx]'`). Its crop is the box, enlarged by 1.25 to a square; the
score of a pose is that of the box times the mean score of its keypoints.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

import kpzoo
from kpzoo import files
from kpzoo.data.results import Results
from kpzoo.evaluation import evaluator, metrics
from kpzoo.inference import detectors
from kpzoo.nms import similarity
from kpzoo.weights import published

PAGE, RESULTS = Path("docs/comparison.md"), Path("docs/results/comparison.json")
SETS = {
    "coco_people val": ("coco_people", "coco_people_val.json"),
    "coco_real val": ("coco_real", "person_keypoints_val.json"),
    "lspet val": ("lspet", "lspet_val.json"),
}
WITHOUT_BOXES = ("coco_people val", "coco_real val")
TABLE_SET = "coco_people val"
THUNDER, THUNDER_SIDE, MARGIN = "MoveNet Thunder", 256, 1.25
MIN_SCORE, MAX_BOXES = 0.1, 20  # of the detector's boxes, per image
SEEN_SET, MIN_HEIGHT = "coco_real val", 60  # people of at least this height in pixels
GOOD, HALF = 0.75, 0.5  # OKS from which a pose is good, or half good
TABLE_1 = [{"suppression": "hard", "max_iou": iou} for iou in (0.3, 0.4, 0.5, 0.6)]
TABLE_1 += [{"suppression": "linear", "max_iou": 0.5}, {"suppression": "gaussian", "sigma": 0.5}]
FIGURES = ("AP", "AP50", "AP75", "AR")


def thunder_poses(path: Path, data, image_ids: np.ndarray, boxes_xywh: np.ndarray, box_scores: np.ndarray) -> Results:
    """Returns Thunder's poses of person boxes, one upright pass each."""
    session, points, scores = thunder(path), [], []
    image, last = None, None
    for file, (x, y, width, height) in zip(data.image_paths(image_ids), boxes_xywh.tolist(), strict=True):
        image, last = (image if file == last else kpzoo.images.read_image(file, apply_exif=False)), file
        side = max(width, height) * MARGIN
        corner, zoom = np.array([x + width / 2 - side / 2, y + height / 2 - side / 2]), THUNDER_SIDE / side
        matrix = np.column_stack([np.eye(2) * zoom, -corner * zoom])
        found = session(cv2.warpAffine(image, matrix, (THUNDER_SIDE, THUNDER_SIDE)))
        points.append(found[:, 1::-1] * side + corner)
        scores.append(found[:, 2])
    points, scores = np.array(points, np.float64).reshape(-1, 17, 2), np.array(scores, np.float64).reshape(-1, 17)
    return Results(image_ids, points, scores, scores.mean(axis=1) * box_scores)


def thunder(path: Path):
    """Returns a function from a (256, 256, 3) uint8 crop to (17, 3): y and x as shares of the crop, and scores."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda crop: session.run(None, {name: crop[None].astype(np.int32)})[0][0, 0]


def mean_oks(annotations, person_index: np.ndarray, points: np.ndarray) -> float:
    """Returns the mean OKS of the (S, K, 2) poses of annotated persons."""
    persons = annotations.persons
    labelled = persons.visibility[person_index] > 0
    squared = np.square(points - persons.keypoints_image_xy[person_index]).sum(axis=-1)
    sigmas = metrics.reference_sigmas(annotations.skeleton)
    agreement = similarity(squared, persons.area[person_index, None], sigmas)
    return float(((agreement * labelled).sum(axis=1) / labelled.sum(axis=1)).mean())


def in_annotated_boxes(annotations, person_index, results: Results, first: np.ndarray) -> dict:
    """Returns all figures of poses in annotated boxes; `first` are the poses of the person of each box."""
    found = metrics.average_precision(annotations, results, "coco", boxes="gt (annotated)").values
    pck = metrics.pck(annotations, person_index, first).values["PCK@0.2"]
    return {**{key: found[key] for key in FIGURES}, "mean OKS": mean_oks(annotations, person_index, first), "PCK": pck}


def of_model(tag: str, data, boxes: str | Path, flip: bool) -> dict:
    model = kpzoo.build(published.ROWS[tag].model, weights=tag)
    how = dict(flip=flip, shared_keypoints=True)
    found = kpzoo.evaluate(model, data, boxes, **how)
    values = {key: found.values[key] for key in FIGURES}
    if boxes == "gt":
        several = model.preset.num_instances > 1  # whose poses NMS has thinned
        every = kpzoo.evaluate(model, data, boxes, nms=None, **how) if several else found
        points = every.results.keypoints_image_xy[:: model.preset.num_instances]
        shared = evaluator.of_shared_keypoints(data, model.preset)
        person_index = evaluator.boxes_of(shared, "gt")[0]
        values["mean OKS"] = mean_oks(shared.annotations, person_index, points)
        values["PCK"] = found.values["PCK@0.2"]
    return values


def of_thunder(path: Path, data, boxes: str | Path) -> dict:
    preset = kpzoo.build("cpn_lite0").preset  # Thunder's 17 keypoints are COCO's, too
    shared = evaluator.of_shared_keypoints(data, preset)
    person_index, image_ids, boxes_xywh, scores, _ = evaluator.boxes_of(shared, boxes)
    found = thunder_poses(path, shared, image_ids, boxes_xywh, scores)
    own, _ = preset.skeleton.shared_with(shared.skeleton)
    points = found.keypoints_image_xy[:, own]
    results = Results(image_ids, points, found.keypoint_scores[:, own], found.scores)
    if person_index is not None:
        return in_annotated_boxes(shared.annotations, person_index, results, points)
    values = metrics.average_precision(shared.annotations, results, "coco", boxes="detections").values
    return {key: values[key] for key in FIGURES}


def shares(tag: str, data) -> dict:
    """Returns the shares of people with a good, a half good and a bad pose, by all settings of `kpzoo predict`.

    The pose of a person is that of the picture with the highest OKS.
    """
    predictor = kpzoo.Predictor(kpzoo.build(published.ROWS[tag].model, weights=tag))
    persons, ids = data.annotations.persons, data.annotations.image_ids
    seen = (persons.num_keypoints > 0) & ~persons.is_crowd & (persons.boxes_image_xywh[:, 3] >= MIN_HEIGHT)
    persons, best = persons.take(seen), np.zeros(seen.sum())
    for index, path in enumerate(data.image_paths(ids)):
        points = predictor(kpzoo.images.read_image(path, apply_exif=False)).keypoints_xy
        here = np.flatnonzero(persons.image_index == index)
        if not len(points) or not len(here):
            continue
        labelled = persons.visibility[here] > 0
        squared = np.square(points[None] - persons.keypoints_image_xy[here, None]).sum(axis=-1)
        agreement = similarity(squared, persons.area[here, None, None], metrics.reference_sigmas(data.skeleton))
        best[here] = ((agreement * labelled[:, None]).sum(axis=2) / labelled.sum(axis=1)[:, None]).max(axis=1)
    good, half = (best >= GOOD).mean(), (best >= HALF).mean()
    return {"people": len(best), "good": good, "half good": half - good, "bad or not found": 1 - half}


def detected(data, folder: Path, **settings) -> Path:
    """Returns a results file of the boxes that the default detector finds in all images."""
    detector = replace(detectors.get(), min_score=MIN_SCORE, max_boxes=MAX_BOXES, **settings)
    rows, ids = [], data.annotations.image_ids
    for image_id, path in zip(ids.tolist(), data.image_paths(ids), strict=True):
        [boxes], [scores] = detector.detect([kpzoo.images.read_image(path, apply_exif=False)])
        rows += [
            {"image_id": image_id, "category_id": 1, "bbox": box, "score": score}
            for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
        ]
    return files.write_json(folder / "boxes.json", rows)


def milliseconds(call, count: int = 40) -> float:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[count // 4 :])


def about(tag: str) -> dict:
    """Returns the size and the time of one crop of a network in the package."""
    row = published.ROWS[tag]
    model = kpzoo.build(row.model, weights=tag)
    predict_crops = kpzoo.accelerate(model).freeze()
    crops = np.zeros((1, *row.image_hw, 3), np.float32)
    info = kpzoo.info(row.model)
    return {
        "crops": "{}x{}".format(*row.image_hw),
        "MB": published.fetch(tag).stat().st_size / 1e6,
        "ms": milliseconds(lambda: predict_crops(crops)[0].numpy()),
        "million parameters": info.num_params / 1e6,
    }


def measured(args) -> dict:
    tags = [tag for tag, row in published.ROWS.items() if row.is_shipped and row.skeleton == "coco17"]
    networks = {tag: about(tag) for tag in tags}
    crop = np.zeros((THUNDER_SIDE, THUNDER_SIDE, 3), np.uint8)
    session = thunder(args.thunder)
    size = args.thunder.stat().st_size / 1e6
    networks[THUNDER] = {"crops": "256x256", "MB": size, "ms": milliseconds(lambda: session(crop))}
    sets, table = {}, []
    for name, (folder, file) in SETS.items():
        root = args.data / folder
        data = kpzoo.data.load(annotations=root / "annotations" / file, images=root / "images/val")
        sets[name] = {"annotated boxes": {}}
        ways = {"annotated boxes": "gt"}
        with tempfile.TemporaryDirectory() as temporary:
            if name in WITHOUT_BOXES:
                ways["detected boxes"] = detected(data, Path(temporary))
            for way, boxes in ways.items():
                flips = FLIPS if boxes == "gt" else FLIPS[:1]
                found = {f"{tag}, {text}": of_model(tag, data, boxes, flip) for tag in tags for text, flip in flips}
                found[THUNDER] = of_thunder(args.thunder, data, boxes)
                sets[name][way] = found
                print(name, way, json.dumps(found, indent=1), flush=True)
            if name == SEEN_SET:
                seen = {tag: shares(tag, data) for tag in tags}
            if name == TABLE_SET and args.nms:
                for settings in TABLE_1:
                    boxes = detected(data, Path(temporary), **settings)
                    table.append({**settings, **of_model(tags[-1], data, boxes, True)})
                    print(json.dumps(table[-1]), flush=True)
    detector = detectors.get().weights
    told = {"detector": detector, "networks": networks, "sets": sets, "seen": seen}
    return {**told, "nms_model": tags[-1], "nms": table}


FLIPS = (("flip test", True), ("one pass", False))


def page(told: dict) -> Iterator[str]:
    """Yields the lines of docs/comparison.md."""
    yield "# The pose networks in the package beside MoveNet Thunder"
    yield ""
    yield "Written by `python recipes/comparison.py`. All networks see the same photos and the same boxes. Thunder is"
    yield "Google's MoveNet single pose Thunder, under ONNX Runtime, with one upright pass."
    yield ""
    yield "| network | crops | file | one crop on this CPU |"
    yield "| :-- | :-- | :-- | :-- |"
    for name, row in told["networks"].items():
        yield f"| {name} | {row['crops']} | {row['MB']:.1f} MB | {row['ms']:.1f} ms |"
    for name, ways in told["sets"].items():
        for way, rows in ways.items():
            columns = list(next(iter(rows.values())))
            yield ""
            yield f"## {name}, {way}" + (f" of `{told['detector']}`" if way.startswith("detected") else "")
            yield ""
            yield f"| network | {' | '.join('PCK@0.2' if key == 'PCK' else key for key in columns)} |"
            yield "|" + " :-- |" * (len(columns) + 1)
            for network, values in rows.items():
                yield f"| {network} | {' | '.join(f'{values[key]:.3f}' for key in columns)} |"
    yield ""
    yield f"## `kpzoo predict`, {SEEN_SET}"
    yield ""
    yield f"Shares of the people of at least {MIN_HEIGHT} pixels, by the OKS of the nearest pose: good from {GOOD},"
    yield f"half good from {HALF}."
    yield ""
    yield "| network | people | good | half good | bad or not found |"
    yield "|" + " :-- |" * 5
    for network, row in told["seen"].items():
        found = " | ".join(f"{row[key]:.0%}" for key in ("good", "half good", "bad or not found"))
        yield f"| {network} | {row['people']} | {found} |"
    if told["nms"]:
        yield from suppression(told)
    yield ""
    yield "`coco_people` val has 300 COCO photos of at most 480 pixels; areas are 0.53 times those of the boxes, and"
    yield "its ignored boxes are another detector's. `coco_real` val has 50 COCO photos. `lspet` val has 1,000 photos"
    yield "of athletes, of which the 12 shared keypoints are scored. The training data contain photos of val2017."


def suppression(told: dict) -> Iterator[str]:
    """Yields the lines on AP of poses by the suppression of boxes."""
    yield ""
    yield "## Suppression of boxes and AP of poses"
    yield ""
    yield f"`{told['nms_model']}` with flip test, boxes of `{told['detector']}`, coco_people val (CPN, Table 1):"
    yield ""
    yield "| suppression | AP | AP50 | AP75 | AR |"
    yield "|" + " :-- |" * 5
    for row in told["nms"]:
        limit = f"IoU {row['max_iou']}" if "max_iou" in row else f"sigma {row['sigma']}"
        yield f"| {row['suppression']}, {limit} | {' | '.join(f'{row[key]:.3f}' for key in FIGURES)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--thunder", type=Path, required=True, help="ONNX file of MoveNet Thunder")
    text = "also compare methods of box suppression, as CPN's Table 1, in about half an hour"
    parser.add_argument("--nms", action="store_true", help=text)
    args = parser.parse_args()
    told = measured(args)
    files.write_json(RESULTS, told, indent=1)
    PAGE.write_text("\n".join(page(told)) + "\n", "utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
