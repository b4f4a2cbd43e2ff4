"""Reads AlphaPose's results: a list of persons with the names of their pictures, or pictures with their people."""

import re
from pathlib import Path

import numpy as np

from kpzoo.convert import kinds, layouts, openpose, values
from kpzoo.convert.finding import Source
from kpzoo.convert.model import Category, Export, Frame, Person, Picture
from kpzoo.errors import UserError


def read(source: Source) -> Export:
    """Reads all files. Every point has a confidence; those of 0 are read as not found."""
    export, made = Export(), {}
    needs = "AlphaPose's JSON: it needs `image_id`, `keypoints` and `score`"
    for path, content in kinds.json_files(source, "alphapose", needs):
        pictures: dict[str, Picture | None] = {}
        for name, person in _rows(content, path, made, export):
            if name not in pictures:
                where = _picture(name, path, source)
                pictures[name] = None if where is None else Picture(name, where)
            if pictures[name] is not None and person is not None:
                pictures[name].persons.append(person)
        export.pictures += [one for one in pictures.values() if one is not None]
    return export


def _rows(content, path: Path, made: dict[int, Category], export: Export):
    """Yields the picture's name and the person of each result."""
    if type(content) is dict:  # the forms "open" and "cmu"
        for name, row in content.items():
            row = values.mapping(row, f"{path}: {name}")
            people = values.items(row.get("people", row.get("bodies")), f"{path}: {name}: people")
            for one in people:
                one = values.mapping(one, f"{path}: {name}")
                one = {"pose_keypoints_2d": one["joints"]} if "joints" in one else one
                yield name, openpose.person(one, f"{path}: {name}", made, export)
        return
    for number, row in enumerate(content):
        place = f"{path}[{number}]"
        row = values.mapping(row, place)
        yield values.name(row.get("image_id"), f"{place}: image_id"), _person(row, place, made)


def _person(row: dict, place: str, made: dict[int, Category]) -> Person:
    points = values.groups(values.numbers(row.get("keypoints"), f"{place}: keypoints"), 3, f"{place}: keypoints")
    count = len(points)
    if count not in made:
        category = layouts.of_count(count)
        if category is None:
            raise UserError(f"{place}: expected 17, 26, 133 or 136 keypoints. Received: {count}.")
        made[count] = category
    box = row.get("box")
    if box is not None:
        box = tuple(values.groups(values.numbers(box, f"{place}: box"), 4, f"{place}: box", 1)[0].tolist())
    keypoints = np.c_[points[:, :2], np.where(points[:, 2] > 0, 2, 0)]
    person = Person(made[count], keypoints, box, points[:, 2].copy())
    person.fields["score"] = values.number(row.get("score"), f"{place}: score")
    if type(row.get("idx")) is int:
        person.fields["track_id"] = row["idx"]
    return person


def _picture(name: str, path: Path, source: Source) -> Path | Frame | None:
    found = source.find(name, path.parent) or source.find(name.zfill(12), path.parent)  # COCO's names are its ids
    if found is not None:
        return found
    number = re.fullmatch(r"(?:frame_?)?(\d{1,9})(\.\w+)?", name)
    videos = source.videos()
    if number and len(videos) == 1:
        return Frame(videos[0], int(number[1]))
    source.missing(name, str(path))
    return None
