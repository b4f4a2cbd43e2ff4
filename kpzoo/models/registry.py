"""Registry of models: `build`, `info` and `list_models`. Each model is a `Spec`, a row of the registry."""

import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from operator import index
from pathlib import Path

import keras

from kpzoo import keras_setup, skeletons
from kpzoo.errors import UserError, unknown
from kpzoo.models import fresh, starts
from kpzoo.pose_model import PersonModel, PoseModel, Preset, ZooModel
from kpzoo.skeletons import Skeleton
from kpzoo.weights import load_weights, published

DEFAULT = "default"  # the normalization of the model's `Spec`; None means no normalization

MACS_RULE = (
    "multiply-adds of convolutions, deconvolutions (per input position) and dense layers, for one crop and one "
    "instance; biases, normalization, activations, pooling and resizing are not counted"
)


MIPNET_OPTIONS = ("num_instances", "mimb_stages")

# Valid values of options, by the annotation in the builder.
_LIST = "a list of positive integers"
_WANTED = {int: "a positive integer", Sequence[int]: _LIST, Sequence[int] | None: _LIST}


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _fits(value, annotation) -> bool:
    """Returns whether the value of an option matches its annotation; annotations not in `_WANTED` match anything."""
    if annotation is int:
        return _is_count(value)
    if annotation not in _WANTED or (value is None and annotation == Sequence[int] | None):
        return True
    return isinstance(value, list | tuple) and all(map(_is_count, value))


@dataclass(frozen=True)
class Spec:
    """A row of the registry.

    Args:
        family: Family of the model, such as "cpn".
        builder: `builder(image_hw, num_keypoints, normalization, **options) -> (inputs, outputs, pyramid)`, without
            `num_keypoints` for a `PersonModel`. The results are dicts of Keras tensors; `pyramid` has the features of
            `pyramid_outputs`. Its keyword-only arguments are the model's options.
        config: Options that differ from the builder's defaults.
        codec: Key of `heatmaps.CODECS`, or a mapping from the option "flavour" to one.
        normalization: The default pixel normalisation, or a mapping from the option "flavour" to one.
        paper: The paper that describes the network.
        multiple: Both sides of a crop must be multiples of this.
        image_hw: Default (height, width) of crops in pixels.
        model_class: `PoseModel`, or `PersonModel` for a person detector.
    """

    family: str
    builder: Callable
    config: Mapping
    codec: str | Mapping[str, str]
    normalization: str | Mapping[str, str]
    paper: str
    multiple: int = 32
    image_hw: tuple[int, int] = (256, 192)
    model_class: type[ZooModel] = PoseModel

    def options(self, name: str, given: Mapping) -> dict:
        """Returns all options of the model: the builder's defaults, updated with `config` and `given`."""
        parameters = inspect.signature(self.builder).parameters
        own = {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
        hint = ""
        if "num_instances" not in self.config:  # the name decides whether a model is a MIPNet
            own = {option: default for option, default in own.items() if option not in MIPNET_OPTIONS}
            hint = "Only models named mipnet_* predict several instances."
        for option, value in given.items():
            if option not in own:
                raise unknown(f"option of model {name!r}", option, own, hint if option in MIPNET_OPTIONS else "")
            if not _fits(value, annotation := parameters[option].annotation):
                wanted = _WANTED[annotation]
                raise UserError(f"Option `{option}=` of model {name!r} must be {wanted}. Received: {value!r}.")
        if given.get("num_instances", 2) < 2:
            raise UserError(f"`num_instances=` must be at least 2 in a MIPNet. Received: {given['num_instances']}.")
        return {**own, **self.config, **given}


@dataclass(frozen=True)
class ModelInfo:
    """Properties of a model, available without building it.

    Args:
        name: Name of the model.
        family: Family of the model, such as "cpn".
        paper: The paper that describes the network.
        num_params: Number of trainable parameters with 17 keypoints and default options.
        macs: Multiply-adds by crop size, such as {"256x192": 7230615552}; see `macs_rule`.
        options: Keyword options of `build` with their defaults.
        normalization: Default pixel normalization, a key of `blocks.NORMALIZATIONS`.
        codec: Name of the codec, a key of `heatmaps.CODECS`.
        weights: Tags of published weights, the newest version last.
        mimb_params: Number of parameters in MIMBs, 0 for single-instance models.
        macs_rule: Which operations `macs` counts.
    """

    name: str
    family: str
    paper: str
    num_params: int
    macs: Mapping[str, int]
    options: Mapping
    normalization: str
    codec: str
    weights: tuple[str, ...] = ()
    mimb_params: int = 0
    macs_rule: str = field(default=MACS_RULE, repr=False)

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.family} ({self.paper})",
            f"  parameters     {self.num_params / 1e6:.3f} M",
            *(f"  MACs {size:<9} {count / 1e9:.3f} G" for size, count in self.macs.items()),
            f"  MACs count     {self.macs_rule}",
            f"  normalization  {self.normalization}",
            f"  codec          {self.codec}",
            f"  options        {', '.join(f'{key}={value!r}' for key, value in self.options.items())}",
            *(f"  weights        {tag}: {published.describe(tag)}" for tag in self.weights),
            *(f"  weights        {word}: {published.describe(tag)}" for word, tag in self._trunks()),
        ]
        if not self.weights:
            lines.append("  weights        none published yet")
        if self.mimb_params:
            share = self.mimb_params / (self.num_params - self.mimb_params)
            lines.insert(2, f"  in MIMBs       {self.mimb_params:,} ({share:.1%} of the model without MIMBs)")
        return "\n".join(lines)

    def _trunks(self) -> list[tuple[str, str]]:
        """Returns the words of `build(weights=...)` that mean weights of the trunk, and their tags."""
        tags = {word: published.trunk_tag(word, self.options) for word in published.TRUNK_WORDS}
        return [(word, tag) for word, tag in tags.items() if tag]


