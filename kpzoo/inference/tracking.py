"""Identities of people in a video: poses are assigned to the people of earlier frames by OKS, with their motion.

tracker = Tracker()
for number, poses in enumerate(poses_of_frames):
    poses = tracker.update(poses, seconds=number / fps)      # poses.track_ids
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from kpzoo import nms
from kpzoo.errors import UserError
from kpzoo.inference.appearance import clothes
from kpzoo.poses import Poses

KEPT_SECONDS = 2.0  # of absence, after which an identity ends
MIN_SCORE = 0.2  # of the keypoints that are compared, and that make a box

_SURE = 0.5  # of the keypoints must have a score, for a pose that begins an identity
_PATIENCE = 0.2  # seconds of absence for each frame in which an identity was seen, up to `KEPT_SECONDS`
_MIN_KEYPOINTS = 4  # with a score; below it all keypoints are compared
_MIN_AFFINITY = 0.25
_MARGIN = 0.1  # of the longer side, between the keypoints and the box of a person
_NEW = 0.3  # OKS and IoU with a tracked person, above which a pose begins no identity
_MEMORY = 0.4  # seconds over which the velocity is averaged
_SLOWING = 3.0  # seconds: the motion of a hidden person fades exponentially
_DOUBT = 2.0  # per second of absence, by which the tolerance of the OKS grows
_CROWDED = 0.15  # IoU with another person, seen or hidden, from which the clothes may be those of the other
_NEW_LOOK = 0.1  # weight of a new view of the clothes
_COLOURS, _USUAL = 2.0, 0.6  # weight of the colours, and the similarity from which they speak for a person
_UNSURE = 0.5  # of the score of the surest pose of a frame, at which the colours of a pose count nothing
_DOUBTFUL = 0.25  # lead of a person over a hidden one, below which a pose may be of either
_OWN = 0.35  # IoU of the extent of a pose with its box, from which it is a box of that person
_LOST, _LOSING = 0.3, 0.3  # people in sight come first: most of the rank lost, and the seconds in which it is lost
_SURPRISE = 4.0  # box heights per second: larger changes of the velocity are cut


@dataclass
class Track:
    """An identity.

    Args:
        track_id: Its number, from 1.
        keypoints_xy: (K, 2) when last seen, in image pixels.
        keypoint_scores: (K,).
        own_box: (4,) box around the person when last seen.
        looks: (C,) colours of the clothes, an average of unobstructed views; None if there was no image.
        velocity_xy: (2,) in pixels per second.
        seconds: Time when it was last seen.
        num_seen: Number of frames in which it was seen.
    """

    track_id: int
    keypoints_xy: np.ndarray
    keypoint_scores: np.ndarray
    own_box: np.ndarray
    looks: np.ndarray | None
    velocity_xy: np.ndarray
    seconds: float
    num_seen: int

    def predicted(self, seconds: float) -> np.ndarray:
        """Returns (K, 2) keypoints at a later time, moved with the velocity."""
        return self.keypoints_xy + self._way(seconds)

    def predicted_box(self, seconds: float) -> np.ndarray:
        """Returns the (4,) box around the person at a later time."""
        return np.concatenate([self.own_box[:2] + self._way(seconds), self.own_box[2:]])

    def _way(self, seconds: float) -> np.ndarray:
        return self.velocity_xy * _SLOWING * (1 - np.exp(-(seconds - self.seconds) / _SLOWING))

    def box_xywh(self, seconds: float) -> np.ndarray:
        """Returns the (4,) box at a later time: the extent of the keypoints, grown by a tenth of its longer side."""
        return _grown(_extent(self.predicted(seconds), self.keypoint_scores)[None], _MARGIN)[0]

    def see(self, keypoints_xy: np.ndarray, keypoint_scores: np.ndarray, own_box: np.ndarray, seconds: float) -> None:
        """Takes over the pose of a new frame."""
        gap = max(seconds - self.seconds, 1e-6)
        seen = _compared(self.keypoint_scores, keypoint_scores)
        velocity = np.median((keypoints_xy - self.keypoints_xy)[seen], axis=0) / gap
        change, limit = velocity - self.velocity_xy, _SURPRISE * _extent(keypoints_xy, keypoint_scores)[3]
        gain = max(1 / self.num_seen, 1 - np.exp(-gap / _MEMORY))
        self.velocity_xy = self.velocity_xy + gain * np.clip(change, -limit, limit)
        self.keypoints_xy, self.keypoint_scores, self.own_box = keypoints_xy, keypoint_scores, own_box
        self.seconds = seconds
        self.num_seen += 1

    def is_over(self, seconds: float) -> bool:
        """Returns whether the identity has ended at a time at which it was not seen."""
        return seconds - self.seconds > min(KEPT_SECONDS, _PATIENCE * self.num_seen) + 1e-9


class Tracker:
    """Gives the poses of successive frames identities.

    Pairs of an identity and a pose are taken in the order of their affinity, the mean of two numbers: the OKS of the
    pose with the last pose of the identity, which is moved with its velocity, and the IoU of their boxes. The tolerance
    of the OKS grows with the time of absence, and people who were seen last come first. A pose that resembles the pose
    of another person in its frame more than the identity is left out, so that nobody takes over the person in front.

    With the image, clothes whose colours are more or less alike than those of two people usually are add to the
    affinity or take from it. They count less the less sure a pose is beside the others: a person behind another has the
    colours of the one in front. They are learned from people whose box overlaps nobody's, not even the expected one of
    a hidden person. A pose that fits a hidden person almost as well as the one who is seen gets no identity in that
    frame: it may be of either, or a mixture of both.

    An identity ends after two seconds of absence, or sooner if it was seen in less than ten frames. A pose begins an
    identity unless it resembles a tracked one, has less than half of its keypoints, or is a further answer for a box
    (`instance` above 0): these continue identities that the detector lost.

    >>> from kpzoo.skeletons import COCO17
    >>> keypoints_xy = np.random.default_rng(0).uniform(0, 99, (1, 17, 2))
    >>> pose = Poses(keypoints_xy, np.ones((1, 17)), np.ones(1), np.ones((1, 4)), np.zeros(1), COCO17)
    >>> tracker = Tracker()
    >>> [tracker.update(pose, seconds).track_ids.tolist() for seconds in (0.0, 0.04, 0.08)]
    [[1], [1], [1]]
    """

    def __init__(self):
        self.tracks: list[Track] = []
        self._next_id, self._seconds = 1, -np.inf

    def update(self, poses: Poses, seconds: float, image_rgb: np.ndarray | None = None) -> Poses:
        """Returns the poses of the next frame with their `track_ids`; -1 for a pose without an identity.

        Args:
            poses: The poses of a frame, in the order of which the first begin identities first.
            seconds: Time of the frame, later than that of the last.
            image_rgb: (H, W, 3) uint8 frame. With it the colours of clothes count as well.

        Raises:
            UserError: If the time is not later.
        """
        if seconds <= self._seconds:
            raise UserError(f"Frames are tracked in their order. Received: {seconds} s after {self._seconds} s.")
        self._seconds = seconds
        track_ids = np.full(len(poses), -1)
        scales = np.array([_scale(*pose) for pose in zip(poses.keypoints_xy, poses.keypoint_scores, strict=True)])
        boxes, looks = _own_boxes(poses), None if image_rgb is None else clothes(poses, image_rgb)
        alike, overlaps = _alike(poses, scales), nms.iou_matrix(boxes, boxes)
        pairs, doubtful = self._pairs(poses, scales, boxes, alike, looks, seconds)
        crowded = self._crowded(boxes, overlaps, {place for place, _ in pairs}, seconds)
        for place, index in pairs:
            track = self.tracks[place]
            track.see(poses.keypoints_xy[index], poses.keypoint_scores[index], boxes[index], seconds)
            if looks is not None and not crowded[index]:
                track.looks = looks[index] if track.looks is None else _blend(track.looks, looks[index])
            track_ids[index] = track.track_id
        self.tracks = [one for one in self.tracks if one.seconds == seconds or not one.is_over(seconds)]
        sure = (poses.keypoint_scores >= MIN_SCORE).mean(axis=1) >= _SURE
        for index in np.flatnonzero((track_ids < 0) & (poses.instance == 0) & sure & ~doubtful):
            tracked = (track_ids >= 0) | doubtful
            if (np.maximum(alike[index], overlaps[index])[tracked] < _NEW).all():
                seen = None if looks is None or crowded[index] else looks[index]
                track_ids[index] = self._begin(poses, index, boxes[index], seen, seconds)
        return replace(poses, track_ids=track_ids)

    def _begin(self, poses: Poses, index: int, box: np.ndarray, looks: np.ndarray | None, seconds: float) -> int:
        pose = poses.keypoints_xy[index], poses.keypoint_scores[index], box, looks
        self.tracks.append(Track(self._next_id, *pose, np.zeros(2), seconds, 1))
        self._next_id += 1
        return self.tracks[-1].track_id

    def _crowded(self, boxes, overlaps, seen: set[int], seconds: float) -> np.ndarray:
        """Returns the (P,) mask of the poses that overlap another pose, or the expected box of a hidden person."""
        hidden = [track.predicted_box(seconds) for place, track in enumerate(self.tracks) if place not in seen]
        behind = nms.iou_matrix(boxes, np.array(hidden).reshape(-1, 4))
        return (np.concatenate([overlaps - np.eye(len(boxes)), behind], axis=1) > _CROWDED).any(axis=1)

    def _pairs(self, poses: Poses, scales, boxes, alike, looks, seconds: float) -> tuple[list, np.ndarray]:
        """Returns pairs (index of a track, index of a pose), the best first, and the (P,) mask of doubtful poses."""
        affinities, shown = np.zeros((len(self.tracks), len(poses))), _shown(poses)
        for place, track in enumerate(self.tracks):
            expected, doubt = track.predicted(seconds), 1 + _DOUBT * (seconds - track.seconds)
            ious = nms.iou_matrix(track.predicted_box(seconds)[None], boxes)[0]
            for index in range(len(poses)):
                seen = _compared(track.keypoint_scores, poses.keypoint_scores[index])
                squared = ((expected - poses.keypoints_xy[index])[seen] ** 2).sum(-1)
                sigmas = np.array(poses.skeleton.sigmas)[seen]
                own = nms.similarity(squared, scales[index] * doubt**2, sigmas).mean()
                affinities[place, index] = (own + ious[index]) / 2
            if looks is not None and track.looks is not None:
                affinities[place] += _COLOURS * shown * (looks @ track.looks - _USUAL)
        pairs, places, taken = [], set(), []
        absences = np.array([seconds - track.seconds for track in self.tracks])
        ranks = affinities - _LOST * (1 - np.exp(-absences / _LOSING))[:, None]
        for flat in np.argsort(-ranks, axis=None, kind="stable"):
            place, index = divmod(int(flat), max(len(poses), 1))
            affinity = affinities[place, index]
            if affinity < _MIN_AFFINITY or place in places or index in taken or (alike[index, taken] > affinity).any():
                continue
            pairs.append((place, index))
            places.add(place)
            taken.append(index)
        doubtful = np.zeros(len(poses), bool)
        hidden = sorted(set(range(len(self.tracks))) - places)
        if looks is not None and hidden:
            for place, index in pairs:
                doubtful[index] = affinities[hidden, index].max() > affinities[place, index] - _DOUBTFUL
        return [pair for pair in pairs if not doubtful[pair[1]]], doubtful

    def state(self) -> dict:
        """Returns everything that the next call depends on, as values that JSON can represent."""
        tracks = [
            {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(one).items()}
            for one in self.tracks
        ]
        return {
            "tracks": tracks,
            "next_id": self._next_id,
            "seconds": self._seconds if np.isfinite(self._seconds) else None,
        }

    @classmethod
    def from_state(cls, state: Mapping) -> "Tracker":
        """Returns a tracker that continues where `state()` was called."""
        tracker = cls()
        tracker.tracks = [
            Track(**{name: np.array(value) if isinstance(value, list) else value for name, value in one.items()})
            for one in state["tracks"]
        ]
        tracker._next_id = state["next_id"]
        tracker._seconds = -np.inf if state["seconds"] is None else state["seconds"]
        return tracker


def boxes_of(poses: Poses) -> np.ndarray:
    """Returns (P, 4) boxes around the keypoints that have a score."""
    boxes = [_extent(*pose) for pose in zip(poses.keypoints_xy, poses.keypoint_scores, strict=True)]
    return np.array(boxes).reshape(-1, 4)


def _blend(looks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the average description of clothes, in which a new view has a small weight."""
    mean = (1 - _NEW_LOOK) * looks + _NEW_LOOK * others
    return mean / max(np.linalg.norm(mean), 1e-9)


