"""Crowds from photos of few: people are cut out of their photos and put before and behind people of other photos.

    source = kpzoo.data.load("~/lspet", "train")
    write_composed(source, "crowds", num_images=2000, seed=0, crowding=0.7)

The joints are where the annotators put them, moved along; who is hidden behind whom is known, since it was arranged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpzoo.data.files import PoseData
from kpzoo.errors import UserError
from kpzoo.nms import iou_matrix
from kpzoo.scenes.cutouts import Cutouts
from kpzoo.scenes.folder import write
from kpzoo.scenes.layers import Layer, annotations_of, covers_of, host_layer, moved_layer, rendered, shows

GENERATOR = "kpzoo.data.compose 1"  # written into data sets; the number grows when a seed gives other pictures
_CLOSEST = 0.66  # what boxes overlap at crowding 1; together with a third person's, 0.67 on average
_ZOOMS = (0.5, 1.6)  # of a cut-out; beyond, it looks sharper or softer than its surroundings
_CANDIDATES = 48  # people of whom the one who fits best is put beside another
_TRIES = 7
_FARTHER = 0.92  # how much smaller the next one is who is tried, where there was no room
_GOOD_FIT = 0.08  # in units of IoU
_ROOMY = 0.2  # share of a photo that somebody's box covers who leaves room for others
_DIRECTIONS = 12  # in which somebody is moved aside
_MOST_OUTSIDE = 0.3  # of a box beyond the picture's edge


def compose_scene(
    seed: int | Sequence[int], source: Cutouts, *, crowding: float = 0.5, people: tuple[int, int] = (2, 3)
) -> tuple[np.ndarray, list[dict]]:
    """Puts people of several photos into one; the same arguments give the same scene.

    Args:
        seed: A number, or several that count together.
        source: The people and the photos, `Cutouts(data)`.
        crowding: How much people overlap: 0 = apart as far as the picture allows, 1 = as in OCHuman, where the box of
            a person overlaps the nearest other one by an IoU of 0.67 on average.
        people: The fewest and the most people, the photo's own one among them; other annotated people of the photo
            stay in it and do not count. There are fewer where nobody fits without hiding somebody almost wholly.

    Returns:
        The picture, (H, W, 3) uint8 RGB, and for each person the COCO annotation without its ids: `keypoints` (x, y, v
        in picture pixels; v is 1 for what is behind somebody, 0 for what lies outside or was not labelled),
        `num_keypoints`, `segmentation` (RLE of the visible pixels), `area` (the source's, scaled), `bbox` (the
        source's, moved and clipped, hidden parts included), `iscrowd`, `category_id`.
    """
    people = _checked(crowding, people)
    rng = np.random.default_rng(seed)
    host, photo = _host(rng, source, crowding)
    persons = source.data.annotations.persons
    others = np.flatnonzero((persons.image_index == persons.image_index[host]) & persons.has_box)
    layers = [host_layer(source, person, photo) for person in others.tolist() if person != host]
    layers.append(host_layer(source, host, photo))
    group = [layers[-1]]
    for _ in range(int(rng.integers(people[0], people[1] + 1)) - 1):
        for _ in range(_TRIES):
            layer = _newcomer(rng, source, photo, layers, group, crowding)
            order = _arranged(rng, layers, group, layer)
            if order:
                layers, group = order, [*group, layer]
                break
    return rendered(photo, layers), annotations_of(source, layers)


@dataclass(frozen=True, eq=False)
class Crowd:
    """Composed scenes as an augmentation: what `kpzoo.data.make_dataset` and `training.run` take as `crowd`.

    Args:
        source: The people and the photos, `Cutouts(data)` of the data that is trained on.
        share: Of the crops, how many show a composed scene, 0 … 1.
        crowding: See `compose_scene`.
        people: See `compose_scene`.
    """

    source: Cutouts
    share: float = 0.5
    crowding: float = 0.7
    people: tuple[int, int] = (2, 3)

    def __post_init__(self):
        _checked(self.crowding, self.people)
        if not 0 <= self.share <= 1:
            raise UserError(f"The share of composed crops must lie in [0, 1]. Received: {self.share}.")

    def settings(self) -> dict:
        """Returns what tells one crowd from another, as JSON values."""
        return {"share": self.share, "crowding": self.crowding, "people": list(self.people)}

    def scene(self, seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
        """Returns one scene and whom in it the crop is about: picture, boxes, keypoints, visibility, that person.

        The same two numbers give the same scene: (H, W, 3) uint8, (P, 4), (P, K, 2), (P, K), an index below P.
        """
        image, annotations = compose_scene((seed, count, 1), self.source, crowding=self.crowding, people=self.people)
        annotations = [row for row in annotations if row["num_keypoints"] and min(row["bbox"][2:]) > 0]
        triples = np.array([row["keypoints"] for row in annotations], np.float32).reshape(len(annotations), -1, 3)
        boxes = np.array([row["bbox"] for row in annotations], np.float32)
        chosen = int(np.random.default_rng((seed, count, 2)).integers(len(annotations)))
        return image, boxes, triples[..., :2], triples[..., 2], chosen


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
    """Writes composed scenes as a COCO folder: `images/<split>/*.jpg`, `annotations/person_keypoints_<split>.json`.

    Picture i depends on the source, the seed, the split's name and i only: a longer data set begins with the shorter
    one. Either all of it appears, or nothing. Files of the source that cannot be read are named on stderr and left out.

    Args:
        source: COCO-format keypoint data, as of `kpzoo.data.load`.
        folder: Where to write; may hold other splits, but not the source.
        num_images: How many pictures.
        seed: Which pictures.
        crowding: See `compose_scene`.
        people: See `compose_scene`.
        split: Name of the part, such as `train` or `val`.
        overwrite: Replaces a split that this function has written before.
        progress: Whether to count on stderr.

    Returns:
        The path of the annotation file.
    """
    people = _checked(crowding, people)
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


def _checked(crowding: float, people: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= crowding <= 1:
        raise UserError(f"`crowding=` must lie in [0, 1]. Received: {crowding}.")
    fewest, most = people
    if not 1 <= fewest <= most or not 2 <= most <= 8:
        raise UserError(f"`people=` must be (fewest, most), from 1 or more to 2 … 8. Received: {tuple(people)}.")
    return int(fewest), int(most)


def _host(rng: np.random.Generator, source: Cutouts, crowding: float) -> tuple[int, np.ndarray]:
    """Draws a person who stays in the own photo, and returns both; one with room around, when people stay apart."""
    drawn = rng.integers(len(source.hosts), size=1 + round(4 * (1 - crowding) ** 2))
    places = source.hosts[drawn]
    sizes_wh = source.boxes_xyxy[places, 2:] - source.boxes_xyxy[places, :2]
    shares = sizes_wh.prod(axis=1) / source.sizes_hw[places].prod(axis=1)
    return _readable(source, source.hosts, int(drawn[np.argmax(shares <= max(_ROOMY, shares.min()))]))


def _readable(source: Cutouts, among: np.ndarray, start: int) -> tuple[int, np.ndarray]:
    """Returns the first person, counted from a place on, whose photo can be read, and the photo."""
    for step in range(len(among)):
        person = int(among[(start + step) % len(among)])
        photo = source.photo(person)
        if photo is not None:
            return person, photo
    raise UserError(f"No picture in {str(source.data.image_folder)!r} of people to cut out can be read.")


def _newcomer(
    rng: np.random.Generator, source: Cutouts, photo: np.ndarray, layers: list[Layer], group: list[Layer], crowding
) -> Layer:
    """Returns somebody beside one of the group, about as large as this one and as close as asked.

    Where there is no room, smaller people are tried, as if they stood farther away.
    """
    closeness = float(np.clip(_CLOSEST * crowding + rng.normal(0, 0.05), 0, 0.95)) if crowding > 0 else 0.0
    taken, boxes = [layer.person for layer in layers], [layer.box_xyxy for layer in layers]
    best = None
    for attempt in range(_TRIES):
        anchor = group[rng.integers(len(group))]
        person, zoom = _partner(rng, source, anchor, taken, closeness)
        if source.photo(person) is None:
            person, _ = _readable(source, source.movable, int(rng.integers(len(source.movable))))
            zoom = float(np.clip(anchor.height / source.heights[person], *_ZOOMS))
        zoom = max(zoom * _FARTHER**attempt, _ZOOMS[0])
        size_wh = zoom * (source.boxes_xyxy[person, 2:] - source.boxes_xyxy[person, :2])
        corner_xy, fault = _beside(rng, size_wh, anchor.box_xyxy, boxes, photo.shape[:2], closeness)
        if best is None or fault < best[0]:
            best = fault, person, zoom, corner_xy
        if fault < _GOOD_FIT:
            break
    _, person, zoom, corner_xy = best
    mirrored = bool(rng.random() < 0.5) and source.data.skeleton.sides_known
    return moved_layer(source, person, zoom, corner_xy, mirrored, photo)


def _partner(
    rng: np.random.Generator, source: Cutouts, anchor: Layer, taken: list[int], closeness: float
) -> tuple[int, float]:
    """Draws who comes beside `anchor`, and how much larger than in the photo: whose box can overlap so much."""
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
    reach = np.minimum(reach, closeness + 0.03)  # who can come closer than asked is as good
    fits = (zooms >= _ZOOMS[0]) & (zooms <= _ZOOMS[1])
    repeated = np.isin(images[drawn], images[taken])
    best = int(np.argmax(reach - 1.0 * ~fits - 2.0 * repeated))
    return int(drawn[best]), float(np.clip(zooms[best], *_ZOOMS))


def _beside(
    rng: np.random.Generator, size_wh: np.ndarray, box_xyxy: np.ndarray, others: list[np.ndarray], image_hw, closeness
) -> tuple[np.ndarray, float]:
    """Returns where the first corner of a box goes, so that it overlaps `box_xyxy` by `closeness`, and how ill it fits.

    Of several directions, that one is taken in which most of the box lies in the picture and no other one is covered
    more than `box_xyxy`.
    """
    angles = rng.normal(0, 0.35, _DIRECTIONS) + np.pi * (np.arange(_DIRECTIONS) % 2)
    headings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centred = (box_xyxy[:2] + box_xyxy[2:] - size_wh) / 2
    near, far = np.zeros(_DIRECTIONS), np.full(_DIRECTIONS, float((box_xyxy[2:] - box_xyxy[:2] + size_wh).sum()))
    for _ in range(12):
        middle = (near + far) / 2
        corners = centred + middle[:, None] * headings
        over = _overlaps(np.concatenate([corners, corners + size_wh], axis=1), box_xyxy) > closeness
        near, far = np.where(over, middle, near), np.where(over, far, middle)
    corners = centred + far[:, None] * headings
    boxes = np.concatenate([corners, corners + size_wh], axis=1)
    clipped = np.clip(boxes, 0, np.tile(image_hw[::-1], 2))
    outside = 1 - (clipped[:, 2:] - clipped[:, :2]).prod(axis=1) / np.prod(size_wh)
    most = np.max([_overlaps(clipped, other) for other in others], axis=0)
    faults = np.abs(most - closeness) + 0.5 * outside + (outside > _MOST_OUTSIDE)
    best = int(np.argmin(faults))
    return corners[best], float(faults[best])


def _overlaps(boxes_xyxy: np.ndarray, other_xyxy: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of N boxes with one."""
    boxes, other = (np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]) for b in (boxes_xyxy, other_xyxy[None]))
    return iou_matrix(boxes, other)[:, 0]


def _arranged(rng: np.random.Generator, layers: list[Layer], group: list[Layer], layer: Layer) -> list[Layer] | None:
    """Returns the layers with another one before or behind all of its group, None where this hides somebody.

    Who stands lower in the picture tends to be nearer.
    """
    behind = layers.index(next(other for other in layers if other in group))
    orders = [[*layers, layer], [*layers[:behind], layer, *layers[behind:]]]
    lead = (layer.box_xyxy[3] - np.mean([one.box_xyxy[3] for one in group])) / max(layer.height, 1.0)
    if rng.random() > 1 / (1 + np.exp(-8 * lead - 0.8)):
        orders.reverse()
    for order in orders:
        covers = covers_of(order)
        if all(shows(one, cover) for one, cover in zip(order, covers, strict=True) if one in (*group, layer)):
            return order
    return None
