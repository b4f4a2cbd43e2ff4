"""Reads weights files as NumPy arrays. The format is detected from the first bytes."""

import json
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kpzoo.errors import UserError
from kpzoo.weights.pickles import LEGACY_START, Tensor, TorchFile, read_torch_legacy, read_torch_zip

# Keys under which training scripts store the state dict, beside optimizer states and counters.
WRAPPERS = ("state_dict", "latest_state_dict", "best_state_dict", "model_state_dict", "model")

H5_START = b"\x89HDF\r\n\x1a\n"
MAX_HEADER = 100_000_000  # bytes of a safetensors header, the limit of the safetensors library
AGAIN = "Download it again."
MAX_EXPANSION = 50  # largest ratio of the size of the arrays to the size of the file


class State(NamedTuple):
    """Arrays by name, and the metadata of files written by kpzoo."""

    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]


def read_state(path: str | Path) -> State:
    """Reads the arrays of a weights file. Nothing in the file is executed. Floats are converted to float32.

    Args:
        path: A `.safetensors`, `.npz`, `.weights.h5`, `.pth` or `.pt` file, or the prefix of a TensorFlow 1 checkpoint.

    Raises:
        UserError: The file is missing, damaged, or not a weights file.
    """
    path = Path(path).expanduser()
    prefix = _checkpoint_prefix(path)
    if prefix is None and not path.is_file():
        raise UserError(f"No weights file {str(path)!r} exists.")
    reader = _read_tf_checkpoint if prefix is not None else _reader_of(path)
    try:
        arrays, metadata = reader(prefix or path)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, EOFError, IndexError, AttributeError, TypeError, OverflowError) as error:
        raise _broken(path, error) from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, struct.error, RuntimeError, MemoryError) as error:
        raise _broken(path, error) from error
    if not arrays:
        raise UserError(f"{str(path)!r} contains no weights.")
    return State({name: _as_float32(array) for name, array in arrays.items()}, metadata)


def _broken(path: Path, error: BaseException) -> UserError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(f"{str(path)!r} is not a readable weights file, or is incomplete: {reason}. {AGAIN}")


def _as_float32(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def _reader_of(path: Path) -> Callable[[Path], tuple[Mapping, Mapping]]:
    """Returns the reader of a file by its first bytes. Raises an error that says what the file is instead."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise UserError(f"{str(path)!r} is empty. {AGAIN}")
    if start.lstrip()[:1] == b"<":
        raise UserError(f"{str(path)!r} is a web page, not weights. The download may need a click or a login.")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{str(path)!r} is a Git LFS pointer, not the weights. Run `git lfs pull`.")
    if start.startswith(H5_START):
        return _read_h5
    if start.startswith(b"PK\x03\x04"):
        return _read_zip
    if start.startswith(LEGACY_START):
        return lambda path: (_state_dict(read_torch_legacy(path), path), {})
    if start[8:9] == b"{":
        return _read_safetensors
    if start[257:262] == b"ustar":
        raise UserError(f"{str(path)!r} is a tar file. Unpack it, or save it again with a current PyTorch.")
    raise UserError(
        f"{str(path)!r} is none of .safetensors, .npz, .weights.h5, .pth or a TensorFlow checkpoint. "
        "Save older formats again, for example the state dict of a model with `torch.save`."
    )


def _read_zip(path: Path) -> tuple[Mapping, Mapping]:
    with zipfile.ZipFile(path) as archive:
        names = [Path(name).name for name in archive.namelist()]
        size = sum(record.file_size for record in archive.infolist())
    if size > MAX_EXPANSION * path.stat().st_size:
        raise UserError(f"{str(path)!r} would unpack to {size} bytes, more than weights can compress to its size.")
    if "data.pkl" in names:
        return _state_dict(read_torch_zip(path), path), {}
    if "model.weights.h5" in names:
        raise UserError(f"{str(path)!r} is a whole Keras model. Load it, and save its weights as `.weights.h5`.")
    if not all(name.endswith(".npy") for name in names):
        raise UserError(f"{str(path)!r} is a zip file, but not written by PyTorch or NumPy.")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}, {}


def _state_dict(file: TorchFile, path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of the state dict in a PyTorch file, which may be nested under one of `WRAPPERS`."""
    content = file.content
    for _ in WRAPPERS:
        inner = [content.get(name) for name in WRAPPERS] if isinstance(content, Mapping) else []
        content = next((value for value in inner if isinstance(value, Mapping)), content)
    tensors = content.items() if isinstance(content, Mapping) else ()
    arrays = {str(name): value.resolve(file.bytes_of) for name, value in tensors if isinstance(value, Tensor)}
    if not arrays:
        raise UserError(f"{str(path)!r} contains no state dict. Save that of the model, not the model.")
    return arrays


_SAFETENSORS_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "|b1"},
    **{f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)},
}


