"""Files and folders that are written completely or not at all, and file locks, released when the process exits."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from kpzoo.errors import UserError

PART = ".part-"  # start of the names of files and folders that are being written


def shown_name(path: str | Path) -> str:
    """Returns a path as text that every encoding of Unicode can write: bytes that are not UTF-8 become \\x codes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def system_name(name: str, encoding: str = "utf-8") -> str:
    """Returns the path that Python uses for a file whose name is a text in some encoding, whatever the locale's is.

    Raises:
        UnicodeEncodeError: If the encoding lacks a character.
    """
    return os.fsdecode(name.encode(encoding, "surrogateescape"))


def utf8_path(path: str | Path) -> str:
    """Returns a path for libraries that take UTF-8 only.

    Raises:
        UserError: If the bytes of the path are not UTF-8.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"OpenCV cannot open {shown_name(path)!r}: its name is not UTF-8. Rename it.") from None


def prepare_streams() -> None:
    """Makes stdout and stderr write codes such as \\u2026 for characters that their encodings lack.

    Closed ones are opened to write to nothing: else the next file that is opened would take their place, and get what
    libraries print.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns an `OSError` into a `UserError` that names the file being written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {str(path)!r}: {_reason(error)}.") from None


def check_target(path: str | Path) -> Path:
    """Returns the path of a file to be written after long work, or raises at once if it cannot be written."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"Cannot write {str(path)!r}: it is a folder. Add the name of a file.")
    if not path.parent.is_dir():
        raise UserError(f"Cannot write {str(path)!r}: there is no folder {str(path.parent)!r}. Create it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write {str(path)!r}: no permission to write to the folder {str(path.parent)!r}.")
    return path


@contextmanager
def written_whole(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Context manager that replaces a file or folder in one step.

    Yields a temporary path in the same folder, with the same suffix. What the block writes there, a file or a folder,
    is renamed to `path` when the block ends, and removed if it raises.

    Args:
        path: The file or folder. Missing parent folders are created.
        overwrite: Whether an existing file or folder may be replaced.

    Raises:
        UserError: If `path` exists and `overwrite` is False, or if it cannot be written.
    """
    path = Path(path).expanduser()
    if path.exists() and not overwrite:
        raise UserError(f"{str(path)!r} exists already. Choose another name.", "Or replace it with `overwrite=True`.")
    part = path.with_name(f"{PART}{uuid4().hex[:12]}-{path.name[-40:]}")  # file systems limit the length of names
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.touch()  # some libraries do not say why they cannot write
            part.unlink()
        try:
            yield part
        except OSError as error:
            if error.filename and part.name not in str(error.filename):  # another file
                raise
            raise UserError(f"Cannot write {str(path)!r}: {_reason(error)}.") from None
        with naming(path):
            take_name(part, path)
    finally:
        with suppress(OSError):  # no permission for the folder
            remove(part)


@contextmanager
def writing(path: str | Path) -> Iterator[IO[str]]:
    """Context manager for a UTF-8 text file that replaces `path` when the block ends, and not if it raises.

    Line endings are written as they are given.
    """
    with written_whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, value: Any, *, indent: int | None = None) -> Path:
    """Writes a JSON file that replaces `path` in one step.

    Args:
        path: The file.
        value: What JSON can hold. NaN and infinity are refused.
        indent: Spaces of indentation, for files that people read too; None for the shortest text.
    """
    separators = (",", ":") if indent is None else None
    try:
        text = json.dumps(value, allow_nan=False, indent=indent, separators=separators, ensure_ascii=indent is None)
    except ValueError as error:
        raise UserError(f"Cannot write {str(path)!r}: JSON has no NaN and no infinity ({error}).") from None
    with writing(path) as file:
        file.write(text if indent is None else f"{text}\n")
    return Path(path).expanduser()


def take_name(part: Path, path: Path) -> None:
    """Renames a complete file or folder to `path`. A file replaces a file, and a folder replaces a folder."""
    if not (path.is_dir() and part.is_dir()):
        os.replace(part, path)
        return
    old = aside(part)  # a folder cannot be replaced in one step
    os.replace(path, old)
    try:
        os.replace(part, path)
    except BaseException:
        os.replace(old, path)
        raise
    remove(old)


def aside(part: Path) -> Path:
    """Returns where `take_name` moves the folder that `part` replaces, until it is removed."""
    return part.with_suffix(".old")


def remove(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or nothing if there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Removes what killed processes left unfinished in a folder, which the caller must have locked."""
    for part in list(folder.rglob(f"{PART}*")):
        remove(part)


def _reason(error: OSError) -> str:
    """Returns the first line of what the system, or the library that writes, says."""
    return (error.strerror or str(error)).splitlines()[0]


def hold(file: IO, wait: bool = True) -> bool:
    """Locks an open file until it is closed, and returns whether that succeeded.

    Args:
        file: Any open file. Only other callers of this function respect the lock.
        wait: Whether to wait until another process releases it.

    Returns:
        True, too, on systems without such locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
