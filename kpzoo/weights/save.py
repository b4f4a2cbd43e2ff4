"""Writes weights files with metadata that describe the model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kpzoo import __version__
from kpzoo.errors import UserError
from kpzoo.files import written_whole
from kpzoo.pose_model import PoseModel
from kpzoo.skeletons import Skeleton
from kpzoo.weights.files import H5_START, safetensors_header
from kpzoo.weights.safetensors_file import write_safetensors

CONFIDENCE = "kpzoo_confidence"  # key of the metadata
# Arguments of `kpzoo.build` that are not options of a model.
NAMED = ("name", "image_hw", "skeleton", "weights", "normalization")


def save_weights(model: PoseModel, path: str | Path, *, half: bool = False) -> Path:
    """Writes the variables of a model, by their paths, and metadata that describe the model.

    Args:
        model: A model from `kpzoo.build`.
        path: Path of the file, ending in `.weights.h5`, `.safetensors` or `.npz` (which has no metadata).
        half: Whether to round kernels to float16, for half the size; for `.safetensors` only.

    Returns:
        Path of the file.

    Raises:
        UserError: The file name is not supported, the folder does not exist, or the file cannot be written.
    """
    path = Path(path).expanduser()
    writer = writer_of(path, half)
    with written_whole(path) as part:
        writer(model, part)
    return path


def writer_of(path: str | Path, half: bool = False) -> Callable[[PoseModel, Path], None]:
    """Returns the function that writes a weights file of this name, or raises an error."""
    path = Path(path).expanduser()
    if half and path.suffix != ".safetensors":
        raise UserError(f"float16 weights must be written to a .safetensors file. Received: {str(path)!r}.")
    writer = next((writer for suffix, writer in _WRITERS.items() if path.name.endswith(suffix)), None)
    if writer is None:
        raise UserError(f"The name of a weights file must end in {', '.join(_WRITERS)}. Received: {str(path)!r}.")
    if not path.parent.is_dir():
        raise UserError(f"Cannot write {path.name!r}: the folder {str(path.parent)!r} does not exist. Create it first.")
    return _write_half if half else writer


def describe(model: PoseModel) -> dict[str, str]:
    """Returns the metadata of a model's weights files. `build_arguments` converts them to arguments of `build`."""
    preset = model.preset
    return {
        "kpzoo_model": preset.name,
        "kpzoo_version": __version__,
        "kpzoo_image_hw": "{}x{}".format(*preset.image_hw),
        **(_describe_skeleton(preset.skeleton) if preset.skeleton else {}),
        "kpzoo_normalization": json.dumps(preset.normalization),
        "kpzoo_options": json.dumps(dict(preset.options), sort_keys=True),
        **({CONFIDENCE: json.dumps(preset.confidence.to_config())} if preset.confidence else {}),
    }


def _describe_skeleton(skeleton: Skeleton) -> dict[str, str]:
    return {
        "kpzoo_skeleton": skeleton.name,
        "kpzoo_keypoints": ",".join(skeleton.keypoints),
        "kpzoo_skeleton_config": json.dumps(skeleton.to_config(), default=float),
    }


def read_description(path: str | Path) -> dict[str, str]:
    """Returns the metadata of a file written by `save_weights`, without reading its arrays.

    The result is empty for any other file, also if it cannot be read: `read_state` reports what is wrong.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            is_h5 = file.read(len(H5_START)) == H5_START
        found = _h5_attributes(path) if is_h5 else safetensors_header(path).metadata
    except (OSError, ValueError, AttributeError, TypeError, RuntimeError, KeyError):
        return {}
    return {key: value for key, value in found.items() if key.startswith("kpzoo_") and isinstance(value, str)}


def build_arguments(description: Mapping[str, str]) -> dict:
    """Converts the metadata of a weights file to arguments of `kpzoo.build`, without `name` and `weights`."""
    try:
        arguments = dict(json.loads(description.get("kpzoo_options", "{}")))
        if strange := sorted(set(arguments) & set(NAMED)):
            raise ValueError(f"{strange[0]!r} is not an option of a model")
        if "kpzoo_image_hw" in description:
            height, width = map(int, description["kpzoo_image_hw"].split("x"))
            arguments["image_hw"] = (height, width)
        if "kpzoo_skeleton_config" in description:
            arguments["skeleton"] = Skeleton.from_config(json.loads(description["kpzoo_skeleton_config"]))
        if "kpzoo_normalization" in description:
            arguments["normalization"] = json.loads(description["kpzoo_normalization"])
            if not isinstance(arguments["normalization"], str | None):
                raise ValueError(f"normalization {arguments['normalization']!r}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"The metadata of the weights file are invalid: {error}. Download it again.") from None
    return arguments


def _h5_attributes(path: Path) -> dict:
    import h5py

    with h5py.File(path, "r") as file:
        return dict(file.attrs)


def _arrays(model: PoseModel) -> dict[str, np.ndarray]:
    return {variable.path: np.ascontiguousarray(variable.numpy(), np.float32) for variable in model.variables}


def _write_h5(model: PoseModel, path: Path) -> None:
    import h5py

    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        file.attrs.update(describe(model))


def _write_half(model: PoseModel, path: Path) -> None:
    """Writes kernels as float16. Vectors stay float32: they are small, and variances may exceed float16."""
    arrays = _arrays(model)
    large = [name for name, array in arrays.items() if array.ndim > 1 and np.abs(array).max() > np.finfo("f2").max]
    if large:
        raise UserError(f"Variable {large[0]!r} has values too large for float16. Write the weights in float32.")
    _write_safetensors(model, path, {name: array.astype("f2") for name, array in arrays.items() if array.ndim > 1})


# The `safetensors` package writes metadata in random order, so that the digest of equal weights would change.
def _write_safetensors(model: PoseModel, path: Path, rounded: Mapping[str, np.ndarray] | None = None) -> None:
    write_safetensors(path, {**_arrays(model), **(rounded or {})}, describe(model))


def _write_npz(model: PoseModel, path: Path) -> None:
    np.savez(path, **_arrays(model))


_WRITERS = {".weights.h5": _write_h5, ".safetensors": _write_safetensors, ".npz": _write_npz}
