"""Stacked hourglasses: Newell's (arXiv:1603.06937), and CornerNet's variant (arXiv:1808.01244)."""

from collections.abc import Sequence

from keras import layers

from kpzoo.errors import UserError
from kpzoo.models.blocks import (
    StackMaps,
    UpsampleNearest,
    basic_block,
    batch_norm,
    conv,
    conv_bn,
    conv_bn_relu,
    heatmap_head,
    image_input,
    max_pool,
    pyramid,
    relu,
)
from kpzoo.models.registry import Spec, register

CORNER_WIDTHS = (256, 256, 384, 384, 384, 512)
CORNER_BLOCKS = (2, 2, 2, 2, 2, 4)


def build_hourglass(
    image_hw: tuple[int, int],
    num_keypoints: int,
    normalization: str | None,
    *,
    num_stacks: int,
    width: int = 256,
    depth: int = 4,
):
    """Returns the inputs, outputs and feature pyramid (the last hourglass's) of Newell's stacked hourglass.

    It has one residual block per place.

    Args:
        num_stacks: Number of hourglasses. Each predicts heatmaps; those of the last are the final ones.
        width: Channels inside the hourglasses.
        depth: Number of times an hourglass halves its input.
    """
    _check(image_hw, depth)
    image, x = image_input(image_hw, normalization)
    x = relu(batch_norm(conv(x, width // 4, 7, 2, use_bias=True, name="stem"), name="stem"), name="stem")
    x = pre_residual(x, width // 2, name="stem_res1")
    x = max_pool(x, 2, name="stem_pool")
    x = pre_residual(x, width, name="stem_res2")
    x = pre_residual(x, width, name="stem_res3")  # (B, H/4, W/4, width)
    maps = []
    for stack in range(num_stacks):
        name = f"stack{stack}"
        y, *coarser = hourglass(x, depth, f"{name}_hg")
        y = pre_residual(y, width, name=f"{name}_res")
        y = relu(batch_norm(conv(y, width, 1, use_bias=True, name=f"{name}_fc"), name=f"{name}_fc"), name=f"{name}_fc")
        maps.append(heatmap_head(y, num_keypoints, name=f"{name}_score"))
        if stack < num_stacks - 1:
            back = conv(y, width, 1, use_bias=True, name=f"{name}_fc_back")
            score = conv(maps[-1], width, 1, use_bias=True, name=f"{name}_score_back")
            x = layers.Add(name=f"{name}_add")([x, back, score])
    return {"image": image}, stacked(maps), pyramid(image_hw, [y, *coarser])


def pre_residual(x, filters: int, *, name):
    """Pre-activation bottleneck. The shortcut takes the input before normalisation."""
    shortcut = x
    if x.shape[-1] != filters:
        shortcut = conv(x, filters, 1, use_bias=True, name=f"{name}_shortcut")
    for part, width, size in (("reduce", filters // 2, 1), ("spatial", filters // 2, 3), ("expand", filters, 1)):
        step = f"{name}_{part}"
        x = conv(relu(batch_norm(x, name=step), name=step), width, size, use_bias=True, name=step)
    return layers.Add(name=f"{name}_add")([x, shortcut])


def hourglass(x, depth: int, name: str) -> list:
    """Pools the input `depth` times, then upsamples and adds skip connections.

    Returns `depth` + 1 features, fine → coarse. In layer names, level 0 is the innermost.
    """
    level, filters = f"{name}{depth - 1}", x.shape[-1]
    skip = pre_residual(x, filters, name=f"{level}_skip")
    low = pre_residual(max_pool(x, 2, name=f"{level}_pool"), filters, name=f"{level}_down")
    inner = hourglass(low, depth - 1, name) if depth > 1 else [pre_residual(low, filters, name=f"{level}_inner")]
    low = pre_residual(inner[0], filters, name=f"{level}_up")
    return [layers.Add(name=f"{level}_add")([skip, UpsampleNearest(2, name=f"{level}_nearest")(low)]), *inner]


def build_corner_hourglass(
    image_hw: tuple[int, int],
    num_keypoints: int,
    normalization: str | None,
    *,
    num_stacks: int,
    widths: Sequence[int] = CORNER_WIDTHS,
    blocks: Sequence[int] = CORNER_BLOCKS,
):
    """Returns the inputs, outputs and feature pyramid of a stacked hourglass in CornerNet's style, as in mmpose.

    It downsamples with strided residual blocks instead of pooling, and its blocks are post-activation.

    Args:
        num_stacks: Number of hourglasses. Each predicts heatmaps; those of the last are the final ones.
        widths: Channels of each level, outermost first. An hourglass halves its input `len(widths) - 1` times.
        blocks: Number of residual blocks per place, for each level.
    """
    if len(widths) != len(blocks) or len(widths) < 2:
        raise UserError(
            f"`widths=` and `blocks=` must have one entry per level, at least two. "
            f"Received: {list(widths)}, {list(blocks)}."
        )
    _check(image_hw, len(widths) - 1)
    image, x = image_input(image_hw, normalization)
    width = widths[0]
    x = conv_bn_relu(x, width // 2, 7, 2, name="entry")
    x = basic_block(x, width, 2, name="entry_0")  # (B, H/4, W/4, width)
    maps = []
    for stack in range(num_stacks):
        name = f"stack{stack}"
        y, *coarser = corner_hourglass(x, widths, blocks, f"{name}_hg0")
        y = conv_bn_relu(y, width, 3, name=f"{name}_out")
        maps.append(heatmap_head(y, num_keypoints, name=f"{name}_score"))
        if stack < num_stacks - 1:
            merged = layers.Add(name=f"{name}_add")(
                [conv_bn(x, width, 1, name=f"{name}_keep"), conv_bn(y, width, 1, name=f"{name}_remap")]
            )
            x = basic_block(relu(merged, name=f"{name}_merge"), width, name=f"{name}_inter_0")
    return {"image": image}, stacked(maps), pyramid(image_hw, [y, *coarser])


def corner_hourglass(x, widths: Sequence[int], blocks: Sequence[int], name: str) -> list:
    """One hourglass: returns a feature per level, fine → coarse. `name` ends in its level, 0 is the outermost."""
    (width, inner, *_), (count, inner_count, *_) = widths, blocks
    skip = basic_blocks(x, [width] * count, name=f"{name}_skip")
    low = basic_blocks(x, [inner] * count, strides=2, name=f"{name}_down")
    if len(widths) > 2:
        stem, level = name[:-1], int(name[-1])
        coarser = corner_hourglass(low, widths[1:], blocks[1:], f"{stem}{level + 1}")
    else:
        coarser = [basic_blocks(low, [inner] * inner_count, name=f"{name}_inner")]
    low = basic_blocks(coarser[0], [inner] * (count - 1) + [width], name=f"{name}_up")  # the last one changes the width
    return [layers.Add(name=f"{name}_add")([skip, UpsampleNearest(2, name=f"{name}_nearest")(low)]), *coarser]


def basic_blocks(x, widths: Sequence[int], strides: int = 1, *, name):
    for index, width in enumerate(widths):
        x = basic_block(x, width, strides if index == 0 else 1, name=f"{name}_{index}")
    return x


def stacked(maps: Sequence) -> dict:
    """Returns the outputs of a model with heatmaps of each stack."""
    if len(maps) == 1:
        return {"heatmaps": maps[0]}
    return {"heatmaps": maps[-1], "global_heatmaps": StackMaps(name="global_heatmaps")(maps[:-1])}


def _check(image_hw: tuple[int, int], depth: int) -> None:
    if depth < 1 or any(side % _multiple(depth) for side in image_hw):
        raise UserError(
            f"`image_hw=` of an hourglass of depth {depth} must be multiples of {_multiple(depth)}. "
            f"Received: {image_hw}."
        )


def _multiple(depth: int) -> int:
    return 4 * 2**depth


HOURGLASS = {
    "hourglass_1": dict(num_stacks=1),
    "hourglass_2": dict(num_stacks=2),
    "hourglass_8": dict(num_stacks=8),
    "hourglass_nano": dict(num_stacks=1, width=112, depth=3),  # about 0.2 GMACs at 128x96
    "hourglass_tiny": dict(num_stacks=2, width=16, depth=1),
}
for _name, _config in HOURGLASS.items():
    register(
        _name,
        Spec(
            family="hourglass",
            builder=build_hourglass,
            config=_config,
            codec="hrnet",
            normalization="unit_rgb",
            paper="arXiv:1603.06937",
            multiple=_multiple(max(3, _config.get("depth", 4))),
        ),
    )

CORNER_HOURGLASS = {
    "hourglass_corner_1": dict(num_stacks=1),  # mmpose's hourglass52
    "hourglass_corner_tiny": dict(num_stacks=2, widths=(8, 8, 12), blocks=(1, 1, 1)),
}
for _name, _config in CORNER_HOURGLASS.items():
    register(
        _name,
        Spec(
            family="hourglass",
            builder=build_corner_hourglass,
            config=_config,
            codec="hrnet",
            normalization="imagenet_rgb",
            paper="arXiv:1808.01244",
            multiple=_multiple(max(3, len(_config.get("widths", CORNER_WIDTHS)) - 1)),
            image_hw=(256, 256),
        ),
    )
