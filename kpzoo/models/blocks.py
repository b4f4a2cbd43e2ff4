"""Layers and building blocks shared by all families.

Strided convolutions and poolings pad symmetrically and use "valid" padding, as the references do. "same" would pad
even sizes on the far edges only, which is a different network.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kpzoo.errors import unknown
from kpzoo.models import fresh

LAYOUT = "channels_last"  # of every layer, independent of Keras' global default
HEAD_DTYPE = "float32"  # pixels and heatmaps are float32 under every dtype policy

# Workaround for oneDNN in TF 2.21: the filter gradient of a strided 1x1 convolution over fewer channels than this
# writes out of bounds (heap corruption on AVX-512). Such inputs are subsampled first, which is equivalent.
ONEDNN_VECTOR = 16


class Norm(NamedTuple):
    """Epsilon and momentum of batch normalisation. Defaults are PyTorch's, with momentum as Keras defines it."""

    epsilon: float = 1e-5
    momentum: float = 0.9


TORCH_NORM = Norm()


class PixelRule(NamedTuple):
    """Pixel normalisation `(pixel - mean) / std`. `order` is "rgb" or "bgr", for the channels, mean and std."""

    order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_IMAGENET = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))  # torchvision's, times 255
_CPN_MEAN_RGB = (122.7717, 115.9465, 102.9801)
_BYTE = (255.0, 255.0, 255.0)

NORMALIZATIONS: Mapping[str, PixelRule] = MappingProxyType(
    {
        "imagenet_rgb": PixelRule("rgb", **_IMAGENET),
        # ResNet configurations of HRNet's repository: channels in OpenCV's order, statistics in RGB order.
        "imagenet_bgr": PixelRule("bgr", **_IMAGENET),
        "cpn_rgb": PixelRule("rgb", _CPN_MEAN_RGB, _BYTE),  # pytorch-cpn
        "cpn_bgr": PixelRule("bgr", _CPN_MEAN_RGB[::-1], _BYTE),  # tf-cpn
        "lite_rgb": PixelRule("rgb", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),  # EfficientNet-Lite
        "unit_rgb": PixelRule("rgb", (0.0, 0.0, 0.0), _BYTE),  # Newell's hourglass: [0, 1] without mean subtraction
        # Mode "caffe" of keras.applications, the preprocessing of its ResNet-50/101/152 weights.
        "caffe_bgr": PixelRule("bgr", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    }
)

# Arguments of TensorFlow's resize operations. "legacy" is TF 1: source = target * in / out, without half-pixel shift.
RESIZE_CONVENTIONS: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {
        "legacy": dict(align_corners=False, half_pixel_centers=False),
        "align_corners": dict(align_corners=True, half_pixel_centers=False),
        "half_pixel": dict(align_corners=False, half_pixel_centers=True),
    }
)


@keras.saving.register_keras_serializable("kpzoo")
class PixelNormalization(layers.Layer):
    """Normalises RGB images of 0 … 255 as the reference does, in float32.

    Args:
        normalization: A key of `NORMALIZATIONS`.
    """

    def __init__(self, normalization: str, **kwargs):
        super().__init__(**{**kwargs, "dtype": HEAD_DTYPE})
        if normalization not in NORMALIZATIONS:
            raise unknown("normalization", normalization, NORMALIZATIONS, "Use None for no normalization.")
        self.normalization = normalization

    def call(self, image):
        rule = NORMALIZATIONS[self.normalization]
        if rule.order == "bgr":
            image = tf.gather(image, [2, 1, 0], axis=-1)
        return (image - np.float32(rule.mean)) * np.float32(1 / np.array(rule.std))

    def compute_output_shape(self, image_shape):
        return image_shape

    def get_config(self):
        return {**super().get_config(), "normalization": self.normalization}


@keras.saving.register_keras_serializable("kpzoo")
class FusedBatchNorm(layers.BatchNormalization):
    """Batch normalisation of (B, h, w, C) with TensorFlow's fused operation.

    Weights are compatible with Keras' layer. Differences: inputs stay in the compute dtype while statistics are
    float32, which makes mixed precision about 1.4 times faster on CPUs; the moving variance is unbiased, as in PyTorch.
    With `synchronized=True`, which may be set after building, statistics are computed over all replicas.
    """

    def call(self, inputs, training=None, mask=None):
        training = bool(training) and self.trainable
        x = tf.cast(inputs, self.compute_dtype)
        if training and self.synchronized:
            mean, variance, unbiased = moments_over_replicas(x)
            self._track(mean, unbiased)
            y = tf.nn.batch_normalization(
                tf.cast(x, tf.float32), mean, variance, self.beta.value, self.gamma.value, self.epsilon
            )
            return tf.cast(y, self.compute_dtype)
        moving_mean, moving_variance = self.moving_mean.value, self.moving_variance.value
        nothing = tf.zeros([0], tf.float32)
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=nothing if training else moving_mean,
            variance=nothing if training else moving_variance,
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            self._track(mean, variance)
        return y

    def _track(self, mean, variance):
        keep, take = self.momentum, 1.0 - self.momentum
        self.moving_mean.assign(keep * self.moving_mean.value + take * mean)
        self.moving_variance.assign(keep * self.moving_variance.value + take * variance)


