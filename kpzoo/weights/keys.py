"""Names of kpzoo's variables in published checkpoints.

One function per source maps the path of a layer, such as "c2_0_reduce_bn", to the name of the same module in the
checkpoint, such as "layer1.0.bn1", or to None if the checkpoint has no such module.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

TORCH_LEAVES: Mapping[str, str] = MappingProxyType(
    {
        "kernel": "weight",
        "bias": "bias",
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
)
SLIM_LEAVES: Mapping[str, str] = MappingProxyType(
    {
        "kernel": "weights",
        "bias": "biases",
        **{leaf: f"BatchNorm/{leaf}" for leaf in ("gamma", "beta", "moving_mean", "moving_variance")},
    }
)

# Numbers of the convolutions of residual blocks, the same in all references.
_BLOCK_PARTS = {"reduce": 1, "spatial": 2, "expand": 3, "first": 1, "second": 2}
_MIMB_PARTS = {
    "image_squeeze": "fc.0",
    "image_excite": "fc.2",
    "instance_squeeze": "fc_lambda.0",
    "instance_bn": "fc_lambda.1",
    "instance_excite": "fc_lambda.3",
}
_PART = rf"({'|'.join(_BLOCK_PARTS)}|shortcut)_(conv|bn)"


def torch_key(path: str, module_of: Callable[[str], str | None]) -> str | None:
    """Returns the PyTorch key of a variable, given its path, such as "c2_0_reduce_bn/gamma"."""
    module, _, leaf = path.rpartition("/")
    name = module_of(module)
    return name and f"{name}.{TORCH_LEAVES[leaf]}"


def slim_key(path: str, module_of: Callable[[str], str | None]) -> str | None:
    """Returns the TF-slim name of a variable, given its path."""
    module, _, leaf = path.rpartition("/")
    name = module_of(module)
    return name and f"{name}/{SLIM_LEAVES[leaf]}"


def _index(op: str) -> int:
    """Index of a convolution or its batch normalisation in a PyTorch `Sequential`."""
    return 0 if op == "conv" else 1


def _torch_block(part: str, op: str) -> str:
    if part == "shortcut":
        return f"downsample.{_index(op)}"
    return f"{op}{_BLOCK_PARTS[part]}"


def resnet_module(module: str) -> str | None:
    """torchvision's ResNets, and backbones with the same names."""
    if match := re.fullmatch(r"stem_(conv|bn)", module):
        return f"{match[1]}1"
    if match := re.fullmatch(rf"c(\d)_(\d+)_{_PART}", module):
        stage, index, part, op = match.groups()
        return f"layer{int(stage) - 1}.{index}.{_torch_block(part, op)}"
    return None


_LITE_PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def efficientnet_module(module: str) -> str | None:
    """The PyTorch port of EfficientNet-Lite."""
    if match := re.fullmatch(r"stem_(conv|bn)", module):
        return {"conv": "_conv_stem", "bn": "_bn0"}[match[1]]
    if match := re.fullmatch(rf"block(\d+)_({'|'.join(_LITE_PARTS)})_(conv|bn)", module):
        index, part, op = match.groups()
        return f"_blocks.{index}.{_LITE_PARTS[part][op == 'bn']}"
    return None


def pytorch_cpn_module(module: str) -> str | None:
    """GengDavid's pytorch-cpn. Its levels are numbered from the coarsest, c5 = 0."""
    if (name := resnet_module(module)) is not None:
        return f"resnet.{name}"
    if match := re.fullmatch(r"global_c(\d)_(lateral|merge|predict|head)_(conv|bn)", module):
        level, part, op = 5 - int(match[1]), match[2], match[3]
        if part == "merge":  # belongs to the coarser level there, after its upsampling
            return f"global_net.upsamples.{level - 1}.{1 if op == 'conv' else 2}"
        name = "laterals" if part == "lateral" else "predict"
        conv_index, bn_index = (3, 5) if part == "head" else (0, 1)
        return f"global_net.{name}.{level}.{conv_index if op == 'conv' else bn_index}"
    if match := re.fullmatch(rf"refine_c(\d)_(\d)_{_PART}", module):
        level, index, part, op = match.groups()
        return f"refine_net.cascade.{5 - int(level)}.{index}.{_torch_block(part, op)}"
    if match := re.fullmatch(rf"refine_final_{_PART}", module):
        return f"refine_net.final_predict.0.{_torch_block(*match.groups())}"
    if match := re.fullmatch(r"refine_head_(conv|bn)", module):
        return f"refine_net.final_predict.{1 if match[1] == 'conv' else 2}"
    return None


