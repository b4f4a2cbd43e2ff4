"""Inference with the person detectors of the zoo, on images of any size."""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
import tensorflow as tf

from kpzoo import boxes
from kpzoo.errors import UserError
from kpzoo.inference.acceleration import network_of
from kpzoo.inference.boxes import Detector
from kpzoo.inference.engines import TENSORFLOW
from kpzoo.inference.folded_model import FoldedModel, frozen_graph
from kpzoo.pose_model import PersonModel
from kpzoo.weights import published

# Short sides of the inputs as shares of the long side, which saves computation on the padding of a square input.
SHORT_SIDES = (0.6, 0.76, 1.0)
MULTIPLE = 32  # of both sides of an input
MIN_SCORE = 0.45  # near the best F1 of the default weights, see docs/shipped_weights.md
MAX_IOU = 0.6  # of hard NMS
OUTPUTS = ("person_logits", "person_boxes")

_ONE_AT_A_TIME = Lock()  # fused convolutions are not thread-safe, see `acceleration.Accelerated`


@dataclass(frozen=True)
class PersonDetector(Detector):
    """A person detector of the zoo, such as `kpzoo.detectors.get("person_fpn_lite0")`.

    An image is resized so that its longer side equals that of the model's input, placed at the upper left, and padded
    with grey to the smallest of five input sizes that contains it. The first use copies the weights into the graph as
    constants; later changes of the model's weights have no effect.

    Args:
        model: A `person_fpn_*` model of `kpzoo.build`.
        weights: Name of the weights, shown by `repr`.
        engine: "tensorflow", "openvino" or "onnxruntime", see `kpzoo.accelerate`. A `Predictor` with one of these
            engines runs its detector in it, too.
    """

    model: PersonModel
    weights: str = ""
    engine: str = field(default=TENSORFLOW, kw_only=True, repr=False)
    min_score: float = field(default=MIN_SCORE, kw_only=True)
    suppression: str | None = field(default="hard", kw_only=True)
    max_iou: float = field(default=MAX_IOU, kw_only=True)

    def __post_init__(self):
        if not isinstance(self.model, PersonModel):
            raise UserError(
                f"A person detector is a model such as kpzoo.build('person_fpn_lite0'). Received: {self.model!r}."
            )

    def find(self, image_rgb, image_id):
        [found] = self.find_all([image_rgb], [image_id])
        return found

    def find_all(self, images_rgb, image_ids):
        placed = [self._placed(image) for image in images_rgb]
        by_size = defaultdict(list)
        for index, (canvas, _) in enumerate(placed):
            by_size[canvas.shape[:2]].append(index)
        found = [None] * len(placed)
        for size_hw, indices in by_size.items():
            batch = np.stack([placed[index][0] for index in indices])
            with _ONE_AT_A_TIME:
                answer = self._networks(size_hw)(batch)
            for index, logits, corners in zip(indices, *map(np.asarray, answer), strict=True):
                boxes_xywh, scores = boxes.decode_boxes(logits, corners, self.min_score)
                found[index] = boxes_xywh / np.tile(placed[index][1], 2), scores
        return found

    def _placed(self, image_rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the input (H, W, 3) uint8 with the resized image at the upper left, and the scales in x and y."""
        height, width = image_rgb.shape[:2]
        long_side = max(self.model.preset.image_hw)
        scale = long_side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        short = next(side for side in _short_sides(long_side) if side >= min(size))
        canvas = np.full((short, long_side, 3) if width >= height else (long_side, short, 3), boxes.PAD, np.uint8)
        canvas[: size[1], : size[0]] = small
        return canvas, np.array([size[0] / width, size[1] / height])

    @cached_property
    def _made(self) -> dict:
        return {}

    def _networks(self, size_hw: tuple[int, int]):
        """Returns a function from (B, H, W, 3) uint8 images of one size to logits and boxes."""
        if size_hw not in self._made:
            self._made[size_hw] = constant_network(self.model, size_hw, self.engine)
        return self._made[size_hw]


@lru_cache(maxsize=2)
def load(name: str, weights: str | Path | None = None) -> PersonDetector:
    """Returns a person detector of the zoo with weights. Repeated calls return the same object.

    Args:
        name: A model name, or a tag of published weights.
        weights: A weights file for a model name. Default: the newest published weights.

    Raises:
        UserError: If the name is unknown, the weights do not fit the model, or no weights are published.
    """
    from kpzoo.models.registry import build, spec_of

    if name in published.ROWS and weights is None:
        return PersonDetector(build(published.ROWS[name].model, weights=name), name)
    if weights is None:
        spec_of(name)  # raises for an unknown name
        tags = published.tags_of(name)
        if not tags:
            raise UserError(f"The detector {name!r} has no published weights. Pass a file with `weights=`.")
        return load(tags[-1])
    return PersonDetector(build(name, weights=weights), str(weights))


def _short_sides(long_side: int) -> list[int]:
    return [-(-round(long_side * share) // MULTIPLE) * MULTIPLE for share in SHORT_SIDES]


def constant_network(model: PersonModel, size_hw: tuple[int, int], engine: str = TENSORFLOW):
    """Returns a function from (B, H, W, 3) uint8 images of size `size_hw` to the logits and boxes of a detector."""
    from kpzoo.models import build

    preset = model.preset
    same = build(preset.name, image_hw=size_hw, normalization=preset.normalization, **preset.options)
    same.set_weights(model.get_weights())
    folded, spec = FoldedModel(same), tf.TensorSpec((None, *size_hw, 3), tf.uint8, name="image")
    if engine != TENSORFLOW:
        network = network_of(engine)(frozen_graph(folded, _boxes_of, [spec], OUTPUTS), OUTPUTS)
        return lambda image: network.start(image)()
    values = [weight.numpy() for weight in folded.weights()]

    def answer(image):
        return _boxes_of(image, lambda inputs: folded(inputs, [tf.constant(value) for value in values]))

    return tf.function(answer, input_signature=[spec], autograph=False)


def _boxes_of(image: tf.Tensor, forward) -> tuple[tf.Tensor, tf.Tensor]:
    found = forward({"image": tf.cast(image, tf.float32)})
    return tuple(found[name] for name in OUTPUTS)
