"""Identities in videos: how often a tracker gives a person another identity, and loses sight of the person."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpzoo import nms
from kpzoo.data.coco import read_annotations
from kpzoo.data.json_file import read_json
from kpzoo.errors import UserError, unknown
from kpzoo.skeletons import SKELETONS, Skeleton

MATCHED = 0.5  # OKS or IoU from which a pose is that of a person
_FILLED = 0.5  # of the extent of a person's keypoints, as `area` counts the visible part of a hidden person only


@dataclass(frozen=True)
class IdentityMetrics:
    """The identities of the people of a video.

    Args:
        num_people: Number of annotated people.
        num_visible: Annotated poses over all frames.
        num_found: Those for which a pose with an identity was found.
        switches: How often the identity of a person was another than when the person was last found, by person.
        fragments: How often a person was lost and found again, by person.
        num_identities: Identities that were given to the annotated people.
    """

    num_people: int
    num_visible: int
    num_found: int
    switches: dict[int, int]
    fragments: dict[int, int]
    num_identities: int

    @property
    def num_switches(self) -> int:
        return sum(self.switches.values())

    @property
    def num_fragments(self) -> int:
        return sum(self.fragments.values())

    def __str__(self) -> str:
        found = self.num_found / max(self.num_visible, 1)
        people = max(self.num_people, 1)
        return (
            f"{self.num_switches} switches ({self.num_switches / people:.2f} per person), {self.num_fragments} "
            f"fragments ({self.num_fragments / people:.2f} per person), {self.num_identities} identities for "
            f"{self.num_people} people, {found:.1%} of the poses found"
        )


def score_tracks(
    annotations: str | Path,
    results: str | Path | list,
    skeleton: Skeleton | str | None = None,
    *,
    by: str = "pose",
) -> IdentityMetrics:
    """Returns how well the identities of a tracked video fit annotated ones.

    In each frame a person keeps the identity of the last frame if its pose still fits, with an OKS of at least 0.5.
    Other people and poses are paired in the order of their OKS. Only keypoints of both skeletons count. With boxes in
    place of poses, as in benchmarks of trackers without poses, the IoU takes the place of the OKS.

    Args:
        annotations: COCO annotations of the frames with a `track_id` for each person, as `write_drawn_video` writes.
        results: The `results.json` of `kpzoo predict --track`, or its content. Results without `track_id` are ignored.
        skeleton: Skeleton of the results, or its name; None for one that has as many keypoints: that of the
            annotations if it has, else a known one.
        by: "pose", or "box" to compare `box_image_xywh` of the results with `bbox` of the annotations.

    Raises:
        UserError: If a file cannot be read, or has no identities.

    Example:
        metrics = kpzoo.score_tracks("walk.json", "poses/results.json")
        print(metrics.num_switches)
    """
    if by not in ("pose", "box"):
        raise unknown("way to compare", by, ["pose", "box"])
    read = read_annotations(annotations)
    rows = read_json(annotations)["annotations"]
    if not all(isinstance(row.get("track_id"), int) for row in rows):
        raise UserError(f"{annotations} has people without `track_id`. Pass annotations of a video with identities.")
    results = results if isinstance(results, list) else read_json(Path(results))
    if results and not any("track_id" in row for row in results):
        raise UserError("The results have no `track_id`. Track the people with `track=True`.")
    results = [row for row in results if row.get("track_id") is not None]
    own, others = _shared(read.skeleton, skeleton, results)
    if by == "box":
        frames = _Frames(rows, results, lambda person, found: _iou(person["bbox"], found["box_image_xywh"]))
    else:
        frames = _Frames(rows, results, _Oks(own, others, np.array(read.skeleton.sigmas)[own]))
    return frames.metrics(sorted(read.image_ids.tolist()))


def _shared(truth: Skeleton, skeleton, results: list) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the keypoints that the annotations and the results share."""
    count = len(results[0]["keypoints"]) // 3 if results else truth.num_keypoints
    if isinstance(skeleton, str):
        skeleton = SKELETONS[skeleton]
    if skeleton is None:
        known = [truth, *SKELETONS.values()]
        skeleton = next((one for one in known if one.num_keypoints == count), None)
    if skeleton is None or skeleton.num_keypoints != count:
        raise UserError(f"The results have {count} keypoints, of an unknown skeleton. Pass `skeleton=`.")
    return truth.shared_with(skeleton)


class _Oks:
    """The OKS of a result with an annotated person, over the keypoints that both have."""

    def __init__(self, own: np.ndarray, others: np.ndarray, sigmas: np.ndarray):
        self.own, self.others, self.sigmas = own, others, sigmas

    def __call__(self, person: dict, found: dict) -> float:
        points = np.array(person["keypoints"], float).reshape(-1, 3)[self.own]
        labelled = points[:, 2] > 0
        if not labelled.any():
            return 0.0
        extent = np.prod(np.ptp(points[labelled][:, :2], axis=0))
        found_xy = np.array(found["keypoints"], float).reshape(-1, 3)[self.others, :2]
        squared = ((points[:, :2] - found_xy)[labelled] ** 2).sum(-1)
        area = max(person["area"], _FILLED * extent)
        return float(nms.similarity(squared, area, self.sigmas[labelled]).mean())


def _iou(box_xywh: list, other_xywh: list) -> float:
    return float(nms.iou_matrix(np.array([box_xywh]), np.array([other_xywh]))[0, 0])


class _Frames:
    """The people and the poses of each frame, and how alike a person and a pose are."""

    def __init__(self, rows: list, results: list, likeness: Callable[[dict, dict], float]):
        self.likeness, self.truth, self.found = likeness, {}, {}
        for table, entries in ((self.truth, rows), (self.found, results)):
            for row in entries:
                table.setdefault(row["image_id"], []).append(row)

    def metrics(self, image_ids: list[int]) -> IdentityMetrics:
        people = sorted({row["track_id"] for rows in self.truth.values() for row in rows})
        switches, fragments, last = dict.fromkeys(people, 0), dict.fromkeys(people, 0), {}
        lost, given, num_found = set(), set(), 0
        for image_id in image_ids:
            pairs = self._pairs(image_id, last)
            for person in [row["track_id"] for row in self.truth.get(image_id, [])]:
                if person not in pairs:
                    lost.add(person)
                    continue
                num_found += 1
                if person in last:
                    switches[person] += last[person] != pairs[person]
                    fragments[person] += person in lost
                lost.discard(person)
                last[person] = pairs[person]
                given.add(pairs[person])
        visible = sum(map(len, self.truth.values()))
        return IdentityMetrics(len(people), visible, num_found, switches, fragments, len(given))

    def _pairs(self, image_id: int, last: dict) -> dict:
        """Returns the identity of each person that is found in a frame."""
        scored = []
        for person in self.truth.get(image_id, []):
            for found in self.found.get(image_id, []):
                likeness = self.likeness(person, found)
                if likeness >= MATCHED:
                    kept = last.get(person["track_id"]) == found["track_id"]
                    scored.append((kept, likeness, person["track_id"], found["track_id"]))
        pairs, taken = {}, set()
        for *_, person, track_id in sorted(scored, key=lambda one: (-one[0], -one[1])):
            if person not in pairs and track_id not in taken:
                pairs[person] = track_id
                taken.add(track_id)
        return pairs
