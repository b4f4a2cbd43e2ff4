"""Object keypoint similarity (OKS), intersection over union (IoU), and hard and soft non-maximum suppression (NMS)."""

from collections.abc import Callable

import numpy as np

from kpzoo.errors import UserError, unknown

BLOCK = 1 << 17  # pairs compared at a time, which limits the memory
MAX_SOFT_POSES = 20  # the number of poses per image that the COCO evaluation uses
EPSILON = np.spacing(1)  # 2^-52, which the reference tools add to areas


def similarity(distances_squared: np.ndarray, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Returns the similarity of single keypoints, exp(-d² / (2 (2σ)² area)), whose mean is the OKS.

    The order of the divisions is that of the reference tools, so that results are bit-identical.

    Args:
        distances_squared: (..., K) in square pixels.
        areas: Broadcast against `distances_squared`, in square pixels.
        sigmas: Broadcast against `distances_squared`. COCO's `sigmas` (not doubled).
    """
    return np.exp(-(distances_squared / (sigmas * 2) ** 2 / (areas + EPSILON) / 2))


def oks(keypoints_xy: np.ndarray, others_xy: np.ndarray, area: float | np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Returns the OKS of one pose with others: the mean similarity over all keypoints.

    Args:
        keypoints_xy: (K, 2) in pixels.
        others_xy: (P, K, 2) in the same pixels.
        area: Area of the person in square pixels, a scalar or (P,).
        sigmas: (K,) per-keypoint standard deviations, COCO's `sigmas` (not doubled).

    Returns:
        (P,) similarities in [0, 1].

    >>> oks(np.zeros((2, 2)), np.zeros((1, 2, 2)), 100.0, np.array([0.05, 0.05]))
    array([1.])
    """
    offsets = np.asarray(others_xy, float) - np.asarray(keypoints_xy, float)
    areas = np.broadcast_to(np.asarray(area, float), len(offsets))
    return similarity((offsets**2).sum(-1), areas[:, None], np.asarray(sigmas, float)).mean(-1)


def oks_matrix(
    keypoints_xy: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
    *,
    visible: np.ndarray | None = None,
    rows: np.ndarray | slice = slice(None),
) -> np.ndarray:
    """Returns the pairwise OKS of the poses of one image. The area of a pair is the mean of both areas.

    Args:
        keypoints_xy: (P, K, 2) in pixels.
        areas: (P,) in square pixels.
        sigmas: (K,) COCO's `sigmas` (not doubled).
        visible: (P, K) bool. Column j is then the mean over the keypoints visible in pose j, 0.0 if none is.
        rows: Poses to compare with all poses. The default returns the full (P, P) matrix.
    """
    keypoints_xy, areas = np.asarray(keypoints_xy, float), np.asarray(areas, float)
    x, y = keypoints_xy[..., 0], keypoints_xy[..., 1]
    squared = (x[None] - x[rows][:, None]) ** 2 + (y[None] - y[rows][:, None]) ** 2  # (R, P, K)
    mean_areas = (areas[rows][:, None] + areas[None]) / 2
    similarities = similarity(squared, mean_areas[..., None], np.asarray(sigmas, float))
    if visible is None:
        return similarities.mean(-1)
    return (similarities * visible[None]).sum(-1) / np.maximum(visible.sum(-1), 1)


def iou_matrix(boxes_xywh: np.ndarray, others_xywh: np.ndarray) -> np.ndarray:
    """Returns the pairwise IoU of boxes, (A, 4) and (B, 4) to (A, B). It is 0.0 for boxes without area.

    >>> iou_matrix(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 2, 2], [0, 0, 2, 2]])).round(3)
    array([[0.333, 1.   ]])
    """
    boxes, others = np.asarray(boxes_xywh, float)[:, None], np.asarray(others_xywh, float)[None]
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], others[..., :2] + others[..., 2:])
    intersection = np.maximum(high - low, 0).prod(-1)
    union = boxes[..., 2:].prod(-1) + others[..., 2:].prod(-1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def oks_nms(
    keypoints_xy: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
    threshold: float = 0.9,
    *,
    keypoint_scores: np.ndarray | None = None,
    min_keypoint_score: float | None = None,
) -> np.ndarray:
    """Non-maximum suppression of poses: removes poses whose OKS with a higher-scored pose is above `threshold`.

    Args:
        keypoints_xy: (P, K, 2) poses of one image, in pixels.
        scores: (P,) scores of the poses. Equal scores keep their order.
        areas: (P,) in square pixels. HRNet and MIPNet use the area of the padded crop, not of the person.
        sigmas: (K,) COCO's `sigmas` (not doubled).
        threshold: OKS above which a pose is removed. A pose with exactly this OKS is kept.
        keypoint_scores: (P, K), required with `min_keypoint_score`.
        min_keypoint_score: Only keypoints with a higher score in both poses enter the OKS; None for all keypoints.

    Returns:
        (N,) indices of the kept poses, best first.
    """
    keypoints_xy, scores, areas, sigmas = _checked_poses(keypoints_xy, scores, areas, sigmas)
    visible = _visible(keypoint_scores, min_keypoint_score, keypoints_xy.shape[:2])
    order = np.argsort(-scores, kind="stable")
    keypoints_xy, areas = keypoints_xy[order], areas[order]
    visible = None if visible is None else visible[order]

    def removes(rows, start):
        seen = None if visible is None else visible[start:]
        return oks_matrix(keypoints_xy[start:], areas[start:], sigmas, visible=seen, rows=rows - start) > threshold

    return order[_greedy(len(order), removes)]


def soft_oks_nms(
    keypoints_xy: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
    threshold: float = 0.9,
    *,
    max_poses: int = MAX_SOFT_POSES,
) -> tuple[np.ndarray, np.ndarray]:
    """Soft-NMS of poses: multiplies scores by exp(-OKS² / threshold) for each higher-scored pose.

    The arguments are those of `oks_nms`. At most `max_poses` are returned.

    Returns:
        (N,) indices, best first, and their (N,) lowered scores.
    """
    keypoints_xy, scores, areas, sigmas = _checked_poses(keypoints_xy, scores, areas, sigmas)

    def decay(best):
        return np.exp(-(oks_matrix(keypoints_xy, areas, sigmas, rows=np.array([best]))[0] ** 2) / threshold)

    return _soft(scores, decay, max_poses, min_score=-np.inf)


def box_nms(boxes_xywh: np.ndarray, scores: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Non-maximum suppression of boxes: removes boxes whose IoU with a higher-scored box is above `threshold`.

    Args:
        boxes_xywh: (P, 4) boxes of one image.
        scores: (P,) scores of the boxes. Equal scores keep their order.

    Returns:
        (N,) indices of the kept boxes, best first.

    >>> box_nms(np.array([[0, 0, 9, 9], [1, 0, 9, 9], [20, 0, 9, 9]]), np.array([0.5, 0.9, 0.7]))
    array([1, 2])
    """
    boxes_xywh, scores = _checked_boxes(boxes_xywh, scores)
    order = np.argsort(-scores, kind="stable")
    boxes_xywh = boxes_xywh[order]
    return order[_greedy(len(order), lambda rows, start: iou_matrix(boxes_xywh[rows], boxes_xywh[start:]) > threshold)]


def soft_box_nms(
    boxes_xywh: np.ndarray,
    scores: np.ndarray,
    method: str = "gaussian",
    *,
    threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 0.001,
) -> tuple[np.ndarray, np.ndarray]:
    """Soft-NMS of boxes (arXiv:1704.04503): lowers the scores of boxes that overlap a higher-scored box.

    Args:
        boxes_xywh: (P, 4) boxes of one image.
        scores: (P,) scores of the boxes.
        method: Factor of the scores: "linear" for 1 - IoU where the IoU is above `threshold`, "gaussian" for
            exp(-IoU² / sigma).
        min_score: Boxes whose lowered score is below it are removed.

    Returns:
        (N,) indices, best first, and their (N,) lowered scores.
    """
    boxes_xywh, scores = _checked_boxes(boxes_xywh, scores)
    decays = {
        "linear": lambda ious: np.where(ious > threshold, 1 - ious, 1.0),
        "gaussian": lambda ious: np.exp(-(ious**2) / sigma),
    }
    if method not in decays:
        raise unknown("method of soft_box_nms", method, decays)

    def decay(best):
        return decays[method](iou_matrix(boxes_xywh[best : best + 1], boxes_xywh)[0])

    return _soft(scores, decay, len(scores), min_score)


def _greedy(count: int, removes: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """Returns the indices of the kept candidates, best first. `removes(rows, start)` is (rows, count - start) bool."""
    alive, start = np.ones(count, bool), 0
    while start < count:
        stop = start + max(1, BLOCK // (count - start))
        rows = start + np.flatnonzero(alive[start:stop])
        for row, removed in zip(rows, removes(rows, start), strict=True):
            if alive[row]:
                alive[row + 1 :] &= ~removed[row + 1 - start :]
        start = stop
    return np.flatnonzero(alive)


def _soft(
    scores: np.ndarray, decay: Callable[[int], np.ndarray], max_count: int, min_score: float
) -> tuple[np.ndarray, np.ndarray]:
    """Repeatedly takes the best candidate and multiplies the other scores by `decay(best)`, (count,)."""
    scores, waiting, kept = scores.copy(), np.ones(len(scores), bool), []
    while len(kept) < max_count and waiting.any():
        best = int(np.argmax(np.where(waiting, scores, -np.inf)))
        if scores[best] < min_score:
            break
        kept.append(best)
        waiting[best] = False
        scores[waiting] *= decay(best)[waiting]
    kept = np.array(kept, int)
    return kept, scores[kept]


def _visible(keypoint_scores: np.ndarray | None, min_keypoint_score: float | None, shape: tuple) -> np.ndarray | None:
    if min_keypoint_score is None:
        return None
    if keypoint_scores is None or np.shape(keypoint_scores) != shape:
        received = None if keypoint_scores is None else np.shape(keypoint_scores)
        raise UserError(f"`min_keypoint_score` needs `keypoint_scores` of shape {shape}. Received: {received}.")
    return np.asarray(keypoint_scores) > min_keypoint_score


def _checked_poses(keypoints_xy, scores, areas, sigmas) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    keypoints_xy, scores, areas, sigmas = (np.asarray(array, float) for array in (keypoints_xy, scores, areas, sigmas))
    count = len(scores)
    shapes = {"keypoints_xy": (count, len(sigmas), 2), "scores": (count,), "areas": (count,)}
    _check(dict(keypoints_xy=keypoints_xy, scores=scores, areas=areas), shapes)
    if (areas < 0).any():
        raise UserError(f"`areas` must not be negative. Received: {areas.min()} at index {int(areas.argmin())}.")
    return keypoints_xy, scores, areas, sigmas


def _checked_boxes(boxes_xywh, scores) -> tuple[np.ndarray, np.ndarray]:
    boxes_xywh, scores = np.asarray(boxes_xywh, float).reshape(-1, 4), np.asarray(scores, float)
    _check(dict(boxes_xywh=boxes_xywh, scores=scores), {"boxes_xywh": (len(scores), 4), "scores": (len(scores),)})
    if (boxes_xywh[:, 2:] < 0).any():
        bad = int(np.flatnonzero((boxes_xywh[:, 2:] < 0).any(1))[0])
        raise UserError(
            f"`boxes_xywh=` need width and height of 0 or more. Received: {boxes_xywh[bad]} at index {bad}."
        )
    return boxes_xywh, scores


def _check(arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            raise UserError(f"`{name}` must have shape {shapes[name]}. Received: {array.shape}.")
        if not np.isfinite(array).all():
            bad = int(np.argwhere(~np.isfinite(array))[0][0])
            raise UserError(f"`{name}` must be finite. Received: {array[bad]} at index {bad}.")
