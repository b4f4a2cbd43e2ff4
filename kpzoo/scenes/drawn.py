"""Drawn scenes of people with exact COCO annotations, as training data without download.

    folder = write_drawn("people", num_images=2000, seed=0, crowding=0.5)

A scene shows several clothed figures in front of a cluttered background, partly occluded by objects. The keypoints are
exact. Their visibility is computed from the pixels that also define the masks.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from kpzoo.errors import UserError
from kpzoo.scenes.figures.clothes import sample_look
from kpzoo.scenes.figures.grouping import sample_actors
from kpzoo.scenes.figures.people import Figure, draw_figure, pixels_around
from kpzoo.scenes.figures.scenery import darken_disc, draw_backdrop, draw_occluder, draw_seat, over, photograph
from kpzoo.scenes.folder import write
from kpzoo.skeletons import COCO17

GENERATOR = "kpzoo.data.synthetic 1"  # stored in data sets; the version increases if a seed gives other images
_NOBODY = 255
_HIPS = [COCO17.keypoints.index(name) for name in ("left_hip", "right_hip")]
LEAST_SHOWN = 0.2  # minimum visible share of the pixels of a person in a scene
_LEAST_JOINTS = 3


def draw_scene(
    seed: int | Sequence[int],
    *,
    crowding: float = 0.0,
    people: tuple[int, int] = (1, 4),
    image_hw: tuple[int, int] = (240, 320),
) -> tuple[np.ndarray, list[dict]]:
    """Draws a scene, which depends only on the arguments.

    Args:
        seed: Seed of the scene, an integer or a sequence of integers.
        crowding: Overlap of the people, from 0 (apart, if there is room) to 1 (as in OCHuman, where the mean IoU of a
            person's box with the nearest other box is 0.67).
        people: Minimum and maximum number of people. People who are almost completely hidden are removed.
        image_hw: (height, width) of the image in pixels.

    Returns:
        The image, (H, W, 3) uint8 RGB, and a COCO annotation without ids for each person: `keypoints` (17 x, y, v in
        image pixels, with v = 2 for visible, 1 for hidden and 0 for keypoints outside the image), `num_keypoints`,
        `segmentation` (RLE of the visible pixels), `area`, `bbox` (x, y, width, height), `iscrowd`, `category_id`.

    Raises:
        UserError: If an argument is invalid.

    >>> image, annotations = draw_scene(7, people=(2, 2))
    >>> image.shape, len(annotations[0]["keypoints"])
    ((240, 320, 3), 51)
    """
    people, image_hw = _checked(crowding, people, image_hw)
    rng = np.random.default_rng(seed)
    image, floor = draw_backdrop(rng, image_hw)
    actors = sample_actors(rng, people, crowding, image_hw, floor)
    heading, sideways = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.0)
    light_xy = sideways * np.array([np.cos(heading), -abs(np.sin(heading))])
    figures = [draw_figure(a.body, sample_look(rng), a.height, a.hips_xy, image_hw, light_xy) for a in actors]
    occluders = [draw_occluder(rng, image_hw) for _ in range(rng.choice(3, p=(0.7, 0.24, 0.06)))]
    figures, owner_map, occluders = _casting(figures, occluders, image_hw)
    for figure in figures:
        if figure.seated:
            draw_seat(rng, image, figure.keypoints_image_xy[_HIPS].mean(0), figure.feet_xy[1], figure.height)
    for figure in figures:
        paint_figure(image, figure)
    for layer, _ in occluders:
        image = over(image, layer)
    annotations = [annotation(figure, owner_map == index) for index, figure in enumerate(figures)]
    return photograph(rng, image), annotations


def write_drawn(
    folder: str | Path,
    num_images: int,
    *,
    seed: int = 0,
    crowding: float = 0.0,
    people: tuple[int, int] = (1, 4),
    image_hw: tuple[int, int] = (240, 320),
    split: str = "train",
    overwrite: bool = False,
) -> Path:
    """Writes drawn scenes in COCO format: `images/<split>/*.jpg` and `annotations/person_keypoints_<split>.json`.

    Image i depends only on the seed, the name of the split and i: a longer data set begins with the images of a shorter
    one, and the splits of a seed have different images. The split is written atomically.

    Args:
        folder: Output folder, which may contain other splits.
        num_images: Number of images.
        seed: Seed of the scenes.
        crowding: See `draw_scene`.
        people: See `draw_scene`.
        image_hw: See `draw_scene`.
        split: Name of the split, such as `train` or `val`.
        overwrite: Whether to replace a split that this function has written.

    Returns:
        The path of the annotation file.

    Raises:
        UserError: If an argument is invalid, the split exists, or the files cannot be written.
    """
    people, image_hw = _checked(crowding, people, image_hw)
    info = {
        "description": "Drawn people, not photographs",
        "generator": GENERATOR,
        "crowding": crowding,
        "people": list(people),
        "image_hw": list(image_hw),
    }
    return write(
        folder,
        num_images,
        lambda source: draw_scene(source, crowding=crowding, people=people, image_hw=image_hw),
        COCO17,
        info,
        seed=seed,
        split=split,
        overwrite=overwrite,
    )


def _checked(crowding: float, people: tuple[int, int], image_hw: tuple[int, int]) -> tuple[tuple, tuple]:
    if not 0 <= crowding <= 1:
        raise UserError(f"`crowding=` must be in [0, 1]. Received: {crowding}.")
    fewest, most = people
    if not 1 <= fewest <= most <= 20:
        raise UserError(f"`people=` must be (fewest, most) with 1 <= fewest <= most <= 20. Received: {tuple(people)}.")
    if crowding > 0 and most < 2:
        raise UserError(f"`crowding=` needs at least two people in a picture. Received: {tuple(people)}.")
    if min(image_hw) < 48 or max(image_hw) > 2048:
        raise UserError(f"`image_hw=` must be (height, width) with sides of 48 to 2048. Received: {tuple(image_hw)}.")
    return (int(fewest), int(most)), (int(image_hw[0]), int(image_hw[1]))


def _casting(
    figures: list[Figure], occluders: list, image_hw: tuple[int, int]
) -> tuple[list[Figure], np.ndarray, list]:
    """Removes figures and occluders until every figure is visible.

    Returns:
        The figures, farthest first, the (H, W) map of figure indices, and the occluders.
    """
    while True:
        for order, kept in ((figures, occluders), (figures, []), (figures[::-1], [])):
            owner_map = owners(order, kept, image_hw)
            shares = [shown(figure, owner_map == index) for index, figure in enumerate(order)]
            if min(shares, default=1.0) >= LEAST_SHOWN or len(order) == 1:
                return order, owner_map, kept
        worst = int(np.argmin(shares))
        figures = [figure for index, figure in enumerate(order) if index != worst]


def owners(figures: list[Figure], occluders: list, image_hw: tuple[int, int]) -> np.ndarray:
    """Returns the (H, W) map of the indices of the figures, farthest first, that each pixel shows."""
    owner_map = np.full(image_hw, _NOBODY, np.uint8)
    for index, figure in enumerate(figures):
        _window(owner_map, figure)[figure.parts > 0] = index
    for _, mask in occluders:
        owner_map[mask] = _NOBODY
    return owner_map


def _window(picture: np.ndarray, figure: Figure) -> np.ndarray:
    x, y = figure.origin_xy
    height, width = figure.parts.shape
    return picture[y : y + height, x : x + width]


def shown(figure: Figure, mask: np.ndarray) -> float:
    """Returns the visible share of a figure's pixels, 0 if too few joints are visible."""
    joints = (_visibility(figure, mask) == 2).sum()
    return float(mask.sum() / max((figure.parts > 0).sum(), 1)) if joints >= _LEAST_JOINTS else 0.0


def _visibility(figure: Figure, mask: np.ndarray) -> np.ndarray:
    """Returns (17,) COCO visibility. A joint is visible if most of the 3x3 pixels around it show that body part."""
    xy = figure.keypoints_image_xy
    inside = ((xy >= 0) & (xy <= np.array(mask.shape)[::-1] - 1)).all(1)
    shows = figure.bare & (pixels_around(mask, xy).mean(1) > 0.5)
    return np.where(inside, np.where(shows, 2, 1), 0)


def paint_figure(image: np.ndarray, figure: Figure) -> None:
    """Draws a figure, and its shadows on the ground and on the background."""
    darken_disc(image, figure.feet_xy, figure.height * np.array([0.22, 0.05]), 0.5)
    window = _window(image, figure)
    shadow = cv2.blur(figure.rgba[..., 3], (9, 9))
    keep = cv2.convertScaleAbs(shadow, alpha=-0.3, beta=255)
    window[...] = over(cv2.multiply(window, cv2.merge([keep] * 3), scale=1 / 255), figure.rgba)


def annotation(figure: Figure, mask: np.ndarray) -> dict:
    """Returns the COCO annotation of a figure with the visible pixels `mask` (H, W)."""
    from pycocotools import mask as rle

    code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    visibility = _visibility(figure, mask)
    xy = np.where(visibility[:, None] > 0, np.round(figure.keypoints_image_xy, 2), 0.0)
    return {
        "category_id": 1,
        "iscrowd": 0,
        "keypoints": [value for (x, y), v in zip(xy.tolist(), visibility.tolist(), strict=True) for value in (x, y, v)],
        "num_keypoints": int((visibility > 0).sum()),
        "segmentation": {"size": list(mask.shape), "counts": code["counts"].decode("ascii")},
        "area": int(mask.sum()),
        "bbox": rle.toBbox(code).tolist(),
    }
