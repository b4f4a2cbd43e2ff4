"""Validation of a data set: its annotations and images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from kpzoo.data import coco, files, image_files, loading
from kpzoo.data.coco import Annotations
from kpzoo.data.problems import Problem, Problems
from kpzoo.errors import UserError
from kpzoo.skeletons import Skeleton

Decoded = Mapping[str, tuple[int, int] | str]


@dataclass(frozen=True, eq=False)
class Check:
    """The problems of an annotation file and its images. `print` shows one line per kind of problem.

    Args:
        annotations: Annotations without the entries that have errors.
        image_folder: Image folder. None if images were not checked.
        decoded: Stored (height, width) of each image by file name, or the reason why it cannot be decoded.
        problems: Problems of the annotations and images.
        renamed: File names that are spelled differently on disk, with their names on disk.
    """

    annotations: Annotations
    image_folder: Path | None
    decoded: Decoded
    problems: tuple[Problem, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether there are no errors and no repairs."""
        return all(problem.severity == "note" for problem in self.problems)

    def __str__(self) -> str:
        read = self.annotations
        pictures = f", {len(self.decoded)} of them decoded" if self.image_folder else ""
        about = f"{len(read.image_ids)} images{pictures}, {len(read.persons.ids)} persons of {read.skeleton.name}"
        lines = [f"{problem.severity:<7}{problem.count:>9}  {problem}" for problem in self.problems]
        return "\n".join([f"{read.path}: {about}: {'clean' if self.clean else 'NOT CLEAN'}", *lines])

    def to_config(self) -> dict:
        """Returns the check as JSON values."""
        return {
            "annotations": self.annotations.path,
            "images": str(self.image_folder) if self.image_folder else None,
            "num_images": len(self.annotations.image_ids),
            "num_persons": len(self.annotations.persons.ids),
            "num_pictures_read": len(self.decoded),
            "clean": self.clean,
            "problems": [asdict(problem) for problem in self.problems],
        }


def check(
    root: str | Path,
    split: str | None = None,
    *,
    images: str | Path | None = None,
    skeleton: str | Skeleton | None = None,
    category: str | int | None = None,
    pictures: bool = True,
    allow_outside: bool = False,
    progress: bool = False,
) -> list[Check]:
    """Checks the keypoint annotations and images of a data set.

    Args:
        root: Folder of the data set, see `kpzoo.data.load`.
        split: Part of the names of the annotation files. Defaults to all files.
        images: Image folder. Replaces the search for the images.
        skeleton: See `kpzoo.data.load`.
        category: See `kpzoo.data.load`.
        pictures: Whether to decode the images.
        allow_outside: Whether file names may point outside the image folder, by absolute paths or "..".
        progress: Whether to print progress on stderr.

    Returns:
        One `Check` per annotation file.

    Raises:
        UserError: If there is no annotation file or no image folder, or the structure of a file cannot be read.
    """
    root = Path(root).expanduser()
    paths = files.annotation_files(root, split)
    if not paths:
        which = f" with {split!r} in the name" if split else ""
        raise UserError(f"{str(root)!r} has no annotations. Expected: 'annotations/*.json'{which}.")
    reading = dict(skeleton=skeleton, category=category, allow_outside=allow_outside)
    folder = loading.existing_folder(images) if images is not None else None
    return [_check(path, root, split, reading, pictures, folder, progress) for path in paths]


def _check(
    path: Path, root: Path, split: str | None, reading: Mapping, pictures: bool, folder: Path | None, progress: bool
) -> Check:
    read, allow_outside = coco.examine(path, **reading), reading["allow_outside"]
    if not pictures:
        return Check(read, None, {}, read.problems)
    names = [name for name in read.file_names if name and (allow_outside or not coco.leaves_folder(name))]
    folder = folder or image_files.image_folder(path, root, split, names, allow_outside)
    on_disk = image_files.names_on_disk(folder, names, allow_outside)
    places = {str(folder / Path(file).expanduser()): name for file, name in zip(on_disk.file_names, names, strict=True)}
    decoded = {places[file]: found for file, found in files.decoded(list(places), progress).items()}
    problems = Problems(read.path)
    on_disk.report(problems)
    problems += _picture_problems(read, decoded)
    return Check(read, folder, decoded, (*read.problems, *problems), on_disk.renamed)


def _picture_problems(read: Annotations, decoded: Decoded) -> Problems:
    problems = Problems(read.path)
    broken = [f"{name!r}: {found.rstrip('.')}" for name, found in decoded.items() if isinstance(found, str)]
    done = "Training skips them, evaluation raises an error."
    problems.add("error", "Images that cannot be read", broken, done, "files")
    sizes = {name: tuple(size) for name, size in zip(read.file_names, read.image_sizes_hw.tolist(), strict=True)}
    other = [
        f"{name!r}: {sizes[name][0]}x{sizes[name][1]} in the file, {found[0]}x{found[1]} in the image"
        for name, found in decoded.items()
        if not isinstance(found, str) and min(sizes[name]) > 0 and sizes[name] != found
    ]
    done = "Swapped sizes may come from EXIF rotation: annotations refer to the stored pixels."
    problems.add("error", "Images of another size than annotated", other, done, "files")
    unused = np.setdiff1d(read.image_ids, read.persons.image_ids)
    done = "Not used for training. Detections in them count as false positives."
    problems.add("note", "Images without a person", unused, done, "image ids")
    return problems
