"""Writer of `.safetensors` files: a header in JSON, then the bytes of the arrays."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_KINDS = {"f": "F", "i": "I", "u": "U"}


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays as a `.safetensors` file.

    Args:
        path: The file.
        arrays: Numbers or booleans by name.
        metadata: Texts by name.
    """
    header, offset = {"__metadata__": dict(metadata)}, 0
    for name, array in arrays.items():
        dtype = "BOOL" if array.dtype.kind == "b" else f"{_KINDS[array.dtype.kind]}{8 * array.itemsize}"
        header[name] = dict(dtype=dtype, shape=array.shape, data_offsets=(offset, offset + array.nbytes))
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
