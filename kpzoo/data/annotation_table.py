"""The annotations of a COCO keypoint file as columns, which are validated and repaired."""

from dataclasses import dataclass, fields

import numpy as np

from kpzoo.data.columns import MISSING, NO_NUMBERS, NumberLists, example, numbers, whole_numbers
from kpzoo.data.problems import Problems
from kpzoo.errors import UserError
from kpzoo.skeletons import Skeleton

AREA_OF_BOX = 0.53  # share of the box that CrowdPose's evaluation uses as the area of a person without a mask
MAX_COUNT = 1e6  # keypoints of a person
MAX_COORDINATE = 1e6  # pixels; larger than any image

_COLUMNS = ("id", "image_id", "category_id", "area", "iscrowd", "num_keypoints", "segmentation")


@dataclass(frozen=True, eq=False)
class Persons:
    """P annotated persons in file order, with the values of the file.

    Args:
        ids: (P,) int64.
        image_ids: (P,) int64.
        image_index: (P,) int64, indices into `Annotations.image_ids`.
        boxes_image_xywh: (P, 4) in pixels, zeros if the file has no valid box.
        has_box: (P,) bool, whether the box has a width and a height above 0.
        keypoints_image_xy: (P, K, 2) in pixels.
        visibility: (P, K) int8: 0 not labelled, 1 labelled but hidden, 2 visible. CrowdPose uses 1 and 2 alike.
        area: (P,) in square pixels.
        is_crowd: (P,) bool.
        num_keypoints: (P,) int64; the evaluation ignores persons with 0. CrowdPose counts 12 of its 14 keypoints.
        segmentation: P masks, polygons or run lengths; None if missing.
        keypoint_weights: (P, K) float32 weights of the keypoints in the training loss: their `keypoint_scores`, and 0
            where v is 0, as a teacher that finds no keypoint does not know that there is none; 1 for persons without
            `keypoint_scores`.
    """

    ids: np.ndarray
    image_ids: np.ndarray
    image_index: np.ndarray
    boxes_image_xywh: np.ndarray
    has_box: np.ndarray
    keypoints_image_xy: np.ndarray
    visibility: np.ndarray
    area: np.ndarray
    is_crowd: np.ndarray
    num_keypoints: np.ndarray
    segmentation: list
    keypoint_weights: np.ndarray

    def take(self, keep: np.ndarray) -> "Persons":
        """Returns the persons of a (P,) mask."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        masks = columns.pop("segmentation")
        kept = {name: column[keep] for name, column in columns.items()}
        return Persons(**kept, segmentation=[masks[place] for place in np.flatnonzero(keep).tolist()])


class AnnotationTable:
    """Collects annotations as returned by `json`, and converts them to `Persons`."""

    def __init__(self, path):
        self._path = path
        self._columns = {key: [] for key in _COLUMNS}
        self._keypoints, self._boxes, self._scores = (NumberLists(group=size) for size in (3, 4, 1))

    def extend(self, rows: list) -> None:
        """Adds annotations in file order."""
        if set(map(type, rows)) - {dict}:
            place = next(place for place, row in enumerate(rows) if type(row) is not dict)
            received = str(rows[place])[:60]
            place += len(self._columns["id"])
            raise UserError(f"{self._path}: annotations[{place}] must be an object. Received: {received!r}.")
        for key, column in self._columns.items():
            column.extend(row.get(key) for row in rows)
        self._keypoints.extend([row.get("keypoints") for row in rows])
        self._boxes.extend([row.get("bbox") for row in rows])
        self._scores.extend([row.get("keypoint_scores") for row in rows])

    def persons(
        self, known_image_ids: np.ndarray, category_id: int, num_categories: int, skeleton: Skeleton, problems: Problems
    ) -> Persons:
        """Returns the persons of a category. Persons with errors are left out and added to `problems`."""
        for column in (self._keypoints, self._boxes, self._scores):
            column.finish()
        rows = self._rows_of(category_id, num_categories, problems)
        values = {key: [column[row] for row in rows.tolist()] for key, column in self._columns.items()}
        ids, image_ids, image_index, keep = _identities(values, rows, known_image_ids, problems)
        keypoints, visibility, num_labelled = _keypoints(self._keypoints, rows, ids, keep, skeleton, problems)
        weights = _weights(self._scores, rows, ids, keep, visibility, problems)
        is_crowd, num_keypoints = _counts(values, ids, keep, num_labelled, problems)
        boxes, numeric, has_box = _boxes(self._boxes, rows, ids, keep, problems)
        ignored = is_crowd | (num_keypoints == 0)
        area = _areas(values["area"], boxes, has_box, ignored, ids, keep, problems)
        nowhere = keep & (num_labelled == 0) & ~numeric
        problems.add("repair", "Annotations without keypoints and box", ids[nowhere], "Left out.")
        persons = Persons(
            ids=ids,
            image_ids=image_ids,
            image_index=image_index,
            boxes_image_xywh=boxes,
            has_box=has_box,
            keypoints_image_xy=keypoints,
            visibility=visibility,
            area=area,
            is_crowd=is_crowd,
            num_keypoints=num_keypoints,
            segmentation=values["segmentation"],
            keypoint_weights=weights,
        )
        return persons.take(keep & ~nowhere & np.isfinite(area))

    def _rows_of(self, category_id: int, num_categories: int, problems: Problems) -> np.ndarray:
        values = self._columns["category_id"]
        ids, bad, _ = whole_numbers(values)
        missing = np.array([value is None for value in values], bool)
        if num_categories == 1:
            entries, done = np.flatnonzero(missing), "Read as the only category."
            _missing(problems, "category_id", entries, len(ids), done, "entries")
            ids[missing], bad[missing] = category_id, False
        done = "Set it to the id of a category."
        what = f"`annotations` without an integer as `category_id`{example(values, bad)}"
        problems.add("error", what, np.flatnonzero(bad), done, "entries")
        others = np.flatnonzero(~bad & (ids != category_id))
        problems.add("note", f"`annotations` of other categories than {category_id}", others, "Not read.", "entries")
        return np.flatnonzero(~bad & (ids == category_id))


def _missing(problems: Problems, key: str, ids, num_rows: int, done: str, unit: str = "annotation ids") -> None:
    """Adds a missing field: a note if all annotations lack it, a repair if only some do."""
    severity = "note" if len(ids) == num_rows else "repair"
    problems.add(severity, f"`annotations` without `{key}`", ids, done, unit)


def _identities(values: dict, rows: np.ndarray, known: np.ndarray, problems: Problems):
    """Returns ids, image ids, image indices, and a mask of the rows to keep."""
    ids, bad, text = whole_numbers(values["id"])
    what = f"`annotations` without an integer as `id`{example(values['id'], bad)}"
    problems.add("error", what, rows[bad], "Number them from 1.", "entries")
    problems.add("repair", "`annotations` with a string as `id`", ids[text], "Read as numbers.")
    unique, counts = np.unique(ids[~bad], return_counts=True)
    twice = unique[counts > 1]
    problems.add("error", "Annotation ids that occur twice", twice, "Give each annotation its own id.")
    keep = ~bad & ~np.isin(ids, twice)
    zero = keep & (ids == 0)
    if zero.any():
        ids[zero] = max(int(ids.max()), 0) + 1
        done = f"Renumbered to {ids[zero][0]}: in COCO's tools, 0 means 'no match'."
        problems.add("repair", "An annotation has the id 0", [0], done)
    image_ids, bad, text = whole_numbers(values["image_id"])
    what = f"`annotations` without an integer as `image_id`{example(values['image_id'], bad & keep)}"
    problems.add("error", what, ids[bad & keep], "Add it.")
    problems.add("repair", "`annotations` with a string as `image_id`", ids[text], "Read as numbers.")
    image_index, found = places(image_ids, known)
    lost = np.unique(image_ids[keep & ~bad & ~found])
    done = "Add the images, or remove the annotations."
    problems.add("error", "`image_id` of no image", lost, done, "image ids")
    return ids, image_ids, image_index, keep & ~bad & found


def places(ids: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the index of each id in `known`, and a mask of the ids that are found."""
    if not len(known):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
    order = np.argsort(known, kind="stable")
    place = order[np.minimum(np.searchsorted(known[order], ids), len(known) - 1)]
    return place, known[place] == ids


