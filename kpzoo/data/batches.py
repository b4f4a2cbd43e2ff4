"""Training batches: an endless data set of crops and targets that depends only on the seed and the step."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import tensorflow as tf

from kpzoo import crops, geometry, heatmaps
from kpzoo.data import files, mixture, pack
from kpzoo.data.augment import Augment, Person, augmented_pixels, augmented_view, draws_of, without_mirroring
from kpzoo.data.coco import training_persons
from kpzoo.data.files import PoseData
from kpzoo.data.pack import Pack
from kpzoo.errors import UserError, unknown
from kpzoo.pose_model import PoseModel, Preset
from kpzoo.skeletons import Skeleton

# Minimum number of keypoints in the crop for another person to be a target. MIPNet's paper states k = 3; its authors'
# code requires more than three.
INSTANCE_RULES = {"paper": 3, "official": 4}


class Scenes(Protocol):
    """Generated scenes that replace a share of the crops, see `kpzoo.scenes.Crowd`."""

    share: float
    data: PoseData  # of the people

    def prepare(self) -> None: ...

    def plan(self, seed: int, count: int) -> tuple: ...

    def overlay(self, crop: np.ndarray, crop_to_scene: np.ndarray, *people) -> np.ndarray: ...


def make_dataset(
    data: mixture.Mixture,
    model: PoseModel | Preset,
    batch_size: int,
    *,
    num_levels: int | None = None,
    augment: str | Augment | None = None,
    seed: int = 0,
    start_step: int = 0,
    visibility_rule: str | Sequence[str | None] | None = None,
    instance_rule: str = "paper",
    crowd: Scenes | None = None,
    check_images: bool = True,
    host: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Returns an endless dataset of shuffled training batches.

    Each epoch contains every person once, in another order. Since the dataset has no end, `fit` needs
    `steps_per_epoch`:

    >>> steps = max(1, kpzoo.data.num_persons(data) // batch_size)
    >>> batches = kpzoo.data.make_dataset(data, model, batch_size, augment="hrnet")
    >>> model.fit(batches, epochs=epochs, steps_per_epoch=steps, shuffle=False)

    Batch s depends only on the seed and on s: a dataset that starts at `start_step` continues exactly where an
    interrupted one stopped.

    Several data sets may have different keypoints. A keypoint of the model that a data set does not have has weight 0
    in its crops, in all losses. `Skeleton.shared_with` maps keypoints by name.

    Args:
        data: The data set, as returned by `kpzoo.data.load`, or a list of pairs (data set, share of the crops). Each
            data set is shuffled by itself; the shares do not need to sum to 1. A pack gives the same crops in another
            order.
        model: The model to train, or a `Preset` that describes the batches of another Keras network: its crop size,
            keypoints, codec and number of instances.
        batch_size: Number of crops in a batch, over all replicas.
        num_levels: Number of heatmaps with intermediate supervision. Defaults to the model's; 0 for a `Preset`.
        augment: Augmentation of the crops: a key of `kpzoo.data.augment.AUGMENTS`, an `Augment`, or None for none.
        seed: Seed of the order and of the augmentation.
        start_step: Number of batches to skip.
        visibility_rule: A key of `heatmaps.VISIBILITY`, which says how hidden and unlabelled keypoints are trained, or
            a list with one for each data set. Defaults to the codec's rule for COCO's 17 keypoints, and to "labelled"
            for other skeletons, whose data may not mark hidden keypoints.
        instance_rule: A key of `INSTANCE_RULES`: the number of keypoints in the crop that makes another person a
            target. Only used by models with several instances.
        crowd: Generated scenes that replace a share of the crops, such as a `kpzoo.scenes.Crowd`, also of other
            keypoints. Their visibility rule is that of their data set if it is in `data`.
        check_images: Whether to decode all images first. Images that cannot be decoded are reported on stderr and
            skipped; a damaged pack is refused.
        host: Part of each batch to return, as (index, number of equal parts).

    Returns:
        A `tf.data.Dataset` of dicts: `image` (B, H, W, 3) float32 RGB in 0 … 255, and the targets of
        `heatmaps.encode`. For models with N instances, the targets have an axis N after B, and there are `instance`
        (B, N, N), the identity, which selects all instances, and `present` (B, N), 0 where a person is missing and
        the target repeats the first person's.

    Raises:
        UserError: If the model has a keypoint that none of the data has, a name is unknown, or there is no person to
            train on.
    """
    if not 1 <= batch_size <= geometry.MAX_CROPS:
        raise UserError(f"`batch_size=` must be 1 to {geometry.MAX_CROPS}. Received: {batch_size}.")
    index, count = host
    if batch_size % count:
        raise UserError(f"A batch of {batch_size} cannot be split over {count} hosts.")
    rows = batch_size // count  # B of what is returned
    preset = model if isinstance(model, Preset) else getattr(model, "preset", None)
    if preset is None:
        raise UserError(
            f"`model=` must be a model of the zoo or a `Preset`. Received: {type(model).__name__} "
            f"{getattr(model, 'name', model)!r}.",
            "For another Keras network pass a `kpzoo.Preset` that describes its batches.",
        )
    if num_levels is None:
        num_levels = 0 if preset is model else model.num_levels
    sets, counts = mixture.parts_of(data)
    mixture.check_keypoints(sets, preset)
    augment = without_mirroring(augment, preset.skeleton)
    if instance_rule not in INSTANCE_RULES:
        raise unknown("instance rule", instance_rule, INSTANCE_RULES)
    rules = mixture.rules_of(visibility_rule, sets, preset, crowd.data if crowd else None)
    photos, places = zip(*(_source(one, preset, augment, seed, check_images) for one in sets), strict=True)
    # Each crop has its number, so that a host can select its rows before anything is decoded.
    stream = mixture.stream(start_step * batch_size, seed, counts, places)
    load = _loader(preset, photos, augment, seed, crowd)
    several = preset.num_instances > 1

    def add_targets(batch):
        points, labels = batch.pop("keypoints_crop_xy"), batch.pop("labels")  # (B, N, K, 2), (B, N, K, 2)
        visibility, weights = labels[..., 0], labels[..., 1]
        thresholds = mixture.thresholds_of(rules, batch.pop("rule"), 3 if several else 2)
        if several:
            points, visibility, present = fill_missing(
                points, visibility, preset.image_hw, INSTANCE_RULES[instance_rule]
            )
            weights = tf.where(present[..., None] > 0, weights, weights[:, :1])
            queries = tf.tile(tf.eye(preset.num_instances)[None], [rows, 1, 1])
            batch |= {"instance": queries, "present": present}
        else:
            points, visibility, weights = points[:, 0], visibility[:, 0], weights[:, 0]
        targets = heatmaps.encode(preset.rules, points, visibility, preset.image_hw, num_levels, thresholds, weights)
        return {**batch, **targets}

    if count > 1:
        stream = stream.filter(lambda number, *_: number % batch_size // rows == index)
    batches = stream.map(load, tf.data.AUTOTUNE).batch(rows, drop_remainder=True)
    options = tf.data.Options()
    # The replicas of a host share one data set, which has no files to shard.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.map(add_targets, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE).with_options(options)


def fill_missing(points: tf.Tensor, visibility: tf.Tensor, image_hw: tuple[int, int], min_keypoints: int):
    """Replaces missing instances by the first person of the crop, as MIPNet does.

    Keypoints outside the crop become unlabelled. An instance with fewer than `min_keypoints` labelled keypoints is
    missing.

    Args:
        points: (B, N, K, 2) keypoints in crop pixels, with the person of the crop first.
        visibility: (B, N, K).
        image_hw: (height, width) of the crop.
        min_keypoints: Minimum number of labelled keypoints of an instance.

    Returns:
        Points and visibility of the same shapes, and (B, N) float32: 1 for present and 0 for missing instances.
    """
    size = tf.constant([image_hw[1], image_hw[0]], points.dtype)
    inside = tf.reduce_all((points >= 0) & (points <= size), axis=-1)
    visibility = tf.where(inside, visibility, tf.zeros_like(visibility))
    seen = tf.reduce_sum(tf.cast(visibility > 0, tf.int32), axis=-1)  # (B, N)
    first = tf.range(tf.shape(points)[1]) == 0
    present = first | (seen >= min_keypoints)
    points = tf.where(present[..., None, None], points, points[:, :1])
    visibility = tf.where(present[..., None], visibility, visibility[:, :1])
    return points, visibility, tf.cast(present, tf.float32)


def nearest_persons(image_ids: np.ndarray, boxes_image_xywh: np.ndarray, count: int) -> np.ndarray:
    """Returns the (S, count) indices of the nearest persons of the same image, by box centres; -1 if there are fewer.

    Args:
        image_ids: (S,) of all persons that can be a target.
        boxes_image_xywh: (S, 4).
        count: Number of neighbours per person.
    """
    centres = boxes_image_xywh[:, :2] + boxes_image_xywh[:, 2:] / 2
    nearest = np.full((len(image_ids), count), -1)
    order = np.argsort(image_ids, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(image_ids[order])) + 1):
        distance = np.square(centres[group, None] - centres[group]).sum(axis=-1)
        np.fill_diagonal(distance, np.inf)
        ranked = group[np.argsort(distance, axis=1, kind="stable")][:, : min(count, len(group) - 1)]
        nearest[group, : ranked.shape[1]] = ranked
    return nearest


