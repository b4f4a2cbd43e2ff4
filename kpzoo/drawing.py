"""Drawing of skeletons on images, heatmaps on crops, and contact sheets.

Limbs are blue on the person's left side, orange on the right and white in the middle, colours that are distinguishable
with any colour vision. Opacity shows the confidence. Further persons of a box (instance 1 and above) have dashed limbs,
rings as keypoints and another colour of the outline. Limbs can be coloured by instance, or in one colour, instead. Line
widths depend on the size of the person and of the image. The identities of a video have twelve colours.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from kpzoo.errors import UserError, unknown
from kpzoo.skeletons import Skeleton

# Okabe & Ito, "Color Universal Design" (2008), except for white.
COLOURS = {-1: (86, 180, 233), 1: (230, 159, 0), 0: (245, 245, 245)}  # left, right, middle
ACCENTS = ((20, 20, 20), (204, 60, 140), (0, 158, 115), (240, 228, 66))  # outlines by instance, repeated
INSTANCES = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66))  # limbs by instance, repeated

# Limbs by identity, repeated: Okabe & Ito's colours, then lighter and darker ones.
TRACKS = (*INSTANCES, (213, 94, 0), (204, 121, 167), (0, 114, 178), (160, 220, 200))
TRACKS += ((250, 200, 150), (150, 110, 220), (120, 190, 60), (240, 130, 130))
_LOST = (150, 150, 150)  # limbs of a pose without an identity

RADIUS2_90 = -2 * np.log(1 - 0.9)  # squared radius, in standard deviations, of the ellipse that holds 90 %
_SHIFT = 4  # coordinates are passed to OpenCV in sixteenths of a pixel
_FONT, _CAPITAL = cv2.FONT_HERSHEY_DUPLEX, 22  # its capitals are 22 pixels high at scale 1


class Picture(np.ndarray):
    """An (H, W, 3) uint8 RGB array that notebooks display as an image. Operations on it return plain arrays."""

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return array[()] if return_scalar else np.asarray(array)

    def _repr_png_(self) -> bytes | None:
        if self.ndim != 3 or self.shape[2] != 3 or self.dtype != np.uint8 or not self.size:
            return None
        return cv2.imencode(".png", cv2.cvtColor(np.asarray(self), cv2.COLOR_RGB2BGR))[1].tobytes()


def draw_poses(
    image_rgb: np.ndarray,
    keypoints_xy: np.ndarray,
    keypoint_scores: np.ndarray,
    skeleton: Skeleton,
    *,
    boxes_xywh: np.ndarray | None = None,
    instance: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    track_ids: np.ndarray | None = None,
    min_score: float = 0.2,
    colour_by: str | tuple[int, int, int] = "side",
    covariance_xy: np.ndarray | None = None,
) -> Picture:
    """Returns a copy of the image with skeletons drawn on it.

    Args:
        image_rgb: (H, W, 3) uint8.
        keypoints_xy: (P, K, 2) in image pixels. Points that are not finite are not drawn.
        keypoint_scores: (P, K) in [0, 1]. Keypoints below `min_score` and their limbs are not drawn.
        skeleton: Names, sides and links of the K keypoints.
        boxes_xywh: (P, 4) boxes to draw, in image pixels.
        instance: (P,) int index of the person in the box; default: 0.
        scores: (P,) scores of the poses. The best pose is drawn on top, and boxes are labelled with the scores.
        track_ids: (P,) int identities, which boxes are labelled with; -1 for a pose without one.
        min_score: See `keypoint_scores`.
        colour_by: What the colours of limbs show: "side", "instance" or "track", which needs `track_ids`; or one RGB
            colour for all limbs.
        covariance_xy: (P, K, 2, 2) covariances of the keypoints, drawn as ellipses that hold 90 % of a normal
            distribution. Those that are not finite are not drawn.
    """
    meanings = ["side", "instance", *([] if track_ids is None else ["track"])]
    if isinstance(colour_by, str) and colour_by not in meanings:
        raise unknown("meaning of colours", colour_by, meanings)
    canvas = np.array(image_rgb, np.uint8, order="C")
    keypoints_xy, keypoint_scores = np.asarray(keypoints_xy, float), np.asarray(keypoint_scores, float)
    num_poses = len(keypoints_xy)
    if keypoints_xy.shape != (num_poses, skeleton.num_keypoints, 2) or keypoint_scores.shape != keypoints_xy.shape[:2]:
        raise UserError(
            f"Poses of skeleton {skeleton.name!r} need keypoints_xy (P, {skeleton.num_keypoints}, 2) and "
            f"keypoint_scores (P, {skeleton.num_keypoints}). Received: {keypoints_xy.shape}, {keypoint_scores.shape}."
        )
    instance = np.zeros(num_poses, int) if instance is None else np.asarray(instance, int)
    order = np.lexsort((np.zeros(num_poses) if scores is None else scores, -instance))
    visible = np.isfinite(keypoints_xy).all(-1) & (keypoint_scores >= min_score)
    boxes = []
    if boxes_xywh is not None:
        accents = [ACCENTS[one % len(ACCENTS)] for one in instance]
        labels = _labels(num_poses, scores, track_ids)
        boxes = _draw_boxes(canvas, [(boxes_xywh[index], accents[index], labels[index]) for index in order])
    for index in order:
        pose = keypoints_xy[index], keypoint_scores[index], visible[index]
        palette = _palette(colour_by, instance[index], None if track_ids is None else track_ids[index])
        _draw_pose(canvas, *pose, skeleton, *palette, dashed=instance[index] > 0)
        if covariance_xy is not None:
            _draw_ellipses(canvas, keypoints_xy[index], covariance_xy[index], visible[index], skeleton, palette[1])
    _draw_labels(canvas, boxes)
    return canvas.view(Picture)


def heatmap_overlay(image_rgb: np.ndarray, heatmaps: np.ndarray) -> Picture:
    """Returns a darkened crop with its heatmaps as a colour overlay.

    Args:
        image_rgb: (H, W, 3) uint8, the crop.
        heatmaps: (h, w, K), of which the maximum over K is drawn. For one keypoint pass `heatmaps[..., k : k + 1]`.
    """
    height, width = image_rgb.shape[:2]
    heat = np.nan_to_num(np.asarray(heatmaps, np.float32)).max(-1)
    heat = np.clip(cv2.resize(heat / max(heat.max(), 1e-9), (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = cv2.applyColorMap(np.uint8(heat * 255), cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float32)
    alpha = np.sqrt(heat)[..., None]
    return np.uint8(0.6 * (1 - alpha) * image_rgb + alpha * colours).view(Picture)


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int,
    captions: Sequence[str] | None = None,
    cell_hw: tuple[int, int] = (256, 192),
) -> Picture:
    """Returns a grid of images on white, row by row, each scaled to its cell, with captions below.

    Args:
        images: (H, W, 3) uint8 RGB of any sizes.
        columns: Number of images per row.
        captions: One caption per image. Captions are cut to fit, and characters that the font lacks become "?".
        cell_hw: (height, width) of a cell without its caption, in pixels.
    """
    if captions is not None and len(captions) != len(images):
        received = f"Received: {len(images)} images, {len(captions)} captions"
        raise UserError(f"`captions` must have one caption per image. {received}.")
    (height, width), gap = cell_hw, max(4, round(min(cell_hw) * 0.03))
    text_height = 0 if captions is None else min(28, max(14, round(min(cell_hw) * 0.09)))
    rows = -(-len(images) // columns)
    step_y, step_x = height + text_height + gap, width + gap
    sheet = np.full((max(rows, 1) * step_y + gap, columns * step_x + gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        y, x = gap + index // columns * step_y, gap + index % columns * step_x
        scale = min(height / image.shape[0], width / image.shape[1])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        small = cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        top, left = y + (height - size[1]) // 2, x + (width - size[0]) // 2
        sheet[top : top + size[1], left : left + size[0]] = small
        if captions is not None:
            _caption(sheet[y + height : y + height + text_height, x : x + width], captions[index])
    return sheet.view(Picture)


def before_after(left: np.ndarray, right: np.ndarray, captions: tuple[str, str] = ("before", "after")) -> Picture:
    """Returns two images side by side, for example before and after non-maximum suppression."""
    return contact_sheet([left, right], 2, captions, tuple(np.maximum(left.shape[:2], right.shape[:2]).tolist()))


def _labels(num_poses: int, scores: np.ndarray | None, track_ids: np.ndarray | None) -> list[str]:
    """Returns the labels of boxes: the identity and the score, as far as they are given."""
    texts = [""] * num_poses if scores is None else [f"{score:.2f}" for score in scores]
    if track_ids is None:
        return texts
    return [text if one < 0 else f"#{one} {text}".strip() for one, text in zip(track_ids, texts, strict=True)]


def _palette(colour_by: str | tuple, instance: int, track_id: int | None) -> tuple[tuple, dict[int, tuple]]:
    """Returns the colour of outlines, and the colours of limbs and keypoints by side."""
    if colour_by == "track":
        return ACCENTS[0], dict.fromkeys(COLOURS, _LOST if track_id < 0 else TRACKS[track_id % len(TRACKS)])
    if colour_by == "instance":
        return ACCENTS[0], dict.fromkeys(COLOURS, INSTANCES[instance % len(INSTANCES)])
    if colour_by != "side":
        return ACCENTS[0], dict.fromkeys(COLOURS, colour_by)
    return ACCENTS[instance % len(ACCENTS)], COLOURS


def _draw_pose(canvas, keypoints_xy, keypoint_scores, visible, skeleton: Skeleton, accent, colours, dashed) -> None:
    """Draws one pose: all outlines, then all limbs, then the joints on top."""
    if not visible.any():
        return
    height, width = canvas.shape[:2]
    reach = 4 * max(height, width)
    points = np.clip(keypoints_xy, -reach, reach)
    extent = np.ptp(points[visible], axis=0).max()
    diagonal = np.hypot(height, width)
    thick = float(np.clip(extent * 0.02, max(1.2, diagonal / 900), max(2.0, diagonal / 130)))
    border = max(0.7, 0.3 * thick)
    alphas = np.clip(0.35 + 0.9 * np.clip(keypoint_scores, 0, 1), 0, 1)  # opaque from 0.72, as few networks reach more
    sides = _sides(skeleton)
    links = [(a, b) for a, b in skeleton.link_indices if visible[a] and visible[b]]
    for a, b in links:
        _blend(canvas, min(alphas[a], alphas[b]), _bars(points[a], points[b], thick / 2 + border), accent)
    for a, b in links:
        bars = _bars(points[a], points[b], thick / 2, dash=4 * thick if dashed else 0.0)
        _blend(canvas, min(alphas[a], alphas[b]), bars, colours[np.sign(sides[a] + sides[b])])
    for k in np.flatnonzero(visible):
        _blend(canvas, alphas[k], _disc(points[k], 0.9 * thick + border), accent)
        _blend(canvas, alphas[k], _disc(points[k], 0.9 * thick), colours[sides[k]])
        if dashed:
            _blend(canvas, alphas[k], _disc(points[k], 0.45 * thick), accent)


def _draw_ellipses(canvas, keypoints_xy, covariance_xy, visible, skeleton: Skeleton, colours) -> None:
    """Draws the 90 % ellipses of the visible keypoints of one pose: a faint disc with an outline."""
    line = max(1, round(np.hypot(*canvas.shape[:2]) / 900))
    reach = 4 * max(canvas.shape[:2])
    for k in np.flatnonzero(visible & np.isfinite(covariance_xy).all((-2, -1))):
        corners = [np.clip(keypoints_xy[k] + _ellipse(covariance_xy[k]), -reach, reach)]
        colour = colours[_sides(skeleton)[k]]
        _blend(canvas, 0.18, corners, colour)
        _blend(canvas, 0.9, corners, colour, line)


def _ellipse(covariance: np.ndarray) -> np.ndarray:
    """Returns the (n, 2) outline, about 0, of the ellipse that holds 90 % of a normal distribution."""
    values, axes = np.linalg.eigh(covariance)
    half_axes = np.sqrt(np.maximum(values, 0) * RADIUS2_90)
    angles = np.linspace(0, 2 * np.pi, max(16, int(half_axes.max())), endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * half_axes @ axes.T


def _sides(skeleton: Skeleton) -> np.ndarray:
    """Returns (K,) int: -1 for the person's left, 1 for the right, 0 for the middle."""
    sides = np.zeros(skeleton.num_keypoints, int)
    for first, second in skeleton.flip_pairs:
        side = 1 if "right" in first.lower() else -1
        sides[skeleton.keypoints.index(first)], sides[skeleton.keypoints.index(second)] = side, -side
    return sides


