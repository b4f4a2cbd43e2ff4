"""Person detectors: a network of the zoo, a box file, an ONNX model or KerasHub behind one method, `detect`.

    boxes_xywh, scores = get().detect([image])  # lists with one entry per image: (P, 4) image pixels, (P,)

Pose accuracy depends on the person boxes. The default is the detector of the zoo, whose weights are part of the
package; see `kpzoo.inference.person_detector`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from kpzoo.errors import UserError, unknown
from kpzoo.inference.boxes import BoxFile, Detector, WholeImage

_OUTPUTS = ("boxes", "scores", "labels")  # of an ONNX model


@dataclass(frozen=True)
class OnnxDetector(Detector):
    """A detector in an ONNX file with three outputs (`pip install onnxruntime`).

    The model has one input, an RGB image (1, 3, H, W) or (1, H, W, 3). The image is resized to fit H x W, placed at the
    upper left and padded with black; H and W are 640 where the model leaves them open. Values are 0 … 255 for uint8
    inputs, and `input_scale` times that for float inputs. The graph must include any other normalization, and
    non-maximum suppression.

    The outputs are found by name, or else by order: `boxes` (1, N, 4), corners x0, y0, x1, y1 in input pixels; `scores`
    (1, N) in 0 … 1; `labels` (1, N). The leading 1 is optional.

    Args:
        path: The .onnx file.
        person_label: Label of persons: 1 for COCO's category ids and torchvision, 0 for most models with 80 classes.
        input_scale: Factor for the values of float inputs.
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
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UserError(
                f"The detector {str(self.path)!r} failed on an input of {batch.dtype} {batch.shape}: {_line(error)}."
            ) from None
        outputs = dict(zip(names if set(_OUTPUTS) <= set(names) else _OUTPUTS, outputs, strict=False))
        arrays = [np.asarray(outputs[name]) for name in _OUTPUTS]
        boxes, scores, labels = (array[0] if array.shape[:1] == (1,) else array for array in arrays)
        if boxes.ndim == 1 and scores.ndim == labels.ndim == 0:  # one box without the leading 1
            boxes, scores, labels = boxes[None], scores[None], labels[None]
        if scores.ndim != 1 or boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
            received = ", ".join(f"{name} {array.shape}" for name, array in zip(_OUTPUTS, arrays, strict=True))
            raise UserError(
                f"The detector {str(self.path)!r} must return boxes (1, N, 4), scores (1, N), labels (1, N). "
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
        except Exception as error:  # onnxruntime's exceptions have no common base class
            reason = _line(error)
            raise UserError(f"{str(self.path)!r} is not an ONNX model that onnxruntime can load: {reason}.") from None
        inputs, outputs = session.get_inputs(), session.get_outputs()
        shape = inputs[0].shape if len(inputs) == 1 else None
        fits = shape is not None and len(shape) == 4 and 3 in (shape[1], shape[3]) and len(outputs) >= 3
        if not fits or isinstance(shape[0], int) and shape[0] != 1:  # an open dimension is a string
            received = [(value.name, value.shape) for value in [*inputs, *outputs]]
            raise UserError(
                f"{str(self.path)!r} must take one image (1, 3, H, W) or (1, H, W, 3) and return boxes (1, N, 4), "
                f"scores (1, N), labels (1, N). Received: {received}."
            )
        return session


@dataclass(frozen=True)
class KerasHubDetector(Detector):
    """A detector of KerasHub (`pip install keras-hub`), such as `dfine_nano_coco` or `retinanet_resnet50_fpn_coco`.

    The first use downloads the weights; KerasHub's documentation lists the presets and their licenses. The preset's
    decoder applies its own score threshold and non-maximum suppression.

    Args:
        preset: A name or folder for `keras_hub.models.ObjectDetector.from_preset`, or an `ObjectDetector`.
        person_label: Label of persons. None selects it for models trained on COCO: 0 of 80 classes, 1 of 91.
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
        people = found["labels"] == label  # entries after the last detection have the label -1
        return np.asarray(boxes)[people] / scale, found["confidence"][people]

    @property
    def _label(self) -> int:
        classes = getattr(self._model, "num_classes", None)
        label = {80: 0, 91: 1}.get(classes) if self.person_label is None else self.person_label
        if label is None:
            text = f"{self.preset!r} has {classes} labels, and it is unknown which means person."
            raise UserError(text, "Pass `person_label=`.")
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
        except Exception as error:  # of names, files, downloads, and presets of other tasks
            raise UserError(
                f"KerasHub cannot load the detector {str(self.preset)!r}: {_line(error)}.",
                "Pass a name or folder that `keras_hub.models.ObjectDetector.from_preset` takes.",
            ) from None


DEFAULT = "person_fpn_lite0"  # its newest weights that are part of the package
ZOO = "person_fpn_"  # prefix of the detectors of the zoo
_NAMES = {"whole": WholeImage}


def get(detector: "str | Path | Detector" = DEFAULT, *, weights: str | Path | None = None) -> Detector:
    """Returns a detector.

    Args:
        detector: A person detector of the zoo, by model name or by the tag of its weights; "whole" for `WholeImage`, a
            .json file for `BoxFile`, an .onnx file for `OnnxDetector`, "keras-hub:PRESET" for `KerasHubDetector`, or an
            object with a method `detect`, which is returned as it is.
        weights: Weights file for a model name. Default: the newest published weights.

    Raises:
        UserError: If the name is unknown, or there are no weights.

    >>> get("whole")
    WholeImage(min_score=0.0, min_size=1.0, max_boxes=100, suppression=None, max_iou=0.5, sigma=0.5)
    """
    text = str(detector)
    if isinstance(detector, str) and text.startswith(ZOO) and "/" not in text:
        from kpzoo.inference.person_detector import load

        return load(text, weights)
    if weights is not None:
        raise UserError(f"`weights=` is for person detectors of the zoo. Received: the detector {text!r}.")
    if hasattr(detector, "detect"):
        return detector
    if text.startswith("keras-hub:"):
        return KerasHubDetector(text.removeprefix("keras-hub:"))
    if text.endswith((".json", ".json.gz")):
        return BoxFile(text)
    if text.endswith(".onnx"):
        return OnnxDetector(text)
    if text not in _NAMES:
        raise unknown(
            "detector", text, [*_NAMES, DEFAULT], "Or pass a .json or .onnx file, or keras-hub: and a preset."
        )
    return _NAMES[text]()


def _line(error: Exception) -> str:
    """Returns the first line of an error message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip().rstrip(".")


def _letterbox(image_rgb: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Returns (1, H, W, 3) uint8 with the image at the upper left, and its scale."""
    height, width = image_rgb.shape[:2]
    scale = min(size_hw[0] / height, size_hw[1] / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.pad(small, ((0, size_hw[0] - size[1]), (0, size_hw[1] - size[0]), (0, 0)))[None], scale
