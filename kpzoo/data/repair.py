"""Repaired copies of COCO keypoint files: values are repaired where possible, other entries are removed."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kpzoo.data import coco
from kpzoo.data.annotation_table import AnnotationTable, Persons
from kpzoo.data.check import Check
from kpzoo.data.columns import whole_numbers
from kpzoo.data.json_file import read_json
from kpzoo.data.problems import Problems
from kpzoo.errors import UserError
from kpzoo.files import naming, write_json


def write_repaired(found: Check, out: str | Path, *, allow_outside: bool = False) -> tuple[Path, Mapping[str, int]]:
    """Writes a repaired copy of a checked annotation file to a folder that can be used like the original one.

    The folder gets `annotations/NAME.json`, written atomically, and, if the images were checked, `images/NAME`, a link
    to the image folder. Several splits can be written to one folder.

    Args:
        found: Result of `check` for the file.
        out: Output folder.
        allow_outside: See `check`.

    Returns:
        The new annotation file, and the number of changes of each kind.

    Raises:
        UserError: If the files exist already or cannot be written.
    """
    path = Path(found.annotations.path)
    check_unused(out, path)
    content, done = read_json(path), Counter()
    content["images"] = _images(content["images"], found, allow_outside, done)
    content["categories"] = [_category(row, found) for row in content["categories"]]
    content["annotations"] = _annotations(content, found, done)
    return write_linked(out, path, content, found.image_folder), done


def check_unused(out: str | Path, path: Path) -> None:
    """Raises an error if a folder has annotations or images of the name that `write_linked` would write."""
    if any(os.path.lexists(one) for one in _places(out, path)):
        raise UserError(f"{str(_places(out, path)[0])!r} or its images exist already. Choose another folder.")


def write_linked(out: str | Path, path: Path, content: dict, image_folder: Path | None) -> Path:
    """Writes annotations to `out/annotations/NAME.json`, and a link to their images, `out/images/NAME`.

    Args:
        out: The folder.
        path: Annotation file whose name is taken.
        content: Content of the new file.
        image_folder: Folder of the images; None for no link.

    Returns:
        The new annotation file.
    """
    target, link = _places(out, path)
    if image_folder:
        with naming(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image_folder.resolve(), target_is_directory=True)
    try:
        return write_json(target, content)
    except UserError:
        link.unlink(missing_ok=True)
        raise


def _places(out: str | Path, path: Path) -> tuple[Path, Path]:
    out, name = Path(out).expanduser(), path.name.removesuffix(".gz").removesuffix(".json")
    return out / "annotations" / f"{name}.json", out / "images" / name


def _images(rows: list[dict], found: Check, allow_outside: bool, done: Counter) -> list[dict]:
    """Returns the images with a unique id and name that can be decoded, with their names on disk and actual sizes."""
    kept, ids, names, decoded = [], set(), set(), found.decoded
    numbers, bad, _ = whole_numbers([row.get("id") for row in rows])
    for row, number, no_id in zip(rows, numbers.tolist(), bad.tolist(), strict=True):
        name = row.get("file_name") or ""
        wrong = type(name) is not str or "\0" in name or (not allow_outside and coco.leaves_folder(name))
        if no_id or wrong or number in ids or name in names or isinstance(decoded.get(name), str):
            done["images removed"] += 1
            continue
        ids.add(number)
        names |= {name} - {""}
        size = decoded.get(name) or (_size(row.get("height")), _size(row.get("width")))
        repaired = {**row, "id": number, "height": size[0], "width": size[1]}
        repaired |= {"file_name": found.renamed[name]} if name in found.renamed else {}
        repaired = {key: value for key, value in repaired.items() if value is not None}
        done["images repaired"] += repaired != row
        kept.append(repaired)
    return kept


def _size(value) -> int | None:
    numbers, bad, _ = whole_numbers([value])
    return int(numbers[0]) if not bad[0] and numbers[0] > 0 else None


def _category(row: dict, found: Check) -> dict:
    """Returns a category with what was understood of its keypoints' names and links."""
    if whole_numbers([row.get("id")])[0][0] != found.annotations.category_id:
        return row
    skeleton = found.annotations.skeleton
    read = {"keypoints": list(skeleton.keypoints), "skeleton": (skeleton.link_indices + 1).tolist()}
    return {**row, **{key: value for key, value in read.items() if row.get(key)}}


def _annotations(content: dict, found: Check, done: Counter) -> list[dict]:
    """Returns the valid annotations of the checked category, and the unchanged annotations of other categories."""
    read, rows = found.annotations, content["annotations"]
    only = len(content["categories"]) == 1
    categories, bad, _ = whole_numbers([row.get("category_id", read.category_id if only else None) for row in rows])
    own = ~bad & (categories == read.category_id)
    mine = _renumbered([row for row, is_own in zip(rows, own, strict=True) if is_own], done)
    table, problems = AnnotationTable(read.path), Problems(read.path)
    table.extend(mine)
    image_ids = np.array([row["id"] for row in content["images"]], np.int64)
    persons = table.persons(image_ids, read.category_id, len(content["categories"]), read.skeleton, problems)
    sizes_hw = np.array([[row.get(side) or 0 for side in ("height", "width")] for row in content["images"]])
    _, usable = coco.clipped_boxes(persons.boxes_image_xywh, sizes_hw.reshape(-1, 2)[persons.image_index])
    persons = persons.take(persons.has_box & usable)
    by_id, ids = {row["id"]: row for row in mine}, persons.ids.tolist()
    repaired = [_repaired(by_id[number], persons, place, read.category_id) for place, number in enumerate(ids)]
    done["annotations removed"] += len(mine) - len(repaired) + int(bad.sum())
    done["annotations repaired"] += sum(row != by_id[row["id"]] for row in repaired)
    others = [row for row, is_own, is_bad in zip(rows, own, bad, strict=True) if not (is_own or is_bad)]
    known = np.isin(whole_numbers([row.get("image_id") for row in others])[0], image_ids)
    return [*repaired, *(row for row, is_known in zip(others, known, strict=True) if is_known)]


def _renumbered(rows: list[dict], done: Counter) -> list[dict]:
    """Returns the annotations with unique ids above 0. The first annotation with an id keeps it."""
    ids, bad, _ = whole_numbers([row.get("id") for row in rows])
    taken, upcoming = set(), int(ids.max(initial=0)) + 1
    renumbered = []
    for row, number, no_id in zip(rows, ids.tolist(), bad.tolist(), strict=True):
        if no_id or number == 0 or number in taken:
            number, upcoming = upcoming, upcoming + 1
            done["annotations renumbered"] += 1
        taken.add(number)
        renumbered.append({**row, "id": number})
    return renumbered


def _repaired(row: dict, persons: Persons, place: int, category_id: int) -> dict:
    """Returns an annotation with missing and invalid values replaced by those that were read."""
    values = {
        "image_id": int(persons.image_ids[place]),
        "category_id": category_id,
        "iscrowd": int(persons.is_crowd[place]),
        "num_keypoints": int(persons.num_keypoints[place]),
        "area": float(persons.area[place]),
        "bbox": persons.boxes_image_xywh[place].tolist(),
    }
    triples = np.concatenate([persons.keypoints_image_xy[place], persons.visibility[place][:, None]], axis=1)
    given = row.get("keypoints")
    if given is None or not np.array_equal(triples.ravel(), given):
        values["keypoints"] = triples.ravel().tolist()
    changed = {key: value for key, value in values.items() if type(row.get(key)) is bool or row.get(key) != value}
    return {**row, **changed}
