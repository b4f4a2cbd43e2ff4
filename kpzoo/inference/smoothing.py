"""Smoothing of the keypoints of tracked people with the One-Euro filter (Casiez, Roussel and Vogel, CHI 2012).

The filter is a first-order low-pass whose cutoff grows with the speed of the joint: a still joint is smoothed strongly,
a moving one hardly lags behind. Speeds are measured in sizes of the person, so that the settings fit any resolution,
and times in seconds, so that they fit any frame rate.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kpzoo.errors import UserError
from kpzoo.inference.tracking import boxes_of
from kpzoo.poses import Poses

MIN_CUTOFF = 1.0  # Hz, of a still joint
SPEED_CUTOFF = 8.0  # Hz per size of the person and second: `beta` in the paper
DERIVATIVE_CUTOFF = 1.0  # Hz, of the speed, the paper's value

_FORGET = 0.5  # seconds of absence, after which a person begins anew


class Smoother:
    """Smooths the keypoints of successive frames, for each identity and joint.

    Args:
        min_cutoff: Cutoff in Hz for still joints. A lower one removes more jitter.
        speed_cutoff: Increase of the cutoff with the speed of a joint, in Hz per size of the person and second. A
            higher one lags less.

    >>> from kpzoo.skeletons import COCO17
    >>> smoother = Smoother()
    >>> smoother.update(Poses.empty(COCO17), seconds=0.0)
    Poses(0 of coco17, 17 keypoints)
    """

    def __init__(self, min_cutoff: float = MIN_CUTOFF, speed_cutoff: float = SPEED_CUTOFF):
        if not (min_cutoff > 0 and speed_cutoff >= 0):
            raise UserError(
                "`min_cutoff=` must be above 0 and `speed_cutoff=` at least 0. "
                f"Received: {min_cutoff} and {speed_cutoff}."
            )
        self.min_cutoff, self.speed_cutoff = min_cutoff, speed_cutoff
        self._people: dict[int, dict] = {}

    def update(self, poses: Poses, seconds: float) -> Poses:
        """Returns the poses of the next frame, with smoothed keypoints where they have an identity.

        Covariances remain those of the unsmoothed keypoints.

        Args:
            poses: Poses with `track_ids`; other poses are returned as they are.
            seconds: Time of the frame.
        """
        if poses.track_ids is None or not len(poses):
            return poses
        sizes, smooth_xy = boxes_of(poses)[:, 2:].max(axis=1), poses.keypoints_xy.copy()
        for row in np.flatnonzero(poses.track_ids >= 0):
            smooth_xy[row] = self._smooth(int(poses.track_ids[row]), poses.keypoints_xy[row], sizes[row], seconds)
        self._people = {key: one for key, one in self._people.items() if seconds - one["seconds"] <= _FORGET}
        return replace(poses, keypoints_xy=smooth_xy)

    def _smooth(self, track_id: int, keypoints_xy: np.ndarray, size: float, seconds: float) -> np.ndarray:
        before = self._people.get(track_id)
        if before is None or not 0 < seconds - before["seconds"] <= _FORGET:
            speeds = np.zeros_like(keypoints_xy)
            self._people[track_id] = {"xy": keypoints_xy, "speeds": speeds, "seconds": seconds}
            return keypoints_xy
        gap = seconds - before["seconds"]
        speeds = (keypoints_xy - before["xy"]) / gap / size
        speeds = before["speeds"] + _weight(DERIVATIVE_CUTOFF, gap) * (speeds - before["speeds"])
        cutoffs = self.min_cutoff + self.speed_cutoff * np.linalg.norm(speeds, axis=-1, keepdims=True)
        smooth_xy = before["xy"] + _weight(cutoffs, gap) * (keypoints_xy - before["xy"])
        self._people[track_id] = {"xy": smooth_xy, "speeds": speeds, "seconds": seconds}
        return smooth_xy

    def state(self) -> dict:
        """Returns everything that the next call depends on, as values that JSON can represent."""
        return {
            str(key): {"xy": one["xy"].tolist(), "speeds": one["speeds"].tolist(), "seconds": one["seconds"]}
            for key, one in self._people.items()
        }

    def restore(self, state: Mapping) -> None:
        """Continues where `state()` was called."""
        self._people = {
            int(key): {"xy": np.array(one["xy"]), "speeds": np.array(one["speeds"]), "seconds": one["seconds"]}
            for key, one in state.items()
        }


def _weight(cutoff: float | np.ndarray, gap: float) -> float | np.ndarray:
    """Returns the weight of a new value in a low-pass with a cutoff in Hz, `gap` seconds after the last one."""
    turns = 2 * np.pi * cutoff * gap
    return turns / (1 + turns)
