"""Reads PyTorch files without PyTorch, and without executing the pickle.

A pickle can call any function. Here the functions that rebuild tensors are replaced, objects of well-known packages
become empty placeholders, and everything else raises an error. Nothing is imported.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from kpzoo.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

# Packages of objects that training scripts store beside the weights: configurations, histories, optimizer states.
BOOKKEEPING = (
    "numpy",
    "argparse",
    "collections",
    "datetime",
    "easydict",
    "mmcv",
    "mmengine",
    "pathlib",
    "torch",
    "yacs",
)

# Functions of Python's standard library, for byte strings and sets. They also become placeholders.
HELPERS = {("_codecs", "encode"), ("builtins", "set"), ("__builtin__", "set"), ("builtins", "complex")}

MAX_MEMO = 1_000_000  # largest memo index in a pickle; HRNet-W48 with its optimizer has 60,000

_BFLOAT16 = "bfloat16"
_STORAGES: Mapping[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class StandIn:
    """Placeholder of an object that is not part of the weights."""

    def __init__(self, *args, **kwargs):
        pass

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass

    def add(self, value):
        pass


class Storage(NamedTuple):
    """Reference to an array of values in the file."""

    kind: Any
    key: str
    count: int
    offset: int = 0


class Tensor(NamedTuple):
    """A view into a storage, resolved after the pickle has been read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def resolve(self, bytes_of: Callable[[str], bytes]) -> np.ndarray:
        """Returns the array. bfloat16 is converted to float32."""
        kind = np.uint16 if self.storage.kind == _BFLOAT16 else self.storage.kind
        data = np.frombuffer(bytes_of(self.storage.key), np.dtype(kind).newbyteorder("<"))
        first = self.storage.offset + self.offset
        last = first + sum((side - 1) * step for side, step in zip(self.shape, self.strides, strict=True))
        size = math.prod(self.shape)
        if min((first, *self.shape, *self.strides)) < 0 or size > len(data) or (size and last >= len(data)):
            raise UserError(
                f"A tensor of shape {self.shape} exceeds its storage of {len(data)} values. Download the file again."
            )
        steps = tuple(step * data.itemsize for step in self.strides)
        array = np.lib.stride_tricks.as_strided(data[first:], self.shape, steps).copy()
        if self.storage.kind == _BFLOAT16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


def _rebuild_tensor(storage, offset, shape, strides, *_):
    if not isinstance(storage, Storage):
        raise UserError("A tensor has no storage. Download the file again.")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
    return tensor


_REBUILDERS: Mapping[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("collections", "OrderedDict"): OrderedDict,
}


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickles dicts, lists, numbers, strings and tensors, and collects their storages."""

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str):
        if (module, name) in _REBUILDERS:
            return _REBUILDERS[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module.split(".")[0] in BOOKKEEPING or (module, name) in HELPERS:
            return StandIn
        raise UserError(f"The file calls {module}.{name}, which weights do not need. The call was blocked.")

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or not pid or pid[0] != "storage":
            return StandIn()
        _, kind, key, _, count, *view = pid
        offset = view[0][1] if view and view[0] else 0
        return self.storages.setdefault(str(key), Storage(kind, str(key), count))._replace(offset=offset)


class TorchFile(NamedTuple):
    """Content of a file, with `Tensor`s instead of arrays, and a function that returns the bytes of a storage."""

    content: Any
    bytes_of: Callable[[str], bytes]


def load_pickle(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Reads the next pickle of a file. Returns its content and storages."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        # Python's unpickler allocates memory for the highest index: gigabytes for a pickle of a few bytes.
        if opcode.name.endswith("PUT") and int(argument) > MAX_MEMO:
            raise UserError(f"The file's pickle has a memo index above {MAX_MEMO:,}, more than weights need.")
    file.seek(start)
    unpickler = RestrictedUnpickler(file)
    return unpickler.load(), unpickler.storages


def read_torch_zip(path: Path) -> TorchFile:
    """Reads a file of PyTorch 1.6 or newer."""
    with zipfile.ZipFile(path) as archive:
        [pickled] = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        folder = pickled[: -len("data.pkl")]
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise UserError(f"{str(path)!r} is a compressed archive. PyTorch writes uncompressed ones.")
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in archive.namelist() else b"little"
        _check_byte_order(path, order == b"little")
        content, storages = load_pickle(io.BytesIO(archive.read(pickled)))
        data = {key: archive.read(f"{folder}data/{key}") for key in storages}
    return TorchFile(content, data.__getitem__)


def read_torch_legacy(path: Path) -> TorchFile:
    """Reads a file of PyTorch before 1.6: a sequence of pickles, then the values."""
    with io.BytesIO(path.read_bytes()) as file:  # in memory, reading with a wrong length allocates nothing
        magic, _ = load_pickle(file)
        load_pickle(file)  # version of the protocol
        system, _ = load_pickle(file)
        if magic != LEGACY_MAGIC or not isinstance(system, Mapping):
            raise UserError(f"{str(path)!r} is not a PyTorch file.")
        _check_byte_order(path, system.get("little_endian", True))
        content, storages = load_pickle(file)
        keys, _ = load_pickle(file)
        data = {str(key): _read_storage(file, storages[str(key)]) for key in keys}
    return TorchFile(content, data.__getitem__)


def _check_byte_order(path: Path, little: bool) -> None:
    if not little:
        raise UserError(f"{str(path)!r} was written on a big-endian machine. Save it again on a little-endian one.")


def _read_storage(file: BinaryIO, storage: Storage) -> bytes:
    count = int.from_bytes(file.read(8), "little", signed=True)
    kind = np.uint16 if storage.kind == _BFLOAT16 else storage.kind
    if count != storage.count:
        raise UserError(
            f"Storage {storage.key} has {count} values instead of {storage.count}. Download the file again."
        )
    data = file.read(count * np.dtype(kind).itemsize)
    if len(data) != count * np.dtype(kind).itemsize:
        raise UserError(f"The file ends within storage {storage.key}. Download it again.")
    return data
