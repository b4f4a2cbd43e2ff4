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

GENERATOR = "kpzoo.data.compose 2"  # stored in data sets; the version increases if a seed gives other images
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
    sizes_wh = source.boxes_xyxy[places, 2:] - source.boxes_xyxy[places, :2]
    shares = sizes_wh.prod(axis=1) / source.sizes_hw[places].prod(axis=1)
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
        size_wh = zoom * (source.boxes_xyxy[person, 2:] - source.boxes_xyxy[person, :2])
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
    sizes_wh = source.boxes_xyxy[drawn, 2:] - source.boxes_xyxy[drawn, :2]
    anchor_wh = anchor.box_xyxy[2:] - anchor.box_xyxy[:2]
    as_tall = np.log(anchor.height / source.heights[drawn])
    as_wide = np.log(np.prod(anchor_wh) / np.prod(sizes_wh, axis=1)) / 2
    zooms = np.exp(as_tall + np.clip(closeness * (as_wide - as_tall), -0.35, 0.35) + noise)
    sizes_wh = sizes_wh * zooms[:, None]
    shared = np.minimum(sizes_wh, anchor_wh).prod(axis=1)
    reach = shared / (sizes_wh.prod(axis=1) + np.prod(anchor_wh) - shared)
    reach = np.minimum(reach, closeness + 0.03)  # a larger possible overlap than requested is no advantage
    fits = (zooms >= _ZOOMS[0]) & (zooms <= _ZOOMS[1])
    repeated = np.isin(images[drawn], images[taken])
    best = int(np.argmax(reach - 1.0 * ~fits - 2.0 * repeated))
    return int(drawn[best]), float(np.clip(zooms[best], *_ZOOMS))


def _beside(
    rng: np.random.Generator, size_wh: np.ndarray, box_xyxy: np.ndarray, others: np.ndarray, image_hw, closeness
) -> tuple[np.ndarray, float]:
    """Places a box so that its IoU with `box_xyxy` is `closeness`. Returns its first corner, and an error of the fit.

    Among several directions, the one with the smallest error is chosen: most of the box is in the image, and no other
    box overlaps more than `box_xyxy`.
    """
    angles = rng.normal(0, 0.35, _DIRECTIONS) + np.pi * (np.arange(_DIRECTIONS) % 2)
    headings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centred = (box_xyxy[:2] + box_xyxy[2:] - size_wh) / 2
    near, far = np.zeros(_DIRECTIONS), np.full(_DIRECTIONS, float((box_xyxy[2:] - box_xyxy[:2] + size_wh).sum()))
    for _ in range(12):
        middle = (near + far) / 2
        corners = centred + middle[:, None] * headings
        over = _overlaps(corners, corners + size_wh, box_xyxy[:2], box_xyxy[2:]) > closeness
        near, far = np.where(over, middle, near), np.where(over, far, middle)
    corners = centred + far[:, None] * headings
    low, high = (np.clip(ends, 0, image_hw[::-1]) for ends in (corners, corners + size_wh))
    outside = 1 - (high - low).prod(axis=1) / np.prod(size_wh)
    most = _overlaps(low[:, None], high[:, None], others[:, :2], others[:, 2:]).max(axis=1)
    faults = np.abs(most - closeness) + 0.5 * outside + (outside > _MOST_OUTSIDE)
    best = int(np.argmin(faults))
    return corners[best], float(faults[best])


def _overlaps(low_xy: np.ndarray, high_xy: np.ndarray, others_low_xy: np.ndarray, others_high_xy: np.ndarray):
    """Returns the IoU of boxes, given by their first and last corners, of shapes that broadcast."""
    shared = np.minimum(high_xy, others_high_xy) - np.maximum(low_xy, others_low_xy)
    shared = np.maximum(shared, 0).prod(axis=-1)
    areas = (high_xy - low_xy).prod(axis=-1) + (others_high_xy - others_low_xy).prod(axis=-1)
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
