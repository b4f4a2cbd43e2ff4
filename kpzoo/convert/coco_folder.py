"""Writes what was read as a folder in COCO format: annotation files, and links to or copies of the pictures."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from kpzoo import images
from kpzoo.convert import finding
from kpzoo.convert.model import Category, Export, Frame, Notes, Person, Picture, grown_extent
from kpzoo.data.annotation_table import AREA_OF_BOX
from kpzoo.data.sides import sides_of
from kpzoo.errors import UserError
from kpzoo.files import utf8_path, write_json, written_whole
from kpzoo.progress import Progress

SAME_SHAPE = 0.01  # relative difference of two aspect ratios that are taken for the same


def to_coco(
    export: Export,
    out: str | Path,
    *,
    split: str = "train",
    copy: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Writes `annotations/<category>_keypoints_<split>.json` and `images/<split>/` for each split.

    A file has one category, whose name in the file name is "person" if there is only one. The notes of the export
    grow by what is decided here.

    Args:
        export: What was read.
        out: The folder, which must not exist or be empty.
        split: Name of the split of pictures for which the export names none.
        copy: Whether pictures are copied instead of linked.
        overwrite: Whether an existing folder is replaced.
        progress: Whether to print progress on stderr.

    Returns:
        The annotation files.
    """
    out = Path(out).expanduser()
    if not export.categories:
        raise UserError(f"The export has no person with keypoints. Received: {len(export.pictures)} pictures.")
    if not re.fullmatch(r"[\w-][\w.-]*", split):
        raise UserError(f"`split=` must be a plain name such as 'train'. Received: {split!r}.")
    if out.is_dir() and not any(out.iterdir()):
        overwrite = True
    splits: dict[str, list[Picture]] = {}
    for picture in export.pictures:
        splits.setdefault(_plain(picture.split or split), []).append(picture)
    written = []
    told = Progress(len(export.pictures), "pictures", "written", shown=progress)
    with written_whole(out, overwrite=overwrite) as part, told:
        (part / "annotations").mkdir(parents=True)
        for name, pictures in splits.items():
            folder = part / "images" / name
            folder.mkdir(parents=True)
            names = _names(pictures)
            _write_frames(pictures, names, folder, told)
            rows, fitted = [], []
            for number, (picture, file) in enumerate(zip(pictures, names, strict=True), 1):
                size_hw, factor = _place(picture, folder / file, export, copy)
                rows.append({"id": number, "file_name": file, "height": size_hw[0], "width": size_hw[1]})
                rows[-1] |= picture.fields
                fitted.append(factor)
                told.step()
            written += _write_annotations(export, pictures, rows, fitted, name, part)
    return [out / path.relative_to(part) for path in written]


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "all"


def _names(pictures: Sequence[Picture]) -> list[str]:
    """Returns a file name for each picture: its own, or with its folders if several have the same."""
    bases = [_safe(os.path.basename(path)) for path in map(name_of, pictures)]
    if len({base.casefold() for base in bases}) == len(bases):
        return bases
    paths = [name_of(picture) for picture in pictures]
    parents = [os.path.dirname(path) for path in paths]
    common = os.path.commonpath(parents) if all(map(os.path.isabs, parents)) else ""
    names = [_safe(os.path.relpath(path, common) if common else path) for path in paths]
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name.casefold()] += 1
        if seen[name.casefold()] > 1:  # the same picture in two annotation files, for instance
            base, suffix = os.path.splitext(name)
            names[index] = f"{base}~{seen[name.casefold()]}{suffix}"
    return names


def name_of(picture: Picture) -> str:
    """Returns the path of a picture as it is to be called: that of its file, of its frame, or its own name."""
    if isinstance(picture.source, Frame):
        video = picture.source.video
        return str(video.absolute().with_name(f"{video.stem}_{picture.source.index:06d}.jpg"))
    if isinstance(picture.source, Path):
        return str(picture.source.absolute())
    return picture.source.name


def _safe(name: str) -> str:
    """Returns a relative path without signs that a system or an annotation file forbids."""
    parts = [re.sub(r'[\\:*?"<>|\x00-\x1f\x7f]', "_", part).strip() for part in name.split("/")]
    parts = [part for part in parts if part not in ("", ".", "..")]
    text = "/".join(parts).encode("utf-8", "replace").decode("utf-8")
    return f"_{text}" if text.startswith("~") else text or "_"


