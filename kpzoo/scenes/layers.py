"""Layers of a composed scene: the people of an image, their order, occlusion and annotations."""

from dataclasses import dataclass

import cv2
import numpy as np

from kpzoo.scenes.cutouts import Cutouts
from kpzoo.scenes.figures.people import pixels_around

_LEAST_SHOWN = 0.2  # minimum visible share of the pixels of a person
_LEAST_JOINTS = 3
_ADAPTATION = 0.4  # share by which the colours of a cut-out are adapted to the photo
_GREY = 1.0  # mean difference of the channels below which a photo is black and white


@dataclass(eq=False)
class Layer:
    """A person in the scene, in front of the earlier layers of the list.

    Args:
        person: Index of the annotation.
        alpha: (H, W) float32 opacity in 0..1.
        pixels: (H, W, 3) float32. None for people of the background photo.
        total: Number of pixels of the person, including those outside the image.
        keypoints_xy: (K, 2) in scene pixels.
        visibility: (K,) 0 if not labelled or outside the image.
        box_xyxy: (4,) clipped to the image.
        area: Area in square pixels.
        height: Height in pixels of the person in upright posture.
        labelled: Number of labelled keypoints in the original photo.
        weights: (K,) `keypoint_weights` of the person.
    """

    person: int
    alpha: np.ndarray
    pixels: np.ndarray | None
    total: float
    keypoints_xy: np.ndarray
    visibility: np.ndarray
    box_xyxy: np.ndarray
    area: float
    height: float
    labelled: int
    weights: np.ndarray


def host_layer(source: Cutouts, person: int, photo: np.ndarray) -> Layer:
    """Returns the layer of a person of the background photo."""
    cutout = source.cut(person, photo)
    alpha = np.zeros(photo.shape[:2], np.float32)
    _window(alpha, cutout.origin_xy, cutout.alpha.shape)[...] = cutout.alpha
    return Layer(
        person,
        alpha,
        None,
        float((alpha > 0.5).sum()),
        source.keypoints_xy[person],
        source.visibility[person],
        source.boxes_xyxy[person],
        float(source.data.annotations.persons.area[person]),
        float(source.heights[person]),
        int((source.visibility[person] > 0).sum()),
        source.data.annotations.persons.keypoint_weights[person],
    )


