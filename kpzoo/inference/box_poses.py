"""Person boxes to poses: crops of any number of images run through the network in full batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import tensorflow as tf

from kpzoo import crops, geometry, heatmaps
from kpzoo.inference import batching
from kpzoo.inference.acceleration import accelerate
from kpzoo.inference.pictures import Pictures
from kpzoo.nms import oks_nms
from kpzoo.pose_model import PoseModel, Preset
from kpzoo.poses import Poses
from kpzoo.progress import Progress

SECOND_INSTANCE_DECAY = 0.5  # MIPNet, DECAY_THRE: what the box score of the instances behind the first is worth
POSE_NMS = 0.9  # HRNet and MIPNet, TEST.OKS_THRE

PredictCrops = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]  # see `acceleration.Accelerated.__call__`


def answers(
    predict_crops: PredictCrops, preset: Preset, looked: Iterable[batching.Looked], batch_size: int, live: bool = False
) -> Iterator[batching.Looked]:
    """Yields the pictures again, in their order, each as soon as the network has answered for all of its boxes."""
    waiting, sizes = deque(), set()
    for batch in batching.ahead(batching.batches(looked, preset.rules.crop, preset.image_hw, batch_size, live)):
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
    run = partial(accelerate(model, precision), flip=flip)
    parts = [Poses.empty(model.preset.skeleton)]
    with Progress(len(rows), "pictures", shown=progress) as printed:
        for one in answers(run, model.preset, looked, batch_size):
            if one.picture.problem:
                raise one.picture.problem
            parts.append(poses_of(one, model.preset))
            printed.step(len(parts[-1]))
    order = np.repeat(np.concatenate([*rows.values(), []]), model.preset.num_instances)
    return Poses.concatenate(parts)[np.argsort(order, kind="stable")]


def poses_of(one: batching.Looked, preset: Preset) -> Poses:
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


def suppress(poses: Poses, preset: Preset, threshold: float) -> np.ndarray:
    """Returns the indices of one image's poses that OKS-NMS keeps, best first.

    The area of a pose is that of its padded crop, as HRNet and MIPNet pass it.
    """
    areas = geometry.views(poses.boxes_xywh, preset.rules.crop, preset.image_hw)[:, 2:].prod(axis=1)
    return oks_nms(poses.keypoints_xy, poses.scores, areas, np.array(preset.skeleton.sigmas), threshold)
