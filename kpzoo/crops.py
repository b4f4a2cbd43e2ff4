"""From encoded pictures to crops, inside the TensorFlow graph: decode, augment, warp.

Nothing here draws random numbers on its own: a step of augmentation takes numbers from 0 to 1 that follow from a seed,
so that the same seed gives the same crops in every order, and on every machine to float rounding.
"""

from functools import cache

import numpy as np
import tensorflow as tf

from kpzoo import images
from kpzoo.geometry import CropRule

_PNG_START = b"\x89PNG\r\n\x1a\n"
_LEAST_BITS = 16  # of the size of the smallest window that the compiled warp has code for


def views_in_graph(boxes_image_xywh: tf.Tensor, rule: CropRule, image_hw: tuple[int, int]) -> tf.Tensor:
    """Returns the (P, 4) views of (P, 4) boxes; `geometry.views`, for boxes that only the graph knows."""
    height, width = image_hw
    sizes = tf.maximum(boxes_image_xywh[:, 2:], 1.0) * rule.grow_xy
    grown_width = tf.maximum(sizes[:, 0], sizes[:, 1] * width / height) * rule.padding
    centres = boxes_image_xywh[:, :2] + boxes_image_xywh[:, 2:] / 2
    return tf.concat([centres, tf.stack([grown_width, grown_width * height / width], axis=1)], axis=1)


def view_matrix(view: tf.Tensor, scale, rotation, mirrored, image_hw: tuple[int, int]) -> tf.Tensor:
    """Returns the (2, 3) map from crop pixels to image pixels.

    Args:
        view: (4,) centre x, centre y, width, height in image pixels.
        scale: Factor on the view's size.
        rotation: Turn of the crop's axes in the image, in radians.
        mirrored: Whether the crop's columns are reversed.
        image_hw: (height, width) of the crop.
    """
    height, width = image_hw
    step_x, step_y = view[2] * scale / width, view[3] * scale / height
    cos, sin = tf.cos(rotation), tf.sin(rotation)
    linear = tf.reshape(tf.stack([cos * step_x, -sin * step_y, sin * step_x, cos * step_y]), (2, 2))
    offset = view[:2] - tf.linalg.matvec(linear, [width / 2, height / 2])
    # The mirrored crop shows in column x what the crop shows in column W - 1 - x.
    offset = tf.where(mirrored, offset + linear[:, 0] * (width - 1), offset)
    side = tf.where(mirrored, -1.0, 1.0)
    return tf.concat([linear * tf.stack([side, 1.0]), offset[:, None]], axis=1)


def to_crop(crop_to_image: tf.Tensor, points_image_xy: tf.Tensor) -> tf.Tensor:
    """Returns (..., 2) points of the image in crop pixels."""
    inverse = tf.linalg.inv(crop_to_image[:, :2])
    return tf.einsum("ij,...j->...i", inverse, points_image_xy - crop_to_image[:, 2])


def to_image(crop_to_image: tf.Tensor, points_crop_xy: tf.Tensor) -> tf.Tensor:
    """Returns (B, ..., 2) points of the crops in image pixels, with (B, 2, 3) maps."""
    rank = len(points_crop_xy.shape)
    maps = tf.reshape(crop_to_image, tf.concat([tf.shape(crop_to_image)[:1], [1] * (rank - 2), [2, 3]], 0))
    return tf.linalg.matvec(maps[..., :2], points_crop_xy) + maps[..., 2]


def covariance_to_image(crop_to_image: tf.Tensor, covariance_crop: tf.Tensor) -> tf.Tensor:
    """Returns (B, ..., 2, 2) covariances of the crops in image pixels², with (B, 2, 3) maps: A Σ Aᵀ."""
    rank = len(covariance_crop.shape)
    maps = tf.reshape(crop_to_image[..., :2], tf.concat([tf.shape(crop_to_image)[:1], [1] * (rank - 3), [2, 2]], 0))
    return tf.matmul(tf.matmul(maps, covariance_crop), maps, transpose_b=True)


