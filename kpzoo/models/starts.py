"""Initial weights of a model: the tag that `build(weights=...)` means, and the settings that come with it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kpzoo import skeletons
from kpzoo.errors import UserError, unknown
from kpzoo.heatmaps.confidence import Confidence
from kpzoo.skeletons import Skeleton
from kpzoo.weights import published
from kpzoo.weights.rows import DetectorFile, Trunk, Weights


class Settings(NamedTuple):
    """Arguments of `build`, where they are not given, as the weights were trained."""

    image_hw: tuple[int, int] | None = None
    skeleton: str | Skeleton | None = None
    normalization: str = ""  # "" for the default of the model
    options: Mapping = {}
    confidence: Confidence | None = None


def tag_of(name: str, weights: str | Path | None, options: Mapping) -> str | None:
    """Returns the tag that `weights` means for a model, None if it is a file.

    Args:
        name: Name of the model.
        weights: A tag, with or without the name of the model and the version; "imagenet" or "imagenet_keras"; or the
            path of a file.
        options: All options of the model, by their resolved values.

    Raises:
        UserError: Neither a tag nor a file, or no trunk of this model is published.
    """
    if not isinstance(weights, str):
        return None
    if weights in published.TRUNK_WORDS:
        return _trunk_of(name, weights, options)
    if tag := published.resolve(weights, name):
        return tag
    # A word without a suffix, or with one that contains "_", which no suffix of a file does.
    if re.fullmatch(r"\w+(\.\w*_\w*)?", weights) and not any(map(Path.exists, _files(weights))):
        tags = published.tags_of(name)
        short = {tag.partition(".")[2] for tag in tags} | {_unversioned(tag.partition(".")[2]) for tag in tags}
        known = {*short, *published.all_rows()} if "." not in weights else published.all_rows()
        advice = "No file of this name exists either.", published.LISTED
        raise unknown("weights tag", weights, known, *advice)
    return None


def settings_of(name: str, tag: str, skeleton: str | Skeleton | None) -> Settings:
    """Returns how the weights of a tag were trained, or raises if a model cannot start from them.

    Args:
        name: Name of the model.
        tag: A tag of published weights.
        skeleton: The skeleton that the model is built with, None for that of the weights.
    """
    row = published.all_rows()[tag]
    if isinstance(row, DetectorFile):
        raise UserError(
            f"{tag!r} is a person detector, not weights of {name!r}.",
            f"Pass `detector={row.detector!r}`.",
        )
    if isinstance(row, Trunk):
        return Settings(skeleton=skeleton, normalization=row.normalization)
    if row.model not in (name, twin_of(name)):
        raise UserError(f"The weights {tag!r} are weights of model {row.model!r}. Received: model {name!r}.")
    if row.skeleton:
        skeleton = _skeleton_of(row, tag, skeleton)
    return Settings(row.image_hw, skeleton, row.normalization, row.options, row.confidence)


def twin_of(name: str) -> str | None:
    """Returns the single-instance model whose weights a MIPNet can start from, None for other models."""
    size = name.removeprefix("mipnet_")
    if size == name:
        return None
    if size.startswith(("hrnet_", "cpn_")):
        return size
    return f"cpn_{size}" if size.startswith(("nano", "lite")) else f"simplebaseline_{size}"


def starts_of(name: str, options: Mapping, skeleton: Skeleton, image_hw: tuple[int, int]) -> list[str]:
    """Returns the values of `weights` that a training of a model can start from, the best one first.

    Args:
        name: Name of the model.
        options: All options of the model, by their resolved values.
        skeleton: The keypoints that it learns.
        image_hw: (height, width) of its crops.
    """
    fitting = [
        tag
        for tag in sorted(published.ROWS)
        if published.ROWS[tag].model in (name, twin_of(name))
        and published.ROWS[tag].skeleton
        and skeletons.get(published.ROWS[tag].skeleton).keypoints == skeleton.keypoints
    ]
    fitting.sort(key=lambda tag: (published.ROWS[tag].image_hw != tuple(image_hw), len(tag)))
    words = [_unversioned(tag.removeprefix(f"{name}.")) for tag in fitting]
    return words + [word for word in published.TRUNK_WORDS if published.trunk_tag(word, options)]


def _trunk_of(name: str, word: str, options: Mapping) -> str:
    if tag := published.trunk_tag(word, options):
        return tag
    trunks = sorted(row.trunk for row in published.TRUNKS.values() if row.source in published.TRUNK_WORDS[word])
    tags = ", ".join(published.tags_of(name)) or "none"
    raise UserError(
        f"No weights {word!r} are published for the trunk of model {name!r} with these options. There are those of "
        f"{', '.join(trunks)}. Weights of the whole model: {tags}."
    )


def _files(weights: str) -> tuple[Path, Path]:
    return Path(weights), Path(f"{weights}.index")  # the second is of a TensorFlow 1 checkpoint


def _unversioned(tag: str) -> str:
    return re.sub(r"_v\d+$", "", tag)


def _skeleton_of(row: Weights, tag: str, given: str | Skeleton | None) -> Skeleton:
    """Returns the skeleton of published weights, or the given one if it has the same keypoints."""
    own = skeletons.get(row.skeleton)
    if given is None:
        return own
    given = skeletons.get(given)
    if given.keypoints != own.keypoints:
        raise UserError(
            f"The weights {tag!r} were trained with skeleton {own.name!r}. Received: skeleton {given.name!r}.",
            "Omit `weights=`.",
            "Or omit `skeleton=`.",
        )
    return given