def _write_frames(pictures: list[Picture], names: list[str], folder: Path, told: Progress) -> None:
    """Extracts the frames of videos, each video from its start, as times of frames are not exact in all formats."""
    wanted: dict[Path, dict[int, list[str]]] = {}
    for picture, name in zip(pictures, names, strict=True):
        if isinstance(picture.source, Frame):
            wanted.setdefault(picture.source.video, {}).setdefault(picture.source.index, []).append(name)
    for video, frames in wanted.items():
        capture = cv2.VideoCapture(utf8_path(video))
        last, index = max(frames), 0
        try:
            while index <= last and capture.grab():
                if index in frames:
                    done, frame = capture.retrieve()
                    if not done:
                        break
                    for name in frames.pop(index):
                        images.write_image(folder / name, frame[..., ::-1] if frame.ndim == 3 else _rgb(frame))
                index += 1
        finally:
            capture.release()
        if frames:
            raise UserError(
                f"{video} has {index} frames that can be read, and frame {min(frames)} is labelled. "
                "Frames are counted from 0. Get the whole video."
            )


def _rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.reshape(*grey.shape[:2], 1), 3, axis=2)


def _place(picture: Picture, target: Path, export: Export, copy: bool) -> tuple[tuple[int, int], float]:
    """Puts a picture in its place. Returns its size, and the factor from the export's coordinates to its pixels."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(picture.source, Path):
        size_hw = images.size_of(picture.source)
        if _is_turned(picture, size_hw, export.upright):
            pixels = images.read_image(picture.source)
            images.write_image(target, pixels)
            size_hw = pixels.shape[:2]
            export.notes.add("pictures are turned as their EXIF orientation says, and written anew", picture.name)
        else:
            link(picture.source, target, copy)
    else:
        if not isinstance(picture.source, Frame):
            _write_embedded(picture, target)
        size_hw = images.size_of(target)
    return size_hw, _factor(picture, size_hw, export.notes)


def _is_turned(picture: Picture, stored_hw: tuple[int, int], upright: bool) -> bool:
    """Returns whether labels refer to the picture as its EXIF orientation shows it, and not as it is stored."""
    turn = finding.orientation(picture.source)
    if turn == 1:
        return False
    known = picture.size_hw is not None and turn >= 5 and stored_hw[0] != stored_hw[1]
    return picture.size_hw == stored_hw[::-1] if known else upright


def link(source: Path, target: Path, copy: bool) -> None:
    """Puts a file in a place: a link to it, or a copy if that is asked for or links are not possible."""
    source = source.resolve()
    if not copy:
        try:
            target.symlink_to(source)
            return
        except OSError:  # a system or a disk without links
            pass
    shutil.copyfile(source, target)


def _write_embedded(picture: Picture, target: Path) -> None:
    content = picture.source.read()
    if isinstance(content, np.ndarray):
        images.write_image(target, content)
        return
    try:
        images.decode_image(content)
    except ValueError as error:
        raise UserError(f"{picture.name}: the embedded picture cannot be read: {error}") from None
    target.write_bytes(content)


def _factor(picture: Picture, size_hw: tuple[int, int], notes: Notes) -> float:
    """Returns the scale from the size in the export to the size of the file."""
    if picture.size_hw is None or tuple(picture.size_hw) == tuple(size_hw):
        return 1.0
    factors = np.array(size_hw) / np.array(picture.size_hw)
    if abs(factors[0] / factors[1] - 1) > SAME_SHAPE:
        labelled, actual = ("{1} x {0}".format(*one) for one in (picture.size_hw, size_hw))
        raise UserError(f"{picture.name} is {actual} pixels and was labelled at {labelled}. It is another picture.")
    notes.add("pictures have another size than when they were labelled: their labels are scaled", picture.name)
    return float(factors.mean())


def _write_annotations(
    export: Export, pictures: list[Picture], rows: list[dict], factors: list[float], split: str, part: Path
) -> list[Path]:
    """Writes a file for each category of the export, or of this split if there are several."""
    written, categories = [], export.categories
    used = {person.category for picture in pictures for person in picture.persons}
    labels = _labels(categories)
    for category in categories:
        if len(categories) > 1 and category not in used:
            continue
        annotations: list[dict] = []
        for row, picture, factor in zip(rows, pictures, factors, strict=True):
            for person in picture.persons:
                if person.category is category:
                    annotations.append(_annotation(person, row, len(annotations) + 1, factor, export.notes))
        content = {
            "info": {"description": "converted by kpzoo"},
            "licenses": [],
            "categories": [_category(category)],
            "images": rows,
            "annotations": [one for one in annotations if one],
        }
        path = part / "annotations" / f"{labels[category]}_keypoints_{split}.json"
        written.append(write_json(path, content))
    return written


def _labels(categories: list[Category]) -> dict[Category, str]:
    """Returns the start of the file name of each category."""
    if len(categories) == 1:
        return {categories[0]: "person"}
    labels: dict[Category, str] = {}
    for category in categories:
        label, number = _plain(category.name), 2
        while label.casefold() in map(str.casefold, labels.values()):
            label, number = f"{_plain(category.name)}_{number}", number + 1
        labels[category] = label
    return labels


def _category(category: Category) -> dict:
    index = {name: k for k, name in enumerate(category.keypoints, 1)}
    row = {
        "id": 1,
        "name": category.name,
        "supercategory": category.name,
        "keypoints": category.keypoints,
        "skeleton": [[index[a], index[b]] for a, b in category.links if a in index and b in index],
    }
    sides = sides_of(category.keypoints)
    if category.flip_pairs is not None:
        row["flip_pairs"] = [list(pair) for pair in category.flip_pairs]
    elif sides.unclear or sides.unpaired:
        row["sides_known"] = False
    return row


def _annotation(person: Person, row: dict, number: int, factor: float, notes: Notes) -> dict:
    keypoints = person.keypoints.astype(np.float64)
    labelled = keypoints[:, 2] > 0
    keypoints = np.where(labelled[:, None], keypoints * (factor, factor, 1), 0.0)
    if factor != 1.0 and person.box_xywh is not None:
        person = replace(person, box_xywh=tuple(factor * value for value in person.box_xywh))
    box = _box(person, keypoints, row, notes)
    if box is None:
        notes.add("persons without a labelled joint and without a box in the picture are left out", row["file_name"])
        return {}
    fields = dict(person.fields) if factor == 1.0 else {k: v for k, v in person.fields.items() if k in _UNSCALED}
    return {
        "id": number,
        "image_id": row["id"],
        "category_id": 1,
        "bbox": [_short(value) for value in box],
        "area": AREA_OF_BOX * box[2] * box[3],
        "iscrowd": 0,
        "keypoints": [_short(value) for value in keypoints.ravel().tolist()],
        "num_keypoints": int(labelled.sum()),
        **({} if person.scores is None else {"keypoint_scores": _weights(person.scores)}),
        **fields,
    }


_UNSCALED = ("score", "track_id", "iscrowd")  # fields of annotations that do not depend on the size of the picture


def _weights(scores: np.ndarray) -> list[float]:
    return [round(float(score), 6) for score in np.clip(np.nan_to_num(scores), 0, 1)]


def _short(value: float) -> float | int:
    """Returns a coordinate to a hundred-thousandth of a pixel."""
    value = round(value, 5)
    return int(value) if value == int(value) else value


def _box(person: Person, keypoints: np.ndarray, row: dict, notes: Notes) -> tuple | None:
    """Returns the box of a person, or the extent of its joints within the picture if it has none; None if neither."""
    place = row["file_name"]
    if person.box_xywh is not None and min(person.box_xywh[2:]) > 0 and _touches(person.box_xywh, row):
        return person.box_xywh
    if person.box_xywh is not None:
        notes.add("boxes are empty or outside their picture: the extent of the joints takes their place", place)
    extent = grown_extent(keypoints)
    if extent is None:
        return None
    if person.box_xywh is None:
        notes.add("persons have no box: it is the extent of their joints, grown by 10 %", place)
    low = [min(max(extent[k], 0), size - 1) for k, size in enumerate((row["width"], row["height"]))]
    high = [min(max(extent[k] + extent[k + 2], 1), size) for k, size in enumerate((row["width"], row["height"]))]
    return (*low, *(max(b - a, 1) for a, b in zip(low, high, strict=True)))


def _touches(box: tuple, row: dict) -> bool:
    """Returns whether a box has a pixel of its picture, by the rule of `kpzoo.data.coco.clipped_boxes`."""
    return all(
        min(box[k] + max(box[k + 2] - 1, 0), size - 1) >= max(box[k], 0)
        for k, size in enumerate((row["width"], row["height"]))
    )
