"""Finds pictures that a data set has twice: equal files, and pictures that look the same."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from kpzoo import images
from kpzoo.progress import Progress

SIDE = 32  # pixels of the thumbnails that are compared
MAX_BITS = 6  # of 64 bits in which the signs of the differences of pictures that look the same may differ
MAX_DIFFERENCE = 6.0  # mean difference of their thumbnails, of 255

_REDUCED = {1: cv2.IMREAD_GRAYSCALE, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4}
_REDUCED[8] = cv2.IMREAD_REDUCED_GRAYSCALE_8


class Duplicates(NamedTuple):
    """Groups of indices of pictures, each at least two.

    Args:
        equal: Pictures whose files are equal byte by byte.
        alike: Pictures that look the same, with those that are equal counted as one.
        unreadable: Indices of pictures that cannot be read.
    """

    equal: list[list[int]]
    alike: list[list[int]]
    unreadable: list[int]


class _Look(NamedTuple):
    digest: bytes
    bits: int
    thumbnail: np.ndarray


def find(paths: Sequence[str], progress: bool = False) -> Duplicates:
    """Returns the pictures that occur more than once.

    Args:
        paths: The files.
        progress: Whether to print progress on stderr.
    """
    told = Progress(len(paths), "images", "compared", shown=progress)
    looks: list[_Look | None] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, told:
        for look in pool.map(_look, paths):
            looks.append(look)
            told.step()
    equal: dict[bytes, list[int]] = {}
    for index, look in enumerate(looks):
        if look is not None:
            equal.setdefault(look.digest, []).append(index)
    first = [group[0] for group in equal.values()]
    return Duplicates(
        [group for group in equal.values() if len(group) > 1],
        _alike(first, looks),
        [index for index, look in enumerate(looks) if look is None],
    )


def _look(path: str) -> _Look | None:
    """Returns the digest of a file, and a small grey picture with the signs of its horizontal differences."""
    try:
        height, width = images.size_of(path)
        data = Path(path).read_bytes()
        factor = max(factor for factor in _REDUCED if factor == 1 or min(height, width) >= 2 * SIDE * factor)
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, ValueError, cv2.error):
        return None
    if grey is None:
        return None
    thumbnail = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    signs = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    bits = np.packbits(np.diff(signs, axis=1) > 0).tobytes()
    return _Look(hashlib.sha256(data).digest(), int.from_bytes(bits, "big"), thumbnail)


def _alike(indices: Sequence[int], looks: Sequence[_Look | None]) -> list[list[int]]:
    """Returns groups of pictures that look the same. Pictures are compared if a part of their signs is equal."""
    parent = {index: index for index in indices}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    edges = np.linspace(0, 64, MAX_BITS + 2).astype(int)  # of MAX_BITS + 1 parts, one is equal
    for low, high in zip(edges, edges[1:], strict=False):
        buckets: dict[int, list[int]] = {}
        for index in indices:
            buckets.setdefault(looks[index].bits >> int(low) & (1 << int(high - low)) - 1, []).append(index)
        for bucket in buckets.values():
            _join(bucket, looks, parent, root)
    groups: dict[int, list[int]] = {}
    for index in indices:
        groups.setdefault(root(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _join(bucket: list[int], looks: Sequence[_Look | None], parent: dict[int, int], root) -> None:
    """Joins the groups of pictures in a bucket that look the same."""
    if len(bucket) < 2:
        return
    bits = np.array([looks[index].bits for index in bucket], np.uint64)
    for place, index in enumerate(bucket[:-1]):
        other_bits = (bits[place + 1 :] ^ bits[place])[:, None].view(np.uint8)
        near = np.unpackbits(other_bits, axis=1).sum(axis=1) <= MAX_BITS
        for other in np.flatnonzero(near).tolist():
            other = bucket[place + 1 + other]
            if root(index) != root(other):
                difference = cv2.absdiff(looks[index].thumbnail, looks[other].thumbnail).mean()
                if difference <= MAX_DIFFERENCE:
                    parent[root(other)] = root(index)
