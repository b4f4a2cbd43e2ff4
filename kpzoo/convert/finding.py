"""Finds the pictures and videos that an export names, which often lie elsewhere than on the computer of the labels."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from kpzoo import images
from kpzoo.convert.model import Notes
from kpzoo.errors import UserError

PICTURES = (*images.READABLE, *images.UNREADABLE)
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
MAX_FILES = 5_000_000  # below the folder of an export
ABOVE = (
    "annotations",
    "annotation",
    "annot",
    "annots",
    "labels",
    "label",
    "json",
    "xml",
)  # folders beside the pictures


def files_below(folder: Path) -> list[Path]:
    """Returns the files below a folder, sorted, also through links to folders, without hidden ones."""
    found, visited = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        found += [Path(place, name) for name in names if not name.startswith(".")]
        if len(found) > MAX_FILES:
            raise UserError(f"{str(folder)!r} has more than {MAX_FILES} files. Pass the folder of the export.")
    return sorted(found)


class Source:
    """The files of an export.

    Args:
        source: The folder of the export, or its file.
        folder: Where the pictures are; defaults to the folder of the export.
        skip_missing: Whether pictures that are not found are left out.

    Attributes:
        files: The files to read: the given one, or all below the folder.
        notes: Where pictures that are left out are counted.
    """

    def __init__(self, source: str | Path, folder: str | Path | None = None, skip_missing: bool = False):
        self.source, self.skip_missing, self.notes = Path(source).expanduser(), skip_missing, Notes()
        if not self.source.exists():
            raise UserError(f"{str(self.source)!r} does not exist. Expected a folder or file of labels.")
        if folder is not None and not Path(folder).expanduser().is_dir():
            raise UserError(f"The image folder {str(folder)!r} does not exist.", "Pass another one as `images=`.")
        self.is_file = not self.source.is_dir()
        self.root = self.source.parent if self.is_file else self.source
        if self.is_file and self.root.name.lower() in ABOVE:
            self.root = self.root.parent
        self.folder = Path(folder).expanduser() if folder is not None else self.root
        self.files = [self.source] if self.is_file else files_below(self.source)
        self._by_name: dict[str, list[Path]] | None = None
        self._by_stem: dict[str, list[Path]] = {}

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Returns the files to read whose names end in one of the suffixes."""
        return [path for path in self.files if path.name.lower().endswith(suffixes)]

    def _index(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            same = not self.is_file and self.folder == self.source
            for path in self.files if same else files_below(self.folder):
                if path.suffix.lower() in PICTURES + VIDEOS:
                    self._by_name.setdefault(path.name.casefold(), []).append(path)
                    self._by_stem.setdefault(path.stem.casefold(), []).append(path)
        return self._by_name

    def pictures(self) -> list[Path]:
        """Returns all pictures below the folder of pictures, sorted."""
        return sorted(one for paths in self._index().values() for one in paths if one.suffix.lower() in PICTURES)

    def videos(self) -> list[Path]:
        """Returns all videos below the folder of pictures, sorted."""
        return sorted(one for paths in self._index().values() for one in paths if one.suffix.lower() in VIDEOS)

    def find(self, name: str, near: Path | None = None, split: str = "") -> Path | None:
        """Returns the picture or video with a name in an export.

        Of several files with the same name, the one counts whose folders agree with the name most, then one in the
        folder `near` or below it, then one in a folder of the split.

        Args:
            name: A name, a path of any system, or an address.
            near: Folder of the file that names it.
            split: Name of the split of the file that names it.

        Returns:
            The file; None if there is none.

        Raises:
            UserError: If several files fit equally.
        """
        self._index()
        for parts in map(parts_of, _spellings(name)):
            if not parts:
                continue
            found = self._by_name.get(parts[-1].casefold(), [])
            if not found and Path(parts[-1]).suffix.lower() not in PICTURES + VIDEOS:
                found = self._by_stem.get(parts[-1].casefold(), [])
            if found:
                return self._best(found, parts, near, name, split)
        return None

    def _best(self, found: list[Path], parts: list[str], near: Path | None, name: str, split: str) -> Path:
        def rank(path: Path) -> tuple[int, bool, bool]:
            own, same = [part.casefold() for part in path.parts[-2::-1]], 0
            for part, other in zip((part.casefold() for part in parts[-2::-1]), own, strict=False):
                if part != other:
                    break
                same += 1
            return same, near is not None and near in path.parents, bool(split) and self.split_of(path) == split

        ranks = [rank(path) for path in found]
        best = [path for path, own in zip(found, ranks, strict=True) if own == max(ranks)]
        if len(best) > 1 and near is not None:
            best = [path for path in best if path.parent == near] or best
        if len(best) > 1:
            names = [os.path.relpath(path, self.folder) for path in best[:3]]
            raise UserError(f"Several files fit the name {name!r}: {names}.", "Pass their folder as `images=`.")
        return best[0]

    def picture(self, name: str, place: str, near: Path | None = None, split: str = "") -> Path | None:
        """Returns the file of a picture or video, or raises if there is none.

        Returns:
            None if it is missing and left out.
        """
        found = self.find(name, near, split)
        if found is None:
            self.missing(name, place)
        return found

    def missing(self, name: str, place: str) -> None:
        """Counts a picture that is left out.

        Raises:
            UserError: If pictures may not be left out.
        """
        if not self.skip_missing:
            raise UserError(
                f"{place}: there is no picture or video {name!r} below {str(self.folder)!r}.",
                "Pass the folder of the pictures as `images=`.",
                "Or leave such pictures out with `skip_missing=True`.",
            )
        self.notes.add("pictures that were not found are left out", name)

    def split_of(self, path: Path) -> str:
        """Returns the name of a split by the folders of a file: "val" for "valid/images/1.jpg"; "" if none has one."""
        below = path.relative_to(self.folder).parts if self.folder in path.parents else path.parts[-3:]
        return next((split for part in below[:-1] if (split := split_name(part))), "")


def split_name(text: str) -> str:
    """Returns the split that a word names, such as "val" for "Validation"; "" if it names none."""
    word = text.casefold()
    if word in ("val", "valid", "validation", "dev"):
        return "val"
    return word if re.fullmatch("(train|val|test|minival|trainval|testdev)(20[0-9]{2})?", word) else ""


def _spellings(name: str) -> Sequence[str]:
    """Returns what a name may mean: itself, without the codes of an address, and the path in a query such as `?d=`."""
    out = [name, unquote(name)]
    try:
        parts = urlsplit(name)
        out += [unquote(parts.path), *parse_qs(parts.query).get("d", [])]
    except ValueError:  # not an address
        pass
    for one in list(out):
        if uploaded := re.fullmatch(r"(?s)(.*[\\/])?[0-9a-f]{8}-([^\\/]+)", one):  # as Label Studio stores uploads
            out.append(uploaded[2])
    return list(dict.fromkeys(one for one in out if one and "\0" not in one))


def parts_of(name: str) -> list[str]:
    """Returns the folders and the name of a path of any system."""
    return [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..")]


def upright_hw(path: Path) -> tuple[int, int]:
    """Returns (height, width) of a picture as programs show it, turned by its EXIF orientation."""
    height, width = images.size_of(path)
    return (width, height) if orientation(path) >= 5 else (height, width)


def orientation(path: Path) -> int:
    """Returns the EXIF orientation of a JPEG file, 1 to 8; 1 if it has none."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\xff\xd8":
                return 1
            while (marker := file.read(2))[:1] == b"\xff" and marker != b"\xff\xda":
                length = int.from_bytes(file.read(2), "big") - 2
                if marker == b"\xff\xe1" and (data := file.read(max(length, 0)))[:6] == b"Exif\0\0":
                    return _orientation(data[6:])
                if marker != b"\xff\xe1":
                    file.seek(max(length, 0), os.SEEK_CUR)
    except OSError:
        pass
    return 1


def _orientation(tiff: bytes) -> int:
    order = "little" if tiff[:2] == b"II" else "big"

    def read(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    start = read(4, 4)
    for entry in range(start + 2, start + 2 + 12 * min(read(start, 2), 200), 12):
        if read(entry, 2) == 0x0112:
            value = read(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
