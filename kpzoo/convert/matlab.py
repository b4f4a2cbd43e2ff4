"""Reads MATLAB files with SciPy, which executes nothing."""

from pathlib import Path
from typing import Any

import numpy as np

from kpzoo.convert import hdf5
from kpzoo.errors import UserError

MAX_BYTES = 1 << 31  # of a file


def load(path: Path) -> dict[str, Any]:
    """Returns the variables of a MATLAB file of version 5, with structures as NumPy's structured arrays."""
    try:
        import scipy.io
    except ImportError:
        raise UserError("MATLAB files need SciPy. Install it with `pip install 'kpzoo[convert]'`.") from None
    try:
        head, size = path.open("rb").read(128), path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if hdf5.MAGIC in head or b"MATLAB 7.3" in head:
        raise UserError(f"{path} is a MATLAB file of version 7.3. Save it with `save(..., '-v7')`.")
    if size > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES >> 30} GiB. Save its parts in several files.")
    try:
        return scipy.io.loadmat(path)
    except Exception as error:  # of damaged files SciPy raises nearly all kinds
        what = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a MATLAB file, or is damaged: {what}.") from None


def kind(path: Path) -> str:
    """Returns "mpii" or "lsp" by the variables of a file; "" for others."""
    try:
        names = load(path)
    except UserError:
        return ""
    if "RELEASE" in names:
        return "mpii"
    return "lsp" if "joints" in names else ""


def rows(value) -> list[np.void]:
    """Returns the elements of an array of structures; none if the value is no such array."""
    return list(value.ravel()) if isinstance(value, np.ndarray) and value.dtype.names else []


def field(row: np.void, name: str) -> np.ndarray:
    """Returns a field of a structure; an empty array if it has none."""
    if name not in (row.dtype.names or ()):
        return np.empty(0)
    value = row[name]
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def value(row: np.void, name: str) -> float | None:
    """Returns the number in a field of a structure; None if there is none."""
    found = field(row, name)
    while found.dtype == object and found.size == 1:
        found = np.asarray(found.ravel()[0])
    if found.dtype.kind == "U" and found.size == 1 and str(found.ravel()[0]).strip() in ("0", "1"):
        return float(str(found.ravel()[0]))  # MPII has some visibilities as text
    if found.size != 1 or found.dtype.kind not in "fiub":
        return None
    return float(found.ravel()[0])


def string(row: np.void, name: str) -> str:
    """Returns the text in a field of a structure; "" if there is none."""
    found = field(row, name)
    while found.dtype == object and found.size == 1:
        found = np.asarray(found.ravel()[0])
    return str(found.ravel()[0]) if found.dtype.kind in "US" and found.size == 1 else ""
