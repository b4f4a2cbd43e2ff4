"""Reads AI Challenger's keypoint JSON: a list of pictures, with boxes and keypoints by the key of a person."""

import re

import numpy as np

from kpzoo import skeletons
from kpzoo.convert import kinds, values
from kpzoo.convert.finding import Source, split_name
from kpzoo.convert.model import Category, Export, Person, Picture

VISIBILITY = np.array([0, 2, 1, 0])  # of AI Challenger's 1 visible, 2 hidden, 3 not labelled


def read(source: Source) -> Export:
    """Reads all files. The keypoints are those of `kpzoo.skeletons.AIC14`."""
    export, category = Export(), Category.of(skeletons.AIC14)
    needs = "AI Challenger's JSON: it needs a list with `keypoint_annotations`"
    for path, content in kinds.json_files(source, "aic", needs):
        split = next((name for word in re.split("[^A-Za-z]+", path.stem) if (name := split_name(word))), "")
        for number, row in enumerate(content):
            place = f"{path}[{number}]"
            row = values.mapping(row, place)
            name = values.text(row.get("image_id"), f"{place}: image_id")
            found = source.picture(name, place, path.parent)
            if found is not None:
                export.pictures.append(Picture(name, found, None, _persons(row, category, place, export), split))
    return export


def _persons(row: dict, category: Category, place: str, export: Export) -> list[Person]:
    keypoints = values.mapping(row.get("keypoint_annotations"), f"{place}: keypoint_annotations")
    boxes = values.mapping(row.get("human_annotations", {}), f"{place}: human_annotations")
    persons = []
    for key, points in keypoints.items():
        where = f"{place}: {key}"
        points = values.groups(values.numbers(points, where), 3, where, len(category.keypoints))
        if not np.isin(points[:, 2], (0, 1, 2, 3)).all():
            raise values.wrong(where, "a visibility of 1, 2 or 3", points[:, 2].max())
        points[:, 2] = VISIBILITY[points[:, 2].astype(int)]
        box = None
        if key in boxes:
            corners = values.groups(values.numbers(boxes[key], f"{where}: box"), 4, f"{where}: box", 1)[0]
            box = values.box_of_corners(*corners.tolist())
        persons.append(Person(category, points, box))
    alone = len(boxes.keys() - keypoints.keys())
    if alone:
        export.notes.add("boxes without points are not read", place, alone)
    return persons