_SPECS: dict[str, Spec] = {}


def register(name: str, spec: Spec) -> None:
    """Adds a model to the registry."""
    if name in _SPECS:
        raise ValueError(f"Model name {name!r} is registered twice.")
    _SPECS[name] = spec


def spec_of(name: str) -> Spec:
    """Returns the `Spec` of a model. Unknown names raise an error that lists similar ones."""
    if name not in _SPECS:
        raise unknown("model name", name, _SPECS, "See `kpzoo.list_models()`.")
    return _SPECS[name]


def list_models(pattern: str = "*") -> list[str]:
    """Lists the names of models, sorted.

    Args:
        pattern: Shell pattern that names must match, such as "mipnet_*".
    """
    return sorted(name for name in _SPECS if fnmatchcase(name, pattern))


def info(name: str) -> ModelInfo:
    """Returns the properties of a model without building it. `print` formats them as a table.

    Args:
        name: Name of a model, see `list_models`.

    Raises:
        UserError: Unknown name.
    """
    spec = spec_of(name)
    options = spec.options(name, {})
    counts = _counts()[name]
    return ModelInfo(
        name=name,
        family=spec.family,
        paper=spec.paper,
        num_params=counts["num_params"],
        macs=counts["macs"],
        options=options,
        normalization=_by_flavour(spec.normalization, options),
        codec=_by_flavour(spec.codec, options),
        weights=published.tags_of(name),
        mimb_params=counts.get("mimb_params", 0),
    )


