"""Reads pandas' data frames in HDF5 files without pandas, which would execute the pickles that they hold.

The texts of the columns are arrays in the "fixed" layout. In the "table" layout they are pickles: lists of tuples of
texts. Here such a pickle is read opcode by opcode, and one with any other content is refused.
"""

import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from kpzoo.convert import hdf5
from kpzoo.errors import UserError

MAX_PICKLE = 10_000_000  # bytes

_MARK = object()
_VALUES = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "STRING", "BINSTRING", "SHORT_BINSTRING")
_VALUES += ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def read(path: Path) -> tuple[list[tuple[str, str, str]], list[str], np.ndarray]:
    """Returns the columns, the name of each row, and the (rows, columns) numbers of the first data frame in a file.

    Columns are (individual or "", body part, coordinate); names of rows in several parts are joined by slashes.
    """
    with hdf5.opened(path) as file:
        group = next((file[name] for name in file if "pandas_type" in file[name].attrs), None)
        if group is None:
            raise UserError(f"{path} has no table of pandas. Found: {sorted(file)[:10]}.")
        kind = hdf5.texts(np.asarray(group.attrs["pandas_type"]))[0]
        names, index, table = _table(group, path) if kind == "frame_table" else _fixed(group, path)
    if table.shape != (len(index), len(names)):
        raise UserError(f"{path}: {table.shape} numbers do not fit {len(index)} rows and {len(names)} columns.")
    lengths = {len(name) for name in names}
    if not lengths <= {3, 4} or len(lengths) != 1:
        raise UserError(f"{path}: columns need scorer, body part and coordinate. Received: {names[:2]}.")
    columns = [(name[1] if len(name) == 4 else "", *name[-2:]) for name in names]
    infinite = np.isinf(table) | (np.abs(np.nan_to_num(table)) > 1e6)
    if infinite.any():
        raise UserError(f"{path}: row {index[np.flatnonzero(infinite.any(axis=1))[0]]!r} has a number without meaning.")
    return columns, index, table


def _fixed(group: Any, path: Path) -> tuple[list[tuple], list[str], np.ndarray]:
    blocks = []
    columns = _labels(group, "axis0", path)
    for number in range(1000):
        if f"block{number}_values" not in group:
            break
        items = _labels(group, f"block{number}_items", path)
        numbers = hdf5.floats(hdf5.array(group, f"block{number}_values", path, 2), f"block{number}_values", path)
        blocks.append((items, numbers.T if numbers.shape[1] != len(items) else numbers))
    found = {item: column for items, numbers in blocks for item, column in zip(items, numbers.T, strict=False)}
    if set(found) != set(columns):
        raise UserError(f"{path}: the numbers of some columns are missing, or are not numbers.")
    index = ["/".join(parts) for parts in _labels(group, "axis1", path)]
    return columns, index, np.stack([found[column] for column in columns], axis=1)


def _labels(group: Any, axis: str, path: Path) -> list[tuple[str, ...]]:
    """Returns the labels of an axis, each as a tuple of the texts of its levels."""
    if axis in group:
        return [(text,) for text in hdf5.texts(hdf5.array(group, axis, path))]
    levels = []
    for number in range(8):
        if f"{axis}_level{number}" in group:
            texts = [*hdf5.texts(hdf5.array(group, f"{axis}_level{number}", path)), ""]  # -1 is a missing label
            codes = hdf5.array(group, f"{axis}_label{number}", path, 1)
            if codes.dtype.kind not in "iu" or (len(codes) and not -1 <= codes.min() <= codes.max() < len(texts) - 1):
                raise UserError(f"{path}: labels of {axis!r} point outside of their list.")
            levels.append([texts[code] for code in codes.tolist()])
    if not levels or len(set(map(len, levels))) != 1:
        raise UserError(f"{path}: there are no labels of {axis!r}.")
    return list(zip(*levels, strict=True))


def _table(group: Any, path: Path) -> tuple[list[tuple], list[str], np.ndarray]:
    table = hdf5.array(group, "table", path, 1)
    fields = table.dtype.names or ()
    blocks = [name for name in fields if name.startswith("values_block_") and table[name].dtype.kind == "f"]
    if len(blocks) != 1:
        raise UserError(f"{path}: expected one block of numbers. Received: {list(fields)[:10]}.")
    names = unpickled_texts(_bytes(group["table"].attrs.get(f"{blocks[0]}_kind")), path)
    levels = [name for name in fields if not name.startswith("values_block_")]
    parts = [hdf5.texts(table[name]) for name in levels]
    index = ["/".join(row) for row in zip(*parts, strict=True)] if parts else []
    columns = [name if isinstance(name, tuple) else (name,) for name in names]
    return [tuple(map(str, name)) for name in columns], index, table[blocks[0]].reshape(len(table), -1)


def _bytes(value) -> bytes:
    if isinstance(value, np.ndarray) and value.dtype.kind in "SV":
        return value.tobytes()
    return bytes(value) if isinstance(value, bytes | np.bytes_) else str(value).encode()


def unpickled_texts(data: bytes, path: Path) -> list:
    """Returns the list of texts, numbers and tuples of these that a pickle describes, without executing it.

    Raises:
        UserError: If the pickle describes anything else, such as an object.
    """
    refused = UserError(
        f"{path}: the names of the columns are not a plain list of texts, and pickles are not executed."
    )
    if len(data) > MAX_PICKLE:
        raise refused
    stack: list = []
    memo: dict = {}
    try:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in _VALUES:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name == "MARK":
                stack.append(_MARK)
            elif name in ("LIST", "TUPLE", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
                _collect(stack, name)
            elif name == "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            elif name == "APPENDS":
                values = _above_mark(stack)
                stack[-1].extend(values)
            elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "STOP":
                break
            elif name not in ("PROTO", "FRAME"):
                raise refused
    except (ValueError, IndexError, KeyError, AttributeError, UnicodeError, TypeError):
        raise refused from None
    if len(stack) != 1 or type(stack[0]) is not list:
        raise refused
    return stack[0]


def _collect(stack: list, name: str) -> None:
    if name.startswith("EMPTY"):
        stack.append([] if name == "EMPTY_LIST" else ())
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
    else:
        values = _above_mark(stack)
        stack.append(values if name == "LIST" else tuple(values))


def _above_mark(stack: list) -> list:
    at = len(stack) - 1
    while stack[at] is not _MARK:
        at -= 1
        if at < 0:
            raise IndexError
    values = stack[at + 1 :]
    del stack[at:]
    return values
