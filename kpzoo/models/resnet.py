"""ResNets (arXiv:1512.03385): the backbone of CPN, SimpleBaseline and MIPNet.

As in torchvision, the 3x3 convolution of a bottleneck has the stride. Stages are named after their outputs, c2 … c5,
at strides 4, 8, 16 and 32.
"""

from collections.abc import Sequence

from kpzoo.errors import UserError
from kpzoo.models.blocks import TORCH_NORM, Norm, basic_block, bottleneck, conv_bn_relu, max_pool
from kpzoo.models.mimb import ONE_INSTANCE, InstanceGates

STAGES = ("c2", "c3", "c4", "c5")
EXPANSION = 4  # output channels of a bottleneck, relative to its 3x3 convolution

RESNET_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # Table 1 of the paper
RESNET_WIDTHS = (64, 128, 256, 512)


def resnet_stem(image, width: int = 64, norm: Norm = TORCH_NORM):
    """7x7 convolution and max pooling: returns (B, H/4, W/4, width)."""
    x = conv_bn_relu(image, width, 7, 2, norm=norm, name="stem")
    return max_pool(x, 3, name="stem_pool")


def resnet_stage(
    x, name: str, num_blocks: int, width: int, *, bottlenecks=True, strides=2, dilation=1, norm: Norm = TORCH_NORM
):
    """One of the stages c2 … c5: `num_blocks` residual blocks, the first with the stride.

    The output has 4 * `width` channels with bottlenecks, `width` channels with basic blocks.
    """
    for index in range(num_blocks):
        step = strides if index == 0 else 1
        block = f"{name}_{index}"
        if bottlenecks:
            x = bottleneck(x, width, EXPANSION * width, step, dilation=dilation, norm=norm, name=block)
        else:
            x = basic_block(x, width, step, dilation=dilation, norm=norm, name=block)
    return x


def resnet(
    image,
    blocks: Sequence[int],
    widths: Sequence[int] = RESNET_WIDTHS,
    *,
    bottlenecks: bool = True,
    stem: int = 64,
    strides: Sequence[int] = (1, 2, 2, 2),
    dilations: Sequence[int] = (1, 1, 1, 1),
    norm: Norm = TORCH_NORM,
    gates: InstanceGates = ONE_INSTANCE,
) -> dict:
    """Returns the features {"c2": (B, H/4, W/4, C2), … "c5": (B, H/32, W/32, C5)}, for the default strides.

    `gates` modulate the input of their stages. From the first of these on, features are repeated per query.
    """
    if len(blocks) != len(STAGES) or len(widths) != len(STAGES):
        raise UserError(f"`blocks=` and `widths=` must have 4 entries, one per stage. Received: {blocks} and {widths}.")
    x = resnet_stem(image, stem, norm)
    features = {}
    for name, count, width, step, dilation in zip(STAGES, blocks, widths, strides, dilations, strict=True):
        [x] = gates([x], name)
        x = resnet_stage(x, name, count, width, bottlenecks=bottlenecks, strides=step, dilation=dilation, norm=norm)
        features[name] = x
    return features
