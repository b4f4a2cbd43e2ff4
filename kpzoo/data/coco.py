"""COCO keypoint annotations of any skeleton, validated and as arrays.

The evaluation uses the values of the file, as the reference tools do: boxes and keypoints outside the image, and
CrowdPose's `num_keypoints`. Training uses `training_persons`, with clipped boxes and without keypoints outside the
image. Invalid values are repaired and counted, or raise an error; see `Problem`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath

import numpy as np

from kpzoo.data import categories
from kpzoo.data.annotation_table import MAX_COORDINATE, AnnotationTable, Persons
from kpzoo.data.columns import example, numbers, shown, whole_numbers
from kpzoo.data.json_file import read_object
from kpzoo.data.problems import Problem, Problems
from kpzoo.errors import UserError
from kpzoo.skeletons import Skeleton


@dataclass(frozen=True, eq=False)
class Annotations:
    """The content of a COCO keypoint file: I images, P persons of one category, K keypoints.

    Args:
        path: Path of the file.
        skeleton: The K keypoints. COCO17 or CROWDPOSE14 if the names match.
        category_id: Id of the category, usually 1.
        image_ids: (I,) int64, in file order.
        file_names: I file names, "" if missing.
        image_sizes_hw: (I, 2) height and width in pixels, 0 if missing.
        crowd_index: (I,) CrowdPose's `crowdIndex`, NaN if missing.
        persons: The P persons, in file order.
        problems: Repairs and notes.
    """

    path: str
    skeleton: Skeleton
    category_id: int
    image_ids: np.ndarray
    file_names: Sequence[str]
    image_sizes_hw: np.ndarray
    crowd_index: np.ndarray
    persons: Persons
    problems: tuple[Problem, ...] = ()


def read_annotations(
    path: str | Path,
    *,
    skeleton: str | Skeleton | None = None,
    category: str | int | None = None,
    strict: bool = False,
    allow_outside: bool = False,
) -> Annotations:
    """Reads and validates a COCO keypoint file.

    Args:
        path: JSON file, optionally gzipped.
        skeleton: Expected skeleton. Required if the category does not name its keypoints.
        category: Name or id of the category. Required if several categories have keypoints.
        strict: Whether to raise an error for values that can be repaired.
        allow_outside: Whether file names may point outside the image folder, by absolute paths or "..".

    Returns:
        The annotations. Their `problems` list repairs and notes.

    Raises:
        UserError: If the file is invalid.
    """
    annotations, problems = _read(path, skeleton, category, allow_outside)
    problems.refuse(strict)
    return annotations


def examine(
    path: str | Path,
    *,
    skeleton: str | Skeleton | None = None,
    category: str | int | None = None,
    allow_outside: bool = False,
) -> Annotations:
    """Reads a file as `read_annotations` does, but returns errors as `problems` instead of raising them.

    Entries with errors are left out. The arguments are those of `read_annotations`.

    Raises:
        UserError: If the structure of the file cannot be read.
    """
    return _read(path, skeleton, category, allow_outside)[0]


def training_persons(annotations: Annotations, min_keypoints: int = 1) -> dict[str, np.ndarray]:
    """Returns the persons to train on: those with a box, an area and labelled keypoints in the image, without crowds.

    Args:
        annotations: Annotations of the data set.
        min_keypoints: Minimum number of labelled keypoints in the image.

    Returns:
        Arrays of length S:
        `index` (S,) indices into `annotations.persons`;
        `image_ids` (S,);
        `boxes_image_xywh` (S, 4) float64, clipped to the image;
        `keypoints_image_xy` (S, K, 2) float32, 0 outside the image;
        `visibility` (S, K) float32, 0 outside the image;
        `keypoint_weights` (S, K) float32, see `Persons`.

    Raises:
        UserError: If there is no such person, or an image has no file name.
    """
    persons = annotations.persons
    sizes_hw = annotations.image_sizes_hw[persons.image_index]
    boxes, usable = clipped_boxes(persons.boxes_image_xywh, sizes_hw)
    inside = inside_image(persons.keypoints_image_xy, sizes_hw)
    visibility = np.where(inside, persons.visibility, 0)
    enough = (visibility > 0).sum(axis=1) >= max(min_keypoints, 1)
    index = np.flatnonzero(~persons.is_crowd & persons.has_box & usable & (persons.area > 0) & enough)
    if not len(index):
        raise UserError(
            f"{annotations.path} has no labelled person to train on. Received: {len(persons.ids)} annotations, of them "
            f"{int((~persons.is_crowd).sum())} no crowd, {int(persons.has_box.sum())} with a box, "
            f"{int(enough.sum())} with {max(min_keypoints, 1)} or more labelled keypoints in the image."
        )
    nameless = [image for image in np.unique(persons.image_index[index]).tolist() if not annotations.file_names[image]]
    if nameless:
        raise UserError(f"{annotations.path}: image id {annotations.image_ids[nameless[0]]} has no `file_name`.")
    return {
        "index": index,
        "image_ids": persons.image_ids[index],
        "boxes_image_xywh": boxes[index],
        "keypoints_image_xy": np.where(inside[..., None], persons.keypoints_image_xy, 0)[index].astype(np.float32),
        "visibility": visibility[index].astype(np.float32),
        "keypoint_weights": persons.keypoint_weights[index],
    }


def with_keypoints(annotations: Annotations, indices: np.ndarray) -> Annotations:
    """Returns annotations with some of the keypoints only. Persons with none of them labelled are ignored in AP.

    Args:
        annotations: The annotations.
        indices: (S,) indices of the keypoints to keep.
    """
    persons = annotations.persons
    visibility = persons.visibility[:, indices]
    num_labelled = (visibility > 0).sum(axis=1)
    kept = replace(
        persons,
        keypoints_image_xy=persons.keypoints_image_xy[:, indices],
        visibility=visibility,
        keypoint_weights=persons.keypoint_weights[:, indices],
        num_keypoints=np.minimum(persons.num_keypoints, num_labelled),
    )
    return replace(annotations, skeleton=annotations.skeleton.part(indices), persons=kept)


def clipped_boxes(boxes_image_xywh: np.ndarray, sizes_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (P, 4) boxes clipped to their images, and a (P,) mask of the boxes that are not empty after that.

    As in HRNet's data loaders, a box spans the pixels x to x + w - 1, and the last pixel of an image is W - 1.
    """
    low = np.maximum(boxes_image_xywh[:, :2], 0)
    last = boxes_image_xywh[:, :2] + np.maximum(boxes_image_xywh[:, 2:] - 1, 0)
    high = np.minimum(last, _known(sizes_hw) - 1)
    return np.concatenate([low, np.maximum(high - low, 0)], axis=1), (high >= low).all(axis=1)


