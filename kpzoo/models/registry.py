"""The zoo's door: every model is a row (`Spec`), and `build` is the only way to make one."""

import inspect
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from operator import index
from pathlib import Path

from kpzoo import skeletons
from kpzoo.errors import UserError, unknown
from kpzoo.models import fresh
from kpzoo.pose_model import PersonModel, PoseModel, Preset, ZooModel
from kpzoo.skeletons import Skeleton
from kpzoo.weights import load_weights, published

DEFAULT = "default"  # the model's own normalisation; None already means "leave the pixels as they are"

MACS_RULE = (
    "multiply-adds of convolutions, deconvolutions (by input positions) and dense layers for one crop and one query; "
    "biases, normalisation, activations, pooling and resizing are not counted"
)


MIPNET_OPTIONS = ("num_instances", "mimb_stages")

# What an option must be, by its builder's annotation.
_WANTED = {int: "a whole number above 0", Sequence[int]: "a list of whole numbers above 0"}


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _fits(value, annotation) -> bool:
    """Returns whether an option is what its annotation asks for, if that is in `_WANTED`."""
    if annotation is int:
        return _is_count(value)
    return annotation != Sequence[int] or (isinstance(value, list | tuple) and all(map(_is_count, value)))


@dataclass(frozen=True)
class Spec:
    """A row of the zoo.

    Args:
        family: What the builder builds, such as "cpn".
        builder: `builder(image_hw, num_keypoints, normalization, **options) -> (inputs, outputs, pyramid)`, without
            `num_keypoints` for a `PersonModel`. The results are dicts of Keras tensors; `pyramid` has the features that
            become `pyramid_outputs`. Its keyword-only arguments are the model's options.
        config: The options in which this row differs from the builder's defaults.
        codec: Key of `heatmaps.CODECS`, or a mapping from the option "flavour" to one.
        normalization: The default pixel normalisation, or a mapping from the option "flavour" to one.
        paper: Where the network is described.
        multiple: What both sides of a crop must be multiples of.
        image_hw: The crop's size where the user gives none.
        model_class: `PoseModel`, or `PersonModel` for what finds person boxes.
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
        """Returns all options of the row: `given` over `config` over the builder's defaults."""
        parameters = inspect.signature(self.builder).parameters
        own = {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
        hint = ""
        if "num_instances" not in self.config:  # the name decides whether a model is a MIPNet
            own = {option: default for option, default in own.items() if option not in MIPNET_OPTIONS}
            hint = "Only MIPNets predict several instances: `kpzoo.list_models('mipnet_*')`."
        for option, value in given.items():
            if option not in own:
                raise unknown(f"option of model {name!r}", option, own, hint if option in MIPNET_OPTIONS else "")
            if not _fits(value, annotation := parameters[option].annotation):
                wanted = _WANTED[annotation]
                raise UserError(f"Option `{option}` of model {name!r} must be {wanted}. Received: {value!r}.")
        if given.get("num_instances", 2) < 2:
            raise UserError(f"`num_instances` must be at least 2 in a MIPNet. Received: {given['num_instances']}.")
        return {**own, **self.config, **given}


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without building it.

    Args:
        num_params: Trainable parameters with 17 keypoints and the default options.
        macs: Multiply-adds by the crop's size, such as {"256x192": 7230615552}, counted as `macs_rule` says.
        options: Keyword options of `build` with their defaults.
        weights: Tags of published weights.
        mimb_params: Those of `num_params` that belong to MIMBs, 0 for single-instance models.
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
            f"  counted        {self.macs_rule}",
            f"  normalization  {self.normalization}",
            f"  codec          {self.codec}",
            f"  options        {', '.join(f'{key}={value!r}' for key, value in self.options.items())}",
            *(f"  weights        {tag}: {published.ROWS[tag]}" for tag in self.weights),
        ]
        if not self.weights:
            lines.append("  weights        none are published yet")
        if self.mimb_params:
            share = self.mimb_params / (self.num_params - self.mimb_params)
            lines.insert(2, f"  of these MIMB  {self.mimb_params:,} ({share:.1%} of the twin without them)")
        return "\n".join(lines)


_SPECS: dict[str, Spec] = {}


