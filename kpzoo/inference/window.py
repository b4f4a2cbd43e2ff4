"""A window that shows the poses in a video or of a webcam as they are found, with the frames per second."""

import os
import sys
import time
from collections import deque

import cv2
import numpy as np

from kpzoo.errors import UserError
from kpzoo.inference.pictures import Video

_AVERAGED = 30  # frames
_KEYS = (ord("q"), 27)  # 27: Esc


def check(source) -> None:
    """Raises an error if a source cannot be shown: one of images, or without windows in OpenCV or a display."""
    if not isinstance(source, Video):
        raise UserError("`show=True` is for videos and webcams. Drawings of images are written to the output folder.")
    interfaces = [line.split(":")[1].strip() for line in cv2.getBuildInformation().splitlines() if "GUI:" in line]
    if "NONE" in interfaces:
        raise UserError(
            "This build of OpenCV has no windows (opencv-python-headless). Run `pip uninstall opencv-python-headless` "
            "and `pip install opencv-python`."
        )
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError("There is no display to open a window on: neither DISPLAY nor WAYLAND_DISPLAY is set.")


class Window:
    """A window, which is closed at the end of its block.

    Args:
        title: Text of its title bar.
    """

    def __init__(self, title: str):
        self.title, self._times = title, deque(maxlen=_AVERAGED)

    def __enter__(self) -> "Window":
        cv2.namedWindow(self.title, cv2.WINDOW_NORMAL)
        return self

    def __exit__(self, *_) -> None:
        cv2.destroyAllWindows()

    def show(self, image_rgb: np.ndarray) -> bool:
        """Shows a (H, W, 3) uint8 RGB image, and returns whether the window is still wanted.

        It is not after q or Esc, or when the user has closed it.
        """
        self._times.append(time.monotonic())
        image = cv2.cvtColor(np.asarray(image_rgb), cv2.COLOR_RGB2BGR)
        scale = max(0.5, image.shape[0] / 720)
        place = round(12 * scale), round(30 * scale)
        for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            font, width = cv2.FONT_HERSHEY_DUPLEX, max(1, round(width * scale))
            cv2.putText(image, f"{self.fps:.1f} fps", place, font, 0.9 * scale, colour, width, cv2.LINE_AA)
        cv2.imshow(self.title, image)
        pressed = cv2.waitKey(1) & 0xFF
        return pressed not in _KEYS and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1

    @property
    def fps(self) -> float:
        """Frames per second over the last frames; 0.0 before the second."""
        if len(self._times) < 2:
            return 0.0
        return (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9)