def num_persons(data: mixture.Mixture) -> int:
    """Returns the number of persons that can be trained on: the crops of an epoch, if every image can be decoded.

    For several data sets, it is the sum of theirs.
    """
    sets, _ = mixture.parts_of(data)
    return sum(
        one.num_persons if isinstance(one, Pack) else len(training_persons(one.annotations)["index"]) for one in sets
    )


def _persons(data: PoseData, skeleton: Skeleton, check_images: bool) -> dict[str, np.ndarray]:
    """Returns image ids, boxes, `paths` and (S, K, 4) `labels` of the persons to train on.

    Labels are x and y in image pixels, visibility, and weight in the loss, of the keypoints of the model. Persons
    without a labelled keypoint, and images that cannot be decoded, are left out.
    """
    persons = training_persons(data.annotations)
    points, *flags = (persons.pop(name) for name in ("keypoints_image_xy", "visibility", "keypoint_weights"))
    labels = np.concatenate([points, np.stack(flags, axis=-1)], axis=-1)
    persons["labels"] = mixture.of_skeleton(skeleton, data.skeleton, labels)
    persons["paths"] = np.array(data.image_paths(persons["image_ids"]), object)
    good = (persons["labels"][..., 2] > 0).any(axis=1)
    if check_images:
        bad = files.undecodable(persons["paths"], progress=True)
        files.report_undecodable(bad)
        good &= np.array([path not in bad for path in persons["paths"]], bool)
    persons = {name: values[good] for name, values in persons.items()}
    if not len(persons["paths"]):
        raise UserError(f"No labelled person with a readable image in {str(data.image_folder)!r}.")
    return persons


