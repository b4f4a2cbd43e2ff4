"""Loading of data sets from folders."""

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
    """Loads COCO-format keypoint data from a folder, or from an annotation file and an image folder.

    The annotation file of a folder is `annotations/*<split>*.json`. The images are in the folder, in its `images`, or
    in a subfolder of these.

    Args:
        root: Folder of the data set, such as "~/coco", or folder or URL of a pack written by `kpzoo data pack`.
        split: Part of the name of the annotation file, such as "val".
        annotations: Annotation file. Replaces the search by `split`.
        images: Image folder. Replaces the search for the images.
        skeleton: A `Skeleton` or its name. Defaults to the skeleton of the annotation file.
        category: Name or id of the category to read. Required if several categories have keypoints.
        strict: Whether to raise an error for annotations that can be repaired. Defaults to a warning.
        allow_outside: Whether file names may point outside the image folder, by absolute paths or "..".

    Returns:
        A `PoseData`, or a `Pack` for training.

    Raises:
        UserError: If no annotation file matches, or several do, or the annotations are invalid.
    """
    if annotations is None and is_pack(root):
        from kpzoo.data.pack import open_pack  # imports TensorFlow

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
    names.report(problems)
    problems.refuse(strict)
    content = replace(content, file_names=names.file_names, problems=(*content.problems, *problems))
    repairs = [problem for problem in content.problems if problem.severity == "repair"]
    if repairs:
        more = f" And {len(repairs) - 1} more kinds of problem." if len(repairs) > 1 else ""
        warnings.warn(f"{annotations}: {repairs[0]}{more} `kpzoo data check` lists all problems.", stacklevel=2)
    return PoseData(content, images)


def existing_folder(images: str | Path) -> Path:
    """Returns the path of an image folder, or raises a `UserError` if it does not exist."""
    images = Path(images).expanduser()
    if not images.is_dir():
        raise UserError(f"The image folder {str(images)!r} does not exist.", "Pass another one as `images=`.")
    return images
