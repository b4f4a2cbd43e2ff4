"""CPN, the Cascaded Pyramid Network (arXiv:1711.07319): GlobalNet, a feature pyramid, followed by RefineNet."""

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
    pyramid,
)
from kpzoo.models.efficientnet_lite import TRUNKS
from kpzoo.models.mimb import InstanceGates
from kpzoo.models.registry import Spec, register
from kpzoo.models.resnet import RESNET_BLOCKS, RESNET_WIDTHS, STAGES, resnet


class Flavour(NamedTuple):
    """Differences between the two published implementations of CPN."""

    norm: Norm
    resize: str  # a key of `blocks.RESIZE_CONVENTIONS`
    merge_norm: bool  # 1x1 convolutions of the top-down path have batch normalisation, else a bias
    norm_at_output_size: bool  # heads are resized before batch normalisation, else after
    project: bool  # all shortcuts of RefineNet are projections
    finest_first: bool  # order of the levels in RefineNet's concatenation


FLAVOURS: Mapping[str, Flavour] = MappingProxyType(
    {
        # tf-cpn. It passes epsilon 1e-9, which fused batch normalisation of some TF 1 versions raised to 1.001e-5.
        "official": Flavour(Norm(epsilon=1e-9, momentum=0.99), "legacy", False, False, False, True),
        # GengDavid's pytorch-cpn, linked by the authors.
        "pytorch": Flavour(TORCH_NORM, "align_corners", True, True, True, False),
    }
)

# Bottlenecks of RefineNet per level, c2 … c5 (Table 4 of the paper); None is GlobalNet alone.
REFINE_BLOCKS: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(
    {"cascade": (0, 1, 2, 3), "bottleneck": (1, 1, 1, 1), "concat": (0, 0, 0, 0)}
)

# Initial gamma of the batch normalisation at the end of each head. Adam changes gamma by at most the learning rate per
# step, while CPN's labels have a peak of 255 and a standard deviation of 11 … 23. (Both references start at 1 and train
# for more than 100,000 steps.)
HEAD_SPREAD = 16.0

MIMB_PLACES = (*STAGES, "refine")
RESNET_DEFAULTS = {"blocks": None, "widths": RESNET_WIDTHS, "bottlenecks": True, "stem": 64}


def build_cpn(
    image_hw: tuple[int, int],
    num_keypoints: int,
    normalization: str | None,
    *,
    trunk: str = "resnet",
    blocks: Sequence[int] | None = None,
    widths: Sequence[int] = RESNET_WIDTHS,
    bottlenecks: bool = True,
    stem: int = 64,
    width: int = 256,
    flavour: str = "official",
    refine: str | None = "cascade",
    levels: Sequence[str] = STAGES,
    num_instances: int = 1,
    mimb_stages: Sequence[str] = ("c4", "c5", "refine"),
):
    """Returns the inputs, outputs and feature pyramid (GlobalNet's) of a CPN; with several instances, it has MIMBs.

    Args:
        trunk: "resnet", or a key of `efficientnet_lite.TRUNKS`. The next four options are for a ResNet only.
        blocks: Number of residual blocks in each ResNet stage.
        widths: Width of each ResNet stage.
        bottlenecks: Whether the residual blocks are bottlenecks, else basic blocks.
        stem: Channels of the ResNet's first convolution.
        width: Channels of both pyramids.
        flavour: The reference implementation to match exactly, a key of `FLAVOURS`.
        refine: The RefineNet, a key of `REFINE_BLOCKS`, or None for GlobalNet alone.
        levels: The pyramid levels that are inputs of RefineNet (Table 5 of the paper).
        num_instances: N, number of persons predicted per box. More than 1 makes it a MIPNet.
        mimb_stages: Stages of a MIPNet, at least one of c2 … c5, whose input is modulated by a MIMB. "refine" modulates
            the input of RefineNet's last bottleneck: without it the finest features reach the head unmodulated.
    """
    rule = checked_flavour(flavour)
    gates = InstanceGates(num_instances, mimb_stages, MIMB_PLACES)
    if gates.stages == ["refine"]:
        raise UserError(f"`mimb_stages=` of a CPN must name one of {STAGES}. Received: {list(mimb_stages)}.")
    image, x = image_input(image_hw, normalization)
    features = trunk_features(
        x, trunk, blocks, gates, widths=widths, bottlenecks=bottlenecks, stem=stem, norm=rule.norm
    )
    laterals = {}
    for name, x in features.items():
        x = lateral(x, name, width, rule)
        laterals[name] = gates.per_query(x, f"global_{name}_repeat") if gates.needs_repeat(name) else x
    features = global_pyramid(laterals, rule)
    outputs = heads(features, num_keypoints, rule, refine, levels, gates)
    return gates.inputs(image), gates.per_crop(outputs), pyramid(image_hw, features.values())


