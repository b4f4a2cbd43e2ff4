"""Writes COCO-format data as an Ultralytics YOLO-pose folder: `data.yaml`, `images/<split>` and `labels/<split>`."""

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from kpzoo import images as pictures
from kpzoo.convert import finding
from kpzoo.convert.coco_folder import link
from kpzoo.convert.model import Notes
from kpzoo.data import files, loading
from kpzoo.data.files import PoseData
from kpzoo.errors import UserError
from kpzoo.files import written_whole
from kpzoo.progress import Progress
from kpzoo.skeletons import SKELETONS, Skeleton

DECIMALS = 8  # of coordinates as a share of the picture: a hundred-thousandth of a pixel in one of 1,000
KEYS = ("train", "val", "test")  # of data.yaml


def to_yolo(
    root: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    images: str | Path | None = None,
    category: str | int | None = None,
    skeleton: str | Skeleton | None = None,
    allow_outside: bool = False,
    copy: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Writes a COCO-format folder as an Ultralytics YOLO-pose folder.

    Boxes are clipped to their picture. Keypoints outside of it become unlabelled ones, as Ultralytics refuses pictures
    with such labels. Crowds, masks and persons without a box are left out.

    Args:
        root: The COCO-format folder.
        out: The new folder.
        split: Part of the name of the only annotation file to write; None for all.
        images: See `kpzoo.data.load`.
        category: See `kpzoo.data.load`.
        skeleton: See `kpzoo.data.load`.
        allow_outside: See `kpzoo.data.load`.
        copy: Whether pictures are copied instead of linked.
        overwrite: Whether an existing folder is replaced.
        progress: Whether to print progress on stderr.
        tell: Called with a sentence for each kind of thing that could not be carried.

    Returns:
        The YAML file.

    Raises:
        UserError: If the data cannot be read, or its files have different keypoints.
    """
    found = files.annotation_files(Path(root).expanduser(), split)
    if not found:
        which = f" with {split!r} in the name" if split else ""
        raise UserError(f"{str(root)!r} has no annotations. Expected: 'annotations/*.json'{which}.")
    options = dict(images=images, category=category, skeleton=skeleton, allow_outside=allow_outside)
    splits: dict[str, PoseData] = {}
    for path in found:
        name = path.name.removesuffix(".gz").removesuffix(".json").rpartition("keypoints_")[2]
        if name in splits:
            raise UserError(
                f"{str(root)!r} has several annotation files of {name!r}, such as {path.name!r}.",
                "Choose one with `split=`.",
            )
        splits[name] = loading.load(root, name, annotations=path, **options)
    first = next(iter(splits.values())).skeleton
    for data in splits.values():
        if data.skeleton.keypoints != first.keypoints:
            raise UserError(
                f"{data.annotations.path} has other keypoints: {data.skeleton.difference(first)}.",
                "Choose one file with `split=`.",
            )
    notes, out = Notes(), Path(out).expanduser()
    empty = out.is_dir() and not any(out.iterdir())
    count = sum(len(data.annotations.image_ids) for data in splits.values())
    told = Progress(count, "pictures", "written", shown=progress)
    with written_whole(out, overwrite=overwrite or empty) as part, told:
        for name, data in splits.items():
            _write_split(data, name, part, copy, notes, told)
        (part / "data.yaml").write_text(_config(list(splits), first, notes), "utf-8")
    for line in notes.lines() if tell is not None else ():
        tell(line)
    return out / "data.yaml"


def _config(splits: list[str], skeleton: Skeleton, notes: Notes) -> str:
    """Returns the text of data.yaml. JSON's lists and texts are YAML, too."""
    places: dict[str, list[str]] = {}
    for split in splits:
        key = next((key for key in KEYS if split.lower().startswith(key)), split)
        places.setdefault(key, []).append(f"images/{split}")
    lines = [f"{json.dumps(key)}: {json.dumps(own if len(own) > 1 else own[0])}" for key, own in places.items()]
    name = "person" if skeleton in SKELETONS.values() else skeleton.name
    lines += [f"kpt_shape: [{skeleton.num_keypoints}, 3]"]
    if skeleton.sides_known:
        lines += [f"flip_idx: {json.dumps(skeleton.flip_order.tolist())}"]
    else:
        notes.add("left and right of the keypoints are not known: there is no `flip_idx`", "data.yaml")
    if skeleton.links:
        notes.add("links between keypoints have no place in this format", "data.yaml", len(skeleton.links))
    lines += ["names:", f"  0: {json.dumps(name)}", "kpt_names:", f"  0: {json.dumps(skeleton.keypoints)}"]
    return "\n".join(lines) + "\n"


def _write_split(data: PoseData, split: str, part: Path, copy: bool, notes: Notes, told: Progress) -> None:
    read, persons = data.annotations, data.annotations.persons
    order = np.argsort(persons.image_index, kind="stable")
    starts = np.searchsorted(persons.image_index[order], np.arange(len(read.image_ids) + 1))
    used: set[str] = set()
    for index, path in enumerate(map(Path, data.image_paths(read.image_ids))):
        name = _name(read.file_names[index], used)
        target, label = (part / folder / split / name for folder in ("images", "labels"))
        target.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        size_hw = pictures.size_of(path)
        if finding.orientation(path) == 1:
            link(path, target, copy)
        else:  # labels refer to the stored pixels, and Ultralytics would turn them
            pictures.write_image(target, pictures.read_image(path, apply_exif=False))
        rows = order[starts[index] : starts[index + 1]]
        lines = [_line(persons, row, size_hw, notes, name) for row in rows.tolist()]
        label.with_suffix(".txt").write_text("".join(filter(None, lines)), "utf-8")
        told.step()


def _name(file_name: str, used: set[str]) -> str:
    """Returns the relative path of a picture, whose label file must not be that of another one."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    path = PurePosixPath(*(one for one in path.parts if one not in ("/", "..", "~")))
    stem, number = path.stem, 2
    while str(path.with_suffix("")).casefold() in used:
        path, number = path.with_stem(f"{stem}_{number}"), number + 1
    used.add(str(path.with_suffix("")).casefold())
    return str(path)


def _line(persons, row: int, size_hw: tuple[int, int], notes: Notes, name: str) -> str:
    """Returns the line of a person; "" if it is left out."""
    if persons.is_crowd[row] or not persons.has_box[row]:
        notes.add("crowds and persons without a box have no place in this format", name)
        return ""
    size = np.array(size_hw[::-1], np.float64)
    low = np.clip(persons.boxes_image_xywh[row, :2], 0, size)
    high = np.clip(persons.boxes_image_xywh[row, :2] + persons.boxes_image_xywh[row, 2:], 0, size)
    if (high <= low).any():
        notes.add("boxes outside of their picture are left out", name)
        return ""
    keypoints, flags = persons.keypoints_image_xy[row], persons.visibility[row]
    inside = (keypoints >= 0).all(axis=1) & (keypoints <= size).all(axis=1)
    if outside := int(((flags > 0) & ~inside).sum()):
        notes.add("labelled keypoints outside of their picture become unlabelled", name, outside)
    shown = (flags > 0) & inside
    shares = np.where(shown[:, None], keypoints / size, 0.0)
    words = [_short(value) for value in (*((low + high) / 2 / size), *((high - low) / size))]
    for share, flag in zip(shares.tolist(), np.where(shown, flags, 0).tolist(), strict=True):
        words += [*map(_short, share), str(int(flag))]
    return f"0 {' '.join(words)}\n"


def _short(value: float) -> str:
    return f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".")
