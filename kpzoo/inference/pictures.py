"""Image sources: files, folders, globs, arrays, lists of these, videos, streams, webcams, read one image at a time."""

import glob
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from kpzoo import images
from kpzoo.errors import UserError
from kpzoo.files import shown_name, utf8_path
from kpzoo.images import is_image_object
from kpzoo.inference import videos

WEBCAM = "webcam"  # the first camera; the second is `webcam:1`

_PATIENCE = 50  # consecutive failures after which a video ends: damage affects frames up to the next key frame


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of a source.

    Args:
        name: Name in results: the path relative to the common folder of all images, or the index of an array or frame.
        image_id: The number in the file name if all file names are numbers, as in COCO; else counted from 1, frames
            from 0.
        key: What detectors get as the id: the path of the file, or the number of a frame or an array.
        image: (H, W, 3) uint8 RGB; None if it could not be read.
        problem: The error if it could not be read, else None.
        seconds: Time of a frame: in a file from its number and the frame rate, of a live source from the clock.
    """

    name: str
    image_id: int
    key: int | str
    image: np.ndarray | None = None
    problem: UserError | None = None
    seconds: float = 0.0


class Pictures:
    """Files and arrays, read one at a time. An image that cannot be read is yielded with its `problem`.

    Args:
        entries: Paths, and images as `images.as_image` takes them.
        apply_exif: Whether to apply the EXIF orientation, see `images.read_image`.
    """

    def __init__(self, entries: Sequence, apply_exif: bool = True):
        self.entries, self.apply_exif = list(entries), apply_exif
        files = [Path(entry) for entry in self.entries if not is_image_object(entry)]
        parents = {os.path.abspath(file.expanduser().parent) for file in files}
        folder = os.path.commonpath(parents) if parents else ""
        numbers = [file.stem for file in files if file.stem.isascii() and file.stem.isdigit()]
        named = len(set(map(int, numbers))) == len(self.entries)
        self.listed = []
        for index, entry in enumerate(self.entries):
            if is_image_object(entry):
                self.listed.append(Picture(str(index), index + 1, index))
            else:
                path = Path(os.path.abspath(Path(entry).expanduser()))
                image_id = int(path.stem) if named else index + 1
                name = shown_name(Path(os.path.relpath(path, folder)).as_posix())
                self.listed.append(Picture(name, image_id, shown_name(path.as_posix())))
        self.folders = parents

    def at(self, places: Sequence[int]) -> "Pictures":
        """Returns the images at some indices, with the same names and ids."""
        chosen = copy(self)
        chosen.entries, chosen.listed = ([listed[place] for place in places] for listed in (self.entries, self.listed))
        return chosen

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Picture]:
        for entry, listed in zip(self.entries, self.listed, strict=True):
            try:
                given = is_image_object(entry)
                image = images.as_image(entry) if given else images.read_image(entry, apply_exif=self.apply_exif)
                yield replace(listed, image=image)
            except UserError as error:
                yield replace(listed, problem=error)


class Video:
    """The frames of a video file, stream or webcam, read with OpenCV, once. Broken frames are skipped and counted.

    Args:
        source: A file, a URL of a stream, `webcam`, or `webcam:` and a number.

    Raises:
        UserError: If the file does not exist, or OpenCV cannot open the source.
    """

    def __init__(self, source: str | Path):
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # no log of broken frames, which are counted here
        self.source = shown_name(videos.without_password(source))
        self.live = is_webcam(source) or videos.is_url(source)
        self._path = None if self.live else Path(source).expanduser()
        self._capture = self._opened(source)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if np.isfinite(fps) and 0 < fps <= 1000 else 25.0
        declared = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.declared = int(declared) if not self.live and 0 < declared < 1e9 else 0  # 0: unknown; often a guess
        self.num_read = self.num_broken = 0
        self._frames = self._read()

    @property
    def name(self) -> str:
        """Name for output files: the file's name without suffix, `stream` or `webcam`."""
        if self._path is not None:
            return self._path.stem
        return "webcam" if is_webcam(self.source) else "stream"

    @property
    def path(self) -> Path | None:
        """The file; None for streams and webcams."""
        return self._path

    def _opened(self, source: str | Path) -> cv2.VideoCapture:
        if is_webcam(source):
            number = source.partition(":")[2] or "0"
            if not number.isdigit():
                raise UserError(f"Expected `webcam` or `webcam:` and a number. Received: {self.source!r}.")
            capture, hint = cv2.VideoCapture(int(number)), "Is a camera connected?"
        elif videos.is_url(source):
            if videos.scheme_of(source) not in videos.STREAMS:
                schemes = ", ".join(f"{scheme}://" for scheme in videos.STREAMS)
                raise UserError(f"Expected the URL of a stream, {schemes}, or a path. Received: {self.source!r}.")
            capture = videos.open_stream(source)
            hint = f"No video that OpenCV can read came from there within {videos.OPEN_SECONDS} seconds."
        else:
            if not self._path.is_file():
                raise UserError(f"There is no video {self.source!r}.")
            capture = cv2.VideoCapture(utf8_path(self._path))
            hint = "OpenCV has no codec for it, or the file is incomplete."
        if not capture.isOpened():
            raise UserError(f"Cannot open the video {self.source!r}. {hint}")
        return capture

    def __len__(self) -> int:
        return self.declared

    def __iter__(self) -> Iterator[Picture]:
        """Returns the iterator over the frames that are left, numbered from 0 at the first of the video.

        Broken frames are counted but not yielded.

        Raises:
            UserError: If no frame can be read.
        """
        return self._frames

    def _read(self) -> Iterator[Picture]:
        failures, last_second = 0, 0.0
        try:
            while failures < _PATIENCE and (failures == 0 or not self.live):
                done, frame = self._capture.read()
                if not done or frame is None:
                    failures += 1
                    continue
                self.num_broken, failures = self.num_broken + failures, 0
                last_second = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                number = self.num_read + self.num_broken
                self.num_read += 1
                seconds = time.monotonic() if self.live else number / self.fps
                image = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                yield Picture(str(number), number, number, image, seconds=seconds)
        finally:
            self._capture.release()
        if not self.num_read:
            raise UserError(f"The video {self.source!r} has no frame that can be read.")
        if self.num_broken:
            self.num_broken = max(self.num_broken, self.declared - self.num_read)
        elif not self.live:
            counts = (self.num_read, self.declared, last_second, self.fps)
            self.num_broken = videos.missing_frames(self._path, *counts)


