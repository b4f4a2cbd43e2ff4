"""Values from a JSON file as columns of numbers, with a mask of those that are none."""

from itertools import chain

import numpy as np

MISSING, NO_NUMBERS = -1, -2  # "lengths" of values that are null or absent, and of values that are no list of numbers

_INT64 = np.iinfo(np.int64)


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


def numbers(values: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (N,) float64 numbers, a mask of the values that are not finite numbers, and one of the missing (None).

    Both kinds are NaN in the numbers; no value is in both masks.
    """
    missing = np.array([value is None for value in values], bool)
    array = _floats(values)
    if array is None:
        array = np.array([_float(value) for value in values], np.float64)
    bad = ~np.isfinite(array) & ~missing
    array[bad | missing] = np.nan
    return array, bad, missing


def _floats(values: list) -> np.ndarray | None:
    if set(map(type, values)) <= {int, float}:
        try:
            return np.array(values, np.float64)
        except OverflowError:
            pass
    return None


def _float(value) -> float:
    if type(value) not in (int, float):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.inf


def _length(value) -> int:
    return len(value) if type(value) is list else MISSING if value is None else NO_NUMBERS


class NumberLists:
    """A column of lists of numbers of any length, such as `keypoints`, gathered piece by piece.

    Attributes:
        lengths: (N,) after `finish`: the length of each list, `MISSING` or `NO_NUMBERS`. NaN counts as a number here.
    """

    def __init__(self):
        self._flat, self._lengths = [np.empty(0)], [np.empty(0, int)]

    def extend(self, values: list) -> None:
        """Adds values as `json` gives them."""
        lengths = [_length(value) for value in values]
        flat = _floats(list(chain.from_iterable(value for value in values if type(value) is list)))
        if flat is None:  # somewhere is text, null or a list
            columns = [_floats(value) if type(value) is list else None for value in values]
            lengths = [NO_NUMBERS if n >= 0 and c is None else n for n, c in zip(lengths, columns, strict=True)]
            flat = np.concatenate([np.empty(0), *(column for column in columns if column is not None)])
        self._flat.append(flat)
        self._lengths.append(np.array(lengths, int))

    def finish(self) -> None:
        """Makes one array of the pieces."""
        self._flat, self.lengths = np.concatenate(self._flat), np.concatenate(self._lengths)

    def of_length(self, length: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (R, length) numbers of the given ascending rows, and a mask of those with another length: zeros."""
        right = self.lengths[rows] == length
        chosen = np.zeros(len(self.lengths), bool)
        chosen[rows[right]] = True
        table = np.zeros((len(rows), length))
        table[right] = self._flat[np.repeat(chosen, np.maximum(self.lengths, 0))].reshape(-1, length)
        return table, ~right