def build(
    name: str,
    *,
    image_hw: tuple[int, int] | None = None,
    skeleton: str | Skeleton | None = None,
    weights: str | Path | None = None,
    normalization: str | None = DEFAULT,
    **options,
) -> ZooModel:
    """Builds a model.

    Args:
        name: Name of a model, see `list_models`.
        image_hw: (height, width) of crops in pixels, multiples of 32 (deep hourglasses: 64). Default: that of the
            model, (256, 192) for most pose models, (416, 416) for person detectors.
        skeleton: Keypoints to predict: a name in `skeletons.SKELETONS`, or a `Skeleton`. Default: "coco17".
            Person detectors have none.
        weights: Initial weights: a tag of published weights (see `info(name).weights`), whose last part is enough, the
            newest version if it is left out; a weights file that `kpzoo.load_weights` reads; "imagenet" (torchvision's
            file) or "imagenet_keras" for the trunk alone; or None for random initialization. A tag also sets the
            default `image_hw`, `skeleton`, `normalization` and options. Warns if the weights were trained with
            different settings.
        normalization: Pixel normalization in the first layer, a key of `blocks.NORMALIZATIONS`, or None for none.
            Default: that of the model.
        **options: Options of the model, see `info(name).options`.

    Returns:
        A `PoseModel`: a functional Keras model from {"image": (B, H, W, 3) RGB, 0 … 255} to
        {"heatmaps": (B, H/4, W/4, K)}. CPNs and stacked hourglasses also return "global_heatmaps"
        (B, L, H/4, W/4, K). MIPNets have a second input, "instance" (B, M, N), and return "heatmaps"
        (B, M, H/4, W/4, K). For a person detector a `PersonModel`, which returns "person_logits" (B, A) and
        "person_boxes" (B, A, 4) of A cells, see `kpzoo.boxes`.

    Raises:
        UserError: Unknown name or option, invalid value, or weights that do not fit the model.

    >>> build("cpn_tiny", image_hw=(64, 64)).output["heatmaps"].shape
    (None, 16, 16, 17)
    """
    spec = spec_of(name)
    if tag := starts.tag_of(name, weights, spec.options(name, options)):
        trained = starts.settings_of(name, tag, skeleton)
        image_hw, skeleton = image_hw or trained.image_hw, trained.skeleton
        options = {**trained.options, **options}
        if normalization == DEFAULT and trained.normalization:
            normalization = trained.normalization
        weights = published.fetch_ready(tag)
    image_hw = _checked_size(name, spec.image_hw if image_hw is None else image_hw, spec.multiple)
    resolved = spec.options(name, options)
    if spec.model_class is PersonModel:
        if skeleton is not None:
            raise UserError(f"Model {name!r} finds person boxes, no keypoints. Received: skeleton {skeleton!r}.")
        counts = ()
    else:
        skeleton = skeletons.get("coco17" if skeleton is None else skeleton)
        counts = (skeleton.num_keypoints,)
    if normalization == DEFAULT:
        normalization = _by_flavour(spec.normalization, resolved)
    keras_setup.check_process()
    keras_setup.check_policy(keras.config.dtype_policy().name)
    with fresh.no_garbage_collection():
        with nullcontext({}) if weights is None else fresh.undrawn() as undrawn:
            inputs, outputs, pyramid = spec.builder(image_hw, *counts, normalization, **resolved)
            model = spec.model_class(inputs, outputs, name=name)
        model.preset = Preset(
            name=name,
            image_hw=image_hw,
            skeleton=skeleton,
            normalization=normalization,
            codec=_by_flavour(spec.codec, resolved),
            num_instances=resolved.get("num_instances", 1),
            options=json.loads(json.dumps(options)),
        )
        model.pyramid_layers = {level: _layer_of(model, feature) for level, feature in pyramid.items()}
        remarks = ()
        if weights is not None:
            report = load_weights(model, weights)
            fresh.draw(model, undrawn, report.fresh)
            remarks = report.remarks
            if tag and not (remarks or report.fresh or report.confidence):
                model.preset = replace(model.preset, confidence=trained.confidence)
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return model


def _layer_of(model: ZooModel, feature) -> str:
    """Returns the name of the layer that computes a feature; it identifies the feature in saved models."""
    return next(layer.name for layer in model.layers if layer.output is feature)


def _by_flavour(value: str | Mapping[str, str], options: Mapping) -> str:
    return value if isinstance(value, str) else value[options["flavour"]]


def _checked_size(name: str, image_hw, multiple: int) -> tuple[int, int]:
    try:
        height, width = (index(side) for side in image_hw)
    except (TypeError, ValueError):
        raise UserError(f"`image_hw=` must be (height, width), two integers. Received: {image_hw!r}.") from None
    if min(height, width) < multiple or height % multiple or width % multiple:
        below, above = (
            tuple(max(multiple, side + extra - (side + extra) % multiple) for side in (height, width))
            for extra in (0, multiple - 1)
        )
        raise UserError(
            f"Both sides of `image_hw=` must be multiples of {multiple} for model {name!r}. "
            f"Received: ({height}, {width}). The nearest sizes are {' or '.join(map(str, sorted({below, above})))}."
        )
    return height, width


@cache
def _counts() -> dict:
    return json.loads(resources.files("kpzoo.models").joinpath("counts.json").read_text("utf-8"))