class Header(NamedTuple):
    """The start of a `.safetensors` file: where its tensors are."""

    tensors: Mapping[str, Mapping]
    metadata: Mapping[str, str]
    size: int  # bytes before the first tensor


def safetensors_header(path: Path) -> Header:
    """Reads and checks the header of a `.safetensors` file, not its tensors."""
    with path.open("rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
        if length > min(MAX_HEADER, size - 8):
            raise UserError(f"{str(path)!r} announces a header of {length} bytes and has {size}. {AGAIN}")
        tensors = json.loads(file.read(length))
    metadata = tensors.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UserError(f"The metadata of {str(path)!r} must map strings to strings. {AGAIN}")
    return Header(tensors, metadata, 8 + length)


def _read_safetensors(path: Path) -> tuple[Mapping, Mapping]:
    header = safetensors_header(path)
    body, arrays = np.memmap(path, np.uint8, "r")[header.size :], {}
    for name, entry in header.tensors.items():
        kind, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if kind not in _SAFETENSORS_DTYPES:
            raise UserError(f"Tensor {name!r} of {str(path)!r} has the unsupported dtype {kind!r}. Convert it to F32.")
        dtype = np.dtype(_SAFETENSORS_DTYPES[kind])
        if not 0 <= start <= stop <= len(body) or stop - start != math.prod(shape) * dtype.itemsize:
            raise UserError(f"{str(path)!r} ends before tensor {name!r} does. {AGAIN}")
        array = np.frombuffer(body[start:stop].tobytes(), dtype).reshape(shape)
        arrays[name] = (array.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else array
    spans = sorted(tuple(entry["data_offsets"]) for entry in header.tensors.values())
    if [0, *(stop for _, stop in spans)] != [*(start for start, _ in spans), len(body)]:
        raise UserError(f"The tensors of {str(path)!r} overlap, or bytes belong to none. {AGAIN}")
    return arrays, header.metadata


# Variables of Keras layers in the order in which they are saved, by their number.
_KERAS_VARIABLES = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


def _read_h5(path: Path) -> tuple[Mapping, Mapping]:
    import h5py

    with h5py.File(path, "r") as file:
        if "model_config" in file.attrs:
            raise UserError(f"{str(path)!r} is a whole Keras model. Load it, and save its weights as `.weights.h5`.")
        datasets = {}
        file.visititems(lambda name, item: datasets.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        if any(item.external or item.is_virtual for item in datasets.values()):
            raise UserError(f"{str(path)!r} points to other files. External and virtual data sets are not read.")
        if sum(item.nbytes for item in datasets.values()) > MAX_EXPANSION * path.stat().st_size:
            raise UserError(f"{str(path)!r} announces more values than its size allows.")
        if "layers" in file:  # written by Keras 3; the optimizer's state may be in other groups
            datasets = {name: item for name, item in datasets.items() if name.startswith("layers/")}
        name_of = _keras3_names(file) if "layers" in file else lambda name: re.sub(r":0$", "", _last_two(name))
        arrays = {name_of(name): item[()] for name, item in datasets.items()}
        metadata = {key: str(value) for key, value in file.attrs.items() if key.startswith("kpzoo_")}
    return arrays, metadata


def _last_two(name: str) -> str:
    return "/".join(name.split("/")[-2:])


def _keras3_names(file) -> Callable[[str], str]:
    """Returns a function that maps "layers/mimb_1/image_squeeze/vars/0" to "c5_mimb_0/image_squeeze/kernel".

    Groups of Keras 3 files are numbered by class. The names of layers are attributes.
    """

    def name_of(dataset: str) -> str:
        *groups, _, index = dataset.split("/")
        paths = ["/".join(groups[: depth + 1]) for depth in range(1, len(groups))]
        own = [file[path]["vars"].attrs.get("name", path) for path in paths if "vars" in file[path]]
        count = len(file["/".join(groups)]["vars"])
        if count not in _KERAS_VARIABLES:
            raise UserError(f"Layer {'/'.join(own)!r} has {count} variables, which no layer of kpzoo has.")
        return "/".join([*own, _KERAS_VARIABLES[count][int(index)]])

    return name_of


def _checkpoint_prefix(path: Path) -> Path | None:
    """Returns the prefix of a TensorFlow checkpoint, if `path` is the prefix or a file of one, else None."""
    prefix = Path(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path)))
    return prefix if prefix.with_name(f"{prefix.name}.index").is_file() else None


def _read_tf_checkpoint(prefix: Path) -> tuple[Mapping, Mapping]:
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}, {}
    except tf.errors.OpError as error:
        raise UserError(f"{str(prefix)!r} is not a readable TensorFlow checkpoint: {error.message}") from error