def inside_image(keypoints_image_xy: np.ndarray, sizes_hw: np.ndarray) -> np.ndarray:
    """Returns a (P, K) mask of the keypoints in their image, in coordinates of pixel centres or pixel edges."""
    high = _known(sizes_hw)[:, None]
    return ((keypoints_image_xy >= -0.5) & (keypoints_image_xy <= np.minimum(high, MAX_COORDINATE))).all(axis=-1)


def _known(sizes_hw: np.ndarray) -> np.ndarray:
    """Returns (P, 2) width and height, infinite if unknown."""
    return np.where(sizes_hw > 0, sizes_hw, np.inf)[:, ::-1]


def _read(path, skeleton, category, allow_outside) -> tuple[Annotations, Problems]:
    path = Path(path).expanduser()
    problems, table = Problems(str(path)), AnnotationTable(path)
    members = read_object(path, "annotations", table.extend)
    for key in ("images", "annotations", "categories"):
        if type(members.get(key)) is not list:
            kind = f"'{key}' is a {type(members[key]).__name__}" if key in members else f"keys {sorted(members)[:10]}"
            raise UserError(f"{path}: a COCO file needs the list '{key}'. Received: {kind}.")
        for place, row in enumerate(members[key]):
            if type(row) is not dict:
                raise UserError(f"{path}: {key}[{place}] must be an object. Received: {str(row)[:60]!r}.")
    chosen = categories.choose(members["categories"], category, path)
    skeleton = categories.skeleton_of(chosen, skeleton, problems)
    category_id = _category_id(chosen, path)
    images = _images(members["images"], problems, allow_outside)
    persons = table.persons(images["image_ids"], category_id, len(members["categories"]), skeleton, problems)
    annotations = Annotations(str(path), skeleton, category_id, **images, persons=persons)
    _remark(annotations, problems)
    return replace(annotations, problems=tuple(problems)), problems


def _category_id(category: dict, path) -> int:
    ids, bad, _ = whole_numbers([category.get("id")])
    if bad[0]:
        raise UserError(f"{path}: the `id` of a category must be an integer. Received: {category.get('id')!r}.")
    return int(ids[0])


