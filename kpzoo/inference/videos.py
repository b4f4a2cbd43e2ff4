"""Recognizes video files and streams, and tells damaged files from files whose containers guess their frame count."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2

from kpzoo import images
from kpzoo.files import utf8_path

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "srt")  # of FFmpeg in OpenCV
OPEN_SECONDS = 15  # until a stream must answer

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_PASSWORD = re.compile(r"(?<=://)[^/\s]*@")
_CONTAINERS = (  # first bytes, at an offset
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (0, b"OggS"),
    (0, b"FLV\x01"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF: WMV
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),  # MPEG-1 and -2 video without a container
    *((4, box) for box in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")),  # MP4, QuickTime
)
_IMAGE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"jxl ")
_TRANSPORT_PACKETS = (188, 192, 204)  # bytes of an MPEG transport packet, which begins with 0x47

# FFmpeg reports damage only in its log, which OpenCV prints on stdout at the level of an environment variable.
_DECODE = "import sys, cv2; v = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG); [0 for _ in iter(v.grab, False)]"
_ERRORS, _LOG = "16", "[OPENCV:FFMPEG:"


def is_url(source) -> bool:
    return isinstance(source, str) and _URL.match(source) is not None


def scheme_of(url: str) -> str:
    """Returns the part of a URL before ://, in lower case."""
    return _URL.match(url)[1].lower()


def without_password(source: str | Path) -> str:
    """Returns a path, or a URL without its user name and password, for messages and results."""
    return _PASSWORD.sub("", str(source)) if is_url(source) else str(source)


def is_video(source: str | Path) -> bool:
    """Returns whether a path is a video, by the content of the file, or by its suffix if the content is not known."""
    path = Path(source).expanduser()
    if path.is_dir():
        return False
    try:
        head = b""
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(2 * max(_TRANSPORT_PACKETS) + 8)
    except OSError:  # reported when the file is read
        pass
    if head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS or images.is_encoded(head):
        return False
    if any(head[at : at + len(magic)] == magic for at, magic in _CONTAINERS):
        return True
    start = 4 if head[4:5] == b"\x47" else 0  # a time code comes before each packet of 192 bytes
    if any(head[start : start + 2 * size : size] == b"\x47\x47" for size in _TRANSPORT_PACKETS):
        return True
    return path.suffix.lower() in SUFFIXES


def missing_frames(path: Path, num_read: int, declared: int, last_second: float, fps: float) -> int:
    """Returns about how many frames of a file could not be read; 0 for a whole file.

    The number of frames that a container declares is exact in some formats and a guess from the duration in others:
    edit lists, sound that is longer than the video and variable frame rates make it wrong. If it differs from the
    number of frames that were read, the file is decoded again in another process, and FFmpeg's log is searched for
    errors. AVI files declare the exact length, and damage to them may leave no error.

    Args:
        path: The file.
        num_read: Number of frames that were read.
        declared: Number of frames that the container declares, 0 if unknown.
        last_second: Time of the last frame.
        fps: Frames per second.
    """
    if num_read == declared:
        return 0
    missing = max(declared - num_read, 1)
    with path.open("rb") as file:
        is_avi = file.read(12)[8:] == b"AVI "
    if is_avi and last_second * fps < declared - 1.5:
        return missing
    return missing if _has_errors(path) else 0


def _has_errors(path: Path) -> bool:
    if not sys.executable or getattr(sys, "frozen", False):  # no Python to run
        return False
    environment = os.environ | {"OPENCV_FFMPEG_LOGLEVEL": _ERRORS}
    # -P: no module of the current folder is imported in place of OpenCV.
    done = subprocess.run([sys.executable, "-P", "-c", _DECODE, utf8_path(path)], env=environment, capture_output=True)
    return _LOG.encode() in done.stdout


def open_stream(url: str) -> cv2.VideoCapture:
    """Returns the opened or unopened video of a URL."""
    scheme, separator, rest = url.partition("://")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 1000 * OPEN_SECONDS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 1000 * OPEN_SECONDS]
    return cv2.VideoCapture(scheme.lower() + separator + rest, cv2.CAP_FFMPEG, limits)
