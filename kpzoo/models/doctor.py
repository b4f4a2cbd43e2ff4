"""`diagnose`: describes a weights file and finds the model that it fits."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpzoo.errors import UserError
from kpzoo.models import build, info, list_models
from kpzoo.models.registry import spec_of
from kpzoo.pose_model import PoseModel
from kpzoo.weights.files import read_state
from kpzoo.weights.load import load_weights
from kpzoo.weights.save import build_arguments
from kpzoo.weights.sources import SOURCES, detect

TRIED = 3  # number of models of similar size to try

# Options of `build` that a source needs, by source.
_OPTIONS = {"pytorch-cpn": {"flavour": "pytorch"}}
_STATISTICS = re.compile(r".*(running_mean|running_var|moving_mean|moving_variance|num_batches_tracked)")


@dataclass(frozen=True)
class Diagnosis:
    """Description of a weights file.

    Args:
        path: Path of the file.
        source: Project that wrote it, a key of `SOURCES`; "" if unknown.
        num_tensors: Number of float arrays that a model can use.
        num_params: Number of parameters in them, without batch statistics.
        metadata: Metadata of a file written by `save_weights`.
        broken: Names of arrays with NaN or infinity.
        others: Names of arrays that are not floats, such as strings.
        fits: Name of the model that the file fits, "" if it fits none of those tried.
        findings: Reports of `load_weights`: of the model that fits, or of all models tried.
    """

    path: str
    source: str
    num_tensors: int
    num_params: int
    metadata: Mapping[str, str]
    broken: tuple[str, ...]
    others: tuple[str, ...]
    fits: str
    findings: tuple[str, ...]

    def __str__(self) -> str:
        about = SOURCES[self.source].about if self.source else "unknown"
        lines = [f"{self.path}: {self.num_tensors} tensors, {self.num_params / 1e6:.3f} M parameters, source: {about}"]
        lines += [f"  {key}: {value}" for key, value in self.metadata.items()]
        if self.broken:
            lines.append(f"NaN or infinity in {len(self.broken)} tensors, such as {self.broken[0]}.")
        if self.others:
            lines.append(f"{len(self.others)} arrays are not floats, such as {self.others[0]}.")
        lines.append(f"It fits {self.fits}." if self.fits else "It fits none of the models tried.")
        return "\n".join([*lines, *self.findings])


def diagnose(path: str | Path, model: str | None = None) -> Diagnosis:
    """Describes a weights file, and tries to load it into models of similar size.

    Args:
        path: A weights file, or the prefix of a TensorFlow 1 checkpoint.
        model: Name of the only model to try. Default: the models with the most similar number of parameters.

    Raises:
        UserError: The file cannot be read, or the model name is unknown.
    """
    if model is not None:
        spec_of(model)
    arrays, metadata = read_state(path)
    try:
        source = detect(arrays)
    except UserError as error:
        source, findings = "", (str(error),)
    row = SOURCES.get(source)
    useful = {
        name: array for name, array in arrays.items() if row is None or not row.reason_to_ignore(row.canonical(name))
    }
    others = tuple(name for name, array in useful.items() if array.dtype.kind != "f")
    useful = {name: array for name, array in useful.items() if name not in others}
    num_params = sum(array.size for name, array in useful.items() if not _STATISTICS.fullmatch(name))
    fits = ""
    if source:
        names = [model] if model else _candidates(source, num_params, metadata)
        fits, findings = _try(names, arrays, source, metadata)
    return Diagnosis(
        path=str(path),
        source=source,
        num_tensors=len(useful),
        num_params=num_params,
        metadata=metadata,
        broken=tuple(name for name, array in useful.items() if not np.isfinite(array).all()),
        others=others,
        fits=fits,
        findings=findings,
    )


def _candidates(source: str, num_params: int, metadata: Mapping[str, str]) -> list[str]:
    """Returns the models to try, most likely first. Weights of a backbone fit all models with that backbone."""
    names = list_models()
    if metadata.get("kpzoo_model") in names:
        return [metadata["kpzoo_model"]]
    if SOURCES[source].trunk_only:
        names = [name for name in names if info(name).num_params >= num_params]
    return sorted(names, key=lambda name: abs(info(name).num_params - num_params))[:TRIED]


def _try(
    names: list[str], arrays: Mapping[str, np.ndarray], source: str, metadata: Mapping[str, str]
) -> tuple[str, tuple[str, ...]]:
    findings = []
    for name in names:
        try:
            report = load_weights(_built(name, source, metadata), arrays, source, head="strict")
        except UserError as error:
            try:
                report = load_weights(_built(name, source, metadata), arrays, source, head="new")
            except UserError:
                findings.append(str(error))
                continue
            remark = "Its heads have a different number of keypoints. Build with that skeleton, or pass head='new'."
            return name, (str(report), remark)
        return name, (str(report),)
    return "", tuple(findings)


def _built(name: str, source: str, metadata: Mapping[str, str]) -> PoseModel:
    if metadata.get("kpzoo_model") == name:
        return build(name, **build_arguments(metadata))
    options = {key: value for key, value in _OPTIONS.get(source, {}).items() if key in info(name).options}
    return build(name, **options)
