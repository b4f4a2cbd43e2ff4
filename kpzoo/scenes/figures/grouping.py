"""Positions of people: groups with a given overlap, spread over the width of the image."""

from dataclasses import dataclass, replace

import numpy as np

from kpzoo.scenes.figures.postures import PARTNERS, Body, extent, pose_body, sample_build, sample_posture, sample_yaw
from kpzoo.scenes.figures.textures import pick

# What the boxes of whole bodies overlap at crowding 1; what hides, and so shrinks a box, makes 0.67 of it.
_CLOSEST = 0.73


@dataclass(frozen=True)
class Actor:
    """A body with a place: one body height is `height` pixels, the middle of the hips goes to `hips_xy`."""

    body: Body
    height: float
    hips_xy: np.ndarray

    @property
    def box_xyxy(self) -> np.ndarray:
        return extent(self.body) * self.height + np.tile(self.hips_xy, 2)

    def moved(self, zoom: float, offset_xy: np.ndarray) -> "Actor":
        return replace(self, height=self.height * zoom, hips_xy=self.hips_xy * zoom + offset_xy)


def box_overlap(box_xyxy: np.ndarray, other_xyxy: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(box_xyxy[:2], other_xyxy[:2]), np.minimum(box_xyxy[2:], other_xyxy[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / (np.prod(box_xyxy[2:] - box_xyxy[:2]) + np.prod(other_xyxy[2:] - other_xyxy[:2]) - shared))


def _body(rng: np.random.Generator, tilt: float, name: str | None = None, yaw: float | None = None) -> Body:
    yaw = sample_yaw(rng) if yaw is None else yaw
    return pose_body(sample_build(rng), sample_posture(rng, name), yaw, tilt)


def _partner(rng: np.random.Generator, first: Actor, tilt: float, closeness: float) -> Actor:
    """Returns a person whose box overlaps that of `first` by `closeness`, as far as the postures allow."""
    name, box = first.body.posture.name, first.box_xyxy
    best, best_overlap = first, -1.0
    for _ in range(1 + round(4 * closeness)):
        if name in PARTNERS:
            body = _body(rng, tilt, name, first.body.yaw + PARTNERS[name] + rng.normal(0, 20))
        else:
            body = _body(rng, tilt, name if rng.random() < closeness else None)
        own = extent(body)
        fit = ((box[3] - box[1]) / (own[3] - own[1])) ** closeness
        height = float(np.clip(fit, 0.72, 1.4) * np.exp(rng.normal(0, 0.07 * (1 - 0.5 * closeness))))
        centred = Actor(body, height, (box[:2] + box[2:] - height * (own[:2] + own[2:])) / 2)
        overlap = box_overlap(box, centred.box_xyxy)
        if overlap > best_overlap:
            best, best_overlap = centred, overlap
        if overlap > closeness:
            break
    return _aside(rng, best, box, closeness)


def _aside(rng: np.random.Generator, actor: Actor, box_xyxy: np.ndarray, closeness: float) -> Actor:
    """Moves an actor away from a box until the overlap is `closeness`."""
    heading = np.array([-1.0 if rng.random() < 0.5 else 1.0, rng.normal(0, 0.12)])
    own = actor.box_xyxy
    near, far = 0.0, float((box_xyxy[2:] - box_xyxy[:2]).sum() + actor.height)
    for _ in range(12):
        middle = (near + far) / 2
        if box_overlap(box_xyxy, own + middle * np.tile(heading, 2)) > closeness:
            near = middle
        else:
            far = middle
    return actor.moved(1.0, near * heading)


def _group(rng: np.random.Generator, size: int, tilt: float, crowding: float) -> list[Actor]:
    """Returns people around the origin, one body height 1 pixel, each close to an earlier one."""
    touching = size > 1 and rng.random() < 0.45 * crowding
    first = _body(rng, tilt, pick(rng, dict.fromkeys(PARTNERS, 1)) if touching else None)
    actors = [Actor(first, 1.0, np.zeros(2))]
    while len(actors) < size:
        closeness = float(np.clip(_CLOSEST * crowding + rng.normal(0, 0.05), 0.02, 0.95))
        actors.append(_partner(rng, actors[rng.integers(len(actors))], tilt, closeness))
    return actors


def _sizes(rng: np.random.Generator, count: int, crowding: float) -> list[int]:
    """Splits `count` people into groups: single people at crowding 0, otherwise pairs and some groups of three."""
    if crowding == 0:
        return [1] * count
    sizes = [2] * (count // 2)
    if count % 2:
        if sizes and rng.random() < crowding:
            sizes[rng.integers(len(sizes))] += 1
        else:
            sizes.append(1)
    return sizes


def _bounds(actors: list[Actor]) -> np.ndarray:
    boxes = np.stack([actor.box_xyxy for actor in actors])
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])


def sample_actors(
    rng: np.random.Generator, people: tuple[int, int], crowding: float, image_hw: tuple[int, int], floor: float
) -> list[Actor]:
    """Returns the people of a scene, farthest first.

    Args:
        people: The fewest and the most people.
        crowding: 0 = apart as far as the picture allows, 1 = as close as in OCHuman.
        image_hw: Size of the picture.
        floor: Height of the horizon, as a share of the picture's.
    """
    count = int(rng.integers(people[0], people[1] + 1))
    if count == 1 and people[1] > 1 and rng.random() < crowding:
        count = 2
    tilt = float(np.clip(rng.normal(7, 7), -6, 32))
    groups = [_group(rng, size, tilt, crowding) for size in _sizes(rng, count, crowding)]
    actors = [actor for group in _spread(rng, groups, image_hw, floor) for actor in group]
    nearness = [actor.box_xyxy[3] + rng.normal(0, 0.02 * image_hw[0]) for actor in actors]
    return [actors[i] for i in np.argsort(nearness, kind="stable")]


def _spread(
    rng: np.random.Generator, groups: list[list[Actor]], image_hw: tuple[int, int], floor: float
) -> list[list[Actor]]:
    """Returns the groups side by side in the picture, as large as fits; a few are close-ups that its edge cuts."""
    height, width = image_hw
    bounds = np.stack([_bounds(group) for group in groups])
    size_wh = bounds[:, 2:] - bounds[:, :2]
    zooms = height * rng.uniform(0.5, 0.97) * np.exp(rng.normal(0, 0.1, len(groups)))
    zooms *= (rng.uniform(1.1, 1.9) if rng.random() < 0.25 else 1.0) / np.maximum(size_wh[:, 1].max(), 0.6)
    widest = 0.97 * width if len(groups) > 1 else 1.25 * width
    zooms *= min(1.0, widest / (zooms * size_wh[:, 0]).sum())
    widths, talls = (zooms[:, None] * size_wh).T
    gaps = rng.dirichlet(np.ones(len(groups) + 1)) * (width - widths.sum())
    order = rng.permutation(len(groups))
    lefts = np.empty(len(groups))
    lefts[order] = np.cumsum(gaps[:-1]) + np.cumsum(widths[order]) - widths[order]
    if len(groups) == 1 and rng.random() < 0.25:
        lefts += rng.normal(0, 0.3) * widths
    placed = []
    for group, zoom, tall, left, bound in zip(groups, zooms, talls, lefts, bounds, strict=True):
        if tall < 0.98 * height:
            bottom = rng.uniform(
                min(max(tall, floor * height), 0.98 * height), height * (1.06 if rng.random() < 0.5 else 1.0)
            )
        else:
            bottom = tall + rng.uniform(-0.08, 0.04) * height
        offset = np.array([left, bottom]) - zoom * bound[[0, 3]]
        placed.append([actor.moved(zoom, offset) for actor in group])
    return placed
