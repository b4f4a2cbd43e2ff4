"""Reading of large JSON files, with errors that state the position of invalid JSON."""

import gc
import gzip
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kpzoo.errors import UserError
from kpzoo.progress import Progress

MAX_BYTES = 1 << 32  # size of the text; annotations of a million persons are about 1 GB
PIECE = 1 << 20  # bytes per read: Python allocates the requested number of bytes at once
CHUNK = 20_000  # elements of a long list that exist as Python objects at the same time
LARGE = 100_000_000  # characters from which progress is shown

_SPACE, _WHITE = re.compile(r"[ \t\r\n]*"), frozenset(" \t\r\n")
_GZIP_MAGIC = b"\x1f\x8b"


def read_json(path: str | Path) -> Any:
    """Returns the content of a JSON file, which may be gzipped and have a byte order mark."""
    return _parsed(path, lambda text: json.loads(text))


def read_object(path: str | Path, long_list: str, consume: Callable[[list], None]) -> dict:
    """Returns the top-level object of a JSON file, and passes one long list to a function in chunks.

    Only `CHUNK` elements of the list exist at the same time, so that little memory is needed besides the text.

    Args:
        path: JSON file, optionally gzipped.
        long_list: Key of the list.
        consume: Called with up to `CHUNK` elements at a time, in file order.

    Returns:
        The object, with an empty list for `long_list`, or its value if it is not a list.

    Raises:
        UserError: If the file cannot be read, is not valid JSON, or is not an object.
    """
    return _parsed(path, lambda text: _object(text, path, long_list, consume))


def _parsed(path: str | Path, parse: Callable[[str], Any]) -> Any:
    path = Path(path).expanduser()
    text, collecting = _text(path), gc.isenabled()
    gc.disable()  # JSON has no reference cycles, and the search for them takes a quarter of the time
    try:
        return parse(text)
    except UserError:
        raise
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}:{error.colno} is not JSON: {error.msg}. It may be truncated or in another format."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a data file. Expected COCO-format JSON.") from None
    finally:
        if collecting:
            gc.enable()


def _text(path: str | Path) -> str:
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            data = bytearray()
            while len(data) <= MAX_BYTES and (piece := file.read(PIECE)):
                data += piece
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Expected a JSON file.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder. Expected a JSON file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} contains more than {MAX_BYTES >> 30} GiB of text. Split it.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise UserError(f"{path}:{line}:{column} is not JSON: the text is not UTF-8. Save it as UTF-8.") from None


def _object(text: str, path: str | Path, long_list: str, consume: Callable[[list], None]) -> dict:
    decode = json.JSONDecoder().raw_decode
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        kind = type(json.loads(text)).__name__
        raise UserError(f"{path} must contain one JSON object with the key '{long_list}'. Received: a {kind}.")
    members, position = {}, _skip(text, position + 1)
    while text[position : position + 1] != "}":
        if text[position : position + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, position)
        key, position = decode(text, position)
        position = _expect(text, _skip(text, position), ":")
        if key == long_list and text[position : position + 1] == "[":
            members[key], position = [], _list(text, position, decode, consume)
        else:
            members[key], position = decode(text, position)
        position = _next(text, position, "}")
    if _skip(text, position + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, _skip(text, position + 1))
    return members


def _list(text: str, position: int, decode: Callable, consume: Callable[[list], None]) -> int:
    """Passes the elements of the list at `position` to `consume`. Returns the position after the list."""
    position, elements = _skip(text, position + 1), []
    with Progress(len(text) / 1e6, "MB", "read", shown=len(text) >= LARGE) as told:
        while text[position : position + 1] != "]":
            element, position = decode(text, position)
            elements.append(element)
            if len(elements) == CHUNK:
                consume(elements)
                elements = []
                told.step(count=position / 1e6 - told.num_done)
            position = _next(text, position, "]")
        consume(elements)
        told.step(count=position / 1e6 - told.num_done)
    return position + 1


def _next(text: str, position: int, closing: str) -> int:
    """Returns the position of the next element or of the closing bracket."""
    position = _skip(text, position)
    if text[position : position + 1] == closing:
        return position
    position = _expect(text, position, ",")
    if text[position : position + 1] == closing:
        raise json.JSONDecodeError("Illegal trailing comma", text, position)
    return position


def _expect(text: str, position: int, delimiter: str) -> int:
    if text[position : position + 1] != delimiter:
        raise json.JSONDecodeError(f"Expecting {delimiter!r} delimiter", text, position)
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    return _SPACE.match(text, position).end() if text[position : position + 1] in _WHITE else position
