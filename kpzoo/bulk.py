"""A folder, a video or a list of pictures to results on disk: one call that can be stopped and goes on."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kpzoo
from kpzoo import detect, inference, outputs, sources
from kpzoo.detect import BoxFile
from kpzoo.errors import UserError
from kpzoo.pose_model import PoseModel


@dataclass
class Summary:
    """What came of a run.

    Args:
        num_pictures: Pictures or frames that were looked at.
        num_skipped: Pictures that were done before.
        num_poses: Poses in those looked at.
        num_broken: Frames of a video that could not be read.
        problems: A line for each picture that could not be read.
    """

    num_pictures: int = 0
    num_skipped: int = 0
    num_poses: int = 0
    num_broken: int = 0
    problems: tuple[str, ...] = ()


def predict_to_folder(
    model: PoseModel,
    source,
    out: str | Path,
    boxes_xywh=None,
    *,
    detector=None,
    pictures: bool = True,
    overwrite: bool = False,
    **options,
) -> Summary:
    """Writes the poses in many pictures or a video into a folder, see `kpzoo.outputs`; tells its progress on stderr.

    The same call goes on where a stopped one was: pictures that are done and have not changed are skipped. A video
    begins anew. A picture that cannot be read is named, and the others go on.

    Args:
        model: Any model of the zoo.
        source: See `inference.predict`.
        out: The folder.
        boxes_xywh, detector: See `inference.predict`.
        pictures: Whether to draw the poses.
        overwrite: Whether to begin anew whatever the folder holds.
        options: `flip`, `nms`, `batch_size`, `every` of `inference.predict`.

    Raises:
        UserError: Not one picture or frame could be read, or nothing fits together. What is done stays.
    """
    opened = sources.open_source(source)
    detector = None if boxes_xywh is not None else detect.get("hog" if detector is None else detector)
    _check(opened, detector, out)
    is_video = isinstance(opened, sources.Video)
    settings = {"video": opened.source if is_video else None, **_settings(model, boxes_xywh, detector, options)}
    folder = outputs.OutputFolder(out, model.preset.skeleton, settings, resume=not is_video, overwrite=overwrite)
    summary = Summary()
    try:
        if is_video:
            _run_video(model, opened, folder, summary, pictures, boxes_xywh=boxes_xywh, detector=detector, **options)
        else:
            _run_pictures(model, opened, folder, summary, pictures, boxes_xywh=boxes_xywh, detector=detector, **options)
    finally:  # Ctrl-C too leaves whole files
        folder.finish()
        folder.close()
    if summary.problems and not summary.num_pictures + summary.num_skipped:
        raise UserError(f"None of the {len(summary.problems)} pictures can be read. The first: {summary.problems[0]}")
    return summary


def _check(opened, detector, out) -> None:
    """Refuses what would fail or harm only later."""
    out = Path(out).expanduser().resolve()
    if isinstance(opened, sources.Pictures):
        if (out / outputs.PICTURES).resolve() in {Path(folder).resolve() for folder in opened.folders}:
            raise UserError(
                f"The pictures lie in {out / outputs.PICTURES}, where they would be replaced by drawn ones."
            )
        keys = [one.key for one in opened.listed]
        if isinstance(detector, BoxFile) and keys and not detector.knows(keys):
            raise UserError(
                f"{detector.path} has boxes of none of the {len(keys)} pictures, whose ids are file names such as "
                f"{keys[0]!r}. Is it of other pictures?"
            )


def _settings(model: PoseModel, boxes_xywh, detector, options) -> dict:
    """Returns what the poses depend on."""
    checksum = 0
    for weight in model.weights:
        checksum = zlib.crc32(np.ascontiguousarray(weight.value.numpy()), checksum)
    boxes = None if boxes_xywh is None else [np.asarray(boxes, float).tolist() for boxes in boxes_xywh]
    relevant = {name: options.get(name) for name in ("flip", "nms")}
    return {
        "kpzoo": kpzoo.__version__,
        "model": model.preset.name,
        "weights": f"{checksum:08x}",
        "boxes": boxes if detector is None else repr(detector),
        **relevant,
    }


def _run_pictures(model, opened: sources.Pictures, folder, summary: Summary, drawn: bool, **options) -> None:
    todo = [
        place
        for place, (entry, listed) in enumerate(zip(opened.entries, opened.listed, strict=True))
        if isinstance(entry, np.ndarray) or not _is_done(folder, listed.name, entry, drawn)
    ]
    summary.num_skipped = len(opened) - len(todo)
    files = {listed.name: entry for entry, listed in zip(opened.entries, opened.listed, strict=True)}
    progress = outputs.Progress(len(todo), "pictures")
    if summary.num_skipped:
        progress.say(f"{summary.num_skipped} pictures are done already")
    boxes = options["boxes_xywh"]
    if isinstance(boxes, list | tuple) and any(np.ndim(one) == 2 for one in boxes) and len(boxes) == len(opened):
        options["boxes_xywh"] = [boxes[place] for place in todo]
    for one in inference.stream(model, opened.at(todo), **options):
        picture = one.picture
        if picture.problem:
            summary.problems += (str(picture.problem),)
            progress.say(f"kpzoo: {picture.problem}")
            continue
        if drawn:
            one.poses.draw(picture.image, folder.picture_path(picture.name))
        file = files[picture.name]
        folder.add(picture.name, picture.image_id, one.poses, None if isinstance(file, np.ndarray) else file)
        summary.num_pictures, summary.num_poses = summary.num_pictures + 1, summary.num_poses + len(one.poses)
        progress.step(len(one.poses))
    progress.close()


def _is_done(folder: outputs.OutputFolder, name: str, file, drawn: bool) -> bool:
    try:
        return folder.is_done(name, file, drawn)
    except OSError:  # it will be named when it is read
        return False


def _run_video(model, opened: sources.Video, folder, summary: Summary, drawn: bool, **options) -> None:
    progress = outputs.Progress(len(opened), "frames")
    name = "webcam" if opened.live else Path(opened.source).stem
    video = outputs.VideoFile(folder.path / f"{name}.mp4", opened.fps)
    try:
        for one in inference.stream(model, opened, **options):
            if drawn:
                video.add(one.poses.draw(one.picture.image))
            folder.add(one.picture.name, one.picture.image_id, one.poses)
            summary.num_pictures, summary.num_poses = summary.num_pictures + 1, summary.num_poses + len(one.poses)
            progress.step(len(one.poses))
    finally:
        video.close()
        progress.close()
        summary.num_broken = opened.num_broken
    if opened.num_broken:
        progress.say(f"{opened.num_broken} of {opened.num_read + opened.num_broken} frames could not be read")
