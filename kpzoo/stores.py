"""Files in object stores and on web servers, through fsspec; local files take the same functions.

Paths are local, or URLs: `s3://bucket/key`, `gs://bucket/key`, `az://container/key`, and to read `http://` and
`https://`. Credentials and endpoints are those of the store's own tools, such as `AWS_ACCESS_KEY_ID`, `AWS_PROFILE` and
`AWS_ENDPOINT_URL`. Requests that fail for a time, such as those of a store that limits its rate, are repeated.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kpzoo.errors import UserError
from kpzoo.files import written_whole

STORES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}  # the package that fsspec needs; extras of kpzoo have its scheme
WEB = {"http": "aiohttp", "https": "aiohttp"}
MAX_BYTES = 256 * 2**20  # of a file that is read into memory
ATTEMPTS = 8  # of a request to S3, with pauses that double

_URL = re.compile(r"([a-z0-9]+)://", re.IGNORECASE)
# To one endpoint. Botocore's default waits 60 s for a connection, ten requests at a time.
_S3 = {"retries": {"mode": "standard", "max_attempts": ATTEMPTS}, "connect_timeout": 10, "read_timeout": 30}


class Unreachable(UserError):
    """Error of a store that does not answer or does not give access, not of one file in it."""


def scheme_of(path: str | Path) -> str:
    """Returns "s3", "gs", "az", "http" or "https" for such a URL, else ""."""
    found = _URL.match(str(path))
    scheme = found[1].lower() if found else ""
    return scheme if scheme in STORES or scheme in WEB else ""


def is_store(path: str | Path) -> bool:
    """Returns whether a path is in an object store."""
    return scheme_of(path) in STORES


def joined(folder: str | Path, *names: str) -> str:
    """Returns the path of a file below a folder."""
    return "/".join([str(folder).rstrip("/") if scheme_of(folder) else str(Path(folder).expanduser()), *names])


def read(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Returns the content of a file.

    Raises:
        FileNotFoundError: If there is none.
        UserError: If it has more bytes than `limit`.
        Unreachable: If the store does not answer, or refuses access.
    """
    with reaching(path):
        data = _content(path, limit + 1)
    if len(data) > limit:
        raise UserError(f"{str(path)!r} has more than {limit} bytes. It is not read.")
    return data


def exists(path: str | Path) -> bool:
    """Returns whether there is a file, or anything below a folder."""
    with reaching(path):
        return _system(path).exists(_plain(path)) if scheme_of(path) else Path(path).expanduser().exists()


