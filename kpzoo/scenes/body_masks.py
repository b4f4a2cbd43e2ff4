"""Masks of people estimated from their keypoints: limbs are drawn as thick lines and refined by the photo's colours."""

import cv2
import numpy as np

from kpzoo.skeletons import Skeleton

WORKING_HEIGHT = 120.0  # height in pixels of a person while the mask is refined

# Parts between two joints: (length, radius at either end), in heights of an upright person.
_PARTS = {
    ("shoulder", "elbow"): (0.17, 0.036, 0.029),
    ("elbow", "wrist"): (0.15, 0.029, 0.022),
    ("hip", "knee"): (0.24, 0.056, 0.040),
    ("knee", "ankle"): (0.24, 0.040, 0.028),
}
_TRUNK_NAMES = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
_TRUNK = (0.29, 0.045)  # shoulders to hips, and how far the body reaches beyond these four joints
_HEAD = 0.068  # radius
_ENDS = {"wrist": ("elbow", 0.065, 0.028), "ankle": ("knee", 0.035, 0.045)}  # hands and feet: how far beyond, radius


def body_heights(skeleton: Skeleton, keypoints_xy: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """Returns the (P,) heights of persons in upright posture, in the unit of their (P, K, 2) keypoints.

    Foreshortening makes body parts shorter, so that a long estimate is used, but not the longest, which may come from a
    wrong label.
    """
    points = np.where(visibility[..., None] > 0, keypoints_xy, np.nan)
    places = {name: place for place, name in enumerate(skeleton.keypoints)}
    ratios = [np.full(len(points), np.nan)]
    for (upper, lower), (length, *_) in _PARTS.items():
        for side in ("left", "right"):
            ends = [places.get(f"{side}_{part}") for part in (upper, lower)]
            if None not in ends:
                ratios.append(np.linalg.norm(points[:, ends[0]] - points[:, ends[1]], axis=1) / length)
    trunk = trunk_indices(skeleton)
    if trunk is not None:
        middle = points[:, trunk].reshape(-1, 2, 2, 2).mean(axis=2)
        ratios.append(np.linalg.norm(middle[:, 0] - middle[:, 1], axis=1) / _TRUNK[0])
    ratios = np.sort(np.stack(ratios), axis=0)  # NaN come last
    counts = np.isfinite(ratios).sum(axis=0)
    chosen = np.maximum(np.ceil(0.75 * counts).astype(int) - 1, 0)
    return np.where(counts > 0, ratios[chosen, np.arange(ratios.shape[1])], np.nan)


def softened(mask: np.ndarray) -> np.ndarray:
    """Returns a mask of 0 and 1 as 0..255 with a soft edge, slightly inside the mask to exclude the background."""
    blurred = cv2.GaussianBlur(mask * np.uint8(255), (0, 0), 0.9)
    return cv2.addWeighted(blurred, 1.6, blurred, 0.0, -0.6 * 255)  # saturates


def grown_mask(
    photo: np.ndarray, skeleton: Skeleton, keypoints_xy: np.ndarray, visibility: np.ndarray, height: float
) -> np.ndarray:
    """Estimates the mask (H, W) uint8 0..255 of a person from its keypoints.

    Limbs are drawn as thick lines. In a band along their edges, the mask follows the colours of the photo (GrabCut).

    Args:
        photo: (H, W, 3) uint8 RGB.
        skeleton: Skeleton of the keypoints.
        keypoints_xy: (K, 2) in image pixels.
        visibility: (K,) 0 if not labelled.
        height: Height of the person in pixels, see `body_heights`.
    """
    points = {name: xy for name, xy, v in zip(skeleton.keypoints, keypoints_xy, visibility, strict=True) if v > 0}
    if not points or not np.isfinite(height):
        return np.zeros(photo.shape[:2], np.uint8)
    all_xy = np.stack(list(points.values()))
    low = np.clip(np.floor(all_xy.min(0) - 0.15 * height), 0, np.array(photo.shape[1::-1]) - 1).astype(int)
    high = np.clip(np.ceil(all_xy.max(0) + 0.15 * height) + 1, 1, photo.shape[1::-1]).astype(int)
    window = photo[low[1] : high[1], low[0] : high[0]]
    zoom = min(1.0, WORKING_HEIGHT / height)
    small = cv2.resize(window, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA) if zoom < 1 else window
    moved = {name: (xy - low) * zoom for name, xy in points.items()}
    inner, middle, outer = (draw_body(small.shape[:2], moved, height * zoom, width) for width in (0.5, 1.0, 1.75))
    mask = refined(small, inner, middle, outer)
    if zoom < 1:
        soft = cv2.resize(mask * np.uint8(255), window.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        mask = (soft > 127).astype(np.uint8)
    result = np.zeros(photo.shape[:2], np.uint8)
    result[low[1] : high[1], low[0] : high[0]] = softened(mask)
    return result


def refined(image: np.ndarray, inner: np.ndarray, middle: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Returns the (h, w) mask of 0 and 1 between `inner` and `outer` that fits the colours of the photo best."""
    labels = np.where(inner > 0, cv2.GC_FGD, np.where(middle > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD))
    labels = np.where(outer > 0, labels, cv2.GC_BGD).astype(np.uint8)
    cv2.setRNGSeed(1)  # grabCut begins with a random clustering
    cv2.grabCut(image, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    mask = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    mask = cv2.medianBlur(mask, 5) | inner
    _, pieces = cv2.connectedComponents(mask)
    mask = np.isin(pieces, np.unique(pieces[inner > 0])).astype(np.uint8) & mask
    return mask if 0.6 < mask.sum() / max(middle.sum(), 1) < 1.7 else middle


def draw_body(size_hw: tuple[int, int], points: dict[str, np.ndarray], height: float, width: float) -> np.ndarray:
    """Returns an (h, w) mask of 0 and 1 of a body whose parts are scaled in thickness by `width`."""
    mask = np.zeros(size_hw, np.uint8)
    reach = width * height
    for side in ("left", "right"):
        for (upper, lower), (_, start, end) in _PARTS.items():
            if f"{side}_{upper}" in points and f"{side}_{lower}" in points:
                _capsule(mask, points[f"{side}_{upper}"], points[f"{side}_{lower}"], start * reach, end * reach)
        for joint, (before, beyond, radius) in _ENDS.items():
            if f"{side}_{joint}" in points and f"{side}_{before}" in points:
                tip = points[f"{side}_{joint}"]
                along = tip - points[f"{side}_{before}"]
                along = along / max(float(np.linalg.norm(along)), 1e-6) * beyond * height
                _capsule(mask, tip, tip + along * min(width, 1.0), radius * reach, radius * reach)
    trunk = [points[name] for name in _TRUNK_NAMES if name in points]
    if len(trunk) == 4:
        cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(np.stack(trunk)).astype(np.int32)), 1)
    for one, other in zip(trunk, [*trunk[1:], *trunk[:1]], strict=True):
        _capsule(mask, one, other, _TRUNK[1] * reach, _TRUNK[1] * reach)
    _draw_head(mask, points, trunk, height, reach)
    return mask


def _draw_head(mask: np.ndarray, points: dict, trunk: list, height: float, reach: float) -> None:
    if "head" in points and "neck" in points:  # the top of the head, as in CrowdPose
        top, neck = points["head"], points["neck"]
        _capsule(mask, neck + 0.7 * (top - neck), neck + 0.5 * (top - neck), _HEAD * reach, _HEAD * reach)
        _capsule(mask, neck, neck + 0.5 * (top - neck), 0.04 * reach, 0.04 * reach)
        return
    face = [xy for name, xy in points.items() if name == "nose" or name.endswith(("_eye", "_ear"))]
    if face:
        middle = np.mean(face, axis=0)
        _capsule(mask, middle, middle, 1.25 * _HEAD * reach, 1.25 * _HEAD * reach)
        shoulders = [points[name] for name in _TRUNK_NAMES[:2] if name in points]
        if len(shoulders) == 2:
            _capsule(mask, middle, np.mean(shoulders, axis=0), 0.04 * reach, 0.04 * reach)


def _capsule(mask: np.ndarray, start_xy: np.ndarray, end_xy: np.ndarray, start: float, end: float) -> None:
    """Draws a limb with round ends of two radii, with a precision of 1/16 pixel."""
    along = end_xy - start_xy
    length = float(np.linalg.norm(along))
    across = np.array([-along[1], along[0]]) / max(length, 1e-6)
    corners = np.stack(
        [start_xy + start * across, end_xy + end * across, end_xy - end * across, start_xy - start * across]
    )
    if length > 0:
        cv2.fillConvexPoly(mask, np.rint(16 * corners).astype(np.int32), 1, cv2.LINE_8, 4)
    for xy, radius in ((start_xy, start), (end_xy, end)):
        centre = tuple(int(value) for value in np.rint(16 * xy))
        cv2.circle(mask, centre, max(round(16 * radius), 8), 1, cv2.FILLED, cv2.LINE_8, 4)


def trunk_indices(skeleton: Skeleton) -> list[int] | None:
    """Returns the indices of the shoulders and hips, or None if the skeleton does not have them."""
    if any(name not in skeleton.keypoints for name in _TRUNK_NAMES):
        return None
    return [skeleton.keypoints.index(name) for name in _TRUNK_NAMES]
