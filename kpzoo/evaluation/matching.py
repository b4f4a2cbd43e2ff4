"""Matching of poses to annotated persons by OKS: the greedy assignment of the COCO keypoint evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kpzoo.nms import similarity

OKS_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_REQUIRED = np.minimum(OKS_THRESHOLDS, 1 - 1e-10)
_PAIRS = 1 << 17  # pairs compared at a time, which limits the memory


@dataclass(frozen=True, eq=False)
class Truth:
    """The G annotated persons, sorted by image, in file order within an image.

    Args:
        image: (G,) int, ascending, in 0 … num_images - 1.
        num_images: Number of images.
        keypoints_xy: (G, K, 2).
        labelled: (G, K) bool.
        boxes_xywh: (G, 4).
        area: (G,).
        is_crowd: (G,) bool. A crowd can be matched by any number of poses.
        ignored: (G,) bool, whether the person, and poses matched to it, do not count.
    """

    image: np.ndarray
    num_images: int
    keypoints_xy: np.ndarray
    labelled: np.ndarray
    boxes_xywh: np.ndarray
    area: np.ndarray
    is_crowd: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True, eq=False)
class Predictions:
    """The R predicted poses, sorted by image, then by descending score.

    Args:
        image: (R,) int, ascending.
        keypoints_xy: (R, K, 2).
        scores: (R,).
        area: (R,).
    """

    image: np.ndarray
    keypoints_xy: np.ndarray
    scores: np.ndarray
    area: np.ndarray


def match(
    truth: Truth, predictions: Predictions, sigmas: np.ndarray, areas: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matches poses to persons, for A ranges of area and the T = 10 OKS thresholds.

    In order of their scores, each pose is matched to the unmatched person with the highest OKS of at least the
    threshold, the later one if equal. Persons that are not ignored have priority.

    Args:
        truth: The annotated persons.
        predictions: The poses.
        sigmas: (K,) COCO's `sigmas` (not doubled).
        areas: (A, 2) lowest and highest area. Persons outside the range, and unmatched poses outside it, are ignored.

    Returns:
        matched: (A, T, R) bool, whether a pose is matched to a person.
        ignored: (A, T, R) bool, whether a pose does not count.
        ignored_persons: (A, G) bool, whether a person does not count.
    """
    low, high = areas[:, :1], areas[:, 1:]
    ignored_persons = truth.ignored | (truth.area < low) | (truth.area > high)
    shape = (len(areas), len(OKS_THRESHOLDS), len(predictions.scores))
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    for pose_index, person_index in _blocks(truth, predictions):
        poses, persons = pose_index >= 0, person_index >= 0
        pairs = poses[:, :, None] & persons[:, None, :]
        oks = np.full(pairs.shape, -1.0)
        of_pose = np.broadcast_to(pose_index[:, :, None], pairs.shape)[pairs]
        of_person = np.broadcast_to(person_index[:, None, :], pairs.shape)[pairs]
        oks[pairs] = pair_oks(truth, predictions.keypoints_xy, sigmas, of_pose, of_person)
        found, unimportant = _assign(oks, ignored_persons[:, person_index], truth.is_crowd[person_index])
        matched[..., pose_index[poses]] = found[..., poses]
        ignored[..., pose_index[poses]] = unimportant[..., poses]
    outside = (predictions.area < low) | (predictions.area > high)
    return matched, ignored | (~matched & outside[:, None]), ignored_persons