def trunk_features(x, trunk: str, blocks: Sequence[int] | None, gates: InstanceGates, **resnet_options) -> dict:
    """Returns the features c2 … c5 of the trunk for a batch of normalized images."""
    if trunk == "resnet":
        if blocks is None:
            raise UserError("`blocks=` must be given for `trunk='resnet'`. Received: None.")
        return resnet(x, blocks, gates=gates, **resnet_options)
    if trunk not in TRUNKS:
        raise unknown("trunk", trunk, ["resnet", *TRUNKS])
    given = {"blocks": blocks, **resnet_options}
    if wrong := [f"{name}={given[name]!r}" for name, default in RESNET_DEFAULTS.items() if given[name] != default]:
        raise UserError(f"Trunk {trunk!r} has none of the options of a ResNet. Received: {', '.join(wrong)}.")
    return TRUNKS[trunk](x, gates=gates)


def heads(
    features: Mapping,
    num_keypoints: int,
    rule: Flavour,
    refine: str | None,
    levels: Sequence[str],
    gates: InstanceGates,
) -> dict:
    """Returns the heatmaps of RefineNet, and those of GlobalNet's levels, coarse → fine."""
    coarse = [global_head(features[name], name, num_keypoints, rule) for name in reversed(STAGES)]
    refined = coarse[-1]  # (B, H/4, W/4, K), as all of them
    if refine is not None:
        x = refine_features(features, refine, levels, rule)
        [x] = gates([x], "refine")
        refined = refine_head(x, features["c2"].shape[-1], num_keypoints, rule)
    return {"heatmaps": refined, "global_heatmaps": StackMaps(name="global_heatmaps")(coarse)}


def lateral(x, name: str, width: int, rule: Flavour):
    """Projects a feature of the backbone to the width of the pyramid."""
    return conv_bn_relu(x, width, 1, norm=rule.norm, name=f"global_{name}_lateral")


def global_pyramid(laterals: Mapping, rule: Flavour) -> dict:
    """GlobalNet's top-down path: levels c5 … c2, each the sum of the lateral and the coarser level, without ReLU."""
    features = {"c5": laterals["c5"]}
    width = laterals["c5"].shape[-1]
    for coarser, name in zip(STAGES[:0:-1], STAGES[-2::-1], strict=True):
        size_hw = laterals[name].shape[1:3]
        up = ResizeBilinear(size_hw, rule.resize, name=f"global_{name}_up")(features[coarser])
        merge = f"global_{name}_merge"
        if rule.merge_norm:
            up = conv_bn(up, width, 1, norm=rule.norm, name=merge)
        else:
            up = conv(up, width, 1, use_bias=True, name=merge)
        features[name] = layers.Add(name=f"global_{name}_add")([laterals[name], up])
    return features


def global_head(x, name: str, num_keypoints: int, rule: Flavour):
    """Returns the heatmaps of a level, resized to (B, H/4, W/4, K)."""
    size_hw = tuple(side * 2 ** STAGES.index(name) for side in x.shape[1:3])
    head = f"global_{name}_head"
    x = conv_bn_relu(x, x.shape[-1], 1, norm=rule.norm, name=f"global_{name}_predict")
    x = conv(x, num_keypoints, 3, dtype=HEAD_DTYPE, name=head)
    resize = ResizeBilinear(size_hw, rule.resize, dtype=HEAD_DTYPE, name=f"{head}_up")
    # Both orders are equivalent in inference, but their batch statistics in training differ.
    if rule.norm_at_output_size:
        return batch_norm(resize(x), rule.norm, dtype=HEAD_DTYPE, name=head, spread=HEAD_SPREAD)
    return resize(batch_norm(x, rule.norm, dtype=HEAD_DTYPE, name=head, spread=HEAD_SPREAD))


