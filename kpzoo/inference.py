"""Pictures, folders, videos and boxes to poses, in full batches whatever pictures the boxes are from."""

import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tensorflow as tf

from kpzoo import detect, geometry, heatmaps, sources, streams
from kpzoo.data import crops
from kpzoo.nms import oks_nms
from kpzoo.pose_model import PoseModel
from kpzoo.poses import Poses
from kpzoo.sources import Picture

SECOND_INSTANCE_DECAY = 0.5  # MIPNet, DECAY_THRE: what the box score of the instances behind the first is worth
POSE_NMS = 0.9  # HRNet and MIPNet, TEST.OKS_THRE
NOBODY = (
    "The HOG detector found nobody. It knows upright, whole, well visible people alone: give boxes, the detector "
    "'whole' for pictures of one person, or another detector (see `kpzoo.detect`)."
)


def ask_all(model: PoseModel, image: tf.Tensor) -> tf.Tensor:
    """Returns the heatmaps (B, N, h, w, K) of all N instances in (B, H, W, 3) crops, N = 1 for most models."""
    if "instance" not in model.input:
        return tf.cast(model({"image": image}, training=False)["heatmaps"], tf.float32)[:, None]
    queries = tf.tile(tf.eye(model.preset.num_instances)[None], [tf.shape(image)[0], 1, 1])
    return tf.cast(model({"image": image, "instance": queries}, training=False)["heatmaps"], tf.float32)


def ask_both_sides(model: PoseModel, image: tf.Tensor) -> tf.Tensor:
    """Returns the heatmaps of `ask_all`, averaged with those of the mirrored crop (flip test)."""
    preset = model.preset
    mirrored = ask_all(model, tf.reverse(image, axis=[2]))
    codec = heatmaps.CODECS[preset.codec]
    return heatmaps.merge_flipped(codec, ask_all(model, image), mirrored, preset.skeleton.flip_order)


