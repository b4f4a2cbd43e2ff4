"""The formats by name, and which one a folder or file has, by its content."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from kpzoo import skeletons
from kpzoo.convert import kinds
from kpzoo.convert.finding import Source
from kpzoo.convert.model import Export
from kpzoo.errors import UserError, unknown
from kpzoo.skeletons import Skeleton


class Format(NamedTuple):
    """A format: what it is called, and the module whose `read` reads it."""

    title: str
    module: str


FORMATS = {
    "yolo": Format("an Ultralytics YOLO-pose folder", "yolo"),
    "cvat": Format("CVAT XML 1.1", "cvat"),
    "labelstudio": Format("Label Studio JSON", "labelstudio"),
    "labelme": Format("LabelMe JSON", "labelme"),
    "deeplabcut": Format("DeepLabCut csv or h5", "deeplabcut"),
    "sleap": Format("SLEAP .slp or analysis .h5", "sleap"),
    "mpii": Format("MPII .mat or HRNet's JSON of it", "mpii"),
    "lsp": Format("joints.mat of Leeds Sports Pose", "lsp"),
    "aic": Format("AI Challenger's keypoint JSON", "aic"),
    "ochuman": Format("OCHuman's own JSON", "ochuman"),
    "coco": Format("COCO keypoint JSON, of any tool", "coco_json"),
    "crowdpose": Format("CrowdPose JSON", "coco_json"),
    "posetrack18": Format("PoseTrack18 JSON", "coco_json"),
    "halpe": Format("Halpe-FullBody JSON", "coco_json"),
    "roboflow": Format("a COCO export of Roboflow", "coco_json"),
    "openpose": Format("OpenPose JSON", "openpose"),
    "alphapose": Format("AlphaPose results", "alphapose"),
}


def read(
    source: str | Path,
    format: str | None = None,
    *,
    images: str | Path | None = None,
    skip_missing: bool = False,
    category: str | None = None,
    skeleton: str | Skeleton | None = None,
    tell: Callable[[str], None] | None = None,
) -> Export:
    """Reads the labels of another program, or the poses that one has found.

    Args:
        source: The folder of the export, or its file.
        format: Name of the format, a key of `FORMATS`; None to guess it by the content.
        images: Folder of the pictures and videos; defaults to that of the export.
        skip_missing: Whether pictures that are not found are left out, with their labels.
        category: Name of the only category to read; None for all.
        skeleton: A `Skeleton` or its name, for keypoints that the export does not name; it must have as many.
        tell: Called with a sentence that says which format was guessed.

    Returns:
        The pictures with their persons, and notes about what could not be carried.

    Raises:
        UserError: If the format is unknown, or a file is not as its format says.
    """
    if format is not None and format not in FORMATS:
        raise unknown("format", format, FORMATS)
    files = Source(source, images, skip_missing)
    if format is None:
        format = kinds.guess(files, FORMATS)
        if tell is not None:
            tell(f"{files.source}: read as {FORMATS[format].title} ({format}), guessed by its content")
    export = import_module(f"kpzoo.convert.{FORMATS[format].module}").read(files)
    for what, (count, places) in files.notes.items():
        for place in places:
            export.notes.add(what, place, 0)
        export.notes.add(what, count=count)
    if category is not None:
        _keep_category(export, category, files)
    if skeleton is not None:
        _name_keypoints(export, skeletons.get(skeleton))
    if not export.pictures:
        raise UserError(f"{str(files.source)!r} has no labelled picture that {FORMATS[format].title} describes.")
    return export


def _keep_category(export: Export, name: str, source: Source) -> None:
    """Removes the persons of other categories."""
    names = [one.name for one in export.categories]
    if name not in names:
        raise unknown(f"category in {source.source}", name, names)
    for picture in export.pictures:
        kept = [person for person in picture.persons if person.category.name == name]
        if len(kept) < len(picture.persons):
            count = len(picture.persons) - len(kept)
            export.notes.add("persons of other categories are left out", picture.name, count)
        picture.persons = kept


def _name_keypoints(export: Export, skeleton: Skeleton) -> None:
    """Gives the keypoints of all categories the names of a skeleton."""
    for one in export.categories:
        if len(one.keypoints) != skeleton.num_keypoints:
            raise UserError(
                f"Category {one.name!r} has {len(one.keypoints)} keypoints, and skeleton {skeleton.name!r} has "
                f"{skeleton.num_keypoints}.",
                "Choose another `skeleton=`.",
            )
        one.keypoints, one.links, one.flip_pairs = list(skeleton.keypoints), list(skeleton.links), None
