"""Reading and writing of image files, with specific errors for files that cannot be read.

An image is an (H, W, 3) uint8 RGB array. JPEG, PNG, BMP, GIF (first frame) and WebP files are read, identified by their
first bytes and not by their names. Greyscale, CMYK, 16-bit and transparent images are converted to RGB; transparency is
dropped.
"""

import glob
import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from kpzoo.errors import UserError
from kpzoo.files import written_whole

MAX_PIXELS = 200_000_000  # 0.6 GB decoded; a file of a few KB can declare more pixels than fit in memory
READABLE = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
WRITABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_BYTES = bytes | bytearray | memoryview
# Modes of 8 bits per channel; others are refused as arrays.
_PIL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
UNREADABLE = (".tif", ".tiff", ".heic", ".heif", ".avif")  # listed, so that reading them fails with an error

_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15 without the tables DHT, JPG and DAC
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes of the header behind that of the file
_FOREIGN = (  # offset, bytes, what the file is
    (0, b"II*\0", "a TIFF file"),
    (0, b"MM\0*", "a TIFF file"),
    (4, b"ftyp", "a HEIC, AVIF or MP4 file"),
    (0, b"<", "a web page (HTML or XML), as after a failed download"),
    (0, b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` downloads the image"),
    (0, b"%PDF", "a PDF file"),
)


class UnreadablePicture(UserError):
    """Error for a file that is not an image, or is an incomplete one.

    Args:
        path: The file.
        reason: Why it cannot be read, and how to fix it.
    """

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"Cannot read the image {str(path)!r}: {reason}")
        self.reason = reason


def read_image(path: "str | Path | bytes | BinaryIO", *, apply_exif: bool = True) -> np.ndarray:
    """Reads an image file.

    Args:
        path: A JPEG, PNG, BMP, GIF or WebP file: its path, its bytes, or a file object opened in binary mode.
        apply_exif: Whether to apply the EXIF orientation. True for photos of users; False for data sets, whose
            annotations refer to the pixels as they are stored.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    _, _, data = _read(path)
    try:
        return decode_image(data, apply_exif=apply_exif)
    except ValueError as error:
        raise UnreadablePicture(_name_of(path), str(error)) from None


def decode_image(data: bytes, *, apply_exif: bool = True) -> np.ndarray:
    """Decodes the bytes of an image file to (H, W, 3) uint8 RGB. Raises `ValueError` with the reason if it cannot."""
    flags = cv2.IMREAD_COLOR_RGB if apply_exif else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"OpenCV reports {error.err!r}.") from None
    if image is None:
        raise ValueError(f"its {len(data)} bytes are incomplete or damaged. Get the file again.")
    return image


def size_of(path: str | Path | bytes) -> tuple[int, int]:
    """Returns (height, width) of an image file or its bytes as stored, without EXIF rotation. Reads only the header.

    Raises `UnreadablePicture` for the same headers as `read_image`.
    """
    height, width, _ = _read(path, header_only=True)
    return height, width


def as_image(image) -> np.ndarray:
    """Returns an image as an (H, W, 3) uint8 RGB array, from a file, from its bytes or from an array that is validated.

    Args:
        image: A path, the bytes of an image file, or a binary file object (see `read_image`); an (H, W, 3) RGB array of
            any real dtype with values in [0, 255], or an object that NumPy converts to one, such as a tensor; or a PIL
            image, whose EXIF orientation is not applied (use `PIL.ImageOps.exif_transpose`). The order of the channels
            cannot be checked: `cv2.imread` returns BGR, so pass `image[..., ::-1]`.

    Returns:
        (H, W, 3) uint8 RGB. Floats are rounded, transparency is dropped.
    """
    if isinstance(image, str | os.PathLike | _BYTES) or hasattr(image, "read"):
        return read_image(image)
    try:
        if getattr(image, "mode", None) in _PIL_MODES and hasattr(image, "convert"):
            image = image.convert("RGB")
        array = np.asarray(image)
    except Exception as error:  # each library raises its own, such as for a tensor on a GPU
        problem = str(error).split("\n")[0]
        raise UserError(f"Cannot convert the image to an array. Received: {type(image).__name__}. {problem}") from None
    fix = _array_fix(array)
    if fix:
        raise UserError(f"An image must be a (height, width, 3) RGB array with values in [0, 255]. {fix}")
    return array if array.dtype == np.uint8 else np.rint(array).astype(np.uint8)


def is_image_object(source) -> bool:
    """Returns whether a source is one image that is not a path: an array or tensor, a PIL image, bytes, or a file."""
    kind = type(source)  # PIL decodes the image when its instances are asked
    return isinstance(source, _BYTES) or any(
        hasattr(kind, name) for name in ("__array__", "__array_interface__", "read")
    )


def is_encoded(head: bytes) -> bool:
    """Returns whether a file with these first bytes is an image of a format that `read_image` supports."""
    return any(head.startswith(magic) for magic in _PARSERS) and head[8:12] not in (b"AVI ", b"WAVE")


def write_image(path: str | Path, image: np.ndarray) -> Path:
    """Writes an (H, W, 3) uint8 RGB image in the format of the suffix. Missing folders are created."""
    path, image = Path(path).expanduser(), as_image(image)
    if path.suffix.lower() not in WRITABLE:
        raise UserError(
            f"Cannot write the image {str(path)!r}: its name must end in one of {', '.join(WRITABLE)}. "
            f"Received the suffix {path.suffix!r}."
        )
    done, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise UserError(
            f"Cannot write the image {str(path)!r}: OpenCV cannot encode shape {image.shape}. "
            "The longest side is 65,500 pixels in JPEG and 16,383 in WebP. Use .png."
        )
    with written_whole(path) as part:
        part.write_bytes(data.tobytes())
    return path


def list_images(source: str | Path) -> list[Path]:
    """Returns the image files of a path, a folder (without its subfolders) or a glob pattern such as `a/**/*.jpg`.

    Folders and patterns return the files with an image's suffix, and others that begin as an image does, sorted. TIFF
    and HEIC files are included, so that they are reported as unreadable instead of being skipped. Warns of files that
    are skipped.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        found = sorted(source.iterdir())
    elif os.path.lexists(source) or not glob.has_magic(str(source)):
        return [source]
    else:
        found = sorted(map(Path, glob.glob(str(source), recursive=True)))
    files = [path for path in found if not path.name.startswith(".") and not path.is_dir()]
    images = [path for path in files if path.suffix.lower() in READABLE + UNREADABLE or _begins_as_image(path)]
    if not images:
        raise UserError(
            f"No images in {str(source)!r}. Found {len(found)} other files or folders. "
            f"Expected names ending in {', '.join(READABLE)}."
        )
    if others := sorted(set(files) - set(images)):
        named = ", ".join(path.name for path in others[:3]) + (", …" if len(others) > 3 else "")
        warnings.warn(f"{len(others)} files in {str(source)!r} are not images and are skipped: {named}", stacklevel=3)
    return images


def _begins_as_image(path: Path) -> bool:
    """Returns whether a file, whatever it is called, has the header of an image that can be read."""
    try:
        if not path.is_file():  # a pipe would wait
            return False
        with path.open("rb") as file:
            _header_hw(path, file)
            file.seek(14)
            kind = file.read(4)
            file.seek(0)
            return file.read(2) != b"BM" or int.from_bytes(kind, "little") in _BMP_HEADERS  # two letters prove little
    except (OSError, ValueError):
        return False


def _name_of(source) -> str:
    """Returns what messages call an encoded image."""
    if isinstance(source, _BYTES):
        return "<bytes>"
    return str(getattr(source, "name", "<file>") if hasattr(source, "read") else source)


def _read(source, header_only: bool = False) -> tuple[int, int, bytes]:
    """Returns the height and width of an encoded image, from its header, and its bytes."""
    if isinstance(source, _BYTES) or hasattr(source, "read"):
        data = source if isinstance(source, _BYTES) else source.read()
        if isinstance(data, str):
            raise UnreadablePicture(_name_of(source), "the file is open in text mode. Open it with mode 'rb'.")
        if not data and hasattr(source, "read"):
            raise UnreadablePicture(_name_of(source), "it is empty, or was read to its end: call `seek(0)`.")
        return _read_file(_name_of(source), io.BytesIO(data), header_only)
    if "://" in str(source):
        raise UnreadablePicture(source, "it is a URL. Download the file and pass its path or its bytes.")
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            raise UnreadablePicture(path, "it is a folder.")
        if path.exists() and not path.is_file():
            raise UnreadablePicture(path, "it is a pipe or device, not a file.")
        with path.open("rb") as file:
            return _read_file(path, file, header_only)
    except FileNotFoundError:
        what = f"the link points to {os.readlink(path)!r}:" if path.is_symlink() else "there is"
        raise UnreadablePicture(path, f"{what} no such file.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UnreadablePicture(path, f"{getattr(error, 'strerror', None) or error}.") from None


def _read_file(name: str | Path, file: BinaryIO, header_only: bool) -> tuple[int, int, bytes]:
    height, width = _header_hw(name, file)
    if height * width > MAX_PIXELS:
        limit = f"more than {MAX_PIXELS // 10**6} megapixels. Resize it first."
        raise UnreadablePicture(name, f"its header declares {height} x {width} pixels, {limit}")
    file.seek(0)
    return height, width, b"" if header_only else file.read()


def _header_hw(path: Path, file: BinaryIO) -> tuple[int, int]:
    head = file.read(32)
    if not head:
        raise UnreadablePicture(path, "it is empty (0 bytes).")
    parse = next((parse for magic, parse in _PARSERS.items() if head.startswith(magic)), None)
    if parse is None:
        text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
        foreign = next((what for at, magic, what in _FOREIGN if (head if at else text)[at:].startswith(magic)), None)
        what = foreign or f"a file that begins with {head[:8]!r}"
        raise UnreadablePicture(path, f"it is {what}. kpzoo reads JPEG, PNG, BMP, GIF and WebP.")
    size_hw = parse(head, file)
    if size_hw is None or min(size_hw) <= 0:
        raise UnreadablePicture(path, "its header is incomplete or has no size. Get the file again.")
    return size_hw


def _number(data: bytes, start: int, length: int, order: str, signed: bool = False) -> int:
    return int.from_bytes(data[start : start + length], order, signed=signed)


def _jpeg_hw(head: bytes, file: BinaryIO) -> tuple[int, int] | None:
    file.seek(2)
    while (byte := file.read(1)) == b"\xff":
        while (marker := file.read(1)) == b"\xff":  # fill bytes
            pass
        length = file.read(2)
        if marker and marker[0] in _JPEG_FRAMES:
            frame = file.read(5)  # precision, height, width
            return (_number(frame, 1, 2, "big"), _number(frame, 3, 2, "big"))
        file.seek(int.from_bytes(length, "big") - 2, os.SEEK_CUR)
    return None if byte == b"" else (0, 0)


def _png_hw(head: bytes, file: BinaryIO) -> tuple[int, int]:
    return _number(head, 20, 4, "big"), _number(head, 16, 4, "big")


def _gif_hw(head: bytes, file: BinaryIO) -> tuple[int, int]:
    return _number(head, 8, 2, "little"), _number(head, 6, 2, "little")


def _bmp_hw(head: bytes, file: BinaryIO) -> tuple[int, int]:
    if _number(head, 14, 4, "little") == 12:  # OS/2
        return _number(head, 20, 2, "little"), _number(head, 18, 2, "little")
    height = _number(head, 22, 4, "little", signed=True)  # below 0: the first row is the top one
    return abs(height), _number(head, 18, 4, "little", signed=True)


def _webp_hw(head: bytes, file: BinaryIO) -> tuple[int, int] | None:
    if head[8:15] == b"WEBPVP8":
        if head[15:16] == b" ":
            return _number(head, 28, 2, "little") & 0x3FFF, _number(head, 26, 2, "little") & 0x3FFF
        if head[15:16] == b"L":
            bits = _number(head, 21, 4, "little")
            return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
        if head[15:16] == b"X":
            return _number(head, 27, 3, "little") + 1, _number(head, 24, 3, "little") + 1
    return None


_PARSERS = {
    b"\xff\xd8\xff": _jpeg_hw,
    b"\x89PNG\r\n\x1a\n": _png_hw,
    b"GIF8": _gif_hw,
    b"BM": _bmp_hw,
    b"RIFF": _webp_hw,
}


def _array_fix(array: np.ndarray) -> str | None:
    """Returns why an array is not an image and how to fix it, or None if it is one."""
    shape = f"Received shape {array.shape}"
    if array.ndim == 2:
        return f"{shape}, a greyscale image: pass `np.repeat(image[..., None], 3, axis=2)`."
    if array.ndim == 4:
        return f"{shape}, a batch: pass its images one by one, `list(images)`."
    if array.ndim != 3 or 0 in array.shape:
        return f"{shape}."
    if array.shape[2] != 3:
        if array.shape[0] == 3:
            return f"{shape}, channels first: pass `image.transpose(1, 2, 0)`."
        return f"{shape}, with an alpha channel: pass `image[..., :3]`." if array.shape[2] == 4 else f"{shape}."
    if array.dtype == np.uint8:
        return None
    if array.dtype.kind not in "iuf":
        return f"Received dtype {array.dtype}."
    low, high = array.min(), array.max()
    received = f"Received {array.dtype} values from {low} to {high}"
    if not (np.isfinite(low) and np.isfinite(high)):
        return f"{received}: NaN or infinity at {np.argwhere(~np.isfinite(array))[0].tolist()} (row, column, channel)."
    if array.dtype.kind == "f" and low >= 0 and 0 < high <= 1:
        return f"{received}: pass `image * 255`."
    if low < 0 or high > 255:
        fix = "pass `(image >> 8).astype('uint8')`." if array.dtype == np.uint16 else "undo the normalization first."
        return f"{received}: {fix}"
    return None
