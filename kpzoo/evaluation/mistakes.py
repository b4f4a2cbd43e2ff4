"""Error diagnosis of poses: jitter, inversion, swap and miss of each keypoint, and the cost of each kind in AP.

The taxonomy is that of Ronchi & Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation", ICCV 2017
(arXiv:1707.05388). `s` is the keypoint similarity, the term of a single keypoint in OKS, of a predicted keypoint with

    good        its annotation: s >= 0.85
    jitter      its annotation: 0.5 <= s < 0.85
    inversion   the opposite keypoint of the same person, such as the right for the left wrist: s >= 0.5
    swap        the same or the opposite keypoint of another person: s >= 0.5
    miss        none of these

If both inversion and swap apply, the higher `s` decides.
"""

from dataclasses import dataclass

import numpy as np

from kpzoo.data.coco import Annotations
from kpzoo.data.results import Results
from kpzoo.evaluation import metrics
from kpzoo.nms import similarity
from kpzoo.skeletons import Skeleton

KINDS = ("good", "jitter", "inversion", "swap", "miss")
GOOD, NEAR = 0.85, 0.5
FOUND = 0.1  # OKS of a match; lower than the thresholds of AP, so that errors of bad poses are diagnosed too


@dataclass(frozen=True, eq=False)
class Mistakes:
    """The errors of F matched persons, and what was not matched.

    Args:
        skeleton: Names of the K keypoints.
        kinds: (F, K) int index in `KINDS`, -1 for keypoints that are not labelled.
        pose: (F,) index of the pose in the results.
        person: (F,) index of the person in the annotations.
        oks: (F,) OKS of the pose with the person.
        not_found: (n,) indices of persons without a pose.
        without_person: (m,) indices of poses without a person, which may be of people who are not annotated.
    """

    skeleton: Skeleton
    kinds: np.ndarray
    pose: np.ndarray
    person: np.ndarray
    oks: np.ndarray
    not_found: np.ndarray
    without_person: np.ndarray

    def counts(self) -> np.ndarray:
        """Returns the (K, 5) counts of each kind for each keypoint name."""
        return (self.kinds[..., None] == np.arange(len(KINDS))).sum(axis=0)

    def __str__(self) -> str:
        width = max(map(len, self.skeleton.keypoints))
        lines = [
            f"{name:{width}}" + "".join(f"{text:>11}" for text in texts)
            for name, *texts in [("joint", "labelled", *KINDS), *self.rows()]
        ]
        lines.append(f"{len(self.person)} persons found, {len(self.not_found)} not, at an OKS of {FOUND}")
        return "\n".join(lines)

    def rows(self) -> list[tuple[str, ...]]:
        """Returns, for each keypoint name and for all, the name, the number labelled and the share of each kind."""
        counts = np.vstack([self.counts(), self.counts().sum(axis=0)])
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        names = [*self.skeleton.keypoints, "all"]
        return [
            (name, str(count.sum()), *(f"{part:.1%}" for part in share))
            for name, count, share in zip(names, counts, shares, strict=True)
        ]


