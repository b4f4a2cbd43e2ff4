"""Keypoints to heatmaps, the targets of training."""

import numpy as np
import tensorflow as tf

from kpzoo.heatmaps.codecs import HEATMAP_STRIDE, Codec, blur_matrix, visibility_thresholds

# PCK threshold in training, as a fraction of the heatmap's height: about 0.2 torso lengths.
PCK_RADIUS = 0.05


def encode(
    codec: Codec,
    keypoints_crop_xy: tf.Tensor,
    visibility: tf.Tensor,
    image_hw: tuple[int, int],
    num_levels: int = 0,
    visibility_rule: str | tuple | None = None,
    keypoint_weights: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Encodes keypoints as training targets.

    Args:
        codec: The codec of the model, `model.preset.rules`.
        keypoints_crop_xy: (..., K, 2) keypoints in crop pixels.
        visibility: (..., K) keypoint visibility: 0 not labelled, 1 labelled but hidden, 2 visible.
        image_hw: (height, width) of the crop in pixels.
        num_levels: L, number of heatmaps with intermediate supervision, `model.num_levels`.
        visibility_rule: A key of `VISIBILITY`, or a value of the same structure, of integers or of tensors that
            broadcast to (..., K). Default: the codec's.
        keypoint_weights: (..., K) factors of the weights. Default: 1.

    Returns:
        Dict of float32 tensors: `heatmaps` (..., h, w, K) and `weights` (..., K). If `num_levels` is not 0, also
        `global_heatmaps` (..., L, h, w, K), coarse to fine, and `global_weights` (..., L, K).

    Raises:
        UserError: Unknown visibility rule.
    """
    rule = visibility_rule or codec.visibility
    if isinstance(rule, str):
        rule = visibility_thresholds(rule)
    heatmap_hw = (image_hw[0] // HEATMAP_STRIDE, image_hw[1] // HEATMAP_STRIDE)
    final, level = rule
    draw = {"blurred": _blurred_labels, "exact": _exact_labels, "gaussian": _gaussian_labels}[codec.labels]
    widths = label_widths(codec, heatmap_hw, num_levels)

    def factors(width, drawn_from, counted_from):  # (..., K, h) and (..., K, w) of the heatmaps, (..., K) weights
        rows, columns, inside = draw(keypoints_crop_xy, heatmap_hw, width)
        seen = tf.where(inside, tf.cast(visibility, tf.int32), 0)
        drawn = codec.peak * tf.cast(seen >= drawn_from, tf.float32)
        counted = tf.cast(seen >= counted_from, tf.float32)
        return rows * drawn[..., None], columns, counted if keypoint_weights is None else counted * keypoint_weights

    rows, columns, weights = factors(widths[-1], *final)
    targets = {"heatmaps": _outer(rows, columns), "weights": weights}
    if num_levels:
        rows, columns, weights = zip(*(factors(width, *level) for width in widths[:-1]), strict=True)
        targets["global_heatmaps"] = _outer(tf.stack(rows, axis=-3), tf.stack(columns, axis=-3))
        targets["global_weights"] = tf.stack(weights, axis=-2)
    return targets


def label_widths(codec: Codec, heatmap_hw: tuple[int, int], num_levels: int) -> list[float]:
    """Returns the label widths of the levels, coarse to fine, followed by that of the final heatmaps.

    A width is the kernel size of blurred and exact labels, or the sigma of Gaussian labels, in cells.
    """
    rows = heatmap_hw[0]
    if codec.labels == "gaussian":
        return [2.0 * rows / 64] * (num_levels + 1)  # sigma 2 at 256 pixels of height, 3 at 384
    kernels = {64: (15, 11, 9, 7), 96: (23, 17, 13, 9)}.get(rows)  # both CPN repositories, by heatmap height
    if kernels is None:  # other sizes: the 64-row kernels, scaled and rounded to odd sizes of at least 5
        kernels = tuple(max(5, 2 * round((size * rows / 64 - 1) / 2) + 1) for size in (15, 11, 9, 7))
    levels = np.array(kernels)[np.linspace(0, len(kernels) - 1, max(num_levels, 1)).round().astype(int)].tolist()
    return (levels[::-1] if codec.widest_last else levels)[:num_levels] + [kernels[-1]]


def _outer(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Returns the (..., h, w, K) products of (..., K, h) and (..., K, w).

    Faster than `einsum`, which computes (..., K, h, w) and transposes it.
    """
    rows, columns = tf.linalg.matrix_transpose(rows), tf.linalg.matrix_transpose(columns)
    lead, (height, num_keypoints), width = tf.shape(rows)[:-2], rows.shape[-2:], columns.shape[-2]
    rows = tf.tile(rows, [1] * (len(rows.shape) - 1) + [width])  # (..., h, w * K)
    columns = tf.reshape(columns, tf.concat([lead, [1, width * num_keypoints]], axis=0))
    return tf.reshape(rows * columns, tf.concat([lead, [height, width, num_keypoints]], axis=0))


def _blurred_labels(keypoints_crop_xy, heatmap_hw, kernel):
    """Blurs a one at the keypoint's cell with `kernel` and scales it to a peak of 1 (both CPN repositories).

    Returns (..., K, h) rows and (..., K, w) columns, whose outer product is the label, and (..., K) whether the
    keypoint lies inside the heatmap.
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


def _exact_labels(keypoints_crop_xy, heatmap_hw, kernel):
    """Computes an unnormalised Gaussian at the keypoint, with the sigma of OpenCV's blur (DARK, section 3.2).

    Returns the same values as `_blurred_labels`.
    """
    cells = keypoints_crop_xy / HEATMAP_STRIDE - 0.5  # the centre of cell c is crop pixel 4c + 2
    size = tf.constant([heatmap_hw[1], heatmap_hw[0]], tf.float32)
    inside = tf.reduce_all((cells >= -0.5) & (cells < size - 0.5), axis=-1)
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    sides = []
    for axis, length in ((1, heatmap_hw[0]), (0, heatmap_hw[1])):
        distance = tf.range(length, dtype=tf.float32) - cells[..., axis, None]
        sides.append(tf.exp(-tf.square(distance) / (2 * sigma**2)))
    return *sides, inside


def _gaussian_labels(keypoints_crop_xy, heatmap_hw, sigma):
    """Computes an unnormalised Gaussian at the nearest cell, truncated at three sigma (HRNet, SimpleBaseline).

    Returns the same values as `_blurred_labels`.
    """
    reach = 3 * sigma
    # Truncation towards zero, as in the references: a keypoint up to 1.5 cells outside is assigned to cell 0.
    cells = tf.cast(tf.cast(keypoints_crop_xy / HEATMAP_STRIDE + 0.5, tf.int32), tf.float32)
    size = tf.constant([heatmap_hw[1], heatmap_hw[0]], tf.float32)
    inside = tf.reduce_all((cells - reach < size) & (cells + reach + 1 >= 0), axis=-1)
    sides = []
    for axis, length in ((1, heatmap_hw[0]), (0, heatmap_hw[1])):
        distance = tf.range(length, dtype=tf.float32) - cells[..., axis, None]
        near = tf.cast(tf.abs(distance) <= reach, tf.float32)
        sides.append(near * tf.exp(-tf.square(distance) / (2 * sigma**2)))
    return *sides, inside


def peak_hits(targets: tf.Tensor, heatmaps: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns hits and weights for the PCK metric, each (..., K) float32.

    A hit is a predicted peak within `PCK_RADIUS` of the target's peak.

    Args:
        targets: (..., h, w, K) target heatmaps.
        heatmaps: (..., h, w, K) predicted heatmaps.
        weights: (..., K), 0 for unlabelled keypoints.
    """
    distance = tf.norm(_peaks(targets) - _peaks(heatmaps), axis=-1)
    radius = PCK_RADIUS * tf.cast(tf.shape(targets)[-3], tf.float32)
    labelled = (weights > 0) & (tf.reduce_max(targets, axis=[-3, -2]) > 0)
    return tf.cast(distance <= radius, tf.float32), tf.cast(labelled, tf.float32)


def _peaks(heatmaps: tf.Tensor) -> tf.Tensor:
    """Returns x and y of each heatmap's maximum, (..., K, 2) in heatmap pixels."""
    shape = tf.shape(heatmaps)
    width = shape[-2]
    flat = tf.reshape(heatmaps, tf.concat([shape[:-3], [shape[-3] * width], shape[-1:]], 0))
    index = tf.argmax(flat, axis=-2, output_type=tf.int32)
    return tf.cast(tf.stack([index % width, index // width], axis=-1), tf.float32)
