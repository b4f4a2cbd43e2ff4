"""Poses of the frames of a video in which no network ran, between two frames in which they ran."""

from collections.abc import Sequence

import numpy as np

from kpzoo.inference.pictures import Picture
from kpzoo.inference.prediction import Prediction
from kpzoo.poses import Poses


def between(before: Prediction, pictures: Sequence[Picture], after: Prediction) -> list[tuple[Picture, Poses, Poses]]:
    """Returns (frame, poses, no poses) for the frames between two frames with tracked poses.

    Keypoints, boxes, scores and covariances of a person in both frames change linearly with time. A person in one of
    them only is where it was in that frame, in the frames that are nearer to it.

    Args:
        before: The result of the earlier frame, with `track_ids`.
        pictures: The frames between, in their order.
        after: The result of the later frame.
    """
    start, end = before.picture.seconds, after.picture.seconds
    results = []
    for picture in pictures:
        share = (picture.seconds - start) / (end - start)
        poses = _mixed(before.poses, after.poses, share)
        results.append((picture, poses, poses[[]]))
    return results


def _mixed(first: Poses, second: Poses, share: float) -> Poses:
    """Returns the poses a share of the way from the first to the second, best first."""
    nearer = first if share < 0.5 else second
    rows = [{one: row for row, one in enumerate(poses.track_ids.tolist()) if one >= 0} for poses in (first, second)]
    both = [one for one in rows[0] if one in rows[1]]
    a, b = first[[rows[0][one] for one in both]], second[[rows[1][one] for one in both]]
    alone = [row for row, one in enumerate(nearer.track_ids.tolist()) if one >= 0 and one not in both]

    def mean(name: str) -> np.ndarray:
        return (1 - share) * getattr(a, name) + share * getattr(b, name)

    moved = Poses(
        mean("keypoints_xy"),
        mean("keypoint_scores"),
        mean("scores"),
        mean("boxes_xywh"),
        (a if share < 0.5 else b).instance,
        first.skeleton,
        a.track_ids,
        mean("covariance_xy") if first.covariance_xy is not None and second.covariance_xy is not None else None,
    )
    poses = Poses.concatenate([moved, nearer[alone]])
    return poses[np.argsort(-poses.scores, kind="stable")]
