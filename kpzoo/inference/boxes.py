"""The base class of person detectors, and detectors that do not analyze the image.

A detector is any object with a method `detect`. Detectors that analyze the image are in `kpzoo.inference.detectors`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kpzoo.data.json_file import read_json
from kpzoo.errors import UserError, unknown
from kpzoo.images import as_image
from kpzoo.nms import box_nms, soft_box_nms

AT_ONCE = 8  # pictures that are held in memory


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Base class of detectors: checks the images, clips the boxes, and selects the best.

    Subclasses implement `find`. A detector that does not derive from this class needs a method `detect` only.

    Args:
        min_score: Minimum box score.
        min_size: Minimum width and height of a box, in image pixels.
        max_boxes: Maximum number of boxes per image, those with the highest scores.
        suppression: Non-maximum suppression in addition to the detector's own: "hard" removes boxes that overlap one
            with a higher score, "linear" and "gaussian" lower their scores (see `nms.soft_box_nms`). None disables it.
        max_iou: IoU threshold of "hard" and "linear".
        sigma: Width of "gaussian": scores are multiplied by exp(-IoU² / sigma).

    >>> class LeftHalf(Detector):
    ...     def find(self, image_rgb, image_id):
    ...         height, width = image_rgb.shape[:2]
    ...         return np.array([[0, 0, width / 2, height]]), np.ones(1)
    >>> boxes_xywh, scores = LeftHalf().detect([np.zeros((60, 80, 3), np.uint8)])
    >>> boxes_xywh
    [array([[ 0.,  0., 40., 60.]])]
    """

    min_score: float = 0.0
    min_size: float = 1.0
    max_boxes: int = 100
    suppression: str | None = None
    max_iou: float = 0.5
    sigma: float = 0.5

    def detect(
        self, images: Sequence[np.ndarray | str | Path], image_ids: Sequence[int | str] | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns the person boxes in images.

        Args:
            images: (H, W, 3) RGB arrays with values 0 … 255, or files.
            image_ids: Ids of a data set, or file names without folder and suffix. Only `BoxFile` needs them.

        Returns:
            A list with (P, 4) boxes in image pixels per image and a list with (P,) scores in 0 … 1 per image, highest
            score first. P may be 0.

        Raises:
            UserError: If an image cannot be read, or the number of ids and images differs.
        """
        if image_ids is not None and len(image_ids) != len(images):
            raise UserError(f"Expected one id per image. Received: {len(images)} images, {len(image_ids)} ids.")
        found, ids = [], [None] * len(images) if image_ids is None else image_ids
        for start in range(0, len(images), AT_ONCE):
            pictures = [as_image(image) for image in images[start : start + AT_ONCE]]
            for picture, (boxes_xywh, scores) in zip(
                pictures, self.find_all(pictures, ids[start : start + AT_ONCE]), strict=True
            ):
                found.append(self._best(np.asarray(boxes_xywh, float), np.asarray(scores, float), picture.shape[:2]))
        return [boxes for boxes, _ in found], [scores for _, scores in found]

    def find_all(self, images_rgb: Sequence[np.ndarray], image_ids: Sequence[int | str | None]) -> list[tuple]:
        """Returns the result of `find` for each image; detectors that process several images at a time override it."""
        return [self.find(image, image_id) for image, image_id in zip(images_rgb, image_ids, strict=True)]

    def find(self, image_rgb: np.ndarray, image_id: int | str | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns all candidates in one image: (P, 4) boxes in image pixels, (P,) scores."""
        signature = "`find(image_rgb, image_id)`, returning (boxes_xywh, scores)"
        raise UserError(f"{type(self).__name__} must implement {signature}.")

    def _best(self, boxes_xywh: np.ndarray, scores: np.ndarray, image_hw: tuple[int, int]):
        low = np.clip(boxes_xywh[:, :2], 0, image_hw[::-1])
        with np.errstate(invalid="ignore"):  # boxes that are not finite are removed below
            high = np.clip(boxes_xywh[:, :2] + boxes_xywh[:, 2:], 0, image_hw[::-1])
        boxes_xywh = np.concatenate([low, high - low], axis=1)
        keep = np.isfinite(boxes_xywh).all(1) & (scores >= self.min_score)  # False for NaN
        keep = np.flatnonzero(keep & (boxes_xywh[:, 2:].min(1) >= self.min_size))
        boxes_xywh, scores = self._suppressed(boxes_xywh[keep], scores[keep])
        keep = np.argsort(-scores, kind="stable")[: self.max_boxes]
        return boxes_xywh[keep], scores[keep]

    def _suppressed(self, boxes_xywh: np.ndarray, scores: np.ndarray):
        if self.suppression is None:
            return boxes_xywh, scores
        if self.suppression == "hard":
            keep = box_nms(boxes_xywh, scores, self.max_iou)
            return boxes_xywh[keep], scores[keep]
        if self.suppression not in ("linear", "gaussian"):
            raise unknown("box suppression", self.suppression, ["hard", "linear", "gaussian"])
        least = max(self.min_score, 0.001)
        options = dict(threshold=self.max_iou, sigma=self.sigma, min_score=least)
        keep, scores = soft_box_nms(boxes_xywh, scores, self.suppression, **options)
        return boxes_xywh[keep], scores


@dataclass(frozen=True)
class WholeImage(Detector):
    """One box with score 1, the whole image: for images of one person, or of a few with a MIPNet."""

    def find(self, image_rgb, image_id):
        return np.array([[0.0, 0.0, image_rgb.shape[1], image_rgb.shape[0]]]), np.ones(1)


@dataclass(frozen=True)
class BoxFile(Detector):
    """Boxes from a file in COCO's results format: a list of {image_id, bbox, score, category_id}.

    Args:
        path: The JSON file, which may be gzipped. `bbox` is x, y, width, height in image pixels, `score` is 1.0 if it
            is missing, and entries with another `category_id` are ignored.
        category_id: Category id of persons, 1 in COCO.
    """

    path: str | Path
    category_id: int = 1

    def find(self, image_rgb, image_id):
        if image_id is None:
            raise UserError(f"{str(self.path)!r} lists boxes by image id.", "Pass `image_ids=` with the images.")
        rows = self._rows.get(_id_key(image_id), np.zeros((0, 5)))
        return rows[:, :4], rows[:, 4]

    def knows(self, image_ids: Sequence[int | str]) -> bool:
        """Returns whether any of these images has boxes; if none has, the file belongs to other images."""
        return any(_id_key(image_id) in self._rows for image_id in image_ids)

    @cached_property
    def _rows(self) -> Mapping[str, np.ndarray]:
        entries = read_json(self.path)
        if not isinstance(entries, list):
            received = f"Received: {type(entries).__name__}"
            raise UserError(f"{self.path} must be a list of boxes in COCO's results format. {received}.")
        rows = {}
        for index, entry in enumerate(entries):
            try:
                if entry.get("category_id", self.category_id) == self.category_id:
                    row = np.array([*entry["bbox"], entry.get("score", 1.0)], float)
                    rows.setdefault(_id_key(entry["image_id"]), []).append(row)
                    fault = _row_fault(row)
                else:
                    fault = None
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                fault = f"{type(error).__name__}: {error}"
            if fault:
                expected = "Expected image_id, bbox [x, y, width, height], score"
                raise UserError(f"{self.path}: entry [{index}] is not a valid box. {fault}. {expected}.")
        return {key: np.stack(found) for key, found in rows.items()}


def _id_key(image_id: int | str) -> str:
    """Returns the same key for 785, "785" and the file name "000000000785"."""
    text = str(image_id)
    return text.lstrip("0") or "0" if text.isdigit() else text


def _row_fault(row: np.ndarray) -> str | None:
    if row.shape != (5,) or not np.isfinite(row).all():
        return f"Received: {row.tolist()}"
    if (row[2:4] < 0).any():
        return f"The size is negative: {row[2:4].tolist()}"
    return None if 0 <= row[4] <= 1 else f"The score {row[4]} is not in 0 … 1"