def _keypoints(column: NumberLists, rows, ids, keep, skeleton: Skeleton, problems: Problems):
    """Returns (P, K, 2) keypoints, (P, K) visibility and (P,) counts of labelled ones; clears `keep` for errors."""
    count = skeleton.num_keypoints
    table, wrong = column.of_length(3 * count, rows)
    lengths, converted = column.lengths[rows], column.converted[rows]
    missing, no_numbers = lengths == MISSING, lengths == NO_NUMBERS
    what = "`keypoints` with strings, lists or false as numbers"
    problems.add("repair", what, ids[keep & converted], "Read as numbers.")
    _missing(problems, "keypoints", ids[keep & missing], len(rows), "Read as persons without keypoints.")
    done = f"Give x, y, v for each of {count} keypoints."
    what = f"`keypoints` that are not a list of numbers{column.fault(rows[keep & no_numbers])}"
    problems.add("error", what, ids[keep & no_numbers], done)
    short = keep & wrong & ~missing & ~no_numbers
    received = np.unique(lengths[short]).tolist()[:5]
    what = f"`keypoints` of {received} numbers where 3 * {count} = {3 * count} are expected"
    problems.add("error", what, ids[short], "Correct the annotations, or choose another `category=`.")
    triples = table.reshape(-1, count, 3)
    points, flags = triples[..., :2], triples[..., 2]
    flags = np.where(np.isnan(triples).all(axis=-1), 0, flags)  # nothing but null is not labelled
    odd_flags = ~np.isin(flags, (0, 1, 2))
    odd = keep & odd_flags.any(axis=1)
    received = [None if flag != flag else flag for flag in np.unique(flags[odd][odd_flags[odd]]).tolist()[:5]]
    what = f"`keypoints` with a visibility of {received}"
    problems.add("error", what, ids[odd], "0 is not labelled, 1 hidden, 2 visible.")
    unclear = ~np.isfinite(points).all(axis=-1)
    lost = keep & (unclear & (flags != 0)).any(axis=1)
    what = "Labelled `keypoints` that are null, NaN or infinite"
    if lost.any():
        person = np.flatnonzero(lost)[0]
        place = np.flatnonzero((unclear & (flags != 0))[person])[0]
        what += f", such as {skeleton.keypoints[place]!r} at {points[person, place].tolist()}"
    problems.add("error", what, ids[lost], "Give numbers, or v = 0.")
    blank = keep & (unclear & (flags == 0)).any(axis=1)
    problems.add("repair", "Unlabelled `keypoints` that are null, NaN or infinite", ids[blank], "Set to 0, 0.")
    keep &= (~wrong | missing) & ~odd & ~lost
    flags = np.where(keep[:, None], flags, 0)
    return np.where(unclear[..., None], 0.0, points), flags.astype(np.int8), (flags > 0).sum(axis=1)


