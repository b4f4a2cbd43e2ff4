"""EfficientNet-Lite0 (arXiv:1905.11946, "lite" variant for mobile devices): a small trunk with ImageNet weights.

Differences from EfficientNet-B0: ReLU6 instead of swish, no squeeze-and-excitation, stem and head of fixed width.
Strided convolutions use TensorFlow's "same" padding, as the published weights require. The features are named like
those of a ResNet: c2 … c5.
"""

from functools import partial

import keras
from keras import layers

from kpzoo.models import fresh
from kpzoo.models.blocks import LAYOUT, Norm, batch_norm, he_normal
from kpzoo.models.mimb import ONE_INSTANCE, InstanceGates

LITE_NORM = Norm(epsilon=1e-3, momentum=0.99)
STEM = 32

# Rows of Table 1 of the paper: repeats, expansion, output channels, kernel size, stride of the first block.
LITE0 = (
    (1, 1, 16, 3, 1),
    (2, 6, 24, 3, 2),
    (2, 6, 40, 5, 2),
    (3, 6, 80, 3, 2),
    (3, 6, 112, 5, 1),
    (4, 6, 192, 5, 2),
    (1, 6, 320, 3, 1),
)
LITE_TINY = ((1, 1, 8, 3, 1), (1, 2, 8, 3, 2), (1, 2, 8, 5, 2), (1, 2, 16, 3, 2), (1, 2, 16, 5, 2))


def relu6(x, *, name):
    return layers.ReLU(max_value=6.0, name=f"{name}_relu")(x)


def conv_norm(x, filters: int, kernel_size: int, strides: int = 1, *, name):
    """Convolution without bias and with TensorFlow's "same" padding, then batch normalisation."""
    layer = layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding="same",
        data_format=LAYOUT,
        use_bias=False,
        kernel_initializer=he_normal(),
        name=f"{name}_conv",
    )
    with fresh.kernel_of(layer):
        x = layer(x)
    return batch_norm(x, LITE_NORM, name=name)


def depthwise_norm(x, kernel_size: int, strides: int, *, name):
    """Depthwise convolution with TensorFlow's "same" padding, then batch normalisation."""
    init = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
    layer = layers.DepthwiseConv2D(
        kernel_size,
        strides,
        padding="same",
        data_format=LAYOUT,
        use_bias=False,
        depthwise_initializer=init,
        name=f"{name}_conv",
    )
    return batch_norm(layer(x), LITE_NORM, name=name)


def inverted_residual(x, expansion: int, filters: int, kernel_size: int, strides: int, *, name):
    """Inverted residual block: 1x1 expansion, strided depthwise convolution, 1x1 projection; adds x if shapes agree."""
    shortcut, width = x, x.shape[-1]
    if expansion != 1:
        x = relu6(conv_norm(x, expansion * width, 1, name=f"{name}_expand"), name=f"{name}_expand")
    x = relu6(depthwise_norm(x, kernel_size, strides, name=f"{name}_depthwise"), name=f"{name}_depthwise")
    x = conv_norm(x, filters, 1, name=f"{name}_project")
    if strides == 1 and filters == width:
        x = layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def efficientnet_lite(image, stages=LITE0, stem: int = STEM, gates: InstanceGates = ONE_INSTANCE) -> dict:
    """Returns the last features of each stride: {"c2": (B, H/4, W/4, C2), … "c5": (B, H/32, W/32, C5)}.

    `gates` modulate the input of the first block of each stride. From the first of these on, features are repeated per
    query.
    """
    x = relu6(conv_norm(image, stem, 3, 2, name="stem"), name="stem")  # (B, H/2, W/2, stem)
    features, stride, index = {}, 2, 0
    for repeats, expansion, filters, kernel_size, first in stages:
        stride *= first
        if first > 1:
            [x] = gates([x], f"c{stride.bit_length() - 1}")
        for place in range(repeats):
            step = first if place == 0 else 1
            x = inverted_residual(x, expansion, filters, kernel_size, step, name=f"block{index}")
            index += 1
        features[stride] = x
    return {f"c{level}": features[2**level] for level in (2, 3, 4, 5)}


# By the name of the trunk: a function from normalized images, and `gates=`, to the features c2 … c5.
TRUNKS = {
    "lite0": partial(efficientnet_lite, stages=LITE0, stem=STEM),
    "lite_tiny": partial(efficientnet_lite, stages=LITE_TINY, stem=8),
}
