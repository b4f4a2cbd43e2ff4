"""Person boxes of an anchor-free detector: cells, assignment of targets, loss and decoding.

Cell (x, y) of a level with stride s is at the point ((x + 0.5) s, (y + 0.5) s) of the input; the network predicts one
box and one logit for it. Boxes are (x0, y0, x1, y1) in pixels of the network's input. (0, 0) is the input's upper left
corner.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

PAD = 127  # pixel value of the padding: the middle of the value range
STRIDES = (8, 16, 32)  # of the levels p3, p4, p5

# Range of a level: the largest distance from a cell to the sides of its box, in strides (in arXiv:1904.01355 the limit
# of the finest level is 8). The ranges overlap, so that people near a limit are assigned to both levels.
REACH = ((0.0, 8.0), (2.5, 8.0), (2.5, np.inf))
CENTER_RADIUS = 1.5  # strides: cells farther from a box's centre are not assigned to it (arXiv:1904.01355v4)
MAX_LOG_SIDE = 6.0  # a side is at most e^6 strides from the cell, which prevents overflow
FOCAL_POWER = 2.0  # beta in equation 2 of arXiv:2006.04388
MAX_CANDIDATES = 1000  # cells before NMS, as in arXiv:1904.01355
BOX_WEIGHT = 2.0  # weight of the box loss relative to the score's, as in arXiv:2006.04388


def cell_centers(image_hw: tuple[int, int]) -> np.ndarray:
    """Returns (A, 3): x, y and stride of all cells, from fine to coarse levels, row by row."""
    levels = []
    for stride in STRIDES:
        y, x = np.mgrid[: image_hw[0] // stride, : image_hw[1] // stride]
        points = np.stack([(x + 0.5) * stride, (y + 0.5) * stride, np.full(x.shape, stride)], axis=-1)
        levels.append(points.reshape(-1, 3))
    return np.concatenate(levels).astype(np.float32)


@keras.saving.register_keras_serializable("kpzoo")
class CellBoxes(layers.Layer):
    """Converts the (B, h, w, 4) log distances to the left, upper, right and lower side, in strides, to boxes.

    Args:
        stride: Stride of the level in pixels of the network's input.
    """

    def __init__(self, stride: int, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.stride = stride

    def call(self, sides):
        height, width = sides.shape[1:3]
        y, x = np.mgrid[:height, :width]
        center = np.stack([x, y, x, y], axis=-1).astype(np.float32) + np.float32(0.5)
        outwards = np.float32([-1, -1, 1, 1])
        boxes = (center + outwards * tf.exp(tf.minimum(sides, MAX_LOG_SIDE))) * np.float32(self.stride)
        return tf.reshape(boxes, [-1, height * width, 4])

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] * shape[2], 4)

    def get_config(self):
        return {**super().get_config(), "stride": self.stride}


def assign(boxes: tf.Tensor, is_person: tf.Tensor, cells: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """Assigns cells to ground-truth boxes.

    A cell is assigned to the smallest box that contains the cell's point, has its centre within `CENTER_RADIUS` of it,
    and has a size in the level's `REACH`. Boxes narrower than a stride are treated as one stride wide, so that at least
    one cell is assigned to them.

    Args:
        boxes: (B, G, 4) x0, y0, x1, y1 in pixels of the input.
        is_person: (B, G) bool, False for rows that are padding.
        cells: (A, 3) as returned by `cell_centers`.

    Returns:
        (B, A) indices into G, and (B, A) bool, False for cells that are assigned to no box.
    """
    x, y, stride = cells.T
    low, high = (np.select([stride == s for s in STRIDES], [reach[end] for reach in REACH]) for end in (0, 1))
    low, high = (low * stride).astype(np.float32), (high * stride).astype(np.float32)
    size = boxes[..., 2:] - boxes[..., :2]  # (B, G, 2)
    center = boxes[..., :2] + size / 2
    half = (size / 2)[..., None, :]  # (B, G, 1, 2), against the cells' axis
    away_x = tf.abs(x - center[..., :1])  # (B, G, A)
    away_y = tf.abs(y - center[..., 1:])
    near_x = tf.minimum(CENTER_RADIUS * stride, tf.maximum(half[..., 0], stride / 2))
    near_y = tf.minimum(CENTER_RADIUS * stride, tf.maximum(half[..., 1], stride / 2))
    farthest = tf.maximum(away_x + half[..., 0], away_y + half[..., 1])
    fits = (away_x < near_x) & (away_y < near_y) & (farthest >= low) & (farthest < high) & is_person[..., None]
    areas = tf.where(fits, tf.reduce_prod(size, axis=-1)[..., None], np.inf)
    return tf.argmin(areas, axis=1, output_type=tf.int32), tf.reduce_any(fits, axis=1)


def inside_any(boxes: tf.Tensor, cells: np.ndarray) -> tf.Tensor:
    """Returns (B, A) bool, True for cells with their point inside one of the boxes (B, I, 4) of positive area."""
    x, y = cells[:, 0], cells[:, 1]
    x0, y0, x1, y1 = (boxes[..., side, None] for side in range(4))
    return tf.reduce_any((x > x0) & (x < x1) & (y > y0) & (y < y1), axis=1)


def iou_and_giou(boxes: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the elementwise IoU and generalised IoU (arXiv:1902.09630) of boxes (..., 4)."""
    overlap = tf.maximum(tf.minimum(boxes[..., 2:], others[..., 2:]) - tf.maximum(boxes[..., :2], others[..., :2]), 0.0)
    hull = tf.maximum(boxes[..., 2:], others[..., 2:]) - tf.minimum(boxes[..., :2], others[..., :2])
    areas = (
        tf.reduce_prod(value, axis=-1) for value in (overlap, hull, *(b[..., 2:] - b[..., :2] for b in (boxes, others)))
    )
    intersection, hull, own, other = areas
    union = tf.maximum(own + other - intersection, 1e-6)
    iou = intersection / union
    return iou, iou - (hull - union) / tf.maximum(hull, 1e-6)


