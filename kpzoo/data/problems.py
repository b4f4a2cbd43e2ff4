"""What is wrong with a file, counted and worded, with what was done about it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kpzoo.errors import UserError, worded

NUM_NAMED = 10  # ids that a message lists


@dataclass(frozen=True)
class Problem:
    """One kind of fault in a file.

    Args:
        severity: "error" (the file is refused), "repair" (mended, refused with `strict`) or "note" (left as it is).
        what: What is wrong, and what was expected.
        unit: What the ids count: "annotation ids", "image ids", "entries" (places in a list, from 0), or "" for none.
        count: How many there are.
        ids: The first ten.
        done: What was done, or how to fix it.
    """

    severity: str
    what: str
    unit: str
    count: int
    ids: tuple
    done: str

    def __str__(self) -> str:
        named = ", ".join(map(str, self.ids)) + (f", … {self.count} in all" if self.count > len(self.ids) else "")
        place = f" ({self.unit} {named})" if self.unit else ""
        return worded(f"{self.what}{place}. {self.done}".strip())


class Problems(list):
    """The problems of one file, in the order they were met."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def add(self, severity: str, what: str, ids: Iterable, done: str, unit: str = "annotation ids") -> None:
        """Adds a problem, unless `ids` is empty."""
        ids = np.asarray(ids).tolist() if isinstance(ids, np.ndarray) else list(ids)
        if ids:
            self.append(Problem(severity, what, unit, len(ids), tuple(ids[:NUM_NAMED]), done))

    def say(self, severity: str, what: str, done: str = "") -> None:
        """Adds a problem of the file as a whole."""
        self.append(Problem(severity, what, "", 1, (), done))

    def refuse(self, strict: bool = False) -> None:
        """Raises the first error there is; with `strict`, repairs count as errors.

        Raises:
            UserError: one line with the file, the fault, the ids and the fix.
        """
        fatal = [problem for problem in self if problem.severity == "error"]
        fatal += [problem for problem in self if strict and problem.severity == "repair"]
        if fatal:
            more = f" And {len(fatal) - 1} more kinds of problem." if len(fatal) > 1 else ""
            because = " Refused because of `strict=True`." if fatal[0].severity == "repair" else ""
            raise UserError(f"{self.path}: {fatal[0]}{because}{more}")
