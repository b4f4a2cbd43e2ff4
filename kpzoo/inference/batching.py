"""Batches crops across images, and prepares the next batch while the network runs."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import tensorflow as tf

from kpzoo import crops, geometry, keras_setup
from kpzoo.errors import UserError
from kpzoo.inference.pictures import Picture, Pictures

_WAITING_PIXELS = 100_000_000  # in images that wait for a full batch; above it the batch is run as it is

Boxes = tuple[np.ndarray, np.ndarray]  # (P, 4) in image pixels, (P,) scores
NO_BOXES = np.zeros((0, 4)), np.zeros(0)
Detect = Callable[[np.ndarray, int | str], Boxes]


@dataclass(eq=False)
class BoxedPicture:
    """An image with its person boxes, and the network's outputs for them so far.

    Args:
        picture: The image.
        boxes_xywh: (P, 4) in image pixels.
        box_scores: (P,).
        outputs: Keypoints (n, N, K, 2) in image pixels and scores (n, N, K) per batch, in the order of the boxes; of
            models with a confidence also covariances (n, N, K, 2, 2) in image pixels² and pose scores (n, N).
    """

    picture: Picture
    boxes_xywh: np.ndarray
    box_scores: np.ndarray
    outputs: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return sum(len(scores) for _, scores, *_ in self.outputs) == len(self.boxes_xywh)


@dataclass(eq=False)
class Batch:
    """Crops of any number of images.

    Args:
        started: The images that were read since the last batch, including those without boxes.
        pieces: (image, (n, H, W, 3) float32 crops, (n, 2, 3) transforms from crop to image) in order.
    """

    started: list[BoxedPicture] = field(default_factory=list)
    pieces: list[tuple[BoxedPicture, tf.Tensor, np.ndarray]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(maps) for *_, maps in self.pieces)

    @property
    def num_pixels(self) -> int:
        images = [boxed.picture.image for boxed in self.started]
        return sum(image.shape[0] * image.shape[1] for image in images if image is not None)


def with_boxes(source: Pictures, boxes_xywh, detect: Detect | None) -> Iterator[BoxedPicture]:
    """Yields images with their boxes, which are given or detected.

    Args:
        source: The images.
        boxes_xywh: (P, 4) boxes for every image; a list with one (P, 4) array per image; None to detect them.
        detect: Returns the boxes and scores in an image, given the image and its key. Unused if boxes are given.
    """
    each = _for_each(boxes_xywh)
    if each is not None and len(each) != len(source):
        raise UserError(f"`boxes_xywh=` must be {len(source)} arrays (P, 4). Received: a list of {len(each)}.")
    shared = checked_boxes(boxes_xywh) if boxes_xywh is not None and each is None else None
    for index, picture in enumerate(source):
        if picture.image is None:
            yield BoxedPicture(picture, *NO_BOXES)
        elif boxes_xywh is not None:
            given = inside(shared if each is None else each[index], picture)
            yield BoxedPicture(picture, given, np.ones(len(given)))
        else:
            yield BoxedPicture(picture, *detect(picture.image, picture.key))


def shared_boxes(boxes_xywh) -> np.ndarray | None:
    """Returns the (P, 4) boxes for every frame of a video, None to detect them."""
    if (each := _for_each(boxes_xywh)) is not None:
        raise UserError(f"`boxes_xywh=` must be one (P, 4) array for a video. Received: a list of {len(each)}.")
    return None if boxes_xywh is None else checked_boxes(boxes_xywh)


def inside(boxes_xywh: np.ndarray, picture: Picture) -> np.ndarray:
    """Returns the boxes that overlap the image, with a warning about others."""
    height, width = picture.image.shape[:2]
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    inside = (high > 0).all(axis=1) & (low < (width, height)).all(axis=1)
    if not inside.all():
        count = f"{(~inside).sum()} of {len(inside)} boxes"
        warnings.warn(f"{count} are outside the image {picture.name!r} and are ignored.", stacklevel=2)
    return boxes_xywh[inside]


def _for_each(boxes_xywh) -> list[np.ndarray] | None:
    """Returns the boxes of each image if `boxes_xywh` is a list of (P, 4) arrays, else None."""
    if boxes_xywh is None or not isinstance(boxes_xywh, list | tuple):
        return None
    if not any(np.ndim(boxes) == 2 for boxes in boxes_xywh):
        return None
    return [checked_boxes(boxes) for boxes in boxes_xywh]


def checked_detections(detector, boxes_xywh, scores) -> Boxes:
    """Returns the boxes and scores of one image, given the return value of `detector.detect` for a list of one."""
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
    """Returns boxes as (P, 4) float64; the error names the first invalid box."""
    boxes = np.asarray(boxes_xywh, np.float64)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else np.atleast_2d(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"{name} must have shape (P, 4): x, y, width, height. Received: shape {boxes.shape}.")
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] <= 0).any(axis=1))
    if len(bad):
        raise UserError(
            f"Box {bad[0]} of {name} must be finite with a width and a height above 0. "
            f"Received: {boxes[bad[0]].tolist()}. Boxes are x, y, width, height in pixels, not corners."
        )
    return boxes


def batches(
    pictures: Iterable[BoxedPicture],
    rule: geometry.CropRule,
    image_hw: tuple[int, int],
    batch_size: int,
    live: bool = False,
) -> Iterator[Batch]:
    """Yields full batches, except for the last batch and where too many images would have to wait.

    Args:
        pictures: Images with boxes.
        rule: How boxes are padded, and the fill color outside of the image.
        image_hw: (height, width) of a crop.
        batch_size: Crops per batch.
        live: Whether to yield a batch after each image, as for a webcam.
    """
    keras_setup.check_process()
    if not 1 <= batch_size <= geometry.MAX_CROPS:
        raise UserError(f"`batch_size=` must be 1 to {geometry.MAX_CROPS}. Received: {batch_size}.")
    cut, batch = cropper(image_hw, rule.fill_rgb), Batch()
    for one in pictures:
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
    """Returns a function from a (H, W, 3) image and (P, 2, 3) crop-to-image transforms to (P, *image_hw, 3) crops."""
    spec = [tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((None, 2, 3), tf.float32)]
    crop = tf.TensorSpec((*image_hw, 3), tf.float32)

    @tf.function(input_signature=spec)
    def cut(image, maps):
        def one(crop_to_image):
            return crops.crop(image, crop_to_image, image_hw, fill_rgb)

        return tf.map_fn(one, maps, fn_output_signature=crop, parallel_iterations=4)

    return cut


def prefetched(items: Iterable) -> Iterator:
    """Yields the items while a thread prepares the next one. Exceptions of the thread are raised here."""
    iterator, end, pool = iter(items), object(), ThreadPoolExecutor(1)
    try:
        upcoming = pool.submit(next, iterator, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, iterator, end)
            yield item
    finally:
        # Do not wait: the garbage collector may run this in any thread, where joining could deadlock.
        pool.shutdown(wait=False, cancel_futures=True)
