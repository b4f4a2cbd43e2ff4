"""Pose metrics in NumPy: AP and AR by the COCO and CrowdPose protocols, and PCK.

The COCO protocol is that of the COCO keypoint evaluation (cocodataset.org). The CrowdPose protocol takes the area of a
person from the box, and reports AP by the crowding of images instead of the size of persons. Results equal those of the
reference tools, including rounding and ties.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from kpzoo.errors import UserError, unknown
from kpzoo.evaluation.matching import OKS_THRESHOLDS, Predictions, Truth, match
from kpzoo.skeletons import Skeleton, plain_name

MAX_POSES = 20  # per image, by score; further poses are ignored
RECALLS = np.linspace(0.0, 1.0, 101)
AREA_OF_BOX = 0.53  # area of a person in CrowdPose, relative to the box

_LARGEST = 1e5**2
AREAS = {"all": (0.0, _LARGEST), "medium": (32.0**2, 96.0**2), "large": (96.0**2, _LARGEST)}  # square pixels
CROWDING = {"easy": (-np.inf, 0.2), "medium": (0.2, 0.8), "hard": (0.8, np.inf)}  # ranges of `crowdIndex` in CrowdPose

_EXPLAINED = {
    "AP": "mean over OKS 0.50 … 0.95",
    "AR": "recall, mean over OKS 0.50 … 0.95",
    "APM": "persons of 32² … 96² pixels",
    "APL": "persons above 96² pixels",
    "AP_easy": "images of crowdIndex < 0.2",
    "AP_medium": "images of crowdIndex 0.2 … 0.8",
    "AP_hard": "images of crowdIndex >= 0.8",
}
_EXPLAINED_BOXES = {
    "AP": "mean over IoU 0.50 … 0.95",
    "AR": "recall of 100 boxes per image, mean over IoU 0.50 … 0.95",
    "APS": "persons below 32² pixels",
    "APM": "persons of 32² … 96² pixels",
    "APL": "persons above 96² pixels",
    "F1": "at IoU 0.50, largest over the score thresholds",
}
_SIZES = (("M", "medium"), ("L", "large"))


class _Persons(Protocol):
    image_ids: np.ndarray
    boxes_image_xywh: np.ndarray
    keypoints_image_xy: np.ndarray
    visibility: np.ndarray
    area: np.ndarray
    is_crowd: np.ndarray
    num_keypoints: np.ndarray


class _Annotations(Protocol):
    path: str
    skeleton: Skeleton
    image_ids: np.ndarray
    crowd_index: np.ndarray
    persons: _Persons


class _Results(Protocol):
    image_ids: np.ndarray
    keypoints_image_xy: np.ndarray
    scores: np.ndarray
    area: np.ndarray


@dataclass(frozen=True, eq=False)
class Metrics:
    """Metrics and the settings they were computed with.

    Args:
        values: Metrics by name, in full precision. -1 means that there is no ground truth for a metric.
        circumstances: Settings that the metrics depend on: protocol, source of the boxes, data, and others.
        details: Values per threshold or keypoint.
        results: The evaluated poses, if the metrics are those of `kpzoo.evaluate` or `kpzoo.score`.
    """

    values: dict[str, float]
    circumstances: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)
    results: _Results | None = field(default=None, repr=False)

    def __str__(self) -> str:
        width = max(map(len, [*self.values, *self.details.get("per_keypoint", ())]))
        explained = _EXPLAINED_BOXES if self.circumstances.get("protocol") == "boxes" else _EXPLAINED
        texts = {name: f"  {explained[name]}" if name in explained else "" for name in self.values}
        rows = [f"{name:{width}}  {_number(value)}{texts[name]}" for name, value in self.values.items()]
        rows += [f"{name:{width}}  {_number(value)}" for name, value in self.details.get("per_keypoint", {}).items()]
        confidence = self.details.get("confidence", {})
        names = ("ECE", "AUC", "coverage_50", "coverage_90")
        texts = [
            f"{name.replace('_', ' ')} {confidence[name]:.4f}" for name in names if confidence.get(name) is not None
        ]
        rows += [f"keypoint scores: {', '.join(texts)}"] if texts else []
        rows += [f"{name.replace('_', ' ')}: {value}" for name, value in self.circumstances.items()]
        return "\n".join(rows)


def average_precision(
    annotations: _Annotations,
    results: _Results,
    protocol: str = "coco",
    *,
    boxes: str = "unknown",
    image_ids: Sequence[int] | None = None,
) -> Metrics:
    """Computes AP and AR of predicted poses.

    Args:
        annotations: `kpzoo.data.coco.Annotations`.
        results: `kpzoo.data.results.Results`. Without poses, AP is 0.
        protocol: "coco": AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL, the area of a person from the file.
            "crowdpose": AP, AP50, AP75, AR, AR50, AR75, AP_easy, AP_medium, AP_hard, the area 0.53 * that of the box.
        boxes: Source of the person boxes, "gt" or the name of a detector, which is reported with the metrics.
        image_ids: Images to evaluate; default: all annotated images. Persons without a pose count as missed.

    Returns:
        Metrics. `details` has `oks_thresholds`, `AP_per_threshold`, `AR_per_threshold` and `precision`, the precision
        at the 101 recall values `RECALLS` for each threshold, -1 if there are no persons.
    """
    if protocol not in ("coco", "crowdpose"):
        raise unknown("protocol", protocol, ["coco", "crowdpose"])
    image_ids = _chosen(annotations, image_ids)
    truth = _truth(annotations, image_ids, protocol)
    predictions = _predictions(results, image_ids, annotations.skeleton)
    areas = AREAS if protocol == "coco" else {"all": AREAS["all"]}
    sigmas = reference_sigmas(annotations.skeleton)
    matches = match(truth, predictions, sigmas, np.array(list(areas.values())))
    curves = {name: _curves(predictions, *(part[a] for part in matches)) for a, name in enumerate(areas)}
    precision, recall = curves["all"]
    values = {"AP": _mean(precision), "AP50": _mean(precision[0]), "AP75": _mean(precision[5])}
    recalls = {"AR": _mean(recall), "AR50": _mean(recall[0]), "AR75": _mean(recall[5])}
    if protocol == "coco":
        values |= {f"AP{letter}": _mean(curves[size][0]) for letter, size in _SIZES}
        values |= recalls | {f"AR{letter}": _mean(curves[size][1]) for letter, size in _SIZES}
    else:
        values |= recalls | _crowding(annotations, image_ids, truth, predictions, matches)
    return Metrics(
        values,
        circumstances={
            "protocol": protocol,
            "boxes": boxes,
            "annotations": annotations.path,
            "skeleton": annotations.skeleton.name,
            "area": "of the annotations" if protocol == "coco" else f"{AREA_OF_BOX} * box width * box height",
            "images": len(image_ids),
            "images_with_poses": len(np.unique(predictions.image)),
            "persons": int((~truth.ignored).sum()),
            "poses": len(predictions.scores),
            "poses_left_out": int(np.isin(results.image_ids, image_ids).sum()) - len(predictions.scores),
        },
        details={
            "oks_thresholds": OKS_THRESHOLDS.tolist(),
            "AP_per_threshold": [_mean(row) for row in precision],
            "AR_per_threshold": recall.tolist(),
            "precision": precision.tolist(),
        },
    )


def _chosen(annotations: _Annotations, image_ids: Sequence[int] | None) -> np.ndarray:
    """Returns the sorted ids of the images to evaluate."""
    if image_ids is None:
        return np.sort(annotations.image_ids)
    unknown_ids = np.setdiff1d(image_ids, annotations.image_ids)
    if len(unknown_ids):
        received = f"Received: {unknown_ids[:10].tolist()}, {len(unknown_ids)} in all"
        raise UserError(f"`image_ids` must be images of {annotations.path}. {received}.")
    return np.unique(np.asarray(image_ids, np.int64))


def _crowding(
    annotations: _Annotations, image_ids: np.ndarray, truth: Truth, predictions: Predictions, matches
) -> dict:
    """Returns AP_easy, AP_medium and AP_hard."""
    order = np.argsort(annotations.image_ids, kind="stable")
    crowd_index = annotations.crowd_index[order][np.isin(annotations.image_ids[order], image_ids)]
    matched, ignored, ignored_persons = (part[0] for part in matches)
    values = {}
    for name, (low, high) in CROWDING.items():
        images = (crowd_index >= low) & (crowd_index < high)
        poses, persons = images[predictions.image], images[truth.image]
        precision, _ = _curves(predictions, matched[:, poses], ignored[:, poses], ignored_persons[persons], poses)
        values[f"AP_{name}"] = _mean(precision)
    return values


def reference_sigmas(skeleton: Skeleton) -> np.ndarray:
    """Returns (K,) sigmas computed as in the reference tools, tenths divided by ten, which changes the last bit."""
    return np.round(np.array(skeleton.sigmas) * 10, 12) / 10.0


def pck(
    annotations: _Annotations,
    person_index: np.ndarray,
    keypoints_image_xy: np.ndarray,
    *,
    threshold: float = 0.2,
    normalize_by: str = "torso",
    boxes: str = "gt",
) -> Metrics:
    """Computes the percentage of correct keypoints (PCK).

    A keypoint is correct if its distance from the annotation is at most `threshold` times the size of the person. The
    size "torso", used with the Leeds Sports Pose data, is the distance from the left shoulder to the right hip or, if
    one of them is not labelled, from the right shoulder to the left hip. Persons with neither are excluded. The size
    "box" is the longer side of the annotated box, as in "PCKb".

    Args:
        annotations: `kpzoo.data.coco.Annotations`.
        person_index: (S,) index of the person in `annotations.persons` of each pose. It is known for poses in annotated
            boxes.
        keypoints_image_xy: (S, K, 2) predictions in image pixels.
        threshold: Fraction of the size. A keypoint at exactly this distance is correct.
        normalize_by: "torso" or "box".
        boxes: Source of the person boxes.

    Returns:
        Metrics with `PCK@0.2`, over all labelled keypoints, and `PCK@0.2_keypoint_mean`, the mean of the PCK of each
        keypoint name. `details` has `per_keypoint` and `num_labelled`.
    """
    persons, names = annotations.persons, annotations.skeleton.keypoints
    index = np.asarray(person_index, np.int64)
    predicted = np.asarray(keypoints_image_xy, np.float64)
    if predicted.shape != (len(index), len(names), 2):
        raise UserError(
            f"`keypoints_image_xy` must have shape {(len(index), len(names), 2)}. Received: {predicted.shape}."
        )
    if not np.isfinite(predicted).all():
        bad = int(np.argwhere(~np.isfinite(predicted))[0][0])
        raise UserError(f"`keypoints_image_xy` of pose {bad} is not finite. Check the weights of the model for NaN.")
    sizes = {"torso": _torso, "box": _longer_side}
    if normalize_by not in sizes:
        raise unknown("size to normalize PCK by", normalize_by, sizes)
    truth, labelled = persons.keypoints_image_xy[index], persons.visibility[index] > 0
    size = sizes[normalize_by](annotations.skeleton, truth, labelled, persons.boxes_image_xywh[index])
    counted = labelled & np.isfinite(size)[:, None]
    correct = counted & (np.linalg.norm(predicted - truth, axis=-1) <= threshold * np.nan_to_num(size)[:, None])
    num_counted, num_correct = counted.sum(axis=0), correct.sum(axis=0)
    rates = np.divide(num_correct, num_counted, out=np.full(len(names), -1.0), where=num_counted > 0)
    label = f"PCK@{threshold:g}"
    total = num_correct.sum() / num_counted.sum() if counted.any() else -1.0
    return Metrics(
        values={label: float(total), f"{label}_keypoint_mean": _mean(rates)},
        circumstances={
            "normalized_by": "longer side of the box" if normalize_by == "box" else "shoulder to opposite hip",
            "boxes": boxes,
            "annotations": annotations.path,
            "persons": int(np.isfinite(size).sum()),
            "persons_left_out": int((~np.isfinite(size)).sum()),
        },
        details={
            "per_keypoint": dict(zip(names, rates.tolist(), strict=True)),
            "num_labelled": dict(zip(names, num_counted.tolist(), strict=True)),
        },
    )


_DIAGONALS = (("left_shoulder", "right_hip"), ("right_shoulder", "left_hip"))


def _places(skeleton: Skeleton) -> dict[str, int]:
    return {plain_name(name): k for k, name in enumerate(skeleton.keypoints)}


def has_torso(skeleton: Skeleton) -> bool:
    """Returns whether a skeleton has the shoulders and hips that PCK's "torso" is measured between."""
    return {name for pair in _DIAGONALS for name in pair} <= _places(skeleton).keys()


