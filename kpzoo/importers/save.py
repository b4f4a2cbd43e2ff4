"""Weights of the zoo's models as files that say whose they are."""

import json
import os
from pathlib import Path

import numpy as np

from kpzoo import __version__
from kpzoo.errors import UserError
from kpzoo.pose_model import PoseModel


def save_weights(model: PoseModel, path: str | Path) -> Path:
    """Writes a model's variables, under their own names, and what the model was built as.

    Args:
        model: A model of `kpzoo.build`.
        path: Ends in `.weights.h5`, `.safetensors` or `.npz`. The last carries no description of the model.
    """
    path = Path(path)
    writer = next((writer for suffix, writer in _WRITERS.items() if path.name.endswith(suffix)), None)
    if writer is None:
        raise UserError(f"A weights file ends in {', '.join(_WRITERS)}. Received: {str(path)!r}.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        writer(model, part)
        os.replace(part, path)
    except OSError as error:
        reason = (error.strerror or str(error)).splitlines()[0]
        raise UserError(f"Cannot write the weights {str(path)!r}: {reason}. What was there before stays.") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def describe(model: PoseModel) -> dict[str, str]:
    """Returns what files of ours tell about their model."""
    preset = model.preset
    return {
        "kpzoo_model": preset.name,
        "kpzoo_version": __version__,
        "kpzoo_image_hw": "{}x{}".format(*preset.image_hw),
        "kpzoo_skeleton": preset.skeleton.name,
        "kpzoo_keypoints": ",".join(preset.skeleton.keypoints),
        "kpzoo_options": json.dumps(dict(preset.options), sort_keys=True),
    }


def _arrays(model: PoseModel) -> dict[str, np.ndarray]:
    return {variable.path: np.ascontiguousarray(variable.numpy(), np.float32) for variable in model.variables}


def _write_h5(model: PoseModel, path: Path) -> None:
    import h5py

    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        file.attrs.update(describe(model))


def _write_safetensors(model: PoseModel, path: Path) -> None:
    arrays, header, offset = _arrays(model), {"__metadata__": describe(model)}, 0
    for name, array in arrays.items():
        header[name] = dict(dtype="F32", shape=array.shape, data_offsets=(offset, offset + array.nbytes))
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.tobytes())


def _write_npz(model: PoseModel, path: Path) -> None:
    np.savez(path, **_arrays(model))


_WRITERS = {".weights.h5": _write_h5, ".safetensors": _write_safetensors, ".npz": _write_npz}