def pair_oks(
    truth: Truth, keypoints_xy: np.ndarray, sigmas: np.ndarray, of_pose: np.ndarray, of_person: np.ndarray
) -> np.ndarray:
    """Returns the OKS of N pairs of a pose and a person: the mean over the person's labelled keypoints.

    For a person without labelled keypoints it is the mean over all keypoints, by their distance from the person's box
    extended by its size on each side.

    Args:
        truth: The annotated persons.
        keypoints_xy: (R, K, 2) poses.
        sigmas: (K,) COCO's `sigmas` (not doubled).
        of_pose, of_person: (N,) indices of the pairs in `keypoints_xy` and `truth`.
    """
    labelled_first = np.argsort(~truth.labelled, axis=1, kind="stable")
    num_labelled = truth.labelled.sum(axis=1)[of_person]
    oks = np.empty(len(of_pose))
    for count in np.unique(num_labelled):  # sums of equal length, which round as those of the reference tools
        rows = np.flatnonzero(num_labelled == count)
        pose, person = of_pose[rows], of_person[rows]
        if count:
            keypoints = labelled_first[person, :count]
            offsets = keypoints_xy[pose[:, None], keypoints] - truth.keypoints_xy[person[:, None], keypoints]
        else:
            keypoints = np.arange(len(sigmas))
            corner, size = truth.boxes_xywh[person, None, :2], truth.boxes_xywh[person, None, 2:]
            points = keypoints_xy[pose]
            offsets = np.maximum(0, (corner - size) - points) + np.maximum(0, points - (corner + size * 2))
        with np.errstate(over="ignore"):  # a keypoint at 1e300 has a similarity of 0
            squared = offsets[..., 0] ** 2 + offsets[..., 1] ** 2
            agreement = similarity(squared, truth.area[person, None], sigmas[keypoints])
        oks[rows] = agreement.sum(axis=1) / agreement.shape[1]
    return oks


def _assign(oks: np.ndarray, ignored: np.ndarray, is_crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which poses are matched and whether the matched person is ignored, both (A, T, I, D).

    Args:
        oks: (I, D, G), negative where there is no pose or no person.
        ignored: (A, I, G) bool.
        is_crowd: (I, G) bool.
    """
    num_ranges, num_images, num_persons = ignored.shape
    # One number ranks persons: those that count first, then by OKS, then by position.
    rank = np.argsort(np.argsort(oks, axis=-1, kind="stable"), axis=-1).astype(np.int32) + 1
    bonus = np.where(ignored, 0, num_persons).astype(np.int32)
    free = np.ones((num_ranges, len(_REQUIRED), num_images, num_persons), bool)
    found = np.zeros((*free.shape[:3], oks.shape[1]), bool)
    unimportant = np.zeros_like(found)
    for d in range(oks.shape[1]):
        near = oks[:, d] >= _REQUIRED[:, None, None]
        wish = np.where(free & near, (rank[:, d] + bonus)[:, None], 0)
        best = wish.argmax(axis=-1)
        a, t, i = np.nonzero(np.take_along_axis(wish, best[..., None], axis=-1)[..., 0])
        person = best[a, t, i]
        found[a, t, i, d] = True
        unimportant[a, t, i, d] = ignored[a, i, person]
        free[a, t, i, person] = is_crowd[i, person]
    return found, unimportant


def _blocks(truth: Truth, predictions: Predictions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (I, D) indices of poses and (I, G) indices of persons for images of similar size, padded with -1."""
    images = np.arange(truth.num_images)
    first_pose, last_pose = (np.searchsorted(predictions.image, images, side) for side in ("left", "right"))
    first_person, last_person = (np.searchsorted(truth.image, images, side) for side in ("left", "right"))
    num_poses, num_persons = last_pose - first_pose, last_person - first_person
    images = np.flatnonzero((num_poses > 0) & (num_persons > 0))
    images = images[np.lexsort((num_poses[images], num_persons[images]))]
    start = 0
    while start < len(images):
        largest = num_persons[images[start:]] * np.maximum.accumulate(num_poses[images[start:]])
        fitting = largest * np.arange(1, len(largest) + 1) <= _PAIRS
        stop = start + max(1, int(fitting.argmin()) if not fitting.all() else len(fitting))
        block = images[start:stop]
        yield (
            _places(first_pose[block], num_poses[block]),
            _places(first_person[block], num_persons[block]),
        )
        start = stop


def _places(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    steps = np.arange(count.max())
    return np.where(steps < count[:, None], first[:, None] + steps, -1)
