"""Runs a model on images, folders and videos, batching crops across images."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from threading import RLock

import numpy as np
import tensorflow as tf

from kpzoo import models
from kpzoo.errors import UserError
from kpzoo.inference import batching, detectors, frames, pictures
from kpzoo.inference.acceleration import Accelerated, accelerate
from kpzoo.inference.box_poses import POSE_NMS
from kpzoo.inference.boxes import BoxFile
from kpzoo.inference.engines import TENSORFLOW, EngineFunction
from kpzoo.inference.folded_model import decoded
from kpzoo.inference.pictures import Pictures, Video
from kpzoo.inference.prediction import Prediction
from kpzoo.models.registry import spec_of
from kpzoo.pose_model import PoseModel
from kpzoo.poses import Poses
from kpzoo.weights import published

NO_PERSON = (
    "The detector found no person. For an image of one person pass the detector 'whole'. Otherwise pass boxes, a "
    "detector with a lower `min_score=`, or another detector (see `kpzoo.detectors`)."
)


class Predictor:
    """Finds the poses in images, for servers and loops.

    A predictor prepares the model for inference once, with batch norm folded into the convolutions (see
    `kpzoo.accelerate`), and owns the result: memory is released with the predictor. Weight updates of the model are
    picked up by the next call.

    Thread safety: any number of threads may call one predictor, and each call returns the same poses as it would
    alone. Calls of the detector are made one at a time. A video belongs to one stream, and a stream to one thread. Do
    not train the model or load weights while another thread predicts.

    Args:
        model: A model of the zoo, its name (the newest published weights are loaded), or a tag of published weights.
        detector: The person detector, used where no boxes are given: a name, a file (see `kpzoo.detectors.get`) or an
            object with a method `detect(images, image_ids)`. None selects the default of the zoo.
        flip: Whether to average the heatmaps with those of the mirrored crops (flip test).
        nms: OKS above which the pose with the lower score of two is removed; None keeps all poses. It does not apply
            to given boxes if the model predicts one pose per box.
        batch_size: Crops per forward pass, of any number of images. The flip test doubles it.
        precision: "float32", "bfloat16" on CPUs that support it, or "int8", see `kpzoo.accelerate`.
        engine: "tensorflow", "openvino", "onnxruntime" or "auto", see `kpzoo.accelerate`.
        calibration: (n, H, W, 3) crops for "int8", see `calibration_crops`.
        accelerated: Whether to prepare a faster graph, which takes up to some seconds once. False runs the Keras model
            as it is, which is faster for one or few images.

    Raises:
        UserError: If the model, detector, engine or precision is unknown, the engine is not installed, or the CPU or
            the engine does not support the precision.

    One image:

    >>> predictor = kpzoo.Predictor("cpn_lite0", detector="whole")
    >>> poses = predictor("photo.jpg")
    >>> poses.keypoints_xy.shape
    (1, 17, 2)

    A server loop, here four threads that share the predictor:

    >>> import json
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> def respond(path):
    ...     return json.dumps({"keypoints_xy": predictor(path).keypoints_xy.tolist()})
    >>> with ThreadPoolExecutor(4) as threads:
    ...     responses = list(threads.map(respond, ["photo.jpg", "photo.jpg"]))
    >>> len(responses)
    2

    All images of a folder; an own detector is any object with a method `detect`:

    >>> class LeftHalf:
    ...     def detect(self, images, image_ids):  # lists with one entry per image: (P, 4) boxes in image pixels, (P,)
    ...         boxes_xywh = [np.array([[0, 0, image.shape[1] / 2, image.shape[0]]]) for image in images]
    ...         return boxes_xywh, [np.ones(1) for image in images]
    >>> predictor = kpzoo.Predictor("cpn_lite0", detector=LeftHalf())
    >>> for result in predictor.stream("photos"):
    ...     print(result.picture.name, len(result.poses))
    photo.jpg 1
    """

    def __init__(
        self,
        model: PoseModel | str,
        *,
        detector=None,
        flip: bool = True,
        nms: float | None = POSE_NMS,
        batch_size: int = 8,
        precision: str = "float32",
        engine: str = TENSORFLOW,
        calibration: np.ndarray | None = None,
        accelerated: bool = True,
    ):
        self.model = as_model(model)
        self._detector = None if detector is None else detectors.get(detector)
        self._is_default = detector is None
        self.flip, self.nms, self.batch_size = flip, nms, batch_size
        for name, value, only in (("precision", precision, "float32"), ("engine", engine, TENSORFLOW)):
            if not accelerated and value != only:
                raise UserError(f"`{name}=` must be {only!r} with `accelerated=False`. Received: {value!r}.")
        self._function = accelerate(self.model, precision, engine, calibration) if accelerated else None
        self._start = self._function.start if accelerated else partial(_start_plain, self.model)
        self._detector = self._detector and self._in_engine(self._detector)
        self._detector_lock = RLock()

    def __call__(self, image, boxes_xywh=None) -> Poses:
        """Returns the poses in one image.

        Args:
            image: A file, whose EXIF orientation is applied, a (H, W, 3) RGB array or tensor with values 0 … 255, a PIL
                image, or the bytes of an image file, see `kpzoo.images.as_image`.
            boxes_xywh: (P, 4) person boxes in image pixels; None runs the detector.

        Returns:
            The poses, best first if OKS-NMS ran, else in the order of the boxes.

        Raises:
            UserError: If the image cannot be read, a box is invalid, or `image` is a folder, list or video.
        """
        pictures.check_one(image)
        with closing(self.predictions(Pictures([image]), boxes_xywh)) as predictions:
            one = next(predictions)
        if one.picture.problem:
            raise one.picture.problem
        if boxes_xywh is None and not len(one.poses) and self._is_default:
            warnings.warn(NO_PERSON, stacklevel=2)
        return one.poses

    def stream(
        self,
        source,
        boxes_xywh=None,
        *,
        every: int = 1,
        track: bool = False,
        smooth: bool = False,
        interpolate: bool = False,
        state: Mapping | None = None,
    ) -> Iterator[Prediction]:
        """Yields one result per image, in the order of the source; only a few images are in memory at a time.

        Args:
            source: A folder, a glob such as `photos/*.jpg`, a list of files and arrays, a video file, or `webcam`. One
                file or array is a source of one image.
            boxes_xywh: (P, 4) person boxes in image pixels, used for every image; or a list with one (P, 4) array per
                image; None runs the detector.
            every: Run the detector on every N-th frame of a video only; between them boxes follow the last poses.
            track: Whether to give the people in a video identities, `poses.track_ids`, see `kpzoo.inference.Tracker`.
            smooth: Whether to smooth the joints of tracked people, see `kpzoo.inference.Smoother`. Includes `track`.
            interpolate: Whether to run the networks on every N-th frame only, and to interpolate the poses between.
                Includes `track`, needs `every` of 2 or more. A result comes when the next N-th frame is done.
            state: The `state` of an earlier result for the same video and arguments: the frames up to that one are
                read and left out, and the results are those of an uninterrupted stream.

        Raises:
            UserError: If the source does not exist or cannot be opened, or the boxes do not fit its images. An image
                that cannot be read raises no error: its result has the `picture.problem` and no poses, with a warning.
        """
        opened = pictures.open_source(source)
        if (
            isinstance(self.detector, BoxFile)
            and isinstance(opened, Pictures)
            and len(opened) > 1
            and boxes_xywh is None
        ):
            self.detector.check([one.key for one in opened.listed])
        options = frames.Options(every, track, smooth, interpolate)
        predictions = self.predictions(opened, boxes_xywh, options, state)
        if state is not None:
            next(islice(opened, state["num_frames"], state["num_frames"]), None)  # reads the frames that are done
        return _with_warnings(predictions)

    def predictions(
        self,
        opened: Pictures | Video,
        boxes_xywh=None,
        options: frames.Options = frames.PLAIN,
        state: Mapping | None = None,
    ) -> Iterator[Prediction]:
        """Yields the results of `stream` for an opened source, without warnings.

        With a `state`, the frames that are done must have been read from the source.
        """
        preset = self.model.preset
        nms = None if boxes_xywh is not None and preset.num_instances == 1 else self.nms
        networks = frames.Networks(partial(self._start, flip=self.flip), preset, self._detect, nms, self.batch_size)
        if isinstance(opened, Video):
            return frames.predictions(opened, boxes_xywh, networks, options, state)
        options.check_pictures(state)
        return self._of_pictures(opened, boxes_xywh, networks)

    def _of_pictures(self, opened: Pictures, boxes_xywh, networks: frames.Networks) -> Iterator[Prediction]:
        for one in networks.run(batching.with_boxes(opened, boxes_xywh, self._detect)):
            poses, dropped, _ = networks.selected(one)
            yield Prediction(one.picture, poses, dropped)

    @property
    def detector(self):
        """The person detector. The default detector is loaded when it is first needed."""
        with self._detector_lock:
            if self._detector is None:
                self._detector = self._in_engine(detectors.get(detectors.DEFAULT))
            return self._detector

    def _in_engine(self, detector):
        """Returns a person detector of the zoo in the engine of the model, any other detector as it is."""
        if hasattr(detector, "engine") and isinstance(self._function, EngineFunction):
            return replace(detector, engine=self._function.engine)
        return detector

    def freeze(self) -> "Predictor":
        """Makes the weights constants of the graph, see `Accelerated.freeze`: for servers. Returns itself."""
        if not isinstance(self._function, Accelerated | EngineFunction):
            received = "`accelerated=False`" if self._function is None else "a model on several devices"
            raise UserError(f"Only an accelerated model on one device can be frozen. Received: {received}.")
        self._function.freeze()
        return self

    def _detect(self, image: np.ndarray, key: int | str) -> batching.Boxes:
        with self._detector_lock:  # own detectors need not be thread-safe
            boxes_xywh, scores = self.detector.detect([image], [key])
        return batching.checked_detections(self.detector, boxes_xywh, scores)


def predict(
    model: PoseModel | str,
    image,
    boxes_xywh=None,
    *,
    detector=None,
    flip: bool = True,
    nms: float | None = POSE_NMS,
    batch_size: int = 8,
) -> Poses:
    """Returns the poses in one image.

    It runs the Keras model as it is. For more than a few images use a `Predictor`, which prepares a faster graph once,
    or `stream` for folders, lists and videos.

    Args:
        model: A model of the zoo, its name, or a tag of published weights, see `Predictor`.
        image: A file, whose EXIF orientation is applied, a (H, W, 3) RGB array or tensor with values 0 … 255, a PIL
            image, or the bytes of an image file, see `kpzoo.images.as_image`.
        boxes_xywh: (P, 4) person boxes in image pixels; None runs the detector.
        detector, flip, nms, batch_size: See `Predictor`.

    Returns:
        The poses, best first if OKS-NMS ran, else in the order of the boxes.

    Raises:
        UserError: If the image cannot be read, a box is invalid, or `image` is a folder, list or video.

    >>> poses = kpzoo.predict(kpzoo.build("cpn_tiny"), "photo.jpg", [[10, 10, 80, 160]])
    >>> poses.keypoints_xy.shape
    (1, 17, 2)
    """
    options = dict(detector=detector, flip=flip, nms=nms, batch_size=batch_size)
    return Predictor(model, **options, accelerated=False)(image, boxes_xywh)


def stream(
    model: PoseModel | str,
    source,
    boxes_xywh=None,
    *,
    detector=None,
    flip: bool = True,
    nms: float | None = POSE_NMS,
    batch_size: int = 8,
    every: int = 1,
    track: bool = False,
    smooth: bool = False,
    interpolate: bool = False,
    precision: str = "float32",
    engine: str = TENSORFLOW,
) -> Iterator[Prediction]:
    """Yields one result per image of a folder, list or video.

    Args:
        model: A model of the zoo, its name, or a tag of published weights, see `Predictor`.
        source, boxes_xywh, every, track, smooth, interpolate: See `Predictor.stream`.
        detector, flip, nms, batch_size, precision, engine: See `Predictor`.

    >>> for result in kpzoo.stream("cpn_lite0", "photos", detector="whole"):
    ...     print(result.picture.name, len(result.poses))
    photo.jpg 1
    """
    options = dict(detector=detector, flip=flip, nms=nms, batch_size=batch_size, precision=precision, engine=engine)
    moving = dict(every=every, track=track, smooth=smooth, interpolate=interpolate)
    return Predictor(model, **options).stream(source, boxes_xywh, **moving)


def as_model(model: PoseModel | str) -> PoseModel:
    """Returns a model, built with published weights if a name or a tag is given."""
    if hasattr(model, "preset"):
        _ = model.preset.rules  # raises an error for person detectors
        return model
    if not isinstance(model, str):
        raise UserError(
            "`model=` must be a model of the zoo, its name, or a tag of published weights. "
            f"Received: {type(model).__name__}."
        )
    if model in published.ROWS:
        return models.build(published.ROWS[model].model, weights=model)
    tag = published.default_tag(model, spec_of(model).image_hw)
    if not tag:
        raise UserError(
            f"Model {model!r} has no published weights.",
            f"Pass `kpzoo.build({model!r}, weights=...)` with a weights file.",
        )
    return models.build(model, weights=tag)


def _start_plain(model: PoseModel, image, flip: bool):
    found = decoded(model, flip, tf.constant(image))
    return lambda: found


def _with_warnings(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    for one in predictions:
        if one.picture.problem:
            warnings.warn(str(one.picture.problem), stacklevel=2)
        yield one
