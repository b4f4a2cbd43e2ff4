"""Statistics of annotations: crowding, labels that contradict each other, and persons whose labels are unusual."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kpzoo.data.annotation_table import Persons
from kpzoo.data.coco import Annotations
from kpzoo.nms import iou_matrix
from kpzoo.skeletons import Skeleton

AGREEING = 0.95  # share of persons in which two pairs of left and right must point the same way to be compared
OPPOSITE = -0.5  # cosine of the angle between two pairs of left and right that contradict each other
NUM_AGREEING = 8  # persons with both pairs
TOO_LONG = 1.5  # times the usual length of a limb
DEVIATIONS = 4.0  # robust standard deviations of the length of a limb
MIN_DEVIATION = 0.1  # of the logarithm of a length, where labels agree better than that
FAR_OUTSIDE = 0.25  # how far labelled keypoints may lie outside of their box, in its longer side
SAME_PLACE = 0.02  # mean distance of the keypoints of two persons that are one, in the size of their boxes

_ROUNDS = 10


class Remark(NamedTuple):
    """Why a person is worth a look: its index in the annotations, how unusual it is, and what is unusual."""

    person: int
    score: float
    text: str


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the P persons that are no crowds and have labelled keypoints.

    Args:
        person: (P,) int indices of the persons in the annotations.
        per_image: (I,) int persons of each image.
        sizes: (P,) square root of the area of the box, in pixels.
        num_labelled: (P,) int labelled keypoints.
        num_visible: (P,) int keypoints that are marked as visible.
        crowding: (P,) largest IoU of the box with that of another person of the image.
        labels: (K, 3) int: how often each keypoint is not labelled, hidden and visible.
        pairs: Names of the pairs of left and right that were compared: those that usually point the same way.
        contradictions: Persons whose left and right contradict each other.
        outliers: Persons with a limb that is too long for them.
        others: Persons with keypoints far outside of their box, and persons that are labelled twice.
    """

    person: np.ndarray
    per_image: np.ndarray
    sizes: np.ndarray
    num_labelled: np.ndarray
    num_visible: np.ndarray
    crowding: np.ndarray
    labels: np.ndarray
    pairs: Sequence[tuple[str, str]]
    contradictions: Sequence[Remark]
    outliers: Sequence[Remark]
    others: Sequence[Remark]

    def worst(self, count: int) -> list[Remark]:
        """Returns the persons with the highest scores, each once, with all that is unusual about them."""
        best: dict[int, Remark] = {}
        for remark in (*self.outliers, *self.contradictions, *self.others):
            known = best.get(remark.person)
            if known is None:
                best[remark.person] = remark
            else:
                text = f"{known.text}; {remark.text}"
                best[remark.person] = Remark(remark.person, max(known.score, remark.score), text)
        return sorted(best.values(), key=lambda remark: (-remark.score, remark.person))[:count]


def statistics(annotations: Annotations) -> Statistics:
    """Returns the statistics of a data set's annotations, without its images."""
    persons, skeleton = annotations.persons, annotations.skeleton
    labelled = persons.visibility > 0
    person = np.flatnonzero(~persons.is_crowd & labelled.any(axis=1))
    chosen = persons.visibility[person]
    crowding, twice = _neighbours(persons, person)
    pairs, contradictions = _contradictions(persons, person, skeleton)
    return Statistics(
        person=person,
        per_image=np.bincount(persons.image_index[person], minlength=len(annotations.image_ids)),
        sizes=np.sqrt(persons.boxes_image_xywh[person, 2:].prod(axis=1)),
        num_labelled=(chosen > 0).sum(axis=1),
        num_visible=(chosen == 2).sum(axis=1),
        crowding=crowding,
        labels=(chosen[..., None] == np.arange(3)).sum(axis=0),
        pairs=pairs,
        contradictions=contradictions,
        outliers=_outliers(persons, person, skeleton),
        others=[*_outside(persons, person), *twice],
    )


def _neighbours(persons: Persons, person: np.ndarray) -> tuple[np.ndarray, list[Remark]]:
    """Returns the (P,) largest IoU with another person of the image, and persons that are labelled twice."""
    crowding, twice = np.zeros(len(person)), []
    order = np.argsort(persons.image_index[person], kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(persons.image_index[person[order]])) + 1):
        if len(group) < 2:
            continue
        own = person[group]
        ious = iou_matrix(persons.boxes_image_xywh[own], persons.boxes_image_xywh[own])
        np.fill_diagonal(ious, 0.0)
        crowding[group] = ious.max(axis=1)
        for a, b in np.argwhere(np.triu(ious > 0.5)).tolist():
            one, other = own[[a, b]]
            both = (persons.visibility[one] > 0) & (persons.visibility[other] > 0)
            apart = np.linalg.norm((persons.keypoints_image_xy[one] - persons.keypoints_image_xy[other])[both], axis=1)
            size = np.sqrt(persons.boxes_image_xywh[one, 2:].prod())
            if both.sum() >= 2 and apart.mean() <= SAME_PLACE * size:
                text = f"has the keypoints of annotation {persons.ids[one]}: the person may be labelled twice"
                twice.append(Remark(int(other), 2.0, text))
    return crowding, twice