def _window(picture: np.ndarray, origin_xy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    (x, y), (height, width) = origin_xy, size_hw
    return picture[y : y + height, x : x + width]


def moved_layer(
    source: Cutouts, person: int, zoom: float, corner_xy: np.ndarray, mirrored: bool, photo: np.ndarray
) -> Layer:
    """Returns the layer of a person of another photo.

    Args:
        source: People and photos.
        person: Index of the annotation.
        zoom: Scale of the person.
        corner_xy: (2,) position of the first corner of the box in the scene.
        mirrored: Whether the person is mirrored.
        photo: Background photo, to which the colours are adapted.
    """
    own_photo = source.photo(person)
    cutout = source.cut(person, own_photo)
    height, width = cutout.alpha.shape
    size = max(round(width * zoom), 1), max(round(height * zoom), 1)
    zoom_xy = np.array(size) / (width, height)
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    pixels = np.clip(cv2.resize(in_light_of(cutout.image, own_photo, photo), size, interpolation=how), 0, 255)
    alpha = np.clip(cv2.resize(cutout.alpha, size, interpolation=how), 0, 1)
    points = (source.keypoints_xy[person] - cutout.origin_xy + 0.5) * zoom_xy - 0.5
    box = (source.boxes_xyxy[person].reshape(2, 2) - cutout.origin_xy) * zoom_xy
    visibility, weights = source.visibility[person], source.data.annotations.persons.keypoint_weights[person]
    if mirrored:
        order = source.data.skeleton.flip_order
        pixels, alpha, visibility, weights = pixels[:, ::-1], alpha[:, ::-1], visibility[order], weights[order]
        points = np.stack([size[0] - 1 - points[:, 0], points[:, 1]], axis=1)[order]
        box = np.stack([size[0] - box[::-1, 0], box[:, 1]], axis=1)
    offset = np.rint(corner_xy - box[0]).astype(int)
    points, box = points + offset, (box + offset).reshape(4)
    image_wh = np.array(photo.shape[1::-1])
    inside = ((points >= -0.5) & (points <= image_wh - 0.5)).all(axis=1)
    clipped = np.clip(box, 0, np.tile(image_wh, 2))
    share = np.prod(clipped[2:] - clipped[:2]) / np.prod(box[2:] - box[:2])
    return Layer(
        person,
        _placed(alpha, offset, photo.shape[:2]),
        _placed(pixels, offset, photo.shape[:2]),
        float((alpha > 0.5).sum()),
        points,
        np.where(inside, visibility, 0),
        clipped,
        float(source.data.annotations.persons.area[person] * np.prod(zoom_xy) * share),
        float(source.heights[person] * zoom),
        int((source.visibility[person] > 0).sum()),
        weights,
    )


def _placed(part: np.ndarray, offset_xy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Returns an image of `size_hw` that is 0 except for `part` at `offset_xy`, clipped to the image."""
    picture = np.zeros((*size_hw, *part.shape[2:]), np.float32)
    low, high = np.maximum(offset_xy, 0), np.minimum(offset_xy + part.shape[1::-1], size_hw[::-1])
    if (high > low).all():
        (left, top), (right, bottom) = low - offset_xy, high - offset_xy
        picture[low[1] : high[1], low[0] : high[0]] = part[top:bottom, left:right]
    return picture


def in_light_of(pixels: np.ndarray, own_photo: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Returns float32 pixels of a photo, adapted to the brightness, tint and contrast of another photo."""
    (own_mean, own_std), (mean, std) = (cv2.meanStdDev(picture) for picture in (own_photo, photo))
    gain = np.clip((std.mean() / max(own_std.mean(), 1.0)) ** _ADAPTATION, 0.8, 1.25)
    shift = np.clip(_ADAPTATION * (mean - own_mean), -35, 35).reshape(3)
    own_mean = own_mean.reshape(3)
    pixels = (pixels - own_mean) * gain + own_mean + shift
    if np.abs(photo[::4, ::4].astype(int) - photo[::4, ::4, 1:2]).mean() < _GREY:
        pixels = np.repeat(pixels @ np.array([[0.3], [0.59], [0.11]]), 3, axis=2)
    return np.clip(pixels, 0, 255).astype(np.float32)


def covers_of(layers: list[Layer]) -> list[np.ndarray]:
    """Returns for each layer the (H, W) mask of the pixels that later layers cover."""
    covers = [np.zeros(layers[0].alpha.shape, bool)]
    for layer in layers[:0:-1]:
        covers.append(covers[-1] | (layer.alpha > 0.5))
    return covers[::-1]


def _hidden(layer: Layer, cover: np.ndarray) -> np.ndarray:
    """Returns a (K,) mask of the covered joints: most of the 3x3 pixels around them are covered."""
    return pixels_around(cover, layer.keypoints_xy).mean(axis=1) > 0.5


def shows(layer: Layer, cover: np.ndarray) -> bool:
    """Returns whether enough pixels and joints of a person are visible."""
    shown = ((layer.alpha > 0.5) & ~cover).sum() >= _LEAST_SHOWN * layer.total
    joints = ((layer.visibility > 0) & ~_hidden(layer, cover)).sum()
    return bool(shown and joints >= min(_LEAST_JOINTS, layer.labelled))


def rendered(photo: np.ndarray, layers: list[Layer]) -> np.ndarray:
    image, changed = photo.astype(np.float32), False
    for layer in layers:
        if layer.pixels is not None or changed:
            pixels = photo if layer.pixels is None else layer.pixels
            image += layer.alpha[..., None] * (pixels - image)
            changed = True
    return np.rint(image).astype(np.uint8)


def annotations_of(source: Cutouts, layers: list[Layer]) -> list[dict]:
    """Returns the COCO annotations of the visible people."""
    covers = covers_of(layers)
    return [
        _annotation(layer, cover, bool(source.data.annotations.persons.is_crowd[layer.person]))
        for layer, cover in zip(layers, covers, strict=True)
        if shows(layer, cover)
    ]


def _annotation(layer: Layer, cover: np.ndarray, is_crowd: bool) -> dict:
    from pycocotools import mask as rle

    shown = (layer.alpha > 0.5) & ~cover
    counts = rle.encode(np.asfortranarray(shown.astype(np.uint8)))["counts"].decode("ascii")
    visibility = np.where(_hidden(layer, cover), np.minimum(layer.visibility, 1), layer.visibility)
    xy = np.where(visibility[:, None] > 0, np.round(layer.keypoints_xy, 2), 0.0)
    x, y, right, bottom = layer.box_xyxy.tolist()
    scores = np.where(visibility > 0, layer.weights, 0.0).round(4).tolist()
    return {
        "category_id": 1,
        "iscrowd": int(is_crowd),
        "keypoints": [value for (x, y), v in zip(xy.tolist(), visibility.tolist(), strict=True) for value in (x, y, v)],
        "num_keypoints": int((visibility > 0).sum()),
        "segmentation": {"size": list(shown.shape), "counts": counts} if shown.any() else [],
        "area": round(layer.area, 2),
        "bbox": [round(value, 2) for value in (x, y, right - x, bottom - y)],
        **({"keypoint_scores": scores} if (layer.weights != 1).any() else {}),
    }
