"""Reads Label Studio's JSON and JSON-MIN exports: key points and rectangles in percent of the picture."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from kpzoo.convert import kinds, values
from kpzoo.convert.finding import PICTURES, Source
from kpzoo.convert.grouping import Group, Joint, Rectangle, grouped, person_of
from kpzoo.convert.labelme import HIDDEN
from kpzoo.convert.model import Category, Export, Picture, in_known_order
from kpzoo.data.json_file import read_json
from kpzoo.errors import UserError


def read(source: Source) -> Export:
    """Reads all files. A person is a parent, else what relations join, else the smallest rectangle with the points."""
    export, found = Export(), []
    for path in source.with_suffix(".json"):
        content = read_json(path)
        if kinds.json_kind(content) == "labelstudio":
            tasks = content if type(content) is list else [content]
            for number, task in enumerate(tasks):
                one = _task(values.mapping(task, f"{path}[{number}]"), f"{path}: task {number}", path, source, export)
                found += [one] if one else []
        elif source.is_file:
            raise UserError(f"{path} is not Label Studio's JSON: it needs tasks with 'data' and 'annotations'.")
    order, names = _config_order(source), {}
    for _, groups in found:
        for group in groups:
            names.setdefault(_label(group), []).extend(group.joints)
    categories = {}
    for label, own in names.items():
        own = values.unique(own)
        categories[label] = Category(label, order if order and set(own) <= set(order) else in_known_order(own))
    for picture, groups in found:
        picture.persons = [person_of(group, categories[_label(group)]) for group in groups]
        export.pictures.append(picture)
    return export


def _label(group: Group) -> str:
    return group.box.label if group.box else "person"


def _config_order(source: Source) -> list[str]:
    """Returns the keypoints in the order of the labelling configuration, if it is beside the export."""
    for path in source.with_suffix(".xml") if not source.is_file else ():
        try:
            text = values.text_of(path)
            root = ElementTree.fromstring(text) if "KeyPointLabels" in text and "<!" not in text else None
        except (UserError, ElementTree.ParseError, ValueError):
            continue
        control = root.find(".//KeyPointLabels") if root is not None else None
        if control is not None:
            labels = [(one.get("model_index", ""), one.get("value", "")) for one in control.iter("Label")]
            if all(index.isdecimal() for index, _ in labels):
                labels.sort(key=lambda one: int(one[0][:9]))
            return values.unique([value for _, value in labels if value])
    return []


def _task(task: dict, place: str, path: Path, source: Source, export: Export) -> tuple[Picture, list[Group]] | None:
    if "annotations" in task or "completions" in task or "predictions" in task:
        name = _image(values.mapping(task.get("data", {}), f"{place}: data"), place)
        regions = _regions(task, place, export)
    else:
        name = _image(task, place)
        regions = [one for key, value in task.items() if type(value) is list for one in _min_regions(value, key)]
    joints, boxes, sizes = _shapes(regions, place, export)
    groups = grouped(joints, boxes, export.notes, name)
    found = source.picture(name, place, path.parent)
    return None if found is None else (Picture(name, found, sizes, split=source.split_of(found)), groups)


def _image(data: dict, place: str) -> str:
    """Returns the value that names a picture, whatever its key is called."""
    texts = {key: value for key, value in data.items() if type(value) is str and value.strip()}
    for key in ("image", "img"):
        if key in texts:
            return texts[key]
    named = [value for value in texts.values() if value.lower().split("?")[0].endswith(PICTURES)]
    named += [value for value in texts.values() if value.lower().endswith(PICTURES) or "?d=" in value]
    if not named:
        raise UserError(f"{place}: no value names a picture. Received the keys {list(data)[:10]}.")
    return named[0]


def _regions(task: dict, place: str, export: Export) -> list[dict]:
    """Returns the regions of one annotation of a task: the ground truth, else the last one that is not cancelled."""
    done = values.items(task.get("annotations") or task.get("completions") or [], f"{place}: annotations")
    done = [values.mapping(one, f"{place}: annotation") for one in done]
    done = [one for one in done if not one.get("was_cancelled") and type(one.get("result")) is list]
    if len(done) > 1:
        what = "annotations of the same picture are not read: the ground truth or the last one is"
        export.notes.add(what, place, len(done) - 1)
    if not done:
        if task.get("predictions"):
            export.notes.add("pictures have predictions only, which are not read", place)
        return []
    chosen = next((one for one in done if one.get("ground_truth") is True), done[-1])
    regions = [values.mapping(one, f"{place}: result") for one in chosen["result"]]
    parents = _related(regions)
    hidden = {
        one.get("id")
        for one in regions
        if one.get("type") == "choices" and _choice(one.get("value")) and type(one.get("id")) is str
    }
    for one in regions:
        if type(one.get("id")) is str:
            one["group"] = parents.get(one["id"])
            one["hidden"] = one["id"] in hidden
    return regions


def _choice(value: Any) -> bool:
    choices = value.get("choices") if type(value) is dict else None
    return type(choices) is list and any(str(choice).lower() in HIDDEN for choice in choices)


def _related(regions: list[dict]) -> dict[str, str]:
    """Returns the group of each region that has one: that of its parent, or of the rectangle it is related to."""
    ids = {one["id"]: one for one in regions if type(one.get("id")) is str and one.get("type") != "choices"}
    rectangles = {key for key, one in ids.items() if str(one.get("type")).startswith("rectangle")}
    groups = {key: key for key in rectangles}
    for key, one in ids.items():
        if type(one.get("parentID")) is str:
            groups[key] = one["parentID"]
    edges = [(one.get("from_id"), one.get("to_id")) for one in regions if one.get("type") == "relation"]
    edges = [(a, b) for a, b in edges if type(a) is str and type(b) is str and a in ids and b in ids]
    for own, other in [*edges, *((b, a) for a, b in edges)]:
        if other in rectangles:
            groups.setdefault(own, other)
    joined: dict[str, str] = {}  # points that are related to each other, and a point that stands for them

    def root(key: str) -> str:
        while key in joined:
            key = joined[key]
        return key

    points = [edge for edge in edges if not rectangles & set(edge)]
    for a, b in points:
        if root(a) != root(b):
            joined[root(a)] = root(b)
    members = dict.fromkeys(end for edge in points for end in edge)
    known = {root(key): groups[key] for key in members if key in groups}
    for key in members:
        groups.setdefault(key, known.get(root(key), root(key)))
    used = {group for key, group in groups.items() if key not in rectangles}
    return {key: group for key, group in groups.items() if key not in rectangles or group in used}


def _min_regions(value: list, key: str) -> list[dict]:
    """Returns the regions of a control in the short format, as in the long one."""
    return [
        {"type": key, "value": one, **one} for one in value if type(one) is dict and ("x" in one or "points" in one)
    ]


def _shapes(regions: list[dict], place: str, export: Export) -> tuple[list[Joint], list[Rectangle], tuple | None]:
    """Returns the points and boxes in pixels, and the (height, width) that the regions name."""
    joints, boxes, size_hw = [], [], None
    for number, region in enumerate(regions):
        value = region.get("value")
        if type(value) is not dict:
            continue
        where = f"{place}: region {number}"
        if "keypointlabels" in value or region.get("type") == "keypoint":
            size_hw = _size(region, where)
            joint = _joint(value, region, size_hw, where)
            joints.append(joint)
        elif "rectanglelabels" in value or region.get("type") == "rectangle":
            size_hw = _size(region, where)
            boxes.append(_rectangle(value, region, size_hw, where))
        elif region.get("type") != "choices":
            kind = str(region.get("type"))[:30]
            export.notes.add(f"regions of the kind {kind} are not read", place)
    return joints, boxes, size_hw


def _size(region: dict, place: str) -> tuple[int, int]:
    return tuple(
        values.whole(region.get(f"original_{side}"), f"{place}: original_{side}", 1) for side in ("height", "width")
    )


def _joint(value: dict, region: dict, size_hw: tuple, place: str) -> Joint:
    labels = value.get("keypointlabels")
    name = values.name(labels[0] if type(labels) is list and labels else None, f"{place}: keypointlabels")
    x, y = (values.number(value.get(key), f"{place}: {key}") / 100 for key in ("x", "y"))
    return Joint(name, x * size_hw[1], y * size_hw[0], 1 if region.get("hidden") else 2, region.get("group"))


def _rectangle(value: dict, region: dict, size_hw: tuple, place: str) -> Rectangle:
    labels = value.get("rectanglelabels")
    label = values.name(labels[0], place) if type(labels) is list and labels else "person"
    numbers = [values.number(value.get(key), f"{place}: {key}") / 100 for key in ("x", "y", "width", "height")]
    x, y, width, height = (one * size_hw[1 - k % 2] for k, one in enumerate(numbers))
    corners = [x, y, x + width, y + height]
    degrees = values.number(value.get("rotation") or 0, f"{place}: rotation")
    if degrees:
        corners = _about_corner(corners, degrees)
    return Rectangle(label, values.box_of_corners(*corners), region.get("group"))


def _about_corner(corners: list[float], degrees: float) -> list[float]:
    """Returns the extent of a box that is turned clockwise about its first corner."""
    x, y = corners[:2]
    size = np.array([corners[2] - x, corners[3] - y])
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    ends = np.array([[0, 0], [size[0], 0], [0, size[1]], size]) @ np.array([[cos, sin], [-sin, cos]])
    return [*(ends.min(axis=0) + (x, y)).tolist(), *(ends.max(axis=0) + (x, y)).tolist()]
