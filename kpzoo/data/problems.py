"""Problems of a file, with counts and what was done about them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kpzoo.errors import UserError, worded

NUM_NAMED = 10  # ids in a message


@dataclass(frozen=True)
class Problem:
    """One kind of problem in a file.

    Args:
        severity: "error" (the file is rejected), "repair" (repaired, or rejected with `strict`) or "note" (unchanged).
        what: The problem, and what was expected.
        unit: Unit of `ids`: "annotation ids", "image ids", "entries" (list indices, from 0), or "" for no ids.
        count: Number of occurrences.
        ids: Ids of the first ten occurrences.
        done: What was done, or how to correct it.
    """

    severity: str
    what: str
    unit: str
    count: int
    ids: tuple
    done: str

    def __str__(self) -> str:
        named = ", ".join(map(str, self.ids)) + (f", … {self.count} in total" if self.count > len(self.ids) else "")
        place = f" ({self.unit} {named})" if self.unit else ""
        return worded(f"{self.what}{place}. {self.done}".strip())


class Problems(list):
    """The problems of a file, in the order in which they were found."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def add(self, severity: str, what: str, ids: Iterable, done: str, unit: str = "annotation ids") -> None:
        """Adds a problem, unless `ids` is empty."""
        ids = np.asarray(ids).tolist() if isinstance(ids, np.ndarray) else list(ids)
        if ids:
            self.append(Problem(severity, what, unit, len(ids), tuple(ids[:NUM_NAMED]), done))

    def say(self, severity: str, what: str, done: str = "") -> None:
        """Adds a problem of the whole file."""
        self.append(Problem(severity, what, "", 1, (), done))

    def refuse(self, strict: bool = False) -> None:
        """Raises the first error, if there is one.

        Args:
            strict: Whether repairs are errors, too.

        Raises:
            UserError: If there is an error.
        """
        fatal = [problem for problem in self if problem.severity == "error"]
        fatal += [problem for problem in self if strict and problem.severity == "repair"]
        if fatal:
            more = f" And {len(fatal) - 1} more kinds of problem." if len(fatal) > 1 else ""
            because = " This is an error because of `strict=True`." if fatal[0].severity == "repair" else ""
            raise UserError(f"{self.path}: {fatal[0]}{because}{more}")
