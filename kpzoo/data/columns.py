"""Values of a JSON file as columns of numbers, with masks of the values that are not numbers."""

import json
import re
from itertools import chain
from typing import NamedTuple

import numpy as np

MISSING, NO_NUMBERS = -1, -2  # lengths of missing values, and of values that are not lists of numbers

_INT64 = np.iinfo(np.int64)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def whole_numbers(values: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (N,) int64 numbers, a mask of invalid values, and a mask of strings such as "12"."""
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
        values: (N,) float64, NaN for invalid and missing values.
        bad: (N,) mask of values that are not finite numbers.
        missing: (N,) mask of values that are null or absent. Disjoint from `bad`.
        text: (N,) mask of strings such as "12.5", which are read as numbers.
    """

    values: np.ndarray
    bad: np.ndarray
    missing: np.ndarray
    text: np.ndarray


def numbers(values: list) -> Numbers:
    """Converts a column of JSON values to numbers. Strings such as "12.5" are read as numbers."""
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
    """Returns a JSON value for an error message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def example(values: list, chosen: np.ndarray) -> str:
    """Returns ", such as VALUE" with the first value of a mask, for an error message; "" if the mask is empty."""
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
    """A column of lists of numbers, such as `keypoints`, built in pieces.

    Unambiguous variants of other tools are accepted: null in place of a number is NaN, an empty list is missing,
    strings such as "12.5" are numbers, lists of `group` numbers are concatenated (null and [] are `group` missing
    numbers), and false as the last number of a group is 0.

    Args:
        group: Length of the nested lists: 3 for x, y and visibility.

    Attributes:
        lengths: (N,) set by `finish`: the length of each list, `MISSING` or `NO_NUMBERS`. NaN counts as a number.
        converted: (N,) set by `finish`: mask of the lists with strings, lists or false in place of numbers.
        faults: For each invalid row, the first value that is not a number, or the value in place of a list.
    """

    def __init__(self, group: int):
        self._group, self._count = group, 0
        self._flat, self._lengths, self._converted = [np.empty(0)], [np.empty(0, int)], [np.empty(0, bool)]
        self.faults: dict[int, str] = {}

    def extend(self, values: list) -> None:
        """Adds values as returned by `json`."""
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
        """Returns the numbers of one list, whether some were converted, and the first invalid value or ""."""
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
        """Concatenates the pieces. To be called once, after the last `extend`."""
        self._flat, self.lengths = np.concatenate(self._flat), np.concatenate(self._lengths)
        self.converted = np.concatenate(self._converted)

    def of_length(self, length: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lists of some rows as an array.

        Args:
            length: Expected length of the lists.
            rows: (R,) row indices, ascending.

        Returns:
            (R, length) numbers, 0 in rows with another length, and an (R,) mask of these rows.
        """
        right = self.lengths[rows] == length
        chosen = np.zeros(len(self.lengths), bool)
        chosen[rows[right]] = True
        table = np.zeros((len(rows), length))
        table[right] = self._flat[np.repeat(chosen, np.maximum(self.lengths, 0))].reshape(-1, length)
        return table, ~right

    def fault(self, rows: np.ndarray) -> str:
        """Returns ", such as " and the first value of the given rows that is no number; "" if there is none."""
        return next((f", such as {self.faults[row]}" for row in rows.tolist() if row in self.faults), "")
