"""Reads CVAT's XML 1.1, of images and of videos: skeletons, points and boxes."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from kpzoo.convert import values
from kpzoo.convert.finding import VIDEOS, Source, split_name
from kpzoo.convert.grouping import Group, Joint, Rectangle, grouped, holds, person_of
from kpzoo.convert.model import Box, Category, Export, Frame, Person, Picture
from kpzoo.errors import UserError

OTHER_SHAPES = ("polygon", "polyline", "mask", "ellipse", "cuboid", "tag")


@dataclass(eq=False)
class _Labels:
    """The labels that a task declares: sub-labels and links of skeletons, and categories made of all."""

    skeletons: dict[str, list[str]] = field(default_factory=dict)
    links: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    categories: dict[tuple, Category] = field(default_factory=dict)
    joints: dict[str, list[str]] = field(default_factory=dict)  # names of single points, by category


@dataclass(eq=False)
class _Shapes:
    """The shapes of a picture.

    Args:
        skeletons: (element, track or None) of each skeleton and of each shape of several points.
        joints: Single points.
        boxes: Boxes with their attributes.
    """

    skeletons: list[tuple[Element, int | None]] = field(default_factory=list)
    joints: list[Joint] = field(default_factory=list)
    boxes: list[tuple[Rectangle, dict[str, str]]] = field(default_factory=list)


def read(source: Source) -> Export:
    """Reads all XML files. Each picture gets its shapes; persons get the box of their group, or the one around them."""
    export, labels, read_files = Export(), _Labels(), []
    for path in source.with_suffix(".xml"):
        if not source.is_file and b"<annotations" not in path.read_bytes()[:4096]:
            continue
        read_files.append((path, list(_pictures(path, labels, source, export))))
    if not read_files:
        raise UserError(f"{str(source.source)!r} has no XML file with <annotations>, as CVAT writes it.")
    for _, pictures in read_files:
        for picture, shapes in pictures:
            for name, group in _alone(shapes, picture.name, export):
                labels.joints.setdefault(name, []).extend(group.joints)
    for path, pictures in read_files:
        for picture, shapes in pictures:
            picture.persons = _persons(shapes, picture.name, labels, export, str(path))
            export.pictures.append(picture)
    return export


def _elements(path: Path) -> Iterator[Element]:
    """Yields the task's description, the pictures and the tracks of a file, each when it is complete."""
    head = path.read_bytes()[:100_000]
    if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
        raise UserError(f"{path} declares entities, which CVAT's files do not have. It is not read.")
    try:
        for _, element in ElementTree.iterparse(path):
            if element.tag in ("meta", "image", "track"):
                yield element
                if element.tag != "meta":
                    element.clear()
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not XML: {error}. It may be cut off.") from None
    except (ValueError, LookupError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not XML: {error}.") from None


def _pictures(path: Path, labels: _Labels, source: Source, export: Export) -> Iterator[tuple[Picture, _Shapes]]:
    meta, tracks, num_images = Element("meta"), {}, 0
    for element in _elements(path):
        if element.tag == "meta":
            meta = element
            _declare(element, labels)
        elif element.tag == "image":
            num_images += 1
            yield from _image(element, path, source, export)
        else:
            _track(element, path, tracks, export)
    if tracks:
        yield from _frames(tracks, meta, path, source)
    elif not num_images and meta.find(".//labels") is None:
        raise UserError(f"{path} has neither <image> nor <track>. Export it as CVAT 1.1.")


def _declare(meta: Element, labels: _Labels) -> None:
    for label in meta.iter("label"):
        name, parent = label.findtext("name") or "", label.findtext("parent") or ""
        if parent:
            labels.skeletons.setdefault(parent, []).append(name)
        elif label.findtext("type") == "skeleton":
            svg = label.findtext("svg") or ""
            nodes = dict(re.findall(r'data-element-id="(\w+)"[^>]*?data-label-name="([^"]*)"', svg))
            ends = re.findall(r'data-node-from="(\w+)"[^>]*?data-node-to="(\w+)"', svg)
            labels.links[name] = [(nodes[a], nodes[b]) for a, b in ends if a in nodes and b in nodes and a != b]


def _image(element: Element, path: Path, source: Source, export: Export) -> Iterator[tuple[Picture, _Shapes]]:
    name = values.text(element.get("name"), f"{path}: name of an <image>")
    place = f"{path}: image {name!r}"
    size_hw = (_count(element.get("height"), place), _count(element.get("width"), place))
    shapes = _Shapes()
    for shape in element:
        _add(shape, shape.get("label", ""), None, shapes, place, export)
    found = source.picture(name, str(path), path.parent)
    if found is not None:
        split = split_name(element.get("subset") or "") or source.split_of(found)
        yield Picture(name, found, size_hw, split=split), shapes


def _count(text: str | None, place: str) -> int:
    return values.whole(values.parsed(text, place), place, 1)


def _track(track: Element, path: Path, frames: dict[int, _Shapes], export: Export) -> None:
    """Adds the shapes of a track to their frames. A shape that is outside is not there in that frame."""
    number = values.whole(values.parsed(track.get("id"), f"{path}: id of a <track>"), f"{path}: id of a <track>")
    for shape in track:
        if shape.get("outside") == "1" or shape.get("frame") is None:
            continue
        place = f"{path}: track {number}"
        frame = _frame(shape, place)
        if track.get("group_id") and not shape.get("group_id"):
            shape.set("group_id", track.get("group_id"))
        _add(shape, track.get("label", ""), number, frames.setdefault(frame, _Shapes()), place, export)


def _frame(shape: Element, place: str) -> int:
    return values.whole(values.parsed(shape.get("frame"), place), place)


def _frames(frames: dict[int, _Shapes], meta: Element, path: Path, source: Source) -> Iterator[tuple[Picture, _Shapes]]:
    """Yields the frames with shapes: pictures beside the file, or frames of the video that the task names."""
    size = meta.find(".//original_size")
    size_hw = None
    if size is not None:
        size_hw = tuple(_count(size.findtext(side), f"{path}: original_size") for side in ("height", "width"))
    name = meta.findtext(".//source") or ""
    first = int(values.parsed(meta.findtext(".//start_frame") or "0", f"{path}: start_frame"))
    step = re.search(r"step\s*=\s*(\d+)", meta.findtext(".//frame_filter") or "")
    step = max(int(step[1][:9]), 1) if step else 1
    video = None
    for index in sorted(frames):
        picture = source.find(f"frame_{index:06d}", path.parent)
        if picture is not None:
            yield Picture(picture.name, picture, size_hw, split=source.split_of(picture)), frames[index]
            continue
        if video is None:
            named = source.find(name, path.parent) if name else None
            fitting = [named] if named else source.videos()
            if len(fitting) != 1 or fitting[0].suffix.lower() not in VIDEOS:
                source.missing(name or f"frame_{index:06d}.png", str(path))
                continue
            video = fitting[0]
        where = Frame(video, first + index * step)
        yield Picture(f"{video.name} frame {where.index}", where, size_hw), frames[index]


def _add(shape: Element, label: str, track: int | None, shapes: _Shapes, place: str, export: Export) -> None:
    group = shape.get("group_id")
    group = group if group and group != "0" else None
    shape.set("label", label)
    if shape.tag == "box":
        corners = [values.parsed(shape.get(key), f"{place}: box") for key in ("xtl", "ytl", "xbr", "ybr")]
        if shape.get("rotation") not in (None, "0", "0.0"):
            corners = _turned(corners, values.parsed(shape.get("rotation"), place))
        shapes.boxes.append((Rectangle(label, values.box_of_corners(*corners), group), _attributes(shape)))
    elif shape.tag == "skeleton":
        shapes.skeletons.append((_copy(shape), track))
    elif shape.tag == "points":
        points = _points(shape, place)
        if len(points) == 1:
            visibility = 1 if shape.get("occluded") == "1" else 2
            shapes.joints.append(Joint(label, *points[0].tolist(), visibility, group))
        else:
            shapes.skeletons.append((_copy(shape), track))
    elif shape.tag in OTHER_SHAPES:
        export.notes.add(f"shapes of the kind {shape.tag} are not read", place)


def _copy(shape: Element) -> Element:
    """Returns a copy of an element, whose original is emptied to save memory."""
    copy = Element(shape.tag, dict(shape.attrib))
    copy.extend([_copy(child) for child in shape])
    copy.text = shape.text
    return copy


def _turned(corners: list[float], degrees: float) -> list[float]:
    """Returns the extent of a box that is turned about its middle."""
    middle = np.array([corners[0] + corners[2], corners[1] + corners[3]]) / 2
    half = np.abs(np.array([corners[2] - corners[0], corners[3] - corners[1]])) / 2
    cos, sin = abs(np.cos(np.deg2rad(degrees))), abs(np.sin(np.deg2rad(degrees)))
    extent = np.array([half[0] * cos + half[1] * sin, half[0] * sin + half[1] * cos])
    return [*(middle - extent).tolist(), *(middle + extent).tolist()]


def _attributes(shape: Element) -> dict[str, str]:
    return {one.get("name", ""): one.text or "" for one in shape.findall("attribute")}


def _points(shape: Element, place: str) -> np.ndarray:
    """Returns the (P, 2) points of a shape."""
    pairs = [one.split(",") for one in (shape.get("points") or "").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise values.wrong(f"{place}: points", "pairs x,y", (shape.get("points") or "")[:60])
    return np.array([[values.parsed(value, f"{place}: points") for value in pair] for pair in pairs])


def _alone(shapes: _Shapes, place: str, export: Export) -> list[tuple[str, Group]]:
    """Returns the persons made of single points, with the names of their categories."""
    if not shapes.joints:
        return []
    groups = grouped(shapes.joints, [box for box, _ in shapes.boxes], type(export.notes)(), place)
    return [(group.box.label if group.box else "person", group) for group in groups]


def _persons(shapes: _Shapes, picture: str, labels: _Labels, export: Export, path: str) -> list[Person]:
    place = f"{path}: image {picture!r}"
    persons, free = [], list(shapes.boxes)
    for shape, track in shapes.skeletons:
        category, keypoints = _skeleton(shape, labels, place)
        box = _box_of(shape, keypoints, free)
        person = Person(category, keypoints, box)
        if track is not None:
            person.fields["track_id"] = track
        if person.num_labelled:
            persons.append(person)
        else:
            export.notes.add("skeletons without a point in the picture are not read", picture)
    boxes = [box for box, _ in free]
    if not shapes.joints:
        if boxes:
            export.notes.add("boxes without points are not read", picture, len(boxes))
        return persons
    for group in grouped(shapes.joints, boxes, export.notes, picture):
        name = group.box.label if group.box else "person"
        key = ("joints", name)
        if key not in labels.categories:
            labels.categories[key] = Category(name, values.unique(labels.joints.get(name) or list(group.joints)))
        persons.append(person_of(group, labels.categories[key]))
    return persons


def _skeleton(shape: Element, labels: _Labels, place: str) -> tuple[Category, np.ndarray]:
    """Returns the category and the (K, 3) keypoints of a skeleton, or of a shape of several points."""
    label = shape.get("label") or "points"
    if shape.tag == "points":
        points = _points(shape, place)
        key = ("points", label, len(points))
        if key not in labels.categories:
            labels.categories[key] = Category(label, [str(k) for k in range(1, len(points) + 1)])
        return labels.categories[key], np.c_[points, np.full(len(points), 1 if shape.get("occluded") == "1" else 2)]
    children = shape.findall("points")
    names = [child.get("label") or "" for child in children]
    if not names or len(set(names)) != len(names):
        raise values.wrong(f"{place}: <skeleton> {label!r}", "points of different labels", names)
    declared = labels.skeletons.get(label) or next(
        (subs for subs in labels.skeletons.values() if set(names) <= set(subs)), None
    )
    key = ("skeleton", label)
    if key not in labels.categories:
        links = labels.links.get(label) or next(
            (labels.links.get(one, []) for one, subs in labels.skeletons.items() if subs is declared), []
        )
        labels.categories[key] = Category(label, values.unique(declared or names), links)
    category = labels.categories[key]
    if extra := sorted(set(names) - set(category.keypoints)):
        raise values.wrong(f"{place}: <skeleton> {label!r}", f"the points {category.keypoints}", extra)
    keypoints = np.zeros((len(category.keypoints), 3))
    for name, child in zip(names, children, strict=True):
        if child.get("outside") != "1":
            points = _points(child, place)
            visibility = 1 if child.get("occluded") == "1" else 2
            keypoints[category.keypoints.index(name)] = (*points[0], visibility)
    return category, keypoints


def _box_of(shape: Element, keypoints: np.ndarray, free: list[tuple[Rectangle, dict]]) -> Box | None:
    """Takes the box of a skeleton from the free ones: by its group, by its attributes, or the smallest around it."""
    points = keypoints[keypoints[:, 2] > 0, :2].tolist()
    group, attributes = shape.get("group_id") or None, _attributes(shape)
    group = None if group == "0" else group
    around = [one for one in free if points and all(holds(one[0].xywh, *point) for point in points)]
    if group is not None:
        chosen = [one for one in free if one[0].group == group]
        chosen = [one for one in chosen if one in around] or chosen
    else:
        lone = [one for one in free if one[0].group is None]
        chosen = [one for one in lone if attributes and one[1] == attributes and _holds_most(one[0].xywh, points)]
        chosen = chosen or [one for one in around if one[0].group is None]
    if not chosen:
        return None
    best = min(chosen, key=lambda one: one[0].xywh[2] * one[0].xywh[3])
    free.remove(best)
    return best[0].xywh


def _holds_most(box: Box, points: list) -> bool:
    return 2 * sum(holds(box, *point) for point in points) > len(points)