def _outside(persons: Persons, person: np.ndarray) -> list[Remark]:
    """Returns the persons with labelled keypoints far outside of their box."""
    person = person[persons.has_box[person]]
    boxes, points = persons.boxes_image_xywh[person][:, None], persons.keypoints_image_xy[person]
    excess = np.maximum(boxes[..., :2] - points, points - boxes[..., :2] - boxes[..., 2:]).max(axis=-1)
    share = np.where(persons.visibility[person] > 0, excess, 0) / boxes[..., 2:].max(axis=-1)
    out = []
    for index in np.flatnonzero((share > FAR_OUTSIDE).any(axis=1)).tolist():
        count, worst = int((share[index] > FAR_OUTSIDE).sum()), float(share[index].max())
        text = f"{count} labelled keypoints lie far outside of the box, up to {worst:.1f} times its longer side"
        out.append(Remark(int(person[index]), worst / FAR_OUTSIDE, text))
    return out


def _contradictions(persons: Persons, person: np.ndarray, skeleton: Skeleton) -> tuple[list, list[Remark]]:
    """Returns the pairs of left and right that usually point the same way, and the persons in which some do not.

    From right to left, shoulders and hips point the same way in nearly all persons; wrists do not, as arms may cross.
    """
    indices = np.array([[skeleton.keypoints.index(name) for name in pair] for pair in skeleton.flip_pairs], int)
    if len(indices) < 2 or not len(person):
        return [], []
    points, labelled = persons.keypoints_image_xy[person], persons.visibility[person] > 0
    vectors = points[:, indices[:, 0]] - points[:, indices[:, 1]]  # (P, pairs, 2)
    lengths = np.linalg.norm(vectors, axis=-1)
    size = np.sqrt(persons.boxes_image_xywh[person, 2:].prod(axis=1))
    known = labelled[:, indices].all(axis=-1) & (lengths > 0.1 * size[:, None])
    units = vectors / np.maximum(lengths, 1e-9)[..., None]
    compared, found = [], {}
    for a in range(len(indices)):
        for b in range(a + 1, len(indices)):
            both = known[:, a] & known[:, b]
            cosines = (units[both, a] * units[both, b]).sum(axis=-1)
            if both.sum() < NUM_AGREEING or (cosines > 0).mean() < AGREEING:
                continue
            names = tuple(" – ".join(skeleton.flip_pairs[k]) for k in (a, b))
            compared.append(names)
            for index in np.flatnonzero(both)[cosines < OPPOSITE].tolist():
                found.setdefault(index, []).append(" against ".join(names))
    remarks = [
        Remark(int(person[index]), 1.0 + 0.5 * len(texts), f"left and right contradict each other: {', '.join(texts)}")
        for index, texts in found.items()
    ]
    return compared, remarks


def _outliers(persons: Persons, person: np.ndarray, skeleton: Skeleton) -> list[Remark]:
    """Returns the persons with a limb that is much longer than usual, relative to their other limbs.

    The logarithm of a limb's length is the sum of the person's size, the limb's usual length and a rest. Sizes and
    usual lengths are medians of each other's rests. Limbs may be shorter, as they may point to the camera.
    """
    points, labelled = persons.keypoints_image_xy[person], persons.visibility[person] > 0
    links = skeleton.link_indices if len(skeleton.links) else _spanning_tree(points, labelled)
    if len(links) < 3 or len(person) < NUM_AGREEING:
        return []
    lengths = np.linalg.norm(points[:, links[:, 0]] - points[:, links[:, 1]], axis=-1)
    known = labelled[:, links].all(axis=-1) & (lengths > 0)
    logs = np.where(known, np.log(np.maximum(lengths, 1e-9)), np.nan)
    enough = known.sum(axis=1) >= 3
    logs, person = logs[enough], person[enough]
    usual = np.zeros(len(links))
    for _ in range(_ROUNDS):
        size = np.nanmedian(logs - usual, axis=1)[:, None] if len(logs) else np.zeros((0, 1))
        usual = _medians(logs - size)
    rest = logs - size - usual
    deviation = np.maximum(1.4826 * _medians(np.abs(rest)), MIN_DEVIATION)
    score = np.where(np.isnan(rest), 0.0, rest / deviation)
    wrong = (score > DEVIATIONS) & (rest > np.log(TOO_LONG))
    out = []
    for index in np.flatnonzero(wrong.any(axis=1)).tolist():
        worst = int(np.argmax(np.where(wrong[index], score[index], 0)))
        a, b = (skeleton.keypoints[k] for k in links[worst])
        text = f"{a} – {b} is {np.exp(rest[index, worst]):.1f} times as long as usual"
        out.append(Remark(int(person[index]), float(score[index, worst] / DEVIATIONS), text))
    return out


def _medians(values: np.ndarray) -> np.ndarray:
    """Returns the medians of the columns without NaN, 0 for columns of nothing else."""
    return np.array([np.median(column[~np.isnan(column)]) if (~np.isnan(column)).any() else 0.0 for column in values.T])


def _spanning_tree(points: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Returns the (K - 1, 2) links that join all keypoints and are the shortest in the median person."""
    count, inf = points.shape[1], np.inf
    distances = np.full((count, count), inf)
    for a in range(count):
        for b in range(a + 1, count):
            both = labelled[:, a] & labelled[:, b]
            if both.any():
                apart = np.linalg.norm(points[both, a] - points[both, b], axis=-1)
                distances[a, b] = distances[b, a] = np.median(apart)
    links, joined = [], {0}
    while len(joined) < count:
        inside, outside = sorted(joined), sorted(set(range(count)) - joined)
        part = distances[np.ix_(inside, outside)]
        a, b = np.unravel_index(np.argmin(part), part.shape)
        joined.add(outside[b])
        if np.isfinite(part[a, b]):
            links.append((inside[a], outside[b]))
    return np.array(links, int).reshape(-1, 2)
