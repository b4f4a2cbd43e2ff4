"""Image files of annotations: finds their folder, and their names on disk if these are spelt differently."""

import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from kpzoo.data.coco import leaves_folder
from kpzoo.data.problems import Problems
from kpzoo.errors import UserError
from kpzoo.files import system_name

_ENCODINGS = ("utf-8", "cp1252", "cp437")  # of file names on disks and in archives
_SAMPLE = 500  # names that are searched with other spellings to choose a folder
_SIMILAR = 2000  # files of a folder that are searched for the most similar name


class Names(NamedTuple):
    """Names of images on disk.

    Args:
        file_names: For each name in the annotations the name on disk; unchanged if no file is found.
        renamed: Names in the annotations with a different name on disk, and that name.
    """

    file_names: list[str]
    renamed: dict[str, str]

    def report(self, problems: Problems) -> None:
        """Adds the renamed files to the problems of the annotations."""
        pairs = [f"{name!r}: {found!r}" for name, found in self.renamed.items()]
        what = "File names that are spelt differently on disk: backslashes, upper and lower case, or codes such as %20"
        problems.add("repair", what, pairs, "Read by the name on disk.", "files")


class Listing:
    """Looks up files below a folder by name; each folder is read once."""

    def __init__(self, folder: str | Path, allow_outside: bool = False):
        self.folder, self._allow_outside = Path(folder), allow_outside
        self._entries: dict[str, frozenset[str]] = {}
        self._folded: dict[str, dict[str, list[str]]] = {}

    def entries(self, below: str) -> frozenset[str]:
        """Returns the names in the folder `below` this one; empty if the folder does not exist."""
        if below not in self._entries:
            try:
                self._entries[below] = frozenset(os.listdir(self.folder / Path(below).expanduser()))
            except (OSError, ValueError):
                self._entries[below] = frozenset()
        return self._entries[below]

    def has(self, name: str) -> bool:
        """Returns whether a file with exactly this name exists."""
        below, base = posixpath.split(posixpath.normpath(name) if "." in name or "//" in name else name)
        return bool(base) and base in self.entries(below)

    def find(self, name: str) -> str | None:
        """Returns the file with another spelling of the name, None if there is no such file or more than one."""
        found = []
        for spelt in _spellings(name):
            if self._allow_outside or not leaves_folder(spelt):
                found += [spelt] if self.has(spelt) else self._in_any_case(spelt)
        found = list(dict.fromkeys(map(posixpath.normpath, found)))
        return found[0] if len(found) == 1 else None

    def _in_any_case(self, name: str) -> list[str]:
        paths = [""]
        for part in posixpath.normpath(name).split("/"):
            exact = part in (".", "..", "~")
            paths = [
                posixpath.join(path, one) for path in paths for one in ([part] if exact else self._alike(path, part))
            ]
        return paths

    def _alike(self, below: str, name: str) -> list[str]:
        if below not in self._folded:
            folded: dict[str, list[str]] = {}
            for entry in self.entries(below):
                folded.setdefault(_folded(entry), []).append(entry)
            self._folded[below] = folded
        return self._folded[below].get(_folded(name), [])


def _folded(name: str) -> str:
    """Returns the name in NFC and without case; macOS encodes accents differently."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _spellings(name: str) -> list[str]:
    """Returns a name, also with slashes for backslashes, characters for codes such as %20, and in other encodings."""
    plain = unquote(name)
    spellings = [name, plain, unquote(plain)]
    for encoding in _ENCODINGS:
        with suppress(UnicodeError):
            spellings.append(system_name(name, encoding))
    return list(
        dict.fromkeys(spelt for one in spellings for spelt in (one, one.replace("\\", "/")) if "\0" not in spelt)
    )


def names_on_disk(folder: str | Path, names: Sequence[str], allow_outside: bool = False) -> Names:
    """Returns the names of images on disk in a folder.

    If no file has the name, files are searched that differ in backslashes, upper and lower case, the encoding of
    accents, or codes such as %20. A file that is the exact match of another name is not used.
    """
    listing = Listing(folder, allow_outside)
    missing = [name for name in names if name and not listing.has(name)]
    found = {name: other for name in missing if (other := listing.find(name)) is not None}
    taken = Counter(posixpath.normpath(name) for name in names if name) + Counter(found.values())
    renamed = {name: other for name, other in found.items() if taken[other] == 1}
    return Names([renamed.get(name, name) for name in names], renamed)


def image_folder(
    annotations: Path,
    root: str | Path | None,
    split: str | None,
    file_names: Sequence[str],
    allow_outside: bool = False,
) -> Path:
    """Returns the folder near the annotations that contains most of their images.

    Splits may have images of the same names. Folders with the name of the split, or with a name that is part of the
    annotation file's name, are therefore searched first.

    Raises:
        UserError: If no folder contains any of the images.
    """
    root = Path(root).expanduser() if root is not None else annotations.parent.parent
    folders = [root / "images", root, *sorted(root.glob("images/*")), *sorted(root.glob("*"))]
    listings = [Listing(folder, allow_outside) for folder in dict.fromkeys(folders) if folder.is_dir()]
    names = [name for name in file_names if name]
    if not names and listings:
        return listings[0].folder
    of_split = [one for one in listings if (split in one.folder.name if split else one.folder.name in annotations.stem)]
    sample = names[:: max(1, len(names) // _SAMPLE)]
    for group in (of_split, listings):
        counts = [sum(map(one.has, names)) for one in group]
        if any(counts):
            return group[counts.index(max(counts))].folder
    for group in (of_split, listings):
        counts = [sum(one.find(name) is not None for name in sample) for one in group]
        if any(counts):
            return group[counts.index(max(counts))].folder
    raise _not_found(annotations, root, names, listings)


def _not_found(annotations: Path, root: Path, names: Sequence[str], listings: Sequence[Listing]) -> UserError:
    if not names:
        return UserError(f"{str(root)!r} has no folder of images.", "Pass the folder as `images=`.")
    tried = [os.path.relpath(one.folder, root) for one in listings]
    looked = f"Looked in {tried[:6]}" + (f" and {len(tried) - 6} more" if len(tried) > 6 else "") + f" of {str(root)!r}"
    text = f"None of the {len(names)} images of {str(annotations)!r} was found, such as {names[0]!r}. {looked}."
    below, base = posixpath.split(names[0].replace("\\", "/"))
    for listing in listings:
        there = sorted({*listing.entries(below), *listing.entries("")})[:_SIMILAR]
        if near := get_close_matches(base, there, n=1, cutoff=0.75):
            text += f" {os.path.relpath(listing.folder, root)!r} holds {near[0]!r}."
            break
    return UserError(text, "Pass the folder as `images=`.")
