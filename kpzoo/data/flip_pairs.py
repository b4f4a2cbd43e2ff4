"""Left and right keypoints of a category: from its `flip_pairs` or `flip_idx`, else from the keypoint names."""

from collections.abc import Sequence

from kpzoo.data.columns import whole_numbers
from kpzoo.data.problems import Problems
from kpzoo.data.sides import Pairs, sides_of
from kpzoo.errors import UserError
from kpzoo.skeletons import Skeleton


def read_pairs(category: dict, names: tuple[str, ...], problems: Problems, place: str) -> tuple[Pairs, bool]:
    """Returns the pairs of a category, and whether all pairs are known.

    The pairs are those of `flip_pairs`, a list of pairs of names, or of `flip_idx`, which has for each keypoint the
    index of its mirror image, counted from 0. `flip_pairs: []` means that no keypoint has a side. If the category has
    neither, the pairs are derived from the names; `sides_known: false` means that these do not tell all of them.

    Raises:
        UserError: If `flip_pairs` and `flip_idx` differ, one of them is invalid, or the name of a keypoint has the word
            for a side and no keypoint has the name of the other side.
    """
    given = _given(category, names, place)
    if given is not None:
        return given, True
    sides = sides_of(names)
    if category.get("sides_known") is False:
        done = (
            "Images are not flipped, neither in training nor in the flip test. List the pairs as `flip_pairs` if known."
        )
        problems.say("note", "The category says that its left and right keypoints are not all known", done)
        return sides.pairs, False
    if sides.unpaired:
        raise UserError(
            f"{place}: these keypoints have no mirror image of the other side: {list(sides.unpaired[:10])}. Name them "
            "left_x and right_x in pairs, or add `flip_pairs`, a list of pairs of names, to the category.",
            "Or pass a `kpzoo.skeletons.Skeleton` as `skeleton=`.",
        )
    if sides.unclear:
        found = f"{len(sides.pairs)} pairs" if sides.pairs else "No pairs"
        problems.say(
            "repair",
            f"{found} of left and right were found among the {len(names)} keypoints by their names; unclear are "
            f"{list(sides.unclear[:10])}" + (f", {len(sides.unclear)} in all" if len(sides.unclear) > 10 else ""),
            "Images are not flipped, neither in training nor in the flip test. Name them left_x and right_x, or add "
            "`flip_pairs` to the category: a list of pairs of names, [] if no keypoint has a side.",
        )
    return sides.pairs, not sides.unclear


def check_pairs(category: dict, skeleton: Skeleton, place: str) -> None:
    """Raises a `UserError` if a category lists pairs other than those of its skeleton."""
    given = _given(category, skeleton.keypoints, place)
    if given is not None and _unordered(given) != _unordered(skeleton.flip_pairs):
        expected = [list(pair) for pair in skeleton.flip_pairs]
        raise UserError(
            f"{place} has the keypoints of {skeleton.name!r} and other pairs of left and right. Received: "
            f"{[list(pair) for pair in given]}. Expected: {expected}. Remove `flip_pairs` and `flip_idx`."
        )


def _given(category: dict, names: Sequence[str], place: str) -> Pairs | None:
    """Returns the pairs that a category lists, None if it lists none."""
    found = [read(category[key], names, f"{place}: `{key}`") for key, read in _KEYS.items() if key in category]
    found = [pairs for pairs in found if pairs is not None]
    if len(set(map(_unordered, found))) > 1:
        raise UserError(f"{place}: `flip_pairs` and `flip_idx` contradict each other. Remove the wrong one.")
    return found[0] if found else None


def _unordered(pairs: Pairs) -> frozenset:
    return frozenset(map(frozenset, pairs))


def _named_pairs(given, names: Sequence[str], place: str) -> Pairs | None:
    """Returns the pairs of `flip_pairs`: names, or indices if it is clear whether these count from 0 or 1."""
    if given is None:
        return None
    if type(given) is not list or not all(type(pair) is list and len(pair) == 2 for pair in given):
        raise UserError(f"{place} must be a list of pairs of names. Received: {str(given)[:80]}.")
    ends = [end for pair in given for end in pair]
    texts = [str(end) if type(end) in (str, int) else None for end in ends]
    if all(text in names for text in texts):
        pairs = list(zip(texts[::2], texts[1::2], strict=True))
    else:
        numbers, bad, _ = whole_numbers(ends)
        first = 0 if 0 in numbers else 1 if len(names) in numbers else None
        if bad.any() or first is None or not (first <= numbers.min() and numbers.max() < len(names) + first):
            wrong = next((end for end, text in zip(ends, texts, strict=True) if text not in names), None)
            raise UserError(f"{place} must be pairs of names of keypoints. Received: {wrong!r} in {str(given)[:80]}.")
        ordered = [names[number - first] for number in numbers.tolist()]
        pairs = list(zip(ordered[::2], ordered[1::2], strict=True))
    return _distinct(pairs, place)


def _distinct(pairs: list[tuple[str, str]], place: str) -> Pairs:
    flat = [name for pair in pairs for name in pair]
    twice = sorted({name for name in flat if flat.count(name) > 1})
    if twice:
        raise UserError(f"{place} names a keypoint twice. Received: {twice[:10]}.")
    return tuple(pairs)


def _indexed_pairs(given, names: Sequence[str], place: str) -> Pairs | None:
    """Returns the pairs of `flip_idx`, which has for each keypoint the index from 0 of its mirror image."""
    if given in (None, []):
        return None
    numbers, bad, _ = whole_numbers(given if type(given) is list else [given])
    count = len(names)
    if bad.any() or sorted(numbers.tolist()) != list(range(count)):
        expected = f"each index from 0 to {count - 1} once, one for each of {count} keypoints"
        raise UserError(f"{place} must hold {expected}. Received: {str(given)[:80]}.")
    order = numbers.tolist()
    for index, mirror in enumerate(order):
        if order[mirror] != index:
            received = f"{names[index]!r} becomes {names[mirror]!r}, which becomes {names[order[mirror]]!r}"
            raise UserError(f"{place} must swap keypoints in pairs. Received: {received}.")
    return tuple((names[a], names[b]) for a, b in enumerate(order) if a < b)


_KEYS = {"flip_pairs": _named_pairs, "flip_idx": _indexed_pairs}
