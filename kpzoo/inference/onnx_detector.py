"""Person boxes of detectors in ONNX format."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from kpzoo.errors import UserError, unknown
from kpzoo.inference.boxes import Detector
from kpzoo.inference.letterbox import Placed, placed
from kpzoo.inference.onnx_layouts import LAYOUTS, Found, Layout, Ports, label_of, layout_of
from kpzoo.nms import box_nms
from kpzoo.weights import published

OPEN_SIZE = 640  # pixels, of a side that the model leaves open
SHORT_SIDE, LONG_SIDE = 800, 1333  # of images for DETR, in its paper's evaluation


@dataclass(frozen=True)
class OnnxDetector(Detector):
    """A detector in an ONNX file (`pip install onnxruntime`).

    Its family is recognized by the names and shapes of the outputs, and by the metadata that Ultralytics writes:
    YOLOv5, YOLOv8, YOLO11, YOLO26 and YOLOv10 (boxes of pose models, too), RF-DETR, DETR and RT-DETR of transformers,
    YOLOX, exports of mmdeploy, and torchvision or any model with the outputs boxes, scores and labels. The family tells
    how the image is scaled and normalized, and which class is person; see `onnx_layouts.LAYOUTS`. Models that suppress
    no overlapping boxes get the suppression of their family. A `min_score` of 0 means that of the family.

    The model has one image as its input, (1, 3, H, W), (1, H, W, 3) or (3, H, W).

    Args:
        path: The .onnx file.
        person_label: Label of persons; None for that of the file's metadata or its family.
        input_scale: Factor of the values 0 … 255 for float inputs, in place of the family's normalization.
        layout: Key of `onnx_layouts.LAYOUTS`; None to recognize the family.

    Raises:
        UserError: No such file, or a model of no known family.
    """

    path: str | Path
    person_label: int | None = None
    input_scale: float | None = None
    layout: str | None = None

    def find(self, image_rgb, image_id):
        layout = self._layout
        ports, image = self._placed(image_rgb, layout)
        found = self._read(layout, ports, image.pixels)
        boxes, scores = found.boxes_xyxy.astype(float), found.scores.astype(float)
        keep = (found.labels == self._label(layout, ports, found)) & (scores >= (self.min_score or layout.min_score))
        boxes, scores = image.to_image(boxes[keep]), scores[keep]
        if layout.max_iou is not None:
            finite = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
            boxes, scores = boxes[finite], scores[finite]
            keep = box_nms(boxes, scores, layout.max_iou)
            boxes, scores = boxes[keep], scores[keep]
        return boxes, scores

    def _placed(self, image_rgb: np.ndarray, layout: Layout) -> tuple[Ports, Placed]:
        """Returns the image at the size of the input, and the ports with that size."""
        size_hw, fit = self._ports.size_hw, layout.fit
        is_open = any(not isinstance(side, int) for side in self._sides)
        height, width = image_rgb.shape[:2]
        if is_open and fit == "short":
            scale = min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
            size_hw = max(1, round(height * scale)), max(1, round(width * scale))
        elif is_open and len(self._image.shape) == 3:  # torchvision's models resize images themselves
            size_hw = height, width
        image = placed(image_rgb, size_hw, "stretch" if fit == "short" else fit, layout.fill)
        return replace(self._ports, size_hw=size_hw), image

    def _read(self, layout: Layout, ports: Ports, pixels: np.ndarray) -> Found:
        try:
            return layout.read(self._run(pixels, layout), ports)
        except (ValueError, IndexError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            text = str(error) if str(error).startswith("must return") else f"returned other outputs than {layout.about}"
            raise UserError(f"The detector {str(self.path)!r} {text}.") from None

    def _label(self, layout: Layout, ports: Ports, found: Found) -> int:
        """Returns the label of persons."""
        label = label_of(layout, ports, found) if self.person_label is None else self.person_label
        if label is None:
            classes = list(ports.names.values())[:10] or f"{found.num_classes} classes"
            raise UserError(
                f"Which label of the detector {str(self.path)!r} means person? It has {classes}.",
                "Pass `person_label=`.",
            )
        return label

    def _run(self, pixels: np.ndarray, layout: Layout) -> Mapping[str, np.ndarray]:
        """Returns the outputs for an image of the input's size, by name."""
        spec, batch = self._image, pixels
        if "uint8" not in spec.type:
            kind = np.float16 if "16" in spec.type else np.float32
            batch = _normalized(pixels, layout, self.input_scale).astype(kind)
        elif layout.is_bgr:
            batch = pixels[..., ::-1]
        if spec.shape[-3] == 3:
            batch = batch.transpose(2, 0, 1)
        feed = {spec.name: np.ascontiguousarray(batch[None] if len(spec.shape) == 4 else batch)}
        for other in self._session.get_inputs():
            if other.name == "pixel_mask":
                shape = [side if isinstance(side, int) else 64 for side in other.shape[1:]]  # ones at any size
                feed[other.name] = np.ones((1, *shape), np.int64)
        names = [output.name for output in self._session.get_outputs()]
        try:
            outputs = self._session.run(None, feed)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            text = f"failed on an input of {feed[spec.name].dtype} {feed[spec.name].shape}: {first_line(error)}"
            raise UserError(f"The detector {str(self.path)!r} {text}.") from None
        return {name: np.asarray(value) for name, value in zip(names, outputs, strict=True)}

    @cached_property
    def _layout(self) -> Layout:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise unknown("layout of a detector", self.layout, LAYOUTS)
        name = self.layout or layout_of(self._ports)
        if name is None:
            received = ", ".join(f"{name} {shape}" for name, shape in self._ports.outputs.items())
            known = "; ".join(layout.about for layout in LAYOUTS.values())
            raise UserError(
                f"{str(self.path)!r} is of no known family of detectors. Received: {received}. Known: {known}.",
                f"Pass `layout=`, one of {', '.join(LAYOUTS)}.",
            )
        return LAYOUTS[name]

    @cached_property
    def _ports(self) -> Ports:
        """What the model says of itself; where it leaves shapes of outputs open, those of a black image."""
        size_hw = tuple(side if isinstance(side, int) else OPEN_SIZE for side in self._sides)
        specs = self._session.get_outputs()
        outputs = {spec.name: tuple(spec.shape) for spec in specs}
        if not all(isinstance(side, int) for shape in outputs.values() for side in shape):
            black = np.zeros((*size_hw, 3), np.uint8)
            outputs = {name: array.shape for name, array in self._run(black, LAYOUTS["yolo"]).items()}
        kinds = {spec.name: "f" if "float" in spec.type or "double" in spec.type else "i" for spec in specs}
        metadata = self._session.get_modelmeta().custom_metadata_map
        return Ports(size_hw, outputs, kinds, metadata, Path(self.path).name)

    @property
    def _sides(self) -> tuple:
        """Height and width of the input; text where they are open."""
        shape = self._image.shape
        return tuple(shape[-2:] if shape[-3] == 3 else shape[-3:-1])

    @property
    def _image(self):
        """The input that is an image."""
        return next(spec for spec in self._session.get_inputs() if spec.name != "pixel_mask")

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
            reason = first_line(error)
            raise UserError(f"{str(self.path)!r} is not an ONNX model that onnxruntime can load: {reason}.") from None
        inputs = session.get_inputs()
        images = [spec.shape for spec in inputs if spec.name != "pixel_mask"]
        if len(images) != 1 or not _is_image(images[0]):
            received = [(value.name, value.shape) for value in [*inputs, *session.get_outputs()]]
            raise UserError(
                f"{str(self.path)!r} must take one image (1, 3, H, W), (1, H, W, 3) or (3, H, W). Received: {received}."
            )
        return session