@keras.saving.register_keras_serializable("kpzoo")
class PersonBoxLoss(keras.losses.Loss):
    """Loss of `person_fpn`: quality focal loss of the scores and generalised IoU loss of the boxes.

    The target score of an assigned cell is the IoU of its predicted box with the ground truth; that of other cells is
    0. Cells without an assigned box inside an ignored region have no loss. Sums are divided by the total weight of the
    assigned cells of the batch.

    Targets are "boxes" (B, G, 4), their "box_weights" (B, G), 0 for padding, and "ignored" (B, I, 4). All boxes are
    x0, y0, x1, y1 in pixels of the input.

    Args:
        image_hw: (height, width) of the network's input.
    """

    def __init__(self, image_hw: tuple[int, int], name="person_box_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.image_hw = tuple(image_hw)

    def term_names(self, num_instances: int = 1, num_levels: int = 0) -> list[str]:
        """Returns the names of `terms`, which are the same for every model."""
        return ["score", "box"]

    def terms(self, targets, outputs) -> dict[str, tf.Tensor]:
        """Returns the (B,) terms "score" and "box" of the loss."""
        cells = cell_centers(self.image_hw)
        logits, boxes = outputs["person_logits"], outputs["person_boxes"]
        index, assigned = assign(targets["boxes"], targets["box_weights"] > 0, cells)
        wanted = tf.gather(targets["boxes"], index, batch_dims=1)
        weights = tf.gather(targets["box_weights"], index, batch_dims=1) * tf.cast(assigned, tf.float32)
        iou, giou = iou_and_giou(boxes, wanted)
        quality = tf.stop_gradient(tf.where(assigned, iou, 0.0))
        score_weights = tf.where(assigned, weights, tf.cast(~inside_any(targets["ignored"], cells), tf.float32))
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(quality, logits)
        focal = tf.abs(tf.sigmoid(logits) - quality) ** FOCAL_POWER
        share = tf.cast(tf.shape(logits)[0], tf.float32) / tf.maximum(tf.reduce_sum(weights), 1.0)
        return {
            "score": tf.reduce_sum(score_weights * focal * entropy, axis=1) * share,
            "box": BOX_WEIGHT * tf.reduce_sum(weights * (1.0 - giou), axis=1) * share,
        }

    def __call__(self, targets, outputs, sample_weight=None):
        return tf.add_n(list(self.terms(targets, outputs).values()))

    def get_config(self):
        return {"name": self.name, "image_hw": self.image_hw}


def decode_boxes(logits: np.ndarray, boxes: np.ndarray, min_score: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Returns the predicted boxes of one image before non-maximum suppression.

    Args:
        logits: (A,) logits of the cells.
        boxes: (A, 4) x0, y0, x1, y1 in pixels of the input.
        min_score: Minimum score. Of more than 1000 cells, the best 1000 are returned.

    Returns:
        (P, 4) boxes x, y, w, h in pixels of the input and (P,) scores in descending order, as inputs of the NMS
        functions of `kpzoo.nms`.
    """
    with np.errstate(over="ignore"):
        scores = 1 / (1 + np.exp(-np.asarray(logits, float)))
    found = np.flatnonzero(scores >= min_score)
    found = found[np.argsort(-scores[found], kind="stable")[:MAX_CANDIDATES]]
    corners = np.asarray(boxes, float)[found]
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1), scores[found]
