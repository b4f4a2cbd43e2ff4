"""Reads OpenPose's JSON, one file a picture or frame."""

import re
from pathlib import Path

import numpy as np

from kpzoo.convert import kinds, layouts, values
from kpzoo.convert.finding import Source
from kpzoo.convert.model import Category, Export, Frame, Person, Picture
from kpzoo.errors import UserError

LAYOUTS = {25: layouts.BODY25, 18: layouts.OPENPOSE18, 15: layouts.MPI15}
PARTS = ("face", "hand_left", "hand_right")


def read(source: Source) -> Export:
    """Reads all files. A picture has the name of its file without "_keypoints"; frames end in their number."""
    export, made = Export(), {}
    needs = "OpenPose's JSON: it needs the list 'people'"
    for path, content in kinds.json_files(source, "openpose", needs):
        rows = enumerate(values.items(content["people"], f"{path}: people"))
        people = [person(row, f"{path}: people[{k}]", made, export) for k, row in rows]
        where = _picture(path, source)
        if where is not None:
            name = where.name if isinstance(where, Path) else f"{where.video.name} frame {where.index}"
            export.pictures.append(Picture(name, where, None, [one for one in people if one is not None]))
    return export


def person(row, place: str, made: dict[int, Category], export: Export) -> Person | None:
    """Returns a person of OpenPose; None without a found point. `made` keeps the categories by their keypoints."""
    row = values.mapping(row, place)
    found = row.get("pose_keypoints_2d") or row.get("pose_keypoints") or []  # the latter before version 1.2
    points = values.groups(values.numbers(found, place), 3, place)
    for part in PARTS:
        extra = row.get(f"{part}_keypoints_2d") or row.get(f"{part}_keypoints")
        if extra:
            extra = values.groups(values.numbers(extra, f"{place}: {part}"), 3, f"{place}: {part}")
            if count := int((extra[:, 2] > 0).sum()):
                export.notes.add(f"points of {part.replace('_', ' ')} are not read", place, count)
    if not len(points) or not (points[:, 2] > 0).any():
        export.notes.add("people without a found point of the body are not read", place)
        return None
    if len(points) not in LAYOUTS:
        raise UserError(f"{place}: expected {sorted(LAYOUTS)} keypoints. Received: {len(points)}.")
    category = made.setdefault(len(points), layouts.category(LAYOUTS[len(points)]))
    labelled = points[:, 2] > 0
    one = Person(category, np.c_[points[:, :2], np.where(labelled, 2, 0)], None, points[:, 2].copy())
    one.fields["score"] = float(points[labelled, 2].mean())
    number = row.get("person_id")
    number = number[0] if type(number) is list and number else number
    if type(number) is int and number >= 0:
        one.fields["track_id"] = number
    return one


def _picture(path: Path, source: Source) -> Path | Frame | None:
    stem = re.sub(r"_(keypoints|openpose|pose)$", "", path.stem)
    found = source.find(f"{stem}.jpg", path.parent) or source.find(stem, path.parent)
    if found is not None:
        return found
    frame = re.fullmatch(r"(.*?)_?(\d{1,18})", stem)
    videos = [one for one in source.videos() if frame and one.stem == frame[1]]
    if frame and not videos and len(source.videos()) == 1:
        videos = source.videos()
    if len(videos) == 1:
        return Frame(videos[0], int(frame[2]))
    source.missing(f"{stem}.jpg", str(path))
    return None
