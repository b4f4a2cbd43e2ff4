"""Augmentation of training crops, inside the TensorFlow graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kpzoo.errors import UserError, unknown
from kpzoo.skeletons import Skeleton


@dataclass(frozen=True)
class Augment:
    """Random augmentation of training crops. The defaults change nothing.

    Args:
        scale: Minimum and maximum scale of the view.
        rotation: Maximum rotation in degrees, in both directions.
        rotation_probability: Probability that a crop is rotated.
        flip_probability: Probability that a crop is mirrored.
        brightness: Minimum and maximum factor of each colour channel.
        normal: Whether scale and rotation are drawn from clipped normal distributions. Defaults to uniform ones.
        half_body_probability: Probability that a crop shows only the upper or lower body, for persons with more than 8
            labelled keypoints.
        erase_probability: Probability that a rectangle of the crop is erased (arXiv:1708.04896). Keypoints in it stay
            labelled.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    rotation_probability: float = 1.0
    flip_probability: float = 0.0
    brightness: tuple[float, float] = (1.0, 1.0)
    normal: bool = False
    half_body_probability: float = 0.0
    erase_probability: float = 0.0


AUGMENTS = {
    # Both CPN repositories: of four crops of a person, two are rotated by up to 45 degrees and one is mirrored. Their
    # scale is limited to 1.25, because they crop a padded image.
    "cpn": Augment((0.7, 1.35), 45.0, 0.5, 0.5, brightness=(0.8, 1.2)),
    # HRNet-W32 on COCO: 0.35 and 45 degrees are one standard deviation.
    "hrnet": Augment((0.65, 1.35), 90.0, 0.6, 0.5, normal=True, half_body_probability=0.3),
    "simplebaseline": Augment((0.7, 1.3), 80.0, 0.6, 0.5, normal=True),  # its ResNets: 0.3 and 40 degrees
}


def without_mirroring(augment: str | Augment | None, skeleton: Skeleton) -> Augment | None:
    """Returns the augmentation, without mirrored crops if the skeleton does not know left from right.

    Raises:
        UserError: An `Augment` of the caller's own mirrors, and the skeleton does not know left from right.
    """
    chosen = augmentation(augment)
    if chosen is None or skeleton.sides_known or not chosen.flip_probability:
        return chosen
    if isinstance(augment, Augment):
        raise UserError(
            f"Crops cannot be mirrored: it is not known which keypoints of {skeleton.name!r} are the left and right of "
            "each other. Name them left_x and right_x, add `flip_pairs` to the category, or set flip_probability to 0."
        )
    return replace(chosen, flip_probability=0.0)


def augmentation(augment: str | Augment | None) -> Augment | None:
    """Returns the augmentation of a name in `AUGMENTS`. An `Augment` or None is returned unchanged."""
    if augment is None or isinstance(augment, Augment):
        return augment
    if augment not in AUGMENTS:
        raise unknown("augmentation", augment, AUGMENTS)
    return AUGMENTS[augment]


# Random numbers of a crop: `draws(name, size)` returns (size,) uniform numbers in [0, 1).
Draws = Callable[[str, int], tf.Tensor]


def draws_of(seed: int, count: tf.Tensor) -> Draws:
    """Returns the random numbers of a crop, by name.

    Each name has its own random stream, so that a new augmentation does not change the numbers of the others.

    Args:
        seed: Seed of the data set.
        count: () int64, number of the crop.
    """

    def draws(name: str, size: int) -> tf.Tensor:
        return tf.random.stateless_uniform((size,), tf.stack([stream_key(seed, name), count]))

    return draws


def stream_key(seed: int, name: str) -> tf.Tensor:
    """Returns the () int64 seed of a random stream."""
    return tf.constant(int.from_bytes(blake2b(f"{seed} {name}".encode(), digest_size=8).digest()) >> 1, tf.int64)


class Person(NamedTuple):
    """The annotated person of a crop.

    Args:
        keypoints_image_xy: (K, 2) in image pixels.
        visibility: (K,) of 0, 1, 2.
        is_lower: (K,) which keypoints belong to the legs and hips, see `Skeleton.is_lower`.
    """

    keypoints_image_xy: tf.Tensor
    visibility: tf.Tensor
    is_lower: np.ndarray


class View(NamedTuple):
    """The part of an image that a crop shows; the arguments of `crops.view_matrix`.

    Args:
        box: (4,) centre x, centre y, width, height in image pixels, with the aspect of the crop.
        scale: Factor on the box's size.
        rotation: Turn of the crop's axes in the image, in radians.
        mirrored: Whether the crop's columns are reversed.
    """

    box: tf.Tensor
    scale: tf.Tensor
    rotation: tf.Tensor
    mirrored: tf.Tensor


def augmented_view(augment: Augment | None, box: tf.Tensor, person: Person, draws: Draws) -> View:
    """Returns the view of a (4,) box after all of `VIEW_STEPS`; without an augmentation, the box as it is."""
    view = View(box, tf.constant(1.0), tf.constant(0.0), tf.constant(False))
    for step in VIEW_STEPS if augment else ():
        view = step(view, augment, draws, person)
    return view


def augmented_pixels(augment: Augment | None, image: tf.Tensor, draws: Draws, fill_rgb: Sequence[float]) -> tf.Tensor:
    """Returns the (H, W, 3) crop after all of `PIXEL_STEPS`."""
    for step in PIXEL_STEPS if augment else ():
        image = step(image, augment, draws, fill_rgb)
    return image


