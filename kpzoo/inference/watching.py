"""Shows the poses in a video or of a webcam in a window, without writing anything."""

from contextlib import closing

from kpzoo.inference import window
from kpzoo.inference.pictures import open_source
from kpzoo.inference.predictor import Predictor
from kpzoo.pose_model import PoseModel


def watch(
    model: PoseModel | str,
    source="webcam",
    boxes_xywh=None,
    *,
    every: int = 1,
    track: bool = False,
    smooth: bool = False,
    interpolate: bool = False,
    **options,
) -> int:
    """Shows the poses in a video in a window, with the frames per second, until its end or until q or Esc is pressed.

    Args:
        model: A model of the zoo, its name, or a tag of published weights, see `Predictor`.
        source: A video, a stream, or `webcam`; `webcam:1` is the second camera.
        boxes_xywh, every, track, smooth, interpolate: See `Predictor.stream`.
        **options: `detector`, `flip`, `nms`, `batch_size` and `precision` of `Predictor`.

    Returns:
        The number of frames that were shown.

    Raises:
        UserError: If the source is no video, or OpenCV has no windows: the package opencv-python has, the package
            opencv-python-headless has not.

    Example:
        kpzoo.watch("cpn_lite0", "webcam", every=5, track=True)
    """
    opened = open_source(source)
    window.check(opened)
    moving = dict(every=every, track=track, smooth=smooth, interpolate=interpolate)
    predictor, num_frames = Predictor(model, **options), 0
    with window.Window(opened.name) as shown, closing(predictor.stream(opened, boxes_xywh, **moving)) as results:
        for one in results:
            num_frames += 1
            if not shown.show(one.poses.draw(one.picture.image)):
                break
    return num_frames
