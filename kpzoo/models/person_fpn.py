"""`person_fpn`: person detector with a feature pyramid (arXiv:1612.03144) and an anchor-free head (arXiv:1904.01355).

The pyramid has levels at strides 8, 16 and 32. All levels share the convolutions of the head; each level has separate
batch normalisation. The head predicts for each cell a score, trained with the IoU of the predicted box as its target
(arXiv:2006.04388), and the distances from the cell's centre to the four sides of the box.
"""

from functools import partial
from math import log

import keras
from keras import layers

from kpzoo.boxes import STRIDES, CellBoxes
from kpzoo.errors import unknown
from kpzoo.models import efficientnet_lite
from kpzoo.models.blocks import (
    HEAD_DTYPE,
    LAYOUT,
    UpsampleNearest,
    batch_norm,
    conv_bn,
    he_normal,
    image_input,
    pyramid,
    relu,
)  # fmt: skip
from kpzoo.models.registry import Spec, register
from kpzoo.models.resnet import RESNET_BLOCKS, RESNET_WIDTHS, resnet
from kpzoo.pose_model import PersonModel

LEVELS = ("c3", "c4", "c5")
START_SIDE = 1.0  # initial bias: each side of a box is e strides from the cell's centre
PRIOR = 0.01  # initial score of all cells, so that the many cells without a person do not dominate the first losses


def person_levels(features: dict, width: int) -> list:
    """Returns p3, p4, p5 with `width` channels: 1x1 lateral convolutions, top-down sums, a 3x3 convolution on each."""
    sums, above = [], None
    for level in reversed(LEVELS):
        x = conv_bn(features[level], width, 1, name=f"fpn_{level}_lateral")
        if above is not None:
            up = UpsampleNearest(2, name=f"fpn_{level}_up")(above)
            x = layers.Add(name=f"fpn_{level}_add")([x, up])
        above = x
        sums.insert(0, x)
    return [
        relu(conv_bn(x, width, 3, name=f"fpn_{n}_out"), name=f"fpn_{n}_out") for n, x in zip(LEVELS, sums, strict=True)
    ]


def shared_conv(filters: int, kernel_size: int, *, name, use_bias=False, init=None, bias=0.0, dtype=None):
    """Returns a convolution with "same" padding, to be applied to every level."""
    return layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        data_format=LAYOUT,
        use_bias=use_bias,
        kernel_initializer=init or he_normal(),
        bias_initializer=keras.initializers.Constant(bias),
        dtype=dtype,
        name=f"{name}_conv",
    )


def person_head(levels: list, width: int, depth: int) -> dict:
    """Returns one logit and one box per cell of all levels, fine to coarse.

    Returns:
        "person_logits" (B, A), the scores before the sigmoid, and "person_boxes" (B, A, 4): x0, y0, x1, y1 in pixels
        of the input; both float32.
    """
    tower = [shared_conv(width, 3, name=f"tower_{index}") for index in range(depth)]
    small = keras.initializers.RandomNormal(stddev=0.01)
    score = shared_conv(1, 1, name="score", use_bias=True, init=small, bias=-log((1 - PRIOR) / PRIOR), dtype=HEAD_DTYPE)
    sides = shared_conv(4, 1, name="sides", use_bias=True, init=small, bias=START_SIDE, dtype=HEAD_DTYPE)
    logits, boxes = [], []
    for level, stride, x in zip(LEVELS, STRIDES, levels, strict=True):
        for index, layer in enumerate(tower):
            x = relu(batch_norm(layer(x), name=f"tower_{index}_{level}"), name=f"tower_{index}_{level}")
        logits.append(layers.Reshape((-1,), dtype=HEAD_DTYPE, name=f"logits_{level}")(score(x)))
        boxes.append(CellBoxes(stride, name=f"boxes_{level}")(sides(x)))
    return {
        "person_logits": layers.Concatenate(axis=1, dtype=HEAD_DTYPE, name="person_logits")(logits),
        "person_boxes": layers.Concatenate(axis=1, dtype=HEAD_DTYPE, name="person_boxes")(boxes),
    }


def build_person_fpn(
    image_hw: tuple[int, int],
    normalization: str | None,
    *,
    trunk: str,
    width: int = 64,
    depth: int = 2,
):
    """Returns the inputs, outputs and feature pyramid (p3, p4, p5) of a person detector.

    Args:
        trunk: A key of `TRUNKS`.
        width: Channels of the pyramid and of the head.
        depth: Number of 3x3 convolutions of the head before the two outputs.
    """
    if trunk not in TRUNKS:
        raise unknown("trunk", trunk, TRUNKS)
    image, x = image_input(image_hw, normalization)
    features = TRUNKS[trunk](x)  # c2 … c5
    levels = person_levels(features, width)
    return {"image": image}, person_head(levels, width, depth), pyramid(image_hw, levels)


TRUNKS = {
    **efficientnet_lite.TRUNKS,
    "res50": partial(resnet, blocks=RESNET_BLOCKS[50], widths=RESNET_WIDTHS),
}

# name: options of the builder, normalization of the trunk's ImageNet weights
SIZES = {
    "lite0": (dict(trunk="lite0"), "lite_rgb"),
    "res50": (dict(trunk="res50", width=256, depth=4), "imagenet_rgb"),
    "tiny": (dict(trunk="lite_tiny", width=16, depth=1), "lite_rgb"),
}
for _size, (_config, _pixels) in SIZES.items():
    register(
        f"person_fpn_{_size}",
        Spec(
            "person_fpn",
            build_person_fpn,
            _config,
            codec="boxes",
            normalization=_pixels,
            paper="arXiv:1612.03144",
            image_hw=(416, 416),
            model_class=PersonModel,
        ),
    )
