"""Download of one file: resumed where it was cut off, and tried again.

Proxies and certificates are those of the environment: HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE (see `requests`).
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kpzoo import __version__
from kpzoo.errors import UserError
from kpzoo.progress import Progress

CHUNK = 1 << 16  # bytes; of a connection that is cut at most so many are lost
TIMEOUT = 30  # seconds without a byte before an attempt has failed
DELAYS = (1, 2, 4)  # seconds before the next attempt; an attempt that received bytes starts them again
_BUSY = (408, 429, 500, 502, 503, 504)  # answers of servers after which another attempt can succeed


class NotFetchedError(Exception):
    """Error of a download, with the reason. Another address may succeed."""


class _CutOffError(Exception):
    """Error of an attempt after which another one can succeed, with the reason."""


def addresses(url: str) -> list[str]:
    """Returns the addresses of a file, mirrors first.

    `KPZOO_MIRROR` lists web addresses or folders, separated by spaces. They contain the files by their names.
    """
    name = url.rpartition("/")[2]
    return [*(f"{mirror.rstrip('/')}/{name}" for mirror in os.environ.get("KPZOO_MIRROR", "").split()), url]


def download(url: str, part: Path, name: str) -> bool:
    """Downloads a file, or the rest of it.

    Args:
        url: Web address, `file:` address or path of a file.
        part: The file to write. If it exists, its bytes are not downloaded again, provided that the server's file has
            not changed since.
        name: Name of the file in messages.

    Returns:
        Whether the file was resumed.

    Raises:
        NotFetchedError: The server has no such file, or does not answer.
        UserError: The disk is full.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        _copy(url, part, name)
        return False
    delays, resumed = list(DELAYS), False
    while True:
        before = _size(part)
        resumed = resumed or before > 0
        try:
            _attempt(url, part, name)
            return resumed
        except _CutOffError as error:
            if _size(part) > before:
                delays = list(DELAYS)
            if not delays:
                raise NotFetchedError(f"{error}, after {len(DELAYS) + 1} attempts") from None
            delay = delays.pop(0)
            print(f"kpzoo: {name}: {error}; next attempt in {delay} s", file=sys.stderr)
            time.sleep(delay)


def remove(part: Path) -> None:
    """Removes an unfinished file."""
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def finish(part: Path, path: Path) -> None:
    """Gives a complete file its name."""
    os.replace(part, path)
    remove(part)


def _attempt(url: str, part: Path, name: str) -> None:
    """Requests a file, or the rest of it, and writes what comes."""
    import requests

    done = _size(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": f"kpzoo/{__version__}"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if version := _version_file(part).read_text("utf-8") if _version_file(part).exists() else "":
            headers["If-Range"] = version  # a file that has changed since comes whole
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            _write(answer, part, done, name)
    except requests.exceptions.SSLError as error:
        fix = "set REQUESTS_CA_BUNDLE to the certificates of your network"
        raise NotFetchedError(f"its certificate is not trusted ({_reason(error)}): {fix}") from None
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _CutOffError(_reason(error)) from None
    except requests.RequestException as error:
        raise NotFetchedError(_reason(error)) from None


def _write(answer, part: Path, done: int, name: str) -> None:
    """Writes the content of an answer behind the `done` bytes of a file."""
    status, content_range = answer.status_code, answer.headers.get("Content-Range", "")
    if status == 416:  # there is no rest
        if content_range != f"bytes */{done}":
            remove(part)
            raise _CutOffError("the file on the server is shorter than before")
        return
    if status in _BUSY:
        raise _CutOffError(f"HTTP {status} {answer.reason}")
    if not 200 <= status < 300:
        raise NotFetchedError(f"HTTP {status} {answer.reason}")
    if status != 206 or not content_range.startswith(f"bytes {done}-"):
        done = 0
    length = int(answer.headers.get("Content-Length") or 0)
    _check_space(part, length, name)
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    _version_file(part).write_text("" if version.startswith("W/") else version, "utf-8")
    task = f"downloaded {name}" + (f", resumed at {done / 1e6:.0f} MB" if done else "")
    _save(answer.iter_content(CHUNK), part, "ab" if done else "wb", length, task)
    if length and _size(part) != done + length:
        raise _CutOffError(f"{_size(part) - done:,} of {length:,} bytes came")


def _copy(url: str, part: Path, name: str) -> None:
    """Copies a file of this machine."""
    path = Path(url2pathname(urlsplit(url).path) if url.startswith("file:") else url).expanduser()
    if not path.is_file():
        raise NotFetchedError("no such file")
    try:
        with path.open("rb") as file:
            _check_space(part, path.stat().st_size, name)
            _save(iter(lambda: file.read(CHUNK), b""), part, "wb", path.stat().st_size, f"copied {name}")
    except OSError as error:
        raise NotFetchedError(error.strerror or str(error)) from None


def _save(chunks: Iterator[bytes], part: Path, mode: str, length: int, task: str) -> None:
    with Progress(length / 1e6, "MB", task) as progress:
        try:
            with part.open(mode, buffering=0) as file:  # a buffer that cannot be written would fail again at its end
                for chunk in chunks:
                    _write_chunk(file, chunk)
                    progress.step(count=len(chunk) / 1e6)
                os.fsync(file.fileno())
        except _DiskError as error:
            raise UserError(
                f"Cannot write {str(part.parent)!r}: {error}. Free disk space, or set KPZOO_HOME to another folder. "
                "The download then goes on where it stopped."
            ) from None


class _DiskError(Exception):
    """Error in writing, as opposed to errors in reading."""


def _write_chunk(file, chunk: bytes) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _DiskError(error.strerror or str(error)) from None


def _check_space(part: Path, length: int, name: str) -> None:
    free = shutil.disk_usage(part.parent).free
    if length > free:
        raise UserError(
            f"{name} needs {length / 1e6:.0f} MB, and {str(part.parent)!r} has {free / 1e6:.0f} MB of free space. Free "
            "disk space, or set KPZOO_HOME to another folder."
        )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _version_file(part: Path) -> Path:
    """Returns the file that stores the server's version of an unfinished file, its ETag or date."""
    return part.with_name(f"{part.name}.version")


def _reason(error: Exception) -> str:
    """Returns one line, without the objects that `requests` prints."""
    text = " ".join(str(error).split())
    if "timed out" in text.lower():
        return f"no answer in {TIMEOUT} s"
    found = re.search(r"(\[Errno -?\d+\]|\[SSL[^\]]*\]|IncompleteRead)[^'\")]*", text)
    if found:
        return re.sub(r"^\[Errno -?\d+\] ", "", found[0]).replace("IncompleteRead(", "cut off, ").rstrip(" .(")
    return re.sub(r"<[^>]*>:? ?", "", text)[:160].rstrip(" .") or type(error).__name__
