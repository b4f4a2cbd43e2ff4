"""Predictions and detector boxes in COCO's results format: a list with one object per prediction or box."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpzoo.data.annotation_table import places
from kpzoo.data.coco import Annotations
from kpzoo.data.columns import NumberLists, example, numbers, whole_numbers
from kpzoo.data.json_file import read_json
from kpzoo.data.problems import Problem, Problems
from kpzoo.errors import UserError
from kpzoo.files import write_json

PERSON = 1  # COCO's category id, which detectors use


@dataclass(frozen=True, eq=False)
class Results:
    """R predicted poses of several images, in file order, which ranks poses with equal scores.

    Args:
        image_ids: (R,) int64.
        keypoints_image_xy: (R, K, 2) in pixels.
        keypoint_scores: (R, K), the third number of each keypoint in a results file. Not used by metrics.
        scores: (R,) scores of the poses.
        boxes_image_xywh: (R, 4) or None. If given, the area of a pose is that of its box, as in COCO's tools.
        path: Path of the file, "" if there is none.
        problems: Repairs and notes.

    Raises:
        UserError: If shapes do not match, or values are not finite.
    """

    image_ids: np.ndarray
    keypoints_image_xy: np.ndarray
    keypoint_scores: np.ndarray
    scores: np.ndarray
    boxes_image_xywh: np.ndarray | None = None
    path: str = ""
    problems: tuple[Problem, ...] = ()

    def __post_init__(self):
        count, num_keypoints = np.shape(self.keypoint_scores)
        shapes = {"keypoints_image_xy": (count, num_keypoints, 2), "scores": (count,), "image_ids": (count,)}
        if self.boxes_image_xywh is not None:
            shapes["boxes_image_xywh"] = (count, 4)
        for name, shape in {**shapes, "keypoint_scores": (count, num_keypoints)}.items():
            array = np.asarray(getattr(self, name), np.int64 if name == "image_ids" else np.float64)
            if array.shape != shape:
                raise UserError(f"Results need `{name}` of shape {shape}. Received: {array.shape}.")
            if not np.isfinite(array).all():
                bad = int(np.argwhere(~np.isfinite(array))[0][0])
                raise UserError(f"`{name}` of result {bad} is not finite. Check the weights of the model.")
            object.__setattr__(self, name, array)

    @property
    def area(self) -> np.ndarray:
        """(R,) areas in square pixels: those of the boxes if there are boxes, else of the extent of the keypoints."""
        size = self.keypoints_image_xy.max(axis=1) - self.keypoints_image_xy.min(axis=1)
        if self.boxes_image_xywh is not None:
            size = self.boxes_image_xywh[:, 2:]
        with np.errstate(over="ignore"):
            return size[:, 0] * size[:, 1]


@dataclass(frozen=True, eq=False)
class Boxes:
    """B detected person boxes of several images, in file order.

    Args:
        image_ids: (B,) int64.
        image_index: (B,) int64, indices into `Annotations.image_ids`.
        boxes_image_xywh: (B, 4) in pixels, with a width and a height above 0, not outside the image.
        scores: (B,) in 0 … 1.
        path: Path of the file.
        problems: Removed boxes and notes.
    """

    image_ids: np.ndarray
    image_index: np.ndarray
    boxes_image_xywh: np.ndarray
    scores: np.ndarray
    path: str = ""
    problems: tuple[Problem, ...] = ()


def read_results(path: str | Path, annotations: Annotations) -> Results:
    """Reads and validates a COCO keypoint results file, optionally gzipped. It may be an empty list.

    Args:
        path: Results file.
        annotations: Annotations of the images.

    Raises:
        UserError: If an image is not in the annotations, the number of keypoints differs, or a value is not finite.
    """
    path = Path(path).expanduser()
    rows = _rows(path)
    problems = Problems(str(path))
    rows, entries = _of_category(rows, annotations.category_id, problems)
    if not rows and problems:
        raise UserError(
            f"{path} has no results of category {annotations.category_id}, the category of {annotations.path}."
        )
    image_ids, image_index, found = _image_ids(rows, entries, annotations, problems)
    unknown = np.unique(image_ids[~found])
    done = f"Use the annotations of these images: {annotations.path} has {len(annotations.image_ids)} images."
    problems.add("error", "Results of images without annotations", unknown, done, "image ids")
    num_keypoints = annotations.skeleton.num_keypoints
    triples = _number_lists(rows, "keypoints", 3 * num_keypoints, entries, problems)
    triples = triples.reshape(len(rows), num_keypoints, 3)
    scores = _scores(rows, entries, problems)
    boxes = None
    if rows and all(row.get("bbox") for row in rows):
        boxes = _number_lists(rows, "bbox", 4, entries, problems)
    problems.refuse()
    shown = len(np.unique(image_ids))
    if shown < len(annotations.image_ids):
        problems.say(
            "note",
            f"Results for {shown} of the {len(annotations.image_ids)} annotated images",
            "The persons of the other images count as not detected.",
        )
    return Results(image_ids, triples[..., :2], triples[..., 2], scores, boxes, str(path), tuple(problems))


def read_boxes(path: str | Path, annotations: Annotations) -> Boxes:
    """Reads person boxes from a detector's COCO results file, optionally gzipped.

    Boxes have the category of the annotations, or COCO's person category if there are none of that category. Boxes of
    other categories and images, empty boxes and boxes outside their image are removed and counted. The default score is
    1.0. Warns if the boxes seem to be two corners.

    Args:
        path: Results file.
        annotations: Annotations of the images.

    Raises:
        UserError: If no box is of an annotated image, a box is not four finite numbers with a size of at least 0, or a
            score is not in 0 … 1.
    """
    path = Path(path).expanduser()
    rows = _rows(path)
    problems = Problems(str(path))
    categories = {row.get("category_id") for row in rows if type(row.get("category_id")) is int}
    wanted = annotations.category_id if annotations.category_id in categories else PERSON
    rows, entries = _of_category(rows, wanted, problems)
    image_ids, image_index, found = _image_ids(rows, entries, annotations, problems)
    others = np.unique(image_ids[~found])
    problems.add("note", "Boxes of images without annotations", others, "Removed.", "image ids")
    boxes = _number_lists(rows, "bbox", 4, entries, problems)
    negative = entries[(boxes[:, 2:] < 0).any(axis=1)]
    done = "`bbox` is x, y, width, height, not two corners."
    problems.add("error", "Boxes with a negative size", negative, done, "entries")
    scores = _scores(rows, entries, problems, missing=1.0)
    odd = entries[(scores < 0) | (scores > 1)]
    problems.add("error", "Scores that are not in 0 … 1", odd, "Divide percentages by 100.", "entries")
    problems.refuse()
    sizes_wh = annotations.image_sizes_hw[image_index][:, ::-1] if len(rows) else np.zeros((0, 2))
    sizes_wh = np.where(sizes_wh > 0, sizes_wh, np.inf)
    flat = (boxes[:, 2:] == 0).any(axis=1)
    problems.add("note", "Boxes without width or height", entries[found & flat], "Removed.", "entries")
    outside = found & ~flat & ((boxes[:, :2] + boxes[:, 2:] <= 0) | (boxes[:, :2] >= sizes_wh)).any(axis=1)
    problems.add("note", "Boxes outside their image", entries[outside], "Removed.", "entries")
    if _are_corners(boxes[found], sizes_wh[found]):
        what, done = "`bbox` looks like two corners", "Read as x, y, width, height, as in COCO."
        problems.say("note", what, done)
        warnings.warn(f"{path}: {what}. {done}", stacklevel=2)
    keep = found & ~flat & ~outside
    return Boxes(image_ids[keep], image_index[keep], boxes[keep], scores[keep], str(path), tuple(problems))


def write_results(path: str | Path, results: Results, category_id: int = 1) -> Path:
    """Writes a COCO keypoint results file in full precision, atomically."""
    triples = np.concatenate([results.keypoints_image_xy, results.keypoint_scores[..., None]], axis=-1)
    columns = {
        "image_id": results.image_ids.tolist(),
        "category_id": [int(category_id)] * len(triples),
        "keypoints": triples.reshape(len(triples), triples.shape[1] * 3).tolist(),
        "score": results.scores.tolist(),
    }
    if results.boxes_image_xywh is not None:
        columns["bbox"] = results.boxes_image_xywh.tolist()
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return write_json(path, rows)


def _rows(path: str | Path) -> list[dict]:
    rows = read_json(path)
    if type(rows) is not list:
        keys = f" with keys {sorted(rows)[:10]}" if type(rows) is dict else ""
        raise UserError(f"{path} must contain a list of results. Received: a {type(rows).__name__}{keys}.")
    for place, row in enumerate(rows):
        if type(row) is not dict:
            raise UserError(f"{path}: entry {place} must be an object. Received: {str(row)[:60]!r}.")
    return rows


def _of_category(rows: list[dict], category_id: int, problems: Problems) -> tuple[list[dict], np.ndarray]:
    """Returns the rows of a category or without category, and their indices in the file."""
    ids, bad, _ = whole_numbers([row.get("category_id", category_id) for row in rows])
    entries = np.flatnonzero(bad)
    problems.add("error", "Results whose `category_id` is not an integer", entries, "Correct them.", "entries")
    missing = np.array(["category_id" not in row for row in rows], bool)
    done = f"Read as category {category_id}."
    problems.add("note", "Results without `category_id`", np.flatnonzero(missing), done, "entries")
    others = ids != category_id
    what = f"Results of other categories than {category_id}"
    problems.add("note", what, np.flatnonzero(others & ~bad), "Removed.", "entries")
    entries = np.flatnonzero(~others)
    return [rows[place] for place in entries.tolist()], entries


def _image_ids(rows: list[dict], entries: np.ndarray, annotations: Annotations, problems: Problems):
    """Returns image ids, their indices in the annotations, and a mask of the ids that are found.

    Raises:
        UserError: If no image is found: the file belongs to another data set.
    """
    ids, bad, text = whole_numbers([row.get("image_id") for row in rows])
    done = "Use the `id` of the annotated image."
    problems.add("error", "Results whose `image_id` is not an integer", entries[bad], done, "entries")
    problems.add("repair", "Results with a string as `image_id`", entries[text], "Read as numbers.", "entries")
    problems.refuse()
    index, found = places(ids, annotations.image_ids)
    if len(ids) and not found.any():
        raise UserError(
            f"{problems.path} belongs to another data set: none of its {len(np.unique(ids))} images are in "
            f"{annotations.path}. Received image ids such as {np.unique(ids)[:3].tolist()}, "
            f"expected such as {np.sort(annotations.image_ids)[:3].tolist()}."
        )
    return ids, index, found


def _number_lists(rows: list[dict], key: str, length: int, entries: np.ndarray, problems: Problems) -> np.ndarray:
    """Returns (R, length) finite numbers; rows with an error are zeros."""
    column = NumberLists(group=4 if key == "bbox" else 3)
    column.extend([row.get(key) for row in rows])
    column.finish()
    table, wrong = column.of_length(length, np.arange(len(rows)))
    received = np.unique(np.maximum(column.lengths[wrong], 0)).tolist()[:5]
    what = f"`{key}` must be {length} numbers. Received lists of {received}{column.fault(np.flatnonzero(wrong))}"
    problems.add("error", what, entries[wrong], "Look for another skeleton or format.", "entries")
    unclear = ~np.isfinite(table).all(axis=1)
    done = "Look at the model that made them."
    problems.add("error", f"`{key}` with null, NaN or infinity", entries[unclear], done, "entries")
    problems.add("repair", f"`{key}` with strings or lists as numbers", entries[column.converted], "Read as numbers.")
    return np.where(unclear[:, None], 0.0, table)


def _scores(rows: list[dict], entries: np.ndarray, problems: Problems, missing: float | None = None) -> np.ndarray:
    """Returns finite scores; a `missing` score is an error where None is given."""
    given = [row.get("score") for row in rows]
    scores, bad, absent, text = numbers(given)
    what = f"Scores that are not finite numbers{example(given, bad)}"
    problems.add("error", what, entries[bad], "Correct them.", "entries")
    problems.add("repair", "Scores with a string as number", entries[text], "Read as numbers.", "entries")
    if missing is None:
        done = "Results are ranked by their scores."
        problems.add("error", "Results without `score`", entries[absent], done, "entries")
    else:
        problems.add("note", "Boxes without `score`", entries[absent], f"Set to {missing}.", "entries")
    return np.where(bad | absent, 0.0 if missing is None else missing, scores)


def _are_corners(boxes: np.ndarray, sizes_wh: np.ndarray) -> bool:
    """Returns whether boxes seem to be two corners instead of corner and size."""
    corners = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= sizes_wh + 1).all(axis=1)
    too_far = (boxes[:, :2] + boxes[:, 2:] > sizes_wh * 1.05).any(axis=1)
    return bool(len(boxes) and corners.all() and too_far.mean() > 0.3)
