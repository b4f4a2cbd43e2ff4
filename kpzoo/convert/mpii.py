"""Reads MPII: the authors' .mat file, and the JSON files that HRNet's authors made of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kpzoo import skeletons
from kpzoo.convert import kinds, matlab, values
from kpzoo.convert.finding import Source
from kpzoo.convert.model import Category, Export, Person, Picture
from kpzoo.data.json_file import read_json
from kpzoo.errors import UserError

NUM_JOINTS = 16
FIELDS = ("annolist", "image", "name", "annorect", "annopoints", "point", "x", "y", "id", "is_visible")


def read(source: Source) -> Export:
    """Reads all files. Coordinates are those of the files; boxes are the extent of the joints, as MPII has none."""
    export, category = Export(upright=False), Category.of(skeletons.MPII16)
    for path in source.with_suffix(".json", ".mat"):
        if path.suffix.lower() == ".mat":
            content = matlab.load(path, *FIELDS) if source.is_file or matlab.kind(path) == "mpii" else {}
            rows = _release(content, path, export) if content else iter(())
        else:
            content = read_json(path)
            known = kinds.json_kind(content) == "mpii"
            if not known and source.is_file:
                raise UserError(f"{path} is not HRNet's JSON of MPII: it needs 'image', 'joints' and 'joints_vis'.")
            rows = _json(content, path, export) if known else iter(())
        pictures: dict[str, Picture | None] = {}
        for name, keypoints in rows:
            if name not in pictures:
                found = source.picture(name, str(path))
                pictures[name] = None if found is None else Picture(name, found, split=path.stem.lower())
            if pictures[name] is not None and keypoints is not None:
                pictures[name].persons.append(Person(category, keypoints))
        export.pictures += [one for one in pictures.values() if one is not None]
    return export


def _json(content: list, path: Path, export: Export) -> Iterator[tuple[str, np.ndarray | None]]:
    for number, row in enumerate(content):
        place = f"{path}[{number}]"
        row = values.mapping(row, place)
        name = values.text(row.get("image"), f"{place}: image")
        if "joints" not in row:  # the test set
            yield name, None
            continue
        joints = values.items(row["joints"], f"{place}: joints")
        joints = np.array([values.groups(values.numbers(one, place), 2, place, 1)[0] for one in joints]).reshape(-1, 2)
        flags = values.numbers(row.get("joints_vis", [1] * len(joints)), f"{place}: joints_vis")
        if len(joints) != NUM_JOINTS or len(flags) != NUM_JOINTS:
            raise UserError(
                f"{place}: expected {NUM_JOINTS} joints. Received: {len(joints)} and {len(flags)} joints_vis."
            )
        missing = (joints <= 0).all(axis=1) | (flags <= 0)
        unused = missing & (joints > 0).any(axis=1)
        if unused.any():
            export.notes.add("joints have coordinates and `joints_vis` 0: they are not read", name, int(unused.sum()))
        yield name, np.c_[np.where(missing[:, None], 0, joints), np.where(missing, 0, 2)]


def _release(content: dict, path: Path, export: Export) -> Iterator[tuple[str, np.ndarray | None]]:
    release = matlab.rows(content.get("RELEASE"))
    if len(release) != 1:
        raise UserError(f"{path} has no structure `RELEASE`. Found: {sorted(content)[:10]}.")
    for number, row in enumerate(matlab.rows(release[0].get("annolist"))):
        image = matlab.rows(row.get("image"))
        name = image[0].get("name") if image else ""
        if type(name) is not str or not name.strip():
            raise UserError(f"{path}: annolist({number + 1}) has no image name.")
        persons = [_points(one, f"{path}: {name}", export) for one in matlab.rows(row.get("annorect"))]
        persons = [one for one in persons if one is not None]
        if not persons:
            export.notes.add("pictures without labelled joints, such as those of the test set, are left out")
        for keypoints in persons:
            yield name, keypoints


def _points(person: dict, place: str, export: Export) -> np.ndarray | None:
    """Returns the (16, 3) keypoints of a person; None if it has none."""
    points = [row for one in matlab.rows(person.get("annopoints")) for row in matlab.rows(one.get("point"))]
    keypoints = np.zeros((NUM_JOINTS, 3))
    for point in points:
        x, y, number, seen = (matlab.number(point.get(name)) for name in ("x", "y", "id", "is_visible"))
        if x is None or y is None or number is None or not 0 <= number < NUM_JOINTS or not number.is_integer():
            ids = f"an id from 0 to {NUM_JOINTS - 1}"
            raise UserError(f"{place}: a point needs x, y and {ids}. Received: {(x, y, number)}.")
        if not (values.finite(x) and values.finite(y)):
            raise UserError(f"{place}: a point has the coordinates {x}, {y}.")
        keypoints[int(number)] = (x, y, 1 if seen == 0 else 2)
    if not points:
        export.notes.add("persons without joints are not read", place)
        return None
    return keypoints
