"""Projects whose checkpoints can be loaded: how they are detected, and which tensors are not used."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from kpzoo.errors import UserError, unknown
from kpzoo.weights import keys

_COUNTERS = (r"(.*\.)?num_batches_tracked", "batch counter")
_CLASSIFIER = "ImageNet classifier"

KERAS_EPSILON, TORCH_EPSILON = 1.001e-5, 1e-5  # of the batch normalisations in keras.applications and here


@dataclass(frozen=True)
class Source:
    """A project that publishes checkpoints.

    Args:
        about: Description of the project.
        key_of: Function from the path of a variable to the key of its tensor, None if it has none.
        to_keras: Function from the checkpoint's layout of a tensor to Keras'.
        mark: Pattern of keys that identify the source. Sources are tried in order.
        ignored: Patterns of keys of tensors that are not used, each with the reason.
        trunk_only: Whether files contain weights of the backbone only, as initial weights for training.
        with_mimbs: Whether files contain weights of MIMBs. Otherwise MIMBs are left unchanged.
        pixels: Pixel normalizations of the project. Empty if they depend on the model.
        renamed: Pattern and replacement that convert keys of all versions to the canonical form.
        hint: Advice if a file does not fit.
        remark: Warning for all files of the source.
        prepare: Function that converts the tensors, by canonical key, to those of kpzoo's layers.
    """

    about: str
    key_of: Callable[[str], str | None]
    to_keras: Callable[[np.ndarray], np.ndarray]
    mark: str
    ignored: tuple[tuple[str, str], ...] = (_COUNTERS,)
    trunk_only: bool = False
    with_mimbs: bool = False
    pixels: tuple[str, ...] = ()
    renamed: tuple[str, str] = (r"^(module\.)+", "")
    hint: str = ""
    remark: str = ""
    prepare: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = dict

    def reason_to_ignore(self, key: str) -> str | None:
        """Returns why a tensor is not used, or None if it must be used."""
        return next((reason for pattern, reason in self.ignored if re.fullmatch(pattern, key)), None)

    def canonical(self, key: str) -> str:
        return re.sub(*self.renamed, key)


def _torch(module_of: Callable[[str], str | None]) -> dict:
    return dict(key_of=partial(keys.torch_key, module_of=module_of), to_keras=keys.from_torch)


def _without_biases(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Folds the convolutions' biases and the larger epsilon of keras.applications into the batch statistics.

    A bias before a batch normalisation shifts its mean, so the network is equivalent.
    """
    folded = {}
    for key, value in state.items():
        if key.endswith("_bn/moving_mean"):
            value = value - state.get(key.replace("_bn/moving_mean", "_conv/bias"), np.float32(0))
        if key.endswith("_bn/moving_variance"):
            value = value + np.float32(KERAS_EPSILON - TORCH_EPSILON)
        if not key.endswith("_conv/bias"):
            folded[key] = value
    return folded


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "kpzoo": Source(
            about="kpzoo",
            key_of=str,
            to_keras=np.asarray,
            mark=r"(stem|stem1|entry)_conv/kernel",
            ignored=(),
        ),
        "tf-cpn": Source(
            about="tf-cpn, the authors' CPN (TensorFlow 1)",
            key_of=partial(keys.slim_key, module_of=keys.tf_cpn_module),
            to_keras=np.asarray,
            mark=r"resnet_v1/.*|lateral/res5/weights",
            ignored=(
                (r".*/(Adam|Adam_1|Momentum)|(.*/)?beta[12]_power", "optimizer state"),
                (r"(.*/)?global_step|.*learning_rate.*", "step counter"),
                (r"resnet_v1/logits/.*|.*mean_rgb", _CLASSIFIER),
            ),
            pixels=("cpn_bgr",),
            renamed=(r"^resnet_v1_\d+/", "resnet_v1/"),
            hint="Build a CPN with `flavour='official'`.",
        ),
        "pytorch-cpn": Source(
            about="GengDavid's pytorch-cpn",
            **_torch(keys.pytorch_cpn_module),
            mark=r"global_net\..*",
            ignored=(_COUNTERS, (r"resnet\.fc\..*", _CLASSIFIER)),
            pixels=("cpn_rgb",),
            hint="Build a CPN with `flavour='pytorch'`.",
        ),
        "mipnet": Source(
            about="MIPNet's repository",
            **_torch(keys.mipnet_module),
            mark=r"(layer|stage)\d_se\..*",
            with_mimbs=True,
            pixels=("imagenet_rgb", "imagenet_bgr"),
            hint="Build a MIPNet with two instances and the same `mimb_stages=`.",
        ),
        "mmpose": Source(
            about="mmpose, top-down heatmap models",
            **_torch(keys.mmpose_module),
            mark=r"backbone\..*",
            ignored=(
                _COUNTERS,
                (r"data_preprocessor\..*", "pixel statistics"),
                (r"backbone\.inters\.\d\..*", "unused block after the last stack"),
            ),
            pixels=("imagenet_rgb",),
            renamed=(r"^(module\.)*(keypoint_)?(?=backbone|head)", ""),
        ),
        "hourglass": Source(
            about="bearpaw's pytorch-pose, Newell's hourglass",
            **_torch(keys.hourglass_module),
            mark=r"hg\.\d\..*",
        ),
        "hrnet": Source(
            about="HRNet's repository: HRNet and SimpleBaseline",
            **_torch(keys.hrnet_module),
            mark=r"stage2\..*|deconv_layers\..*",
            ignored=(
                _COUNTERS,
                (r"(incre_modules|downsamp_modules|classifier|final_layer\.\d)\..*", _CLASSIFIER),
                (r"stage4\.2\.fuse_layers\.[123]\..*", "coarser outputs of a classification network"),
            ),
            pixels=("imagenet_rgb", "imagenet_bgr"),
        ),
        "torchvision": Source(
            about="torchvision's ResNets, trained on ImageNet",
            **_torch(keys.resnet_module),
            mark=r"layer1\.0\.conv1\.weight",
            ignored=(_COUNTERS, (r"fc\..*", _CLASSIFIER)),
            trunk_only=True,
            pixels=("imagenet_rgb",),
        ),
        "efficientnet-lite": Source(
            about="the PyTorch port of EfficientNet-Lite, trained on ImageNet",
            key_of=partial(keys.torch_key, module_of=keys.efficientnet_module),
            to_keras=keys.from_torch_depthwise,
            mark=r"_conv_stem\.weight",
            ignored=(_COUNTERS, (r"(_conv_head|_bn1|_fc)\..*", _CLASSIFIER)),
            trunk_only=True,
            pixels=("lite_rgb",),
        ),
        "keras": Source(
            about="ResNets of keras.applications, trained on ImageNet",
            key_of=keys.keras_key,
            to_keras=np.asarray,
            mark=r"conv1_conv/kernel",
            prepare=_without_biases,
            ignored=((r"(predictions|probs|fc1000)/.*", _CLASSIFIER),),
            trunk_only=True,
            pixels=("caffe_bgr",),
            remark=(
                "The ResNets of keras.applications have strides in 1x1 convolutions, kpzoo's in 3x3 convolutions. "
                "Features are equal up to c2. From c3 on, use the weights as initial weights for training only."
            ),
        ),
    }
)


def detect(names: Iterable[str]) -> str:
    """Detects the source of a checkpoint from the names of its tensors."""
    names = list(names)
    for source, row in SOURCES.items():
        if any(re.fullmatch(row.mark, row.canonical(name)) for name in names):
            return source
    raise UserError(
        f"The names of the weights match no known source: {', '.join(SOURCES)}. "
        f"Received {len(names)} tensors such as {sorted(names)[:3]}."
    )


def source_of(name: str, names: Iterable[str]) -> str:
    """Returns the source of this name; "auto" detects it from the names of the tensors."""
    if name == "auto":
        return detect(names)
    if name not in SOURCES:
        raise unknown("source", name, [*SOURCES, "auto"])
    return name
