"""Evaluation of detected person boxes by the rules of the COCO detection evaluation, which pycocotools computes."""

import contextlib
import io
from pathlib import Path

import numpy as np

from kpzoo.data.json_file import read_json
from kpzoo.errors import UserError
from kpzoo.evaluation.metrics import Metrics

PERSON = "person"
_STATS = ("AP", "AP50", "AP75", "APS", "APM", "APL")  # places 0 … 5 of COCOeval.stats; 8 is AR of 100 boxes
_AR = 8


def score_boxes(annotations: str | Path, detections: str | Path) -> Metrics:
    """Computes AP and AR of detected person boxes.

    Annotations with `iscrowd` are ignored, and so are boxes inside them. Boxes of the images are found by `file_name`
    where the detections have it, as those of `kpzoo detect` do, else by `image_id`. Boxes of other images and of other
    categories are left out and counted.

    Args:
        annotations: COCO JSON file with person boxes; keypoints are not required.
        detections: JSON file in COCO's results format, gzipped or not.

    Returns:
        Metrics with AP, AP50, AP75, APS, APM, APL and AR over IoU 0.50 … 0.95, 100 boxes per image, -1 if there are no
        such persons, and `F1`, the largest F1 at an IoU of 0.5 over all score thresholds. `details["F1_min_score"]` is
        that threshold.

    Raises:
        UserError: If a file cannot be read, or the detections belong to other images.

    Example:
        metrics = kpzoo.score_boxes("person_keypoints_val2017.json", "boxes.json")
        print(metrics.values["AP"])
    """
    truth = _truth(annotations)
    rows, left_out = _rows(detections, truth, annotations)
    evaluation = _evaluated(truth, rows)
    values = dict(zip(_STATS, map(float, evaluation.stats[: len(_STATS)]), strict=True))
    values["AR"] = float(evaluation.stats[_AR])
    values["F1"], threshold = _best_f1(evaluation)
    people = sum(not row["iscrowd"] for row in truth["annotations"])
    circumstances = {
        "protocol": "boxes",
        "annotations": str(annotations),
        "detections": str(detections),
        "images": len(truth["images"]),
        "persons": people,
        "crowds_ignored": len(truth["annotations"]) - people,
        "boxes_used": len(rows),
        "boxes_left_out": left_out,
        "F1_min_score": threshold,
    }
    return Metrics(values, circumstances, {"F1_min_score": threshold})


def _truth(path: str | Path) -> dict:
    """Returns the images and persons of a COCO file as pycocotools needs them, with category 1."""
    content = read_json(path)
    missing = [key for key in ("images", "annotations") if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path} is not a COCO annotation file. Missing: {', '.join(missing)}.")
    categories = content.get("categories") or []
    wanted = {row.get("id") for row in categories if row.get("name") == PERSON}
    wanted = wanted or ({categories[0].get("id")} if len(categories) == 1 else {1})
    people = []
    for place, row in enumerate(content["annotations"]):
        if not isinstance(row, dict) or row.get("image_id") is None:
            raise UserError(f"{path}: annotation [{place}] must be an object with image_id and bbox.")
        if row.get("category_id", 1) in wanted or not categories:
            box = _box(row.get("bbox"), f"{path}: annotation [{place}]")
            area = float(row.get("area", box[2] * box[3]))
            crowd = int(bool(row.get("iscrowd", 0)))
            # Ids are new ones: pycocotools takes a match with the id 0 for no match.
            person = {"id": len(people) + 1, "image_id": row["image_id"], "category_id": 1, "bbox": box}
            people.append({**person, "area": area, "iscrowd": crowd})
    if not all(isinstance(row, dict) and row.get("id") is not None for row in content["images"]):
        raise UserError(f"{path}: each of `images` must be an object with an id.")
    images = [{"id": row["id"], "file_name": str(row.get("file_name", ""))} for row in content["images"]]
    return {"images": images, "annotations": people, "categories": [{"id": 1, "name": PERSON}], "wanted": wanted}


def _rows(path: str | Path, truth: dict, annotations: str | Path) -> tuple[list[dict], int]:
    """Returns the detections of annotated images, and the number of the others."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} must be a list of boxes in COCO's results format. Received: {type(rows).__name__}.")
    ids = {row["id"] for row in truth["images"]}
    by_name = {row["file_name"]: row["id"] for row in truth["images"]}
    categories = {row.get("category_id", 1) for row in rows if isinstance(row, dict)}
    wanted = truth["wanted"] if truth["wanted"] & categories else {1}
    found = []
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{path}: entry [{place}] must be an object. Received: {str(row)[:60]!r}.")
        name = row.get("file_name")
        image_id = by_name.get(name) if name is not None else row.get("image_id")
        if image_id in ids and row.get("category_id", 1) in wanted:
            where = f"{path}: entry [{place}]"
            box = _box(row.get("bbox"), where)
            found.append({"image_id": image_id, "category_id": 1, "bbox": box, "score": _score(row, where)})
    if rows and not found:
        raise UserError(
            f"{path} has no person box in the images of {annotations}. Its first entry has image_id "
            f"{rows[0].get('image_id')!r} and file_name {rows[0].get('file_name')!r}; the first annotated image has id "
            f"{truth['images'][0]['id']!r} and file_name {truth['images'][0]['file_name']!r}."
            if truth["images"]
            else f"{annotations} has no images."
        )
    return found, len(rows) - len(found)


def _box(value, where: str) -> list[float]:
    try:
        box = np.array(value, float)
    except (TypeError, ValueError):
        box = np.full(1, np.nan)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] < 0).any():
        raise UserError(f"{where} must have bbox [x, y, width, height], finite, width and height not negative. "
                        f"Received: {value!r}.")  # fmt: skip
    return box.tolist()


def _score(row: dict, where: str) -> float:
    score = row.get("score", 1.0)
    if isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score):
        raise UserError(f"{where} must have a finite number as score. Received: {score!r}.")
    return float(score)


def _evaluated(truth: dict, rows: list[dict]):
    """Returns pycocotools' evaluation, whose messages are not printed."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco, found = COCO(), COCO()
        coco.dataset = {key: truth[key] for key in ("images", "annotations", "categories")}
        coco.createIndex()
        found.dataset = {**coco.dataset, "annotations": [_detection(row, place) for place, row in enumerate(rows)]}
        found.createIndex()
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _detection(row: dict, place: int) -> dict:
    return {**row, "id": place + 1, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}


def _best_f1(evaluation) -> tuple[float, float]:
    """Returns the largest F1 at an IoU of 0.5 and its score threshold; -1 and 0 if there are no persons."""
    images = [row for row in evaluation.evalImgs[: len(evaluation.params.imgIds)] if row is not None]  # all sizes
    num_persons = sum(np.count_nonzero(np.asarray(row["gtIgnore"]) == 0) for row in images)
    if not num_persons:
        return -1.0, 0.0
    scores = np.concatenate([row["dtScores"] for row in images] or [[]])
    counts = ~np.concatenate([row["dtIgnore"][0] for row in images]).astype(bool)
    right = np.concatenate([row["dtMatches"][0] for row in images])[counts] > 0
    scores = scores[counts]
    if not len(scores):
        return 0.0, 0.0
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + num_persons)
    last = np.append(np.diff(scores[order]) != 0, True)  # a threshold keeps all boxes of an equal score
    best = np.flatnonzero(last)[f1[last].argmax()]
    return float(f1[best]), float(scores[order][best])
