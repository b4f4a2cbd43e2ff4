"""Crowds composed of annotated photos: people are cut out and pasted in front of or behind people of other photos.

    source = kpzoo.data.load("~/lspet", "train")
    write_composed(source, "crowds", num_images=2000, seed=0, crowding=0.7)

The keypoints are those of the photos, moved with the people. Visibility follows from the order of the people.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kpzoo.data.files import PoseData
from kpzoo.errors import UserError
from kpzoo.scenes.cutouts import Cutouts
from kpzoo.scenes.folder import write
from kpzoo.scenes.layers import Layer, host_layer, moved_layer, occlusion_of
from kpzoo.scenes.rendering import annotations_of, rendered

GENERATOR = "kpzoo.data.compose 3"  # stored in data sets; the version increases if a seed gives other images
_CLOSEST = 0.66  # IoU of two boxes at crowding 1; the mean IoU with the nearest box is 0.67, including third persons
_ZOOMS = (0.5, 1.6)  # scale of a cut-out, so that its sharpness is similar to that of the photo
_CANDIDATES = 48  # number of people that are compared for the best fit
_TRIES = 7
_FARTHER = 0.92  # factor of the size for the next try if there is no room
_GOOD_FIT = 0.08  # in units of IoU
_ROOMY = 0.2  # maximum share of a photo that is covered by the box of its person
_DIRECTIONS = 12  # directions in which a person is placed beside another
_MOST_OUTSIDE = 0.3  # maximum share of a box outside the image


def compose_scene(
    seed: int | Sequence[int], source: Cutouts, *, crowding: float = 0.5, people: tuple[int, int] = (2, 3)
) -> tuple[np.ndarray, list[dict]]:
    """Composes a scene of the people of several photos, which depends only on the arguments.

    Args:
        seed: Seed of the scene, an integer or a sequence of integers.
        source: People and photos, `Cutouts(data)`.
        crowding: Overlap of the people, from 0 (apart, if there is room) to 1 (as in OCHuman, where the mean IoU of a
            person's box with the nearest other box is 0.67).
        people: Minimum and maximum number of people, including one person of the photo. Other annotated people of the
            photo remain in it and are not counted. There are fewer people if one would be almost completely hidden.

    Returns:
        The image, (H, W, 3) uint8 RGB, and a COCO annotation without ids for each person: `keypoints` (x, y, v in image
        pixels, with v = 1 for keypoints behind other people and 0 for keypoints outside the image or without label),
        `num_keypoints`, `segmentation` (RLE of the visible pixels), `area` (scaled from the source), `bbox` (moved and
        clipped from the source, including hidden parts), `iscrowd`, `category_id`, and `keypoint_scores` if the source
        has them.

    Raises:
        UserError: If an argument is invalid.
    """
    people = checked(crowding, people)
    host, layers = arranged(seed, source, crowding, people)
    image, alphas = rendered(source, source.photo(host), layers)
    return image, annotations_of(source, layers, alphas)


def arranged(
    seed: int | Sequence[int], source: Cutouts, crowding: float, people: tuple[int, int]
) -> tuple[int, list[Layer]]:
    """Returns the people of a scene from back to front, and the person in whose photo they are. See `compose_scene`."""
    rng = np.random.default_rng(seed)
    host = _host(rng, source, crowding)
    image_hw = source.sizes_hw[host].tolist()
    persons = source.data.annotations.persons
    others = np.flatnonzero((persons.image_index == persons.image_index[host]) & persons.has_box)
    layers = [host_layer(source, person) for person in others.tolist() if person != host]
    layers.append(host_layer(source, host))
    group = [layers[-1]]
    for _ in range(int(rng.integers(people[0], people[1] + 1)) - 1):
        for _ in range(_TRIES):
            layer = _newcomer(rng, source, image_hw, layers, group, crowding)
            order = _inserted(rng, layers, group, layer, image_hw)
            if order:
                layers, group = order, [*group, layer]
                break
    return host, layers


def write_composed(
    source: PoseData | Cutouts,
    folder: str | Path,
    num_images: int,
    *,
    seed: int = 0,
    crowding: float = 0.5,
    people: tuple[int, int] = (2, 3),
    split: str = "train",
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Writes composed scenes in COCO format: `images/<split>/*.jpg` and `annotations/person_keypoints_<split>.json`.

    Image i depends only on the source, the seed, the name of the split and i: a longer data set begins with the images
    of a shorter one. The split is written atomically. Images of the source that cannot be read are reported on stderr
    and skipped.

    Args:
        source: Data set, see `kpzoo.data.load`, or `Cutouts`.
        folder: Output folder, which may contain other splits, but not the source.
        num_images: Number of images.
        seed: Seed of the scenes.
        crowding: See `compose_scene`.
        people: See `compose_scene`.
        split: Name of the split, such as `train` or `val`.
        overwrite: Whether to replace a split that this function has written.
        progress: Whether to print progress on stderr.

    Returns:
        The path of the annotation file.

    Raises:
        UserError: If an argument is invalid, the split exists, or the files cannot be written.
    """
    people = checked(crowding, people)
    cutouts = source if isinstance(source, Cutouts) else Cutouts(source)
    data = cutouts.data
    home = {path.resolve() for path in (data.image_folder, *Path(data.annotations.path).absolute().parents[:2])}
    if Path(folder).expanduser().resolve() in home | {data.image_folder.resolve().parent}:
        raise UserError(f"{folder} is the source's own folder. Write the scenes to another one.")
    info = {
        "description": "People of several photos put into one",
        "generator": GENERATOR,
        "source": Path(data.annotations.path).name,
        "crowding": crowding,
        "people": list(people),
    }
    return write(
        folder,
        num_images,
        lambda numbers: compose_scene(numbers, cutouts, crowding=crowding, people=people),
        data.skeleton,
        info,
        seed=seed,
        split=split,
        overwrite=overwrite,
        qualities=(85, 97),
        progress=progress,
    )


def checked(crowding: float, people: tuple[int, int]) -> tuple[int, int]:
    """Returns the number of people, or raises a `UserError` if an argument is invalid."""
    if not 0 <= crowding <= 1:
        raise UserError(f"`crowding=` must be in [0, 1]. Received: {crowding}.")
    fewest, most = people
    if not 1 <= fewest <= most or not 2 <= most <= 8:
        raise UserError(f"`people=` must be (fewest, most), from 1 or more to 2 … 8. Received: {tuple(people)}.")
    return int(fewest), int(most)


def _host(rng: np.random.Generator, source: Cutouts, crowding: float) -> int:
    """Chooses a person whose photo becomes the background; at low crowding, one with room for others."""
    drawn = rng.integers(len(source.hosts), size=1 + round(4 * (1 - crowding) ** 2))
    places = source.hosts[drawn]
    shares = source.box_sizes_wh[places].prod(axis=1) / source.sizes_hw[places].prod(axis=1)
    return _readable(source, source.hosts, int(drawn[np.argmax(shares <= max(_ROOMY, shares.min()))]))


def _readable(source: Cutouts, among: np.ndarray, start: int) -> int:
    """Returns the first person, counted from a place on, whose photo can be read."""
    for step in range(len(among)):
        person = int(among[(start + step) % len(among)])
        if source.readable(person):
            return person
    raise UserError(f"No picture in {str(source.data.image_folder)!r} of people to cut out can be read.")


def _newcomer(
    rng: np.random.Generator, source: Cutouts, image_hw, layers: list[Layer], group: list[Layer], crowding: float
) -> Layer:
    """Returns a person beside one of the group, with a similar size and the overlap of `crowding`.

    If there is no room, the person is made smaller, as if it were farther away.
    """
    closeness = float(np.clip(_CLOSEST * crowding + rng.normal(0, 0.05), 0, 0.95)) if crowding > 0 else 0.0
    taken, boxes = [layer.person for layer in layers], np.array([layer.box_xyxy for layer in layers])
    best = None
    for attempt in range(_TRIES):
        anchor = group[rng.integers(len(group))]
        person, zoom = _partner(rng, source, anchor, taken, closeness)
        if not source.readable(person):
            person = _readable(source, source.movable, int(rng.integers(len(source.movable))))
            zoom = float(np.clip(anchor.height / source.heights[person], *_ZOOMS))
        zoom = max(zoom * _FARTHER**attempt, _ZOOMS[0])
        size_wh = zoom * source.box_sizes_wh[person]
        corner_xy, fault = _beside(rng, size_wh, anchor.box_xyxy, boxes, image_hw, closeness)
        if best is None or fault < best[0]:
            best = fault, person, zoom, corner_xy
        if fault < _GOOD_FIT:
            break
    _, person, zoom, corner_xy = best
    mirrored = bool(rng.random() < 0.5) and source.data.skeleton.sides_known
    return moved_layer(source, person, zoom, corner_xy, mirrored, image_hw)


def _partner(
    rng: np.random.Generator, source: Cutouts, anchor: Layer, taken: list[int], closeness: float
) -> tuple[int, float]:
    """Chooses a person beside `anchor`, and its scale, such that the boxes can overlap by `closeness`."""
    images = source.data.annotations.persons.image_index
    drawn = source.movable[rng.integers(len(source.movable), size=_CANDIDATES)]
    noise = rng.normal(0, 0.1 * (1 - 0.5 * closeness), len(drawn))
    widths, heights = source.box_sizes_wh[drawn].T
    anchor_width, anchor_height = _size(anchor.box_xyxy)
    as_tall = np.log(anchor.height / source.heights[drawn])
    as_wide = np.log(anchor_width * anchor_height / (widths * heights)) / 2
    zooms = np.exp(as_tall + np.minimum(np.maximum(closeness * (as_wide - as_tall), -0.35), 0.35) + noise)
    widths, heights = widths * zooms, heights * zooms
    shared = np.minimum(widths, anchor_width) * np.minimum(heights, anchor_height)
    reach = shared / (widths * heights + anchor_width * anchor_height - shared)
    reach = np.minimum(reach, closeness + 0.03)  # a larger possible overlap than requested is no advantage
    fits = (zooms >= _ZOOMS[0]) & (zooms <= _ZOOMS[1])
    photos, repeated = images[drawn], False
    for photo in set(images[taken].tolist()):
        repeated = repeated | (photos == photo)
    best = int(np.argmax(reach - 1.0 * ~fits - 2.0 * repeated))
    return int(drawn[best]), min(max(float(zooms[best]), _ZOOMS[0]), _ZOOMS[1])


def _beside(
    rng: np.random.Generator, size_wh: np.ndarray, box_xyxy: np.ndarray, others: np.ndarray, image_hw, closeness
) -> tuple[np.ndarray, float]:
    """Places a box so that its IoU with `box_xyxy` is `closeness`. Returns its first corner, and an error of the fit.

    Among several directions, the one with the smallest error is chosen: most of the box is in the image, and no other
    box overlaps more than `box_xyxy`.
    """
    angles = rng.normal(0, 0.35, _DIRECTIONS) + np.pi * (np.arange(_DIRECTIONS) % 2)
    heading_x, heading_y = np.cos(angles), np.sin(angles)
    (width, height), (x, y) = size_wh.tolist(), ((box_xyxy[:2] + box_xyxy[2:] - size_wh) / 2).tolist()
    away = _distance(_size(box_xyxy), (width, height), (np.abs(heading_x), np.abs(heading_y)), closeness)
    corner_x, corner_y = x + away * heading_x, y + away * heading_y
    low_x, high_x = (np.minimum(np.maximum(ends, 0), image_hw[1]) for ends in (corner_x, corner_x + width))
    low_y, high_y = (np.minimum(np.maximum(ends, 0), image_hw[0]) for ends in (corner_y, corner_y + height))
    outside = 1 - (high_x - low_x) * (high_y - low_y) / (width * height)
    most = _overlaps((low_x[:, None], low_y[:, None], high_x[:, None], high_y[:, None]), others.T).max(axis=1)
    faults = np.abs(most - closeness) + 0.5 * outside + (outside > _MOST_OUTSIDE)
    best = int(np.argmin(faults))
    return np.array([corner_x[best], corner_y[best]]), float(faults[best])


def _size(box_xyxy: np.ndarray) -> tuple[float, float]:
    x0, y0, x1, y1 = box_xyxy.tolist()
    return x1 - x0, y1 - y0


def _distance(one_wh: Sequence[float], other_wh: Sequence[float], heading_xy, closeness: float) -> np.ndarray:
    """Returns how far apart the centres of two boxes are, per heading, when their IoU is `closeness`.

    At distance t the boxes share min(w, s_x - t |cos|) * min(h, s_y - t |sin|), where w and h are the smaller width and
    height, and s_x and s_y half the sum of both. That is the smallest of four products, so it falls to the wanted area
    where the first of them does. The distance is 0 if the IoU is smaller everywhere.
    """
    (one_width, one_height), (other_width, other_height) = one_wh, other_wh
    width, height = min(one_width, other_width), min(one_height, other_height)
    reach_x, reach_y = (one_width + other_width) / 2, (one_height + other_height) / 2
    wanted = closeness / (1 + closeness) * (one_width * one_height + other_width * other_height)
    if width * height <= wanted:
        return np.zeros_like(heading_xy[0])
    along_x, along_y = (np.maximum(part, 1e-9) for part in heading_xy)
    only_x, only_y = (reach_x - wanted / height) / along_x, (reach_y - wanted / width) / along_y
    linear, square = along_x * reach_y + along_y * reach_x, along_x * along_y
    root = np.sqrt(linear * linear - 4 * square * (reach_x * reach_y - wanted))
    both = 2 * (reach_x * reach_y - wanted) / (linear + root)
    return np.minimum(np.minimum(only_x, only_y), both)


def _overlaps(boxes: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the IoU of boxes, each given as x0, y0, x1, y1 of shapes that broadcast."""
    (x0, y0, x1, y1), (left, top, right, bottom) = boxes, others
    wide = np.maximum(np.minimum(x1, right) - np.maximum(x0, left), 0)
    shared = wide * np.maximum(np.minimum(y1, bottom) - np.maximum(y0, top), 0)
    areas = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top)
    return shared / np.maximum(areas - shared, 1e-9)


def _inserted(
    rng: np.random.Generator, layers: list[Layer], group: list[Layer], layer: Layer, image_hw: Sequence[int]
) -> list[Layer] | None:
    """Inserts a layer in front of or behind its group. Returns None if a person would be hidden.

    A person that is lower in the image is more likely in front.
    """
    behind = layers.index(next(other for other in layers if other in group))
    orders = [[*layers, layer], [*layers[:behind], layer, *layers[behind:]]]
    lead = (layer.box_xyxy[3] - np.mean([one.box_xyxy[3] for one in group])) / max(layer.height, 1.0)
    if rng.random() > 1 / (1 + np.exp(-8 * lead - 0.8)):
        orders.reverse()
    members = {id(one) for one in (*group, layer)}
    for order in orders:
        places = (place for place, one in enumerate(order) if id(one) in members)
        if all(occlusion_of(place, order, image_hw)[1] for place in places):
            return order
    return None
