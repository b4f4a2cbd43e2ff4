"""Codecs: encode keypoints as heatmaps, and decode heatmaps to keypoints.

A heatmap cell is `HEATMAP_STRIDE` crop pixels wide. CPN truncates a coordinate to its cell, so the centre of cell c is
crop pixel 4c + 2. HRNet, SimpleBaseline and MIPNet round to the nearest cell, so the centre of cell c is crop pixel 4c.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import tensorflow as tf

from kpzoo import geometry
from kpzoo.errors import unknown

HEATMAP_STRIDE = 4  # heatmaps of all families have a quarter of the crop's size
# PCK threshold in training, as a fraction of the heatmap's height: about 0.2 torso lengths.
PCK_RADIUS = 0.05


@dataclass(frozen=True)
class Codec:
    """How a reference implementation crops boxes, encodes keypoints and decodes heatmaps.

    Args:
        crop_rule: Name of the crop rule, a key of `geometry.CROP_RULES`; `crop` is the rule.
        labels: "blurred" (a one, blurred with one kernel size per level), "exact" (Gaussians of these widths at the
            keypoint instead of its cell) or "gaussian" (the same sigma for all levels).
        peak: Maximum of a label.
        cell_centre: Crop pixels from `cell * HEATMAP_STRIDE` to the centre of the cell.
        decoder: "second_peak", "sign" or "log_quadratic".
        flip_shift: Whether heatmaps of the mirrored crop are shifted one cell to the right before averaging.
        widest_last: Whether the finest level, instead of the coarsest, has the widest label.
        visibility: Default visibility rule for COCO data, a key of `VISIBILITY`.
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
        """How person boxes are enlarged to crops."""
        return geometry.CROP_RULES[self.crop_rule]


CODECS = {
    # tf-cpn pairs its finest level with its widest Gaussian. Kept for comparability with its weights.
    "cpn_official": Codec("cpn", "blurred", 255.0, 2.0, "second_peak", False, widest_last=True, visibility="cpn"),
    "cpn_pytorch": Codec("cpn", "blurred", 255.0, 2.0, "second_peak", False, visibility="cpn"),
    "hrnet": Codec("hrnet", "gaussian", 1.0, 0.0, "sign", True),
    # For the models without a reference: labels and decoder of DARK (arXiv:1910.06278), exact to a fraction of a cell.
    "cpn_exact": Codec("cpn", "exact", 255.0, 2.0, "log_quadratic", False, visibility="cpn"),
}

# How the loss treats v = 1 (labelled, hidden) and v = 0 (not labelled): (final heatmaps, levels), each a pair of
# (lowest v with a nonzero label, lowest v included in the loss).
VISIBILITY = {
    "labelled": ((1, 1), (1, 1)),  # hidden keypoints are treated as visible ones (HRNet, MIPNet)
    "cpn": ((1, 1), (2, 0)),  # GlobalNet's targets of hidden and unlabelled keypoints are zero
    "visible": ((2, 2), (2, 2)),  # hidden keypoints are excluded from the loss
    "hidden_empty": ((2, 1), (2, 1)),  # targets of hidden keypoints are zero
}


def visibility_thresholds(rule: str) -> tuple:
    """Returns the value of a key of `VISIBILITY`."""
    if rule not in VISIBILITY:
        raise unknown("visibility rule", rule, VISIBILITY)
    return VISIBILITY[rule]


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


def blur_matrix(size: int, kernel: int, border: str) -> np.ndarray:
    """Returns a (size, size) float32 matrix equivalent to `cv2.GaussianBlur` with sigma 0 along one axis.

    Args:
        size: Length of the axis.
        kernel: Odd kernel size. Sigma is derived from it as in OpenCV.
        border: "reflect" (OpenCV's default; the edge cell is not repeated) or "zero".
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


def decode(codec: Codec, heatmaps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes heatmaps to keypoints.

    Args:
        codec: The codec of the model, `model.preset.rules`.
        heatmaps: (..., h, w, K) heatmaps, scaled as the labels are.

    Returns:
        Keypoints (..., K, 2) as x and y in crop pixels, and scores (..., K): heatmap values divided by the peak of a
        label, so 1 for a perfect prediction.
    """
    find = {
        "second_peak": _toward_second_peak,
        "sign": _toward_higher_neighbour,
        "log_quadratic": _top_of_log_quadratic,
    }[codec.decoder]
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
    """Shifts the peak of the blurred heatmap a quarter cell towards the second highest cell (CPN, section 4.1)."""
    height, width = maps.shape[-2:]
    # The reference uses 21 cells at every size, but has no crops below 256 pixels. Smaller maps use a narrower blur.
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
    """Shifts the peak a quarter cell towards the higher neighbour, in x and in y (HRNet, SimpleBaseline)."""
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


_BLOCK_XY = np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)], np.int32)  # the 3x3 cells around one


