"""Augmentation of training crops, inside the TensorFlow graph."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from kpzoo.errors import unknown


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


def augmentation(augment: str | Augment | None) -> Augment | None:
    """Returns the augmentation that a key of `AUGMENTS` names, or what was given if it is none."""
    if augment is None or isinstance(augment, Augment):
        return augment
    if augment not in AUGMENTS:
        raise unknown("augmentation", augment, AUGMENTS)
    return AUGMENTS[augment]


# Random numbers for one crop: four of `augmented_view`, three of `brightened`, two of `half_body`, five of `erased`.
NUM_DRAWS = 14

# HRNet's half bodies: of persons with more labelled keypoints than this, most often the upper half, in a wider view.
_HALF_BODY_LABELLED = 8

_UPPER_SHARE = 0.69

HALF_BODY_GROWTH = 1.5

_ERASED_SHARE = 0.02, 0.2  # of the crop's area

_ERASED_ASPECT = 2.0  # height to width lies between this and its inverse


def augmented_view(augment: Augment, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns (scale, rotation in radians, mirrored) for (NUM_DRAWS,) uniform numbers."""
    low, high = augment.scale
    turned = tf.cast(draws[2] < augment.rotation_probability, tf.float32)
    if augment.normal:  # a clip at one sigma for the scale and at two for the rotation, as HRNet has them
        scale = 1 + (high - 1) * tf.clip_by_value(_normal(draws[0]), -1.0, 1.0)
        rotation = augment.rotation / 2 * tf.clip_by_value(_normal(draws[1]), -2.0, 2.0)
    else:
        scale = low + (high - low) * draws[0]
        rotation = augment.rotation * (2 * draws[1] - 1)
    return scale, rotation * turned * 3.141592653589793 / 180, draws[3] < augment.flip_probability


def _normal(uniform: tf.Tensor) -> tf.Tensor:
    return tf.math.ndtri(tf.clip_by_value(uniform, 1e-6, 1 - 1e-6))


def half_body(
    view: tf.Tensor,
    points_image_xy: tf.Tensor,
    visibility: tf.Tensor,
    is_lower: np.ndarray,
    augment: Augment,
    draws: tf.Tensor,
    image_hw: tuple[int, int],
) -> tf.Tensor:
    """Returns the (4,) view of one half of the person, or the view as it came.

    As in HRNet: about the mean of the half's labelled keypoints, wide enough for 1.5 times their extent. The half that
    was drawn needs three of them, else the other one is shown; a half with less than two shows nothing of use.

    Args:
        view: (4,) centre x, centre y, width, height in image pixels.
        points_image_xy: (K, 2) of the person.
        visibility: (K,).
        is_lower: (K,) which keypoints belong to the legs and hips, see `Skeleton.is_lower`.
        augment: Says how often.
        draws: (NUM_DRAWS,) uniform numbers.
        image_hw: (height, width) of the crop.
    """
    labelled = visibility > 0
    upper, lower = labelled & ~is_lower, labelled & is_lower
    first, second = tf.cond(draws[8] < _UPPER_SHARE, lambda: (upper, lower), lambda: (lower, upper))
    chosen = tf.where(tf.math.count_nonzero(first) > 2, first, second)
    wanted = (
        (draws[7] < augment.half_body_probability)
        & (tf.math.count_nonzero(labelled) > _HALF_BODY_LABELLED)
        & (tf.math.count_nonzero(chosen) >= 2)
    )
    points = tf.boolean_mask(points_image_xy, chosen | ~wanted)  # not empty where it does not count
    width, height = tf.unstack(tf.reduce_max(points, axis=0) - tf.reduce_min(points, axis=0))
    aspect = image_hw[1] / image_hw[0]
    grown = HALF_BODY_GROWTH * tf.maximum(tf.maximum(width, height * aspect), 1.0)
    return tf.where(wanted, tf.concat([tf.reduce_mean(points, axis=0), [grown, grown / aspect]], axis=0), view)


def brightened(image: tf.Tensor, augment: Augment, draws: tf.Tensor) -> tf.Tensor:
    """Returns the crop with its channels scaled by three uniform numbers, within 0 … 255."""
    low, high = augment.brightness
    height, width, channels = image.shape
    factors = tf.tile(low + (high - low) * draws, [width])  # a row of pixels at once: channels alone are slow to repeat
    bright = tf.clip_by_value(tf.reshape(image, (height, -1)) * factors, 0.0, 255.0)
    return tf.reshape(bright, (height, width, channels))


def erased(image: tf.Tensor, augment: Augment, draws: tf.Tensor, fill_rgb) -> tf.Tensor:
    """Returns the crop, as often as `augment` says with a rectangle of `fill_rgb`; for five uniform numbers.

    The rectangle's centre lies anywhere in the crop, so that some of it may lie outside.
    """
    low, high = _ERASED_SHARE
    height, width, _ = image.shape
    side = tf.sqrt((low + (high - low) * draws[1]) * height * width)
    stretch = _ERASED_ASPECT ** (draws[2] - 0.5)
    half_hw = side * stretch / 2, side / stretch / 2
    near_y, near_x = (
        tf.abs(tf.range(size, dtype=tf.float32) + 0.5 - draw * size) < half
        for size, draw, half in zip((height, width), (draws[3], draws[4]), half_hw, strict=True)
    )
    hidden = near_y[:, None] & near_x & (draws[0] < augment.erase_probability)
    return tf.where(hidden[..., None], tf.constant(fill_rgb, tf.float32), image)
