"""Person detectors in ONNX format: how each family wants its image, and what its outputs mean.

A file is recognized by the names and shapes of its outputs, and by the metadata that Ultralytics writes.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, of values 0 … 255
STRIDES = (8, 16, 32)  # of the cells of YOLO models
COCO_LABELS = {1: 0, 80: 0, 91: 1}  # label of persons by the number of classes; 91 are COCO's category ids


@dataclass(frozen=True)
class Ports:
    """Inputs and outputs of an ONNX model.

    Args:
        size_hw: (height, width) of its input in pixels.
        outputs: Shapes of the outputs by name, in the model's order.
        kinds: NumPy kinds of the outputs by name: "f" for floats, "i" for integers.
        metadata: What the exporter stored, by name.
        file_name: Name of the file.
    """

    size_hw: tuple[int, int]
    outputs: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)
    file_name: str = ""

    @property
    def first(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return next(iter(self.outputs.values()))

    @property
    def task(self) -> str:
        """What Ultralytics' model does, such as "detect" or "pose"; "" for other files."""
        return self.metadata.get("task", "")

    @cached_property
    def names(self) -> dict[int, str]:
        """Names of the classes by label, as Ultralytics stores them; {} for other files."""
        try:
            names = ast.literal_eval(self.metadata.get("names", "{}"))
            return {int(label): str(name) for label, name in dict(names).items()}
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return {}

    @property
    def num_cells(self) -> int:
        """Number of cells of a YOLO model with this input."""
        return sum((self.size_hw[0] // stride) * (self.size_hw[1] // stride) for stride in STRIDES)


@dataclass(frozen=True)
class Found:
    """Candidates of one image.

    Args:
        boxes_xyxy: (N, 4) corners in pixels of the input.
        scores: (N,) in 0 … 1.
        labels: (N,) classes.
        num_classes: Number of classes, 0 if the outputs do not tell it.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    num_classes: int = 0


@dataclass(frozen=True)
class Layout:
    """A family of detectors.

    Args:
        about: Models of the family, and their outputs.
        fits: Whether a model is of the family.
        read: Reads the outputs, by name.
        fit: How an image comes to the size of the input: "corner" scales it to fit and places it at the upper left,
            "centre" in the middle, "stretch" changes its aspect ratio. Where the model leaves its size open, "short"
            scales the shorter side to 800 pixels, at most 1333 for the longer one, and "own" does not scale.
        fill: Value of the pixels beside the image.
        is_bgr: Whether the channels are blue, green, red.
        mean: Subtracted from the values 0 … 255, by channel.
        std: Divisor of the values after that, by channel.
        label: Label of persons where neither metadata nor the number of classes tells it; None for unknown.
        min_score: Candidates below it are dropped, if the detector's own `min_score` is 0.
        max_iou: Overlap above which the worse of two boxes is dropped; None if the model has done that.
    """

    about: str
    fits: Callable[[Ports], bool]
    read: Callable[[Mapping[str, np.ndarray], Ports], Found]
    fit: str
    fill: int = 114
    is_bgr: bool = False
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (255.0, 255.0, 255.0)
    label: int | None = None
    min_score: float = 0.0
    max_iou: float | None = None


def _corners(centres_and_sizes: np.ndarray) -> np.ndarray:
    """Turns boxes (N, 4) of centre and size into corners."""
    half = centres_and_sizes[:, 2:] / 2
    return np.concatenate([centres_and_sizes[:, :2] - half, centres_and_sizes[:, :2] + half], axis=1)


def _best(boxes_xyxy: np.ndarray, class_scores: np.ndarray) -> Found:
    """Returns candidates with the best class of each."""
    if not class_scores.shape[1]:
        return Found(boxes_xyxy[:0], np.zeros(0), np.zeros(0, int))
    labels = class_scores.argmax(1)
    return Found(boxes_xyxy, class_scores.max(1), labels, class_scores.shape[1])


def _without_batch(array: np.ndarray) -> np.ndarray:
    return array[0] if array.shape[:1] == (1,) else array


def _three(ports: Ports) -> dict[str, str] | None:
    """Returns which outputs are boxes, scores and labels: by name, else by shape and type, else by order."""
    wanted = ("boxes", "scores", "labels")
    if set(wanted) <= set(ports.outputs):
        return dict(zip(wanted, wanted, strict=True))
    names = list(ports.outputs)
    if len(names) < 3 or {"dets", "logits"} & set(names):
        return None
    labels = [name for name in names if ports.kinds[name] in "iu"]
    boxes = [name for name in names if ports.outputs[name][-1:] == (4,) and name not in labels]
    scores = [name for name in names if name not in boxes + labels]
    if len(labels) == len(boxes) == len(scores) == 1:
        return {"boxes": boxes[0], "scores": scores[0], "labels": labels[0]}
    return dict(zip(wanted, names, strict=False))


def _read_three(outputs: Mapping[str, np.ndarray], ports: Ports) -> Found:
    named = {name: outputs[own] for name, own in _three(ports).items()}
    boxes, scores, labels = (_without_batch(array) for array in named.values())
    if boxes.ndim == 1 and scores.ndim == labels.ndim == 0:  # one box, without the leading 1
        boxes, scores, labels = boxes[None], scores[None], labels[None]
    if scores.ndim != 1 or boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
        received = ", ".join(f"{name} {array.shape}" for name, array in named.items())
        raise ValueError(f"must return boxes (1, N, 4), scores (1, N), labels (1, N). Received: {received}")
    return Found(boxes, scores, labels)


def _read_shares(boxes: str, logits: str, softmax: bool) -> Callable[[Mapping[str, np.ndarray], Ports], Found]:
    """Returns the reader of transformers: boxes as shares of the image, and logits of classes."""

    def read(outputs: Mapping[str, np.ndarray], ports: Ports) -> Found:
        numbers = np.clip(outputs[logits][0].astype(float), -500, 500)
        if softmax:  # the last class is "nothing"
            scores = np.exp(numbers - numbers.max(1, keepdims=True))
            scores = (scores / scores.sum(1, keepdims=True))[:, :-1]
        else:
            scores = 1 / (1 + np.exp(-numbers))
        height, width = ports.size_hw
        return _best(_corners(outputs[boxes][0].astype(float)) * (width, height, width, height), scores)

    return read


def _read_mmdeploy(outputs: Mapping[str, np.ndarray], ports: Ports) -> Found:
    rows = outputs["dets"][0]
    labels = outputs["labels"][0] if "labels" in outputs else np.zeros(len(rows), int)
    return Found(rows[:, :4], rows[:, 4], labels)


def _num_classes(ports: Ports, num_columns: int) -> int:
    """Returns how many of a YOLO model's columns behind the box are scores of classes."""
    if ports.names:
        return len(ports.names)
    if num_columns == 52 and ports.task in ("", "pose"):  # one class and the 17 keypoints of COCO
        return 1
    return num_columns


def _read_yolo(outputs: Mapping[str, np.ndarray], ports: Ports) -> Found:
    rows = next(iter(outputs.values()))[0].T  # cells, then box, classes, and keypoints or masks
    return _best(_corners(rows[:, :4]), rows[:, 4 : 4 + _num_classes(ports, rows.shape[1] - 4)])


def _read_end_to_end(outputs: Mapping[str, np.ndarray], ports: Ports) -> Found:
    rows = next(iter(outputs.values()))[0]
    return Found(rows[:, :4], rows[:, 4], rows[:, 5].round().astype(int), len(ports.names))


def _read_yolov5(outputs: Mapping[str, np.ndarray], ports: Ports) -> Found:
    rows = next(iter(outputs.values()))[0]
    return _best(_corners(rows[:, :4]), rows[:, 5:] * rows[:, 4:5])


def _read_yolox(outputs: Mapping[str, np.ndarray], ports: Ports) -> Found:
    """Reads offsets to the cells: centre in cells, logarithm of the size in strides."""
    rows = next(iter(outputs.values()))[0].astype(float)
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: ports.size_hw[0] // stride, : ports.size_hw[1] // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        strides.append(np.full((x.size, 1), stride))
    cells, strides = np.concatenate(cells), np.concatenate(strides)
    boxes = np.concatenate([(rows[:, :2] + cells) * strides, np.exp(np.minimum(rows[:, 2:4], 20)) * strides], axis=1)
    return _best(_corners(boxes), rows[:, 5:] * rows[:, 4:5])


def _is_one(ports: Ports, fits: Callable[[int, int], bool]) -> bool:
    """Whether the first output, and the only one but for masks, is (1, A, B) with `fits(A, B)`."""
    shape = ports.first
    alone = len(ports.outputs) == 1 or ports.task == "segment"
    return alone and len(shape) == 3 and shape[0] == 1 and fits(*shape[1:])


def _is_end_to_end(ports: Ports) -> bool:
    columns = {"pose": 9, "segment": 7}.get(ports.task, 6)  # box, score, label; keypoints or masks behind

    def fits(count: int, width: int) -> bool:
        exact = width == columns or ports.task in ("pose", "segment") and width >= columns
        raw = ports.num_cells in (width, count) or count == 3 * ports.num_cells
        return exact and not raw and ports.task != "obb"

    return _is_one(ports, fits)


def _is_raw_yolo(ports: Ports) -> bool:
    return ports.task != "obb" and _is_one(ports, lambda width, count: 5 <= width and count == ports.num_cells)


def _has(ports: Ports, boxes: str, width: int, logits: str, classes: Callable[[int], bool]) -> bool:
    """Whether two outputs are boxes (1, N, width) and logits (1, N, C) with `classes(C)`."""
    box_shape, shape = ports.outputs.get(boxes, ()), ports.outputs.get(logits, ())
    return len(box_shape) == len(shape) == 3 and box_shape[2] == width and classes(shape[2])


_ULTRALYTICS = dict(fit="centre", min_score=0.25)  # as its `predict`
_MMDEPLOY = dict(fit="corner", is_bgr=True, label=0)

LAYOUTS: Mapping[str, Layout] = {
    "boxes_scores_labels": Layout(
        "torchvision and others: boxes (1, N, 4) in pixels, scores (1, N), labels (1, N)",
        lambda ports: _three(ports) is not None, _read_three, fit="corner", fill=0, label=1,
    ),
    "rf_detr": Layout(
        "RF-DETR: dets (1, N, 4), labels (1, N, classes)",
        lambda ports: _has(ports, "dets", 4, "labels", lambda count: True),
        _read_shares("dets", "labels", softmax=False),
        fit="stretch", mean=IMAGENET_MEAN, std=IMAGENET_STD, min_score=0.3,
    ),
    "rt_detr": Layout(
        "RT-DETR and D-FINE of transformers: pred_boxes (1, N, 4), logits (1, N, 80)",
        lambda ports: _has(ports, "pred_boxes", 4, "logits", lambda count: count == 80),
        _read_shares("pred_boxes", "logits", softmax=False), fit="stretch", min_score=0.3,
    ),
    "deformable_detr": Layout(
        "Deformable and Conditional DETR of transformers: pred_boxes (1, N, 4), logits (1, N, 91)",
        lambda ports: _has(ports, "pred_boxes", 4, "logits", lambda count: count == 91),
        _read_shares("pred_boxes", "logits", softmax=False),
        fit="short", mean=IMAGENET_MEAN, std=IMAGENET_STD, min_score=0.3,
    ),
    "detr": Layout(
        "DETR and YOLOS of transformers: pred_boxes (1, N, 4), logits (1, N, classes + 1)",
        lambda ports: _has(ports, "pred_boxes", 4, "logits", lambda count: True),
        _read_shares("pred_boxes", "logits", softmax=True),
        fit="short", mean=IMAGENET_MEAN, std=IMAGENET_STD, min_score=0.5,
    ),
    "rtmdet": Layout(
        "RTMDet of mmdeploy, by the file's name: dets (1, N, 5), labels (1, N)",
        lambda ports: ports.outputs.get("dets", ())[-1:] == (5,) and "rtmdet" in ports.file_name.lower(),
        _read_mmdeploy, **_MMDEPLOY, mean=IMAGENET_MEAN[::-1], std=IMAGENET_STD[::-1],
    ),
    "mmdeploy": Layout(
        "YOLOX of mmdeploy: dets (1, N, 5), labels (1, N)",
        lambda ports: ports.outputs.get("dets", ())[-1:] == (5,),
        _read_mmdeploy, **_MMDEPLOY, std=(1.0, 1.0, 1.0),
    ),
    "yolox": Layout(
        "YOLOX: (1, cells, 5 + classes)",
        lambda ports: _is_one(ports, lambda count, width: count == ports.num_cells and 6 <= width < count),
        _read_yolox, fit="corner", is_bgr=True, std=(1.0, 1.0, 1.0), min_score=0.25, max_iou=0.45,
    ),
    "yolov5": Layout(
        "YOLOv5: (1, 3 * cells, 5 + classes)",
        lambda ports: _is_one(ports, lambda count, width: count == 3 * ports.num_cells and 6 <= width < count),
        _read_yolov5, **_ULTRALYTICS, max_iou=0.45,
    ),
    "yolo_end_to_end": Layout(
        "YOLO26, YOLOv10 and exports with nms=True: (1, N, 6), or more columns for poses",
        _is_end_to_end, _read_end_to_end, **_ULTRALYTICS, label=0,
    ),
    "yolo": Layout(
        "YOLOv8, YOLO11: (1, 4 + classes, cells), keypoints or masks behind the classes",
        _is_raw_yolo,
        _read_yolo, **_ULTRALYTICS, max_iou=0.7,
    ),
}  # fmt: skip


def layout_of(ports: Ports) -> str | None:
    """Returns the key of the family that a model is of, None if it is of none."""
    return next((name for name, layout in LAYOUTS.items() if layout.fits(ports)), None)


def label_of(layout: Layout, ports: Ports, found: Found) -> int | None:
    """Returns the label of persons: by the names of classes, else by their number, else that of the family."""
    if ports.names:
        return next((label for label, name in ports.names.items() if name.lower() == "person"), None)
    return COCO_LABELS.get(found.num_classes) if found.num_classes else layout.label
