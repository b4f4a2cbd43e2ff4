"""Published weights: fetched once, verified before they are read, and converted once.

Small files are part of the package. Others are in the cache, see `kpzoo.weights.cache`. With `KPZOO_OFFLINE=1` nothing
is fetched.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from kpzoo import files
from kpzoo.errors import UserError, unknown
from kpzoo.heatmaps.confidence import Confidence
from kpzoo.weights import cache, detector_rows, fetching, mmpose_rows, trunk_rows
from kpzoo.weights.cache import home
from kpzoo.weights.rows import DetectorFile, Published, Trunk, Weights
from kpzoo.weights.safetensors_file import write_safetensors
from kpzoo.weights.unpacking import unpack

SHIPPED = "shipped"  # folder of the package
TWIN = ".safetensors"  # suffix of the file that a pickle is converted to
LISTED = "`kpzoo weights list` lists all."
READ_AS_THEY_ARE = (".safetensors", ".h5", ".npz")

LSPET = "research use: photos and labels of Leeds Sports Pose Extended, please cite Johnson and Everingham, CVPR 2011"
PEOPLE = (
    "research use: trained on COCO 2017 (annotations CC BY 4.0, photos under Flickr's terms), Stanford 40 Actions, "
    "PASCAL VOC 2012, Flickr8k, HumanV2 and sports photos, with boxes partly by NanoDet-g (Apache-2.0); started from "
    "EfficientNet-Lite0's ImageNet weights (Apache-2.0)"
)

KEYPOINTS = (
    "research use: trained on COCO 2017 (annotations CC BY 4.0, photos under Flickr's terms), MPII Human Pose, Leeds "
    "Sports Pose and its extension, PARSE and Stanford 40 Actions, with keypoints partly by MoveNet Thunder "
    "(Apache-2.0); started from EfficientNet-Lite0's ImageNet weights (Apache-2.0)"
)

# Tag -> row; a tag is never used again.
ROWS: dict[str, Weights] = {
    "mipnet_nano.crowds_128x96_v1": Weights(
        model="mipnet_nano",
        url="mipnet_nano_crowds_128x96_v1.safetensors",
        sha256="ffca120fde37a6cba31aecc4e7f99c43ca0f46c92d94e0578925fd954e6b3166",  # mipnet_nano
        image_hw=(128, 96),
        skeleton="crowdpose14",
        options={},
        license=LSPET,
        origin="trained here",
        recipe="recipes/crowd_study.py",
        metrics="docs/results/mipnet_nano_crowds_128x96.json",
    ),
    "cpn_lite0.people_192x160_v2": Weights(
        model="cpn_lite0",
        url="cpn_lite0_people_192x160_v2.safetensors",
        sha256="b6dbb0c3bc5d039eaef9a6ba5ed797a57de651b77d6ff0a4c553983db5193cc3",  # cpn_lite0
        image_hw=(192, 160),
        skeleton="coco17",
        options={},
        license=KEYPOINTS,
        origin="trained here",
        recipe="recipes/lite0.py cpn_lite0",
        metrics="docs/results/comparison.json",
        confidence=Confidence(scale=1.169, weights=(2.393, 1.388, 0.5734)),
    ),
    "person_fpn_lite0.people_416x416_v2": Weights(
        model="person_fpn_lite0",
        url="person_fpn_lite0_people_416x416_v2.safetensors",
        sha256="da27a4bed8abdd4e2bf309652ce3f75269d00f61dbcbe0ff42e85ddd4feaf45a",  # person_fpn_lite0
        image_hw=(416, 416),
        skeleton=None,
        options={},
        license=PEOPLE,
        origin="trained here",
        recipe="recipes/person_fpn.py person_fpn_lite0",
        metrics="docs/results/person_fpn_lite0_people_416x416.json",
    ),
    **mmpose_rows.ROWS,
}

# `weights="imagenet"` and `weights="imagenet_keras"` are the trunk of the model in this table.
TRUNKS: dict[str, Trunk] = dict(trunk_rows.ROWS)
# Words that mean a trunk: the sources that each allows.
TRUNK_WORDS = {"imagenet": ("torchvision",), "imagenet_keras": ("keras",)}


DETECTORS: dict[str, DetectorFile] = dict(detector_rows.ROWS)


def all_rows() -> dict[str, Published]:
    """Returns the rows of all tables by tag."""
    return {**ROWS, **TRUNKS, **DETECTORS}


def tags_of(model: str) -> tuple[str, ...]:
    """Returns the tags of a model's published weights, the newest version last."""
    return tuple(sorted((tag for tag, row in ROWS.items() if row.model == model), key=lambda tag: (_version(tag), tag)))


def default_tag(model: str, image_hw: tuple[int, int]) -> str | None:
    """Returns the tag that is used where none is given: weights of this project, or COCO's at the model's own size."""
    own = [tag for tag in tags_of(model) if not ROWS[tag].stated]
    return own[-1] if own else resolve("mmpose_coco_{}x{}".format(*image_hw), model)


