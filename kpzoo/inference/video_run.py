"""Writes the poses in a video to an output folder, frame by frame, and goes on after an interruption."""

from contextlib import ExitStack, closing
from dataclasses import asdict
from itertools import islice

import numpy as np

from kpzoo.inference import frames, outputs, window
from kpzoo.inference.pictures import Video
from kpzoo.inference.prediction import Prediction
from kpzoo.poses import Poses
from kpzoo.progress import Progress
from kpzoo.video_file import VideoFile


def settings(video: Video, options: frames.Options) -> dict:
    """Returns what the poses in a video depend on, apart from the networks: the file, and options that are set."""
    plain = asdict(frames.PLAIN)
    chosen = {name: value for name, value in asdict(options).items() if value != plain[name]}
    return chosen if video.live else {"video_file": outputs.stamp(video.path), **chosen}


def drawn(one: Prediction, kind: str, ellipses: bool) -> np.ndarray:
    """Returns the drawing of a result: its poses, with ellipses or not, or its poses before and after OKS-NMS."""
    return one.draw_nms() if kind == outputs.NMS else _drawn_poses(one.poses, one.picture.image, ellipses)


def _drawn_poses(poses: Poses, image: np.ndarray, ellipses: bool) -> np.ndarray:
    return poses.draw(image, ellipses=ellipses and len(poses) > 0)


def run(
    predictor,
    video: Video,
    folder: outputs.OutputFolder,
    summary,
    kinds: list[str],
    boxes_xywh,
    options: frames.Options,
    show: bool = False,
    ellipses: bool = False,
) -> None:
    """Writes the results and the drawings of the frames that are not done.

    Args:
        predictor: A `kpzoo.Predictor`.
        video: The video, from its first frame.
        folder: The output folder, with the `state` of an earlier run.
        summary: The counts of the run, which are updated.
        kinds: Kinds of drawings.
        boxes_xywh: (P, 4) boxes for every frame; None to detect them.
        options: How the video is processed.
        show: Whether to show the drawings in a window.
        ellipses: Whether to draw the ellipses of the keypoints.
    """
    state, files = folder.state, {outputs.PICTURES: f"{video.name}.mp4", outputs.NMS: f"{video.name}_nms.mp4"}
    paths = {kind: folder.path / files[kind] for kind in kinds}
    if state and state.get("finished") and all(path.exists() for path in paths.values()):
        summary.num_skipped, summary.num_broken = state["num_frames"], state["num_broken"]
        return
    progress, finished = Progress(len(video), "frames"), False
    videos = {kind: VideoFile(path, video.fps) for kind, path in paths.items()}
    try:
        if state:
            _redraw(video, folder, state["num_frames"], videos, ellipses)
            summary.num_skipped = state["num_frames"]
            progress.say(f"{summary.num_skipped} frames are already done")
            progress.total = max(0, progress.total - summary.num_skipped)
        with ExitStack() as stack:
            shown = stack.enter_context(window.Window(video.name)) if show else None
            for one in stack.enter_context(closing(predictor.predictions(video, boxes_xywh, options, state))):
                _write(one, folder, summary, videos, ellipses)
                progress.step(len(one.poses))
                if one.state is not None:
                    folder.mark(one.state)
                    state = one.state
                if shown is not None and not shown.show(_drawn_poses(one.poses, one.picture.image, ellipses)):
                    break
            else:
                finished = True
        if not video.num_broken and finished:
            progress.total = progress.num_done  # the declared number is often a guess
    finally:
        summary.num_broken = video.num_broken
        progress.close()
        with ExitStack() as stack:  # closes every file, even if closing another fails
            for one in videos.values():
                stack.callback(one.close)
    if video.num_broken:
        progress.say(f"{video.num_broken} of {video.num_read + video.num_broken} frames could not be read")
    if finished and state is not None:
        folder.mark({**state, "finished": True, "num_broken": video.num_broken})


def _write(
    one: Prediction, folder: outputs.OutputFolder, summary, videos: dict[str, VideoFile], ellipses: bool
) -> None:
    for kind, file in videos.items():
        file.add(drawn(one, kind, ellipses))
    folder.add(one.picture.name, one.picture.image_id, one.poses)
    summary.num_pictures, summary.num_poses = summary.num_pictures + 1, summary.num_poses + len(one.poses)


def _redraw(
    video: Video, folder: outputs.OutputFolder, num_frames: int, videos: dict[str, VideoFile], ellipses: bool
) -> None:
    """Reads the frames that are done, and draws their poses again: a video file cannot be continued."""
    for picture, row in zip(islice(video, num_frames), folder.rows(), strict=False):
        poses = Poses.from_coco(row["poses"], folder.skeleton)
        for file in videos.values():
            file.add(_drawn_poses(poses, picture.image, ellipses))
