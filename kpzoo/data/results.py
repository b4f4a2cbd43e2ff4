"""Predictions and detector boxes in COCO's results format: a list with one object per prediction or box."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from kpzoo.data import parts
from kpzoo.data.annotation_table import places
from kpzoo.data.coco import Annotations
from kpzoo.data.columns import NumberLists, example, numbers, whole_numbers
from kpzoo.data.image_names import ImageNames, parts_of
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
    """Reads and validates a COCO keypoint results file, optionally gzipped, or Parquet parts. There may be no result.

    Args:
        path: Results file; or a folder, local or in a store, in which `kpzoo.distributed.predict` wrote parts.
        annotations: Annotations of the images.

    Raises:
        UserError: If an image is not in the annotations, the number of keypoints differs, or a value is not finite.
    """
    if parts.is_parts(path):
        rows = list(parts.results_of(parts.read_rows(path)))
    else:
        path = Path(path).expanduser()
        rows = _rows(path)
    problems = Problems(str(path))
    rows, entries = _of_category(rows, annotations.category_id, problems, "results", "category")
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


def read_boxes(path: str | Path, annotations: Annotations, category: int | str | None = None) -> Boxes:
    """Reads person boxes from a detector's COCO results file, optionally gzipped.

    Boxes have the category of the annotations, or COCO's person category if there are none of that category. Boxes of
    other categories and images, empty boxes and boxes outside their image are removed and counted. The default score is
    1.0. Warns if the boxes seem to be two corners.

    Args:
        path: Results file.
        annotations: Annotations of the images.
        category: Id or name of the category to read; None for that of the annotations, or 1, COCO's person.

    Raises:
        UserError: If no box is of the category or of an annotated image, no box can be used, a box is not four finite
            numbers with a size of at least 0, or a score is not in 0 … 1.
    """
    path = Path(path).expanduser()
    rows = _rows(path)
    problems = Problems(str(path))
    if category is None:
        ids = {plain_category(row["category_id"]) for row in rows if row.get("category_id") is not None}
        category = annotations.category_id if annotations.category_id in ids else PERSON
    rows, entries = _of_category(rows, category, problems, "boxes", "box_category")
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
    if len(rows) and not keep.any():
        left_out = f"{int((~found).sum())} of other images, {int((found & flat).sum())} without a size"
        raise UserError(
            f"{path} has {len(rows)} boxes, and none can be used: {left_out}, {int(outside.sum())} outside their image."
        )
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


@lru_cache(maxsize=1024, typed=True)  # called for every entry
def plain_category(category) -> int | str:
    """Returns a category's number, from text such as "1" too, or its name."""
    numbers, bad, _ = whole_numbers([category])
    return str(category) if bad[0] or isinstance(category, bool) else int(numbers[0])


def none_of_category(path, what: str, count: int, wanted: int | str, received: list, argument: str) -> UserError:
    """Returns the error for a file whose entries are all of other categories than the wanted one."""
    return UserError(
        f"{path} has {count} {what}, none of category {wanted!r}: received {', '.join(map(repr, received[:5]))}.",
        f"To read these pass `{argument}={received[0]!r}`.",
    )


def _is_category(value) -> bool:
    return type(value) in (int, float, str)


def _of_category(
    rows: list[dict], wanted: int | str, problems: Problems, what: str, argument: str
) -> tuple[list[dict], np.ndarray]:
    """Returns the rows of a category or without category, and their indices in the file.

    Raises:
        UserError: If there are rows, and all are of other categories.
    """
    given = [row.get("category_id") for row in rows]
    plain = {str(one): plain_category(one) for one in {*filter(_is_category, given)}}
    wanted = plain_category(wanted)
    missing = np.array(["category_id" not in row for row in rows], bool)
    known = np.array([_is_category(one) for one in given], bool)
    bad = ~known & ~missing
    text = f"Results whose `category_id` is not an integer or a name{example(given, bad)}"
    problems.add("error", text, np.flatnonzero(bad), "Correct them.", "entries")
    problems.refuse()
    done = f"Read as category {wanted}."
    problems.add("note", "Results without `category_id`", np.flatnonzero(missing), done, "entries")
    own = missing | np.array(
        [known and plain[str(one)] == wanted for one, known in zip(given, known, strict=True)], bool
    )
    others = np.flatnonzero(~own)
    if len(rows) and not own.any():
        received = list(dict.fromkeys(plain.values()))
        raise none_of_category(problems.path, what, len(rows), wanted, received, argument)
    problems.add("note", f"Results of other categories than {wanted}", others, "Removed.", "entries")
    entries = np.flatnonzero(own)
    return [rows[place] for place in entries.tolist()], entries


