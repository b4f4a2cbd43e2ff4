"""What results and boxes call an image, compared part by part: folders from the right, the file's name without suffix.

Numbers in a name count as numbers, so that 785, "785" and "000000000785.jpg" are one. Folders must agree as far as both
names have them: "0001" may be cam1/0001.jpg and cam2/0001.jpg, "cam1/0001" only the first.
"""

import unicodedata
from collections.abc import Sequence

from kpzoo.images import READABLE, UNREADABLE

Parts = tuple[str, ...]

_SUFFIXES = (*READABLE, *UNREADABLE, ".jpe", ".jfif", ".jp2", ".mpo")


def parts_of(name: int | str) -> Parts:
    """Returns the folders and the name of an image, the name last.

    >>> parts_of("cam1\\\\000000000785.JPG") == parts_of("./cam1/785") == ("cam1", "785")
    True
    """
    text = unicodedata.normalize("NFC", str(name)).replace("\\", "/")
    suffix = next((one for one in _SUFFIXES if text.lower().endswith(one)), "")
    *folders, stem = text.removesuffix(text[len(text) - len(suffix) :] if suffix else "").split("/")
    if stem.isascii() and stem.isdigit():
        stem = stem.lstrip("0") or "0"
    return (*(folder for folder in folders if folder not in ("", ".")), stem)


class ImageNames:
    """Names to look others up in.

    Args:
        names: What each image is called.
    """

    NONE, SEVERAL = -1, -2

    def __init__(self, names: Sequence[int | str]):
        self.names = list(names)
        self._exact: dict[str, int] = {}
        self._by_stem: dict[str, list[tuple[Parts, int]]] = {}
        for place, name in enumerate(self.names):
            parts = parts_of(name)
            self._exact.setdefault(str(name), place)
            self._by_stem.setdefault(parts[-1], []).append((parts, place))

    def find(self, name: int | str) -> int:
        """Returns the place of the image that a name means, `NONE`, or `SEVERAL` if it may mean more than one."""
        if isinstance(name, str) and name in self._exact:
            return self._exact[name]
        places = self.all(name)
        return places[0] if len(places) == 1 else self.SEVERAL if places else self.NONE

    def all(self, name: int | str) -> list[int]:
        """Returns the places of all images that a name may mean; those whose names agree the furthest."""
        parts = parts_of(name)
        agreeing = []
        for other, place in self._by_stem.get(parts[-1], []):
            common = min(len(parts), len(other))
            if parts[-common:] == other[-common:]:
                agreeing.append((common, place))
        furthest = max((common for common, _ in agreeing), default=0)
        return [place for common, place in agreeing if common == furthest]
