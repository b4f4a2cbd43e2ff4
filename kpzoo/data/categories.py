"""The skeleton of a COCO keypoint category: a known skeleton with the same keypoints, or a new one."""

import numpy as np

from kpzoo import skeletons
from kpzoo.data.columns import shown, whole_numbers
from kpzoo.data.flip_pairs import check_pairs, read_pairs
from kpzoo.data.problems import Problems
from kpzoo.errors import UserError, unknown
from kpzoo.skeletons import Skeleton

# COCO's sigmas range from 0.025 (eyes) to 0.107 (hips).
UNKNOWN_SIGMA = 0.05
# By name; of skeletons that share a name the first one counts, which is COCO's for the limbs.
_KNOWN_SIGMAS = {
    name: sigma
    for known in reversed(skeletons.SKELETONS.values())
    for name, sigma in zip(known.keypoints, known.sigmas, strict=True)
}


def choose(categories: list[dict], category: str | int | None, path) -> dict:
    """Returns the category to read: the given one, or the only one with keypoints.

    Args:
        categories: Categories of the file.
        category: Name or id. Required if several categories have keypoints.
        path: Path of the file, for errors.

    Raises:
        UserError: If there is no such category, or several match.
    """
    names = [str(row.get("name", row.get("id"))) for row in categories]
    if category is not None:
        chosen = [row for row in categories if category == row.get("name")] or [
            row for row in categories if str(category) in (str(row.get("name")), str(row.get("id")))
        ]
        if not chosen:
            raise unknown(f"category in {path}", str(category), names)
        if len(chosen) > 1:
            ids = [row.get("id") for row in chosen]
            raise UserError(f"{path}: {category!r} matches several categories, with the ids {ids}. Use an id.")
        return chosen[0]
    with_keypoints = [row for row in categories if row.get("keypoints")] or (categories if len(categories) == 1 else [])
    if not with_keypoints:
        raise UserError(f"{path}: no category has `keypoints`, the list of their names. Categories: {names[:10]}.")
    if len(with_keypoints) > 1:
        counts = {str(row.get("name", row.get("id"))): _count(row["keypoints"]) for row in with_keypoints}
        if len(counts) < len(with_keypoints):  # names that are not unique
            counts = {str(row.get("id")): _count(row["keypoints"]) for row in with_keypoints}
        example = f"`category={next(iter(counts))!r}`"
        raise UserError(f"{path}: several categories have keypoints: {counts}.", f"Choose one, such as {example}.")
    return with_keypoints[0]


def _count(names) -> int | str:
    return len(names) if isinstance(names, list | dict) else type(names).__name__


def skeleton_of(category: dict, skeleton: str | Skeleton | None, problems: Problems) -> Skeleton:
    """Returns the given skeleton after comparing it with the category, or the skeleton of the category."""
    place = f"{problems.path}: category {category.get('name', category.get('id'))!r}"
    names = category.get("keypoints")
    if names is not None and (type(names) is not list or set(map(type, names)) - {str, int}):
        wrong = names if type(names) is not list else next(one for one in names if type(one) not in (str, int))
        raise UserError(f"{place}: `keypoints` must be a list of names. Received: {shown(wrong)}.")
    names = [str(name) for name in names] if names else names
    if skeleton is not None:
        skeleton = skeletons.get(skeleton)
        if names and tuple(names) != skeleton.keypoints:
            raise UserError(
                f"{place} has other keypoints than skeleton {skeleton.name!r} or another order. "
                f"Received: {names}. Expected: {list(skeleton.keypoints)}."
            )
        return skeleton
    if not names:
        raise UserError(f"{place} has no `keypoints`, the list of their names. Add it, or pass `skeleton='coco17'`.")
    for known in skeletons.SKELETONS.values():
        if known.keypoints == tuple(names):
            check_pairs(category, known, place)
            return known
    return _from_file(category, tuple(names), problems, place)


def _from_file(category: dict, names: tuple[str, ...], problems: Problems, place: str) -> Skeleton:
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"{place}: keypoint names must differ. Received twice: {twice}.")
    flip_pairs, sides_known = read_pairs(category, names, problems, place)
    return Skeleton(
        name=str(category.get("name", category.get("id"))),
        keypoints=names,
        flip_pairs=flip_pairs,
        sigmas=_sigmas(category, names, problems, place),
        links=_links(category.get("skeleton"), names, problems),
        sides_known=sides_known,
    )


def _sigmas(category: dict, names: tuple[str, ...], problems: Problems, place: str) -> tuple[float, ...]:
    given = category.get("sigmas")
    if given is not None:
        numeric = type(given) is list and not set(map(type, given)) - {int, float}
        if not numeric or len(given) != len(names) or not all(0 < sigma < np.inf for sigma in given):
            raise UserError(f"{place}: `sigmas` needs {len(names)} numbers above 0. Received: {str(given)[:80]}.")
        return tuple(map(float, given))
    plain = [skeletons.plain_name(name) for name in names]
    guessed = [name for name, key in zip(names, plain, strict=True) if key not in _KNOWN_SIGMAS]
    problems.say(
        "note",
        f"The category has no `sigmas`, which OKS and AP need: {len(names) - len(guessed)} of {len(names)} keypoints "
        f"have COCO's or CrowdPose's by their name, {len(guessed)} have {UNKNOWN_SIGMA}: {guessed[:10]}",
        "AP with these values is not comparable with others. Add `sigmas` to the category or pass a `Skeleton`.",
    )
    return tuple(_KNOWN_SIGMAS.get(key, UNKNOWN_SIGMA) for key in plain)


def _links(links, names: tuple[str, ...], problems: Problems) -> tuple[tuple[str, str], ...]:
    if links is None or links == []:
        return ()
    pairs = links if type(links) is list else [links]
    ends = (
        [end for pair in pairs for end in pair] if all(type(pair) is list and len(pair) == 2 for pair in pairs) else []
    )
    if ends and all(str(end) in names for end in ends) and not all(type(end) is int for end in ends):
        return tuple(zip(map(str, ends[::2]), map(str, ends[1::2]), strict=True))
    numbers, bad, _ = whole_numbers(ends)
    whole = bool(ends) and not bad.any()
    if whole and numbers.min() == 0 and numbers.max() < len(names):
        problems.say(
            "repair", "The category's `skeleton` numbers keypoints from 0", "Read as such; COCO numbers them from 1."
        )
        numbers += 1
    if not whole or numbers.min() < 1 or numbers.max() > len(names):
        problems.say(
            "repair",
            f"The category's `skeleton` must contain pairs of numbers from 1 to {len(names)}. Received: {shown(links)}",
            "Ignored: poses are drawn without lines.",
        )
        return ()
    return tuple((names[a - 1], names[b - 1]) for a, b in numbers.reshape(-1, 2).tolist())
