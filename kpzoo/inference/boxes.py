"""What all detectors share: pictures in, clipped boxes with scores out, best first; and those that need no look.

A detector is anything with a method `detect`; those that look into the picture are in `kpzoo.inference.detectors`.
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
    """What all detectors share: checking pictures, clipping boxes, and keeping the best.

    A class of your own needs `detect` alone; one derived from this needs `find`.

    Args:
        min_score: Boxes below it are dropped.
        min_size: Boxes with a side below it, in image pixels, are dropped.
        max_boxes: So many of the best are kept in a picture.
        suppression: What is done about boxes that overlap a better one, beside what the detector does itself: "hard"
            removes them, "linear" and "gaussian" lower their scores (see `nms.soft_box_nms`); None is nothing.
        max_iou: The overlap above which "hard" and "linear" act.
        sigma: How gentle "gaussian" is: scores are multiplied by exp(-IoU² / sigma).
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
        """Finds people.

        Args:
            images: (H, W, 3) RGB arrays in 0..255, or files.
            image_ids: What the pictures are called: ids of a data set, or file names without folder and suffix. Only a
                `BoxFile` needs them.

        Returns:
            A list of (P, 4) boxes in image pixels and a list of (P,) scores in 0..1, best first; P may be 0.
        """
        if image_ids is not None and len(image_ids) != len(images):
            raise UserError(f"Expected an id for each picture. Received: {len(images)} pictures, {len(image_ids)} ids.")
        found, ids = [], [None] * len(images) if image_ids is None else image_ids
        for start in range(0, len(images), AT_ONCE):
            pictures = [as_image(image) for image in images[start : start + AT_ONCE]]
            for picture, (boxes_xywh, scores) in zip(
                pictures, self.find_all(pictures, ids[start : start + AT_ONCE]), strict=True
            ):
                found.append(self._best(np.asarray(boxes_xywh, float), np.asarray(scores, float), picture.shape[:2]))
        return [boxes for boxes, _ in found], [scores for _, scores in found]

    def find_all(self, images_rgb: Sequence[np.ndarray], image_ids: Sequence[int | str | None]) -> list[tuple]:
        """Returns what `find` returns of each picture; detectors that look at several at a time have their own."""
        return [self.find(image, image_id) for image, image_id in zip(images_rgb, image_ids, strict=True)]

    def find(self, image_rgb: np.ndarray, image_id: int | str | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns all candidates in one picture: (P, 4) boxes in image pixels, (P,) scores."""
        raise UserError(f"{type(self).__name__} needs a method `find(image_rgb, image_id)` -> (boxes_xywh, scores).")

    def _best(self, boxes_xywh: np.ndarray, scores: np.ndarray, image_hw: tuple[int, int]):
        low = np.clip(boxes_xywh[:, :2], 0, image_hw[::-1])
        with np.errstate(invalid="ignore"):  # what is not finite goes below
            high = np.clip(boxes_xywh[:, :2] + boxes_xywh[:, 2:], 0, image_hw[::-1])
        boxes_xywh = np.concatenate([low, high - low], axis=1)
        keep = np.isfinite(boxes_xywh).all(1) & (scores >= self.min_score)  # NaN is neither above nor below
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
            raise unknown("suppression of boxes", self.suppression, ["hard", "linear", "gaussian"])
        least = max(self.min_score, 0.001)
        options = dict(threshold=self.max_iou, sigma=self.sigma, min_score=least)
        keep, scores = soft_box_nms(boxes_xywh, scores, self.suppression, **options)
        return boxes_xywh[keep], scores


@dataclass(frozen=True)
class WholeImage(Detector):
    """One box, the whole picture, with score 1: for pictures of one person, or of few for a MIPNet."""

    def find(self, image_rgb, image_id):
        return np.array([[0.0, 0.0, image_rgb.shape[1], image_rgb.shape[0]]]), np.ones(1)


@dataclass(frozen=True)
class BoxFile(Detector):
    """Boxes that a detector wrote before, in COCO's results format: a list of {image_id, bbox, score, category_id}.

    Args:
        path: The JSON file, gzipped or not. `bbox` is x, y, width, height in image pixels; without `score` it is 1.0;
            entries of other categories than `category_id` are left out.
        category_id: COCO's person is 1.
    """

    path: str | Path
    category_id: int = 1

    def find(self, image_rgb, image_id):
        if image_id is None:
            raise UserError(
                f"The boxes of {str(self.path)!r} belong to image ids.", "Pass `image_ids=` with the pictures."
            )
        rows = self._rows.get(_id_key(image_id), np.zeros((0, 5)))
        return rows[:, :4], rows[:, 4]

    def knows(self, image_ids: Sequence[int | str]) -> bool:
        """Returns whether any of these pictures has boxes; if none has, the file belongs to other pictures."""
        return any(_id_key(image_id) in self._rows for image_id in image_ids)

    @cached_property
    def _rows(self) -> Mapping[str, np.ndarray]:
        entries = read_json(self.path)
        if not isinstance(entries, list):
            received = f"Received: {type(entries).__name__}"
            raise UserError(f"{self.path} is no list of boxes in COCO's results format. {received}.")
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
                raise UserError(f"{self.path}: entry [{index}] is no box. {fault}. {expected}.")
        return {key: np.stack(found) for key, found in rows.items()}


def _id_key(image_id: int | str) -> str:
    """Returns one key for 785, "785" and the file name "000000000785"."""
    text = str(image_id)
    return text.lstrip("0") or "0" if text.isdigit() else text


def _row_fault(row: np.ndarray) -> str | None:
    if row.shape != (5,) or not np.isfinite(row).all():
        return f"Received the numbers {row.tolist()}"
    if (row[2:4] < 0).any():
        return f"Its size is negative: {row[2:4].tolist()}"
    return None if 0 <= row[4] <= 1 else f"Its score {row[4]} is not in 0..1"
