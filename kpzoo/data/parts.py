"""Parquet parts: the poses of many pictures in files of some hundred pictures each, with one row per picture.

| column | type | |
| :-- | :-- | :-- |
| `file_name` | string | the path of the picture below its source |
| `problem` | string | why it could not be read; null for pictures that were |
| `height`, `width` | int32 | pixels; null with a problem |
| `poses` | list of structs | `keypoints` [x, y, score] * K float32, `score`, `instance`, `box_image_xywh`; best first |
| | | `covariance_xy` [xx, xy, yy] * K float32; null if the model has no `preset.confidence` |

A part is written whole. The metadata `kpzoo` of its schema has the digest of its pictures and settings, and its counts.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kpzoo import stores
from kpzoo.errors import UserError

FOLDER, SUFFIX = "parts", ".parquet"
_KEY = b"kpzoo"


def part_name(number: int) -> str:
    """Returns the name of a part's file."""
    return f"part-{number:08d}{SUFFIX}"


def pyarrow():
    """Imports pyarrow with its Parquet module, or raises an error that names the extra to install."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet parts need pyarrow. Install it with `pip install 'kpzoo[parts]'`.") from None
    return pyarrow


def write_part(path: str | Path, rows: Sequence[dict], description: dict) -> None:
    """Writes a part.

    Args:
        path: The file, local or in a store.
        rows: Dicts from column to value.
        description: What the metadata has, as JSON values.
    """
    arrow = pyarrow()
    schema = _schema(arrow).with_metadata({_KEY: json.dumps(description)})
    buffer = io.BytesIO()
    arrow.parquet.write_table(arrow.Table.from_pylist(list(rows), schema), buffer, compression="zstd")
    stores.write(path, buffer.getvalue())


def description_of(path: str | Path) -> dict | None:
    """Returns the description of a part; None if there is no such file, or it is damaged."""
    arrow = pyarrow()
    try:
        metadata = arrow.parquet.read_schema(io.BytesIO(stores.read(path))).metadata or {}
        return json.loads(metadata[_KEY])
    except (FileNotFoundError, KeyError, ValueError, arrow.ArrowException):
        return None


def paths(folder: str | Path) -> list[str]:
    """Returns the parts of a folder, or of the folder `parts` in it, in order."""
    for place in (stores.joined(folder, FOLDER), stores.joined(folder)):
        if found := [name for name in stores.names(place) if name.endswith(SUFFIX)]:
            return [f"{place}/{name}" for name in found]
    return []


def is_parts(path: str | Path) -> bool:
    """Returns whether a path names a part or a folder, rather than a JSON file."""
    return str(path).endswith(SUFFIX) or stores.is_store(path) or Path(path).expanduser().is_dir()


def read_rows(path: str | Path) -> Iterator[dict]:
    """Yields the rows of a part, or of all parts in a folder, local or in a store.

    Poses are dicts as those of `Poses.to_coco`, which have `covariance_xy` only if it is known.

    Raises:
        UserError: If there is no part, or one is damaged.
    """
    arrow = pyarrow()
    found = [str(path)] if str(path).endswith(SUFFIX) else paths(path)
    if not found:
        raise UserError(f"There are no Parquet parts in {str(path)!r}.", "Pass a folder that `kpzoo predict` wrote.")
    for one in found:
        try:
            table = arrow.parquet.read_table(io.BytesIO(stores.read(one)), schema=_schema(arrow))
        except FileNotFoundError:
            raise UserError(f"There is no part {one!r}.") from None
        except (ValueError, arrow.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{one!r} is not a part of kpzoo: {reason}") from None
        for row in table.to_pylist():
            for pose in row["poses"]:
                if pose["covariance_xy"] is None:
                    del pose["covariance_xy"]
            yield row


def results_of(rows: Iterable[dict]) -> Iterator[dict]:
    """Yields a COCO result for each pose, with the `file_name` of its picture."""
    for row in rows:
        for pose in row["poses"]:
            yield {"file_name": row["file_name"], "category_id": 1, **pose}


def _schema(arrow):
    pose = [
        ("keypoints", arrow.list_(arrow.float32())),
        ("score", arrow.float32()),
        ("instance", arrow.int32()),
        ("box_image_xywh", arrow.list_(arrow.float32())),
        ("covariance_xy", arrow.list_(arrow.float32())),
    ]
    columns = [("file_name", arrow.string()), ("problem", arrow.string())]
    columns += [("height", arrow.int32()), ("width", arrow.int32()), ("poses", arrow.list_(arrow.struct(pose)))]
    return arrow.schema(columns)