def refine_features(features: Mapping, refine: str, levels: Sequence[str], rule: Flavour):
    """RefineNet up to the concatenation: bottlenecks on each level, resized to (B, H/4, W/4, width * L)."""
    if refine not in REFINE_BLOCKS:
        raise unknown("refine", refine, REFINE_BLOCKS, "None builds GlobalNet alone.")
    size_hw, width = features["c2"].shape[1:3], features["c2"].shape[-1]
    parts = []
    for name in checked_levels(levels):
        x = features[name]
        for index in range(REFINE_BLOCKS[refine][STAGES.index(name)]):
            block = f"refine_{name}_{index}"
            x = bottleneck(x, width // 2, width, project=rule.project, norm=rule.norm, name=block)
        if name != "c2":
            x = ResizeBilinear(size_hw, rule.resize, name=f"refine_{name}_up")(x)
        parts.append(x)
    parts = parts if rule.finest_first else parts[::-1]
    return layers.Concatenate(name="refine_concat")(parts) if len(parts) > 1 else parts[0]


def refine_head(x, width: int, num_keypoints: int, rule: Flavour):
    """RefineNet's last bottleneck and its heatmaps, (B, H/4, W/4, K)."""
    x = bottleneck(x, width // 2, width, project=rule.project, norm=rule.norm, name="refine_final")
    x = conv(x, num_keypoints, 3, dtype=HEAD_DTYPE, name="refine_head")
    return batch_norm(x, rule.norm, dtype=HEAD_DTYPE, name="refine_head", spread=HEAD_SPREAD)


def checked_flavour(flavour: str) -> Flavour:
    if flavour not in FLAVOURS:
        raise unknown("flavour of CPN", flavour, FLAVOURS)
    return FLAVOURS[flavour]


def checked_levels(levels: Sequence[str]) -> list[str]:
    """Returns the levels ordered fine → coarse, or raises an error."""
    for name in levels:
        if name not in STAGES:
            raise unknown("pyramid level", name, STAGES)
    if not levels or len(set(levels)) != len(levels):
        raise UserError(f"`levels=` must name one to four distinct levels of {STAGES}. Received: {list(levels)}.")
    return sorted(levels, key=STAGES.index)


RESNETS = {f"res{depth}": dict(blocks=blocks) for depth, blocks in RESNET_BLOCKS.items()}
SMALL = {
    # About 0.2 GMACs at 128x96, a third of them in the two pyramids. Coarse stages are wide.
    "nano": dict(
        blocks=(1, 2, 2, 1), widths=(48, 96, 160, 256), bottlenecks=False, stem=32, width=64, flavour="pytorch"
    ),
    "tiny": dict(blocks=(1, 1, 1, 1), widths=(8, 8, 12, 16), bottlenecks=False, stem=8, width=8),
}
# EfficientNet-Lite0 with pyramids of few channels: starts from ImageNet, for CPUs.
LITE = {
    "lite0": dict(trunk="lite0", width=96, flavour="pytorch"),
    "lite_tiny": dict(trunk="lite_tiny", width=8, flavour="pytorch"),
}
CODECS = {flavour: f"cpn_{flavour}" for flavour in FLAVOURS}
LITE_CODECS = {**CODECS, "pytorch": "cpn_exact"}
PIXELS = {"official": "cpn_bgr", "pytorch": "cpn_rgb"}


def _register(family: str, paper: str, models: Mapping[str, Mapping], **shared) -> None:
    for name, config in models.items():
        pixels = PIXELS if config in RESNETS.values() else "lite_rgb" if config in LITE.values() else "cpn_rgb"
        codecs = LITE_CODECS if config in LITE.values() else CODECS
        register(name, Spec(family, build_cpn, {**config, **shared}, codecs, pixels, paper))


_register("cpn", "arXiv:1711.07319", {f"cpn_{size}": row for size, row in {**RESNETS, **SMALL, **LITE}.items()})
_register(
    "mipnet",
    "arXiv:2101.11223",
    # The nano size of MIPNet is a CPN: in short trainings on small images it learns several times faster than the
    # nano ResNet with deconvolutions.
    {
        "mipnet_nano": SMALL["nano"],
        "mipnet_cpn_tiny": SMALL["tiny"],
        "mipnet_cpn_res50": RESNETS["res50"],
        **{f"mipnet_{size}": row for size, row in LITE.items()},
    },
    num_instances=2,
)