def resolve(weights: str, model: str = "") -> str | None:
    """Returns the tag that a text means, None if it means none.

    Args:
        weights: A tag, with or without its version, and without the name of the model if `model` is given. Without
            version, the newest is meant.
        model: Name of the model that the weights are for.

    >>> resolve("mmpose_coco_384x288", "hrnet_w48")
    'hrnet_w48.mmpose_coco_384x288_v1'
    """
    rows = all_rows()
    names = [weights, *([f"{model}.{weights}"] if model else [])]
    for name in names:
        if name in rows:
            return name
        versions = [tag for tag in rows if re.fullmatch(rf"{re.escape(name)}_v\d+", tag)]
        if versions:
            return max(versions, key=_version)
    return None


def matching(pattern: str) -> list[str]:
    """Returns the tags that a tag without version, or a shell pattern such as "hrnet_w32.*", means.

    Raises:
        UserError: It means none.
    """
    if tag := resolve(pattern):
        return [tag]
    tags = [tag for tag in all_rows() if fnmatchcase(tag, pattern)]
    if not tags:
        raise unknown("weights tag", pattern, all_rows(), LISTED)
    return tags


def trunk_tag(word: str, options: Mapping) -> str | None:
    """Returns the tag of the trunk that a model with these options has, None if none is published.

    Args:
        word: A key of `TRUNK_WORDS`.
        options: All options of the model, by their resolved values.
    """
    for tag, row in TRUNKS.items():
        if row.source in TRUNK_WORDS[word] and all(_same(options.get(key), row.options[key]) for key in row.options):
            return tag
    return None


def fetch(tag: str) -> Path:
    """Returns the verified file of a tag. Downloads it if it is not in the cache.

    Raises:
        UserError: Unknown tag, the file cannot be fetched, or its digest differs.
    """
    row = _row(tag)
    if row.is_shipped:
        return _shipped(tag, row)
    with cache.locked(row.file_name):
        return _fetched(tag, row)


def fetch_ready(tag: str) -> Path:
    """Returns a verified file to load weights from. Pickles are converted once, to a `.safetensors` file beside them.

    The converted file has the tensors of the fetched one, under the same names.
    """
    row = _row(tag)
    if row.is_shipped or row.file_name.endswith(READ_AS_THEY_ARE):
        return fetch(tag)
    twin = home() / (row.file_name + TWIN)
    with cache.locked(row.file_name):
        if _is_twin(twin, row):
            return twin
        path = _fetched(tag, row)
        return _converted(path, twin)


def fetch_detector(tag: str) -> Path:
    """Returns the verified ONNX file of a person detector. Downloads and unpacks it if it is not in the cache."""
    row = _row(tag)
    path = home() / f"{Path(row.file_name).stem}.onnx"
    with cache.locked(row.file_name):
        if path.exists() and cache.digest_of(path) == cache.remembered(path.name).get("sha256"):
            return path
        archive = _fetched(tag, row)
        unpack(archive, row.member, path)
        cache.remember(path.name, sha256=cache.digest_of(path), source=archive.name)
    return path


class Held(NamedTuple):
    """A file of the cache."""

    tag: str
    path: Path
    fault: str | None  # what is wrong with it


def held(tags: list[str]) -> Iterator[Held]:
    """Yields the files that the cache has of some tags, verified."""
    for tag in tags:
        row = _row(tag)
        if row.is_shipped:
            continue
        if (path := home() / row.file_name).exists():
            yield Held(tag, path, _fault(path, row))
        for path in _made_of(row):
            if path.exists():
                right = cache.digest_of(path) == cache.remembered(path.name).get("sha256")
                yield Held(tag, path, None if right else "it has changed since it was written")


def clear(tags: list[str]) -> list[Path]:
    """Removes what the cache has of some tags, and forgets the digests. Returns the files that were removed."""
    removed = []
    for tag in tags:
        row = _row(tag)
        if row.is_shipped:
            continue
        with cache.locked(row.file_name):
            fetching.remove(_part(row))
            for path in (home() / row.file_name, *_made_of(row)):
                if path.exists():
                    path.unlink()
                    removed.append(path)
                if cache.remembered(path.name):
                    cache.remember(path.name)
    return removed


def size_of(tag: str) -> int | None:
    """Returns the size of a tag's file in bytes, None if it has not been fetched."""
    row = _row(tag)
    path = _shipped_path(row) if row.is_shipped else home() / row.file_name
    return path.stat().st_size if path.exists() else None


def describe(tag: str) -> str:
    """Returns what is known of a tag's file, and its size if it has been fetched."""
    size = size_of(tag)
    return f"{_row(tag)}; {'not fetched yet' if size is None else f'{size / 1e6:.1f} MB'}"


def _row(tag: str) -> Published:
    rows = all_rows()
    if tag not in rows:
        raise unknown("weights tag", tag, rows, LISTED)
    return rows[tag]