def _image_ids(rows: list[dict], entries: np.ndarray, annotations: Annotations, problems: Problems):
    """Returns image ids, their indices in the annotations, and a mask of the ids that are found.

    Entries with the `file_name` of an annotated image belong to it. Others have its number as `image_id`, or its name.

    Raises:
        UserError: If no image is found: the file belongs to another data set. If id and name contradict each other.
    """
    given = [row.get("image_id") for row in rows]
    ids, bad, text = whole_numbers(given)
    names = [row.get("file_name") if isinstance(row.get("file_name"), str) else None for row in rows]
    names = [one if name is None and isinstance(one, str) else name for name, one in zip(names, given, strict=True)]
    if any(names) and any(annotations.file_names):
        ids, bad, text = _by_name(names, ids, bad, text, entries, annotations, problems)
    done = "Use the `id` of the annotated image."
    what = f"Results whose `image_id` is not an integer{example(given, bad)}"
    problems.add("error", what, entries[bad], done, "entries")
    problems.add("repair", "Results with a string as `image_id`", entries[text], "Read as numbers.", "entries")
    problems.refuse()
    index, found = places(ids, annotations.image_ids)
    if len(ids) and not found.all() and not any(names):
        ids, index, found = _by_numbers_in_names(ids, index, found, entries, annotations, problems)
    if len(ids) and not found.any():
        raise UserError(
            f"{problems.path} belongs to another data set: none of its {len(np.unique(ids))} images are in "
            f"{annotations.path}. Received image ids such as {np.unique(ids)[:3].tolist()}, "
            f"expected such as {np.sort(annotations.image_ids)[:3].tolist()}."
        )
    return ids, index, found


def _by_name(names, ids, bad, text, entries, annotations: Annotations, problems: Problems):
    """Returns image ids, bad and text masks, with the ids of the images that the names mean."""
    index = ImageNames(annotations.file_names)
    known = dict(zip(annotations.image_ids.tolist(), annotations.file_names, strict=True))
    place_of = {name: index.find(name) for name in set(names) if name}
    ids, bad, text = ids.copy(), bad.copy(), text.copy()
    moved, against, several = [], [], []
    for row, name in enumerate(names):
        if not name:
            continue
        place, number = place_of[name], int(ids[row])
        if place >= 0:
            is_number = text[row] and number in known  # "0001" may be a number and the name of another image
            own = int(annotations.image_ids[place])
            if own != number and is_number:
                against.append((row, number))
            elif own != number and not bad[row]:
                moved.append(row)
            ids[row], bad[row], text[row] = own, False, text[row] and own == number
        elif place == ImageNames.SEVERAL:
            several.append(row)
        elif not bad[row] and not text[row] and known.get(number):
            against.append((row, number))
    if several:
        told = [annotations.file_names[place] for place in index.all(names[several[0]])[:3]]
        what = f"Results for images that cannot be told apart, such as {names[several[0]]!r}: {told}"
        problems.add("error", what, entries[several], "Name them with their folders.", "entries")
    if against:
        row, number = against[0]
        what = "Results whose name and number are of two images, such as "
        what += f"{names[row]!r} and {number}, which is {known[number]!r}"
        done = "Are they of these annotations? Remove `file_name`, or correct `image_id`."
        problems.add("error", what, entries[[row for row, _ in against]], done, "entries")
    done = "Read by `file_name`: the annotations number their images otherwise."
    problems.add("repair", "Results whose `image_id` is not that of their `file_name`", entries[moved], done, "entries")
    return ids, bad, text


def _by_numbers_in_names(ids, index, found, entries, annotations: Annotations, problems: Problems):
    """Returns ids, places and masks, of results that count images by the numbers in their files' names.

    Only where no result is of an image of that id, and all are of files of that number.
    """
    stems = [parts_of(name)[-1] if name else "" for name in annotations.file_names]
    by_stem = {int(stem): place for place, stem in enumerate(stems) if stem.isascii() and stem.isdecimal()}
    if found.any() or len(by_stem) < len(stems) or not set(ids.tolist()) <= by_stem.keys():
        return ids, index, found
    index = np.array([by_stem[number] for number in ids.tolist()], np.int64)
    done = "Read as the numbers in the file names."
    problems.add("repair", "Results with an `image_id` that no image has", entries, done, "entries")
    return annotations.image_ids[index], index, np.ones(len(ids), bool)


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