def moments_over_replicas(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the mean, variance and unbiased variance of (B, h, w, C) over all replicas, each (C,).

    Replicas sum squared deviations from the common mean. Keras sums squares instead, which loses precision if the mean
    is large.
    """
    replicas = tf.distribute.get_replica_context()
    mean, variance = tf.nn.moments(tf.cast(x, tf.float32), [0, 1, 2])
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32)
    total = replicas.all_reduce(tf.distribute.ReduceOp.SUM, count)
    common = replicas.all_reduce(tf.distribute.ReduceOp.SUM, mean * count) / total
    spread = replicas.all_reduce(tf.distribute.ReduceOp.SUM, count * (variance + tf.square(mean - common)))
    return common, spread / total, spread / tf.maximum(total - 1.0, 1.0)


@keras.saving.register_keras_serializable("kpzoo")
class ResizeBilinear(layers.Layer):
    """Bilinear resize of (B, h, w, C) to (B, H, W, C) with a choice of sampling conventions.

    Args:
        size_hw: (H, W), size of the output.
        convention: A key of `RESIZE_CONVENTIONS`.
    """

    def __init__(self, size_hw: tuple[int, int], convention: str, **kwargs):
        super().__init__(**kwargs)
        if convention not in RESIZE_CONVENTIONS:
            raise unknown("resize convention", convention, RESIZE_CONVENTIONS)
        self.size_hw = tuple(size_hw)
        self.convention = convention

    def call(self, x):
        size = np.array(self.size_hw, np.int32)
        y = tf.raw_ops.ResizeBilinear(images=tf.cast(x, tf.float32), size=size, **RESIZE_CONVENTIONS[self.convention])
        return tf.cast(y, self.compute_dtype)

    def compute_output_shape(self, shape):
        return (shape[0], *self.size_hw, shape[-1])

    def get_config(self):
        return {**super().get_config(), "size_hw": self.size_hw, "convention": self.convention}


@keras.saving.register_keras_serializable("kpzoo")
class UpsampleNearest(layers.Layer):
    """Nearest-neighbour upsampling of (B, h, w, C) by an integer factor.

    Keras' `UpSampling2D` is implemented with repeats, which ONNX converters turn into hundreds of nodes.

    Args:
        factor: Factor of both height and width.
    """

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        size = np.array([side * self.factor for side in x.shape[1:3]], np.int32)
        return tf.raw_ops.ResizeNearestNeighbor(images=x, size=size)

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] * self.factor, shape[2] * self.factor, shape[-1])

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("kpzoo")
class StackMaps(layers.Layer):
    """Stacks L heatmaps (B, h, w, K) to (B, L, h, w, K) in float32."""

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": HEAD_DTYPE})

    def call(self, maps):
        return tf.stack(maps, axis=1)

    def compute_output_shape(self, shapes):
        return (shapes[0][0], len(shapes), *shapes[0][1:])


def image_input(image_hw: tuple[int, int], normalization: str | None):
    """Returns the input "image" (B, H, W, 3), RGB 0 … 255, and the normalised image."""
    image = keras.Input((*image_hw, 3), name="image", dtype="float32")
    if normalization is None:
        return image, image
    return image, PixelNormalization(normalization, name="pixels")(image)


def pyramid(image_hw: tuple[int, int], features: Iterable) -> dict:
    """Returns the last feature at each stride: "P2" at stride 4, "P3" at stride 8, and so on."""
    levels = {f"P{(image_hw[0] // x.shape[1]).bit_length() - 1}": x for x in features}
    return dict(sorted(levels.items()))


def he_normal() -> keras.initializers.Initializer:
    """He initialisation with fan-out, used by the references for convolutions followed by a ReLU."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def small_normal() -> keras.initializers.Initializer:
    """Initialiser of deconvolutions and heatmap heads in SimpleBaseline and HRNet: heatmaps start near zero."""
    return keras.initializers.RandomNormal(stddev=1e-3)


def conv(
    x, filters: int, kernel_size: int, strides: int = 1, *, name, dilation=1, use_bias=False, init=None, dtype=None
):
    """Convolution with symmetric zero padding. Stride 1 keeps the size, stride 2 halves an even size."""
    if kernel_size > 1 and strides > 1:
        x = layers.ZeroPadding2D(dilation * (kernel_size // 2), LAYOUT, name=f"{name}_pad")(x)
    elif strides > 1 and x.shape[-1] < ONEDNN_VECTOR:
        x, strides = layers.MaxPooling2D(1, strides, data_format=LAYOUT, name=f"{name}_skip")(x), 1
    layer = layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding="same" if strides == 1 else "valid",
        data_format=LAYOUT,
        dilation_rate=dilation,
        use_bias=use_bias,
        kernel_initializer=init or he_normal(),
        dtype=dtype,
        name=f"{name}_conv",
    )
    with fresh.kernel_of(layer):
        return layer(x)


def batch_norm(x, norm: Norm = TORCH_NORM, *, name, dtype=None, spread: float = 1.0):
    """Batch normalisation with gamma initialised to `spread`, the initial standard deviation of the output."""
    start = keras.initializers.Constant(spread)
    layer = FusedBatchNorm(
        momentum=norm.momentum, epsilon=norm.epsilon, gamma_initializer=start, dtype=dtype, name=f"{name}_bn"
    )
    return layer(x)


def relu(x, *, name):
    return layers.Activation("relu", name=f"{name}_relu")(x)


def conv_bn(x, filters: int, kernel_size: int, strides: int = 1, *, name, dilation=1, norm: Norm = TORCH_NORM):
    """Convolution without bias, then batch normalisation."""
    x = conv(x, filters, kernel_size, strides, dilation=dilation, name=name)
    return batch_norm(x, norm, name=name)


def conv_bn_relu(x, filters: int, kernel_size: int, strides: int = 1, *, name, dilation=1, norm: Norm = TORCH_NORM):
    """Convolution without bias, batch normalisation, ReLU."""
    return relu(conv_bn(x, filters, kernel_size, strides, dilation=dilation, norm=norm, name=name), name=name)


def max_pool(x, kernel_size: int, *, name):
    """Max pooling with stride 2. Odd kernels use zero padding, which has no effect after a ReLU."""
    if kernel_size % 2:
        x = layers.ZeroPadding2D(kernel_size // 2, LAYOUT, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(kernel_size, 2, data_format=LAYOUT, name=name)(x)


def deconv_bn_relu(x, filters: int, *, name):
    """Doubles the size with a 4x4 deconvolution. "same" is equivalent to PyTorch's padding of 1."""
    layer = layers.Conv2DTranspose(
        filters,
        4,
        2,
        padding="same",
        data_format=LAYOUT,
        use_bias=False,
        kernel_initializer=small_normal(),
        name=f"{name}_conv",
    )
    with fresh.kernel_of(layer):
        x = layer(x)
    return relu(batch_norm(x, name=name), name=name)


def heatmap_head(x, num_keypoints: int, *, name="head"):
    """1x1 convolution with bias to float32 heatmaps, initialised near zero."""
    return conv(x, num_keypoints, 1, use_bias=True, init=small_normal(), dtype=HEAD_DTYPE, name=name)


def residual(x, shortcut, *, name):
    """ReLU of the sum of `x` and the shortcut."""
    return relu(layers.Add(name=f"{name}_add")([x, shortcut]), name=name)


def bottleneck(
    x, inner: int, filters: int, strides: int = 1, *, name, dilation=1, project: bool = False, norm: Norm = TORCH_NORM
):
    """Bottleneck block: 1x1 to `inner` channels, 3x3 with the stride, 1x1 to `filters`, plus a shortcut.

    The shortcut is a 1x1 convolution if the shape changes or `project` is true, else the identity.
    """
    shortcut = x
    if project or strides != 1 or x.shape[-1] != filters:
        shortcut = conv_bn(x, filters, 1, strides, norm=norm, name=f"{name}_shortcut")
    x = conv_bn_relu(x, inner, 1, norm=norm, name=f"{name}_reduce")
    x = conv_bn_relu(x, inner, 3, strides, dilation=dilation, norm=norm, name=f"{name}_spatial")
    x = conv_bn(x, filters, 1, norm=norm, name=f"{name}_expand")
    return residual(x, shortcut, name=name)


def basic_block(x, filters: int, strides: int = 1, *, name, dilation=1, norm: Norm = TORCH_NORM):
    """Basic residual block: two 3x3 convolutions, the first with the stride, plus a shortcut."""
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        shortcut = conv_bn(x, filters, 1, strides, norm=norm, name=f"{name}_shortcut")
    x = conv_bn_relu(x, filters, 3, strides, dilation=dilation, norm=norm, name=f"{name}_first")
    x = conv_bn(x, filters, 3, dilation=dilation, norm=norm, name=f"{name}_second")
    return residual(x, shortcut, name=name)