def _torso(skeleton: Skeleton, truth: np.ndarray, labelled: np.ndarray, boxes_xywh: np.ndarray) -> np.ndarray:
    """Returns (S,) distances from a shoulder to the opposite hip, NaN where no such pair is labelled."""
    places = _places(skeleton)
    if not has_torso(skeleton):
        raise UserError(
            f"Skeleton {skeleton.name!r} has no shoulders and hips to define a torso: {list(skeleton.keypoints)}.",
            "Pass `normalize_by='box'`.",
        )
    size = np.full(len(truth), np.nan)
    for shoulder, hip in ((places[a], places[b]) for a, b in _DIAGONALS):
        known = np.isnan(size) & labelled[:, shoulder] & labelled[:, hip]
        size[known] = np.linalg.norm(truth[known, shoulder] - truth[known, hip], axis=-1)
    return size


def _longer_side(skeleton: Skeleton, truth: np.ndarray, labelled: np.ndarray, boxes_xywh: np.ndarray) -> np.ndarray:
    side = boxes_xywh[:, 2:].max(axis=1)
    return np.where(side > 0, side, np.nan)


def _truth(annotations: _Annotations, image_ids: np.ndarray, protocol: str) -> Truth:
    """Returns the persons of the images, sorted by image id, in file order within an image."""
    persons = annotations.persons
    rows = np.flatnonzero(np.isin(persons.image_ids, image_ids))
    rows = rows[np.argsort(persons.image_ids[rows], kind="stable")]
    boxes = persons.boxes_image_xywh[rows]
    area = persons.area[rows]
    if protocol == "crowdpose":
        sized = (boxes[:, 2:] > 0).all(axis=1)
        area = np.where(sized, AREA_OF_BOX * boxes[:, 2] * boxes[:, 3], area)
    return Truth(
        image=np.searchsorted(image_ids, persons.image_ids[rows]),
        num_images=len(image_ids),
        keypoints_xy=persons.keypoints_image_xy[rows],
        labelled=persons.visibility[rows] > 0,
        boxes_xywh=boxes,
        area=area,
        is_crowd=persons.is_crowd[rows],
        ignored=persons.is_crowd[rows] | (persons.num_keypoints[rows] == 0),
    )


