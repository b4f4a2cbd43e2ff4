"""Person detectors: a network of the zoo, a box file, an ONNX model or KerasHub behind one method, `detect`.

    boxes_xywh, scores = get().detect([image])  # lists with one entry per image: (P, 4) image pixels, (P,)

Pose accuracy depends on the person boxes. The default is the detector of the zoo, whose weights are part of the
package; see `kpzoo.inference.person_detector`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kpzoo.errors import UserError, unknown
from kpzoo.inference.boxes import BoxFile, Detector, WholeImage
from kpzoo.inference.letterbox import placed
from kpzoo.inference.onnx_detector import OnnxDetector, PublishedDetector, first_line
from kpzoo.weights import published


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
        image = placed(image_rgb, tuple(size))
        outputs = model.predict(image.pixels[None].astype(np.float32), verbose=0)
        found = {key: np.asarray(value)[0] for key, value in outputs.items()}
        boxes = convert_format(found["boxes"], model.bounding_box_format, "xyxy", height=size[0], width=size[1])
        people = found["labels"] == label  # entries after the last detection have the label -1
        return image.to_image(np.asarray(boxes)[people]), found["confidence"][people]

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
                f"KerasHub cannot load the detector {str(self.preset)!r}: {first_line(error)}.",
                "Pass a name or folder that `keras_hub.models.ObjectDetector.from_preset` takes.",
            ) from None


DEFAULT = "person_fpn_lite0"  # its newest weights that are part of the package
ZOO = "person_fpn_"  # prefix of the detectors of the zoo
_NAMES = {"whole": WholeImage}


def get(detector: "str | Path | Detector" = DEFAULT, *, weights: str | Path | None = None) -> Detector:
    """Returns a detector.

    Args:
        detector: A person detector of the zoo, by model name or by the tag of its weights; "yolox_tiny", "yolox_m",
            "yolox_x" or the tag of one of these for `PublishedDetector`; "whole" for `WholeImage`; a .json file for
            `BoxFile`; an .onnx file for `OnnxDetector`; "keras-hub:PRESET" for `KerasHubDetector`; or an object with a
            method `detect`, which is returned as it is.
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
    tags = {row.detector: tag for tag, row in published.DETECTORS.items()}  # the last one of each is the newest
    if (tag := tags.get(text) or published.resolve(text)) in published.DETECTORS:
        return PublishedDetector(tag)
    if text not in _NAMES:
        raise unknown(
            "detector", text, [*_NAMES, DEFAULT, *tags], "Or pass a .json or .onnx file, or keras-hub: and a preset."
        )
    return _NAMES[text]()
