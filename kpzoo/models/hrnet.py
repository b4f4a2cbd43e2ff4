"""HRNet (arXiv:1902.09212) and MIPNet on it: parallel branches at strides 4, 8, 16 and 32 with repeated fusion."""

from collections.abc import Sequence

from keras import layers

from kpzoo.models.blocks import (
    UpsampleNearest,
    basic_block,
    bottleneck,
    conv_bn,
    conv_bn_relu,
    heatmap_head,
    image_input,
    pyramid,
    relu,
)
from kpzoo.models.mimb import ONE_INSTANCE, InstanceGates
from kpzoo.models.registry import Spec, register
from kpzoo.models.resnet import EXPANSION

MODULES = (1, 4, 3)  # exchange modules of stages 2, 3 and 4
STAGE_NAMES = ("stage1", "stage2", "stage3", "stage4")


def build_hrnet(
    image_hw: tuple[int, int],
    num_keypoints: int,
    normalization: str | None,
    *,
    width: int,
    stem: int = 64,
    stem_blocks: int = 4,
    modules: Sequence[int] = MODULES,
    blocks: int = 4,
    num_instances: int = 1,
    mimb_stages: Sequence[str] = ("stage3", "stage4"),
):
    """Returns the inputs, outputs and feature pyramid (the branches of stage 4) of an HRNet.

    Args:
        width: Channels of the finest branch; each coarser one has twice as many.
        stem: Channels of the first two convolutions.
        stem_blocks: Number of bottlenecks in stage 1, all at stride 4.
        modules: Number of exchange modules in stages 2, 3 and 4.
        blocks: Number of residual blocks per branch and module.
        num_instances: N, number of persons predicted per box. More than 1 makes it a MIPNet.
        mimb_stages: Stages of a MIPNet whose outputs are modulated, one MIMB per branch, after the transition to the
            next stage.
    """
    gates = InstanceGates(num_instances, mimb_stages, STAGE_NAMES)
    image, x = image_input(image_hw, normalization)
    branches = hrnet(x, width, stem, stem_blocks, modules, blocks, gates)
    heatmaps = heatmap_head(branches[0], num_keypoints)  # from (B * M, H/4, W/4, width)
    return gates.inputs(image), gates.per_crop({"heatmaps": heatmaps}), pyramid(image_hw, branches)


def hrnet(
    x,
    width: int,
    stem: int,
    stem_blocks: int,
    modules: Sequence[int],
    blocks: int,
    gates: InstanceGates = ONE_INSTANCE,
) -> list:
    """Returns the branches after stage 4, fine → coarse. Only the finest is fused in the last module."""
    x = conv_bn_relu(x, stem, 3, 2, name="stem1")
    x = conv_bn_relu(x, stem, 3, 2, name="stem2")
    for index in range(stem_blocks):
        x = bottleneck(x, stem, EXPANSION * stem, name=f"stage1_{index}")
    branches = [x]
    for stage, count in enumerate(modules, start=2):
        branches = transition(branches, stage, width)
        branches = gates(branches, f"stage{stage - 1}")
        for module in range(count):
            last = stage == 4 and module == count - 1
            branches = exchange_module(branches, f"stage{stage}_{module}", blocks, finest_only=last)
    return [*gates(branches[:1], "stage4"), *branches[1:]]


def transition(branches: Sequence, stage: int, width: int) -> list:
    """Adds a branch at the next coarser stride, computed from the coarsest one. Before stage 2, both are new."""
    name = f"transition{stage - 1}"
    kept = list(branches)
    if stage == 2:
        kept = [conv_bn_relu(branches[0], width, 3, name=f"{name}_0")]
    new = conv_bn_relu(branches[-1], width * 2 ** (stage - 1), 3, 2, name=f"{name}_{stage - 1}")
    return [*kept, new]


def exchange_module(branches: Sequence, name: str, blocks: int, finest_only: bool = False) -> list:
    """Residual blocks on each branch, then fusion of all branches into each.

    With `finest_only`, only the finest branch is fused; the others are the outputs of their residual blocks.
    """
    deep = []
    for branch, x in enumerate(branches):
        for index in range(blocks):
            x = basic_block(x, x.shape[-1], name=f"{name}_branch{branch}_{index}")
        deep.append(x)
    fused = 1 if finest_only else len(deep)
    return [*(fuse(deep, target, f"{name}_fuse{target}") for target in range(fused)), *deep[fused:]]


def fuse(branches: Sequence, target: int, name: str):
    """Resizes all branches to the size and width of the target, and returns the ReLU of their sum."""
    filters = branches[target].shape[-1]
    parts = []
    for source, x in enumerate(branches):
        part = f"{name}_{source}"
        if source > target:
            x = conv_bn(x, filters, 1, name=part)
            x = UpsampleNearest(2 ** (source - target), name=f"{part}_up")(x)
        for step in range(source, target - 1):
            x = conv_bn_relu(x, x.shape[-1], 3, 2, name=f"{part}_{step - source}")
        if source < target:
            x = conv_bn(x, filters, 3, 2, name=f"{part}_{target - source - 1}")
        parts.append(x)
    return relu(layers.Add(name=f"{name}_add")(parts), name=name)


HRNET_SIZES = {
    "w32": dict(width=32),
    "w48": dict(width=48),
    "nano": dict(width=16, stem=32, stem_blocks=2, modules=(1, 2, 2), blocks=2),  # about 0.2 GMACs at 128x96
    "tiny": dict(width=4, stem=8, stem_blocks=1, modules=(1, 1, 1), blocks=1),
}
for _size, _config in HRNET_SIZES.items():
    register(
        f"hrnet_{_size}",
        Spec("hrnet", build_hrnet, _config, codec="hrnet", normalization="imagenet_rgb", paper="arXiv:1902.09212"),
    )
    register(
        f"mipnet_hrnet_{_size}",
        Spec("mipnet", build_hrnet, {**_config, "num_instances": 2}, "hrnet", "imagenet_rgb", "arXiv:2101.11223"),
    )
