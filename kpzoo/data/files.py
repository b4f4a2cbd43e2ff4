"""A data set on disk: annotations, the folder of its pictures, and which pictures cannot be decoded."""

import os
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kpzoo import images as pictures
from kpzoo.data.coco import Annotations
from kpzoo.errors import UserError
from kpzoo.progress import Progress

if TYPE_CHECKING:
    import tensorflow as tf


PACK_INDEX = "pack.json"


@dataclass(frozen=True)
class PoseData:
    """Annotations and the folder that their file names count from."""

    annotations: Annotations
    image_folder: Path

    @property
    def skeleton(self):
        return self.annotations.skeleton

    @property
    def crc32(self) -> int:
        """A number that tells these annotations from others."""
        persons = self.annotations.persons
        columns = (persons.image_ids, persons.boxes_image_xywh, persons.keypoints_image_xy, persons.visibility)
        return reduce(lambda crc, column: zlib.crc32(np.ascontiguousarray(column).tobytes(), crc), columns, 0)

    def image_paths(self, image_ids: Sequence[int]) -> list[str]:
        """Returns the file of each image id."""
        names = dict(zip(self.annotations.image_ids.tolist(), self.annotations.file_names, strict=True))
        return [
            str(self.image_folder / Path(names[image_id]).expanduser()) for image_id in np.asarray(image_ids).tolist()
        ]


def is_pack(root: str | Path | None) -> bool:
    """Returns whether what could be a data set's folder is a pack: has its index, or an address instead of a path."""
    return root is not None and ("://" in str(root) or (Path(root).expanduser() / PACK_INDEX).exists())


def annotation_files(root: str | Path, split: str | None = None) -> list[Path]:
    """Returns the keypoint annotations in a data set's folder, in sorted order."""
    folder = Path(root).expanduser() / "annotations"
    found = sorted(folder.glob(_pattern(split)))
    keypoints = [path for path in found if "keypoints" in path.name]  # COCO's folder holds captions and instances too
    return keypoints or found


def _pattern(split: str | None) -> str:
    return f"*{split.removesuffix('.json')}*.json" if split else "*.json"


def annotation_file(root, split) -> Path:
    if root is None:
        raise UserError("Pass the data set's folder, or its `annotations=` file. Received neither.")
    found = annotation_files(root, split)
    exact = [path for path in found if split in (path.name, path.name.removesuffix(".gz").removesuffix(".json"))]
    found = exact if len(exact) == 1 else found
    if len(found) != 1:
        names = [path.name for path in found] or "none"
        folder = str(Path(root).expanduser() / "annotations")
        raise UserError(
            f"Expected one annotation file like {_pattern(split)!r} in {folder!r}. Found: {names}.",
            "Name the split as one of the files is called." if found else "",
            "Or pass the file as `annotations=`.",
        )
    return found[0]


class Undecodable(NamedTuple):
    """A picture that cannot be decoded, and why."""

    path: str
    reason: str


def undecodable(paths: Sequence[str], progress: bool = False) -> dict[str, str]:
    """Returns the files among `paths` that cannot be decoded, with the reason."""
    return {path: found for path, found in decoded(paths, progress).items() if isinstance(found, str)}


def tell_left_out(bad: Mapping[str, str]) -> None:
    """Names pictures that cannot be decoded on stderr, by path and reason; of many the first ten."""
    for path, reason in list(bad.items())[:10]:
        print(f"left out of training: {path}: {reason}", file=sys.stderr)
    if len(bad) > 10:
        print(f"left out of training: {len(bad)} pictures in all", file=sys.stderr)


def decoded(paths: Sequence[str], progress: bool = False) -> dict[str, tuple[int, int] | str]:
    """Returns (height, width) of each file as it is stored, or why it cannot be decoded, by decoding each once."""

    def outcome(path: str) -> tuple[int, int] | str:
        image = decode(path)
        return image.reason if isinstance(image, Undecodable) else tuple(image.shape[:2])

    paths, found = sorted(set(paths)), {}
    told = Progress(len(paths), "pictures", "checked", shown=progress)
    with ThreadPoolExecutor(os.cpu_count()) as pool, told:
        for path, result in zip(paths, pool.map(outcome, paths), strict=True):
            found[path] = result
            told.step()
    return found


def decode(path: str) -> "tf.Tensor | Undecodable":
    """Returns a picture (H, W, 3) uint8 RGB as it is stored, as training and its crops see it, or why it cannot be.

    It reads as the training pipeline does, so that what passes here does not stop a training run later. A size that no
    picture has is refused by the header, before anything is decoded.
    """
    import tensorflow as tf

    try:
        pictures.size_of(path)
        contents = Path(path).read_bytes()
        if tf.io.is_jpeg(contents):
            image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
        else:
            image = tf.io.decode_image(contents, channels=3, expand_animations=False)
    except pictures.UnreadablePicture as error:
        return Undecodable(path, error.reason)
    except OSError as error:
        return Undecodable(path, error.strerror)
    except tf.errors.OpError as error:
        words = error.message.split("[Op:")[0].strip().splitlines()[0]
        return Undecodable(path, re.sub(r"^\{\{.*?\}\} ", "", words))
    return image if image.ndim == 3 else Undecodable(path, f"shape {tuple(image.shape)}")