def _predictions(results: _Results, image_ids: np.ndarray, skeleton: Skeleton) -> Predictions:
    """Returns the best poses of the images, sorted by image id, then by descending score, then in file order."""
    if results.keypoints_image_xy.shape[1] != skeleton.num_keypoints:
        raise UserError(
            f"The results have {results.keypoints_image_xy.shape[1]} keypoints per pose, the annotations "
            f"{skeleton.num_keypoints} ({skeleton.name!r}). Use annotations of the same skeleton."
        )
    rows = np.flatnonzero(np.isin(results.image_ids, image_ids))
    image = np.searchsorted(image_ids, results.image_ids[rows])
    order = np.lexsort((-results.scores[rows], image))
    rows, image = rows[order], image[order]
    place = np.arange(len(rows)) - np.searchsorted(image, image)
    rows, image = rows[place < MAX_POSES], image[place < MAX_POSES]
    return Predictions(image, results.keypoints_image_xy[rows], results.scores[rows], results.area[rows])


def _curves(
    predictions: Predictions, matched, ignored, ignored_persons, poses: np.ndarray | slice = slice(None)
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (T, 101) precision at `RECALLS` and (T,) recall, -1 if there are no persons.

    Args:
        predictions: All poses.
        matched, ignored: (T, R) bool, of the selected poses.
        ignored_persons: (G,) bool.
        poses: Selects among the predictions.
    """
    scores, num_persons = predictions.scores[poses], np.count_nonzero(~ignored_persons)
    if not num_persons:
        return np.full((len(matched), len(RECALLS)), -1.0), np.full(len(matched), -1.0)
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum((matched & ~ignored)[:, order], axis=1).astype(float)
    wrong = np.cumsum((~matched & ~ignored)[:, order], axis=1).astype(float)
    recall = right / num_persons
    precision = right / (wrong + right + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    sampled = np.zeros((len(matched), len(RECALLS)))
    for t, reached in enumerate(recall):
        places = np.searchsorted(reached, RECALLS, side="left")
        inside = places < len(order)
        sampled[t, inside] = precision[t, places[inside]]
    return sampled, recall[:, -1] if len(order) else np.zeros(len(matched))


def _mean(values: np.ndarray) -> float:
    """Returns the mean of the values other than -1, or -1 if there are none."""
    values = values[values > -1]
    return float(values.mean()) if len(values) else -1.0


def _number(value: float) -> str:
    return "n/a (no ground truth in range)" if value == -1 else f"{value:.4f}"
