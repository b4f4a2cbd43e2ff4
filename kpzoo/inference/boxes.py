"""The base class of person detectors, and detectors that do not analyze the image.

A detector is any object with a method `detect`. Detectors that analyze the image are in `kpzoo.inference.detectors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kpzoo.data.image_names import ImageNames, parts_of
from kpzoo.data.json_file import read_json
from kpzoo.data.results import none_of_category, plain_category
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
            image_ids: Ids of a data set, or files. Only `BoxFile` needs them.

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

    Entries with a `file_name`, as kpzoo writes them, belong to the image of that name, others to the image whose number
    or name is `image_id`; see `kpzoo.data.image_names`.

    Args:
        path: The JSON file, which may be gzipped. `bbox` is x, y, width, height in image pixels, `score` is 1.0 if it
            is missing.
        category_id: Id or name of the category to read, 1 for COCO's person. Entries without a category are read, too.
    """

    path: str | Path
    category_id: int | str = 1

    def find(self, image_rgb, image_id):
        if image_id is None:
            raise UserError(f"{str(self.path)!r} lists boxes by image id.", "Pass `image_ids=` with the images.")
        rows = self._content.rows
        if isinstance(image_id, str):
            place = self._content.names.find(image_id)
            if place == ImageNames.SEVERAL:
                named = [self._content.names.names[one] for one in self._content.names.all(image_id)[:3]]
                raise UserError(
                    f"{self.path} has boxes of {named}, of which each may be the image {image_id!r}. Call the image by "
                    "its folder and name."
                )
        else:
            place = self._content.numbers.get(int(image_id), ImageNames.NONE)
        found = rows[place] if place != ImageNames.NONE else np.zeros((0, 5))
        return found[:, :4], found[:, 4]

    def check(self, image_ids: Sequence[int | str]) -> None:
        """Raises an error if no box belongs to the images, none passes the filters, or two images may have the same.

        Args:
            image_ids: What all images are called.
        """
        names, content = [str(one) for one in image_ids if isinstance(one, str)], self._content
        images = ImageNames(names)
        owners: dict[int, str] = {}
        for name in names:
            place = content.names.find(name)
            if place >= 0 and owners.setdefault(place, name) != name:
                named, folder = content.names.names[place], "/".join(Path(name).with_suffix("").parts[-2:])
                raise UserError(
                    f"{self.path} has boxes of {named!r}, which may be {owners[place]!r} or {name!r}. Name the images "
                    f"in the file with their folders, such as {folder!r}."
                )
        known = set(owners) | {content.numbers[one] for one in image_ids if one in content.numbers}
        if content.rows and image_ids and not known:
            named = content.names.names[0]
            near = [images.names[place] for place in images.all(parts_of(named)[-1])][:1]
            told = f"; {near[0]!r} is in another folder than {named!r}" if near else ""
            raise UserError(
                f"{self.path} has boxes of none of the {len(image_ids)} images. Received boxes of {named!r}, expected "
                f"of {str(image_ids[0])!r}{told}."
            )
        rows = np.concatenate([np.zeros((0, 5)), *(content.rows[place] for place in known)])
        scores, sides = rows[:, 4], rows[:, 2:4].min(axis=1)
        if len(rows) and not ((scores >= self.min_score) & (sides >= self.min_size)).any():
            raise UserError(
                f"{self.path} has {len(rows)} boxes of the images, none with a score of {self.min_score:g} and sides "
                f"of {self.min_size:g} pixels or more. The highest score is {scores.max():g}, the longest shorter side "
                f"{sides.max():g}.",
                "Lower `min_score=`.",
            )

    @cached_property
    def _content(self) -> "_Content":
        path = Path(self.path).expanduser()
        entries = read_json(path)
        if not isinstance(entries, list):
            received = f"Received: {type(entries).__name__}"
            raise UserError(f"{path} must be a list of boxes in COCO's results format. {received}.")
        rows: dict[int | str, list] = {}
        numbers, others = {}, {}
        for index, entry in enumerate(entries):
            try:
                category = plain_category(entry.get("category_id", self.category_id))
                if category != plain_category(self.category_id):
                    others.setdefault(category, index)
                    continue
                row = np.array([*entry["bbox"], entry.get("score", 1.0)], float)
                name = _name(entry)
                rows.setdefault(name, []).append(row)
                if (number := _number(entry, name)) is not None:
                    numbers.setdefault(number, name)
                fault = _row_fault(row)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                fault = f"{type(error).__name__}: {error}"
            if fault:
                expected = "Expected image_id, bbox [x, y, width, height], score"
                raise UserError(f"{path}: entry [{index}] is not a valid box. {fault}. {expected}.")
        if entries and not rows:
            raise none_of_category(path, "boxes", len(entries), self.category_id, list(others), "category_id")
        places = {name: place for place, name in enumerate(rows)}
        return _Content(
            ImageNames(list(rows)),
            {number: places[name] for number, name in numbers.items()},
            [np.stack(found) for found in rows.values()],
        )


class _Content(NamedTuple):
    """The content of a file of boxes.

    Args:
        names: What the images are called.
        numbers: The places of images that have a number.
        rows: For each image the (n, 5) boxes and scores.
    """

    names: ImageNames
    numbers: dict[int, int]
    rows: list[np.ndarray]


def _name(entry: dict) -> str:
    """Returns what an entry calls its image: the same for all of its boxes, whether as 785 or as "000000000785"."""
    name = entry.get("file_name")
    return name if isinstance(name, str) and name else "/".join(parts_of(entry["image_id"]))


def _number(entry: dict, name: str) -> int | None:
    """Returns the number of an entry's image: of a frame of a video its name, else `image_id`."""
    number = name if name.isascii() and name.isdigit() else entry.get("image_id")
    return int(number) if isinstance(number, int) or (isinstance(number, str) and number.isdecimal()) else None


def _row_fault(row: np.ndarray) -> str | None:
    if row.shape != (5,) or not np.isfinite(row).all():
        return f"Received: {row.tolist()}"
    if (row[2:4] < 0).any():
        return f"The size is negative: {row[2:4].tolist()}"
    return None if 0 <= row[4] <= 1 else f"The score {row[4]} is not in 0 … 1"
