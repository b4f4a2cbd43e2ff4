"""The rows of docs/reliability.md: each is a test, which the decorator `row` puts into the table."""

from typing import NamedTuple


class Row(NamedTuple):
    """A row: its number, what is given, what happens, how this machine can test it, the test's name."""

    number: int
    given: str
    outcome: str
    remark: str
    test: str


ROWS: list[Row] = []


def row(number: int, given: str, outcome: str, remark: str = ""):
    """Puts a test into the table."""

    def add(test):
        ROWS.append(Row(number, given, outcome, remark, test.__name__))
        return test

    return add
