"""Reads HDF5 files with h5py, which executes nothing: values that other libraries store as pickles stay bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kpzoo.errors import UserError

MAX_VALUES = 200_000_000  # of one array; a damaged file may declare any size
MAGIC = b"\x89HDF\r\n\x1a\n"


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Context manager that yields an `h5py.File`. What a damaged file raises in the block becomes a `UserError`."""
    import h5py  # Keras needs it, too; here, as it takes a while to import

    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # of damaged files h5py raises nearly all kinds
        what = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged, or not the HDF5 file that its name says: {what}.") from None


def kind(path: Path) -> str:
    """Returns "sleap" or "deeplabcut" by the names in an HDF5 file; "" for other files."""
    try:
        with opened(path) as file:
            names = set(file)
            tables = [name for name in names if "pandas_type" in file[name].attrs]
    except UserError:
        return ""
    if {"tracks", "node_names"} <= names or {"metadata", "instances"} <= names:
        return "sleap"
    return "deeplabcut" if tables else ""


def array(group: Any, name: str, path: Path, ndim: int | None = None) -> np.ndarray:
    """Returns a dataset as an array.

    Raises:
        UserError: If there is no such dataset, or it is too large or of another number of axes.
    """
    found = group.get(name)
    if found is None or not hasattr(found, "shape") or found.shape is None:
        raise UserError(f"{path} has no array {name!r}. Found: {sorted(group)[:10]}.")
    if np.prod(found.shape, dtype=float) > MAX_VALUES:
        raise UserError(f"{path}: array {name!r} declares {found.shape} values, more than {MAX_VALUES}. It is damaged.")
    if ndim is not None and found.ndim != ndim:
        raise UserError(f"{path}: array {name!r} must have {ndim} axes. Received the shape {found.shape}.")
    return np.asarray(found[()])


def floats(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Returns an array of real numbers as float64."""
    if values.dtype.kind not in "fiub":
        raise UserError(f"{path}: array {name!r} must hold numbers. Received the type {values.dtype}.")
    return values.astype(np.float64)


def texts(values: np.ndarray) -> list[str]:
    """Returns the texts of an array of bytes or strings."""
    return [_text(value) for value in np.asarray(values).ravel().tolist()]


def _text(value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def scalar_text(group: Any, name: str) -> str:
    """Returns the text of a dataset that has one; "" if there is none."""
    found = group.get(name)
    if found is None or getattr(found, "shape", None) is None or np.prod(found.shape) != 1:
        return ""
    return texts(found[()])[0]