def _images(rows: list[dict], problems: Problems, allow_outside: bool) -> dict:
    """Returns the columns of `Annotations` that describe images."""

    def add(severity, what, chosen, done):
        problems.add(severity, what, ids[chosen], done, "image ids")

    ids, bad, text = whole_numbers([row.get("id") for row in rows])
    what = f"`images` without an integer as `id`{example([row.get('id') for row in rows], bad)}"
    problems.add("error", what, np.flatnonzero(bad), "Number them.", "entries")
    add("repair", "`images` with a string as `id`", text, "Read as numbers.")
    add("error", "Image ids that occur twice", ~bad & _repeated(ids), "Give each image its own id.")
    sizes = np.zeros((len(rows), 2), np.int64)
    for axis, key in enumerate(("height", "width")):
        given = [row.get(key) for row in rows]
        values, wrong, missing, text = numbers(given)
        add("repair", f"Images with a string as `{key}`", text, "Read as numbers.")
        wrong |= ~missing & ((values < 1) | (values > MAX_COORDINATE) | (values != np.floor(values)))
        add("error", f"Images whose `{key}` is not a number of pixels{example(given, wrong)}", wrong, "Correct it.")
        add("note", f"Images without `{key}`", missing, "Boxes are not clipped.")
        sizes[:, axis] = np.where(wrong | missing, 0, values)
    given = [row.get("crowdIndex") for row in rows]
    crowd_index, wrong, missing, _ = numbers(given)
    done = "They count in none of easy, medium and hard."
    add("repair", f"Images whose `crowdIndex` is not a number{example(given, wrong)}", wrong, done)
    add("note", "Images without `crowdIndex`", missing & (not missing.all()), done)
    odd = (crowd_index > 1) | (crowd_index < 0)
    add("note", "Images whose `crowdIndex` is not in 0 … 1", odd, "Used without change.")
    names = _file_names(rows, add, allow_outside)
    return dict(image_ids=ids, file_names=names, image_sizes_hw=sizes, crowd_index=crowd_index)


def _file_names(rows: list[dict], add: Callable, allow_outside: bool) -> list[str]:
    names = [row.get("file_name") or "" for row in rows]
    wrong = [place for place, name in enumerate(names) if type(name) is not str or "\0" in name]
    what = "Images whose `file_name` is not a string"
    add("error", what + (f", such as {shown(names[wrong[0]])}" if wrong else ""), wrong, "Correct it.")
    for place in wrong:
        names[place] = ""
    climbing = [place for place, name in enumerate(names) if not allow_outside and leaves_folder(name)]
    if climbing:
        what = f"File names outside the image folder, such as {names[climbing[0]]!r}"
        add("error", what, climbing, "Make them relative to the image folder, or allow this with `allow_outside=True`.")
    column = np.array(names, object).astype(str)
    add("note", "Images without `file_name`", column == "", "They can be evaluated, but not opened.")
    add("error", "Images with the same `file_name`", _repeated(column) & (column != ""), "List each image once.")
    return names


def leaves_folder(name: str) -> bool:
    """Returns whether a file name is absolute, or points outside its folder with ".."."""
    if ".." not in name and ":" not in name and not name.startswith(("/", "\\", "~")):
        return False
    windows = PureWindowsPath(name)  # accepts both separators
    return ".." in windows.parts or bool(windows.drive) or name.startswith(("/", "\\", "~"))


def _repeated(values: np.ndarray) -> np.ndarray:
    """Returns a mask of repeated values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse] > 1


def _remark(annotations: Annotations, problems: Problems) -> None:
    """Adds notes about values that are valid but unusual."""
    persons, sizes_hw = annotations.persons, annotations.image_sizes_hw[annotations.persons.image_index]
    boxes_xywh = persons.boxes_image_xywh
    _, usable = clipped_boxes(boxes_xywh, sizes_hw)
    away = persons.ids[persons.has_box & ~usable]
    problems.add("repair", "Boxes outside their image", away, "Not used for training.")
    excess = np.maximum(-boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:] - _known(sizes_hw))
    over = persons.ids[persons.has_box & usable & (excess > 1).any(axis=1)]
    problems.add("note", "Boxes that exceed the image by more than a pixel", over, "Clipped for training.")
    outside = (persons.visibility > 0) & ~inside_image(persons.keypoints_image_xy, sizes_hw)
    done = "Ignored in training, counted in evaluation."
    problems.add("note", "Labelled keypoints outside their image", persons.ids[outside.any(axis=1)], done)
    if not (persons.num_keypoints > 0).any():
        problems.say("note", "No annotation has a labelled keypoint", "There is no person to train on or to evaluate.")
