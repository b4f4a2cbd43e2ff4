"""HTML page about a data set in one file: people, sizes, labels, crowding, duplicates, and the persons to look at."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from kpzoo import drawing, images
from kpzoo.data import duplicates
from kpzoo.data.coco import Annotations
from kpzoo.data.duplicates import Duplicates
from kpzoo.data.files import PoseData
from kpzoo.data.statistics import Remark, Statistics, statistics
from kpzoo.errors import UserError
from kpzoo.files import check_target, writing
from kpzoo.html import charts, pages

NUM_WORST = 50
NUM_GROUPS = 30  # groups of duplicates that are listed
THUMBNAIL = 200  # pixels of the longer side

_SIZES = (0, 16, 32, 64, 96, 128, 192, 256, 384, 512, np.inf)
_IOUS = (0, 1e-9, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, np.inf)


def write_stats(path: str | Path, data: PoseData, *, pictures: bool = True, progress: bool = False) -> Path:
    """Writes a page about the annotations and images of a data set.

    Args:
        path: The .html file.
        data: What `kpzoo.data.load` returns.
        pictures: Whether to search for duplicates among the images and to show the persons to look at.
        progress: Whether to print progress on stderr.

    Returns:
        The path.

    Raises:
        UserError: If the file cannot be written.
    """
    path, read = check_target(path), data.annotations
    found = statistics(read)
    twice = duplicates.find(data.image_paths(read.image_ids), progress) if pictures else None
    sections = [
        f"<h1>{escape(Path(read.path).name)}</h1>",
        pages.table(_summary(read, found, twice), "number"),
        f'<h2>People</h2><div class="side">{_people(found)}{_crowding(found)}</div>',
        f'<h2>Sizes and labelled keypoints</h2><div class="side">{_sizes(found)}{_joints(found)}</div>',
        "<h2>Labels of each keypoint</h2>",
        charts.stacked_bars(
            {name: row for name, row in zip(read.skeleton.keypoints, found.labels.tolist(), strict=True)},
            ("not labelled", "hidden", "visible"),
        ),
        f"<h2>Left and right</h2>{_sides(read, found)}",
    ]
    if twice is not None:
        sections.append(f"<h2>Duplicates</h2>{_duplicates(read, twice)}")
    sections.append(f"<h2>Persons to look at</h2>{_worst(data, found.worst(NUM_WORST), pictures)}")
    with writing(path) as file:
        file.write(pages.page(f"kpzoo: {Path(read.path).name}", sections))
    return path


def _summary(read: Annotations, found: Statistics, twice: Duplicates | None) -> dict[str, int | float]:
    persons = read.persons
    values: dict[str, int | float] = {
        "images": len(read.image_ids),
        "images without a labelled person": int((found.per_image == 0).sum()),
        "persons with labelled keypoints": len(found.person),
        "persons without": int((~persons.is_crowd).sum()) - len(found.person),
        "crowds": int(persons.is_crowd.sum()),
        "labelled keypoints": int(found.num_labelled.sum()),
        "persons with contradictions of left and right": len(found.contradictions),
        "persons with a limb that is too long": len(found.outliers),
    }
    if twice is not None:
        values |= {
            "images that are equal to another one": sum(len(group) - 1 for group in twice.equal),
            "images that look like another one": sum(len(group) - 1 for group in twice.alike),
            "images that cannot be read": len(twice.unreadable),
        }
    return values


def _histogram(numbers: np.ndarray, edges: Sequence[float], names: Sequence[str], x_label: str, of: str) -> str:
    """Returns a column chart of the shares of numbers in bins, which include their lower edge."""
    counts = np.histogram(numbers, edges)[0] if len(numbers) else np.zeros(len(names), int)
    total = max(int(counts.sum()), 1)
    shares = {name: count / total for name, count in zip(names, counts.tolist(), strict=True)}
    return charts.bars(shares, list(map(str, counts.tolist())), x_label, f"share of {of}")


def _people(found: Statistics) -> str:
    most = int(min(max(found.per_image.max(initial=0), 1), 8))
    names = [*map(str, range(most + 1)), *([] if found.per_image.max(initial=0) <= most else [f"> {most}"])]
    edges = [*range(len(names)), np.inf]
    return _histogram(found.per_image, edges, names, "labelled persons in an image", "images")


def _names(edges: Sequence[float]) -> list[str]:
    inner = [f"{a:g}–{b:g}" for a, b in zip(edges[:-2], edges[1:-1], strict=True)]
    return [*inner, f"≥ {edges[-2]:g}"]


def _crowding(found: Statistics) -> str:
    names = ["none", "< 0.05", *_names(_IOUS)[2:]]
    return _histogram(found.crowding, _IOUS, names, "IoU of the box with that of the nearest person", "persons")


def _sizes(found: Statistics) -> str:
    return _histogram(found.sizes, _SIZES, _names(_SIZES), "square root of the box area, pixels", "persons")


def _joints(found: Statistics) -> str:
    count = found.labels.shape[0]
    edges = np.unique(np.linspace(0, count + 1, min(count, 9) + 1).astype(int)).tolist()
    names = [f"{a}–{b - 1}" if b - 1 > a else str(a) for a, b in zip(edges, edges[1:], strict=False)]
    return _histogram(found.num_visible, edges, names, f"visible keypoints, of {count}", "persons")


def _sides(read: Annotations, found: Statistics) -> str:
    if not read.skeleton.flip_pairs:
        return '<p class="note">The keypoints have no left and right, or it is not known.</p>'
    compared = ", ".join(sorted({name for names in found.pairs for name in names})) or "none"
    text = (
        "Pairs of left and right that point the same way in at least 95 % of the persons are compared: from right to "
        f"left, {escape(compared)}. In {len(found.contradictions)} persons two of them point in opposite directions."
    )
    return f'<p class="note">{text}</p>'


def _duplicates(read: Annotations, twice: Duplicates) -> str:
    out = []
    for groups, title in ((twice.equal, "equal files"), (twice.alike, "images that look the same")):
        rows = [", ".join(read.file_names[index] for index in group[:10]) for group in groups[:NUM_GROUPS]]
        listed = "".join(f"<li>{escape(row)}</li>" for row in rows)
        more = f" The first {NUM_GROUPS} are listed." if len(groups) > NUM_GROUPS else ""
        out.append(f"<p>{len(groups)} groups of {title}.{more}</p><ul>{listed}</ul>")
    return "".join(out)


def _worst(data: PoseData, remarks: list[Remark], pictures: bool) -> str:
    """Returns the persons with the most unusual labels: the crop with the labelled skeleton, and the reasons."""
    if not remarks:
        return '<p class="note">No labels stand out.</p>'
    persons, cells = data.annotations.persons, []
    for remark in remarks:
        image_id, number = int(persons.image_ids[remark.person]), int(persons.ids[remark.person])
        text = f"annotation {number}, image {image_id}: {remark.text}"
        shown = _thumbnail(data, remark.person, text) if pictures else ""
        cells.append(f'<div style="width: {THUMBNAIL + 20}px">{shown}<p class="note">{escape(text)}</p></div>')
    return f'<div class="side">{"".join(cells)}</div>'


def _thumbnail(data: PoseData, person: int, text: str) -> str:
    persons = data.annotations.persons
    try:
        picture = images.read_image(data.image_paths([persons.image_ids[person]])[0], apply_exif=False)
    except UserError as error:
        return f'<p class="note">{escape(str(error))}</p>'
    labelled = persons.visibility[person] > 0
    points, box = persons.keypoints_image_xy[person], persons.boxes_image_xywh[person]
    ends = np.concatenate([points[labelled], box[None, :2], box[None, :2] + box[None, 2:]])
    margin = 0.1 * float(np.ptp(ends, axis=0).max()) + 4
    size = np.array(picture.shape[1::-1])
    low = np.clip(np.floor(ends.min(axis=0) - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(ends.max(axis=0) + margin), low + 1, size).astype(int)
    crop = picture[low[1] : high[1], low[0] : high[0]]
    scale = THUMBNAIL / max(crop.shape[:2])
    shape = tuple(max(round(side * scale), 1) for side in crop.shape[1::-1])
    crop = cv2.resize(crop, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    drawn = drawing.draw_poses(
        crop,
        ((points - low) * scale)[None],
        (persons.visibility[person] / 2)[None],
        data.skeleton,
        boxes_xywh=np.concatenate([(box[:2] - low) * scale, box[2:] * scale])[None],
    )
    return pages.picture(drawn, text)
