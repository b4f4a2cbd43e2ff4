"""Files that are written whole or not at all, and file locks, released when the process exits."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from kpzoo.errors import UserError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns a fault of the disk into an error that names the file which is written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from None


def check_target(path: str | Path) -> Path:
    """Returns the path of a file that is written at the end, after refusing what would fail only then."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"Cannot write {str(path)!r}: it is a folder. Add the name of a file.")
    if not path.parent.is_dir():
        raise UserError(f"Cannot write {str(path)!r}: there is no folder {str(path.parent)!r}. Make it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write {str(path)!r}: the folder {str(path.parent)!r} may not be written to.")
    return path


class replaced:
    """Opens a text file that takes its name only when it is complete."""

    def __init__(self, path: Path):
        self.path, self.part = path, path.with_name(f".{path.name}.{os.getpid()}.part")

    def __enter__(self) -> "replaced":
        with naming(self.path):
            self._file = self.part.open("w", encoding="utf-8", newline="")
        return self

    def write(self, text: str) -> None:
        with naming(self.path):
            self._file.write(text)

    def __exit__(self, kind, *_) -> None:
        try:
            with naming(self.path):
                self._file.close()
                if kind is None:
                    os.replace(self.part, self.path)
        finally:
            with suppress(OSError):
                self.part.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> Path:
    """Writes a JSON file under its name only when it is complete; NaN and infinity are refused."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except ValueError as error:
        raise UserError(f"{path} is not written: JSON has no NaN and no infinity ({error}).") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):  # of a folder that cannot be entered
            temporary.unlink(missing_ok=True)
    return path


@contextmanager
def written_whole(target: str | Path, overwrite: bool) -> Iterator[Path]:
    """Gives a path beside `target` to write to; it becomes `target` at the end, and vanishes if anything fails."""
    target = Path(target)
    if target.exists() and not overwrite:
        raise UserError(f"{str(target)!r} exists already. Choose another name, or say that it may be overwritten.")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink()
    except OSError as error:
        raise UserError(f"Cannot write to {str(target.parent)!r}: {error.strerror}.") from None
    try:
        yield part
        if target.is_dir():  # a folder cannot be replaced in one step: the old one steps aside first
            target.rename(old)
        part.replace(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for path in (part, old):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def hold(file: IO, wait: bool = True) -> bool:
    """Holds an open file until it is closed; returns whether it could be had.

    Args:
        file: Any open file; who else holds it holds it by this function.
        wait: Whether to wait until it is free.

    Returns:
        True too where the system has no such locks.
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
