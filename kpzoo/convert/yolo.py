"""Reads Ultralytics YOLO-pose folders: a YAML file with `kpt_shape`, and a text file of labels for each picture."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from kpzoo import skeletons
from kpzoo.convert import finding, values
from kpzoo.convert.finding import Source
from kpzoo.convert.model import Category, Export, Person, Picture
from kpzoo.errors import UserError

MAX_CONFIG = 10_000_000  # bytes of a YAML file
MAX_KEYPOINTS = 10_000
REACH = 2.0  # how far labelled points may lie outside of the picture, in its sizes


def config_of(source: Source) -> tuple[Path, dict] | None:
    """Returns the YAML file with `kpt_shape` and its content; None if there is none."""
    for path in source.with_suffix(".yaml", ".yml"):
        text = values.text_of(path) if path.stat().st_size <= MAX_CONFIG else ""
        content = values.read_yaml(path) if "kpt_shape" in text else None
        if type(content) is dict and "kpt_shape" in content:
            return path, content
    return None


def read(source: Source) -> Export:
    """Reads the labels of all splits. Pictures without labels have no persons."""
    found = config_of(source)
    if found is None:
        raise UserError(f"{str(source.source)!r} has no YAML file with `kpt_shape`, the number of keypoints.")
    path, config = found
    export = Export()
    categories, dims = _categories(path, config, export)
    if source.is_file:
        source = _folder_of(source)
    listed = _listed(path, config, source)
    labels = set(source.with_suffix(".txt"))
    in_folders = [one for one in labels if _is_label(one)]
    stems = Counter(one.stem for one in in_folders)
    by_stem = {one.stem: one for one in in_folders if stems[one.stem] == 1}
    for picture in source.pictures():
        label = _label_of(picture, labels) or by_stem.get(picture.stem)
        labels.discard(label)
        size_hw = finding.upright_hw(picture)
        split = listed.get(picture) or source.split_of(picture) or "train"
        read = Picture(picture.name, picture, size_hw, split=split)
        if label is not None:
            read.persons = _persons(label, size_hw, categories, dims, export)
        export.pictures.append(read)
    for label in sorted(labels):
        if _is_label(label):
            source.missing(f"{label.stem}.jpg", str(label))
    return export


def _folder_of(source: Source) -> Source:
    """Returns the folder of a YAML file as the source."""
    return Source(source.source.parent, None if source.folder == source.root else source.folder, source.skip_missing)


def _categories(path: Path, config: dict, export: Export) -> tuple[dict[int, Category], int]:
    """Returns the categories by the number of their class, and the values of a keypoint."""
    shape = config["kpt_shape"]
    valid = type(shape) is list and len(shape) == 2 and all(type(one) is int for one in shape)
    if not valid or not 1 <= shape[0] <= MAX_KEYPOINTS or shape[1] not in (2, 3):
        raise values.wrong(f"{path}: `kpt_shape`", "[number of keypoints, 2 or 3]", shape)
    names = config.get("names", {0: "person"})
    names = dict(enumerate(names)) if type(names) is list else names
    if type(names) is not dict or not names or not all(str(key).isdecimal() for key in names):
        raise values.wrong(f"{path}: `names`", "names of the classes", names)
    order = _flip_order(path, config, shape[0])
    categories = {}
    for key, label in names.items():
        place = f"{path}: `names`"
        keypoints, links = _keypoint_names(path, config, key, shape[0], order, export)
        flip_pairs = None
        if order and order != list(range(shape[0])):
            flip_pairs = [(keypoints[a], keypoints[b]) for a, b in enumerate(order) if a < b]
        categories[int(key)] = Category(values.name(label, place), keypoints, links, flip_pairs)
    if order == list(range(shape[0])):
        what = "`flip_idx` swaps nothing, as exports have it by default: sides are those of the keypoint names"
        export.notes.add(what, path.name)
    return categories, shape[1]


def _flip_order(path: Path, config: dict, count: int) -> list[int] | None:
    order = config.get("flip_idx")
    if order in (None, []):
        return None
    valid = type(order) is list and all(type(one) is int for one in order) and sorted(order) == list(range(count))
    if not valid or any(order[order[k]] != k for k in order):
        raise values.wrong(f"{path}: `flip_idx`", f"the mirror image of each of {count} keypoints", order)
    return order


def _keypoint_names(path, config: dict, key, count: int, order, export: Export) -> tuple[list[str], list]:
    """Returns the names and links of the keypoints of a class. Without names, 17 keypoints are COCO's."""
    names = config.get("kpt_names")
    names = names.get(key, next(iter(names.values()), None)) if type(names) is dict else names
    if names:
        names = [values.name(one, f"{path}: `kpt_names`") for one in values.items(names, f"{path}: `kpt_names`")]
        if len(names) != count or len(set(names)) != count:
            raise values.wrong(f"{path}: `kpt_names`", f"{count} different names", names)
        return names, []
    coco = skeletons.COCO17
    if count == coco.num_keypoints and order in (None, list(range(count)), coco.flip_order.tolist()):
        export.notes.add("17 keypoints without names are read as those of COCO, in COCO's order", path.name)
        return list(coco.keypoints), list(coco.links)
    export.notes.add("keypoints without names are called by their number", path.name, count)
    return [str(k) for k in range(1, count + 1)], []