def _top_of_log_quadratic(maps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Shifts the peak of the blurred heatmap to the maximum of a quadratic fit of its logarithm (DARK, section 3.1).

    The logarithm of a Gaussian is quadratic.
    """
    height, width = maps.shape[-2:]
    kernel = max(3, 2 * round((5 * height / 64 - 1) / 2) + 1)  # cells: narrower than the labels
    rows, columns = blur_matrix(height, kernel, "zero"), blur_matrix(width, kernel, "zero")
    flat = tf.reshape(rows @ maps @ columns.T, [-1, maps.shape[1], height * width])
    index, peak = _peak(flat, width)
    scores = tf.gather(tf.reshape(maps, tf.shape(flat)), index[..., None], batch_dims=2)[..., 0]
    cells = tf.abs(tf.cast(peak, tf.int32)[..., None, :] + _BLOCK_XY)
    cells = [width - 1, height - 1] - tf.abs([width - 1, height - 1] - cells)  # reflected at the border
    values = tf.gather(flat, cells[..., 1] * width + cells[..., 0], batch_dims=2)  # (n, K, 9)
    floor = tf.maximum(1e-3 * values[..., 4:5], 1e-12)
    northwest, north, northeast, west, middle, east, southwest, south, southeast = tf.unstack(
        tf.math.log(tf.maximum(values, floor)), axis=-1
    )
    slope_x, slope_y = (east - west) / 2, (south - north) / 2
    curve_xx, curve_yy = east - 2 * middle + west, south - 2 * middle + north
    curve_xy = (southeast - southwest - northeast + northwest) / 4
    curvature = curve_xx * curve_yy - curve_xy**2
    is_top = curvature > 1e-6
    shift_x, shift_y = curve_xy * slope_y - curve_yy * slope_x, curve_xy * slope_x - curve_xx * slope_y
    shift = tf.stack([shift_x, shift_y], axis=-1) / tf.where(is_top, curvature, 1.0)[..., None]
    place = peak + tf.where(is_top[..., None], tf.clip_by_value(shift, -1.0, 1.0), 0.0)
    return tf.clip_by_value(place, 0.0, [width - 1.0, height - 1.0]), scores


def merge_flipped(codec: Codec, heatmaps: tf.Tensor, mirrored: tf.Tensor, flip_order: np.ndarray) -> tf.Tensor:
    """Averages the heatmaps of a crop and of the mirrored crop (flip test).

    Args:
        codec: The codec of the model. HRNet's shifts the mirrored heatmaps by one cell: its crops are mirrored about
            pixel (W - 1) / 2, which is not the centre of the heatmap.
        heatmaps: (..., h, w, K) heatmaps of the crop.
        mirrored: (..., h, w, K) heatmaps of the crop with reversed columns.
        flip_order: (K,) the skeleton's `flip_order`.

    Returns:
        (..., h, w, K) averaged heatmaps.
    """
    turned = tf.gather(tf.reverse(mirrored, axis=[-2]), flip_order, axis=-1)
    if codec.flip_shift:
        turned = tf.concat([turned[..., :1, :], turned[..., :-1, :]], axis=-2)
    return (heatmaps + turned) / 2


RESCORING = {
    "second_peak": "box score * mean of (keypoint score + 0.5) / 1.5",
    "sign": "box score * mean keypoint score of those above 0.2",
    "log_quadratic": "box score * mean keypoint score, weighted by the scores",
}


def pose_scores(codec: Codec, keypoint_scores: tf.Tensor, box_scores: tf.Tensor) -> tf.Tensor:
    """Computes pose scores from keypoint and box scores, as the codec's reference does.

    Args:
        codec: The codec of the model.
        keypoint_scores: (..., K) keypoint scores.
        box_scores: (...,) scores of the person boxes.

    Returns:
        (...,) pose scores.
    """
    keypoint_scores = tf.convert_to_tensor(keypoint_scores)
    if codec.decoder == "second_peak":
        # Both CPN repositories add 0.5 to the score. Dividing by 1.5 does not change the order of poses, and gives a
        # perfect pose the score of its box.
        return box_scores * tf.reduce_mean(keypoint_scores + 0.5, axis=-1) / 1.5
    if codec.decoder == "log_quadratic":
        scores = tf.maximum(keypoint_scores, 0.0)
        total = tf.reduce_sum(scores, axis=-1)
        return box_scores * tf.reduce_sum(scores * scores, axis=-1) / tf.maximum(total, 1e-6)
    sure = tf.cast(keypoint_scores > 0.2, keypoint_scores.dtype)  # HRNet, TEST.IN_VIS_THRE
    total = tf.reduce_sum(keypoint_scores * sure, axis=-1)
    return box_scores * total / tf.maximum(tf.reduce_sum(sure, axis=-1), 1.0)


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
