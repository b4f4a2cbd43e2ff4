"""Writes the poses in a folder, video or list of images to disk, in a call that can be interrupted and resumed."""

import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kpzoo
from kpzoo import images
from kpzoo.errors import UserError
from kpzoo.images import is_image_object
from kpzoo.inference import detectors, frames, openpose_files, outputs, video_run, window
from kpzoo.inference.boxes import BoxFile
from kpzoo.inference.calibration import calibration_crops
from kpzoo.inference.engines import TENSORFLOW
from kpzoo.inference.gallery import write_gallery
from kpzoo.inference.pictures import Pictures, Video, open_source
from kpzoo.inference.predictor import Predictor, as_model
from kpzoo.pose_model import PersonModel, PoseModel, ZooModel
from kpzoo.progress import Progress

NOT_RESUMABLE = "streams, webcams and videos with drawings of OKS-NMS start again"


@dataclass
class Summary:
    """Counts of a run.

    Args:
        num_pictures: Images or frames that were processed.
        num_skipped: Images or frames that were done by an earlier run.
        num_poses: Poses in the processed images.
        num_broken: Frames of a video that could not be read.
        problems: One line for each image that could not be read.
    """

    num_pictures: int = 0
    num_skipped: int = 0
    num_poses: int = 0
    num_broken: int = 0
    problems: tuple[str, ...] = ()


def predict_to_folder(
    model: PoseModel | str,
    source,
    out: str | Path,
    boxes_xywh=None,
    *,
    detector=None,
    pictures: bool = True,
    show_nms: bool = False,
    ellipses: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    gallery: bool = False,
    openpose: bool = False,
    show: bool = False,
    every: int = 1,
    track: bool = False,
    smooth: bool = False,
    interpolate: bool = False,
    **options,
) -> Summary:
    """Writes the poses in many images or a video to a folder, and prints progress on stderr.

    The same call resumes an interrupted run: images that are done and have not changed are skipped. A video file goes
    on after a frame, with the people's identities; its frames up to there are only read. Streams, webcams and videos
    with `show_nms` start again. Results are written as they come, whatever the length of a video. An image that cannot
    be read is reported and skipped. See `kpzoo.inference.outputs` for the files.

    Args:
        model: A model of the zoo, its name, or a tag of published weights, see `Predictor`.
        source: See `Predictor.stream`.
        out: The folder.
        boxes_xywh, every, track, smooth, interpolate: See `Predictor.stream`.
        detector: See `Predictor`.
        pictures: Whether to draw the poses.
        show_nms: Whether to also draw the poses before and after OKS-NMS.
        ellipses: Whether the drawings of the poses have the 90 % ellipses of their keypoints, see `Poses.draw`. Images
            that are done are not drawn again.
        overwrite: Whether to start again whatever the folder contains.
        resume: Whether to raise an error if there is no earlier run to resume.
        gallery: Whether to write `gallery.html`, see `kpzoo.inference.write_gallery`.
        openpose: Whether to write an OpenPose JSON file for each image or frame, see `Poses.to_openpose`.
        show: Whether to also show a video in a window, until q or Esc is pressed there.
        **options: `flip`, `nms`, `batch_size`, `precision`, `engine` and `calibration` of `Predictor`. Without
            `calibration`, "int8" is calibrated with the first people of the source.

    Returns:
        The counts of the run.

    Raises:
        UserError: If no image or frame can be read, the folder has results of other settings, or the boxes belong to
            other images. Results up to the error are kept.
    """
    opened, model = open_source(source), as_model(model)
    detector = None if boxes_xywh is not None else detectors.get(detectors.DEFAULT if detector is None else detector)
    loop = frames.Options(every, track, smooth, interpolate)
    _check(opened, detector, out, loop, show)
    if ellipses and model.preset.confidence is None:
        raise UserError(
            f"Model {model.name!r} has no fitted confidence, so no ellipses can be drawn.",
            "Fit it with `kpzoo.evaluation.fit_confidence`.",
        )
    is_video = isinstance(opened, Video)
    resumable = not is_video or not (opened.live or show_nms)
    if resume and (overwrite or not resumable or not outputs.has_run(out)):
        reason = "it is written anew" if overwrite else "there is no earlier run" if resumable else NOT_RESUMABLE
        raise UserError(f"Nothing can be resumed in {out}: {reason}.", "Drop `resume=True`.")
    settings = {"video": opened.source if is_video else None, **settings_of(model, boxes_xywh, detector, options)}
    settings |= video_run.settings(opened, loop) if is_video else {}
    given = dict(video=is_video, tracked=loop.track, resume=resumable, overwrite=overwrite)
    given["covariance"] = model.preset.confidence is not None
    folder = outputs.OutputFolder(out, model.preset.skeleton, settings, **given)
    if options.get("precision") == "int8" and options.get("calibration") is None:
        again = Video(opened.path) if is_video and not opened.live else opened  # a video is read once
        options["calibration"] = calibration_crops(model, again, boxes_xywh, detector=detector)
    summary, predictor = Summary(), Predictor(model, detector=detector, **options)
    kinds = [outputs.PICTURES] * pictures + [outputs.NMS] * show_nms
    try:
        if is_video:
            video_run.run(predictor, opened, folder, summary, kinds, boxes_xywh, loop, show, ellipses)
        else:
            _run_pictures(predictor, opened, folder, summary, kinds, boxes_xywh, ellipses)
    finally:  # also after Ctrl-C
        with closing(folder):
            folder.finish()
            if openpose:
                name = opened.name if is_video else None
                openpose_files.write(folder.path, folder.rows(), folder.skeleton, name)
    if gallery:
        write_gallery(out)
    if summary.problems and not summary.num_pictures + summary.num_skipped:
        raise UserError(f"None of the {len(summary.problems)} images can be read. The first: {summary.problems[0]}")
    return summary


