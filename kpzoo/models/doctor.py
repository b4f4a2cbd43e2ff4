"""What is in a weights file, and which model of the zoo takes it."""

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

TRIED = 3  # models of about the right size that are built to see whether the file fits

# A source's options of `build`, where the defaults build another network.
_OPTIONS = {"pytorch-cpn": {"flavour": "pytorch"}}
_STATISTICS = re.compile(r".*(running_mean|running_var|moving_mean|moving_variance|num_batches_tracked)")


@dataclass(frozen=True)
class Diagnosis:
    """What a weights file is.

    Args:
        path: The file.
        source: Key of `SOURCES`, "" if the names tell of none.
        num_tensors: How many arrays of floats it holds that a model could use.
        num_params: Numbers in them, without batch statistics.
        metadata: What a file of ours says about itself.
        broken: Names of arrays with NaN or infinity.
        others: Names of arrays that hold no floats, such as texts.
        fits: Name of the model that takes all of it, "" if none of those that were tried does.
        findings: What `load_weights` said, for the model that fits or for each that was tried.
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
        about = SOURCES[self.source].about if self.source else "no project that is known here"
        lines = [f"{self.path}: {self.num_tensors} tensors, {self.num_params / 1e6:.3f} M parameters, of {about}"]
        lines += [f"  {key}: {value}" for key, value in self.metadata.items()]
        if self.broken:
            lines.append(f"NaN or infinity in {len(self.broken)} tensors, such as {self.broken[0]}.")
        if self.others:
            lines.append(f"No floats in {len(self.others)} arrays, such as {self.others[0]}.")
        lines.append(f"It fits {self.fits}." if self.fits else "It fits none of the models that were tried.")
        return "\n".join([*lines, *self.findings])


def diagnose(path: str | Path, model: str | None = None) -> Diagnosis:
    """Returns what a weights file is, by reading it and by trying it on models of about its size.

    Args:
        path: A file, or the prefix of a TensorFlow 1 checkpoint.
        model: The only model to try; None for those whose parameter count is nearest.
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
    """Returns the models to try, the likeliest first; files of a trunk alone fit all that have this trunk."""
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
            remark = "Its heads are of another number of keypoints: build with that skeleton, or pass head='new'."
            return name, (str(report), remark)
        return name, (str(report),)
    return "", tuple(findings)


def _built(name: str, source: str, metadata: Mapping[str, str]) -> PoseModel:
    if metadata.get("kpzoo_model") == name:
        return build(name, **build_arguments(metadata))
    options = {key: value for key, value in _OPTIONS.get(source, {}).items() if key in info(name).options}
    return build(name, **options)
