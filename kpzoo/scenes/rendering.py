"""Pixels and annotations of composed scenes: whole images, or just the crop that a network sees."""

from collections.abc import Sequence

import cv2
import numpy as np

from kpzoo.scenes.cutouts import Cutouts, Light
from kpzoo.scenes.layers import Layer, adaptation, chained, mapped, occlusion_of, scene_to_cutout

_LUMA = np.array([[0.3, 0.59, 0.11]], np.float32)
_LEVELS = np.arange(256, dtype=np.float32)[:, None]


def rendered(source: Cutouts, photo: np.ndarray, layers: Sequence[Layer]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the image (H, W, 3) uint8, and for each layer its (H, W) float32 opacity."""
    image, changed, alphas = photo.astype(np.float32), False, []
    host = next(layer for layer in layers if not layer.moved).cutout.light
    for layer in layers:
        pixels = photo
        if layer.moved:
            own = lit(source.pixels(layer.person), layer.cutout.light, host)
            alpha, pixels = (_placed(layer, values, photo.shape[:2]) for values in (layer.cutout.alpha, own))
        else:
            alpha, (x, y, width, height) = np.zeros(photo.shape[:2], np.float32), layer.cutout.window_xywh
            alpha[y : y + height, x : x + width] = layer.cutout.alpha
        alpha /= 255
        alphas.append(alpha)
        if layer.moved or changed:
            image += alpha[..., None] * (pixels - image)
            changed = True
    return np.rint(image).astype(np.uint8), alphas


def lit(pixels: np.ndarray, own: Light, host: Light) -> np.ndarray:
    """Returns float32 values of the uint8 pixels of a photo in the light of another photo."""
    gain, shift = adaptation(own, host)
    values = _LEVELS * np.float32(gain) + shift.astype(np.float32)  # (256, 3)
    if not host.is_grey:
        return cv2.LUT(pixels, np.clip(values, 0, 255)[None])
    grey = cv2.transform(cv2.LUT(pixels, values[None]), _LUMA)
    return cv2.cvtColor(np.clip(grey, 0, 255), cv2.COLOR_GRAY2RGB)


def _placed(layer: Layer, values: np.ndarray, size_hw: Sequence[int]) -> np.ndarray:
    """Returns a float32 image of `size_hw` that is 0 except for values of the cut-out, in 0..255, moved there."""
    size = np.abs(layer.to_scene[:, :2].diagonal()) * layer.cutout.window_xywh[2:]
    width, height = np.rint(size).astype(int).tolist()
    how = cv2.INTER_AREA if width < values.shape[1] else cv2.INTER_CUBIC
    part = np.clip(cv2.resize(values.astype(np.float32), (width, height), interpolation=how), 0, 255)
    window = layer.cutout.window_xywh
    ends = mapped(layer.to_scene, np.array([window[:2], window[:2] + window[2:]]) - 0.5) + 0.5
    offset = np.rint(ends.min(axis=0)).astype(int)
    if layer.to_scene[0, 0] < 0:
        part = part[:, ::-1]
    picture = np.zeros((*size_hw, *part.shape[2:]), np.float32)
    low, high = np.maximum(offset, 0), np.minimum(offset + part.shape[1::-1], size_hw[::-1])
    if (high > low).all():
        (left, top), (right, bottom) = low - offset, high - offset
        picture[low[1] : high[1], low[0] : high[0]] = part[top:bottom, left:right]
    return picture


def overlaid(
    crop: np.ndarray,
    crop_to_scene: np.ndarray,
    source: Cutouts,
    host: int,
    persons: Sequence[int],
    maps: Sequence[np.ndarray],
) -> np.ndarray:
    """Returns the crop of a scene, from the same crop of its photo.

    The people are warped straight into the crop, with bilinear interpolation as the photo itself.

    Args:
        crop: (h, w, 3) float32 crop of the background photo.
        crop_to_scene: (2, 3) map from crop pixels to scene pixels.
        source: People and photos.
        host: A person of the background photo. Nothing is drawn outside of it.
        persons: (L,) people, from back to front.
        maps: (L, 2, 3) maps from pixels of their photos to scene pixels, NaN for people of the background photo.
    """
    image, changed, light = crop.copy(), False, source.cut(host).light
    for person, to_scene in zip(persons, maps, strict=True):
        moved = not np.isnan(to_scene[0, 0])
        if not (moved or changed):
            continue
        changed = True
        cutout = source.cut(person)
        to_cutout = chained(scene_to_cutout(cutout, to_scene if moved else None), crop_to_scene)
        area = _area(to_cutout, cutout.alpha.shape, crop.shape)
        if area is None:
            continue
        part = image[area]
        to_cutout[:, 2] += to_cutout[:, :2] @ (area[1].start, area[0].start)
        alpha = _warped(cutout.alpha, to_cutout, part.shape[:2]).astype(np.float32) * np.float32(1 / 255)
        pixels = crop[area]
        if moved:
            pixels = lit(_warped(source.pixels(person), to_cutout, part.shape[:2]), cutout.light, light)
            alpha *= _inside(crop_to_scene, area, source.sizes_hw[host])
        part += cv2.merge([alpha] * 3) * (pixels - part)  # broadcasting over three channels is slower
    return image


def _warped(pixels: np.ndarray, crop_to_pixels: np.ndarray, size_hw: Sequence[int]) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, crop_to_pixels, size_hw[::-1], flags=flags, borderMode=cv2.BORDER_CONSTANT)


def _area(crop_to_cutout: np.ndarray, cutout_hw: Sequence[int], crop_hw: Sequence[int]) -> tuple[slice, slice] | None:
    """Returns the rows and columns of the crop that show a cut-out."""
    height, width = cutout_hw
    corners = np.array([(-1, -1), (width, -1), (-1, height), (width, height)], float)
    corners = np.linalg.solve(crop_to_cutout[:, :2], (corners - crop_to_cutout[:, 2]).T)
    low = np.maximum(np.floor(corners.min(axis=1)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(axis=1)).astype(int) + 1, crop_hw[1::-1])
    return (slice(low[1], high[1]), slice(low[0], high[0])) if (high > low).all() else None


def _inside(crop_to_scene: np.ndarray, area: tuple[slice, slice], image_hw: Sequence[int]) -> np.ndarray | bool:
    """Returns which pixels of a part of the crop lie in the photo, True if all of them do."""
    rows, columns = (np.arange(part.start, part.stop) for part in area)
    corners = [(columns[i], rows[j]) @ crop_to_scene[:, :2].T + crop_to_scene[:, 2] for i in (0, -1) for j in (0, -1)]
    if (np.array(corners) >= -0.5).all() and (np.array(corners) <= np.flip(image_hw) - 0.5).all():
        return True
    inside = True
    for line, limit in zip(crop_to_scene, image_hw[::-1], strict=True):
        places = (line[1] * rows + line[2])[:, None] + line[0] * columns
        inside = inside & (places >= -0.5) & (places <= limit - 0.5)
    return inside


def annotations_of(source: Cutouts, layers: Sequence[Layer], alphas: Sequence[np.ndarray]) -> list[dict]:
    """Returns the COCO annotations of the visible people."""
    cover, annotations = np.zeros(alphas[0].shape, bool), []
    for place in reversed(range(len(layers))):
        hidden, is_shown = occlusion_of(place, layers, cover.shape)
        if is_shown:
            annotations.append(_annotation(source, layers[place], (alphas[place] > 0.5) & ~cover, hidden))
        cover |= alphas[place] > 0.5
    return annotations[::-1]


def _annotation(source: Cutouts, layer: Layer, shown: np.ndarray, hidden: np.ndarray) -> dict:
    from pycocotools import mask as rle

    counts = rle.encode(np.asfortranarray(shown.astype(np.uint8)))["counts"].decode("ascii")
    visibility = np.where(hidden, np.minimum(layer.visibility, 1), layer.visibility)
    xy = np.where(visibility[:, None] > 0, np.round(layer.keypoints_xy, 2), 0.0)
    x, y, right, bottom = layer.box_xyxy.tolist()
    scores = np.where(visibility > 0, layer.weights, 0.0).round(4).tolist()
    return {
        "category_id": 1,
        "iscrowd": int(source.data.annotations.persons.is_crowd[layer.person]),
        "keypoints": [value for (x, y), v in zip(xy.tolist(), visibility.tolist(), strict=True) for value in (x, y, v)],
        "num_keypoints": int((visibility > 0).sum()),
        "segmentation": {"size": list(shown.shape), "counts": counts} if shown.any() else [],
        "area": round(layer.area, 2),
        "bbox": [round(value, 2) for value in (x, y, right - x, bottom - y)],
        **({"keypoint_scores": scores} if (layer.weights != 1).any() else {}),
    }
