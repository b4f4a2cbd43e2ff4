"""Values of files that other programs wrote, checked one by one, with errors that name the place."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpzoo.data.annotation_table import MAX_COORDINATE
from kpzoo.data.columns import shown
from kpzoo.errors import UserError

MAX_TEXT = 1 << 30  # bytes of a text file

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def wrong(place: str, expected: str, received) -> UserError:
    """Returns the error for a value of another kind than expected."""
    return UserError(f"{place}: expected {expected}. Received: {shown(received)}.")


def mapping(value, place: str) -> dict:
    """Returns a JSON object."""
    if type(value) is not dict:
        raise wrong(place, "an object", value)
    return value


def items(value, place: str) -> list:
    """Returns a JSON list."""
    if type(value) is not list:
        raise wrong(place, "a list", value)
    return value


def text(value, place: str) -> str:
    """Returns a string that is not empty and can be written to a file."""
    if type(value) is not str or not value.strip():
        raise wrong(place, "a text", value)
    return _writable(value, place)


def _writable(value: str, place: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{place}: a text has a character that is not Unicode. Received: {value!r}.") from None
    return value


def name(value, place: str) -> str:
    """Returns a name, which some programs write as a number."""
    return str(value) if type(value) in (int, float) else text(value, place)


def number(value, place: str) -> float:
    """Returns a finite number no larger than a coordinate."""
    if type(value) not in (int, float) or not abs(value) <= MAX_COORDINATE:
        raise wrong(place, f"a number of at most {MAX_COORDINATE:.0f}", value)
    return float(value)


def numbers(values, place: str) -> np.ndarray:
    """Returns the finite numbers of a JSON list."""
    values = items(values, place)
    if not set(map(type, values)) <= {int, float} or not all(abs(value) <= MAX_COORDINATE for value in values):
        bad = next(one for one in values if type(one) not in (int, float) or not abs(one) <= MAX_COORDINATE)
        raise wrong(place, f"numbers of at most {MAX_COORDINATE:.0f}", bad)
    return np.array(values, np.float64)


def parsed(value: str | None, place: str) -> float:
    """Returns the number that a text holds."""
    if value is None or not _NUMBER.fullmatch(value):
        raise wrong(place, "a number", value)
    return number(float(value), place)


def whole(value, place: str, low: int = 0, high: int = 2**53) -> int:
    """Returns a whole number."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise wrong(place, f"a whole number from {low}", value)
    return value


def groups(values: np.ndarray, size: int, place: str, count: int | None = None) -> np.ndarray:
    """Returns numbers as rows of `size`, of which there must be `count`."""
    if len(values) % size or (count is not None and len(values) != size * count):
        expected = f"{size} * {count} = {size * count}" if count is not None else f"a multiple of {size}"
        raise UserError(f"{place}: expected {expected} numbers. Received: {len(values)}.")
    return values.reshape(-1, size)


def box_of_corners(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
    """Returns the (x, y, width, height) of a box by two opposite corners in any order."""
    return min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)


def box_of_points(points_xy: np.ndarray) -> tuple[float, float, float, float]:
    """Returns the (x, y, width, height) of (P, 2) points."""
    return box_of_corners(*points_xy.min(axis=0).tolist(), *points_xy.max(axis=0).tolist())


def text_of(path: Path) -> str:
    """Returns the text of a file in UTF-8."""
    try:
        if path.stat().st_size > MAX_TEXT:
            raise UserError(f"{path} has more than {MAX_TEXT >> 30} GiB of text. Split it.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text in UTF-8. Save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def read_yaml(path: Path) -> Any:
    """Returns the content of a YAML file."""
    try:
        import yaml
    except ImportError:
        raise UserError("YAML files need PyYAML. Install it with `pip install 'kpzoo[convert]'`.") from None
    try:
        return yaml.safe_load(text_of(path))
    except yaml.YAMLError as error:
        line = f":{error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}{line} is not YAML: {what}.") from None
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise UserError(f"{path} is not YAML: {type(error).__name__}.") from None  # odd dates, keys and nesting


def unique(names: Sequence[str]) -> list[str]:
    """Returns the names in the order of their first occurrence."""
    return list(dict.fromkeys(names))


def finite(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= MAX_COORDINATE