def _weights(column: NumberLists, rows, ids, keep, visibility: np.ndarray, problems: Problems) -> np.ndarray:
    """Returns the (P, K) `keypoint_weights`; clears `keep` for errors."""
    count = visibility.shape[1]
    scores, wrong = column.of_length(count, rows)
    missing = column.lengths[rows] == MISSING
    problems.add(
        "repair", "`keypoint_scores` with strings as numbers", ids[keep & column.converted[rows]], "Read as numbers."
    )
    bad = ~missing & (wrong | ~((scores >= 0) & (scores <= 1)).all(axis=1))
    what = f"`keypoint_scores` that are not {count} numbers in 0 … 1{column.fault(rows[keep & bad])}"
    problems.add("error", what, ids[keep & bad], "Correct or remove them: they weigh the keypoints in the loss.")
    keep &= ~bad
    return np.where(missing[:, None], 1.0, scores * (visibility > 0)).astype(np.float32)


def _counts(values: dict, ids, keep, num_labelled, problems: Problems) -> tuple[np.ndarray, np.ndarray]:
    """Returns `iscrowd` and `num_keypoints`; clears `keep` for errors."""
    crowd, bad, missing, text = numbers([int(value) if type(value) is bool else value for value in values["iscrowd"]])
    _missing(problems, "iscrowd", ids[keep & missing], len(ids), "Read as 0.")
    problems.add("repair", "`iscrowd` with a string as number", ids[keep & text], "Read as numbers.")
    bad |= ~missing & ~np.isin(crowd, (0, 1))
    what = f"`iscrowd` that is neither 0 nor 1{example(values['iscrowd'], keep & bad)}"
    problems.add("error", what, ids[keep & bad], "Correct it.")
    keep &= ~bad
    given, wrong, missing, text = numbers(values["num_keypoints"])
    problems.add("repair", "`num_keypoints` with a string as number", ids[keep & text], "Read as numbers.")
    wrong |= ~missing & ((given < 0) | (given > MAX_COUNT) | (given != np.floor(given)))
    done = "Counted: keypoints with v > 0."
    _missing(problems, "num_keypoints", ids[keep & missing], len(ids), done)
    what = f"`num_keypoints` that is not a count{example(values['num_keypoints'], keep & wrong)}"
    problems.add("repair", what, ids[keep & wrong], done)
    computed = wrong | missing
    above = ids[keep & ~computed & (given > num_labelled)]
    done = "Kept: the evaluation only uses whether it is 0."
    problems.add("note", "`num_keypoints` above the number of keypoints with v > 0", above, done)
    hidden = ids[keep & ~computed & (given == 0) & (num_labelled > 0)]
    done = "Kept: the evaluation ignores these persons. CrowdPose does not count head and neck."
    problems.add("note", "`num_keypoints` of 0 beside labelled keypoints", hidden, done)
    return crowd == 1, np.where(computed, num_labelled, np.nan_to_num(given)).astype(np.int64)


