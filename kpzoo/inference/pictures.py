"""Image sources: files, folders, globs, arrays, lists of these, videos, webcams. Images are read one at a time."""

import glob
import os
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from kpzoo import images
from kpzoo.errors import UserError

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
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
    """

    name: str
    image_id: int
    key: int | str
    image: np.ndarray | None = None
    problem: UserError | None = None


class Pictures:
    """Files and arrays, read one at a time. An image that cannot be read is yielded with its `problem`.

    Args:
        entries: Paths and (H, W, 3) RGB arrays with values 0 … 255.
        apply_exif: Whether to apply the EXIF orientation, see `images.read_image`.
    """

    def __init__(self, entries: Sequence[str | Path | np.ndarray], apply_exif: bool = True):
        self.entries, self.apply_exif = list(entries), apply_exif
        files = [Path(entry) for entry in self.entries if not isinstance(entry, np.ndarray)]
        parents = {os.path.abspath(file.expanduser().parent) for file in files}
        folder = os.path.commonpath(parents) if parents else ""
        numbers = [file.stem for file in files if file.stem.isascii() and file.stem.isdigit()]
        named = len(set(map(int, numbers))) == len(self.entries)
        self.listed = []
        for index, entry in enumerate(self.entries):
            if isinstance(entry, np.ndarray):
                self.listed.append(Picture(str(index), index + 1, index))
            else:
                path = Path(os.path.abspath(Path(entry).expanduser()))
                image_id = int(path.stem) if named else index + 1
                name = Path(os.path.relpath(path, folder)).as_posix()
                self.listed.append(Picture(name, image_id, path.as_posix()))
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
                given = isinstance(entry, np.ndarray)
                image = images.as_image(entry) if given else images.read_image(entry, apply_exif=self.apply_exif)
                yield replace(listed, image=image)
            except UserError as error:
                yield replace(listed, problem=error)


class Video:
    """The frames of a video file or webcam, read with OpenCV, once. Broken frames are skipped and counted.

    Args:
        source: A file, `webcam`, or `webcam:` and a number.

    Raises:
        UserError: If the file does not exist, or OpenCV cannot open it.
    """

    def __init__(self, source: str | Path):
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # no log of broken frames, which are counted here
        self.source, self.live = str(source), is_webcam(source)
        path = Path(source).expanduser()
        if not self.live and not path.is_file():
            raise UserError(f"There is no video {self.source!r}.")
        number = self.source.partition(":")[2] or "0"
        if self.live and not number.isdigit():
            raise UserError(f"Expected `webcam` or `webcam:` and a number. Received: {self.source!r}.")
        self._capture = cv2.VideoCapture(int(number) if self.live else str(path))
        if not self._capture.isOpened():
            hint = "Is a camera connected?" if self.live else "OpenCV has no codec for it, or the file is incomplete."
            raise UserError(f"Cannot open the video {self.source!r}. {hint}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if np.isfinite(fps) and 0 < fps <= 1000 else 25.0
        declared = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.declared = int(declared) if not self.live and 0 < declared < 1e9 else 0  # 0: unknown
        self.num_read = self.num_broken = 0

    def __len__(self) -> int:
        return self.declared

    def __iter__(self) -> Iterator[Picture]:
        """Yields the frames, numbered from 0. Broken frames are counted but not yielded.

        Raises:
            UserError: If no frame can be read.
        """
        failures = 0
        try:
            while failures < _PATIENCE and (failures == 0 or not self.live):
                done, frame = self._capture.read()
                if not done or frame is None:
                    failures += 1
                    if self.declared and self.num_read + self.num_broken + failures > self.declared:
                        break
                    continue
                self.num_broken, failures = self.num_broken + failures, 0
                number = self.num_read + self.num_broken
                self.num_read += 1
                yield Picture(str(number), number, number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            self.num_broken = max(self.num_broken, self.declared - self.num_read)  # the file may be incomplete
        finally:
            self._capture.release()
        if not self.num_read:
            raise UserError(f"The video {self.source!r} has no frame that can be read.")


def is_webcam(source) -> bool:
    return isinstance(source, str) and (source == WEBCAM or source.startswith(WEBCAM + ":"))


def is_one_picture(source) -> bool:
    """Returns whether a source is one array or one image file, judged by its name."""
    if isinstance(source, np.ndarray):
        return True
    if not isinstance(source, str | Path) or is_webcam(source):
        return False
    path = Path(source).expanduser()
    many = path.is_dir() or path.suffix.lower() in VIDEOS
    return not many and (os.path.lexists(path) or not glob.has_magic(str(source)))


def check_one(source) -> None:
    """Raises an error for sources of many images."""
    if is_one_picture(source):
        return
    if isinstance(source, str | Path):
        is_folder, is_video = Path(source).expanduser().is_dir(), Path(source).suffix.lower() in VIDEOS
        kind = "folder" if is_folder else "webcam" if is_webcam(source) else "video" if is_video else "pattern"
        received = f"the {kind} {str(source)!r}"
    else:
        received = f"a {type(source).__name__}"
    raise UserError(
        f"Expected one image: a file, or a (height, width, 3) array. Received: {received}.",
        "For folders, lists and videos use `kpzoo.stream(model, source)` or `predictor.stream(source)`, which yield "
        "one result per image.",
    )


def open_source(source) -> "Pictures | Video":
    """Returns the images of a file, folder, glob, video, webcam or array, or of a list of files and arrays."""
    if isinstance(source, Pictures | Video):
        return source
    if isinstance(source, np.ndarray):
        return Pictures([source])
    if isinstance(source, str | Path):
        if is_webcam(source) or (Path(source).suffix.lower() in VIDEOS and not Path(source).expanduser().is_dir()):
            return Video(source)
        return Pictures(images.list_images(source))
    entries = list(source)
    wrong = [entry for entry in entries if not isinstance(entry, str | Path | np.ndarray)]
    videos = [entry for entry in entries if isinstance(entry, str | Path) and Path(entry).suffix.lower() in VIDEOS]
    if wrong or videos:
        received = type(wrong[0]).__name__ if wrong else f"the video {str(videos[0])!r}"
        raise UserError(f"Expected a list of image files and arrays. Received: {received}. Pass videos one by one.")
    return Pictures(entries)