def write(path: str | Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all, and replaces one of that name."""
    if not scheme_of(path):
        with written_whole(path) as part:
            part.write_bytes(data)
        return
    with reaching(path, "write"):
        _writable(path).pipe_file(_plain(path), data)


def upload(local: str | Path, path: str | Path) -> None:
    """Copies a local file, or a folder with all that is in it, to a path in a store."""
    local = Path(local).expanduser()
    files = sorted(one for one in local.rglob("*") if one.is_file()) if local.is_dir() else [local]
    for file in files:
        target = joined(path, *file.relative_to(local).parts)
        with reaching(target, "write"):
            _writable(target).put_file(str(file), _plain(target))


def remove(path: str | Path) -> None:
    """Removes a file, or nothing if there is none."""
    if not scheme_of(path):
        Path(path).expanduser().unlink(missing_ok=True)
        return
    with reaching(path, "write"):
        if _system(path).exists(_plain(path)):
            _system(path).rm_file(_plain(path))


def names(folder: str | Path) -> list[str]:
    """Returns the sorted names of the files in a folder, without its subfolders; none if there is no folder."""
    if not scheme_of(folder):
        folder = Path(folder).expanduser()
        return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    with reaching(folder):
        try:
            found = _system(folder).ls(_plain(folder).rstrip("/") + "/", detail=True)
        except FileNotFoundError:
            return []
    return sorted(one["name"].rsplit("/", 1)[-1] for one in found if one["type"] == "file" and one["size"])


def walk(folder: str | Path) -> Iterator[tuple[str, str]]:
    """Yields the path and a stamp of each file in a folder and its subfolders, always in the same order.

    A stamp changes when the file does. Of S3 one page of a thousand names is in memory at a time, of other systems the
    names of one folder. Files and folders whose names begin with a dot are left out.

    Raises:
        FileNotFoundError: If there is no folder.
    """
    if scheme_of(folder) in WEB:
        raise UserError(f"A web server does not list its files. Received: {str(folder)!r}. List them in a .txt file.")
    if scheme_of(folder) == "s3":
        yield from _walk_s3(str(folder))
    elif is_store(folder):
        yield from _walk_store(str(folder))
    else:
        yield from _walk_local(Path(folder).expanduser())


def _walk_local(folder: Path) -> Iterator[tuple[str, str]]:
    for name in sorted(name for name in os.listdir(folder) if not name.startswith(".")):
        path = folder / name
        if path.is_dir():
            yield from _walk_local(path)
        elif path.is_file():
            status = path.stat()
            yield str(path), f"{status.st_size}-{status.st_mtime_ns}"


def _walk_s3(folder: str) -> Iterator[tuple[str, str]]:
    system, (bucket, _, prefix) = _system(folder), _plain(folder).partition("/")
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    page = {"Bucket": bucket, "Prefix": prefix}
    while True:
        with reaching(folder):
            found = system.call_s3("list_objects_v2", **page)
        for one in found.get("Contents", ()):
            if not any(part.startswith(".") for part in one["Key"][len(prefix) :].split("/")):
                yield f"s3://{bucket}/{one['Key']}", f"{one['Size']}-{one['ETag'].strip(chr(34))}"
        if not found.get("IsTruncated"):
            return
        page["ContinuationToken"] = found["NextContinuationToken"]


def _walk_store(folder: str) -> Iterator[tuple[str, str]]:
    system = _system(folder)
    with reaching(folder):
        found = sorted(system.ls(_plain(folder), detail=True), key=lambda one: one["name"])
    for one in found:
        path = f"{scheme_of(folder)}://{one['name'].rstrip('/')}"
        if path.rsplit("/", 1)[-1].startswith(".") or path.rstrip("/") == folder.rstrip("/"):
            continue
        if one["type"] == "directory":
            yield from _walk_store(path)
        else:
            changed = next((one[key] for key in ("etag", "mtime", "last_modified") if one.get(key)), "")
            yield path, f"{one['size']}-{changed}"


@contextmanager
def reaching(path: str | Path, what: str = "read") -> Iterator[None]:
    """Turns errors of a store, except those of a missing file, into an `Unreachable` that names the path."""
    try:
        yield
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # each client has its own
        if not scheme_of(path):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if type(error).__module__.startswith("aiohttp") and getattr(error, "status", 0) in (404, 410):
            raise FileNotFoundError(str(path)) from None
        advice = "Check the credentials, the name of the bucket and the endpoint."
        raise Unreachable(f"Cannot {what} {str(path)!r}: {type(error).__name__}: {reason}.", advice) from None


def _content(path: str | Path, limit: int) -> bytes:
    """Returns up to `limit` bytes of a file, with one request."""
    if not scheme_of(path):
        with Path(path).expanduser().open("rb") as file:
            return file.read(limit)
    if scheme_of(path) in WEB:
        with _system(path).open(_plain(path), "rb", block_size=0) as file:  # read as it comes
            return file.read(limit)
    try:
        return _system(path).cat_file(_plain(path), start=0, end=limit)
    except OSError as error:
        if "InvalidRange" in str(error) or "416" in str(error):  # the file is empty
            return b""
        raise


def _plain(path: str | Path) -> str:
    """Returns a URL as fsspec's file systems take it: stores without the scheme, web servers with it."""
    return str(path) if scheme_of(path) in WEB else str(path).partition("://")[2]


def _writable(path: str | Path):
    if scheme_of(path) in WEB:
        raise UserError(f"Nothing can be written to a web server. Received: {str(path)!r}.")
    return _system(path)


def _system(path: str | Path):
    """Returns fsspec's file system of a URL; fsspec keeps one for each scheme."""
    scheme = scheme_of(path)
    package = (STORES | WEB)[scheme]
    try:
        import fsspec

        __import__(package)
    except ImportError:
        extra = scheme if scheme in STORES else "s3"
        raise UserError(
            f"{scheme}:// needs the package {package}. Install it with `pip install 'kpzoo[{extra}]'`."
        ) from None
    options = {"config_kwargs": _S3} if scheme == "s3" else {}
    return fsspec.filesystem(scheme, use_listings_cache=False, **options)
