"""PyTorch's files without PyTorch, and without running what a pickle asks for.

A pickle is a program. The few functions that rebuild tensors are replaced by ours, bookkeeping objects of well-known
packages by empty stand-ins, and anything else is refused before it is looked up: nothing is ever imported.
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

# What training scripts leave beside the weights: configurations, histories, optimizer states.
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

# And single helpers of Python's own, for byte strings and sets; they too become stand-ins.
HELPERS = {("_codecs", "encode"), ("builtins", "set"), ("__builtin__", "set"), ("builtins", "complex")}

MAX_MEMO = 1_000_000  # objects that one pickle may remember; HRNet-W48 with its optimizer has 60,000

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
    """Takes the place of an object that has nothing to do with weights."""

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
    """A run of numbers elsewhere in the file."""

    kind: Any
    key: str
    count: int
    offset: int = 0


class Tensor(NamedTuple):
    """A view into a storage, resolved once the pickle has been read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def resolve(self, bytes_of: Callable[[str], bytes]) -> np.ndarray:
        """Returns the array; bfloat16 becomes float32."""
        kind = np.uint16 if self.storage.kind == _BFLOAT16 else self.storage.kind
        data = np.frombuffer(bytes_of(self.storage.key), np.dtype(kind).newbyteorder("<"))
        first = self.storage.offset + self.offset
        last = first + sum((side - 1) * step for side, step in zip(self.shape, self.strides, strict=True))
        size = math.prod(self.shape)
        if min((first, *self.shape, *self.strides)) < 0 or size > len(data) or (size and last >= len(data)):
            raise UserError(f"A tensor of shape {self.shape} reaches beyond its storage of {len(data)} numbers.")
        steps = tuple(step * data.itemsize for step in self.strides)
        array = np.lib.stride_tricks.as_strided(data[first:], self.shape, steps).copy()
        if self.storage.kind == _BFLOAT16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


def _rebuild_tensor(storage, offset, shape, strides, *_):
    if not isinstance(storage, Storage):
        raise UserError("A tensor has no storage.")
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
    """Reads dicts, lists, numbers, strings and tensors, and remembers the storages it met."""

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
        raise UserError(f"The file asks to run {module}.{name}, which no weights need. It was not run.")

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or not pid or pid[0] != "storage":
            return StandIn()
        _, kind, key, _, count, *view = pid
        offset = view[0][1] if view and view[0] else 0
        return self.storages.setdefault(str(key), Storage(kind, str(key), count))._replace(offset=offset)


class TorchFile(NamedTuple):
    """What a file holds, `Tensor`s in place of arrays, and where their numbers are."""

    content: Any
    bytes_of: Callable[[str], bytes]


def load_pickle(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Returns the next pickle of a file and the storages it names."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        # Python's unpickler makes room for the highest index it is told, gigabytes for a few bytes of pickle.
        if opcode.name.endswith("PUT") and int(argument) > MAX_MEMO:
            raise UserError("The file's pickle remembers more objects than weights have.")
    file.seek(start)
    unpickler = RestrictedUnpickler(file)
    return unpickler.load(), unpickler.storages


def read_torch_zip(path: Path) -> TorchFile:
    """Reads a file of PyTorch 1.6 or newer."""
    with zipfile.ZipFile(path) as archive:
        [pickled] = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        folder = pickled[: -len("data.pkl")]
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise UserError(f"{str(path)!r} is a compressed archive, which PyTorch does not write.")
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in archive.namelist() else b"little"
        _check_byte_order(path, order == b"little")
        content, storages = load_pickle(io.BytesIO(archive.read(pickled)))
        data = {key: archive.read(f"{folder}data/{key}") for key in storages}
    return TorchFile(content, data.__getitem__)


def read_torch_legacy(path: Path) -> TorchFile:
    """Reads a file of PyTorch before 1.6: pickles in a row, then the numbers."""
    with io.BytesIO(path.read_bytes()) as file:  # in memory a promised length costs nothing, from a disk it does
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
        raise UserError(f"{str(path)!r} was written on a big-endian machine. Save it anew on another.")


def _read_storage(file: BinaryIO, storage: Storage) -> bytes:
    count = int.from_bytes(file.read(8), "little", signed=True)
    kind = np.uint16 if storage.kind == _BFLOAT16 else storage.kind
    if count != storage.count:
        raise UserError(f"Storage {storage.key} holds {count} numbers, {storage.count} were announced.")
    data = file.read(count * np.dtype(kind).itemsize)
    if len(data) != count * np.dtype(kind).itemsize:
        raise UserError(f"The file ends within storage {storage.key}. Fetch it again.")
    return data
