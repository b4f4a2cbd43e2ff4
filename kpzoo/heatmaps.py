"""Keypoints to heatmaps and back: the labels and the decoders of both schools, side by side.

A heatmap cell is `HEATMAP_STRIDE` crop pixels wide. CPN's school cuts a coordinate down to its cell, so that cell c
stands for crop pixel 4c + 2; HRNet's school rounds to the nearest cell, and cell c stands for crop pixel 4c.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import tensorflow as tf

from kpzoo import geometry
from kpzoo.errors import unknown

HEATMAP_STRIDE = 4  # all families of the zoo answer at a quarter of the crop's size


@dataclass(frozen=True)
class Codec:
    """The rules of one school: which crop, which labels, how a heatmap is read.

    Args:
        crop_rule: Name of the crop rule, a key of `geometry.CROP_RULES`.
        labels: "blurred" (a one, blurred by a kernel for each level) or "gaussian" (one sigma for all levels).
        peak: The label's largest value.
        cell_centre: Crop pixels from a cell's coordinate times the stride to the point that it stands for.
        decoder: "second_peak" or "sign".
        flip_shift: Whether the mirrored picture's heatmaps move one cell to the right before they are averaged.
        widest_last: Whether the finest level has the widest label, and not the coarsest.
        visibility: The visibility rule for data whose v = 1 means hidden, a key of `VISIBILITY`.
    """

    crop_rule: str
    labels: str
    peak: float
    cell_centre: float
    decoder: str
    flip_shift: bool
    widest_last: bool = False
    visibility: str = "labelled"

    @property
    def crop(self) -> geometry.CropRule:
        """The crop rule: how a person's box becomes the crop."""
        return geometry.CROP_RULES[self.crop_rule]


CODECS = {
    # tf-cpn pairs its finest level with its widest Gaussian; kept, so that its weights compare.
    "cpn_official": Codec("cpn", "blurred", 255.0, 2.0, "second_peak", False, widest_last=True, visibility="cpn"),
    "cpn_pytorch": Codec("cpn", "blurred", 255.0, 2.0, "second_peak", False, visibility="cpn"),
    "hrnet": Codec("hrnet", "gaussian", 1.0, 0.0, "sign", True),
}

# What v = 1 (labelled, hidden) and v = 0 (not labelled) mean to the loss: (final, level), each a pair of
# (lowest v that draws a label, lowest v that the loss counts).
VISIBILITY = {
    "labelled": ((1, 1), (1, 1)),  # hidden keypoints are learnt as visible ones are (HRNet, MIPNet)
    "cpn": ((1, 1), (2, 0)),  # GlobalNet learns that hidden and unlabelled keypoints give an empty map
    "visible": ((2, 2), (2, 2)),  # hidden keypoints are left out
    "hidden_empty": ((2, 1), (2, 1)),  # hidden keypoints are learnt as empty maps
}


