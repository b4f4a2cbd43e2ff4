"""Writes the poses in a folder, video or list of images to disk, in a call that can be interrupted and resumed."""

import zlib
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kpzoo
from kpzoo import images
from kpzoo.errors import UserError
from kpzoo.images import is_image_object
from kpzoo.inference import detectors, outputs
from kpzoo.inference.boxes import BoxFile
from kpzoo.inference.calibration import calibration_crops
from kpzoo.inference.engines import TENSORFLOW
from kpzoo.inference.pictures import Pictures, Video, open_source
from kpzoo.inference.predictor import Prediction, Predictor, as_model
from kpzoo.pose_model import PersonModel, PoseModel, ZooModel
from kpzoo.progress import Progress


@dataclass
class Summary:
    """Counts of a run.

    Args:
        num_pictures: Images or frames that were processed.
        num_skipped: Images that were done by an earlier run.
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
    overwrite: bool = False,
    every: int = 1,
    **options,
) -> Summary:
    """Writes the poses in many images or a video to a folder, and prints progress on stderr.

    The same call resumes an interrupted run: images that are done and have not changed are skipped. A video starts
    again. An image that cannot be read is reported and skipped. See `kpzoo.inference.outputs` for the files.

    Args:
        model: A model of the zoo, its name, or a tag of published weights, see `Predictor`.
        source: See `Predictor.stream`.
        out: The folder.
        boxes_xywh, every: See `Predictor.stream`.
        detector: See `Predictor`.
        pictures: Whether to draw the poses.
        show_nms: Whether to also draw the poses before and after OKS-NMS.
        overwrite: Whether to start again whatever the folder contains.
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
    _check(opened, detector, out)
    is_video = isinstance(opened, Video)
    settings = {"video": opened.source if is_video else None, **_settings(model, boxes_xywh, detector, options)}
    folder = outputs.OutputFolder(out, model.preset.skeleton, settings, resume=not is_video, overwrite=overwrite)
    summary, run = Summary(), _run_video if is_video else _run_pictures
    if options.get("precision") == "int8" and options.get("calibration") is None:
        options["calibration"] = calibration_crops(model, source, boxes_xywh, detector=detector)
    kinds = [outputs.PICTURES] * pictures + [outputs.NMS] * show_nms
    try:
        run(Predictor(model, detector=detector, **options), opened, folder, summary, kinds, boxes_xywh, every)
    finally:  # also after Ctrl-C
        with closing(folder):
            folder.finish()
    if summary.problems and not summary.num_pictures + summary.num_skipped:
        raise UserError(f"None of the {len(summary.problems)} images can be read. The first: {summary.problems[0]}")
    return summary


def _check(opened, detector, out) -> None:
    """Raises errors before the run that would otherwise appear during it, or overwrite the images."""
    out = Path(out).expanduser().resolve()
    if isinstance(opened, Pictures):
        folders = {Path(folder).resolve() for folder in opened.folders}
        for drawn in (out / outputs.PICTURES, out / outputs.NMS):
            if drawn.resolve() in folders:
                raise UserError(f"The images are in {drawn}, where drawings would replace them. Choose another folder.")
        if isinstance(detector, BoxFile):
            detector.check([one.key for one in opened.listed])


def _settings(model: PoseModel, boxes_xywh, detector, options) -> dict:
    """Returns everything that the poses depend on."""
    searched = getattr(detector, "model", None)
    boxes = None if boxes_xywh is None else [np.asarray(boxes, float).tolist() for boxes in boxes_xywh]
    relevant = {name: options.get(name) for name in ("flip", "nms", "precision")}
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


def _drawn(one: Prediction, kind: str) -> np.ndarray:
    return one.draw_nms() if kind == outputs.NMS else one.poses.draw(one.picture.image)


def _run_pictures(predictor, opened: Pictures, folder, summary: Summary, kinds: list[str], boxes_xywh, every) -> None:
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
    for one in predictor.predictions(opened.at(todo), boxes_xywh, every=every):
        picture = one.picture
        if picture.problem:
            summary.problems += (str(picture.problem),)
            progress.say(f"kpzoo: {picture.problem}")
            continue
        for kind in kinds:
            images.write_image(folder.picture_path(picture.name, kind), _drawn(one, kind))
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


def _run_video(predictor, opened: Video, folder, summary: Summary, kinds: list[str], boxes_xywh, every) -> None:
    progress = Progress(len(opened), "frames")
    names = {outputs.PICTURES: f"{opened.name}.mp4", outputs.NMS: f"{opened.name}_nms.mp4"}
    videos = {kind: outputs.VideoFile(folder.path / names[kind], opened.fps) for kind in kinds}
    try:
        for one in predictor.predictions(opened, boxes_xywh, every=every):
            for kind, video in videos.items():
                video.add(_drawn(one, kind))
            folder.add(one.picture.name, one.picture.image_id, one.poses)
            summary.num_pictures, summary.num_poses = summary.num_pictures + 1, summary.num_poses + len(one.poses)
            progress.step(len(one.poses))
        if not opened.num_broken:
            progress.total = progress.num_done  # the declared number is often a guess
    finally:
        summary.num_broken = opened.num_broken
        progress.close()
        with ExitStack() as stack:  # closes every file, even if closing another fails
            for video in videos.values():
                stack.callback(video.close)
    if opened.num_broken:
        progress.say(f"{opened.num_broken} of {opened.num_read + opened.num_broken} frames could not be read")
