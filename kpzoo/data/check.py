"""A data set looked through before hours of training: annotations, and the pictures that they are about."""

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
    """What was found in one annotation file; printed, a line for each kind of problem.

    Args:
        annotations: What can be read of the file.
        image_folder: Where its pictures lie; None if they were not looked for.
        decoded: (height, width) of each picture as it is stored, by file name, or why it cannot be decoded.
        problems: Of annotations and pictures.
        renamed: File names that are written otherwise on disk, with those there.
    """

    annotations: Annotations
    image_folder: Path | None
    decoded: Decoded
    problems: tuple[Problem, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether there are notes at most, nothing that is refused or has to be mended."""
        return all(problem.severity == "note" for problem in self.problems)

    def __str__(self) -> str:
        read = self.annotations
        pictures = f", {len(self.decoded)} pictures read" if self.image_folder else ""
        about = f"{len(read.image_ids)} images, {len(read.persons.ids)} persons of {read.skeleton.name}{pictures}"
        lines = [f"{problem.severity:<7}{problem.count:>9}  {problem}" for problem in self.problems]
        return "\n".join([f"{read.path}: {about}: {'clean' if self.clean else 'NOT CLEAN'}", *lines])

    def to_config(self) -> dict:
        """Returns what JSON can hold."""
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
    """Returns what is wrong with the keypoint annotations of a folder, or of those of one split.

    Args:
        root: The data set's folder, see `kpzoo.data.load`.
        split: Part of the annotation files' names; None for all of them.
        images: The folder of pictures, instead of the one that is found.
        skeleton: See `kpzoo.data.load`.
        category: See `kpzoo.data.load`.
        pictures: Whether to decode the pictures, several at a time.
        allow_outside: Whether pictures may lie outside of the folder, by absolute names or "..".
        progress: Whether to tell on stderr how many pictures are done.

    Raises:
        UserError: There is no annotation file, one cannot be read at all, or there are no pictures.
    """
    root = Path(root).expanduser()
    paths = files.annotation_files(root, split)
    if not paths:
        which = f" with {split!r} in the name" if split else ""
        raise UserError(f"{str(root)!r} has no annotations: expected 'annotations/*.json'{which} in it.")
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
    on_disk.tell(problems)
    problems += _picture_problems(read, decoded)
    return Check(read, folder, decoded, (*read.problems, *problems), on_disk.renamed)


def _picture_problems(read: Annotations, decoded: Decoded) -> Problems:
    problems = Problems(read.path)
    broken = [f"{name!r}: {found.rstrip('.')}" for name, found in decoded.items() if isinstance(found, str)]
    done = "Training leaves them out, the evaluation refuses them."
    problems.add("error", "Pictures that cannot be read", broken, done, "files")
    sizes = {name: tuple(size) for name, size in zip(read.file_names, read.image_sizes_hw.tolist(), strict=True)}
    other = [
        f"{name!r}: {sizes[name][0]}x{sizes[name][1]} in the file, the picture is {found[0]}x{found[1]}"
        for name, found in decoded.items()
        if not isinstance(found, str) and min(sizes[name]) > 0 and sizes[name] != found
    ]
    done = "Are they the same pictures? Sizes that are only swapped hint at EXIF: annotations count stored pixels."
    problems.add("error", "Pictures of another size than annotated", other, done, "files")
    unused = np.setdiff1d(read.image_ids, read.persons.image_ids)
    done = "Not trained on; detections in them count as wrong."
    problems.add("note", "Images without a person", unused, done, "image ids")
    return problems
