"""A data set on disk: annotations, the folder of its pictures, and which pictures cannot be decoded."""

import os
import re
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpzoo import images as pictures
from kpzoo.data.coco import Annotations, read_annotations
from kpzoo.errors import UserError


@dataclass(frozen=True)
class PoseData:
    """Annotations and the folder that their file names count from."""

    annotations: Annotations
    image_folder: Path

    @property
    def skeleton(self):
        return self.annotations.skeleton

    def image_paths(self, image_ids: Sequence[int]) -> list[str]:
        """Returns the file of each image id."""
        names = dict(zip(self.annotations.image_ids.tolist(), self.annotations.file_names, strict=True))
        return [str(self.image_folder / names[image_id]) for image_id in np.asarray(image_ids).tolist()]


def load(
    root: str | Path | None = None,
    split: str | None = None,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    skeleton=None,
    strict: bool = False,
    allow_outside: bool = False,
) -> PoseData:
    """Loads COCO-format keypoint data: from a folder and a split's name, or from two paths.

    In a folder, the annotations are `annotations/*<split>*.json`, and the pictures lie in the folder itself, in
    `images`, or in a folder of one of these.

    Args:
        root: The data set's folder, such as "~/coco".
        split: Part of the file's name that tells which, such as "val".
        annotations: The annotation file, instead of what `split` finds.
        images: The folder of pictures, instead of what `split` finds.
        skeleton: A skeleton or its name, where the file's own should not be used.
        strict: Whether what could be repaired is an error instead; else it is warned of.
        allow_outside: Whether pictures may lie outside of the folder, by absolute names or "..".

    Raises:
        UserError: Nothing, or more than one file fits, or the annotations are wrong.
    """
    if annotations is None:
        annotations = _annotation_file(root, split)
    content = read_annotations(annotations, skeleton=skeleton, strict=strict, allow_outside=allow_outside)
    repairs = [problem for problem in content.problems if problem.severity == "repair"]
    if repairs:
        more = f" And {len(repairs) - 1} more kinds of problem." if len(repairs) > 1 else ""
        warnings.warn(f"{annotations}: {repairs[0]}{more} `kpzoo data check` tells all.", stacklevel=2)
    if images is None:
        images = image_folder(Path(annotations), root, split, content.file_names)
    images = Path(images).expanduser()
    if not images.is_dir():
        raise UserError(f"There is no folder of pictures at {str(images)!r}. Pass the right one as `images`.")
    return PoseData(content, images)


def annotation_files(root: str | Path, split: str | None = None) -> list[Path]:
    """Returns the keypoint annotations in a data set's folder, in sorted order."""
    folder = Path(root).expanduser() / "annotations"
    found = sorted(folder.glob(_pattern(split)))
    keypoints = [path for path in found if "keypoints" in path.name]  # COCO's folder holds captions and instances too
    return keypoints or found


def _pattern(split: str | None) -> str:
    return f"*{split}*.json" if split else "*.json"


def _annotation_file(root, split) -> Path:
    if root is None:
        raise UserError("Pass the data set's folder, or its `annotations` file. Received neither.")
    found = annotation_files(root, split)
    if len(found) != 1:
        names = [path.name for path in found] or "none"
        folder = str(Path(root).expanduser() / "annotations")
        raise UserError(
            f"Expected one annotation file like {_pattern(split)!r} in {folder!r}. Found: {names}. "
            "Name the split more exactly, or pass `annotations`."
        )
    return found[0]


def image_folder(annotations: Path, root: str | Path | None, split: str | None, file_names: Sequence[str]) -> Path:
    """Returns the first folder about the annotations that holds one of the first pictures.

    Splits may share file names: a folder named like the split, or named in the annotation file's name, comes first.
    """
    root = Path(root).expanduser() if root is not None else annotations.parent.parent
    folders = [root / "images", root, *sorted(root.glob("images/*")), *sorted(root.glob("*"))]
    folders.sort(key=lambda folder: split not in folder.name if split else folder.name not in annotations.stem)
    for folder in folders:
        if folder.is_dir() and (not file_names or any((folder / name).is_file() for name in file_names[:10])):
            return folder
    raise UserError(
        f"No folder in {str(root)!r} or its 'images' holds {file_names[0]!r} of {str(annotations)!r}. "
        "Pass the folder as `images`."
    )


def undecodable(paths: Sequence[str], progress: bool = False) -> dict[str, str]:
    """Returns the files among `paths` that cannot be decoded, with the reason."""
    return {path: found for path, found in decoded(paths, progress).items() if isinstance(found, str)}


def decoded(paths: Sequence[str], progress: bool = False) -> dict[str, tuple[int, int] | str]:
    """Returns (height, width) of each file as it is stored, or why it cannot be decoded, by decoding each once.

    It reads as the training pipeline does, so that what passes here does not stop a training run later. A size that no
    picture has is refused by the header, before anything is decoded.
    """
    import tensorflow as tf

    def outcome(path: str) -> tuple[int, int] | str:
        try:
            pictures.size_of(path)
            contents = Path(path).read_bytes()
            shape = tf.io.decode_image(contents, channels=3, expand_animations=False).shape
        except pictures.UnreadablePicture as error:
            return error.reason
        except OSError as error:
            return error.strerror
        except tf.errors.OpError as error:
            return re.sub(r"^\{\{.*?\}\} ", "", error.message.split("[Op:")[0].strip().splitlines()[0])
        return tuple(shape[:2]) if len(shape) == 3 else f"shape {tuple(shape)}"

    paths, found = sorted(set(paths)), {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for count, (path, result) in enumerate(zip(paths, pool.map(outcome, paths), strict=True), 1):
            found[path] = result
            if progress and (count % 500 == 0 or count == len(paths)):
                print(f"\rchecked {count}/{len(paths)} pictures ", end="", file=sys.stderr, flush=True)
    if progress and paths:
        print(file=sys.stderr)
    return found
