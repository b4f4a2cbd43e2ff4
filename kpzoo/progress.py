"""Progress of long work, on stderr."""

import sys
import time

_BAR = 24  # characters
_SECONDS = {True: 0.1, False: 10.0}  # between two lines, by whether stderr is a terminal


class Progress:
    """Prints progress on stderr: one line that is updated on a terminal, elsewhere a line every ten seconds.

    As a context manager it calls `close` at the end of its block.

    Args:
        total: The amount of work, 0 if it is unknown.
        unit: What is counted, such as "pictures".
        task: Text in front of the count, such as "checked".
        shown: Whether to print anything.
    """

    def __init__(self, total: float, unit: str, task: str = "", *, shown: bool = True):
        self.total, self.unit, self.task, self.shown = total, unit, task, shown
        self.num_done, self.num_poses = 0, None
        self._started = self._printed = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def step(self, num_poses: int | None = None, *, count: float = 1) -> None:
        """Adds `count` to the work that is done, and `num_poses` to the poses found, which are printed if given."""
        self.num_done, now = self.num_done + count, time.monotonic()
        if num_poses is not None:
            self.num_poses = (self.num_poses or 0) + num_poses
        by_close = 0 < self.total <= self.num_done and not self._terminal  # the line that `close` prints
        if self.shown and not by_close and now - self._printed >= _SECONDS[self._terminal]:
            self._printed = now
            text = f"\r{self._bar}{self}\x1b[K" if self._terminal else f"{self}\n"
            print(text, end="", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a message on a separate line."""
        if self.shown:
            print(f"\r\x1b[K{text}" if self._terminal else text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Prints the final count, unless there was nothing to do."""
        if self.total or self.num_done:
            self.say(str(self))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def _bar(self) -> str:
        done = round(_BAR * min(self.num_done / self.total, 1)) if self.total else 0
        return f"[{'#' * done:.<{_BAR}}] " if self.total else ""

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = self.num_done / seconds
        total = f"{self.total:.0f}" if self.total else "?"
        parts = [f"{self.task} {self.num_done:.0f}/{total} {self.unit}".lstrip()]
        if self.num_poses is not None:
            parts += [f"{self.num_poses} pose{'' if self.num_poses == 1 else 's'}"]
        parts += [f"{rate:{'.1f' if rate >= 1 else '.2g'}} {self.unit}/s"]
        if 0 < self.num_done < self.total:
            left = round((self.total - self.num_done) / rate)
            parts += [f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"]
        return ", ".join(parts)