def hrnet_module(module: str) -> str | None:
    """HRNet's repository: HRNet and SimpleBaseline."""
    if (name := resnet_module(module)) is not None:
        return name
    if module == "head_conv":
        return "final_layer"
    if match := re.fullmatch(r"deconv(\d)_(conv|bn)", module):
        return f"deconv_layers.{3 * int(match[1]) + (match[2] == 'bn')}"
    if match := re.fullmatch(r"stem([12])_(conv|bn)", module):
        return f"{match[2]}{match[1]}"
    if match := re.fullmatch(rf"stage1_(\d+)_{_PART}", module):
        return f"layer1.{match[1]}.{_torch_block(match[2], match[3])}"
    if match := re.fullmatch(r"transition(\d)_(\d)_(conv|bn)", module):
        stage, branch, op = match.groups()
        nested = "" if branch == "0" else ".0"  # a new branch is a `Sequential` of steps there
        return f"transition{stage}.{branch}{nested}.{_index(op)}"
    if match := re.fullmatch(rf"stage(\d)_(\d)_branch(\d)_(\d)_{_PART}", module):
        stage, unit, branch, block, part, op = match.groups()
        return f"stage{stage}.{unit}.branches.{branch}.{block}.{_torch_block(part, op)}"
    if match := re.fullmatch(r"stage(\d)_(\d)_fuse(\d)_(\d(?:_\d)?)_(conv|bn)", module):
        stage, unit, target, source, op = match.groups()
        return f"stage{stage}.{unit}.fuse_layers.{target}.{source.replace('_', '.')}.{_index(op)}"
    return None


def mipnet_module(module: str) -> str | None:
    """MIPNet's repository with two instances: HRNet's names, and `layerN_se` or `stageN_se` for MIMBs."""
    if match := re.fullmatch(r"(c|stage)(\d)_mimb_(\d)/(\w+)", module):
        kind, stage, branch, part = match.groups()
        place = f"layer{int(stage) - 1}" if kind == "c" else f"stage{stage}"
        return f"{place}_se.se_layers.{branch}.{_MIMB_PARTS[part]}"
    return hrnet_module(module)


def mmpose_module(module: str) -> str | None:
    """mmpose 1.x: top-down heatmap models with ResNet and HRNet trunks, and its hourglass."""
    name = hrnet_module(module)
    if name is not None:
        return f"head.{name}" if name.startswith(("deconv_layers", "final_layer")) else f"backbone.{name}"
    if match := re.fullmatch(r"entry_(conv|bn)", module):
        return f"backbone.stem.0.{match[1]}"
    if match := re.fullmatch(rf"entry_0_{_PART}", module):
        return f"backbone.stem.1.0.{_torch_block(*match.groups())}"
    if match := re.fullmatch(rf"stack(\d)_hg(\d)_(skip|down|inner|up)_(\d)_{_PART}", module):
        stack, level, place, index, part, op = match.groups()
        inside = "low2." * int(level) + {"skip": "up1", "down": "low1", "inner": "low2", "up": "low3"}[place]
        return f"backbone.hourglass_modules.{stack}.{inside}.{index}.{_torch_block(part, op)}"
    if match := re.fullmatch(r"stack(\d)_(out|keep|remap)_(conv|bn)", module):
        stack, place, op = match.groups()
        return f"backbone.{ {'out': 'out_convs', 'keep': 'conv1x1s', 'remap': 'remap_convs'}[place] }.{stack}.{op}"
    if match := re.fullmatch(rf"stack(\d)_inter_0_{_PART}", module):
        return f"backbone.inters.{match[1]}.{_torch_block(match[2], match[3])}"
    if match := re.fullmatch(r"stack(\d)_score_conv", module):
        return f"head.multi_final_layers.{match[1]}"
    return None