def person_of(count: tf.Tensor, seed: int, num_persons: int) -> tf.Tensor:
    """Returns the person of the crop number `count`: each epoch is a permutation of the persons."""
    epoch, place = count // num_persons, count % num_persons
    return tf.random.experimental.index_shuffle(place, tf.stack([tf.constant(seed, tf.int64), epoch]), num_persons - 1)


def _source(data: PoseData | Pack, preset, augment: Augment | None, seed: int, check_images: bool):
    """Returns the function `photo` of `_loader` for a data set, and the function `places` of `mixture.stream`."""
    if isinstance(data, Pack):
        pack.check_use(data, preset, augment)
        if check_images:
            pack.check_shards(data)
        photo = _packed_photo(preset, data)
    else:
        photo = _photo(preset, _persons(data, preset.skeleton, check_images), seed)

    def places(first):
        records = (
            pack.records(data, seed, first) if isinstance(data, Pack) else tf.data.Dataset.from_tensors("").repeat()
        )
        return tf.data.Dataset.zip(tf.data.Dataset.range(first, np.iinfo(np.int64).max), records)

    return photo, places


def _photo(preset, persons: dict[str, np.ndarray], seed: int) -> Callable:
    """Returns the function `photo` of `_loader` for a data set of images."""
    rule = preset.rules.crop
    views = geometry.views(persons["boxes_image_xywh"], rule, preset.image_hw)
    paths = tf.constant([os.fsencode(path) for path in persons["paths"]])
    others = nearest_persons(persons["image_ids"], persons["boxes_image_xywh"], preset.num_instances - 1)
    instances = np.concatenate([np.arange(len(views))[:, None], others], axis=1)  # (S, N)
    labels = persons["labels"][instances]
    labels[..., 2] *= (instances >= 0)[..., None]
    fill = rule.fill_rgb
    columns = [tf.constant(array) for array in (views, labels)]

    def photo(place, _):
        index = person_of(place, seed, len(views))
        contents = tf.io.read_file(tf.gather(paths, index))
        view, labels = (tf.gather(column, index) for column in columns)
        return view, labels, partial(crops.decode_crop, contents, image_hw=preset.image_hw, fill_rgb=fill)

    return photo