def _check(opened, detector, out, loop: frames.Options, show: bool) -> None:
    """Raises errors before the run that would otherwise appear during it, or overwrite the images."""
    out = Path(out).expanduser().resolve()
    if show:
        window.check(opened)
    if isinstance(opened, Pictures):
        loop.check_pictures(None)
        folders = {Path(folder).resolve() for folder in opened.folders}
        for drawn in (out / outputs.PICTURES, out / outputs.NMS):
            if drawn.resolve() in folders:
                raise UserError(f"The images are in {drawn}, where drawings would replace them. Choose another folder.")
        if isinstance(detector, BoxFile):
            detector.check([one.key for one in opened.listed])


def settings_of(model: PoseModel, boxes_xywh, detector, options) -> dict:
    """Returns everything that the poses depend on."""
    searched = getattr(detector, "model", None)
    boxes = None if boxes_xywh is None else [np.asarray(boxes, float).tolist() for boxes in boxes_xywh]
    relevant = {name: options.get(name) for name in ("flip", "nms", "precision")}
    if model.preset.confidence is not None:  # as those of models without it
        relevant["confidence"] = model.preset.confidence.to_config()
    if options.get("engine", TENSORFLOW) != TENSORFLOW:  # runs of TensorFlow have no entry
        relevant["engine"] = options["engine"]
    return {
        "kpzoo": kpzoo.__version__,
        "model": model.preset.name,
        "weights": _weights_checksum(model),
        "boxes": boxes if detector is None else repr(detector),
        "detector_file": _checksum(getattr(detector, "path", None)),
        **({"detector_weights": _weights_checksum(searched)} if isinstance(searched, PersonModel) else {}),
        **relevant,
    }


def _weights_checksum(model: ZooModel) -> str:
    checksum = 0
    for weight in model.weights:
        checksum = zlib.crc32(np.ascontiguousarray(weight.value.numpy()), checksum)
    return f"{checksum:08x}"


def _checksum(path: str | Path | None) -> str | None:
    """Returns the CRC-32 of a detector's file; None without a file."""
    if path is None or not Path(path).expanduser().is_file():
        return None
    checksum = 0
    with Path(path).expanduser().open("rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def _run_pictures(
    predictor, opened: Pictures, folder, summary: Summary, kinds: list[str], boxes_xywh, ellipses: bool
) -> None:
    todo = [
        place
        for place, (entry, listed) in enumerate(zip(opened.entries, opened.listed, strict=True))
        if is_image_object(entry) or not _is_done(folder, listed.name, entry, kinds)
    ]
    summary.num_skipped = len(opened) - len(todo)
    files = {listed.name: entry for entry, listed in zip(opened.entries, opened.listed, strict=True)}
    progress = Progress(len(todo), "pictures")
    if summary.num_skipped:
        progress.say(f"{summary.num_skipped} pictures are already done")
    each = isinstance(boxes_xywh, list | tuple) and any(np.ndim(one) == 2 for one in boxes_xywh)
    if each and len(boxes_xywh) == len(opened):
        boxes_xywh = [boxes_xywh[place] for place in todo]
    for one in predictor.predictions(opened.at(todo), boxes_xywh):
        picture = one.picture
        if picture.problem:
            summary.problems += (str(picture.problem),)
            progress.say(f"kpzoo: {picture.problem}")
            continue
        for kind in kinds:
            images.write_image(folder.picture_path(picture.name, kind), video_run.drawn(one, kind, ellipses))
        file = files[picture.name]
        folder.add(picture.name, picture.image_id, one.poses, None if is_image_object(file) else file)
        summary.num_pictures, summary.num_poses = summary.num_pictures + 1, summary.num_poses + len(one.poses)
        progress.step(len(one.poses))
    progress.close()


def _is_done(folder: outputs.OutputFolder, name: str, file, kinds: list[str]) -> bool:
    try:
        return folder.is_done(name, file, kinds)
    except OSError:  # reported when the image is read
        return False
