"""The rows of docs/reliability.md: the decorator `row` adds a test to the table."""

from typing import NamedTuple


class Row(NamedTuple):
    """A row: number, input, behaviour, remark on the test, name of the test."""

    number: int
    given: str
    outcome: str
    remark: str
    test: str


ROWS: list[Row] = []


def row(number: int, given: str, outcome: str, remark: str = ""):
    """Adds a test to the table."""

    def add(test):
        ROWS.append(Row(number, given, outcome, remark, test.__name__))
        return test

    return add