def _bars(start: np.ndarray, end: np.ndarray, half: float, dash: float = 0.0) -> list[np.ndarray]:
    """Returns the limb from start to end as a (4, 2) polygon, or as dashes of the length `dash` if it is not 0."""
    along = end - start
    length = float(np.hypot(*along))
    if length < 1e-6:
        return []
    across = np.array([-along[1], along[0]]) / length * half
    count = max(1, round(length / dash / 1.6)) if dash else 1  # gaps have 0.6 of the length of a dash
    share = 1 / (1.6 * count - 0.6)
    spans = [(start + along * 1.6 * share * i, start + along * (1.6 * i + 1) * share) for i in range(count)]
    return [np.stack([first + across, last + across, last - across, first - across]) for first, last in spans]


def _disc(centre: np.ndarray, radius: float) -> list[np.ndarray]:
    angles = np.linspace(0, 2 * np.pi, max(12, int(radius * 3)), endpoint=False)
    return [centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)]


def _blend(canvas: np.ndarray, alpha: float, polygons: list[np.ndarray], colour, line: int = 0) -> None:
    """Fills convex (n, 2) polygons with an opacity, or outlines them if `line`, the width in pixels, is not 0."""
    if not polygons:
        return
    corners = np.concatenate(polygons)
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int) - 1 - line, 0)
    x1, y1 = np.maximum(np.ceil(corners.max(0)).astype(int) + 2 + line, 0)
    area = canvas[y0:y1, x0:x1]
    if not area.size:
        return
    layer = area.copy()
    for polygon in polygons:
        points = np.rint((polygon - (x0, y0)) * 2**_SHIFT).astype(np.int32)
        if line:
            cv2.polylines(layer, [points], True, colour, line, cv2.LINE_AA, _SHIFT)
        else:
            cv2.fillConvexPoly(layer, points, colour, cv2.LINE_AA, _SHIFT)
    cv2.addWeighted(layer, alpha, area, 1 - alpha, 0, dst=area)


