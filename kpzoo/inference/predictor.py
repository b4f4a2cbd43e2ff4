"""Pictures, folders, videos and boxes to poses, in full batches whatever pictures the boxes are from."""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import tensorflow as tf

from kpzoo import crops, drawing, geometry, heatmaps
from kpzoo.errors import UserError
from kpzoo.inference import batching, detectors, pictures
from kpzoo.inference.acceleration import accelerate, ask_all, ask_both_sides
from kpzoo.inference.pictures import Picture, Pictures
from kpzoo.nms import oks_nms
from kpzoo.pose_model import PoseModel, Preset
from kpzoo.poses import Poses
from kpzoo.progress import Progress

SECOND_INSTANCE_DECAY = 0.5  # MIPNet, DECAY_THRE: what the box score of the instances behind the first is worth
POSE_NMS = 0.9  # HRNet and MIPNet, TEST.OKS_THRE
NOBODY = (
    "The HOG detector found nobody. It knows upright, whole, well visible people alone: give boxes, the detector "
    "'whole' for pictures of one person, or another detector (see `kpzoo.inference.detectors`)."
)


def make_predictor(model: PoseModel, flip: bool = True, precision: str = "float32"):
    """Returns a function from (B, H, W, 3) crops to the keypoints and scores of `acceleration.Accelerated`.

    The replicas of a model that was built on several devices share each batch.
    """
    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.MirroredStrategy) and strategy.num_replicas_in_sync > 1:
        if precision != "float32":
            raise UserError(
                f"Replicas answer in the model's own precision. Received: {precision!r} on several devices."
            )
        return _shared(model, flip)
    return partial(accelerate(model, precision), flip=flip)


