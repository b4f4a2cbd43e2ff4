"""Comparison of exports with the Keras model: the largest differences of heatmaps and keypoints on the same crops."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from kpzoo import crops, geometry, heatmaps
from kpzoo.errors import UserError
from kpzoo.export.person_boxes import drawn_pictures
from kpzoo.export.runtimes import ask, first_line
from kpzoo.inference.acceleration import instance_heatmaps
from kpzoo.pose_model import PersonModel, PoseModel, ZooModel
from kpzoo.scenes import drawn

HEATMAP_LIMIT = 1e-5  # relative to the largest value of the Keras model's heatmaps
KEYPOINT_LIMIT = 0.01  # crop pixels
SCORE_LIMIT, BOX_LIMIT = 1e-4, 0.05  # of a person detector's cells; pixels of the input
NUM_CROPS = 4


@dataclass(frozen=True)
class Difference:
    """The difference of one export in one output.

    Args:
        target: The file or folder.
        what: "heatmaps", relative to the largest value, or "keypoints", in crop pixels; of a person detector "scores"
            and "boxes", in pixels of the input.
        largest: The largest absolute difference.
        mean: The mean absolute difference.
        limit: Largest value of `largest` that passes.
        num_keypoints: Number of keypoints compared, and of all keypoints; see `compare`.
    """

    target: str
    what: str
    largest: float
    mean: float
    limit: float
    num_keypoints: tuple[int, int] | None = None

    @property
    def passed(self) -> bool:
        return bool(self.largest <= self.limit)  # NaN is not

    def __str__(self) -> str:
        of = f" ({self.num_keypoints[0]} of {self.num_keypoints[1]} compared)" if self.num_keypoints else ""
        verdict = "equal" if self.passed else "DIFFERENT"
        unit = {"heatmaps": "of the peak", "scores": "of 1"}.get(self.what, "px")
        return (
            f"{verdict:<10}{self.what:<10} max {self.largest:.2e} mean {self.mean:.2e} {unit}, "
            f"limit {self.limit:g}: {self.target}{of}"
        )


@dataclass(frozen=True)
class Parity:
    """The result of `compare`. Its text is a table."""

    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.differences)

    def __str__(self) -> str:
        return "\n".join(map(str, self.differences))


def compare(model: ZooModel, *targets: str | Path) -> Parity:
    """Compares exports with the model on crops of drawn people, for all N instances of each crop.

    Ambiguous keypoints, which change when the heatmaps are perturbed by `HEATMAP_LIMIT`, are excluded and counted.

    Args:
        model: The exported model.
        *targets: SavedModel folders, ONNX files and LiteRT files.

    Returns:
        The differences in heatmaps and keypoints for each target, if it has both outputs; for a person detector those
        in scores and boxes.
    """
    if isinstance(model, PersonModel):
        image = drawn_pictures([drawn.draw_scene(seed, crowding=0.5)[0] for seed in range(2)], model.preset.image_hw)
        known = {name: value.numpy() for name, value in model({"image": image}, training=False).items()}
        return Parity(tuple(row for target in targets for row in _box_differences(model, target, image, known)))
    known = reference(model)
    return Parity(tuple(row for target in targets for row in _differences(model, target, known)))


@dataclass(frozen=True)
class Reference:
    """Inputs, and the outputs of the Keras model for them.

    Args:
        inputs: `image` (B, H, W, 3) and `instance` (B, N, N), the identity matrix for each crop.
        heatmaps: (B, N, h, w, K).
        keypoints: (B, N, K, 2) in crop pixels.
        decided: (B, N, K) bool, whether the keypoint is compared.
    """

    inputs: dict[str, np.ndarray]
    heatmaps: np.ndarray
    keypoints: np.ndarray
    decided: np.ndarray


def reference(model: PoseModel, num_crops: int = NUM_CROPS) -> Reference:
    """Returns the outputs of the Keras model for all instances in crops of drawn people."""
    codec = model.preset.rules
    image = drawn_crops(model, num_crops)
    maps = instance_heatmaps(model, tf.constant(image)).numpy()
    keypoints = heatmaps.decode(codec, maps)[0].numpy()
    decided = _decided(codec, maps, keypoints)
    if not decided.any():
        raise UserError(f"Model {model.name!r} predicts constant heatmaps: there are no keypoints to compare.")
    instance = np.tile(np.eye(maps.shape[1], dtype=np.float32), (len(image), 1, 1))
    return Reference({"image": image, "instance": instance}, maps, keypoints, decided)


def drawn_crops(model: PoseModel, count: int = NUM_CROPS) -> np.ndarray:
    """Returns (count, H, W, 3) crops of people in drawn scenes with fixed seeds."""
    image_hw = model.preset.image_hw
    rule = model.preset.rules.crop
    found, seed = [], 0
    while len(found) < count:
        pixels, persons = drawn.draw_scene(seed, crowding=0.5)
        boxes = np.array([person["bbox"] for person in persons], float).reshape(-1, 4)
        matrices = geometry.crop_to_image(geometry.views(boxes, rule, image_hw), image_hw).astype(np.float32)
        pixels = tf.constant(pixels)
        found += [crops.crop(pixels, matrix, image_hw, rule.fill_rgb).numpy() for matrix in matrices]
        seed += 1
    return np.stack(found[:count])


def _answers(model: ZooModel, target: str | Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        return ask(target)(inputs)
    except UserError:
        raise
    except Exception as error:  # the runtimes have various exceptions
        told = f"{str(target)!r} does not accept the inputs of model {model.name!r}: {first_line(error)}"
        raise UserError(told) from error


def _box_differences(model: PersonModel, target: str | Path, image: np.ndarray, known: dict) -> list[Difference]:
    found = _answers(model, target, {"image": image})
    shapes = {name: found[name].shape if name in found else None for name in known}
    if shapes != {name: value.shape for name, value in known.items()}:
        raise UserError(f"{str(target)!r} answers {shapes}, model {model.name!r} does not: it is another's export.")
    scores = np.abs(tf.sigmoid(found["person_logits"]) - tf.sigmoid(known["person_logits"]))
    apart = np.abs(found["person_boxes"] - known["person_boxes"])
    rows = (("scores", scores, SCORE_LIMIT), ("boxes", apart, BOX_LIMIT))
    return [Difference(str(target), what, float(x.max()), float(x.mean()), limit) for what, x, limit in rows]


def _differences(model: PoseModel, target: str | Path, known: Reference) -> list[Difference]:
    found = _answers(model, target, known.inputs)
    if "heatmaps" in found:
        if found["heatmaps"].ndim == 4:  # a model without the input `instance`
            found["heatmaps"] = found["heatmaps"][:, None]
    if "keypoints_crop_xy" not in found:
        known_numbers = np.nan_to_num(found["heatmaps"])  # the decoder fails on NaN, which the heatmaps report below
        found["keypoints_crop_xy"] = heatmaps.decode(model.preset.rules, known_numbers)[0].numpy()
    for name, expected in (("heatmaps", known.heatmaps), ("keypoints_crop_xy", known.keypoints)):
        if name in found and found[name].shape != expected.shape:
            raise UserError(
                f"{str(target)!r} returns {name} of shape {found[name].shape}, the model {expected.shape}. "
                "It is the export of another model."
            )
    rows = []
    if "heatmaps" in found:
        apart = np.abs(found["heatmaps"] - known.heatmaps) / np.abs(known.heatmaps).max()
        rows.append(Difference(str(target), "heatmaps", float(apart.max()), float(apart.mean()), HEATMAP_LIMIT))
    apart = np.linalg.norm(found["keypoints_crop_xy"] - known.keypoints, axis=-1)[known.decided]
    counts = (int(known.decided.sum()), known.decided.size)
    row = Difference(str(target), "keypoints", float(apart.max()), float(apart.mean()), KEYPOINT_LIMIT, counts)
    return [*rows, row]


def _decided(codec, maps: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Returns (B, N, K) bool: whether the keypoint is unchanged if the heatmaps are perturbed by `HEATMAP_LIMIT`."""
    rng = np.random.default_rng(0)
    stays = np.ones(keypoints.shape[:-1], bool)
    size = np.float32(HEATMAP_LIMIT * np.abs(maps).max())
    for _ in range(3):
        shaken = maps + size * rng.choice([-1, 1], maps.shape).astype(np.float32)
        stays &= np.abs(heatmaps.decode(codec, shaken)[0].numpy() - keypoints).max(axis=-1) <= KEYPOINT_LIMIT
    return stays