def _draw_boxes(canvas: np.ndarray, boxes: Sequence[tuple[np.ndarray, tuple, str]]) -> list[tuple]:
    """Draws boxes, given as (box_xywh, colour, label), the last on top. Returns those that are finite."""
    height, width = canvas.shape[:2]
    reach, thick = 4 * max(height, width), max(1, round(np.hypot(height, width) / 1000))
    boxes = [(np.clip(box, -reach, reach), colour, label) for box, colour, label in boxes if np.isfinite(box).all()]
    for (x, y, w, h), colour, _ in boxes:
        frame = [np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])]
        _blend(canvas, 0.5, frame, colour, 2 * thick + 1)
        _blend(canvas, 0.8, frame, COLOURS[0], thick)
    return boxes


def _draw_labels(canvas: np.ndarray, boxes: Sequence[tuple[np.ndarray, tuple, str]]) -> None:
    """Labels the boxes, the last first. Labels that would overlap another label are left out."""
    taken = np.zeros(canvas.shape[:2], bool)
    for box, colour, label in reversed(boxes):
        if label:
            _label(canvas, label, box, colour, taken)


def _label(canvas: np.ndarray, text: str, box_xywh, colour, taken: np.ndarray) -> None:
    """Writes a label above the box, unless it is larger than a small box or overlaps another label."""
    x, y, w, h = box_xywh
    scale = float(np.clip(h * 0.05, 9, max(9, canvas.shape[0] / 35))) / _CAPITAL
    thick = max(1, round(scale * 1.6))
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, thick)
    pad = max(2, round(height * 0.3))
    width, height = width + 2 * pad, height + 2 * pad
    if width > w or height > h / 5:
        return
    left = int(np.clip(x, 0, max(0, canvas.shape[1] - width)))
    top = int(np.clip(y - height, 0, max(0, canvas.shape[0] - height)))
    plate = np.s_[top : top + height + 1, left : left + width + 1]
    if taken[plate].any():
        return
    taken[plate] = True
    cv2.rectangle(canvas, (left, top), (left + width, top + height), colour, cv2.FILLED)
    cv2.putText(canvas, text, (left + pad, top + height - pad), _FONT, scale, (255, 255, 255), thick, cv2.LINE_AA)


def _caption(strip: np.ndarray, text: str) -> None:
    height, width = strip.shape[:2]
    scale = height * 0.55 / _CAPITAL
    thick = max(1, round(scale * 1.5))
    text = text.encode("ascii", "replace").decode()
    while text and cv2.getTextSize(text, _FONT, scale, thick)[0][0] > width:
        text = text.rstrip(".")[:-1] + ".." if len(text) > 3 else ""
    cv2.putText(strip, text, (0, round(height * 0.78)), _FONT, scale, (40, 40, 40), thick, cv2.LINE_AA)
