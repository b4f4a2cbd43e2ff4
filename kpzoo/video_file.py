"""Video files that are written frame by frame."""

from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from kpzoo import files
from kpzoo.errors import UserError
from kpzoo.files import written_whole


class VideoFile:
    """An .mp4 file, which appears under its name when it is closed. All frames are resized to the size of the first.

    Args:
        path: The file, ending in .mp4.
        fps: Frames per second.
    """

    def __init__(self, path: str | Path, fps: float):
        self.path, self.fps, self._writer, self._size = Path(path), fps, None, None
        self._stack = ExitStack()  # of `written_whole`

    def add(self, image_rgb: np.ndarray) -> None:
        """Writes one (H, W, 3) uint8 RGB frame."""
        if self._writer is None:
            height, width = (max(2, side - side % 2) for side in image_rgb.shape[:2])  # the codec subsamples color
            self._size, self._num_frames = (width, height), 0
            self._part = self._stack.enter_context(written_whole(self.path))
            self._writer = cv2.VideoWriter(
                files.utf8_path(self._part), cv2.VideoWriter_fourcc(*"mp4v"), self.fps, self._size
            )
            if not self._writer.isOpened():
                self._writer = None
                with self._stack:
                    raise UserError(f"Cannot write {str(self.path)!r}: OpenCV has no encoder for {self._size}.")
        frame = np.asarray(image_rgb)[: self._size[1], : self._size[0]]
        if frame.shape[1::-1] != self._size:
            frame = cv2.resize(np.asarray(image_rgb), self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._num_frames += 1

    def close(self) -> None:
        """Completes the file. Without frames no file is written; after an error an older file remains.

        Raises:
            UserError: If frames are missing in the written file.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        with self._stack:
            written = _num_frames(self._part)  # OpenCV does not report a full disk
            if written != self._num_frames:
                raise UserError(
                    f"Cannot write {str(self.path)!r}: {written} of {self._num_frames} frames were written. "
                    "Is the disk full?"
                )


def _num_frames(path: Path) -> int:
    """Returns the number of frames in the index at the end of a video; 0 without an index."""
    capture = cv2.VideoCapture(files.utf8_path(path))
    try:
        return round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()