def _packed_photo(preset, data: Pack) -> Callable:
    """Returns the function `photo` of `_loader` for a pack."""
    rule = preset.rules.crop

    def photo(_, record):
        person = pack.parsed(data, record)
        view = crops.views_in_graph(person["box"][None], rule, preset.image_hw)[0]
        labels = tf.concat([person["keypoints"], person["keypoint_weights"][..., None]], axis=-1)
        labels = mixture.of_skeleton(preset.skeleton, data.skeleton, labels[: preset.num_instances])

        def cut(crop_to_image):
            crop_to_window = pack.crop_to_window(person["window_to_image"], crop_to_image)
            return crops.decode_crop(person["image"], crop_to_window, preset.image_hw, rule.fill_rgb)

        return view, labels, cut

    return photo


def _loader(preset, photos: Sequence[Callable], augment, seed, crowd):
    """Returns the function from the number of a crop to the augmented crop and its labels.

    Args:
        preset: Preset of the model.
        photos: For each data set, a function of the place of a person and of its record in a pack. Returns the view of
            the person, the (N, K, 4) labels of all instances, and the function from a crop-to-image map to the crop.
        augment: See `make_dataset`.
        seed: See `make_dataset`.
        crowd: See `make_dataset`.
    """
    fill = preset.rules.crop.fill_rgb
    composed = _composed_photo(preset, crowd, seed) if crowd and crowd.share else None

    def augmented(person, draws):
        box, labels, cut = person
        shown = Person(labels[0, :, :2], labels[0, :, 2], preset.skeleton.is_lower)
        view = augmented_view(augment, box, shown, draws)
        crop_to_image = crops.view_matrix(*view, preset.image_hw)
        return cut(crop_to_image), crop_to_image, view.mirrored, labels

    def load(count, chosen, element):
        draws = draws_of(seed, count)
        of_set = [lambda photo=photo: augmented(photo(*element), draws) for photo in photos]
        rule = tf.cast(chosen, tf.int32)

        def annotated():
            return of_set[0]() if len(of_set) == 1 else tf.switch_case(rule, of_set)

        if composed:
            in_crowd = draws("crowd", 1)[0] < crowd.share
            crop = tf.cond(in_crowd, lambda: augmented(composed(count), draws), annotated)
            rule = tf.where(in_crowd, len(photos), rule)
        else:
            crop = annotated()
        image, crop_to_image, mirrored, labels = crop
        image = augmented_pixels(augment, image, draws, fill)
        order = tf.where(mirrored, preset.skeleton.flip_order, np.arange(preset.skeleton.num_keypoints))
        labels = tf.gather(labels, order, axis=1)
        points = crops.to_crop(crop_to_image, labels[..., :2])
        return {"image": image, "keypoints_crop_xy": points, "labels": labels[..., 2:], "rule": rule}

    return load


def _composed_photo(preset, crowd: Scenes, seed: int) -> Callable:
    """Returns the function from the number of a crop to the view, labels and crop function of a composed scene."""
    crowd.prepare()
    rule = preset.rules.crop
    shape = (preset.num_instances, preset.skeleton.num_keypoints, 4)
    paths = crowd.data.image_paths(crowd.data.annotations.image_ids[crowd.data.annotations.persons.image_index])
    paths = tf.constant([os.fsencode(path) for path in paths])

    def plan(count):
        *scene, boxes, labels, chosen = crowd.plan(seed, int(count))
        others = nearest_persons(np.zeros(len(boxes)), boxes, shape[0] - 1)[chosen]
        rows = np.array([chosen, *others])
        labels = mixture.of_skeleton(preset.skeleton, crowd.data.skeleton, labels[rows])
        labels[..., 2] *= (rows >= 0)[:, None]
        view = geometry.views(boxes[[chosen]], rule, preset.image_hw)[0]
        host, persons, maps = scene
        return np.int64(host), persons.astype(np.int64), maps, view.astype(np.float32), labels.astype(np.float32)

    def overlay(crop, crop_to_scene, *scene):
        return crowd.overlay(crop, crop_to_scene.astype(np.float64), *scene)

    def composed(count):
        types = [tf.int64, tf.int64, tf.float64, tf.float32, tf.float32]
        *scene, view, labels = tf.numpy_function(plan, [count], types)

        def cut(crop_to_image):
            contents = tf.io.read_file(tf.gather(paths, scene[0]))
            crop = crops.decode_crop(contents, crop_to_image, preset.image_hw, rule.fill_rgb)
            crop = tf.numpy_function(overlay, [crop, crop_to_image, *scene], tf.float32)
            return tf.ensure_shape(crop, (*preset.image_hw, 3))

        return tf.ensure_shape(view, (4,)), tf.ensure_shape(labels, shape), cut

    return composed