def _version(tag: str) -> int:
    return int(found[1]) if (found := re.search(r"_v(\d+)$", tag)) else 0


def _same(value, wanted) -> bool:
    return (tuple(value) if isinstance(value, list) else value) == wanted


def _made_of(row: Published) -> tuple[Path, ...]:
    """Returns the files that kpzoo makes of a fetched one."""
    return home() / (row.file_name + TWIN), home() / f"{Path(row.file_name).stem}.onnx"


def _part(row: Published) -> Path:
    return home() / f".{row.file_name}.part"


def _shipped_path(row: Published) -> Path:
    return Path(str(resources.files("kpzoo"))) / SHIPPED / row.file_name


def _shipped(tag: str, row: Published) -> Path:
    path = _shipped_path(row)
    if not path.exists() or cache.digest_of(path) != row.sha256:
        raise UserError(f"The weights {tag!r} in the package are damaged or missing: {path}. Reinstall kpzoo.")
    return path


def _fault(path: Path, row: Published) -> str | None:
    """Returns what is wrong with a fetched file, None if nothing is."""
    digest = cache.digest_of(path)
    if not digest.startswith(row.sha256):
        return f"SHA-256 differs: {digest} instead of {row.digest}"
    if row.md5 and cache.digest_of(path, "md5") != row.md5:
        return f"MD5 differs from {row.md5}"
    first = cache.remembered(row.file_name)
    if first.get("sha256", digest) != digest:
        return (
            f"SHA-256 differs: {digest}, and the file that was fetched first, on {first.get('since')}, had "
            f"{first['sha256']}. If the authors have replaced it, `kpzoo weights clear` forgets the first"
        )
    return None


def _fetched(tag: str, row: Published) -> Path:
    """Returns the verified file of a row, whose lock is held."""
    path = home() / row.file_name
    if path.exists() and (fault := _fault(path, row)):
        path.unlink()
        print(f"Removed {path}, which is not the file of {tag!r}: {fault}.", file=sys.stderr)
    if not path.exists():
        _download(tag, row, path)
    if len(row.sha256) < 64 and not cache.remembered(path.name):
        digest = cache.digest_of(path)
        cache.remember(path.name, sha256=digest)
        if not (row.sha256 or row.md5):
            text = f"kpzoo: the authors state no digest of {path.name}. The one that came has SHA-256 {digest}, which "
            print(f"{text}is remembered in {home() / cache.DIGESTS}: another file is refused.", file=sys.stderr)
    return path


def _download(tag: str, row: Published, path: Path) -> None:
    advice = f"Or put the file with {row.digest} at {path}."
    if cache.is_offline():
        raise UserError(f"The weights {tag!r} are not in {str(home())!r}, and KPZOO_OFFLINE is set. {advice}")
    part, reasons = _part(row), []
    for url in fetching.addresses(row.url):
        try:
            if fault := _complete(url, part, row):
                reasons.append(f"{url}, which returned another file: {fault}")
                continue
        except fetching.NotFetchedError as error:
            reasons.append(f"{url}: {error}")
            continue
        fetching.finish(part, path)
        return
    raise UserError(f"The weights {tag!r} cannot be downloaded from {'; '.join(reasons)}. {advice}")


def _complete(url: str, part: Path, row: Published) -> str | None:
    """Downloads a file to `part`, and returns what is wrong with it. A wrong file is removed."""
    resumed = fetching.download(url, part, row.file_name)
    fault = _fault(part, row)
    if fault:
        size = f"{part.stat().st_size:,} bytes, "
        fetching.remove(part)
        if resumed:  # its start may have been of another file
            return _complete(url, part, row)
        return size + fault
    return None


def _is_twin(twin: Path, row: Published) -> bool:
    """Whether a converted file is as it was written, from the file that the row means."""
    facts = cache.remembered(twin.name)
    of_row = facts.get("source_sha256", "").startswith(row.sha256)
    first = cache.remembered(row.file_name).get("sha256")
    of_row = of_row and first in (None, facts.get("source_sha256"))
    return bool(facts) and of_row and twin.exists() and cache.digest_of(twin) == facts.get("sha256")


def _converted(path: Path, twin: Path) -> Path:
    """Writes the arrays of a weights file as `.safetensors`; returns the file itself if that cannot be done."""
    from kpzoo.weights.files import read_state

    arrays = read_state(path).arrays
    try:
        with files.written_whole(twin) as part:
            write_safetensors(part, arrays, {"kpzoo_converted_from": path.name})
    except UserError as error:
        print(f"kpzoo: {error} The next start reads {path.name} again.", file=sys.stderr)
        return path
    again = read_state(twin).arrays
    if again.keys() != arrays.keys() or any((again[name] != arrays[name]).any() for name in arrays):
        twin.unlink()
        raise UserError(f"{str(twin)!r} was not written right. Check the disk, and start again.")
    cache.remember(twin.name, sha256=cache.digest_of(twin), source_sha256=cache.digest_of(path))
    return twin
