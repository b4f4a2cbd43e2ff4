"""Reads MATLAB files of version 5 to 7: numbers, texts, cells and structures.

SciPy reads them, too, but ends the process on some damaged files. The layout is that of MathWorks' "MAT-File Format".
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kpzoo.errors import UserError

MAX_BYTES = 1 << 31  # of a file, and of what is compressed in it
MAX_DEPTH = 32  # of structures within structures

_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = range(6, 16)  # classes of matrices of numbers
_COMPLEX = 0x800


class _Damaged(Exception):
    """A file that is not as the format says."""


def load(path: Path, *names: str) -> dict[str, Any]:
    """Returns the variables of a file: arrays of numbers, texts, lists (cells), and lists of dicts (structures).

    Args:
        path: The file.
        names: Names of the fields of structures to read; none for all.

    Raises:
        UserError: If the file cannot be read, or is of version 4 or 7.3.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES >> 30} GiB. Save its parts in several files.")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if data[:128].find(b"MATLAB 7.3") >= 0 or data[512:520] == b"\x89HDF\r\n\x1a\n":
        raise UserError(f"{path} is a MATLAB file of version 7.3. Save it in version 7.")
    if data[126:128] not in (b"IM", b"MI"):
        raise UserError(f"{path} is not a MATLAB file of version 5 to 7.")
    try:
        return dict(_Reader("<" if data[126:128] == b"IM" else ">", frozenset(names)).variables(memoryview(data)[128:]))
    except (_Damaged, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged, or has what is not read of MATLAB files: {error}.") from None


def kind(path: Path) -> str:
    """Returns "mpii" or "lsp" by the variables of a file; "" for others."""
    try:
        names = load(path, "version")
    except UserError:
        return ""
    if "RELEASE" in names:
        return "mpii"
    return "lsp" if "joints" in names else ""


class _Reader:
    """Reads elements: a tag with the kind and the number of bytes, and the bytes, filled up to a multiple of 8."""

    def __init__(self, order: str, names: frozenset[str]):
        self._order, self._names = order, names

    def variables(self, data: memoryview) -> Iterator[tuple[str, Any]]:
        for kind, part in self._elements(data):
            if kind == _COMPRESSED:
                unpacking = zlib.decompressobj()
                part = memoryview(unpacking.decompress(part, MAX_BYTES))
                if unpacking.unconsumed_tail:
                    raise _Damaged(f"a variable has more than {MAX_BYTES >> 30} GiB")
                yield from self.variables(part)
            elif kind == _MATRIX:
                yield self._matrix(part, 0)

    def _elements(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        place = 0
        while place + 8 <= len(data):
            kind, size, part, place = self._element(data, place)
            yield kind, part

    def _element(self, data: memoryview, place: int) -> tuple[int, int, memoryview, int]:
        """Returns kind, size and bytes of the element at a place, and the place after it."""
        kind, size = struct.unpack_from(f"{self._order}2I", data, place)
        if kind >> 16:  # up to four bytes are within the tag
            kind, size, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        else:
            start = place + 8
            end = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if size > len(data) - start:
            raise _Damaged("it ends early")
        return kind, size, data[start : start + size], end

    def _matrix(self, data: memoryview, depth: int) -> tuple[str, Any]:
        """Returns the name and the value of a matrix."""
        if not len(data):
            return "", np.empty((0, 0))
        if depth > MAX_DEPTH:
            raise _Damaged("its structures are nested too deeply")
        _, _, flags, place = self._element(data, 0)
        kind, _, part, place = self._element(data, place)
        shape = tuple(self._numbers(kind, part).astype(int).tolist())
        _, _, name, place = self._element(data, place)
        flags = struct.unpack_from(f"{self._order}I", flags)[0]
        count = _product(shape)
        if count < 0 or not 1 <= len(shape) <= 32:
            raise _Damaged(f"a matrix has the shape {shape}")
        return bytes(name).decode("latin-1"), self._content(flags, shape, count, data, place, depth)

    def _content(self, flags: int, shape: tuple, count: int, data: memoryview, place: int, depth: int) -> Any:
        kind = flags & 0xFF
        if kind in _NUMBERS and not flags & _COMPLEX:
            found, _, part, _ = self._element(data, place)
            values = self._numbers(found, part)
            if len(values) != count:
                raise _Damaged(f"a matrix has {len(values)} of {count} numbers")
            return values.reshape(shape, order="F")
        if kind == _CHAR:
            found, _, part, _ = self._element(data, place)
            return self._text(found, part) if len(shape) == 2 and (shape[0] == 1 or not count) else ""
        if kind == _CELL:
            return [value for value, _ in self._matrices(data, place, count, depth)]
        if kind == _STRUCT:
            return self._structures(data, place, count, depth)
        raise _Damaged(f"it has a value of class {kind}")

    def _structures(self, data: memoryview, place: int, count: int, depth: int) -> list[dict[str, Any]]:
        kind, _, part, place = self._element(data, place)
        widths = self._numbers(kind, part).astype(int).tolist()
        _, _, part, place = self._element(data, place)
        if len(widths) != 1 or not 1 <= widths[0] <= 64 or len(part) % widths[0]:
            raise _Damaged("the names of a structure's fields are missing")
        fields = [
            bytes(part[at : at + widths[0]]).split(b"\0")[0].decode("latin-1") for at in range(0, len(part), widths[0])
        ]
        wanted = [not self._names or name in self._names for name in fields]
        rows: list[dict[str, Any]] = []
        for _ in range(count if fields else 0):
            row = {}
            for name, is_wanted in zip(fields, wanted, strict=True):
                value, place = self._inner(data, place, depth, is_wanted)
                if is_wanted:
                    row[name] = value
            rows.append(row)
        return rows

    def _matrices(self, data: memoryview, place: int, count: int, depth: int) -> Iterator[tuple[Any, int]]:
        for _ in range(count):
            value, place = self._inner(data, place, depth, True)
            yield value, place

    def _inner(self, data: memoryview, place: int, depth: int, is_wanted: bool) -> tuple[Any, int]:
        """Returns the value of the matrix at a place, None if it is skipped, and the place after it."""
        kind, _, part, place = self._element(data, place)
        if kind != _MATRIX:
            raise _Damaged(f"an element of kind {kind} is in the place of a matrix")
        return self._matrix(part, depth + 1)[1] if is_wanted else None, place

    def _numbers(self, kind: int, data: memoryview) -> np.ndarray:
        if kind not in _TYPES:
            raise _Damaged(f"an element of kind {kind} is in the place of numbers")
        kind = np.dtype(self._order + _TYPES[kind])
        if len(data) % kind.itemsize:
            raise _Damaged("a number is cut off")
        return np.frombuffer(data, kind)

    def _text(self, kind: int, data: memoryview) -> str:
        encoding = _TEXTS.get(kind, "latin-1")
        byte_order = {"<": "-le", ">": "-be"}[self._order] if encoding in ("utf-16", "utf-32") else ""
        return bytes(data).decode(encoding + byte_order)


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        if side < 0:
            return -1
        count *= side
    return count


def rows(value: Any) -> list[dict[str, Any]]:
    """Returns the elements of an array of structures; none if the value is no such array."""
    return value if type(value) is list and all(type(one) is dict for one in value) else []


def number(value: Any) -> float | None:
    """Returns the only number of a value, which may be written as text; None if there is none."""
    if type(value) is str and value.strip() in ("0", "1"):  # MPII has some visibilities as text
        return float(value)
    return float(value.ravel()[0]) if isinstance(value, np.ndarray) and value.size == 1 else None
