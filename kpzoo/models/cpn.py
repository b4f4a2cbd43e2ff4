"""CPN, the Cascaded Pyramid Network (arXiv:1711.07319): GlobalNet finds the easy joints, RefineNet the hidden ones."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from keras import layers

from kpzoo.errors import UserError, unknown
from kpzoo.models.blocks import (
    HEAD_DTYPE,
    TORCH_NORM,
    Norm,
    ResizeBilinear,
    StackMaps,
    batch_norm,
    bottleneck,
    conv,
    conv_bn,
    conv_bn_relu,
    image_input,
)
from kpzoo.models.resnet import RESNET_BLOCKS, RESNET_WIDTHS, STAGES, resnet
from kpzoo.registry import Spec, register


class Flavour(NamedTuple):
    """Where the two published CPNs differ."""

    norm: Norm
    resize: str  # a key of `blocks.RESIZE_CONVENTIONS`
    merge_norm: bool  # the 1x1 of the top-down path ends in a batch normalisation, else it has a bias
    norm_at_output_size: bool  # heads are normalised after they are resized
    project: bool  # shortcuts of RefineNet are always projected
    finest_first: bool  # order of the levels in RefineNet's concatenation


FLAVOURS: Mapping[str, Flavour] = MappingProxyType(
    {
        # tf-cpn. It writes epsilon 1e-9; TF 1's fused operation raised that to 1.001e-5 for a while, unseen.
        "official": Flavour(Norm(epsilon=1e-9, momentum=0.99), "legacy", False, False, False, True),
        # GengDavid's pytorch-cpn, which the authors link.
        "pytorch": Flavour(TORCH_NORM, "align_corners", True, True, True, False),
    }
)

# Bottlenecks of RefineNet per level, c2 … c5 (Table 4 of the paper); None is GlobalNet alone.
REFINE_BLOCKS: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(
    {"cascade": (0, 1, 2, 3), "bottleneck": (1, 1, 1, 1), "concat": (0, 0, 0, 0)}
)


def build_cpn(
    image_hw: tuple[int, int],
    num_keypoints: int,
    normalization: str | None,
    *,
    blocks: Sequence[int],
    widths: Sequence[int] = RESNET_WIDTHS,
    bottlenecks: bool = True,
    stem: int = 64,
    width: int = 256,
    flavour: str = "official",
    refine: str | None = "cascade",
    levels: Sequence[str] = STAGES,
):
    """Returns the inputs and outputs of a CPN.

    Args:
        blocks: Residual blocks of the ResNet's stages.
        widths: Widths of those stages.
        bottlenecks: Whether the ResNet is made of bottlenecks, else of basic blocks.
        stem: Channels of the ResNet's first convolution.
        width: Channels of both pyramids.
        flavour: The reference to follow bit by bit, a key of `FLAVOURS`.
        refine: The RefineNet, a key of `REFINE_BLOCKS`, or None for GlobalNet alone.
        levels: The pyramid levels that RefineNet sees (Table 5 of the paper).
    """
    rule = checked_flavour(flavour)
    image, x = image_input(image_hw, normalization)
    features = resnet(x, blocks, widths, bottlenecks=bottlenecks, stem=stem, norm=rule.norm)
    pyramid = global_pyramid({name: lateral(x, name, width, rule) for name, x in features.items()}, width, rule)
    coarse = [global_head(pyramid[name], name, width, num_keypoints, rule) for name in reversed(STAGES)]
    refined = coarse[-1]  # (B, H/4, W/4, K), as all of them
    if refine is not None:
        refined = refine_net(pyramid, refine, levels, width, num_keypoints, rule)
    return {"image": image}, {"heatmaps": refined, "global_heatmaps": StackMaps(name="global_heatmaps")(coarse)}


def lateral(x, name: str, width: int, rule: Flavour):
    """Brings a feature of the trunk to the pyramid's width."""
    return conv_bn_relu(x, width, 1, norm=rule.norm, name=f"global_{name}_lateral")


def global_pyramid(laterals: Mapping, width: int, rule: Flavour) -> dict:
    """GlobalNet's top-down path: returns the levels c5 … c2, each the lateral plus the coarser level, no ReLU."""
    pyramid = {"c5": laterals["c5"]}
    for coarser, name in zip(STAGES[:0:-1], STAGES[-2::-1], strict=True):
        size_hw = laterals[name].shape[1:3]
        up = ResizeBilinear(size_hw, rule.resize, name=f"global_{name}_up")(pyramid[coarser])
        merge = f"global_{name}_merge"
        if rule.merge_norm:
            up = conv_bn(up, width, 1, norm=rule.norm, name=merge)
        else:
            up = conv(up, width, 1, use_bias=True, name=merge)
        pyramid[name] = layers.Add(name=f"global_{name}_add")([laterals[name], up])
    return pyramid


