"""A data set on disk: annotation files, image folders, and images that cannot be decoded."""

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
    """A data set: annotations, and the image folder to which their file names are relative."""

    annotations: Annotations
    image_folder: Path

    @property
    def skeleton(self):
        return self.annotations.skeleton

    @property
    def crc32(self) -> int:
        """Checksum of the annotations."""
        persons = self.annotations.persons
        columns = [persons.image_ids, persons.boxes_image_xywh, persons.keypoints_image_xy, persons.visibility]
        if (persons.keypoint_weights != 1).any():  # runs on data without weights keep their checksum
            columns.append(persons.keypoint_weights)
        return reduce(lambda crc, column: zlib.crc32(np.ascontiguousarray(column).tobytes(), crc), columns, 0)

    def image_paths(self, image_ids: Sequence[int]) -> list[str]:
        """Returns the path of each image id."""
        names = dict(zip(self.annotations.image_ids.tolist(), self.annotations.file_names, strict=True))
        return [
            str(self.image_folder / Path(names[image_id]).expanduser()) for image_id in np.asarray(image_ids).tolist()
        ]


def is_pack(root: str | Path | None) -> bool:
    """Returns whether `root` is a pack: a folder with the index of a pack, or a URL."""
    return root is not None and ("://" in str(root) or (Path(root).expanduser() / PACK_INDEX).exists())


def annotation_files(root: str | Path, split: str | None = None) -> list[Path]:
    """Returns the keypoint annotation files of a data set, sorted by name."""
    folder = Path(root).expanduser() / "annotations"
    found = sorted(folder.glob(_pattern(split)))
    keypoints = [path for path in found if "keypoints" in path.name]  # COCO has captions and instances, too
    return keypoints or found


def _pattern(split: str | None) -> str:
    return f"*{split.removesuffix('.json')}*.json" if split else "*.json"


def annotation_file(root, split) -> Path:
    if root is None:
        raise UserError("Pass the folder of the data set, or an annotation file as `annotations=`. Received neither.")
    found = annotation_files(root, split)
    exact = [path for path in found if split in (path.name, path.name.removesuffix(".gz").removesuffix(".json"))]
    found = exact if len(exact) == 1 else found
    if len(found) != 1:
        names = [path.name for path in found] or "none"
        folder = str(Path(root).expanduser() / "annotations")
        raise UserError(
            f"Expected one annotation file like {_pattern(split)!r} in {folder!r}. Found: {names}.",
            "Use a split that matches one of these names." if found else "",
            "Or pass the file as `annotations=`.",
            "To train without validation data, use --val-split ''." if split == "val" and not found else "",
        )
    return found[0]


class Undecodable(NamedTuple):
    """An image that cannot be decoded, and the reason."""

    path: str
    reason: str


def undecodable(paths: Sequence[str], progress: bool = False) -> dict[str, str]:
    """Returns the paths of the images that cannot be decoded, with the reasons."""
    return {path: found for path, found in decoded(paths, progress).items() if isinstance(found, str)}


def report_undecodable(bad: Mapping[str, str]) -> None:
    """Prints the first ten images that cannot be decoded, with the reasons, on stderr."""
    for path, reason in list(bad.items())[:10]:
        print(f"skipped: {path}: {reason}", file=sys.stderr)
    if len(bad) > 10:
        print(f"skipped: {len(bad)} images in total", file=sys.stderr)


def decoded(paths: Sequence[str], progress: bool = False) -> dict[str, tuple[int, int] | str]:
    """Decodes images. Returns the stored (height, width) of each path, or the reason why it cannot be decoded."""

    def outcome(path: str) -> tuple[int, int] | str:
        image = decode(path)
        return image.reason if isinstance(image, Undecodable) else tuple(image.shape[:2])

    paths, found = sorted(set(paths)), {}
    told = Progress(len(paths), "images", "checked", shown=progress)
    with ThreadPoolExecutor(os.cpu_count()) as pool, told:
        for path, result in zip(paths, pool.map(outcome, paths), strict=True):
            found[path] = result
            told.step()
    return found


def decode(path: str) -> "tf.Tensor | Undecodable":
    """Decodes an image as the training pipeline does, so that training does not stop at an image later.

    Args:
        path: Image file. Sizes that are too large are rejected before decoding.

    Returns:
        The stored pixels, (H, W, 3) uint8 RGB without EXIF rotation, or an `Undecodable`.
    """
    import tensorflow as tf

    from kpzoo import crops

    try:
        pictures.size_of(path)
        contents = Path(path).read_bytes()
        if crops.is_jpeg(contents):
            image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
        elif crops.is_png(contents):
            image = tf.io.decode_png(contents, channels=3)
        else:
            image = pictures.read_image(path, apply_exif=False)
    except pictures.UnreadablePicture as error:
        return Undecodable(path, error.reason)
    except OSError as error:
        return Undecodable(path, error.strerror)
    except tf.errors.OpError as error:
        words = error.message.split("[Op:")[0].strip().splitlines()[0]
        return Undecodable(path, re.sub(r"^\{\{.*?\}\} ", "", words))
    return image if image.ndim == 3 else Undecodable(path, f"shape {tuple(image.shape)}")
