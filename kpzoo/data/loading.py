"""Data sets from folders."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kpzoo.data.coco import read_annotations
from kpzoo.data.files import PoseData, annotation_file, is_pack
from kpzoo.data.image_files import image_folder, names_on_disk
from kpzoo.data.problems import Problems
from kpzoo.errors import UserError

if TYPE_CHECKING:
    from kpzoo.data.pack import Pack


def load(
    root: str | Path | None = None,
    split: str | None = None,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    skeleton=None,
    category: str | int | None = None,
    strict: bool = False,
    allow_outside: bool = False,
) -> "PoseData | Pack":
    """Loads COCO-format keypoint data: from a folder and a split's name, or from two paths.

    In a folder, the annotations are `annotations/*<split>*.json`, and the pictures lie in the folder itself, in
    `images`, or in a folder of one of these. The folder of a pack, which `kpzoo data pack` writes, gives a
    `kpzoo.data.pack.Pack`, to train on.

    Args:
        root: The data set's folder, such as "~/coco".
        split: Part of the file's name that tells which, such as "val".
        annotations: The annotation file, instead of what `split` finds.
        images: The folder of pictures, instead of what `split` finds.
        skeleton: A skeleton or its name, where the file's own should not be used.
        category: Name or number of the category to read, where several have keypoints.
        strict: Whether what could be repaired is an error instead; else it is warned of.
        allow_outside: Whether pictures may lie outside of the folder, by absolute names or "..".

    Raises:
        UserError: Nothing, or more than one file fits, or the annotations are wrong.
    """
    if annotations is None and is_pack(root):
        from kpzoo.data.pack import open_pack  # with it comes TensorFlow

        given = dict(images=images, skeleton=skeleton, category=category)
        if names := [f"`{name}=`" for name, value in given.items() if value is not None]:
            raise UserError(f"{root} is a pack, which has its own images and skeleton. Leave out {', '.join(names)}.")
        return open_pack(root, split)
    if annotations is None:
        annotations = annotation_file(root, split)
    options = dict(skeleton=skeleton, category=category, strict=strict, allow_outside=allow_outside)
    annotations = Path(annotations).expanduser()
    content = read_annotations(annotations, **options)
    if images is None:
        images = image_folder(annotations, root, split, content.file_names, allow_outside)
    images, problems = existing_folder(images), Problems(annotations)
    names = names_on_disk(images, content.file_names, allow_outside)
    names.tell(problems)
    problems.refuse(strict)
    content = replace(content, file_names=names.file_names, problems=(*content.problems, *problems))
    repairs = [problem for problem in content.problems if problem.severity == "repair"]
    if repairs:
        more = f" And {len(repairs) - 1} more kinds of problem." if len(repairs) > 1 else ""
        warnings.warn(f"{annotations}: {repairs[0]}{more} `kpzoo data check` tells all.", stacklevel=2)
    return PoseData(content, images)


def existing_folder(images: str | Path) -> Path:
    """Returns the path of a folder of pictures, or refuses what is none."""
    images = Path(images).expanduser()
    if not images.is_dir():
        raise UserError(f"There is no folder of pictures at {str(images)!r}.", "Pass the right one as `images=`.")
    return images