def is_webcam(source) -> bool:
    return isinstance(source, str) and (source == WEBCAM or source.startswith(WEBCAM + ":"))


def is_one_picture(source) -> bool:
    """Returns whether a source is one image: a file that is no video, an array, or another object, see `as_image`."""
    if is_image_object(source):
        return True
    if not isinstance(source, str | Path) or is_webcam(source) or videos.is_url(source):
        return False
    path = Path(source).expanduser()
    many = path.is_dir() or videos.is_video(path)
    return not many and (os.path.lexists(path) or not glob.has_magic(str(source)))


def check_one(source) -> None:
    """Raises an error for sources of many images."""
    if is_one_picture(source):
        return
    if isinstance(source, str | Path):
        kinds = [(is_webcam(source), "webcam"), (videos.is_url(source), "URL")]
        kinds += [(Path(source).expanduser().is_dir(), "folder"), (videos.is_video(source), "video"), (True, "pattern")]
        kind = next(kind for is_so, kind in kinds if is_so)
        received = f"the {kind} {videos.without_password(source)!r}"
    else:
        received = type(source).__name__
    raise UserError(
        f"Expected one image: a file, or a (height, width, 3) array. Received: {received}.",
        "For folders, lists and videos use `kpzoo.stream(model, source)` or `predictor.stream(source)`, which yield "
        "one result per image.",
    )


def open_source(source) -> "Pictures | Video":
    """Returns the images of a file, folder, glob, video, stream, webcam or array, or of a list of files and arrays."""
    if isinstance(source, Pictures | Video):
        return source
    if is_image_object(source):
        return Pictures([images.as_image(source)])  # an error now, not when the first result is read
    if isinstance(source, str | Path):
        if _is_moving(source):
            return Video(source)
        return Pictures(images.list_images(source))
    if not isinstance(source, Iterable) or isinstance(source, Mapping):
        raise UserError(f"Expected a file, folder, video, array or list. Received: {type(source).__name__}.")
    entries = list(source)
    wrong = [entry for entry in entries if not isinstance(entry, str | Path) and not is_image_object(entry)]
    moving = [entry for entry in entries if isinstance(entry, str | Path) and _is_moving(entry)]
    if wrong or moving:
        received = type(wrong[0]).__name__ if wrong else f"the video {videos.without_password(moving[0])!r}"
        raise UserError(f"Expected a list of image files and arrays. Received: {received}. Pass videos one by one.")
    return Pictures(entries)


def open_sources(sources: Sequence[str]) -> "Pictures | Video":
    """Returns the images of one source, see `open_source`, or of several files, folders and globs, each image once."""
    if len(sources) == 1:
        return open_source(sources[0])
    moving = [source for source in sources if _is_moving(source)]
    if moving:
        received = f"{len(sources)} sources, among them {videos.without_password(moving[0])!r}"
        raise UserError(f"Expected one video, stream or webcam. Received: {received}. Pass it alone.")
    return Pictures(list(dict.fromkeys(path for source in sources for path in images.list_images(source))))


def _is_moving(source: str | Path) -> bool:
    return is_webcam(source) or videos.is_url(source) or videos.is_video(source)
