"""Mixtures of data sets: which of them each training crop is taken from."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from kpzoo import heatmaps
from kpzoo.data.augment import stream_key
from kpzoo.data.files import PoseData
from kpzoo.data.pack import Pack
from kpzoo.errors import UserError
from kpzoo.pose_model import Preset
from kpzoo.skeletons import Skeleton

CYCLE = 10_000  # crops; each cycle has the same number of crops of a data set, in random order

DataSet = PoseData | Pack
Mixture = DataSet | Sequence[tuple[DataSet, float]]


def parts_of(data: Mixture) -> tuple[list[DataSet], np.ndarray]:
    """Returns the data sets of a mixture, and the number of crops of each in a cycle.

    Args:
        data: A data set, or pairs of a data set and its share of the crops. The shares do not need to sum to 1.

    Raises:
        UserError: If the pairs are no pairs, or a share is not a positive number.
    """
    pairs = list(data) if isinstance(data, list | tuple) else [(data, 1.0)]
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], DataSet)):
            raise UserError(f"`data=` must be a data set, or a list of pairs (data set, share). Received: {pair!r}.")
    shares = [share for _, share in pairs]
    if not pairs or not all(isinstance(share, int | float) and 0 < share < np.inf for share in shares):
        raise UserError(f"The shares of several data sets must be numbers above 0. Received: {shares}.")
    edges = np.rint(np.cumsum([0.0, *shares]) / np.sum(shares) * CYCLE).astype(np.int64)
    counts = np.diff(edges)
    if not counts.all():
        raise UserError(f"The share of a data set must be at least 1/{CYCLE} of their sum. Received: {shares}.")
    return [part for part, _ in pairs], counts


def shares_of(data: Mixture) -> list[float] | None:
    """Returns the shares of several data sets, None for a single one."""
    return [float(share) for _, share in data] if isinstance(data, list | tuple) else None


def sets_of(cycle: tf.Tensor | int, seed: int, counts: np.ndarray) -> tf.Tensor:
    """Returns (CYCLE,) int64 indices of the data sets that the crops of a cycle are taken from.

    Args:
        cycle: () number of the cycle.
        seed: Seed of the order.
        counts: Number of crops of each data set in a cycle.
    """
    in_order = np.repeat(np.arange(len(counts)), counts)
    cycle_seed = tf.stack([stream_key(seed, "mixture"), tf.cast(cycle, tf.int64)])
    return tf.random.experimental.stateless_shuffle(in_order, cycle_seed)


def taken_before(crop: int, seed: int, counts: np.ndarray) -> np.ndarray:
    """Returns the number of crops that are taken from each data set before a crop."""
    cycle, rest = divmod(crop, CYCLE)
    with tf.device("CPU:0"):  # where tf.data computes it
        drawn = sets_of(cycle, seed, counts).numpy()
    return cycle * counts + np.bincount(drawn[:rest], minlength=len(counts))


def stream(start: int, seed: int, counts: np.ndarray, places: Sequence[Callable[[int], tf.data.Dataset]]):
    """Returns the endless dataset of (number of the crop, index of its data set, element of that data set).

    Args:
        start: Number of the first crop.
        seed: Seed of the order.
        counts: Number of crops of each data set in a cycle.
        places: Function of each data set that returns the dataset of its elements from a place on.
    """
    end = np.iinfo(np.int64).max
    cycles = tf.data.Dataset.range(start // CYCLE, end)
    chosen = cycles.flat_map(lambda cycle: tf.data.Dataset.from_tensor_slices(sets_of(cycle, seed, counts)))
    chosen = chosen.skip(start % CYCLE)
    taken = taken_before(start, seed, counts).tolist()
    elements = [from_place(first) for from_place, first in zip(places, taken, strict=True)]
    drawn = elements[0] if len(elements) == 1 else tf.data.Dataset.choose_from_datasets(elements, chosen)
    return tf.data.Dataset.zip(tf.data.Dataset.range(start, end), chosen, drawn)


def check_keypoints(sets: list, preset: Preset) -> None:
    """Raises a `UserError` if the model has a keypoint that none of the data sets has."""
    places = np.array([preset.skeleton.places_in(one.skeleton) for one in sets])
    missing = [preset.skeleton.keypoints[k] for k in np.flatnonzero((places < 0).all(axis=0))]
    if missing and len(sets) == 1:
        raise UserError(
            f"The data has other keypoints than model {preset.name!r}: {preset.skeleton.difference(sets[0].skeleton)}.",
            "Build the model with `kpzoo.build(name, skeleton=data.skeleton)`.",
            "Or train on several data sets that have all of them together, `data=[(data_set, share), ...]`.",
        )
    if missing:
        raise UserError(
            f"None of the {len(sets)} data sets has the keypoints {missing[:6]} of model {preset.name!r}, "
            f"{len(missing)} in all. Add a data set that has them, or build the model for other keypoints."
        )


def rules_of(visibility_rule, sets: list, preset: Preset, crowd_data: PoseData | None) -> list[str]:
    """Returns the visibility rule of each data set, and of the crowd if there is one."""
    listed = isinstance(visibility_rule, list | tuple)
    given = list(visibility_rule) if listed else [visibility_rule] * len(sets)
    if len(given) != len(sets):
        raise UserError(f"`visibility_rule=` needs one rule for each of {len(sets)} data sets. Received: {given}.")
    if crowd_data:
        own = [rule for one, rule in zip(sets, given, strict=True) if one is crowd_data]
        given.append(own[0] if own else None if listed else visibility_rule)
        sets = [*sets, crowd_data]
    rules = []
    for one, rule in zip(sets, given, strict=True):
        rule = rule or (preset.rules.visibility if one.skeleton.name == "coco17" else "labelled")
        heatmaps.visibility_thresholds(rule)  # raises if there is no such rule
        rules.append(rule)
    return rules


def thresholds_of(rules: list[str], rule: tf.Tensor, rank: int):
    """Returns the rule that all crops have, or the thresholds of the (B,) rules of the crops, of the given rank."""
    if len(set(rules)) == 1:
        return rules[0]
    table = tf.constant([heatmaps.VISIBILITY[name] for name in rules])  # (R, 2, 2)
    shape = tf.concat([tf.shape(rule), [1] * (rank - 1)], axis=0)
    return tuple(tuple(tf.reshape(tf.gather(table[:, i, j], rule), shape) for j in (0, 1)) for i in (0, 1))


def of_skeleton(skeleton: Skeleton, own: Skeleton, labels):
    """Returns (..., K, C) labels of the keypoints of a skeleton, zeros for those that the data's own does not have.

    Args:
        skeleton: The K keypoints of the model.
        own: The keypoints of the data.
        labels: NumPy array or tensor of the data, (..., keypoints, C).
    """
    places = skeleton.places_in(own)
    known = (places >= 0).astype(np.float32)[:, None]
    if isinstance(labels, np.ndarray):
        return labels[..., np.maximum(places, 0), :] * known
    return tf.gather(labels, np.maximum(places, 0), axis=-2) * known
