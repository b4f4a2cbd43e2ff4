"""Reads LabelMe's JSON, one file a picture, as LabelMe, X-AnyLabeling and others write it."""

import base64
import binascii
from functools import partial
from pathlib import Path

import numpy as np

from kpzoo.convert import kinds, values
from kpzoo.convert.finding import Source
from kpzoo.convert.grouping import Group, Joint, Rectangle, grouped, person_of
from kpzoo.convert.model import Category, Embedded, Export, Picture, in_known_order
from kpzoo.data.json_file import read_json
from kpzoo.errors import UserError

HIDDEN = ("occluded", "hidden", "invisible", "not visible")  # flags of a point that is not visible


def read(source: Source) -> Export:
    """Reads all files. A person is a `group_id`, else the smallest rectangle that holds the points."""
    export, found = Export(), []
    for path in source.with_suffix(".json"):
        content = read_json(path)
        if kinds.json_kind(content) == "labelme":
            found.append(_picture(path, content, source, export))
        elif source.is_file:
            raise UserError(f"{path} is not LabelMe's JSON: it needs `shapes` and `imagePath`.")
    declared, names = _declared(source), {}
    for _, groups in found:
        for group in groups:
            names.setdefault(_label(group), []).extend(group.joints)
    categories = {
        label: Category(label, _order(values.unique(own), declared.get(label))) for label, own in names.items()
    }
    for picture, groups in found:
        picture.persons = [person_of(group, categories[_label(group)]) for group in groups]
        if picture.source is not None:
            export.pictures.append(picture)
    return export


def _label(group: Group) -> str:
    return group.box.label if group.box else "person"


def _order(names: list[str], declared: list[str] | None) -> list[str]:
    """Returns the keypoints: those of the configuration if it has all, else in the order of a known skeleton."""
    return declared if declared and set(names) <= set(declared) else in_known_order(names)


def _declared(source: Source) -> dict[str, list[str]]:
    """Returns the keypoints of each class by X-AnyLabeling's configuration, if it is beside the labels."""
    for path in source.with_suffix(".yaml", ".yml") if not source.is_file else ():
        content = values.read_yaml(path)
        classes = content.get("classes") if type(content) is dict else None
        if type(classes) is dict and all(type(one) is list for one in classes.values()):
            return {str(label): values.unique(list(map(str, names))) for label, names in classes.items() if names}
    return {}


def _picture(path: Path, content: dict, source: Source, export: Export) -> tuple[Picture, list[Group]]:
    joints, boxes = [], []
    for number, shape in enumerate(values.items(content["shapes"], f"{path}: shapes")):
        _shape(values.mapping(shape, f"{path}: shapes[{number}]"), f"{path}: shapes[{number}]", joints, boxes, export)
    groups = grouped(joints, boxes, export.notes, path.name)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size_hw = None
    if height is not None and width is not None:
        size_hw = tuple(values.whole(value, f"{path}: size of the image", 1) for value in (height, width))
    name = values.text(content["imagePath"], f"{path}: imagePath")
    where = source.find(name, path.parent)
    data = content.get("imageData")
    if where is None and type(data) is str and data:
        base = name.replace("\\", "/").rpartition("/")[2]
        where = Embedded(base, partial(_decoded, data, str(path)))
        export.notes.add("pictures are taken from the label files", path.name)
    if where is None:
        source.missing(name, str(path))
    split = source.split_of(where) if isinstance(where, Path) else ""
    return Picture(name, where, size_hw, split=split), groups


def _decoded(data: str, place: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{place}: `imageData` is not a picture in base64.") from None


def _shape(shape: dict, place: str, joints: list[Joint], boxes: list[Rectangle], export: Export) -> None:
    label = values.name(shape.get("label"), f"{place}: label")
    group = shape.get("group_id")
    if group is not None and type(group) not in (int, str, float):
        raise values.wrong(f"{place}: group_id", "a number or null", group)
    kind = shape.get("shape_type") or ("point" if len(values.items(shape.get("points"), place)) == 1 else "polygon")
    points = [
        values.numbers(point, f"{place}: points") for point in values.items(shape.get("points"), f"{place}: points")
    ]
    if any(len(point) != 2 for point in points) or not points:
        raise values.wrong(f"{place}: points", "pairs [x, y]", shape.get("points"))
    if kind == "rectangle":
        boxes.append(Rectangle(label, values.box_of_points(np.array(points)), group))
    elif kind in ("point", "points"):
        if len(points) > 1:
            export.notes.add("shapes of several points are not read", place)
            return
        joints.append(Joint(label, *points[0].tolist(), _visibility(shape), group))
    else:
        export.notes.add(f"shapes of the kind {kind!s:.30} are not read", place)


def _visibility(shape: dict) -> int:
    """Returns 1 for a point that a flag calls hidden, or that X-AnyLabeling's `difficult` does; else 2."""
    flags = shape.get("flags")
    flagged = type(flags) is dict and any(flags.get(name) is True for name in HIDDEN)
    return 1 if flagged or shape.get("difficult") is True else 2