@dataclass(frozen=True)
class PublishedDetector(OnnxDetector):
    """A published detector, fetched on first use.

    Args:
        path: Tag of the detector, see `published.DETECTORS`.
    """

    @cached_property
    def _session(self):
        tag = str(self.path)
        row = published.DETECTORS[tag]
        own = OnnxDetector(published.fetch_detector(tag), layout=row.layout)
        if own._ports.size_hw != row.image_hw:
            raise UserError(
                f"The file of {tag!r} takes images of {own._ports.size_hw}. Expected: {row.image_hw}. Remove it with "
                "`kpzoo weights clear`, and fetch it again."
            )
        return own._session


def _is_image(shape: list) -> bool:
    """Whether the shape of an input is one image; an open dimension is a name."""
    if len(shape) == 4 and (not isinstance(shape[0], int) or shape[0] == 1):
        return 3 in (shape[1], shape[3])
    return len(shape) == 3 and shape[0] == 3


def _normalized(pixels: np.ndarray, layout: Layout, input_scale: float | None) -> np.ndarray:
    pixels = pixels[..., ::-1] if layout.is_bgr else pixels
    if input_scale is not None:
        return pixels * np.float32(input_scale)
    return (pixels - np.float32(layout.mean)) / np.float32(layout.std)


def first_line(error: Exception) -> str:
    """Returns the first line of an error message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip().rstrip(".")
