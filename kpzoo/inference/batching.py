"""Pictures and their boxes to one stream of full batches of crops, made while the network is busy with the last one."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import tensorflow as tf

from kpzoo import crops, geometry
from kpzoo.errors import UserError
from kpzoo.inference.pictures import Picture, Pictures, Video

_WAITING_PIXELS = 100_000_000  # of pictures that wait for their batch to fill up: then it goes as it is

Boxes = tuple[np.ndarray, np.ndarray]  # (P, 4) in image pixels, (P,) scores
Detect = Callable[[np.ndarray, int | str], Boxes]


@dataclass(eq=False)
class Looked:
    """A picture with the boxes to look into, and the answers of the network so far.

    Args:
        picture: The picture.
        boxes_xywh: (P, 4) in image pixels.
        box_scores: (P,).
        answers: Keypoints (n, N, K, 2) in image pixels and scores (n, N, K), in the order of the boxes.
    """

    picture: Picture
    boxes_xywh: np.ndarray
    box_scores: np.ndarray
    answers: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return sum(len(scores) for _, scores in self.answers) == len(self.boxes_xywh)


@dataclass(eq=False)
class Batch:
    """Crops of any number of pictures.

    Args:
        started: The pictures that came up since the last batch, those without a box included.
        pieces: (picture, (n, H, W, 3) float32 crops, (n, 2, 3) maps from crop to image) in turn.
    """

    started: list[Looked] = field(default_factory=list)
    pieces: list[tuple[Looked, tf.Tensor, np.ndarray]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(maps) for *_, maps in self.pieces)

    @property
    def num_pixels(self) -> int:
        images = [looked.picture.image for looked in self.started]
        return sum(image.shape[0] * image.shape[1] for image in images if image is not None)


def with_boxes(source: Pictures | Video, boxes_xywh, detect: Detect | None, every: int) -> Iterator[Looked]:
    """Yields the pictures of a source with their boxes: given ones, or else what the detector finds.

    Args:
        source: Pictures or a video.
        boxes_xywh: None; (P, 4) for every picture; or a list with (P, 4) for each picture.
        detect: Returns the boxes of a picture and its key; not called where boxes are given.
        every: The detector looks at every so many frames of a video; those between have the boxes of the last one.
    """
    if every > 1 and not isinstance(source, Video):
        raise UserError(f"Only a video's frames can share boxes: `every=` must be 1 for pictures. Received: {every}.")
    each = _for_each(boxes_xywh)
    if each is not None and (isinstance(source, Video) or len(each) != len(source)):
        wanted = "one (P, 4) array for a video" if isinstance(source, Video) else f"{len(source)} arrays (P, 4)"
        raise UserError(f"`boxes_xywh=` must be {wanted}. Received: a list of {len(each)}.")
    shared = checked_boxes(boxes_xywh) if boxes_xywh is not None and each is None else None
    found = no_boxes = np.zeros((0, 4)), np.zeros(0)
    for index, picture in enumerate(source):
        if picture.image is None:
            yield Looked(picture, *no_boxes)
            continue
        if boxes_xywh is not None:
            given = _inside(shared if each is None else each[index], picture)
            found = given, np.ones(len(given))
        elif index % every == 0:
            found = detect(picture.image, picture.key)
        yield Looked(picture, *found)


def _inside(boxes_xywh: np.ndarray, picture: Picture) -> np.ndarray:
    """Returns the boxes that touch the picture."""
    height, width = picture.image.shape[:2]
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    inside = (high > 0).all(axis=1) & (low < (width, height)).all(axis=1)
    if not inside.all():
        count = f"{(~inside).sum()} of {len(inside)} boxes lie"
        warnings.warn(f"{count} wholly outside of picture {picture.name!r} and are left out.", stacklevel=2)
    return boxes_xywh[inside]


def _for_each(boxes_xywh) -> list[np.ndarray] | None:
    """Returns the boxes of each picture, where a list of (P, 4) is given."""
    if boxes_xywh is None or not isinstance(boxes_xywh, list | tuple):
        return None
    if not any(np.ndim(boxes) == 2 for boxes in boxes_xywh):
        return None
    return [checked_boxes(boxes) for boxes in boxes_xywh]


def checked_detections(detector, boxes_xywh, scores) -> Boxes:
    """Returns the boxes and scores of one picture from what `detector.detect` returned for a list of one picture."""
    name = f"{type(detector).__name__}.detect"
    if len(boxes_xywh) != 1 or len(scores) != 1:
        raise UserError(
            f"`{name}` must return two lists with one entry per image: (P, 4) boxes and (P,) scores. "
            f"Received for 1 image: lists of {len(boxes_xywh)} and {len(scores)}."
        )
    boxes, scores = checked_boxes(boxes_xywh[0], f"the boxes of `{name}`"), np.asarray(scores[0], np.float64)
    if scores.shape != (len(boxes),):
        raise UserError(f"`{name}` must return one score per box. Received: {len(boxes)} boxes, scores {scores.shape}.")
    return boxes, scores


def checked_boxes(boxes_xywh, name: str = "`boxes_xywh=`") -> np.ndarray:
    """Returns boxes as (P, 4) float64, or names the first that cannot be one."""
    boxes = np.asarray(boxes_xywh, np.float64)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else np.atleast_2d(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"{name} must have shape (P, 4): x, y, width, height. Received: shape {boxes.shape}.")
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] <= 0).any(axis=1))
    if len(bad):
        raise UserError(
            f"Box {bad[0]} of {name} must be finite with a width and a height above 0. "
            f"Received: {boxes[bad[0]].tolist()}. Boxes are x, y, width, height in pixels, not two corners."
        )
    return boxes


def batches(
    looked: Iterable[Looked], rule: geometry.CropRule, image_hw: tuple[int, int], batch_size: int, live: bool = False
) -> Iterator[Batch]:
    """Yields batches that are full, but for the last one and where many pixels would have to wait for theirs.

    Args:
        looked: Pictures with boxes.
        rule: How boxes grow, and what is outside of the picture.
        image_hw: (height, width) of a crop.
        batch_size: Crops in a batch.
        live: Whether the boxes of one picture must not wait for those of the next.
    """
    if not 1 <= batch_size <= geometry.MAX_CROPS:
        raise UserError(f"`batch_size=` must be 1 to {geometry.MAX_CROPS}. Received: {batch_size}.")
    cut, batch = cropper(image_hw, rule.fill_rgb), Batch()
    for one in looked:
        batch.started.append(one)
        views = geometry.views(one.boxes_xywh, rule, image_hw)
        maps = geometry.crop_to_image(views, image_hw).astype(np.float32)
        while len(maps):
            part, maps = np.split(maps, [batch_size - len(batch)])
            batch.pieces.append((one, cut(one.picture.image, part), part))
            if len(batch) == batch_size:
                yield batch
                batch = Batch()
        if live or len(batch.started) > 2 * batch_size or batch.num_pixels > _WAITING_PIXELS:
            yield batch
            batch = Batch()
    yield batch


@lru_cache(maxsize=4)
def cropper(image_hw: tuple[int, int], fill_rgb: Sequence[float]):
    """Returns a function from a (H, W, 3) picture and (P, 2, 3) maps to its (P, *image_hw, 3) crops."""
    spec = [tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((None, 2, 3), tf.float32)]
    crop = tf.TensorSpec((*image_hw, 3), tf.float32)

    @tf.function(input_signature=spec)
    def cut(image, maps):
        def one(crop_to_image):
            return crops.crop(image, crop_to_image, image_hw, fill_rgb)

        return tf.map_fn(one, maps, fn_output_signature=crop, parallel_iterations=4)

    return cut


def ahead(items: Iterable) -> Iterator:
    """Yields the items, the next of which a thread makes meanwhile; what it raises is raised here."""
    iterator, end, pool = iter(items), object(), ThreadPoolExecutor(1)
    try:
        upcoming = pool.submit(next, iterator, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, iterator, end)
            yield item
    finally:
        # Without waiting: the garbage collector closes what was left, in any thread, and joining there could hang.
        pool.shutdown(wait=False, cancel_futures=True)
