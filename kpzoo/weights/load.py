"""`load_weights`: loads weights files and published checkpoints into models."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np

from kpzoo import __version__
from kpzoo.errors import UserError, unknown
from kpzoo.heatmaps.confidence import Confidence
from kpzoo.weights.files import State, read_state
from kpzoo.weights.save import CONFIDENCE, describe
from kpzoo.weights.sources import SOURCES, Source, source_of

HEADS = ("strict", "new")

# Layers whose shape depends on the number of keypoints, and layers that only MIPNets have.
_HEAD = re.compile(r"(head|global_c\d_head|refine_head|stack\d_score(_back)?)_(conv|bn)/.*")
_MIMB = re.compile(r".*_mimb_\d/.*")


@dataclass(frozen=True)
class Report:
    """Result of `load_weights`.

    Args:
        source: Project that wrote the file, a key of `SOURCES`.
        filled: Names of the file's tensors by the paths of the variables that were set to them.
        fresh: Paths of variables that were left unchanged, as expected for this file.
        ignored: Reasons by the names of tensors that were not used, as expected for this file.
        remarks: Warnings, such as different settings in training.
        confidence: Numbers in the file for calibrated scores and covariances, if it fills the whole model and was
            written with the model's settings. They are set in `model.preset`; else those of the model are removed.
    """

    source: str
    filled: Mapping[str, str]
    fresh: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    confidence: Confidence | None = None

    def __str__(self) -> str:
        lines = [f"{len(self.filled)} variables loaded, source: {SOURCES[self.source].about}."]
        if self.fresh:
            lines.append(f"{len(self.fresh)} variables not in the file, left unchanged: {_some(self.fresh)}.")
        for reason in sorted(set(self.ignored.values())):
            names = [name for name, why in self.ignored.items() if why == reason]
            lines.append(f"{len(names)} tensors of the file not used ({reason}): {_some(names)}.")
        return "\n".join([*lines, *self.remarks])


def load_weights(
    model: keras.Model, weights: str | Path | Mapping[str, np.ndarray], source: str = "auto", head: str = "strict"
) -> Report:
    """Loads a weights file or a published checkpoint into a model.

    Every variable must get a tensor of its shape, and every tensor must be used, except for those that the report
    lists. Otherwise an error is raised and the model is unchanged.

    Args:
        model: A model from `kpzoo.build`, or its backbone.
        weights: A `.safetensors`, `.npz`, `.weights.h5`, `.pth` or `.pt` file, the prefix of a TensorFlow 1
            checkpoint, or a dict of arrays with the names of the checkpoint.
        source: Project that wrote the file, a key of `SOURCES`. "auto" detects it from the names of the tensors.
        head: "strict" loads the heatmap heads; "new" leaves them unchanged, for a different number of keypoints.

    Returns:
        Which variables were loaded, and which tensors were not used.

    Raises:
        UserError: The file cannot be read, or does not fit the model.
    """
    if head not in HEADS:
        raise unknown("head", head, HEADS)
    given = State(weights, {}) if isinstance(weights, Mapping) else read_state(weights)
    source = source_of(source, given.arrays)
    row = SOURCES[source]
    names = {row.canonical(name): name for name in given.arrays}
    state = {key: np.asarray(given.arrays[name]) for key, name in names.items()}
    texts = [names[key] for key in state if state[key].dtype.kind not in "fiub" and not row.reason_to_ignore(key)]
    state = row.prepare({key: array for key, array in state.items() if names[key] not in texts})

    keys = {variable.path: row.key_of(variable.path) for variable in model.variables}
    fresh = _fresh(keys, state, row, head)
    plan = {path: key for path, key in keys.items() if path not in fresh}
    unused = set(state) - set(plan.values())
    ignored = {key: reason for key in sorted(unused) if (reason := row.reason_to_ignore(key))}
    ignored |= {key: "other heatmap heads" for path, key in keys.items() if path in fresh and key in state}

    values = {path: row.to_keras(state[key]) for path, key in plan.items() if key in state}
    shapes = {variable.path: tuple(variable.shape) for variable in model.variables}
    problems = [
        *_of_others(model, given.metadata, fresh, head),
        *_missing(plan, values),
        *_left_over(unused - set(ignored)),
        *_misshapen(values, shapes),
        *([f"{len(texts)} arrays are not numeric: {_some(texts)}"] if texts else []),
        *_senseless(values),
    ]
    if problems:
        label = "given arrays" if isinstance(weights, Mapping) else f"weights {str(weights)!r}"
        hints = [row.hint, _head_hint(plan, values, shapes)]
        text = f"The {label} (source: {row.about}) do not fit model {model.name!r}: "
        raise UserError(" ".join(filter(None, [f"{text}{'; '.join(problems)}.", *hints])))
    remarks = tuple(_remarks(model, row, given.metadata))
    confidence = None if fresh or remarks else _confidence(given.metadata)
    for variable in model.variables:
        if variable.path in values:
            variable.assign(values[variable.path])
    if hasattr(model, "preset"):
        model.preset = replace(model.preset, confidence=confidence)
    return Report(
        source=source,
        filled={path: names[key] for path, key in plan.items()},
        fresh=tuple(fresh),
        ignored={names[key]: reason for key, reason in ignored.items()},
        remarks=remarks,
        confidence=confidence,
    )


def _confidence(metadata: Mapping[str, str]) -> Confidence | None:
    """Returns the numbers in the metadata of a file that are fitted to its weights."""
    if CONFIDENCE not in metadata:
        return None
    try:
        return Confidence.from_config(json.loads(metadata[CONFIDENCE]))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"The metadata of the weights file are invalid: {error}. Download it again.") from None


def _fresh(keys: Mapping[str, str | None], state: Mapping, row: Source, head: str) -> list[str]:
    """Returns the variables that may lack a tensor: new heads, MIMBs, and all but the backbone for some sources."""
    has_mimbs = any(key in state for path, key in keys.items() if _MIMB.fullmatch(path))
    return [
        path
        for path, key in keys.items()
        if (head == "new" and _HEAD.fullmatch(path))
        or (_MIMB.fullmatch(path) and not has_mimbs and not row.with_mimbs)
        or (row.trunk_only and key is None)
    ]


def _of_others(model: keras.Model, metadata: Mapping[str, str], fresh: Iterable[str], head: str) -> Iterable[str]:
    """Yields contradictions between the metadata of a file written by kpzoo and the model."""
    written = metadata.get("kpzoo_version", __version__)
    if _release(written) > _release(__version__):
        yield f"it was written by kpzoo {written}, which is newer than {__version__}: update kpzoo"
    if (preset := getattr(model, "preset", None)) is None:  # a backbone
        return
    name = metadata.get("kpzoo_model", preset.name)
    if name != preset.name and not fresh:  # initial weights for training may be of another model
        yield f"it was written by model {name!r}, not {preset.name!r}"
    keypoints = ",".join(preset.skeleton.keypoints) if preset.skeleton else ""
    if head == "strict" and (theirs := metadata.get("kpzoo_keypoints", keypoints)) != keypoints:
        yield f"its keypoints are {theirs}, the model's are {keypoints}: build with that skeleton"


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _missing(plan: Mapping[str, str | None], values: Mapping) -> list[str]:
    if not plan:
        return ["no variable of the model has a counterpart in it"]
    names = [f"{path} ({key})" if key else path for path, key in plan.items() if path not in values]
    return [f"{len(names)} of {len(plan)} variables are not in the file: {_some(names)}"] if names else []


def _left_over(keys: Iterable[str]) -> list[str]:
    keys = sorted(keys)
    return [f"{len(keys)} tensors of the file are not in the model: {_some(keys)}"] if keys else []


def _misshapen(values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple]) -> list[str]:
    names = [
        f"{path} has {shapes[path]}, in the file {tuple(value.shape)}"
        for path, value in values.items()
        if tuple(value.shape) != shapes[path]
    ]
    return [f"{len(names)} shapes differ: {_some(names)}"] if names else []


def _senseless(values: Mapping[str, np.ndarray]) -> list[str]:
    broken = [path for path, value in values.items() if value.dtype.kind != "f" or not np.isfinite(value).all()]
    negative = [path for path, value in values.items() if path.endswith("moving_variance") and (value < 0).any()]
    problems = [f"{len(broken)} tensors contain NaN or infinity, or are not floats: {_some(broken)}"] if broken else []
    return [*problems, *([f"{len(negative)} variances are negative: {_some(negative)}"] if negative else [])]


def _head_hint(plan: Mapping, values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple]) -> str:
    """Returns a hint if only the heads do not fit."""
    wrong = [path for path in plan if path not in values or tuple(values[path].shape) != shapes[path]]
    heads = [path for path in wrong if _HEAD.fullmatch(path)]
    return "For a different number of keypoints, pass `head='new'`." if heads and heads == wrong else ""


def _remarks(model: keras.Model, row: Source, metadata: Mapping[str, str]) -> Iterable[str]:
    if row.remark:
        yield row.remark
    if (preset := getattr(model, "preset", None)) is None:  # a backbone
        return
    pixels = preset.normalization
    if row.pixels and pixels is not None and pixels not in row.pixels:
        yield (
            f"The weights were trained with normalization {' or '.join(map(repr, row.pixels))}, but the model uses "
            f"{pixels!r}. To use them without training, build the model with `normalization={row.pixels[0]!r}`."
        )
    name = metadata.get("kpzoo_model", preset.name)
    if name != preset.name:
        yield f"The weights were trained with model {name!r}."
    ours = describe(model)
    labels = {"kpzoo_image_hw": "image size", "kpzoo_normalization": "normalization", "kpzoo_options": "options"}
    for key, label in labels.items():
        if (theirs := metadata.get(key, ours[key])) != ours[key]:
            yield f"The weights were trained with {label} {theirs}, but the model has {ours[key]}."


def _some(names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")
