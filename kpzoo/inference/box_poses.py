"""Person boxes to poses: crops of any number of images run through the network in full batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import tensorflow as tf

from kpzoo import crops, geometry, heatmaps
from kpzoo.inference import batching
from kpzoo.inference.acceleration import accelerate
from kpzoo.inference.engines import TENSORFLOW
from kpzoo.inference.pictures import Pictures
from kpzoo.nms import oks_nms
from kpzoo.pose_model import PoseModel, Preset
from kpzoo.poses import Poses
from kpzoo.progress import Progress

SECOND_INSTANCE_DECAY = 0.5  # MIPNet, DECAY_THRE: factor of the box score for instances after the first
POSE_NMS = 0.9  # HRNet and MIPNet, TEST.OKS_THRE

Start = Callable[[np.ndarray], Callable[[], tuple[tf.Tensor, ...]]]  # see `acceleration.Accelerated.start`


def run_boxes(
    start: Start,
    preset: Preset,
    pictures: Iterable[batching.BoxedPicture],
    batch_size: int,
    live: bool = False,
    ahead: bool = True,
) -> Iterator[batching.BoxedPicture]:
    """Yields the images in their order, each when the outputs for all of its boxes are complete.

    The next batch is started before the results of a batch are read, except for live videos.

    Args:
        start: Starts the network on crops, and returns a function that waits for the outputs.
        preset: That of the model.
        pictures: Images with boxes.
        batch_size: Crops per batch.
        live: Whether to run a batch after each image.
        ahead: Whether a thread prepares the next batch while the network runs. If not, and `live`, the next image is
            asked for when the result of the last has been taken.
    """
    waiting, sizes, running = deque(), set(), None
    batches = batching.batches(pictures, preset.rules.crop, preset.image_hw, batch_size, live)
    for batch in batching.prefetched(batches) if ahead else batches:
        waiting.extend(batch.started)
        started = _started(start, batch, sizes) if batch.pieces else None
        if started and running:
            running()
        running = started or running
        if live and running:
            running = running()
        while waiting and waiting[0].complete:
            yield waiting.popleft()
    if running:
        running()
    yield from waiting


def _started(start: Start, batch: batching.Batch, sizes: set[int]) -> Callable[[], None]:
    """Starts the network on a batch, and returns a function that waits for the outputs and adds them to the images."""
    maps = np.concatenate([maps for *_, maps in batch.pieces])
    image = np.zeros((_padded(len(maps), sizes), *batch.pieces[0][1].shape[1:]), np.float32)
    np.concatenate([cut for _, cut, _ in batch.pieces], out=image[: len(maps)])
    wait = start(image)

    def finish():
        crop_xy, scores, *confident = (output[: len(maps)] for output in wait())
        ends = np.cumsum([len(maps) for *_, maps in batch.pieces])[:-1]
        found = [crops.to_image(maps, crop_xy), scores]
        if confident:
            found += [crops.covariance_to_image(maps, confident[0]), confident[1]]
        parts = (np.split(array.numpy(), ends) for array in found)
        for (one, *_), *outputs in zip(batch.pieces, *parts, strict=True):
            one.outputs.append(tuple(outputs))

    return finish


def _padded(count: int, sizes: set[int]) -> int:
    """Returns the size that a batch is padded to: the next larger size of an earlier batch, unless it is much larger.

    oneDNN compiles and caches kernels for each batch size.
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
    engine: str = TENSORFLOW,
    calibration: np.ndarray | None = None,
) -> Poses:
    """Returns the poses of boxes in annotated images, without applying EXIF orientation.

    Args:
        model: Any model of the zoo.
        image_paths: P files, one per box.
        boxes_image_xywh: (P, 4) in image pixels.
        box_scores: (P,).
        flip: Whether to average the heatmaps with those of the mirrored crops (flip test).
        batch_size: Crops per forward pass. The flip test doubles it.
        progress: Whether to print progress on stderr.
        precision, engine, calibration: See `kpzoo.accelerate`.

    Returns:
        P * N poses, box by box, with the N instances of each box in order.

    Raises:
        UserError: If an image cannot be read.
    """
    boxes, box_scores = np.asarray(boxes_image_xywh, float).reshape(-1, 4), np.asarray(box_scores, float)
    rows = {}
    for row, path in enumerate(image_paths):
        rows.setdefault(str(path), []).append(row)
    opened = zip(Pictures(list(rows), apply_exif=False), rows.values(), strict=True)
    boxed = (batching.BoxedPicture(picture, boxes[row], box_scores[row]) for picture, row in opened)
    start = partial(accelerate(model, precision, engine, calibration).start, flip=flip)
    parts = [Poses.empty(model.preset.skeleton)]
    with Progress(len(rows), "pictures", shown=progress) as printed:
        for one in run_boxes(start, model.preset, boxed, batch_size):
            if one.picture.problem:
                raise one.picture.problem
            parts.append(poses_of(one, model.preset))
            printed.step(len(parts[-1]))
    order = np.repeat(np.concatenate([*rows.values(), []]), model.preset.num_instances)
    return Poses.concatenate(parts)[np.argsort(order, kind="stable")]


def poses_of(one: batching.BoxedPicture, preset: Preset) -> Poses:
    """Returns the poses of all boxes of an image, box by box, scored by the model's rules."""
    if not one.outputs:
        return Poses.empty(preset.skeleton)
    # (P, N, K, 2), (P, N, K) and for models with a confidence (P, N, K, 2, 2) and (P, N)
    keypoints, scores, *confident = (np.concatenate(parts) for parts in zip(*one.outputs, strict=True))
    num_boxes, num_instances, num_keypoints = scores.shape
    instance = np.tile(np.arange(num_instances), num_boxes)
    box_scores = np.repeat(one.box_scores, num_instances) * np.where(instance > 0, SECOND_INSTANCE_DECAY, 1.0)
    keypoint_scores = scores.reshape(-1, num_keypoints)
    if confident:
        pose_scores, covariance = box_scores * confident[1].reshape(-1), confident[0].reshape(-1, num_keypoints, 2, 2)
    else:
        pose_scores, covariance = heatmaps.pose_scores(preset.rules, keypoint_scores, box_scores), None
    return Poses(
        keypoints_xy=keypoints.reshape(-1, num_keypoints, 2),
        keypoint_scores=keypoint_scores,
        scores=pose_scores,
        boxes_xywh=np.repeat(one.boxes_xywh, num_instances, axis=0),
        instance=instance,
        skeleton=preset.skeleton,
        covariance_xy=covariance,
    )


def suppress(poses: Poses, preset: Preset, threshold: float) -> np.ndarray:
    """Returns the indices of the poses in one image that OKS-NMS keeps, best first.

    The area of a pose is the area of its padded box, as in HRNet and MIPNet.
    """
    areas = geometry.views(poses.boxes_xywh, preset.rules.crop, preset.image_hw)[:, 2:].prod(axis=1)
    return oks_nms(poses.keypoints_xy, poses.scores, areas, np.array(preset.skeleton.sigmas), threshold)