def _shown(poses: Poses) -> np.ndarray:
    """Returns (P,) weights of the colours of poses, 1 for the surest pose of a frame."""
    scores = poses.keypoint_scores.mean(axis=1)
    return np.clip((scores / max(scores.max(initial=0), 1e-9) - _UNSURE) / (1 - _UNSURE), 0, 1)


def _own_boxes(poses: Poses) -> np.ndarray:
    """Returns (P, 4) boxes around the people: those that the poses were predicted in, if these are of one person.

    A box of several people, or of the whole image, is much larger than the pose. The extent of the pose replaces it.
    """
    extents = boxes_of(poses)
    inside = nms.iou_matrix(extents, poses.boxes_xywh).diagonal() >= _OWN
    return np.where((inside & (poses.instance == 0))[:, None], poses.boxes_xywh, extents)


def _grown(boxes_xywh: np.ndarray, margin: float) -> np.ndarray:
    """Returns (P, 4) boxes with a share of their longer side more on each side."""
    room = margin * boxes_xywh[:, 2:].max(axis=1, keepdims=True)
    return np.concatenate([boxes_xywh[:, :2] - room, boxes_xywh[:, 2:] + 2 * room], axis=1)


def _extent(keypoints_xy: np.ndarray, keypoint_scores: np.ndarray) -> np.ndarray:
    """Returns the (4,) box around the keypoints that have a score."""
    points = keypoints_xy[_compared(keypoint_scores, keypoint_scores)]
    low, high = points.min(0), points.max(0)
    return np.concatenate([low, np.maximum(high - low, 1.0)])


def _compared(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the (K,) mask of the keypoints of two poses that are compared."""
    seen = np.minimum(scores, others) >= MIN_SCORE
    return seen if seen.sum() >= _MIN_KEYPOINTS else np.ones(len(seen), bool)


def _scale(keypoints_xy: np.ndarray, keypoint_scores: np.ndarray) -> float:
    """Returns the area of a person in square pixels for the OKS, from the height and width of the pose."""
    width, height = _extent(keypoints_xy, keypoint_scores)[2:]
    return float(max(width * height, 0.25 * max(width, height) ** 2))  # a person in profile is as large as one in front


def _alike(poses: Poses, scales: np.ndarray) -> np.ndarray:
    """Returns (P, P) OKS of the poses of a frame."""
    return nms.oks_matrix(poses.keypoints_xy, scales, np.array(poses.skeleton.sigmas)).reshape(len(poses), len(poses))