@lru_cache(maxsize=4)  # a model that is asked again is not traced again
def _shared(model: PoseModel, flip: bool):
    """Returns such a function whose rows are shared out to the model's replicas, filled up to as many for each."""
    strategy, codec = model.distribute_strategy, model.preset.rules
    count, ask = strategy.num_replicas_in_sync, ask_both_sides if flip else ask_all

    def of_replica(image):
        rows = tf.shape(image)[0] // count
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * rows
        return heatmaps.decode(codec, ask(model, image[first : first + rows]))

    def of_all(image):
        rows = tf.shape(image)[0]
        image = tf.pad(image, [[0, -rows % count], [0, 0], [0, 0], [0, 0]])
        parts = strategy.run(of_replica, args=(image,))
        return tuple(tf.concat(strategy.experimental_local_results(part), axis=0)[:rows] for part in parts)

    spec = tf.TensorSpec((None, *model.preset.image_hw, 3), tf.float32)
    return tf.function(of_all, input_signature=[spec])


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in one picture of a source: its poses, or `picture.problem` and none.

    Args:
        picture: The picture.
        poses: Those that OKS-NMS kept.
        dropped: Those that it did not.
    """

    picture: Picture
    poses: Poses
    dropped: Poses

    def draw_nms(self) -> drawing.Picture:
        """Returns all poses, with those that OKS-NMS dropped in one colour, and beside them what it kept."""
        dropped = self.dropped.draw(self.picture.image, boxes=False, colour_by=drawing.ACCENTS[1])
        before, after = (self.poses.draw(image, boxes=False) for image in (dropped, self.picture.image))
        count = len(self.poses)
        return drawing.before_after(before, after, (f"{count + len(self.dropped)} poses", f"{count} after OKS-NMS"))


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
    precision: str = "float32",
) -> "Poses | Iterator[tuple[str, Poses]]":
    """Returns the poses in one picture, or one after another those in many.

    Args:
        model: Any model of the zoo.
        source: A file, whose EXIF orientation is applied, or a (H, W, 3) RGB array of 0 … 255: one picture. A folder,
            a glob such as `photos/*.jpg`, a list of files and arrays, a video, `webcam`: many.
        boxes_xywh: (P, 4) person boxes in image pixels, for every picture alike; or a list with (P, 4) for each; None
            to ask the detector.
        detector: What finds the boxes, or its word, see `kpzoo.inference.detectors`; None for OpenCV's HOG detector.
        flip: Whether to average over the mirrored crop.
        nms: OKS above which the lower scored of two poses is dropped, None to keep all. Poses of given boxes are all
            kept where the model answers one for each box.
        batch_size: Crops in one pass through the network, whatever pictures they are from; with the flip test it sees
            as many mirrored ones, too.
        every: The detector looks at every so many frames of a video; those between have the boxes of the last one.
        precision: See `kpzoo.accelerate`.

    Returns:
        Of one picture its `Poses`: best first where OKS-NMS ran, else in the order of the boxes. Of many an iterator of
        (name, Poses) in the order of the source, which holds only a few pictures at a time; one that cannot be read is
        warned of and left out.
    """
    options = dict(detector=detector, flip=flip, nms=nms, batch_size=batch_size, every=every, precision=precision)
    found = stream(model, source, boxes_xywh, **options)
    if not pictures.is_one_picture(source):
        return _named(found)
    with closing(found):
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
    precision: str = "float32",
) -> Iterator[Found]:
    """Yields what is found in each picture of a source, with the picture and what was wrong with it; see `predict`."""
    preset, opened = model.preset, pictures.open_source(source)
    detector = None if boxes_xywh is not None else detectors.get("hog" if detector is None else detector)
    if boxes_xywh is not None and preset.num_instances == 1:
        nms = None
    looked = batching.with_boxes(opened, boxes_xywh, detector, every)
    live = isinstance(opened, pictures.Video) and opened.live
    for one in _answers(make_predictor(model, flip, precision), preset, looked, batch_size, live):
        poses = _poses(one, preset)
        kept = np.arange(len(poses)) if nms is None or not len(poses) else suppress(poses, preset, nms)
        yield Found(one.picture, poses[kept], poses[np.setdiff1d(np.arange(len(poses)), kept)])


def _answers(
    predict_crops, preset: Preset, looked: Iterable[batching.Looked], batch_size: int, live: bool = False
) -> Iterator[batching.Looked]:
    """Yields the pictures again, in their order, each as soon as the network has answered for all of its boxes."""
    rule = preset.rules.crop
    waiting, sizes = deque(), set()
    for batch in batching.ahead(batching.batches(looked, rule, preset.image_hw, batch_size, live)):
        waiting.extend(batch.started)
        if batch.pieces:
            image = tf.concat([cut for _, cut, _ in batch.pieces], axis=0)
            maps = np.concatenate([maps for *_, maps in batch.pieces])
            size = _padded(len(maps), sizes)
            crop_xy, scores = predict_crops(tf.pad(image, [[0, size - len(maps)], [0, 0], [0, 0], [0, 0]]))
            crop_xy, scores = crop_xy[: len(maps)], scores[: len(maps)]
            ends = np.cumsum([len(maps) for *_, maps in batch.pieces])[:-1]
            parts = (np.split(array, ends) for array in (crops.to_image(maps, crop_xy).numpy(), scores.numpy()))
            for (one, *_), *answer in zip(batch.pieces, *parts, strict=True):
                one.answers.append(tuple(answer))
        while waiting and waiting[0].complete:
            yield waiting.popleft()


def _padded(count: int, sizes: set[int]) -> int:
    """Returns the size that a batch is filled up to: of sizes seen before the next one, if it is not much larger.

    oneDNN prepares, and keeps, something for each size.
    """
    size = min((size for size in sizes if count <= size <= 1.5 * count), default=count)
    sizes.add(size)
    return size


def predict_boxes(
    model: PoseModel,
    image_paths: Sequence[str],
    boxes_image_xywh: np.ndarray,
    box_scores: np.ndarray,
    *,
    flip: bool = True,
    batch_size: int = 32,
    progress: bool = False,
    precision: str = "float32",
) -> Poses:
    """Returns the poses of boxes in annotated pictures, whose EXIF orientation is not applied.

    Args:
        model: Any model of the zoo.
        image_paths: P files, one for each box.
        boxes_image_xywh: (P, 4) in image pixels.
        box_scores: (P,).
        flip: Whether to average over the mirrored crop.
        batch_size: Crops in one pass through the network; with the flip test it sees as many mirrored ones, too.
        progress: Whether to tell on stderr how far it is.
        precision: See `kpzoo.accelerate`.

    Returns:
        P * N poses, box by box, each box's instances in order.
    """
    boxes, box_scores = np.asarray(boxes_image_xywh, float).reshape(-1, 4), np.asarray(box_scores, float)
    rows = {}
    for row, path in enumerate(image_paths):
        rows.setdefault(str(path), []).append(row)
    opened = zip(Pictures(list(rows), apply_exif=False), rows.values(), strict=True)
    looked = (batching.Looked(picture, boxes[row], box_scores[row]) for picture, row in opened)
    told = Progress(len(rows), "pictures") if progress else None
    parts = [Poses.empty(model.preset.skeleton)]
    for one in _answers(make_predictor(model, flip, precision), model.preset, looked, batch_size):
        if one.picture.problem:
            raise one.picture.problem
        parts.append(_poses(one, model.preset))
        if told:
            told.step(len(parts[-1]))
    if told:
        told.close()
    order = np.repeat(np.concatenate([*rows.values(), []]), model.preset.num_instances)
    return Poses.concatenate(parts)[np.argsort(order, kind="stable")]


def _poses(one: batching.Looked, preset) -> Poses:
    """Returns the poses of all boxes of a picture, box by box, with the scores of the model's school."""
    if not one.answers:
        return Poses.empty(preset.skeleton)
    keypoints, scores = (np.concatenate(parts) for parts in zip(*one.answers, strict=True))  # (P, N, K, 2), (P, N, K)
    num_boxes, num_instances, num_keypoints = scores.shape
    instance = np.tile(np.arange(num_instances), num_boxes)
    box_scores = np.repeat(one.box_scores, num_instances) * np.where(instance > 0, SECOND_INSTANCE_DECAY, 1.0)
    keypoint_scores = scores.reshape(-1, num_keypoints)
    return Poses(
        keypoints_xy=keypoints.reshape(-1, num_keypoints, 2),
        keypoint_scores=keypoint_scores,
        scores=heatmaps.pose_scores(preset.rules, keypoint_scores, box_scores),
        boxes_xywh=np.repeat(one.boxes_xywh, num_instances, axis=0),
        instance=instance,
        skeleton=preset.skeleton,
    )


def suppress(poses: Poses, preset, threshold: float) -> np.ndarray:
    """Returns the indices of one image's poses that OKS-NMS keeps, best first.

    The area of a pose is that of its padded crop, as HRNet and MIPNet pass it.
    """
    areas = geometry.views(poses.boxes_xywh, preset.rules.crop, preset.image_hw)[:, 2:].prod(axis=1)
    return oks_nms(poses.keypoints_xy, poses.scores, areas, np.array(preset.skeleton.sigmas), threshold)