def _boxes(column: NumberLists, rows, ids, keep, problems: Problems):
    """Returns (P, 4) boxes, a mask of valid boxes, and a mask of the boxes with a width and a height above 0."""
    boxes, wrong = column.of_length(4, rows)
    converted = column.converted[rows] & ~wrong
    problems.add("repair", "`bbox` with strings or lists as numbers", ids[keep & converted], "Read as numbers.")
    numeric = ~wrong & (np.abs(boxes) <= MAX_COORDINATE).all(axis=1)
    boxes = np.where(numeric[:, None], boxes, 0.0)
    has_box = numeric & (boxes[:, 2:] > 0).all(axis=1)
    done = "Not used for training. Evaluated if they have keypoints and an area."
    what = f"`bbox` that is not x, y and a width and height above 0{column.fault(rows[keep & ~has_box])}"
    problems.add("repair", what, ids[keep & ~has_box], done)
    return boxes, numeric, has_box


def _areas(values: list, boxes, has_box, ignored, ids, keep, problems: Problems) -> np.ndarray:
    """Returns areas, NaN if there is neither an area nor a box."""
    area, bad, missing, text = numbers(values)
    problems.add("repair", "`area` with a string as number", ids[keep & text], "Read as numbers.")
    # Crowds and persons without keypoints may have an area of 0: the reference tools use it as it is.
    bad |= (area < 0) | (area == 0) & ~ignored
    rule = f"Set to {AREA_OF_BOX} * width * height of the box, as in CrowdPose."
    _missing(problems, "area", ids[keep & missing], len(ids), rule)
    what = f"`area` that is not a number above 0{example(values, keep & bad & has_box)}"
    problems.add("repair", what, ids[keep & bad & has_box], rule)
    of_box = AREA_OF_BOX * boxes[:, 2] * boxes[:, 3]
    of_box[~has_box & ~(ignored & (of_box >= 0))] = np.nan
    area = np.where(bad | missing, of_box, area)
    problems.add("repair", "Annotations with neither an area nor a box", ids[keep & np.isnan(area)], "Left out.")
    return area
