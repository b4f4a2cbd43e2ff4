"""Person boxes: one method, `detect`, behind it OpenCV, a box file, an ONNX model, KerasHub, or a class of your own.

    boxes_xywh, scores = HOGDetector().detect([image])     # lists, one entry a picture: (P, 4) image pixels, (P,)

Poses are only as good as the boxes that are looked into. The default works everywhere and finds little (see
`HOGDetector`); for real use take a detector trained on people.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from kpzoo.errors import UserError, unknown
from kpzoo.inference.boxes import BoxFile, Detector, WholeImage
from kpzoo.nms import soft_box_nms

_HOG_LONG_SIDE = 960  # pictures are brought to this size: a window of 128 rows then is a person of 100
_HOG_STRETCHES = (1.0, 0.75)  # of the width: the window is half as wide as high, people with open arms are wider
_OUTPUTS = ("boxes", "scores", "labels")  # of an ONNX model
_HOG_PERSON = (0.65, 0.8)  # the part of the window, about its centre, that its person fills


@dataclass(frozen=True)
class HOGDetector(Detector):
    """OpenCV's pedestrian detector of 2005 (histograms of oriented gradients and a linear SVM): nothing to download.

    It knows one thing: people who stand upright, are seen whole, do not hide one another, and are at least a tenth of
    the picture's longer side tall. People who sit, lie, bend, do sports, are cut off by the border or stand in a crowd
    are mostly missed, and poles, trees and doors are taken for people. On 93 photos of COCO it found 12 of 25 people
    of the first kind (taller than 15 % of the longer side), but 12 % of all who are at least 60 pixels tall, at an IoU
    of 0.5; 1 box of 6 was on a person. To judge a pose model, take annotated boxes or a modern detector.
    """

    min_score: float = field(default=0.1, kw_only=True)

    def find(self, image_rgb, image_id):
        height, width = image_rgb.shape[:2]
        scale = _HOG_LONG_SIDE / max(height, width)
        windows, margins = [np.zeros((0, 4))], [np.zeros(0)]
        for stretch in _HOG_STRETCHES:
            size = max(64, round(width * scale * stretch)), max(128, round(height * scale))
            small = cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
            rects, weights = self._hog.detectMultiScale(
                small, winStride=(8, 8), padding=(16, 16), scale=1.05, groupThreshold=0
            )
            if len(rects):
                windows.append(rects * np.array([width / size[0], height / size[1]] * 2))
                margins.append(np.ravel(weights))
        windows, margins = np.concatenate(windows), np.concatenate(margins)
        order = np.lexsort((*windows.T, -margins))  # threads deliver them in any order
        sizes = windows[order, 2:] * _HOG_PERSON
        boxes = np.concatenate([windows[order, :2] + (windows[order, 2:] - sizes) / 2, sizes], axis=1)
        scores = 1 / (1 + np.exp(2.8 - 1.5 * margins[order]))  # of windows with that margin so many hit a person
        keep, scores = soft_box_nms(boxes, scores, "linear", threshold=0.3, min_score=self.min_score)
        return boxes[keep], scores

    @cached_property
    def _hog(self):
        if not hasattr(cv2, "HOGDescriptor"):
            raise UserError(
                f"HOGDetector needs OpenCV 4. Received: OpenCV {cv2.__version__}, which has no HOG detector any more. "
                "Run `pip install 'opencv-python-headless<5'`, or pass boxes or another detector."
            )
        hog = cv2.HOGDescriptor()
        hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())
        return hog


@dataclass(frozen=True)
class OnnxDetector(Detector):
    """Any detector exported to ONNX with three outputs (`pip install onnxruntime`).

    The model's one input is a picture, (1, 3, H, W) or (1, H, W, 3) RGB. uint8 inputs get 0..255; float inputs get
    `input_scale` times that, any further normalisation belongs into the graph. The picture is scaled to fit H x W, put
    to the upper left and filled up with black; H or W that are open become 640.

    The outputs, by name or else in this order: `boxes` (1, N, 4), corners x0, y0, x1, y1 in pixels of the input;
    `scores` (1, N) in 0..1; `labels` (1, N). The leading 1 may be missing. Non-maximum suppression belongs into the
    graph.

    Args:
        path: The .onnx file.
        person_label: The label of people: 1 counts as COCO's category ids and torchvision do, 0 as 80-class models do.
        input_scale: See above.
    """

    path: str | Path
    person_label: int = 1
    input_scale: float = 1 / 255

    def find(self, image_rgb, image_id):
        spec = self._session.get_inputs()[0]
        channels_first = spec.shape[1] == 3
        size_hw = spec.shape[2:] if channels_first else spec.shape[1:3]
        batch, scale = _letterbox(image_rgb, tuple(side if isinstance(side, int) else 640 for side in size_hw))
        if spec.type != "tensor(uint8)":
            batch = (batch * np.float32(self.input_scale)).astype(np.float16 if "float16" in spec.type else np.float32)
        if channels_first:
            batch = batch.transpose(0, 3, 1, 2)
        boxes, scores, labels = self._outputs(spec.name, np.ascontiguousarray(batch))
        people = labels == self.person_label
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        return boxes[people] / scale, scores[people]

    def _outputs(self, name: str, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns corners (N, 4), scores (N,) and labels (N,) of a batch of one picture."""
        names = [output.name for output in self._session.get_outputs()]
        try:
            outputs = self._session.run(None, {name: batch})
        except Exception as error:  # as below, a class for every fault
            raise UserError(
                f"The detector {str(self.path)!r} fails on a picture, {batch.dtype} {batch.shape}: {_line(error)}."
            ) from None
        outputs = dict(zip(names if set(_OUTPUTS) <= set(names) else _OUTPUTS, outputs, strict=False))
        arrays = [np.asarray(outputs[name]) for name in _OUTPUTS]
        boxes, scores, labels = (array[0] if array.shape[:1] == (1,) else array for array in arrays)
        if boxes.ndim == 1 and scores.ndim == labels.ndim == 0:  # one box, without a leading 1
            boxes, scores, labels = boxes[None], scores[None], labels[None]
        if scores.ndim != 1 or boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
            received = ", ".join(f"{name} {array.shape}" for name, array in zip(_OUTPUTS, arrays, strict=True))
            raise UserError(
                f"The detector {str(self.path)!r} must give boxes (1, N, 4), scores (1, N), labels (1, N). "
                f"Received: {received}."
            )
        return boxes.astype(float), scores.astype(float), labels

    @cached_property
    def _session(self):
        try:
            import onnxruntime
        except ImportError:
            raise UserError("OnnxDetector needs onnxruntime. Run `pip install onnxruntime`.") from None
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise UserError(f"There is no ONNX model {str(path)!r}.")
        try:
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for every fault, all derived from Exception
            reason = _line(error)
            raise UserError(f"{str(self.path)!r} is not an ONNX model that onnxruntime can load: {reason}.") from None
        inputs, outputs = session.get_inputs(), session.get_outputs()
        shape = inputs[0].shape if len(inputs) == 1 else None
        fits = shape is not None and len(shape) == 4 and 3 in (shape[1], shape[3]) and len(outputs) >= 3
        if not fits or isinstance(shape[0], int) and shape[0] != 1:  # one that is open is a name
            received = [(value.name, value.shape) for value in [*inputs, *outputs]]
            raise UserError(
                f"{str(self.path)!r} must take one picture (1, 3, H, W) or (1, H, W, 3) and give boxes (1, N, 4), "
                f"scores (1, N), labels (1, N). Received: {received}."
            )
        return session