def find(annotations: Annotations, results: Results) -> Mistakes:
    """Diagnoses the best 20 poses of each image. Crowds and persons without labelled keypoints are excluded."""
    persons = annotations.persons
    usable = np.flatnonzero(~persons.is_crowd & ((persons.visibility > 0).any(axis=1)))
    sigmas = metrics.reference_sigmas(annotations.skeleton)
    rows, not_found, without_person = [], [], []
    for image_id in np.union1d(persons.image_ids[usable], results.image_ids):
        people = usable[persons.image_ids[usable] == image_id]
        poses = np.flatnonzero(results.image_ids == image_id)
        poses = poses[np.argsort(-results.scores[poses], kind="stable")][: metrics.MAX_POSES]
        found = _matched(persons, results, people, poses, sigmas)
        for pose, person, oks in found:
            others = people[people != person]
            points = results.keypoints_image_xy[pose]
            rows.append((pose, person, oks, _kinds(points, persons, person, others, sigmas, annotations.skeleton)))
        not_found.append(np.setdiff1d(people, [person for _, person, _ in found]))
        without_person.append(np.setdiff1d(poses, [pose for pose, *_ in found]))
    pose, person, oks, kinds = zip(*rows, strict=True) if rows else ([], [], [], np.zeros((0, len(sigmas))))
    no_one = np.zeros(0, int)
    return Mistakes(
        skeleton=annotations.skeleton,
        kinds=np.array(kinds, int).reshape(-1, len(sigmas)),
        pose=np.array(pose, int),
        person=np.array(person, int),
        oks=np.array(oks, float),
        not_found=np.concatenate([no_one, *not_found]),
        without_person=np.concatenate([no_one, *without_person]),
    )


def _matched(persons, results: Results, people, poses, sigmas) -> list[tuple[int, int, float]]:
    """Returns (pose, person, OKS) in one image. By score, a pose is matched to the closest unmatched person."""
    free, found = list(people), []
    for pose in poses:
        if not free:
            break
        labelled = persons.visibility[free] > 0
        near = _similarities(results.keypoints_image_xy[pose], persons, free, sigmas)
        oks = (near * labelled).sum(axis=1) / labelled.sum(axis=1)
        best = int(np.argmax(oks))
        if oks[best] >= FOUND:
            found.append((int(pose), int(free.pop(best)), float(oks[best])))
    return found


def _similarities(points_xy: np.ndarray, persons, people, sigmas, joints=slice(None)) -> np.ndarray:
    """Returns the (n, K) similarities of (K, 2) points with the keypoints of n persons."""
    with np.errstate(over="ignore"):
        squared = ((persons.keypoints_image_xy[people][:, joints] - points_xy) ** 2).sum(axis=-1)
        return similarity(squared, persons.area[people][:, None], sigmas)


def _kinds(points_xy, persons, person: int, others, sigmas, skeleton: Skeleton) -> np.ndarray:
    """Returns the (K,) indices in `KINDS`, -1 where the keypoint is not labelled."""
    mirror = np.array(skeleton.flip_order)
    labelled = persons.visibility > 0

    def near(people, joints):
        known = labelled[people][:, joints]
        return np.where(known, _similarities(points_xy, persons, people, sigmas, joints), 0.0)

    same, own = np.arange(len(mirror)), np.array([person])
    at_home = near(own, same)[0]
    inverted = np.where(mirror != same, near(own, mirror)[0], 0.0)
    no_other = np.zeros((1, len(mirror)))
    swapped = np.concatenate([no_other, near(others, same), near(others, mirror)]).max(axis=0)
    away = np.maximum(inverted, swapped) >= NEAR
    kinds = np.select(
        [at_home >= GOOD, at_home >= NEAR, away & (inverted >= swapped), away],
        [KINDS.index(kind) for kind in ("good", "jitter", "inversion", "swap")],
        KINDS.index("miss"),
    )
    return np.where(labelled[person], kinds, -1)


def ap_without(annotations: Annotations, results: Results, mistakes: Mistakes, protocol: str) -> dict[str, float]:
    """Returns the AP after correction of all errors of each kind, and of all kinds."""
    values = {}
    for kind in (*KINDS[1:], "any of these"):
        wrong = mistakes.kinds == KINDS.index(kind) if kind in KINDS else mistakes.kinds > 0
        points = results.keypoints_image_xy.copy()
        row, joint = np.nonzero(wrong)
        right = annotations.persons.keypoints_image_xy[mistakes.person[row], joint]
        points[mistakes.pose[row], joint] = right
        mended = Results(results.image_ids, points, results.keypoint_scores, results.scores, results.boxes_image_xywh)
        values[kind] = metrics.average_precision(annotations, mended, protocol).values["AP"]
    return values
