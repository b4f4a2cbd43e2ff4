"""Values from a JSON file as columns of numbers, with a mask of those that are none."""

import json
import re
from itertools import chain
from typing import NamedTuple

import numpy as np

MISSING, NO_NUMBERS = -1, -2  # "lengths" of values that are null or absent, and of values that are no list of numbers

_INT64 = np.iinfo(np.int64)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def whole_numbers(values: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (N,) int64 numbers, a mask of the values that are none, and one of those that were text such as "12"."""
    if set(map(type, values)) <= {int}:
        try:
            numbers = np.array(values, np.int64)
            return numbers, np.zeros(len(numbers), bool), np.zeros(len(numbers), bool)
        except OverflowError:
            pass
    parsed = [_whole(value) for value in values]
    bad = np.array([number is None for number in parsed], bool)
    text = np.array([isinstance(value, str) for value in values], bool) & ~bad
    return np.array([number or 0 for number in parsed], np.int64), bad, text


def _whole(value) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not _INT64.min <= value <= _INT64.max:
        return None
    return value


class Numbers(NamedTuple):
    """A column of numbers.

    Args:
        values: (N,) float64, NaN for the bad and the missing ones.
        bad: (N,) which are no finite numbers.
        missing: (N,) which are null or absent; none of them is bad.
        text: (N,) which were text such as "12.5".
    """

    values: np.ndarray
    bad: np.ndarray
    missing: np.ndarray
    text: np.ndarray


def numbers(values: list) -> Numbers:
    """Returns the numbers of a column of JSON values; text such as "12.5" is read as the number."""
    missing = np.array([value is None for value in values], bool)
    array = _floats(values)
    text = np.zeros(len(values), bool)
    if array is None:
        array = np.array([_float(value) for value in values], np.float64)
        text = np.array([type(value) is str for value in values], bool) & np.isfinite(array)
    bad = ~np.isfinite(array) & ~missing
    array[bad | missing] = np.nan
    return Numbers(array, bad, missing, text)


def shown(value) -> str:
    """Returns a JSON value as a message shows it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def example(values: list, chosen: np.ndarray) -> str:
    """Returns ", such as " and the first chosen of some JSON values; "" if none is chosen."""
    places = np.flatnonzero(chosen)
    return f", such as {shown(values[places[0]])}" if len(places) else ""


def _floats(values: list) -> np.ndarray | None:
    if set(map(type, values)) <= {int, float}:
        try:
            return np.array(values, np.float64)
        except OverflowError:
            pass
    return None


def _float(value) -> float:
    if type(value) is str:
        return float(value) if _NUMBER.fullmatch(value.strip()) else np.nan
    if type(value) not in (int, float):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.inf


class NumberLists:
    """A column of lists of numbers of any length, such as `keypoints`, gathered piece by piece.

    What other tools write is read where it can mean one thing only: null for a number is NaN; an empty list is no list;
    text such as "12.5" is the number; a list of lists of `group` numbers, null or [] among them, is one list; false is
    0 as the last number of a group.

    Args:
        group: How many numbers belong together: 3 for x, y and visibility.

    Attributes:
        lengths: (N,) after `finish`: the length of each list, `MISSING` or `NO_NUMBERS`. NaN counts as a number here.
        converted: (N,) after `finish`: which lists have text, lists or false in place of numbers.
        faults: By place in the column, a value that is no number, or what is there in place of a list.
    """

    def __init__(self, group: int):
        self._group, self._count = group, 0
        self._flat, self._lengths, self._converted = [np.empty(0)], [np.empty(0, int)], [np.empty(0, bool)]
        self.faults: dict[int, str] = {}

    def extend(self, values: list) -> None:
        """Adds values as `json` gives them."""
        lengths = np.array([len(value) or MISSING if type(value) is list else MISSING for value in values], int)
        converted = np.zeros(len(values), bool)
        flat = _floats(list(chain.from_iterable(value for value in values if type(value) is list)))
        if flat is None or any(type(value) is not list and value is not None for value in values):
            rows = []
            for place, value in enumerate(values):
                row, converted[place], fault = self._read(value)
                lengths[place] = NO_NUMBERS if fault else len(row) or MISSING
                if fault:
                    self.faults[self._count + place] = fault
                rows.append(row)
            flat = np.concatenate([np.empty(0), *rows])
        self._flat.append(flat)
        self._lengths.append(lengths)
        self._converted.append(converted)
        self._count += len(values)

    def _read(self, value) -> tuple[np.ndarray, bool, str]:
        """Returns the numbers of one list, whether some were something else, and what is none; "" if all are."""
        if value is None or value == []:
            return np.empty(0), False, ""
        if type(value) is not list:
            return np.empty(0), False, shown(value)
        plain = _floats(value)
        if plain is not None:
            return plain, False, ""
        scalars = value
        nested = any(type(one) is list for one in value)
        if nested:
            scalars = []
            for one in value:
                if one is not None and (type(one) is not list or len(one) not in (0, self._group)):
                    return np.empty(0), False, shown(one)
                scalars += one or [None] * self._group
        row = np.empty(len(scalars))
        for place, one in enumerate(scalars):
            row[place] = 0.0 if one is False and place % self._group == self._group - 1 else _float(one)
            if np.isnan(row[place]) and one is not None and type(one) is not float:
                return np.empty(0), False, shown(one)
        return row, nested or any(type(one) in (str, bool) for one in scalars), ""

    def finish(self) -> None:
        """Makes one array of the pieces."""
        self._flat, self.lengths = np.concatenate(self._flat), np.concatenate(self._lengths)
        self.converted = np.concatenate(self._converted)

    def of_length(self, length: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (R, length) numbers of the given ascending rows, and a mask of those with another length: zeros."""
        right = self.lengths[rows] == length
        chosen = np.zeros(len(self.lengths), bool)
        chosen[rows[right]] = True
        table = np.zeros((len(rows), length))
        table[right] = self._flat[np.repeat(chosen, np.maximum(self.lengths, 0))].reshape(-1, length)
        return table, ~right

    def fault(self, rows: np.ndarray) -> str:
        """Returns ", such as " and the first value of the given rows that is no number; "" if there is none."""
        return next((f", such as {self.faults[row]}" for row in rows.tolist() if row in self.faults), "")