@dataclass(frozen=True)
class KerasHubDetector(Detector):
    """A detector of KerasHub (`pip install keras-hub`): `dfine_nano_coco`, `retinanet_resnet50_fpn_coco` and others.

    The first use downloads the preset's weights; what is offered and on which terms, KerasHub's pages tell. The
    preset's own decoder suppresses and drops what it is not sure of.

    Args:
        preset: A name or folder that `keras_hub.models.ObjectDetector.from_preset` takes, or such a model itself.
        person_label: The label of people; None for presets of COCO, where 80 classes count from 0 and 91 from 1.
    """

    preset: object
    person_label: int | None = None

    def find(self, image_rgb, image_id):
        from keras.utils.bounding_boxes import convert_format

        model, label = self._model, self._label
        size = getattr(getattr(model.preprocessor, "image_converter", None), "image_size", None) or (640, 640)
        batch, scale = _letterbox(image_rgb, tuple(size))
        found = {key: np.asarray(value)[0] for key, value in model.predict(batch.astype(np.float32), verbose=0).items()}
        boxes = convert_format(found["boxes"], model.bounding_box_format, "xywh", height=size[0], width=size[1])
        people = found["labels"] == label  # places behind the last detection have label -1
        return np.asarray(boxes)[people] / scale, found["confidence"][people]

    @property
    def _label(self) -> int:
        classes = getattr(self._model, "num_classes", None)
        label = {80: 0, 91: 1}.get(classes) if self.person_label is None else self.person_label
        if label is None:
            raise UserError(f"Which of the {classes} labels of {self.preset!r} means person?", "Pass `person_label=`.")
        return label

    @cached_property
    def _model(self):
        if not isinstance(self.preset, str | Path):
            return self.preset
        try:
            import keras_hub
        except ImportError as error:
            raise UserError(f"KerasHubDetector needs keras-hub ({error}). Run `pip install keras-hub`.") from None
        try:
            return keras_hub.models.ObjectDetector.from_preset(str(self.preset))
        except Exception as error:  # of names, files, downloads, and of presets that are no detector
            raise UserError(
                f"KerasHub cannot load the detector {str(self.preset)!r}: {_line(error)}.",
                "Pass a name or folder that `keras_hub.models.ObjectDetector.from_preset` takes.",
            ) from None


def get(detector: "str | Path | Detector") -> Detector:
    """Returns the detector that a word means: `hog`, `whole`, a .json or .onnx file, or `keras-hub:` and a preset.

    Anything with a method `detect` passes as it is.
    """
    if hasattr(detector, "detect"):
        return detector
    text = str(detector)
    if text.startswith("keras-hub:"):
        return KerasHubDetector(text.removeprefix("keras-hub:"))
    if text.endswith((".json", ".json.gz")):
        return BoxFile(text)
    if text.endswith(".onnx"):
        return OnnxDetector(text)
    if text not in _NAMES:
        raise unknown("detector", text, _NAMES, "Or pass a .json or .onnx file, or keras-hub: and a preset's name.")
    return _NAMES[text]()


DEFAULT = "hog"
_NAMES = {"hog": HOGDetector, "whole": WholeImage}


def _line(error: Exception) -> str:
    """Returns the first line of what went wrong."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip().rstrip(".")


def _letterbox(image_rgb: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Returns (1, H, W, 3) uint8 with the picture in the upper left, and how much it was scaled."""
    height, width = image_rgb.shape[:2]
    scale = min(size_hw[0] / height, size_hw[1] / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.pad(small, ((0, size_hw[0] - size[1]), (0, size_hw[1] - size[0]), (0, 0)))[None], scale