def decode_crop(contents: tf.Tensor, crop_to_image: tf.Tensor, image_hw: tuple[int, int], fill_rgb) -> tf.Tensor:
    """Returns the crop of an encoded picture; of a JPEG only the needed window is decoded.

    RGB and grey JPEG and PNG are decoded by TensorFlow, to the pixels of OpenCV, and all others by OpenCV itself:
    TensorFlow fails on transparent WebP and misreads BMP with a palette and transparent GIF.

    The EXIF orientation is not applied: annotations count the pixels as they are stored.

    Args:
        contents: Scalar string, the file's bytes.
        crop_to_image: (2, 3) map from crop pixels to image pixels.
        image_hw: (height, width) of the crop.
        fill_rgb: Colour outside of the image, 0 … 255.

    Returns:
        (height, width, 3) float32 RGB, 0 … 255.
    """

    def jpeg():
        size = tf.io.extract_jpeg_shape(contents)[:2]
        window = _window(crop_to_image, size, image_hw)
        # INTEGER_ACCURATE gives OpenCV's pixels bit for bit; the default is off by up to 21 grey levels.
        return tf.io.decode_and_crop_jpeg(contents, window, channels=3, dct_method="INTEGER_ACCURATE"), window[:2]

    def other():
        image = tf.cond(
            is_png(contents),
            lambda: tf.io.decode_png(contents, channels=3),
            lambda: tf.numpy_function(_decode_by_opencv, [contents], tf.uint8),
        )
        image = tf.ensure_shape(image, (None, None, 3))
        window = _window(crop_to_image, tf.shape(image)[:2], image_hw)
        return _cut(image, window), window[:2]

    pixels, corner_yx = tf.cond(is_jpeg(contents), jpeg, other)
    return _warp_compiled(pixels, corner_yx, crop_to_image, image_hw, fill_rgb)


def _decode_by_opencv(contents) -> np.ndarray:
    return images.decode_image(contents if isinstance(contents, bytes) else contents.item(), apply_exif=False)


