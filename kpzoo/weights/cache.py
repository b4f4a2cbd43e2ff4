"""The folder of fetched files, and the digests that its files must have."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kpzoo import files
from kpzoo.errors import UserError

DIGESTS = "digests.json"


def home() -> Path:
    """Returns the folder of fetched files: `$KPZOO_HOME`, or `~/.cache/kpzoo`."""
    return Path(os.environ.get("KPZOO_HOME") or Path.home() / ".cache" / "kpzoo")


def is_offline() -> bool:
    """Whether `KPZOO_OFFLINE` forbids downloads."""
    return os.environ.get("KPZOO_OFFLINE", "") not in ("", "0")


def digest_of(path: Path, kind: str = "sha256") -> str:
    """Returns the digest of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Context manager that one process at a time enters, for one file of the cache.

    Where the cache cannot be written, no other process changes it, and there is no lock.
    """
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f".{name}.lock").open("w", encoding="utf-8")
    except OSError as error:
        if not (folder / name).exists():
            raise UserError(
                f"Cannot write to {str(folder)!r}: {error.strerror}. Set KPZOO_HOME to a folder that can be written."
            ) from None
        yield
        return
    with lock:
        if not files.hold(lock, wait=False):
            print(f"kpzoo: another process fetches {name}, waiting for it", file=sys.stderr)
            files.hold(lock)
        yield


def remembered(name: str) -> Mapping[str, str]:
    """Returns what `remember` stored about a file of the cache, {} for nothing."""
    return _read().get(name, {})


def remember(name: str, **facts: str) -> None:
    """Stores facts about a file of the cache, such as its digest on first use. Without facts, forgets the file."""
    with locked(DIGESTS):
        rows = _read()
        rows.pop(name, None)
        if facts:
            rows[name] = {**facts, "since": time.strftime("%Y-%m-%d")}
        files.write_json(home() / DIGESTS, rows, indent=1)


def _read() -> dict[str, dict[str, str]]:
    path = home() / DIGESTS
    try:
        rows = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        rows = str(error).splitlines()[0]
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise UserError(
            f"{str(path)!r} is not a list of digests: {str(rows)[:80]}. Remove it, and the digests of the files in the "
            "cache are remembered anew."
        )
    return rows