def register(name: str, spec: Spec) -> None:
    """Adds a row to the zoo."""
    if name in _SPECS:
        raise ValueError(f"Model name {name!r} is registered twice.")
    _SPECS[name] = spec


def spec_of(name: str) -> Spec:
    """Returns the row of that name, or says which names are near."""
    if name not in _SPECS:
        raise unknown("model name", name, _SPECS, "See `kpzoo.list_models()`.")
    return _SPECS[name]


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of the zoo that match a shell pattern, such as "mipnet_*", in alphabetical order."""
    return sorted(name for name in _SPECS if fnmatchcase(name, pattern))


def info(name: str) -> ModelInfo:
    """Returns what is known of a model without building it; printed, it is a small table."""
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
    """Builds a model of the zoo, ready to compile, fit or predict.

    Args:
        name: A name of `list_models()`.
        image_hw: (height, width) of the crops in pixels, multiples of 32 (deep hourglasses: 64). Default 256x192, for
            person detectors 416x416.
        skeleton: The keypoints to find: a name, or a `Skeleton`. Default "coco17"; person detectors take none.
        weights: A tag of published weights, see `info(name).weights`, which also sets what is not given here, or any
            file that `kpzoo.load_weights` reads and that fits as it is, or None for fresh weights. What else to know
            before using them is warned of.
        normalization: A key of `blocks.NORMALIZATIONS`; None leaves pixels as they are.
        **options: Options of the model, see `info(name).options`.

    Returns:
        A functional model from {"image": (B, H, W, 3) RGB 0 … 255} to {"heatmaps": (B, H/4, W/4, K)}; CPN and stacked
        hourglasses add "global_heatmaps" (B, L, H/4, W/4, K); MIPNets also take "instance" (B, M, N) and answer
        "heatmaps" (B, M, H/4, W/4, K). Person detectors answer "person_logits" (B, A) and "person_boxes" (B, A, 4) of
        A cells, see `kpzoo.boxes`.

    >>> build("cpn_tiny", image_hw=(64, 64)).output["heatmaps"].shape
    (None, 16, 16, 17)
    """
    spec = spec_of(name)
    if row := _row_of(weights):
        if row.model != name:
            raise UserError(f"The weights {weights!r} belong to {row.model!r}. Received: model {name!r}.")
        skeleton = _skeleton_of(row, weights, skeleton) if row.skeleton else skeleton
        image_hw, options = image_hw or row.image_hw, {**row.options, **options}
        weights = published.fetch(weights)
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
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return model


def _row_of(weights: str | Path | None) -> published.Weights | None:
    """Returns the row of published weights if `weights` is a tag, None for a file; refuses what looks like a tag."""
    if not isinstance(weights, str) or weights in published.ROWS:
        return published.ROWS.get(weights)
    if re.fullmatch(r"\w+\.\w*_\w*", weights) and not Path(weights).exists():  # no suffix of a file has a "_"
        if not published.ROWS:
            raise UserError(f"There is no weights file {weights!r}, and no weights are published yet: name a file.")
        raise unknown("weights tag", weights, published.ROWS, "There is no file of that name either.")
    return None


def _skeleton_of(row: published.Weights, tag: str, given: str | Skeleton | None) -> Skeleton:
    """Returns the skeleton of published weights, or the given one if it has the same keypoints."""
    own = skeletons.get(row.skeleton)
    if given is None:
        return own
    given = skeletons.get(given)
    if given.keypoints != own.keypoints:
        raise UserError(
            f"The weights {tag!r} are for the keypoints of {own.name!r}. Received: skeleton {given.name!r}.",
            "Leave `weights=` out.",
            "Or leave `skeleton=` out.",
        )
    return given


def _layer_of(model: ZooModel, feature) -> str:
    """Returns the name of the layer that computes a feature; it identifies the feature in saved models."""
    return next(layer.name for layer in model.layers if layer.output is feature)


def _by_flavour(value: str | Mapping[str, str], options: Mapping) -> str:
    return value if isinstance(value, str) else value[options["flavour"]]


def _checked_size(name: str, image_hw, multiple: int) -> tuple[int, int]:
    try:
        height, width = (index(side) for side in image_hw)
    except (TypeError, ValueError):
        raise UserError(f"`image_hw=` must be (height, width), whole pixels. Received: {image_hw!r}.") from None
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
