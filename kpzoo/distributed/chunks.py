"""Lists the pictures of a source lazily, in chunks that each become one part."""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kpzoo import stores
from kpzoo.errors import UserError
from kpzoo.images import READABLE, UNREADABLE
from kpzoo.inference.videos import without_password

LIST = ".txt"
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Chunk:
    """Pictures that become a part.

    Args:
        number: Of the part.
        paths: Files and URLs.
        names: What results call the pictures.
        digest: CRC-32 of the names and of the stamps of the files.
    """

    number: int
    paths: list[str]
    names: list[str]
    digest: str


def chunks(source, size: int) -> Iterator[Chunk]:
    """Yields the pictures of a source, `size` at a time. The same pictures always give the same chunks."""
    listed = pictures(source)
    number = 0
    while group := list(islice(listed, size)):
        paths, names, stamps = (list(column) for column in zip(*group, strict=True))
        digest = f"{zlib.crc32(repr((names, stamps)).encode('utf-8', 'surrogateescape')):08x}"
        yield Chunk(number, paths, names, digest)
        number += 1
    if not number:
        raise UserError(f"No images in {source!r}. Expected names ending in {', '.join(READABLE)}.")


def pictures(source: str | Path | Sequence[str | Path]) -> Iterator[tuple[str, str, str]]:
    """Yields path, name and stamp of each picture.

    Args:
        source: A folder, local or in a store, with its subfolders; a pattern such as `s3://bucket/photos/*/*.jpg`; a
            picture, also on a web server; a .txt file with one picture in each line; or a list of pictures. In folders
            and patterns, names that do not end as those of images do are left out.

    Raises:
        UserError: If there is no such folder or file.
    """
    if not isinstance(source, str | Path):
        yield from map(_one, map(str, source))
    elif (text := str(source)).endswith(LIST):
        yield from map(_one, _lines(text))
    elif text.lower().endswith(READABLE + UNREADABLE) and not _MAGIC.search(text):
        yield text, without_password(text).rsplit("/", 1)[-1], ""
    else:
        yield from _below(text)


def _one(path: str) -> tuple[str, str, str]:
    return path, without_password(path), ""


def _lines(path: str) -> Iterator[str]:
    try:
        text = stores.read(path, 2**32).decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"There is no list {path!r}.") from None
    except UnicodeDecodeError:
        raise UserError(f"The list {path!r} is not UTF-8 text.") from None
    yield from (line.strip() for line in text.splitlines() if line.strip())


def _below(source: str) -> Iterator[tuple[str, str, str]]:
    """Yields the images below a folder, or those that match a pattern."""
    magic = _MAGIC.search(source)
    folder = source[: magic.start()].rpartition("/")[0] if magic else source.rstrip("/") or "/"
    folder = folder or ("/" if source.startswith("/") else ".")
    matches = _pattern(stores.joined(source)).fullmatch if magic else lambda path: True
    start = stores.joined(folder).rstrip("/") + "/"
    try:
        for path, stamp in stores.walk(folder):
            if path.lower().endswith(READABLE + UNREADABLE) and matches(path):
                yield path, path.removeprefix(start), stamp
    except FileNotFoundError:
        raise UserError(f"There is no folder {folder!r}.") from None
    except NotADirectoryError:
        raise UserError(f"{folder!r} is neither a folder nor an image. Expected {', '.join(READABLE)}.") from None


def _pattern(text: str) -> re.Pattern:
    """Returns a pattern as a regular expression: * and ? stay in one folder, ** does not."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile(
        "".join(
            pieces.get(
                piece, piece.replace("[!", "[^") if piece.startswith("[") and len(piece) > 1 else re.escape(piece)
            )
            for piece in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]/]+\]|[^*?\[]+|\[", text)
        )
    )
