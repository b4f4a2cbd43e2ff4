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
    """How a crop varies in training.

    Args:
        scale: Smallest and largest factor on the view's size.
        rotation: Largest turn to either side, in degrees.
        rotation_probability: Share of crops that are turned.
        flip_probability: Share of crops that are mirrored.
        brightness: Smallest and largest factor on each colour channel.
        normal: Whether scale and rotation are drawn from clipped normal distributions, and not uniformly.
        half_body_probability: Share of crops that show one half of a well labelled person alone.
        erase_probability: Share of crops of which a rectangle is hidden (random erasing, arXiv:1708.04896); keypoints
            under it keep their labels.
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
    # Both CPN repositories: of four crops of a person, two are turned by up to 45 degrees, one is mirrored. Their views
    # end at 1.25 since they cut from a padded picture; these may grow to 1.35.
    "cpn": Augment((0.7, 1.35), 45.0, 0.5, 0.5, brightness=(0.8, 1.2)),
    # HRNet W32 on COCO: 0.35 and 45 degrees are one sigma.
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
    """Returns the augmentation that a key of `AUGMENTS` names, or what was given if it is none."""
    if augment is None or isinstance(augment, Augment):
        return augment
    if augment not in AUGMENTS:
        raise unknown("augmentation", augment, AUGMENTS)
    return AUGMENTS[augment]


# What an augmentation draws: `draws(name, size)` returns `size` uniform numbers in [0, 1) of one crop.
Draws = Callable[[str, int], tf.Tensor]


def draws_of(seed: int, count: tf.Tensor) -> Draws:
    """Returns the random numbers of the crop number `count`, by name.

    Each name has its own random stream: an augmentation that is added, or draws more, changes no other's numbers.

    Args:
        seed: Seed of the data set.
        count: () int64, the crop's place in the stream.
    """

    def draws(name: str, size: int) -> tf.Tensor:
        key = int.from_bytes(blake2b(f"{seed} {name}".encode(), digest_size=8).digest()) >> 1
        return tf.random.stateless_uniform((size,), tf.stack([tf.constant(key, tf.int64), count]))

    return draws


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


# HRNet's half bodies: of persons with more labelled keypoints than this, most often the upper half, in a wider view.
_HALF_BODY_LABELLED = 8
_UPPER_SHARE = 0.69
HALF_BODY_GROWTH = 1.5


def half_body(view: View, augment: Augment, draws: Draws, person: Person) -> View:
    """Shows one half of the person, as often as `half_body_probability` says.

    As in HRNet: about the mean of the half's labelled keypoints, wide enough for 1.5 times their extent. The half that
    was drawn needs three of them, else the other one is shown; a half with less than two shows nothing of use.
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
    points = tf.boolean_mask(person.keypoints_image_xy, chosen | ~wanted)  # not empty where it does not count
    width, height = tf.unstack(tf.reduce_max(points, axis=0) - tf.reduce_min(points, axis=0))
    aspect = view.box[2] / view.box[3]
    grown = HALF_BODY_GROWTH * tf.maximum(tf.maximum(width, height * aspect), 1.0)
    box = tf.concat([tf.reduce_mean(points, axis=0), [grown, grown / aspect]], axis=0)
    return view._replace(box=tf.where(wanted, box, view.box))


def scaled(view: View, augment: Augment, draws: Draws, person: Person) -> View:
    """Grows or shrinks the view by a factor from `scale`."""
    low, high = augment.scale
    [draw] = tf.unstack(draws("scale", 1))
    if augment.normal:  # clipped at one sigma, as in HRNet
        return view._replace(scale=1 + (high - 1) * tf.clip_by_value(_normal(draw), -1.0, 1.0))
    return view._replace(scale=low + (high - low) * draw)


def rotated(view: View, augment: Augment, draws: Draws, person: Person) -> View:
    """Turns the view by up to `rotation` degrees, as often as `rotation_probability` says."""
    chance, draw = tf.unstack(draws("rotation", 2))
    if augment.normal:  # clipped at two sigmas, as in HRNet
        degrees = augment.rotation / 2 * tf.clip_by_value(_normal(draw), -2.0, 2.0)
    else:
        degrees = augment.rotation * (2 * draw - 1)
    turned = tf.cast(chance < augment.rotation_probability, tf.float32)
    return view._replace(rotation=degrees * turned * np.float32(np.pi / 180))


def flipped(view: View, augment: Augment, draws: Draws, person: Person) -> View:
    """Mirrors the view, as often as `flip_probability` says."""
    return view._replace(mirrored=draws("flip", 1)[0] < augment.flip_probability)


def _normal(uniform: tf.Tensor) -> tf.Tensor:
    return tf.math.ndtri(tf.clip_by_value(uniform, 1e-6, 1 - 1e-6))


def brightened(image: tf.Tensor, augment: Augment, draws: Draws, fill_rgb: Sequence[float]) -> tf.Tensor:
    """Scales each channel by a factor from `brightness`, within 0 … 255."""
    low, high = augment.brightness
    if low == high == 1.0:
        return image
    height, width, channels = image.shape
    factors = low + (high - low) * draws("brightness", channels)
    factors = tf.tile(factors, [width])  # a row of pixels at once: channels alone are slow to repeat
    bright = tf.clip_by_value(tf.reshape(image, (height, -1)) * factors, 0.0, 255.0)
    return tf.reshape(bright, (height, width, channels))


_ERASED_SHARE = 0.02, 0.2  # of the crop's area
_ERASED_ASPECT = 2.0  # height to width lies between this and its inverse


def erased(image: tf.Tensor, augment: Augment, draws: Draws, fill_rgb: Sequence[float]) -> tf.Tensor:
    """Fills a rectangle with `fill_rgb`, as often as `erase_probability` says.

    The rectangle's centre lies anywhere in the crop, so that some of it may lie outside.
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


# To add an augmentation: a field of `Augment` that is off by default, a step here, and its test in tests/test_crops.py.
VIEW_STEPS = (half_body, scaled, rotated, flipped)  # (view, augment, draws, person) -> view
PIXEL_STEPS = (brightened, erased)  # (image, augment, draws, fill_rgb) -> image