@lru_cache(maxsize=4)  # a model that is asked again is not traced again
def make_predictor(model: PoseModel, flip: bool = True):
    """Returns a function from a batch of crops to keypoints in crop pixels.

    Args:
        model: Any model of the zoo.
        flip: Whether the mirrored crop is asked too and the heatmaps averaged.

    Returns:
        A `tf.function`: (B, H, W, 3) float32 -> keypoints_crop_xy (B, N, K, 2) and keypoint_scores (B, N, K), with one
        row for each of the model's N instances.
    """
    ask = ask_both_sides if flip else ask_all
    codec = heatmaps.CODECS[model.preset.codec]
    spec = tf.TensorSpec((None, *model.preset.image_hw, 3), tf.float32)
    return tf.function(lambda image: heatmaps.decode(codec, ask(model, image)), input_signature=[spec])


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in one picture of a source: its poses, or `picture.problem` and none."""

    picture: Picture
    poses: Poses


def predict(
    model: PoseModel,
    source,
    boxes_xywh=None,
    *,
    detector=None,
    flip: bool = True,
    nms: float | None = POSE_NMS,
    batch_size: int = 8,
    every: int = 1,
) -> "Poses | Iterator[tuple[str, Poses]]":
    """Returns the poses in one picture, or one after another those in many.

    Args:
        model: Any model of the zoo.
        source: A file, whose EXIF orientation is applied, or a (H, W, 3) RGB array of 0 … 255: one picture. A folder,
            a glob such as `photos/*.jpg`, a list of files and arrays, a video, `webcam`: many.
        boxes_xywh: (P, 4) person boxes in image pixels, for every picture alike; or a list with (P, 4) for each; None
            to ask the detector.
        detector: What finds the boxes, or its word, see `kpzoo.detect`; None for OpenCV's HOG detector.
        flip: Whether to average over the mirrored crop.
        nms: OKS above which the lower scored of two poses is dropped, None to keep all. Poses of given boxes are all
            kept where the model answers one for each box.
        batch_size: Crops in one pass through the network, whatever pictures they are from.
        every: The detector looks at every so many frames of a video; those between have the boxes of the last one.

    Returns:
        Of one picture its `Poses`: best first where OKS-NMS ran, else in the order of the boxes. Of many an iterator of
        (name, Poses) in the order of the source, which holds only a few pictures at a time; one that cannot be read is
        warned of and left out.
    """
    options = dict(detector=detector, flip=flip, nms=nms, batch_size=batch_size, every=every)
    found = stream(model, source, boxes_xywh, **options)
    if not sources.is_one_picture(source):
        return _named(found)
    one = next(found)
    if one.picture.problem:
        raise one.picture.problem
    if boxes_xywh is None and detector is None and not len(one.poses):
        warnings.warn(NOBODY, stacklevel=2)
    return one.poses


def _named(found: Iterator[Found]) -> Iterator[tuple[str, Poses]]:
    for one in found:
        if one.picture.problem:
            warnings.warn(f"{one.picture.problem} It is left out.", stacklevel=2)
        else:
            yield one.picture.name, one.poses


def stream(
    model: PoseModel,
    source,
    boxes_xywh=None,
    *,
    detector=None,
    flip: bool = True,
    nms: float | None = POSE_NMS,
    batch_size: int = 8,
    every: int = 1,
) -> Iterator[Found]:
    """Yields what is found in each picture of a source, with the picture and what was wrong with it; see `predict`."""
    preset, opened = model.preset, sources.open_source(source)
    detector = None if boxes_xywh is not None else detect.get("hog" if detector is None else detector)
    if boxes_xywh is not None and preset.num_instances == 1:
        nms = None
    rule = geometry.CROP_RULES[heatmaps.CODECS[preset.codec].crop_rule]
    looked = streams.with_boxes(opened, boxes_xywh, detector, every)
    live = isinstance(opened, sources.Video) and opened.live
    predict_crops, waiting = make_predictor(model, flip), deque()
    for batch in streams.ahead(streams.batches(looked, rule, preset.image_hw, batch_size, live)):
        waiting.extend(batch.started)
        if batch.pieces:
            crop_xy, scores = predict_crops(tf.concat([cut for _, cut, _ in batch.pieces], axis=0))
            maps = np.concatenate([maps for *_, maps in batch.pieces])
            ends = np.cumsum([len(maps) for *_, maps in batch.pieces])[:-1]
            parts = (np.split(array, ends) for array in (crops.to_image(maps, crop_xy).numpy(), scores.numpy()))
            for (one, *_), *answer in zip(batch.pieces, *parts, strict=True):
                one.answers.append(tuple(answer))
        while waiting and waiting[0].complete:
            one = waiting.popleft()
            yield Found(one.picture, _answered(one, preset, nms))


def _answered(one: streams.Looked, preset, nms: float | None) -> Poses:
    if not one.answers:
        return Poses.empty(preset.skeleton)
    keypoints, scores = (np.concatenate(parts) for parts in zip(*one.answers, strict=True))
    poses = _poses(preset, keypoints, scores, one.boxes_xywh, one.box_scores)
    return poses if nms is None else poses[suppress(poses, preset, nms)]


def predict_boxes(
    model: PoseModel,
    image_paths: Sequence[str],
    boxes_image_xywh: np.ndarray,
    box_scores: np.ndarray,
    *,
    flip: bool = True,
    batch_size: int = 32,
    progress: bool = False,
) -> Poses:
    """Returns the poses of boxes in annotated pictures, whose EXIF orientation is not applied.

    Args:
        model: Any model of the zoo.
        image_paths: P files, one for each box.
        boxes_image_xywh: (P, 4) in image pixels.
        box_scores: (P,).
        flip: Whether to average over the mirrored crop.
        batch_size: Crops in one pass through the network.
        progress: Whether to tell the crops per second on stderr.

    Returns:
        P * N poses, box by box, each box's instances in order.
    """
    preset = model.preset
    rule = geometry.CROP_RULES[heatmaps.CODECS[preset.codec].crop_rule]
    views = geometry.views(boxes_image_xywh, rule, preset.image_hw)
    matrices = geometry.crop_to_image(views, preset.image_hw).astype(np.float32)

    def load(path, matrix):
        return crops.decode_crop(tf.io.read_file(path), matrix, preset.image_hw, rule.fill_rgb), matrix

    rows = tf.data.Dataset.from_tensor_slices((np.array(image_paths, object).astype(str), matrices))
    batches = rows.map(load, tf.data.AUTOTUNE).batch(batch_size).prefetch(2)
    keypoints, scores = _run(make_predictor(model, flip), batches, preset, batch_size, len(matrices), progress)
    return _poses(preset, keypoints, scores, np.asarray(boxes_image_xywh, float).reshape(-1, 4), np.asarray(box_scores))


def _run(predict_crops, batches, preset, batch_size, num_crops, progress) -> tuple[np.ndarray, np.ndarray]:
    """Returns (P, N, K, 2) keypoints in image pixels and (P, N, K) scores of all batches of (crops, matrices)."""
    num_instances, num_keypoints = preset.num_instances, preset.skeleton.num_keypoints
    keypoints = [np.empty((0, num_instances, num_keypoints, 2), np.float32)]
    scores = [np.empty((0, num_instances, num_keypoints), np.float32)]
    started, done = time.perf_counter(), 0
    for image, matrix in batches:
        count = len(matrix)
        padded = tf.pad(image, [[0, batch_size - count], [0, 0], [0, 0], [0, 0]])  # one shape, one trace
        crop_xy, crop_scores = predict_crops(padded)
        keypoints.append(crops.to_image(matrix, crop_xy[:count]).numpy())
        scores.append(crop_scores[:count].numpy())
        done += count
        if progress:
            rate = done / (time.perf_counter() - started)
            print(f"\r{done}/{num_crops or '?'} crops, {rate:.1f} crops/s ", end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    return np.concatenate(keypoints), np.concatenate(scores)


def _poses(preset, keypoints, scores, boxes_image_xywh, box_scores) -> Poses:
    """Returns the poses of P boxes, (P, N, K, 2) and (P, N, K), with the scores of the model's school."""
    num_boxes, num_instances, num_keypoints = scores.shape
    instance = np.tile(np.arange(num_instances), num_boxes)
    box_scores = np.repeat(box_scores, num_instances) * np.where(instance > 0, SECOND_INSTANCE_DECAY, 1.0)
    keypoint_scores = scores.reshape(-1, num_keypoints)
    return Poses(
        keypoints_xy=keypoints.reshape(-1, num_keypoints, 2),
        keypoint_scores=keypoint_scores,
        scores=heatmaps.pose_scores(heatmaps.CODECS[preset.codec], keypoint_scores, box_scores),
        boxes_xywh=np.repeat(boxes_image_xywh, num_instances, axis=0),
        instance=instance,
        skeleton=preset.skeleton,
    )


def suppress(poses: Poses, preset, threshold: float) -> np.ndarray:
    """Returns the indices of one image's poses that OKS-NMS keeps, best first.

    The area of a pose is that of its padded crop, as HRNet and MIPNet pass it.
    """
    rule = geometry.CROP_RULES[heatmaps.CODECS[preset.codec].crop_rule]
    areas = geometry.views(poses.boxes_xywh, rule, preset.image_hw)[:, 2:].prod(axis=1)
    return oks_nms(poses.keypoints_xy, poses.scores, areas, np.array(preset.skeleton.sigmas), threshold)
