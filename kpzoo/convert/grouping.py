"""Points and boxes of a labelling tool become persons: by group, else by the smallest box, else one a picture."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from kpzoo.convert.model import Box, Category, Notes, Person

SLACK = 1.0  # pixels that a point may lie outside of the box that holds it


class Joint(NamedTuple):
    """A labelled point.

    Args:
        name: Name of the keypoint.
        x, y: Place in pixels.
        visibility: 1 for hidden, 2 for visible.
        group: What the points of a person share; None if the format has no such value.
    """

    name: str
    x: float
    y: float
    visibility: int = 2
    group: Hashable | None = None


class Rectangle(NamedTuple):
    """A labelled box: the class, the box, and the group of its person."""

    label: str
    xywh: Box
    group: Hashable | None = None


@dataclass(eq=False)
class Group:
    """The points and the box of one person.

    Args:
        joints: Points by the name of the keypoint.
        box: The rectangle; None if there is none.
    """

    joints: dict[str, Joint] = field(default_factory=dict)
    box: Rectangle | None = None

    def holds(self, name: str) -> bool:
        return name in self.joints


def grouped(joints: list[Joint], boxes: list[Rectangle], notes: Notes, place: str) -> list[Group]:
    """Returns the persons of a picture in the order of their first point.

    Args:
        joints: The labelled points.
        boxes: The labelled boxes.
        notes: Where points and boxes that belong to no person are counted.
        place: The picture, for notes.
    """
    groups: dict[Hashable, Group] = {}
    by_area = sorted(range(len(boxes)), key=lambda index: boxes[index].xywh[2] * boxes[index].xywh[3])
    rest = []
    for joint in joints:
        key = ("group", joint.group) if joint.group is not None else None
        if key is None:
            key = next((k for k in map(lambda i: _key(boxes[i], i), by_area) if _fits(joint, k, boxes, groups)), None)
        if key is None:
            rest.append(joint)
            continue
        _add(groups.setdefault(key, Group()), joint, notes, place)
    if rest:
        alone = Group()
        for joint in rest:
            _add(alone, joint, notes, place)
        groups["rest"] = alone
        what = "pictures have points of no group and in no box, which are read as one person a picture"
        notes.add(what, place)
    _give_boxes(groups, boxes, by_area)
    used = [group.box for group in groups.values() if group.box]
    if len(boxes) > len(used):
        notes.add("boxes without points are not read", place, len(boxes) - len(used))
    return list(groups.values())


def _key(box: Rectangle, index: int) -> tuple[str, Hashable]:
    return ("group", box.group) if box.group is not None else ("box", index)


def _fits(joint: Joint, key: tuple, boxes: list[Rectangle], groups: dict) -> bool:
    """Returns whether one of the boxes of a person holds a point that the person does not have."""
    if key in groups and groups[key].holds(joint.name):
        return False
    own = [box for index, box in enumerate(boxes) if _key(box, index) == key]
    return any(holds(box.xywh, joint.x, joint.y) for box in own)


def holds(box: Box, x: float, y: float) -> bool:
    """Returns whether a point lies in a box, or within a pixel of it."""
    return -SLACK <= x - box[0] <= box[2] + SLACK and -SLACK <= y - box[1] <= box[3] + SLACK


def _add(group: Group, joint: Joint, notes: Notes, place: str) -> None:
    if group.holds(joint.name):
        notes.add("points whose person has the keypoint already are not read", f"{joint.name} in {place}")
    else:
        group.joints[joint.name] = joint


def _give_boxes(groups: dict, boxes: list[Rectangle], by_area: list[int]) -> None:
    """Gives each person the smallest box of its own that holds its points, or another one that nobody has."""
    taken = set()
    for key, group in groups.items():
        own = [index for index in by_area if _key(boxes[index], index) == key]
        if own:
            best = max(own, key=lambda index: sum(holds(boxes[index].xywh, j.x, j.y) for j in group.joints.values()))
            group.box = boxes[best]
            taken.add(best)
    for group in groups.values():
        for index in by_area if group.box is None else ():
            free = index not in taken and boxes[index].group is None
            if free and all(holds(boxes[index].xywh, joint.x, joint.y) for joint in group.joints.values()):
                group.box = boxes[index]
                taken.add(index)
                break


def person_of(group: Group, category: Category) -> Person:
    """Returns the person of a group of points."""
    rows = [group.joints.get(name) for name in category.keypoints]
    keypoints = np.array([(row.x, row.y, row.visibility) if row else (0, 0, 0) for row in rows], np.float64)
    return Person(category, keypoints, group.box.xywh if group.box else None)
