"""What was read of an export: pictures, persons and the keypoints of their categories, the same for all formats."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kpzoo import skeletons
from kpzoo.errors import UserError
from kpzoo.skeletons import plain_name

GROWTH = 0.1  # of the longer side, by which the extent of the labelled joints grows to a missing box
NUM_NAMED = 3  # examples of a note

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclass(eq=False)
class Category:
    """A kind of person, animal or thing, with K keypoints.

    Args:
        name: Name of the class.
        keypoints: K names. They must differ.
        links: Pairs of names that are connected by a line.
        flip_pairs: Pairs of names of left and right; None if the export does not tell.
    """

    name: str
    keypoints: list[str]
    links: list[tuple[str, str]] = field(default_factory=list)
    flip_pairs: list[tuple[str, str]] | None = None

    def __post_init__(self):
        if not self.keypoints or len(set(self.keypoints)) != len(self.keypoints):
            twice = sorted({name for name in self.keypoints if self.keypoints.count(name) > 1})
            received = f"twice: {twice[:10]}" if twice else "none"
            raise UserError(f"Category {self.name!r} needs keypoints of distinct names. Received: {received}.")

    @classmethod
    def of(cls, skeleton: skeletons.Skeleton, name: str = "person") -> "Category":
        """Returns a category with the keypoints of a skeleton."""
        return cls(name, list(skeleton.keypoints), list(skeleton.links))


@dataclass(eq=False)
class Person:
    """A person with K keypoints.

    Args:
        category: The category.
        keypoints: (K, 3) x and y in pixels, and 0 for not labelled, 1 for hidden or 2 for visible.
        box_xywh: The box; None if the export has none.
        scores: (K,) confidences of keypoints that a network found.
        fields: Fields of the annotation, such as `area`, `segmentation`, `track_id` and `score`.
    """

    category: Category
    keypoints: np.ndarray
    box_xywh: Box | None = None
    scores: np.ndarray | None = None
    fields: dict = field(default_factory=dict)

    @property
    def num_labelled(self) -> int:
        return int((self.keypoints[:, 2] > 0).sum())


class Frame(NamedTuple):
    """A frame of a video, counted from 0."""

    video: Path
    index: int


class Embedded(NamedTuple):
    """A picture within a file: the name and a function that returns its bytes, or its pixels as an RGB array."""

    name: str
    read: Callable[[], bytes | np.ndarray]


@dataclass(eq=False)
class Picture:
    """A picture and its persons.

    Args:
        name: The picture in the export, for messages.
        source: The file, the frame of a video, or what a file embeds.
        size_hw: Height and width to which the coordinates refer; None if the export does not tell.
        persons: The persons, in the order of the export.
        split: Name of the split, such as "train".
        fields: Fields of the image, such as CrowdPose's `crowdIndex`.
    """

    name: str
    source: Path | Frame | Embedded
    size_hw: tuple[int, int] | None = None
    persons: list[Person] = field(default_factory=list)
    split: str = ""
    fields: dict = field(default_factory=dict)


class Notes(dict):
    """What could not be carried, or was decided: counts and the first places, by what happened."""

    def add(self, what: str, place: str = "", count: int = 1) -> None:
        number, places = self.get(what, (0, []))
        place = place.rpartition("/")[2]
        if place and len(places) < NUM_NAMED and place not in places:
            places.append(place)
        self[what] = (number + count, places)

    def lines(self) -> list[str]:
        """Returns a line for each note: "boxes without points are not read (2: a.jpg, b.jpg)"."""
        out = []
        for what, (count, places) in self.items():
            more = ", …" if places and len(places) < count else ""
            out.append(f"{what} ({count}" + (f": {', '.join(places)}{more})" if places else ")"))
        return out


@dataclass(eq=False)
class Export:
    """What was read.

    Args:
        pictures: Pictures, in the order of the export.
        notes: What could not be carried, and what was decided.
        upright: Whether the program shows pictures as their EXIF orientation says, and labels refer to that.
    """

    pictures: list[Picture] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    upright: bool = True

    @property
    def categories(self) -> list[Category]:
        """The categories of the persons, in the order of their first person."""
        return list(dict.fromkeys(person.category for picture in self.pictures for person in picture.persons))

    def __str__(self) -> str:
        persons = [person for picture in self.pictures for person in picture.persons]
        labelled = [person.num_labelled for person in persons]
        with_points = sum(map(bool, labelled))
        return f"{len(self.pictures)} pictures, {with_points} persons with {sum(labelled)} labelled points"


def grown_extent(keypoints: np.ndarray) -> Box | None:
    """Returns the extent of the labelled joints of (K, 3) keypoints, grown by 10 % of its longer side on each side.

    Returns:
        The box; None without a labelled joint. It is at least 1 pixel wide and high.
    """
    points = keypoints[keypoints[:, 2] > 0, :2]
    if not len(points):
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    margin = max(GROWTH * (high - low).max(), 0.5)
    low, high = low - margin, high + margin
    return (*low.tolist(), *(high - low).tolist())


def in_known_order(names: list[str]) -> list[str]:
    """Returns names in the order of a known skeleton that has all of them, with its other names; else unchanged.

    Names that occur in a file first need not be the first of the skeleton, and a joint that nobody labelled is missing.
    """
    plain = {plain_name(name): name for name in names}
    for known in skeletons.SKELETONS.values():
        if len(plain) == len(names) and 2 * len(plain) > known.num_keypoints and set(plain) <= set(known.keypoints):
            return [plain.get(name, name) for name in known.keypoints]
    return names