def _listed(path: Path, config: dict, source: Source) -> dict[Path, str]:
    """Returns the splits of pictures that the YAML file names: its list files, folders and files."""
    splits: dict[Path, str] = {}
    for key, places in config.items():
        split = finding.split_name(str(key))
        if not split:
            continue
        for place in places if type(places) is list else [places]:
            if type(place) is not str or not place.strip():
                continue
            parts = finding.parts_of(place)
            for picture in _pictures_at(parts, path.parent, source):
                splits.setdefault(picture, split)
    return splits


def _pictures_at(parts: list[str], root: Path, source: Source) -> list[Path]:
    """Returns the pictures of a list file or folder, whose path may be that of another computer."""
    if parts and parts[-1].lower().endswith(".txt"):
        lists = [one for one in source.with_suffix(".txt") if one.name == parts[-1]]
        lines = values.text_of(lists[0]).splitlines() if len(lists) == 1 else []
        return [found for line in lines if line.strip() and (found := source.find(line.strip(), root))]
    for start in range(len(parts)):
        folder = root.joinpath(*parts[start:])
        if folder.is_dir():
            return [one for one in source.pictures() if folder in one.parents]
    return []


def _label_of(picture: Path, labels: set[Path]) -> Path | None:
    """Returns the label file of a picture: beside it, or in `labels` where its path has `images`."""
    parts = picture.with_suffix(".txt").parts
    names = [part.lower() for part in parts]
    for index in range(len(parts) - 2, -1, -1):
        if names[index] == "images":
            for folder in ("labels", "Labels", "LABELS"):
                label = Path(*parts[:index], folder, *parts[index + 1 :])
                if label in labels:
                    return label
    beside = picture.with_suffix(".txt")
    return beside if beside in labels else None


def _is_label(path: Path) -> bool:
    """Returns whether a text file lies in a folder of labels."""
    return any(part.lower() == "labels" for part in path.parts[:-1])


def _persons(label: Path, size_hw, categories: dict[int, Category], dims: int, export: Export) -> list[Person]:
    persons = []
    for line, row in enumerate(values.text_of(label).splitlines(), 1):
        place = f"{label}:{line}"
        words = row.split()
        if words:
            numbers = np.array([values.parsed(word, place) for word in words])
            persons.append(_person(numbers, place, size_hw, categories, dims, export))
    return persons


def _person(numbers: np.ndarray, place: str, size_hw, categories: dict, dims: int, export: Export) -> Person:
    key = numbers[0]
    if key not in categories:
        raise UserError(f"{place}: class {key:g} is none of the `names`. Expected one of {sorted(categories)[:10]}.")
    category = categories[int(key)]
    count = len(category.keypoints)
    expected = 5 + count * dims
    fields = {}
    if len(numbers) == expected + 1 and 0 <= numbers[-1] <= 1:  # confidence, of results that were saved as labels
        fields["score"], numbers = float(numbers[-1]), numbers[:-1]
    size = np.array(size_hw[::-1], np.float64)
    if len(numbers) == 5:
        points = np.zeros((count, 3))
    elif len(numbers) == expected:
        points = numbers[5:].reshape(count, dims)
    else:
        text = f"expected 5 + {count} * {dims} = {expected} numbers. Received: {len(numbers)}."
        raise UserError(f"{place}: {text} Check `kpt_shape`.")
    points, scores = _with_visibility(points, place, export)
    labelled = points[:, 2] > 0
    if np.abs(points[labelled, :2] - 0.5).max(initial=0) > REACH or np.abs(numbers[1:5] - 0.5).max() > REACH:
        raise UserError(
            f"{place}: coordinates must be shares of the picture, from 0 to 1. Received: {numbers.max():g}."
        )
    keypoints = points * (*size, 1)
    center, extent = numbers[1:3] * size, numbers[3:5] * size
    box = (*(center - extent / 2).tolist(), *extent.tolist())
    return Person(category, keypoints, box, scores, fields)


def _with_visibility(points: np.ndarray, place: str, export: Export) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns (K, 3) points with a visibility of 0, 1 or 2, and confidences if the third value is one."""
    if points.shape[1] == 2:
        return np.c_[points, np.where((points != 0).any(axis=1), 2, 0)], None
    flags = points[:, 2]
    if not ((flags >= 0) & (flags <= 2)).all():
        raise UserError(f"{place}: the visibility of a keypoint must be 0, 1 or 2. Received: {flags.max():g}.")
    if (flags != np.floor(flags)).any():
        if flags.max() > 1:
            raise UserError(f"{place}: the third value of a keypoint must be 0, 1 or 2, or a confidence from 0 to 1.")
        return np.c_[points[:, :2], np.where(flags > 0, 2, 0)], flags
    unseen = (flags == 0) & (points[:, :2] != 0).any(axis=1)
    if unseen.any():
        what = "keypoints have coordinates and are marked as not labelled: they are not read"
        export.notes.add(what, os.path.basename(place), int(unseen.sum()))
    return points, None
