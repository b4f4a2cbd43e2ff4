"""Reads COCO keypoint JSON of other tools: CVAT, Roboflow, CrowdPose, PoseTrack18, Halpe and their kin."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from kpzoo.convert import kinds, layouts, values
from kpzoo.convert.finding import Source, split_name
from kpzoo.convert.model import Category, Export, Person, Picture
from kpzoo.data.json_file import read_json
from kpzoo.errors import UserError


def read(source: Source) -> Export:
    """Reads all annotation files with keypoints. The size and the pixels of pictures are those of the files."""
    export = Export(upright=False)
    made: dict[tuple, Category] = {}
    for path in source.with_suffix(".json", ".json.gz"):
        content = read_json(path)
        if kinds.json_kind(content) != "coco":
            if source.is_file:
                raise UserError(f"{path} is not COCO JSON: it needs the lists `images` and `annotations`.")
            continue
        rows = [values.mapping(row, f"{path}: annotations") for row in values.items(content["annotations"], str(path))]
        if any(row.get("keypoints") for row in rows) or source.is_file:
            _file(path, content, rows, source, export, made)
        else:
            export.notes.add("annotation files without keypoints are not read", path.name)
    _keep_ids(export)
    return export


def _keep_ids(export: Export) -> None:
    """Keeps the ids of the images of a split if they differ, so that results that refer to them can be scored."""
    splits: dict[str, list[int]] = {}
    for picture in export.pictures:
        splits.setdefault(picture.split, []).append(picture.fields["id"])
    for picture in export.pictures:
        ids = splits[picture.split]
        if len(set(ids)) != len(ids):
            del picture.fields["id"]


def _file(path: Path, content: dict, rows: list[dict], source: Source, export: Export, made: dict) -> None:
    words = re.split(r"[^0-9A-Za-z]+", path.stem)
    split = source.split_of(path) or next((name for word in words if (name := split_name(word))), "")
    categories = _categories(path, content, rows, made, export)
    pictures: dict[int, Picture] = {}
    left_out = set()
    images = [values.mapping(row, f"{path}: images") for row in values.items(content["images"], f"{path}: images")]
    posetrack = any("vid_id" in row or "is_labeled" in row for row in images)
    for row in images:
        number = values.whole(row.get("id"), f"{path}: id of an image", 0)
        if number in pictures or number in left_out:
            raise UserError(f"{path}: two images have the id {number}.")
        picture = None if row.get("is_labeled") is False else _picture(path, row, number, split, source)
        if row.get("is_labeled") is False:
            export.notes.add("frames that are marked as not labelled are left out", str(row.get("file_name")))
        if picture is None:
            left_out.add(number)
            continue
        if row.get("ignore_regions_x"):
            export.notes.add("pictures have regions to ignore, which are not read", picture.name)
        pictures[number] = picture
    for row in rows:
        number = values.whole(row.get("image_id"), f"{path}: image_id of an annotation", 0)
        if number in pictures:
            person = _person(path, row, categories, posetrack, export)
            pictures[number].persons += [person] if person else []
        elif number not in left_out:
            raise UserError(f"{path}: an annotation has the image_id {number}, and no image has this id.")
    if posetrack:
        export.notes.add(
            "the only visibility is 1, which PoseTrack18 gives to all labelled joints: read as visible", path.name
        )
    export.pictures += pictures.values()


def _picture(path: Path, row: dict, number: int, split: str, source: Source) -> Picture | None:
    name = values.text(row.get("file_name"), f"{path}: file_name of image {number}")
    size = [row.get("height"), row.get("width")]
    size_hw = None if None in size else tuple(values.whole(one, f"{path}: size of image {number}", 1) for one in size)
    fields: dict[str, Any] = {"id": number}
    if type(row.get("crowdIndex")) in (int, float):
        fields["crowdIndex"] = values.number(row["crowdIndex"], f"{path}: crowdIndex of image {number}")
    found = source.picture(name, str(path), path.parent, split)
    return None if found is None else Picture(name, found, size_hw, [], split, fields)


def _categories(path: Path, content: dict, rows: list[dict], made: dict, export: Export) -> dict[int, Category]:
    """Returns the categories with keypoints by their id. Files of several splits share them."""
    counts: dict[Any, int] = {}
    for row in rows:
        points = row.get("keypoints")
        if type(points) is list and points and type(row.get("category_id")) in (int, type(None)):
            counts.setdefault(row.get("category_id"), len(points) // 3)
    given = values.items(content.get("categories") or [], f"{path}: categories")
    given = [values.mapping(one, f"{path}: categories") for one in given]
    if not given:
        given = [{"id": number, "name": "person"} for number in counts]
    found = {}
    for one in given:
        number = values.whole(one.get("id", 1) if one.get("id") is not None else 1, f"{path}: id of a category", 0)
        place = f"{path}: category {one.get('name', number)!r}"
        names = one.get("keypoints") or []
        names = list(names.values()) if type(names) is dict else values.items(names, place)
        names = [values.name(name, f"{place}: keypoints") for name in names]
        count = counts.get(number, len(names))
        if not names and not count:
            continue
        category = _category(one, names, count, place, export)
        key = (category.name, tuple(category.keypoints))
        found[number] = made.setdefault(key, category)
    return found


def _category(row: dict, names: list[str], count: int, place: str, export: Export) -> Category:
    label = values.name(row.get("name", "person"), f"{place}: name")
    if len(names) == count:
        return Category(label, names, _links(row.get("skeleton"), names, place, export), _flip_pairs(row, names))
    known = layouts.of_count(count)
    if known is None and names:
        raise UserError(f"{place} names {len(names)} keypoints, and its annotations have {count}.")
    if known is None:
        export.notes.add("keypoints without names are called by their number", place, count)
        return Category(label, [str(k) for k in range(1, count + 1)])
    export.notes.add("categories do not name their keypoints: the names follow from their number", place)
    return Category(label, known.keypoints, known.links, known.flip_pairs)


def _links(links, names: list[str], place: str, export: Export) -> list[tuple[str, str]]:
    """Returns the links of a category, without those to keypoints that there are not."""
    pairs = [pair for pair in links if type(pair) is list and len(pair) == 2] if type(links) is list else []
    pairs = [pair for pair in pairs if all(type(end) is int for end in pair)]
    start = 0 if any(0 in pair for pair in pairs) else 1
    good = [(a - start, b - start) for a, b in pairs if a != b]
    kept = [(names[a], names[b]) for a, b in good if 0 <= a < len(names) and 0 <= b < len(names)]
    if len(kept) < len(pairs):
        export.notes.add("links lead to keypoints that there are not", place, len(pairs) - len(kept))
    return kept


def _flip_pairs(row: dict, names: list[str]) -> list[tuple[str, str]] | None:
    """Returns the pairs that a category lists as kpzoo writes them; None if it lists none."""
    pairs = row.get("flip_pairs")
    if type(pairs) is not list or not all(type(pair) is list and len(pair) == 2 for pair in pairs):
        return None
    ends = [end for pair in pairs for end in pair]
    valid = all(type(end) is str and end in names for end in ends) and len(set(ends)) == len(ends)
    return [tuple(pair) for pair in pairs] if valid else None


def _person(path: Path, row: dict, categories: dict[int, Category], posetrack: bool, export: Export) -> Person | None:
    place = f"{path}: annotation {row.get('id')!s:.20}"
    key = row.get("category_id")
    key = next(iter(categories)) if key is None and len(categories) == 1 else key
    category = categories.get(key) if type(key) is int else None
    if category is None:
        if row.get("keypoints"):
            raise UserError(f"{place} is of category {key!r}, and no category with keypoints has this id.")
        export.notes.add("annotations of categories without keypoints are not read", place)
        return None
    points = row.get("keypoints") or [0] * (3 * len(category.keypoints))
    points = values.groups(
        values.numbers(points, f"{place}: keypoints"), 3, f"{place}: keypoints", len(category.keypoints)
    )
    keypoints, scores = _flags(points, place, posetrack, export)
    box = row.get("bbox")
    if box is not None:
        box = values.numbers(box, f"{place}: bbox")
        box = tuple(values.groups(box, 4, f"{place}: bbox", 1)[0].tolist()) if len(box) else None
    return Person(category, keypoints, box, scores, _fields(row, place, export))


def _flags(points: np.ndarray, place: str, posetrack: bool, export: Export) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns (K, 3) keypoints with a visibility of 0, 1 or 2, and confidences if the third values are these."""
    flags = points[:, 2]
    if (flags != np.floor(flags)).any() and flags.min() >= 0:
        return np.c_[points[:, :2], np.where(flags > 0, 2, 0)], flags
    if not np.isin(flags, (0, 1, 2)).all():
        raise UserError(f"{place}: the visibility of a keypoint must be 0, 1 or 2. Received: {flags.max():g}.")
    unseen = (flags == 0) & (points[:, :2] != 0).any(axis=1)
    if unseen.any() and not posetrack:
        what = "keypoints have coordinates and are marked as not labelled: they are not read"
        export.notes.add(what, place, int(unseen.sum()))
    return np.c_[points[:, :2], np.where(posetrack & (flags > 0), 2, flags)], None


def _fields(row: dict, place: str, export: Export) -> dict:
    """Returns what is carried of an annotation besides keypoints and box."""
    fields: dict[str, Any] = {}
    if type(row.get("area")) in (int, float) and row["area"] > 0:
        fields["area"] = min(float(row["area"]), values.MAX_COORDINATE**2)
    if row.get("segmentation"):
        if type(row["segmentation"]) in (list, dict):
            fields["segmentation"] = row["segmentation"]
    if row.get("iscrowd") in (1, True):
        fields["iscrowd"] = 1
    attributes = row.get("attributes") if type(row.get("attributes")) is dict else {}
    track = row.get("track_id", attributes.get("track_id"))
    if type(track) is int and abs(track) < 2**53:
        fields["track_id"] = track
    if type(row.get("score")) in (int, float):
        fields["score"] = values.number(row["score"], f"{place}: score")
    for key in ("bbox_head", "face_box", "lefthand_box", "attributes"):
        if row.get(key):
            export.notes.add(f"annotations have `{key}`, which is not read", place)
    return fields
