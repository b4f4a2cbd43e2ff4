"""Which format a file has, by its content."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kpzoo.convert import hdf5, matlab, yolo
from kpzoo.convert.finding import Source
from kpzoo.data.json_file import read_json
from kpzoo.errors import UserError

_SAMPLE = 20  # files of a suffix that are looked at


def guess(source: Source, known: Iterable[str]) -> str:
    """Returns the format of a folder or file.

    Args:
        source: The folder or file.
        known: Names of all formats, for the error.

    Raises:
        UserError: If no format or several are found.
    """
    found = {}
    if yolo.config_of(source) is not None:
        found["yolo"] = source.source
    for suffix, kind_of in _KINDS.items():
        for path in source.with_suffix(suffix)[:_SAMPLE]:
            kind = kind_of(path)
            if kind:
                found.setdefault(kind, path)
    if len(found) > 1:
        found.pop("alphapose", None)  # poses that were found on labelled pictures, in a format that others write, too
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise UserError(
            f"{str(source.source)!r}: no format was recognized among {len(source.files)} files. "
            f"Known formats: {', '.join(known)}.",
            "Name it with `format=`.",
        )
    named = ", ".join(f"{kind} ({path.name})" for kind, path in found.items())
    raise UserError(f"{str(source.source)!r} has files of several formats: {named}.", "Choose one with `format=`.")


def _json(path: Path) -> str:
    try:
        return json_kind(read_json(path))
    except UserError:
        return ""


def json_kind(content: Any) -> str:
    """Returns the format of the content of a JSON file; "" if it has none."""
    if type(content) is dict:
        return _object(content)
    if type(content) is not list or not content:
        return ""
    first = next((one for one in content if type(one) is dict), {})
    if "keypoint_annotations" in first:
        return "aic"
    if "joints" in first and "image" in first or {"center", "scale", "image"} <= first.keys():
        return "mpii"
    if {"image_id", "keypoints", "score"} <= first.keys():
        return "alphapose"
    tasks = "data" in first and ({"annotations", "completions", "predictions"} & first.keys())
    return "labelstudio" if tasks or any(map(_is_min, content[:_SAMPLE])) else ""


def _object(content: dict) -> str:
    rows = content.get("images")
    if type(rows) is list and "annotations" in content:
        return _coco(content)
    if type(rows) is list and (not rows or type(rows[0]) is dict and "annotations" in rows[0]):
        return "ochuman"
    if "shapes" in content and "imagePath" in content:
        return "labelme"
    if "people" in content:
        return "openpose"
    if "annotations" in content and "data" in content:
        return "labelstudio"  # one task, as the server stores it
    first = next(iter(content.values()), None)
    return "alphapose" if type(first) is dict and ({"bodies", "people"} & first.keys()) else ""


def _coco(content: dict) -> str:
    """Returns "coco"; the formats that are like it are read in the same way."""
    return "coco" if content["images"] or content["annotations"] else ""


def _is_min(task) -> bool:
    """Returns whether a task of Label Studio's short JSON has labelled points."""
    regions = [one for value in task.values() if type(value) is list for one in value] if type(task) is dict else []
    return any(type(one) is dict and "keypointlabels" in one for one in regions)


def _xml(path: Path) -> str:
    return "cvat" if b"<annotations" in _head(path) else ""


def _csv(path: Path) -> str:
    return "deeplabcut" if _head(path).lstrip(b"\xef\xbb\xbf").startswith(b"scorer,") else ""


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""


_KINDS = {
    ".xml": _xml,
    ".csv": _csv,
    ".slp": lambda path: "sleap",
    ".h5": hdf5.kind,
    ".hdf5": hdf5.kind,
    ".mat": matlab.kind,
    ".json": _json,
}


def json_files(source: Source, kind: str, needs: str) -> Iterator[tuple[Path, Any]]:
    """Yields the JSON files of a kind with their contents. A file that is given itself must be of the kind.

    Args:
        source: The folder or file.
        kind: What `json_kind` returns for the files.
        needs: What such a file is and has, for the error.
    """
    for path in source.with_suffix(".json", ".json.gz"):
        content = read_json(path)
        if json_kind(content) == kind:
            yield path, content
        elif source.is_file:
            raise UserError(f"{path} is not {needs}.")
