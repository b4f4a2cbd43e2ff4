"""Heatmaps to keypoints, their scores and their covariances."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from kpzoo.heatmaps.codecs import HEATMAP_STRIDE, Codec, blur_matrix
from kpzoo.heatmaps.confidence import Confidence

FOOT = 0.1  # share of the peak below which a heatmap does not count for the spread: it is noise
LEAST_PEAK = 1e-3  # lower peaks have the score of this one
LEAST_VARIANCE = 1.0  # crop pixels², added to both variances of a spread
_NO_MASS = 1e-9  # of a label's peak, in every cell: the mass of an empty heatmap


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


def decode_with_covariance(
    codec: Codec, heatmaps: tf.Tensor, sigmas: Sequence[float], confidence: Confidence
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decodes heatmaps to keypoints with calibrated scores and covariances.

    Args:
        codec: The codec of the model, `model.preset.rules`.
        heatmaps: (..., h, w, K) heatmaps, scaled as the labels are.
        sigmas: (K,) COCO's `sigmas` of the keypoints, `model.preset.skeleton.sigmas`.
        confidence: The numbers of the trained model, `model.preset.confidence`.

    Returns:
        Keypoints (..., K, 2) as x and y in crop pixels, scores (..., K) as `Confidence` defines them, covariances
        (..., K, 2, 2) in crop pixels², and scores (...,) of the poses for a box score of 1. These are computed from the
        values of the heatmaps, as without a confidence: they rank poses better than calibrated scores do.
    """
    keypoints, scores = decode(codec, heatmaps)
    of_poses = pose_scores(codec, scores, 1.0)
    covariances = spread(codec, heatmaps, keypoints)
    if confidence.weights is not None:
        area = heatmaps.shape[-3] * heatmaps.shape[-2] * HEATMAP_STRIDE**2
        allowed = np.log(np.square(np.asarray(sigmas, np.float64)) * area).astype(np.float32)  # (K,)
        variance = (covariances[..., 0, 0] + covariances[..., 1, 1]) / 2
        of_all, of_peak, of_variance = confidence.weights
        logits = of_all + of_peak * tf.math.log(tf.maximum(scores, LEAST_PEAK))
        scores = tf.sigmoid(logits + of_variance * (allowed - tf.math.log(variance)))
    return keypoints, scores, confidence.scale * covariances, of_poses


def spread(codec: Codec, heatmaps: tf.Tensor, keypoints_crop_xy: tf.Tensor) -> tf.Tensor:
    """Returns how far heatmaps spread around their keypoints: the second moments, which are not calibrated.

    The mass of a heatmap is what exceeds a tenth of its peak, anywhere in the crop, so that a second peak, at another
    person or at the opposite limb, counts. That of a heatmap without a positive value is uniform.

    Args:
        codec: The codec of the model.
        heatmaps: (..., h, w, K) heatmaps.
        keypoints_crop_xy: (..., K, 2) decoded keypoints in crop pixels.

    Returns:
        (..., K, 2, 2) in crop pixels², at least 1 in each direction.
    """
    *_, height, width, num_keypoints = heatmaps.shape
    maps = tf.reshape(tf.cast(heatmaps, tf.float32), [-1, height, width, num_keypoints])
    maps = tf.transpose(maps, [0, 3, 1, 2])  # (n, K, h, w), as in `decode`
    foot = tf.maximum(FOOT * tf.reduce_max(maps, axis=[2, 3], keepdims=True), 0.0)
    mass = tf.nn.relu(maps - foot) + _NO_MASS * codec.peak
    # Two matrix products sum the mass times 1, y, y² over the rows, and times 1, x, x² over the columns.
    sums = _powers(height).T @ mass @ _powers(width)  # (n, K, 3, 3)
    sums = tf.reshape(sums / sums[..., :1, :1], [-1, num_keypoints, 9])
    _, mean_x, square_x, mean_y, product, _, square_y, _, _ = tf.unstack(sums, axis=-1)
    middle = np.array([width - 1, height - 1], np.float32) / 2
    places = tf.reshape(keypoints_crop_xy, [-1, num_keypoints, 2])
    x, y = tf.unstack((places - codec.cell_centre) / HEATMAP_STRIDE - middle, axis=-1)
    across = product - x * mean_y - y * mean_x + x * y
    moments = [square_x - 2 * x * mean_x + x * x, across, across, square_y - 2 * y * mean_y + y * y]
    moments = tf.stack(moments, axis=-1) * HEATMAP_STRIDE**2 + [LEAST_VARIANCE, 0.0, 0.0, LEAST_VARIANCE]
    return tf.reshape(moments, tf.concat([tf.shape(keypoints_crop_xy), [2]], axis=0))


def _powers(size: int) -> np.ndarray:
    """Returns (size, 3) float32: 1, c and c² of the cells c, counted from the middle, which keeps sums small."""
    cells = np.arange(size) - (size - 1) / 2
    return np.stack([np.ones(size), cells, cells**2], axis=1).astype(np.float32)


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