def is_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Returns whether an encoded picture is a JPEG in RGB or grey; CMYK is converted otherwise by OpenCV."""
    return tf.cond(tf.io.is_jpeg(contents), lambda: tf.io.extract_jpeg_shape(contents)[2] != 4, lambda: False)


def is_png(contents: tf.Tensor) -> tf.Tensor:
    """Returns whether an encoded picture is a PNG by its first bytes."""
    return tf.strings.substr(contents, 0, len(_PNG_START)) == _PNG_START


def crop(image: tf.Tensor, crop_to_image: tf.Tensor, image_hw: tuple[int, int], fill_rgb) -> tf.Tensor:
    """Returns the crop of a decoded (H, W, 3) picture; see `decode_crop`."""
    window = _window(crop_to_image, tf.shape(image)[:2], image_hw)
    return _warp(_cut(image, window), window[:2], crop_to_image, image_hw, fill_rgb)


def _window(crop_to_image: tf.Tensor, size_hw: tf.Tensor, image_hw: tuple[int, int]) -> tf.Tensor:
    """Returns (4,) int32 y, x, height, width: the part of the image that the crop's pixels are mixed from."""
    height, width = image_hw
    corners = tf.constant([[0.0, 0.0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
    corners = corners @ tf.transpose(crop_to_image[:, :2]) + crop_to_image[:, 2]
    limit = tf.cast(tf.stack([size_hw[1], size_hw[0]]), tf.float32) - 1
    # Clip before the cast: a box far outside would overflow. One pixel more on each side than bilinear mixing reads.
    low = tf.clip_by_value(tf.floor(tf.reduce_min(corners, axis=0)) - 1, 0.0, limit)
    high = tf.clip_by_value(tf.math.ceil(tf.reduce_max(corners, axis=0)) + 1, 0.0, limit)
    low, high = tf.cast(low, tf.int32), tf.cast(high, tf.int32)
    return tf.stack([low[1], low[0], high[1] - low[1] + 1, high[0] - low[0] + 1])


def _cut(image: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    return tf.slice(image, tf.concat([window[:2], [0]], 0), tf.concat([window[2:], [3]], 0))


def _warp(pixels, corner_yx, crop_to_image, image_hw, fill_rgb) -> tf.Tensor:
    """Returns the bilinear crop of the window whose first pixel is image pixel `corner_yx`."""
    fill = tf.constant(fill_rgb, tf.float32)
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(pixels, tf.float32)[None] - fill,  # the fill becomes the zero that the warp pads with
        transforms=tf.concat([tf.reshape(_crop_to_window(corner_yx, crop_to_image), [1, 6]), [[0.0, 0.0]]], axis=1),
        output_shape=tf.constant(image_hw, tf.int32),
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )[0]
    return tf.ensure_shape(warped + fill, (*image_hw, 3))


def _crop_to_window(corner_yx: tf.Tensor, crop_to_image: tf.Tensor) -> tf.Tensor:
    offset = crop_to_image[:, 2] - tf.cast(tf.stack([corner_yx[1], corner_yx[0]]), tf.float32)
    return tf.concat([crop_to_image[:, :2], offset[:, None]], axis=1)


def _warp_compiled(pixels, corner_yx, crop_to_image, image_hw, fill_rgb) -> tf.Tensor:
    """As `_warp`, to float rounding and faster, for where XLA may compile."""
    flat, size_hw = tf.reshape(pixels, [-1]), tf.shape(pixels)[:2]
    # XLA compiles once for each size, so the pixels are padded to one of few: to powers of two.
    bits = tf.math.ceil(tf.math.log(tf.cast(tf.size(flat), tf.float32)) / np.log(2.0))
    room = tf.bitwise.left_shift(1, tf.maximum(tf.cast(bits, tf.int32), _LEAST_BITS))
    flat = tf.pad(flat, [[0, tf.maximum(room - tf.size(flat), 0)]])
    warp = _compiled_warp(tuple(image_hw), tuple(fill_rgb))
    return tf.ensure_shape(warp(flat, size_hw, _crop_to_window(corner_yx, crop_to_image)), (*image_hw, 3))


@cache
def _compiled_warp(image_hw: tuple[int, int], fill_rgb: tuple[float, float, float]):
    """Returns the compiled function from flat uint8 pixels, their (height, width) and the (2, 3) map to the crop.

    TensorFlow's own warp computes the map again for each of three channels, and checks four borders at each of them.
    """
    size = tf.TensorSpec((2,), tf.int32)
    signature = tf.TensorSpec((None,), tf.uint8), size, tf.TensorSpec((2, 3), tf.float32)

    @tf.function(input_signature=signature, jit_compile=True, autograph=False)
    def warp(flat, size_hw, crop_to_window):
        crop_y, crop_x = (tf.range(side, dtype=tf.float32) for side in image_hw)

        def place(row, size):  # index before it and share of the next: (H, W, 1)
            place = row[0] * crop_x + (row[1] * crop_y + row[2])[:, None]
            place = tf.clip_by_value(place, -1.0, tf.cast(size, tf.float32))[..., None]
            return tf.cast(tf.floor(place), tf.int32), place - tf.floor(place)

        def pixel(y, x):
            inside = (y >= 0) & (y < size_hw[0]) & (x >= 0) & (x < size_hw[1])
            value = tf.gather(flat, (y * size_hw[1] + x) * 3 + tf.range(3))  # XLA stays within bounds
            return tf.where(inside, tf.cast(value, tf.float32), tf.constant(fill_rgb, tf.float32))

        (x, right), (y, below) = (place(crop_to_window[axis], size_hw[1 - axis]) for axis in (0, 1))
        upper = pixel(y, x) * (1 - right) + pixel(y, x + 1) * right
        lower = pixel(y + 1, x) * (1 - right) + pixel(y + 1, x + 1) * right
        return upper * (1 - below) + lower * below

    return warp
