"""SimpleBaseline (arXiv:1804.06208), MIPNet on it (arXiv:2101.11223), and dilated ResNets, CPN's baselines."""

from collections.abc import Sequence

from kpzoo.errors import UserError
from kpzoo.models.blocks import HEAD_DTYPE, ResizeBilinear, deconv_bn_relu, heatmap_head, image_input, pyramid
from kpzoo.models.mimb import InstanceGates
from kpzoo.models.registry import Spec, register
from kpzoo.models.resnet import RESNET_BLOCKS, RESNET_WIDTHS, STAGES, resnet

DECONVS = (256, 256, 256)


def build_simplebaseline(
    image_hw: tuple[int, int],
    num_keypoints: int,
    normalization: str | None,
    *,
    blocks: Sequence[int],
    widths: Sequence[int] = RESNET_WIDTHS,
    bottlenecks: bool = True,
    stem: int = 64,
    deconvs: Sequence[int] = DECONVS,
    num_instances: int = 1,
    mimb_stages: Sequence[str] = ("c4", "c5"),
):
    """Returns the inputs, outputs and feature pyramid (the ResNet's stages) of a ResNet with three deconvolutions.

    Args:
        blocks: Number of residual blocks in each ResNet stage.
        widths: Width of each ResNet stage.
        bottlenecks: Whether the residual blocks are bottlenecks, else basic blocks.
        stem: Channels of the ResNet's first convolution.
        deconvs: Channels of the deconvolutions, coarse → fine.
        num_instances: N, number of persons predicted per box. More than 1 makes it a MIPNet.
        mimb_stages: Stages of a MIPNet, of c2 … c5, whose input is modulated by a MIMB.
    """
    gates = InstanceGates(num_instances, mimb_stages, STAGES)
    image, x = image_input(image_hw, normalization)
    features = resnet(x, blocks, widths, bottlenecks=bottlenecks, stem=stem, gates=gates)
    heatmaps = deconv_head(features["c5"], deconvs, num_keypoints)  # from (B * M, H/32, W/32, C5)
    outputs = gates.per_crop({"heatmaps": heatmaps})
    return gates.inputs(image), outputs, pyramid(image_hw, features.values())


def deconv_head(x, deconvs: Sequence[int], num_keypoints: int):
    """Three deconvolutions and a heatmap head: (B, H/32, W/32, C) → (B, H/4, W/4, K)."""
    if len(deconvs) != len(DECONVS):
        raise UserError(f"`deconvs=` must be the channels of 3 deconvolutions. Received: {list(deconvs)}.")
    for index, filters in enumerate(deconvs):
        x = deconv_bn_relu(x, filters, name=f"deconv{index}")
    return heatmap_head(x, num_keypoints)


def build_dilated(
    image_hw: tuple[int, int],
    num_keypoints: int,
    normalization: str | None,
    *,
    blocks: Sequence[int],
    widths: Sequence[int] = RESNET_WIDTHS,
    bottlenecks: bool = True,
    stem: int = 64,
    trunk_stride: int = 8,
):
    """Returns the inputs, outputs and feature pyramid of a ResNet with dilation instead of strides and a 1x1 head.

    Args:
        blocks: Number of residual blocks in each ResNet stage.
        widths: Width of each ResNet stage.
        bottlenecks: Whether the residual blocks are bottlenecks, else basic blocks.
        stem: Channels of the ResNet's first convolution.
        trunk_stride: Stride of the last feature: 32 is the plain ResNet, 16 dilates c5, 8 c4 and c5, 4 c3 to c5
            (Table 3 of CPN).
    """
    if trunk_stride not in (4, 8, 16, 32):
        raise UserError(f"`trunk_stride=` must be 4, 8, 16 or 32. Received: {trunk_stride}.")
    strides = [1, *(2 if 2**stage <= trunk_stride else 1 for stage in (3, 4, 5))]
    dilations = [max(1, 2**stage // trunk_stride) for stage in (2, 3, 4, 5)]
    image, x = image_input(image_hw, normalization)
    features = resnet(x, blocks, widths, bottlenecks=bottlenecks, stem=stem, strides=strides, dilations=dilations)
    x = heatmap_head(features["c5"], num_keypoints)  # at the trunk's stride
    resize = ResizeBilinear([side // 4 for side in image_hw], "half_pixel", dtype=HEAD_DTYPE, name="heatmaps")
    return {"image": image}, {"heatmaps": resize(x)}, pyramid(image_hw, features.values())


NANO = dict(blocks=(1, 2, 2, 1), widths=(48, 96, 160, 256), bottlenecks=False, stem=32)
TINY = dict(blocks=(1, 1, 1, 1), widths=(8, 8, 12, 16), bottlenecks=False, stem=8)
RESNETS = {f"res{depth}": dict(blocks=blocks) for depth, blocks in RESNET_BLOCKS.items()}
DECONV_SIZES = {
    **RESNETS,
    "nano": dict(**NANO, deconvs=(96, 96, 64)),  # about 0.2 GMACs at 128x96
    "tiny": dict(**TINY, deconvs=(8, 8, 8)),
}
DILATED_SIZES = {
    "res50": RESNETS["res50"],
    "nano": dict(blocks=(1, 1, 1, 1), widths=(32, 64, 96, 128), bottlenecks=False, stem=32),
    "tiny": TINY,
}


def _register(family: str, builder, sizes: dict, paper: str) -> None:
    for size, config in sizes.items():
        # The references' ResNets normalise BGR pixels with RGB statistics. Small sizes have no reference.
        normalization = "imagenet_bgr" if size in RESNETS and family != "dilated" else "imagenet_rgb"
        register(
            f"{family}_{size}",
            Spec(family, builder, config, codec="hrnet", normalization=normalization, paper=paper),
        )


_register("simplebaseline", build_simplebaseline, DECONV_SIZES, "arXiv:1804.06208")
MIPNET_SIZES = {size: dict(**DECONV_SIZES[size], num_instances=2) for size in (*RESNETS, "tiny")}
_register("mipnet", build_simplebaseline, MIPNET_SIZES, "arXiv:2101.11223")
_register("dilated", build_dilated, DILATED_SIZES, "arXiv:1711.07319")
