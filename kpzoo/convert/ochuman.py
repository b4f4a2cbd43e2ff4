"""Reads OCHuman's own JSON: pictures with their persons inside, boxes by two corners, and masks."""

import numpy as np

from kpzoo.convert import kinds, layouts, values
from kpzoo.convert.finding import Source
from kpzoo.convert.grouping import holds
from kpzoo.convert.model import Export, Person, Picture

CODES = {"missing": 0, "vis": 1, "self_occluded": 2, "others_occluded": 3}


def read(source: Source) -> Export:
    """Reads all files. Persons without keypoints keep their box."""
    export, made = Export(upright=False), {}
    needs = "OCHuman's JSON: it needs `images` with their `annotations`"
    for path, content in kinds.json_files(source, "ochuman", needs):
        names = content.get("keypoint_names") or list(layouts.OCHUMAN19)
        names = tuple(values.name(name, f"{path}: keypoint_names") for name in values.items(names, str(path)))
        category = made.setdefault(names, layouts.category(names))
        visible = _visible(content.get("keypoint_visible", CODES), str(path))
        rows = [values.mapping(row, f"{path}: images") for row in content["images"]]
        pictures = [
            _picture(row, f"{path}: images[{k}]", category, visible, source, export) for k, row in enumerate(rows)
        ]
        _read_boxes([person for one in pictures if one for person in one.persons])
        export.pictures += [one for one in pictures if one]
    return export


def _visible(codes, place: str) -> dict[int, int]:
    """Returns COCO's visibility of each code."""
    codes = values.mapping(codes, f"{place}: keypoint_visible")
    numbers = {name: values.whole(code, f"{place}: keypoint_visible") for name, code in codes.items()}
    return {code: 0 if name == "missing" else 2 if name == "vis" else 1 for name, code in numbers.items()}


def _picture(row: dict, place: str, category, visible: dict, source: Source, export: Export) -> Picture | None:
    name = values.text(row.get("file_name"), f"{place}: file_name")
    size = tuple(values.whole(row.get(side), f"{place}: {side}", 1) for side in ("height", "width"))
    found, persons = source.picture(name, place), []
    for number, one in enumerate(values.items(row.get("annotations"), f"{place}: annotations")):
        where = f"{place}: annotations[{number}]"
        one = values.mapping(one, where)
        keypoints = np.zeros((len(category.keypoints), 3))
        if one.get("keypoints"):
            numbers = values.numbers(one["keypoints"], f"{where}: keypoints")
            keypoints = values.groups(numbers, 3, f"{where}: keypoints", len(category.keypoints))
            flags = [visible.get(flag) for flag in keypoints[:, 2].tolist()]
            if None in flags:
                raise values.wrong(f"{where}: keypoints", f"a visibility of {sorted(visible)}", keypoints[:, 2].max())
            keypoints[:, 2] = flags
        box = values.groups(values.numbers(one.get("bbox"), f"{where}: bbox"), 4, f"{where}: bbox", 1)[0]
        persons.append(Person(category, keypoints, tuple(box.tolist()), fields=_mask(one.get("segms"), name, export)))
    return None if found is None else Picture(name, found, size, persons)


def _mask(segms, name: str, export: Export) -> dict:
    """Returns the mask as COCO's polygons. Those with holes cannot be written so."""
    if type(segms) is not dict or type(segms.get("outer")) is not list or not segms["outer"]:
        return {}
    if segms.get("inner"):
        export.notes.add("masks with holes are not read", name)
        return {}
    return {"segmentation": segms["outer"]}


def _read_boxes(persons: list[Person]) -> None:
    """Reads boxes as two corners, unless more keypoints lie in them as x, y, width and height."""

    def inside(person: Person, box: tuple) -> int:
        return sum(holds(box, x, y) for x, y, v in person.keypoints.tolist() if v > 0)

    corners = {person: values.box_of_corners(*person.box_xywh) for person in persons}
    sums = [
        sum(inside(one, box) for one, box in boxes) for boxes in (corners.items(), [(p, p.box_xywh) for p in persons])
    ]
    if sums[0] >= sums[1]:
        for person in persons:
            person.box_xywh = corners[person]