def encode(
    codec: Codec,
    keypoints_crop_xy: tf.Tensor,
    visibility: tf.Tensor,
    image_hw: tuple[int, int],
    num_levels: int = 0,
    visibility_rule: str | None = None,
) -> dict[str, tf.Tensor]:
    """Returns the training targets of a batch of crops.

    Args:
        codec: The school.
        keypoints_crop_xy: (..., K, 2) in crop pixels.
        visibility: (..., K) of 0, 1, 2.
        image_hw: (height, width) of the crop.
        num_levels: How many level outputs the model has, L.
        visibility_rule: A key of `VISIBILITY`; None for the codec's.

    Returns:
        `heatmaps` (..., h, w, K) and `weights` (..., K); with levels also `global_heatmaps` (..., L, h, w, K), coarse
        to fine, and `global_weights` (..., L, K). All float32.
    """
    rule = visibility_rule or codec.visibility
    if rule not in VISIBILITY:
        raise unknown("visibility rule", rule, VISIBILITY)
    heatmap_hw = (image_hw[0] // HEATMAP_STRIDE, image_hw[1] // HEATMAP_STRIDE)
    final, level = VISIBILITY[rule]
    draw = {"blurred": _blurred_labels, "gaussian": _gaussian_labels}[codec.labels]
    widths = label_widths(codec, heatmap_hw, num_levels)

    def factors(width, drawn_from, counted_from):  # (..., K, h) and (..., K, w) of the heatmaps, (..., K) weights
        rows, columns, inside = draw(keypoints_crop_xy, heatmap_hw, width)
        seen = tf.where(inside, tf.cast(visibility, tf.int32), 0)
        drawn = codec.peak * tf.cast(seen >= drawn_from, tf.float32)
        return rows * drawn[..., None], columns, tf.cast(seen >= counted_from, tf.float32)

    rows, columns, weights = factors(widths[-1], *final)
    targets = {"heatmaps": _outer(rows, columns), "weights": weights}
    if num_levels:
        rows, columns, weights = zip(*(factors(width, *level) for width in widths[:-1]), strict=True)
        targets["global_heatmaps"] = _outer(tf.stack(rows, axis=-3), tf.stack(columns, axis=-3))
        targets["global_weights"] = tf.stack(weights, axis=-2)
    return targets


def label_widths(codec: Codec, heatmap_hw: tuple[int, int], num_levels: int) -> list[float]:
    """Returns the label width of each level, coarse to fine, and of the final output behind them.

    The width is the kernel size for blurred labels and the sigma in cells for Gaussian ones.
    """
    rows = heatmap_hw[0]
    if codec.labels == "gaussian":
        return [2.0 * rows / 64] * (num_levels + 1)  # sigma 2 at 256 pixels of height, 3 at 384
    kernels = {64: (15, 11, 9, 7), 96: (23, 17, 13, 9)}.get(rows)  # both CPN repositories, by heatmap height
    if kernels is None:  # sizes that they do not have: the first row, scaled, to odd sizes of at least 5
        kernels = tuple(max(5, 2 * round((size * rows / 64 - 1) / 2) + 1) for size in (15, 11, 9, 7))
    levels = np.array(kernels)[np.linspace(0, len(kernels) - 1, max(num_levels, 1)).round().astype(int)].tolist()
    return (levels[::-1] if codec.widest_last else levels)[:num_levels] + [kernels[-1]]


def _outer(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Returns the (..., h, w, K) products of (..., K, h) and (..., K, w).

    The products are taken along w and K at once; `einsum` would make (..., K, h, w) first.
    """
    rows, columns = tf.linalg.matrix_transpose(rows), tf.linalg.matrix_transpose(columns)
    lead, (height, num_keypoints), width = tf.shape(rows)[:-2], rows.shape[-2:], columns.shape[-2]
    rows = tf.tile(rows, [1] * (len(rows.shape) - 1) + [width])  # (..., h, w * K)
    columns = tf.reshape(columns, tf.concat([lead, [1, width * num_keypoints]], axis=0))
    return tf.reshape(rows * columns, tf.concat([lead, [height, width, num_keypoints]], axis=0))


def blur_matrix(size: int, kernel: int, border: str) -> np.ndarray:
    """Returns the (size, size) float32 matrix that blurs a column as `cv2.GaussianBlur` with sigma 0 does.

    Args:
        size: Length of the column.
        kernel: Odd kernel size; sigma follows from it as in OpenCV.
        border: "reflect" (OpenCV's default, the edge cell not repeated) or "zero".
    """
    taps = cv2.getGaussianKernel(kernel, 0)[:, 0]
    half = kernel // 2
    matrix = np.zeros((size, size))
    for row in range(size):
        for offset, tap in zip(range(-half, half + 1), taps, strict=True):
            column = row + offset
            if border == "reflect":
                column = abs(column) % (2 * size - 2)
                column = min(column, 2 * size - 2 - column)
            if 0 <= column < size:
                matrix[row, column] += tap
    return matrix.astype(np.float32)


def _blurred_labels(keypoints_crop_xy, heatmap_hw, kernel):
    """A one at the keypoint's cell, blurred by `kernel`, scaled to a peak of 1 (both CPN repositories).

    Returns (..., K, h) and (..., K, w), whose products are the label, and (..., K) whether it is inside.
    """
    cells = tf.cast(tf.floor(keypoints_crop_xy / HEATMAP_STRIDE), tf.int32)
    size = tf.constant([heatmap_hw[1], heatmap_hw[0]])
    inside = tf.reduce_all((cells >= 0) & (cells < size), axis=-1)
    cells = tf.clip_by_value(cells, 0, size - 1)
    rows = tf.gather(blur_matrix(heatmap_hw[0], int(kernel), "reflect").T, cells[..., 1])  # (..., K, h)
    columns = tf.gather(blur_matrix(heatmap_hw[1], int(kernel), "reflect").T, cells[..., 0])  # (..., K, w)
    rows = rows / tf.reduce_max(rows, axis=-1, keepdims=True)
    columns = columns / tf.reduce_max(columns, axis=-1, keepdims=True)
    return rows, columns, inside


def _gaussian_labels(keypoints_crop_xy, heatmap_hw, sigma):
    """An unnormalised Gaussian about the nearest cell, cut at three sigma in x and y (HRNet, SimpleBaseline).

    Returns as `_blurred_labels` does.
    """
    reach = 3 * sigma
    # Truncation towards zero, as the references have it: a keypoint up to 1.5 cells outside still lands on cell 0.
    cells = tf.cast(tf.cast(keypoints_crop_xy / HEATMAP_STRIDE + 0.5, tf.int32), tf.float32)
    size = tf.constant([heatmap_hw[1], heatmap_hw[0]], tf.float32)
    inside = tf.reduce_all((cells - reach < size) & (cells + reach + 1 >= 0), axis=-1)
    sides = []
    for axis, length in ((1, heatmap_hw[0]), (0, heatmap_hw[1])):
        distance = tf.range(length, dtype=tf.float32) - cells[..., axis, None]
        near = tf.cast(tf.abs(distance) <= reach, tf.float32)
        sides.append(near * tf.exp(-tf.square(distance) / (2 * sigma**2)))
    return *sides, inside


def decode(codec: Codec, heatmaps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the keypoints that heatmaps show.

    Args:
        codec: The school.
        heatmaps: (..., h, w, K) in the units of the labels.

    Returns:
        (..., K, 2) x and y in crop pixels, and (..., K) scores, 1 for a perfect peak.
    """
    find = {"second_peak": _toward_second_peak, "sign": _toward_higher_neighbour}[codec.decoder]
    *lead, height, width, num_keypoints = heatmaps.shape
    lead = [-1] if len(lead) == 1 else tf.shape(heatmaps)[:-3]
    maps = tf.reshape(heatmaps, [-1, height, width, num_keypoints])
    cells, scores = find(tf.transpose(tf.cast(maps, tf.float32), [0, 3, 1, 2]))  # (n, K, h, w) -> (n, K, 2), (n, K)
    cells = tf.reshape(cells, tf.concat([lead, [num_keypoints, 2]], 0))
    scores = tf.reshape(scores, tf.concat([lead, [num_keypoints]], 0))
    return cells * HEATMAP_STRIDE + codec.cell_centre, scores / codec.peak


def _peak(flat: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the index (n, K) of the largest value of (n, K, h * w), and its x and y (n, K, 2)."""
    index = tf.argmax(flat, axis=-1, output_type=tf.int32)
    return index, tf.cast(tf.stack([index % width, index // width], axis=-1), tf.float32)


def _toward_second_peak(maps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A quarter of a cell from the peak of the blurred map towards its second highest cell (CPN, section 4.1)."""
    height, width = maps.shape[-2:]
    # 21 cells at every size in the reference, which has no crops below 256 pixels: smaller maps get a narrower blur.
    kernel = 21 if height >= 64 else max(3, 2 * (21 * height // 128) + 1)
    rows, columns = blur_matrix(height, kernel, "zero"), blur_matrix(width, kernel, "zero")
    blurred = rows @ maps @ columns.T
    flat = tf.reshape(blurred, [-1, maps.shape[1], height * width])
    first, peak = _peak(flat, width)
    without_first = tf.where(tf.range(height * width) == first[..., None], -np.inf, flat)
    toward = _peak(without_first, width)[1] - peak
    place = peak + 0.25 * toward / tf.norm(toward, axis=-1, keepdims=True)
    place = tf.clip_by_value(place, 0.0, [width - 1.0, height - 1.0])
    cell = tf.cast(tf.round(place), tf.int32)
    index = cell[..., 1] * width + cell[..., 0]
    return place, tf.gather(tf.reshape(maps, tf.shape(flat)), index[..., None], batch_dims=2)[..., 0]


def _toward_higher_neighbour(maps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A quarter of a cell from the peak towards the higher neighbour, in x and in y (HRNet, SimpleBaseline)."""
    height, width = maps.shape[-2:]
    flat = tf.reshape(maps, [-1, maps.shape[1], height * width])
    index, peak = _peak(flat, width)
    scores = tf.gather(flat, index[..., None], batch_dims=2)[..., 0]

    def at(offset):
        return tf.gather(flat, tf.clip_by_value(index + offset, 0, height * width - 1)[..., None], batch_dims=2)

    slope = tf.concat([at(1) - at(-1), at(width) - at(-width)], axis=-1)
    size = tf.constant([width, height], tf.float32)
    inner = tf.reduce_all((peak > 1) & (peak < size - 1), axis=-1, keepdims=True)
    place = peak + 0.25 * tf.sign(slope) * tf.cast(inner, tf.float32)
    return tf.where(scores[..., None] > 0, place, 0.0), scores


def merge_flipped(codec: Codec, heatmaps: tf.Tensor, mirrored: tf.Tensor, flip_order: np.ndarray) -> tf.Tensor:
    """Returns the mean of a crop's heatmaps and those of the mirrored crop, turned back.

    Args:
        codec: The school; HRNet's moves the turned maps by one cell, since its crops mirror about pixel (W - 1) / 2
            and its cells do not.
        heatmaps: (..., h, w, K).
        mirrored: (..., h, w, K), answered for the crop with its columns reversed.
        flip_order: (K,) the skeleton's `flip_order`.
    """
    turned = tf.gather(tf.reverse(mirrored, axis=[-2]), flip_order, axis=-1)
    if codec.flip_shift:
        turned = tf.concat([turned[..., :1, :], turned[..., :-1, :]], axis=-2)
    return (heatmaps + turned) / 2


RESCORING = {
    "second_peak": "box score * mean of (keypoint score + 0.5) / 1.5",
    "sign": "box score * mean keypoint score of those above 0.2",
}


def pose_scores(codec: Codec, keypoint_scores: tf.Tensor, box_scores: tf.Tensor) -> tf.Tensor:
    """Returns the (...,) scores of poses from (..., K) keypoint scores and (...,) box scores, as each school ranks."""
    keypoint_scores = tf.convert_to_tensor(keypoint_scores)
    if codec.decoder == "second_peak":
        # Both CPN repositories add a half to the map before they read its score. The division keeps their order of
        # poses and lets a perfect pose have the score of its box.
        return box_scores * tf.reduce_mean(keypoint_scores + 0.5, axis=-1) / 1.5
    sure = tf.cast(keypoint_scores > 0.2, keypoint_scores.dtype)  # HRNet, TEST.IN_VIS_THRE
    total = tf.reduce_sum(keypoint_scores * sure, axis=-1)
    return box_scores * total / tf.maximum(tf.reduce_sum(sure, axis=-1), 1.0)
