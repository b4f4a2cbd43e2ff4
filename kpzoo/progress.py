"""Progress of long work, on stderr."""

import sys
import time

_BAR = 24  # characters


class Progress:
    """Tells on stderr how far a run is: in one line on a terminal, else a line every ten seconds.

    Args:
        total: How many there are, 0 if nobody knows.
        what: What is counted.
    """

    def __init__(self, total: int, what: str):
        self.total, self.what, self.num_done, self.num_poses = total, what, 0, 0
        self._started = self._told = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def step(self, num_poses: int) -> None:
        """Counts one more."""
        self.num_done, self.num_poses, now = self.num_done + 1, self.num_poses + num_poses, time.monotonic()
        if now - self._told >= (0.1 if self._terminal else 10.0):
            self._told = now
            text = f"\r{self._bar}{self}\x1b[K" if self._terminal else f"{self}\n"
            print(text, end="", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a line of its own."""
        print(f"\r\x1b[K{text}" if self._terminal else text, file=sys.stderr, flush=True)

    def close(self) -> None:
        self.say(str(self))

    @property
    def _bar(self) -> str:
        done = round(_BAR * min(self.num_done / self.total, 1)) if self.total else 0
        return f"[{'#' * done:.<{_BAR}}] " if self.total else ""

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = self.num_done / seconds
        text = f"{self.num_done}/{self.total or '?'} {self.what}, {self.num_poses} poses, {rate:.1f} {self.what}/s"
        if 0 < self.num_done < self.total:
            left = round((self.total - self.num_done) / rate)
            text += f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        return text
