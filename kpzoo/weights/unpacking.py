"""One file out of a zip file, with bounds."""

import zipfile
import zlib
from pathlib import Path

from kpzoo.errors import UserError
from kpzoo.files import written_whole

MAX_BYTES = 2 << 30  # of the unpacked file, the most that an ONNX file can have
MAX_EXPANSION = 50  # how many times larger than the zip file it may be
CHUNK = 1 << 20


def unpack(archive: Path, member: str, path: Path) -> None:
    """Writes one file of a zip file to `path`.

    Args:
        archive: The zip file.
        member: Name of the file, in whatever folder of the archive.
        path: Where it is written, whatever the archive says.

    Raises:
        UserError: Damaged archive, no such file in it, or one that is too large.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [info for info in opened.infolist() if info.filename.rpartition("/")[2] == member]
            if len(found) != 1:
                names = [info.filename for info in opened.infolist()][:5]
                raise UserError(f"{str(archive)!r} must contain {member} once. Received: {names}.")
            limit = min(MAX_BYTES, MAX_EXPANSION * archive.stat().st_size)
            if found[0].file_size > limit:
                text = f"{member} in {str(archive)!r} would be {found[0].file_size:,} bytes large"
                raise UserError(f"{text}, and {limit:,} are the limit. It was not unpacked.")
            with opened.open(found[0]) as source, written_whole(path) as part, part.open("wb") as target:
                while chunk := source.read(CHUNK):  # never more than the archive announces
                    target.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        raise UserError(
            f"{str(archive)!r} is not a complete zip file: {error}. Remove it with `kpzoo weights clear`, and fetch it "
            "again."
        ) from None