def hourglass_module(module: str) -> str | None:
    """bearpaw's pytorch-pose: Newell's hourglass."""
    if match := re.fullmatch(r"stem_(conv|bn)", module):
        return f"{match[1]}1"
    if match := re.fullmatch(rf"stem_res(\d)_{_PART}", module):
        return f"layer{match[1]}.0.{_torch_block(match[2], match[3])}"
    if match := re.fullmatch(rf"stack(\d)_hg(\d)_(skip|down|up|inner)_{_PART}", module):
        stack, level, place, part, op = match.groups()
        index = {"skip": 0, "down": 1, "up": 2, "inner": 3}[place]
        return f"hg.{stack}.hg.{level}.{index}.0.{_torch_block(part, op)}"
    if match := re.fullmatch(rf"stack(\d)_res_{_PART}", module):
        return f"res.{match[1]}.0.{_torch_block(match[2], match[3])}"
    if match := re.fullmatch(r"stack(\d)_fc_(conv|bn)", module):
        return f"fc.{match[1]}.{_index(match[2])}"
    if match := re.fullmatch(r"stack(\d)_(score|fc)(_back)?_conv", module):
        return f"{match[2]}{'_' if match[3] else ''}.{match[1]}"
    return None


def tf_cpn_module(module: str) -> str | None:
    """tf-cpn's TF-slim scopes, without the depth of the ResNet. A convolution and its normalisation share a scope."""
    scope = module.removesuffix("_conv").removesuffix("_bn")
    if scope == "stem":
        return "resnet_v1/conv1"
    block = re.fullmatch(rf"(.+)_({'|'.join(_BLOCK_PARTS)}|shortcut)", scope)
    part = "" if block is None else "shortcut" if block[2] == "shortcut" else f"conv{_BLOCK_PARTS[block[2]]}"
    if block and (match := re.fullmatch(r"c(\d)_(\d+)", block[1])):
        stage, index = int(match[1]) - 1, int(match[2]) + 1
        return f"resnet_v1/block{stage}/unit_{index}/bottleneck_v1/{part}"
    if block and (match := re.fullmatch(r"refine_c(\d)_(\d)", block[1])):
        return f"res{match[1]}/refine_conv{match[2]}/{part}"
    if block and block[1] == "refine_final":
        return f"final_bottleneck/{part}"
    if match := re.fullmatch(r"global_c(\d)_(lateral|merge|predict|head)", scope):
        name = {"predict": "tmp", "head": "pyramid"}.get(match[2], match[2])
        return f"{name}/res{match[1]}"
    return "refine_out" if scope == "refine_head" else None


def from_torch(array: np.ndarray) -> np.ndarray:
    """Converts PyTorch's layouts to Keras': convolutions OIHW → HWIO, deconvolutions IOHW → HWOI, linear OI → IO."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)  # the same for convolutions and deconvolutions; kernels are not flipped
    return array.T if array.ndim == 2 else array


def from_torch_depthwise(array: np.ndarray) -> np.ndarray:
    """Like `from_torch`, for networks where every kernel of one input channel is a depthwise one: C1HW → HWC1."""
    if array.ndim == 4 and array.shape[1] == 1:
        return array.transpose(2, 3, 0, 1)
    return from_torch(array)


def keras_key(path: str) -> str | None:
    """Returns the name of a variable in the ResNet-50/101/152 of keras.applications (version 1), given its path."""
    module, _, leaf = path.rpartition("/")
    if match := re.fullmatch(r"stem_(conv|bn)", module):
        return f"conv1_{match[1]}/{leaf}"
    if match := re.fullmatch(rf"c(\d)_(\d+)_{_PART}", module):
        stage, index, part, op = match.groups()
        number = {"shortcut": 0, **_BLOCK_PARTS}[part]
        return f"conv{stage}_block{int(index) + 1}_{number}_{op}/{leaf}"
    return None