# HRNet's half bodies: minimum number of labelled keypoints, probability of the upper body, and factor of its extent.
_HALF_BODY_LABELLED = 8
_UPPER_SHARE = 0.69
HALF_BODY_GROWTH = 1.5


def half_body(view: View, augment: Augment, draws: Draws, person: Person) -> View:
    """Restricts the view to the upper or lower body with probability `half_body_probability`.

    As in HRNet, the view is centred at the mean of the labelled keypoints of that half, and covers 1.5 times their
    extent. If the chosen half has fewer than three labelled keypoints, the other half is shown. If that one has fewer
    than two, the view does not change.
    """
    if not augment.half_body_probability:
        return view
    chance, half = tf.unstack(draws("half_body", 2))
    labelled = person.visibility > 0
    upper, lower = labelled & ~person.is_lower, labelled & person.is_lower
    first, second = tf.cond(half < _UPPER_SHARE, lambda: (upper, lower), lambda: (lower, upper))
    chosen = tf.where(tf.math.count_nonzero(first) > 2, first, second)
    wanted = (
        (chance < augment.half_body_probability)
        & (tf.math.count_nonzero(labelled) > _HALF_BODY_LABELLED)
        & (tf.math.count_nonzero(chosen) >= 2)
    )
    points = tf.boolean_mask(person.keypoints_image_xy, chosen | ~wanted)  # never empty, also if it is not used
    width, height = tf.unstack(tf.reduce_max(points, axis=0) - tf.reduce_min(points, axis=0))
    aspect = view.box[2] / view.box[3]
    grown = HALF_BODY_GROWTH * tf.maximum(tf.maximum(width, height * aspect), 1.0)
    box = tf.concat([tf.reduce_mean(points, axis=0), [grown, grown / aspect]], axis=0)
    return view._replace(box=tf.where(wanted, box, view.box))


def scaled(view: View, augment: Augment, draws: Draws, person: Person) -> View:
    """Scales the view by a factor in the range `scale`."""
    low, high = augment.scale
    [draw] = tf.unstack(draws("scale", 1))
    if augment.normal:  # clipped at one sigma, as in HRNet
        return view._replace(scale=1 + (high - 1) * tf.clip_by_value(_normal(draw), -1.0, 1.0))
    return view._replace(scale=low + (high - low) * draw)


def rotated(view: View, augment: Augment, draws: Draws, person: Person) -> View:
    """Rotates the view by up to `rotation` degrees with probability `rotation_probability`."""
    chance, draw = tf.unstack(draws("rotation", 2))
    if augment.normal:  # clipped at two sigmas, as in HRNet
        degrees = augment.rotation / 2 * tf.clip_by_value(_normal(draw), -2.0, 2.0)
    else:
        degrees = augment.rotation * (2 * draw - 1)
    turned = tf.cast(chance < augment.rotation_probability, tf.float32)
    return view._replace(rotation=degrees * turned * np.float32(np.pi / 180))


def flipped(view: View, augment: Augment, draws: Draws, person: Person) -> View:
    """Mirrors the view with probability `flip_probability`."""
    return view._replace(mirrored=draws("flip", 1)[0] < augment.flip_probability)


def _normal(uniform: tf.Tensor) -> tf.Tensor:
    return tf.math.ndtri(tf.clip_by_value(uniform, 1e-6, 1 - 1e-6))


def brightened(image: tf.Tensor, augment: Augment, draws: Draws, fill_rgb: Sequence[float]) -> tf.Tensor:
    """Multiplies each channel by a factor in the range `brightness`, and clips to 0 … 255."""
    low, high = augment.brightness
    if low == high == 1.0:
        return image
    height, width, channels = image.shape
    factors = low + (high - low) * draws("brightness", channels)
    factors = tf.tile(factors, [width])  # whole rows: broadcasting over the channels is slower
    bright = tf.clip_by_value(tf.reshape(image, (height, -1)) * factors, 0.0, 255.0)
    return tf.reshape(bright, (height, width, channels))


_ERASED_SHARE = 0.02, 0.2  # of the crop's area
_ERASED_ASPECT = 2.0  # height to width lies between this and its inverse


def erased(image: tf.Tensor, augment: Augment, draws: Draws, fill_rgb: Sequence[float]) -> tf.Tensor:
    """Fills a rectangle with `fill_rgb` with probability `erase_probability`.

    The centre of the rectangle is uniform in the crop. Parts of it can be outside.
    """
    if not augment.erase_probability:
        return image
    chance, area, stretch, y, x = tf.unstack(draws("erase", 5))
    low, high = _ERASED_SHARE
    height, width, _ = image.shape
    side = tf.sqrt((low + (high - low) * area) * height * width)
    stretch = _ERASED_ASPECT ** (stretch - 0.5)
    half_hw = side * stretch / 2, side / stretch / 2
    near_y, near_x = (
        tf.abs(tf.range(size, dtype=tf.float32) + 0.5 - draw * size) < half
        for size, draw, half in zip((height, width), (y, x), half_hw, strict=True)
    )
    hidden = near_y[:, None] & near_x & (chance < augment.erase_probability)
    return tf.where(hidden[..., None], tf.constant(fill_rgb, tf.float32), image)


# A new augmentation needs a field of `Augment` that is off by default, a step here, and a test in tests/test_crops.py.
VIEW_STEPS = (half_body, scaled, rotated, flipped)  # (view, augment, draws, person) -> view
PIXEL_STEPS = (brightened, erased)  # (image, augment, draws, fill_rgb) -> image
