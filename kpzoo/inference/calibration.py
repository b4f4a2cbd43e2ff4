"""Crops of a user's own people, with which int8 networks are calibrated."""

from collections.abc import Iterable

import numpy as np

from kpzoo.errors import UserError
from kpzoo.inference import batching, detectors
from kpzoo.inference.pictures import Pictures, open_source
from kpzoo.pose_model import PoseModel, Preset

NUM_CROPS = 64
_LEAST = 8


def calibration_crops(
    model: PoseModel, source, boxes_xywh=None, *, detector=None, num_crops: int = NUM_CROPS
) -> np.ndarray:
    """Returns crops of people for `kpzoo.accelerate(precision="int8", calibration=crops)`.

    Args:
        model: Any model of the zoo.
        source: A folder, a list of images or a video file, see `Predictor.stream`. Its images must be like those of
            later predictions; it is read up to the crop that completes the number.
        boxes_xywh: (P, 4) person boxes in image pixels, or a list with one array per image; None runs the detector.
        detector: See `Predictor`.
        num_crops: Largest number of crops.

    Returns:
        (n, H, W, 3) float32 crops, 0 … 255.

    Raises:
        UserError: If there are fewer than 8 people, or the source is a webcam or a stream.
    """
    opened = open_source(source)
    if getattr(opened, "live", False):
        raise UserError("int8 is calibrated with images that can be read again, not with a webcam or a stream.")
    finder = None if boxes_xywh is not None else detectors.get(detectors.DEFAULT if detector is None else detector)

    def detect(image, key):
        return batching.checked_detections(finder, *finder.detect([image], [key]))

    return first_crops(batching.with_boxes(opened, boxes_xywh, detect), model.preset, num_crops)


def spread_crops(
    preset: Preset, image_paths: list[str], boxes_xywh: np.ndarray, num_crops: int = NUM_CROPS
) -> np.ndarray:
    """Returns crops of boxes that are spread evenly over all; the arguments are those of `predict_boxes`."""
    rows = np.unique(np.linspace(0, len(boxes_xywh) - 1, min(num_crops, len(boxes_xywh))).round().astype(int))
    paths = [str(image_paths[row]) for row in rows]
    opened = zip(Pictures(paths, apply_exif=False), rows, strict=True)
    return first_crops(
        (batching.BoxedPicture(picture, boxes_xywh[[row]], np.ones(1)) for picture, row in opened), preset, num_crops
    )


def first_crops(boxed: Iterable[batching.BoxedPicture], preset: Preset, num_crops: int) -> np.ndarray:
    """Returns the crops of the first boxes as (n, H, W, 3)."""
    found = []
    for batch in batching.batches(boxed, preset.rules.crop, preset.image_hw, 1):
        found += [cut.numpy() for _, cut, _ in batch.pieces]
        if len(found) == num_crops:
            break
    if len(found) < _LEAST:
        raise UserError(f"int8 is calibrated with crops of at least {_LEAST} people. Found: {len(found)}.")
    return np.concatenate(found)