def global_head(x, name: str, width: int, num_keypoints: int, rule: Flavour):
    """Returns a level's heatmaps at the output size, four times that of the finest level's stride."""
    size_hw = tuple(side * 2 ** STAGES.index(name) for side in x.shape[1:3])
    head = f"global_{name}_head"
    x = conv_bn_relu(x, width, 1, norm=rule.norm, name=f"global_{name}_predict")
    x = conv(x, num_keypoints, 3, dtype=HEAD_DTYPE, name=head)
    resize = ResizeBilinear(size_hw, rule.resize, dtype=HEAD_DTYPE, name=f"{head}_up")
    # In inference both orders compute the same function; statistics in training differ.
    if rule.norm_at_output_size:
        return batch_norm(resize(x), rule.norm, dtype=HEAD_DTYPE, name=head)
    return resize(batch_norm(x, rule.norm, dtype=HEAD_DTYPE, name=head))


def refine_net(pyramid: Mapping, refine: str, levels: Sequence[str], width: int, num_keypoints: int, rule: Flavour):
    """Returns the refined heatmaps (B, H/4, W/4, K): bottlenecks per level, resize, concatenate, bottleneck, head."""
    if refine not in REFINE_BLOCKS:
        raise unknown("refine", refine, REFINE_BLOCKS, "None builds GlobalNet alone.")
    size_hw = pyramid["c2"].shape[1:3]
    parts = []
    for name in checked_levels(levels):
        x = pyramid[name]
        for index in range(REFINE_BLOCKS[refine][STAGES.index(name)]):
            block = f"refine_{name}_{index}"
            x = bottleneck(x, width // 2, width, project=rule.project, norm=rule.norm, name=block)
        if name != "c2":
            x = ResizeBilinear(size_hw, rule.resize, name=f"refine_{name}_up")(x)
        parts.append(x)
    parts = parts if rule.finest_first else parts[::-1]
    x = layers.Concatenate(name="refine_concat")(parts) if len(parts) > 1 else parts[0]
    x = bottleneck(x, width // 2, width, project=rule.project, norm=rule.norm, name="refine_final")
    x = conv(x, num_keypoints, 3, dtype=HEAD_DTYPE, name="refine_head")
    return batch_norm(x, rule.norm, dtype=HEAD_DTYPE, name="refine_head")


def checked_flavour(flavour: str) -> Flavour:
    if flavour not in FLAVOURS:
        raise unknown("flavour of CPN", flavour, FLAVOURS)
    return FLAVOURS[flavour]


def checked_levels(levels: Sequence[str]) -> list[str]:
    """Returns the levels fine → coarse."""
    for name in levels:
        if name not in STAGES:
            raise unknown("pyramid level", name, STAGES)
    if not levels or len(set(levels)) != len(levels):
        raise UserError(f"`levels` must name one to four distinct levels of {STAGES}. Received: {list(levels)}.")
    return sorted(levels, key=STAGES.index)


# Convolutions are drawn by He's rule on the fan-out; every head ends in a batch normalisation, so its scale is free.
CPN = {
    "cpn_res50": dict(blocks=RESNET_BLOCKS[50]),
    "cpn_res101": dict(blocks=RESNET_BLOCKS[101]),
    "cpn_res152": dict(blocks=RESNET_BLOCKS[152]),
    # About 0.2 GMACs at 128x96. Channels stay wide where maps are small; both pyramids keep a third of the work.
    "cpn_nano": dict(
        blocks=(1, 2, 2, 1), widths=(48, 96, 160, 256), bottlenecks=False, stem=32, width=80, flavour="pytorch"
    ),
    "cpn_tiny": dict(blocks=(1, 1, 1, 1), widths=(8, 8, 12, 16), bottlenecks=False, stem=8, width=8),
}
CODECS = {flavour: f"cpn_{flavour}" for flavour in FLAVOURS}
PIXELS = {"official": "cpn_bgr", "pytorch": "cpn_rgb"}

for _name, _config in CPN.items():
    register(
        _name,
        Spec(
            family="cpn",
            builder=build_cpn,
            config=_config,
            codec=CODECS,
            normalization=PIXELS if _config["blocks"] in RESNET_BLOCKS.values() else "cpn_rgb",
            paper="arXiv:1711.07319",
        ),
    )
