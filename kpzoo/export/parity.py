"""Comparison of exports with the Keras model: the largest differences of heatmaps and keypoints on the same crops."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from kpzoo import heatmaps
from kpzoo.errors import UserError
from kpzoo.export.person_boxes import drawn_pictures
from kpzoo.export.runtimes import ask, first_line
from kpzoo.inference.agreement import HEATMAP_LIMIT, KEYPOINT_LIMIT, Reference, reference
from kpzoo.inference.folded_model import COVARIANCE, POSES, decode
from kpzoo.pose_model import PersonModel, PoseModel, ZooModel
from kpzoo.scenes import drawn

CONFIDENCE_LIMIT = 1e-3  # of calibrated scores, and of covariances relative to the mean variance
SCORE_LIMIT, BOX_LIMIT = 1e-4, 0.05  # of a person detector's cells; pixels of the input


@dataclass(frozen=True)
class Difference:
    """The difference of one export in one output.

    Args:
        target: The file or folder.
        what: "heatmaps", relative to the largest value, or "keypoints", in crop pixels; of a model with a
            `preset.confidence` also "scores" of keypoints, "variances", relative to the mean variance of the keypoint,
            and scores of "poses"; of a person detector "scores" and "boxes", in pixels of the input.
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
        unit = {"heatmaps": "of the peak", "scores": "of 1", "variances": "of 1", "poses": "of 1"}.get(self.what, "px")
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
        *targets: SavedModel folders, ONNX, LiteRT and OpenVINO files.

    Returns:
        The differences in heatmaps and keypoints for each target, if it has both outputs, and in calibrated scores and
        covariances; for a person detector those in scores and boxes.
    """
    if isinstance(model, PersonModel):
        image = drawn_pictures([drawn.draw_scene(seed, crowding=0.5)[0] for seed in range(2)], model.preset.image_hw)
        known = {name: value.numpy() for name, value in model({"image": image}, training=False).items()}
        return Parity(tuple(row for target in targets for row in _box_differences(model, target, image, known)))
    known = reference(model)
    return Parity(tuple(row for target in targets for row in _differences(model, target, known)))


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
    apart = known.distances(found["keypoints_crop_xy"])
    counts = (int(known.decided.sum()), known.decided.size)
    row = Difference(str(target), "keypoints", float(apart.max()), float(apart.mean()), KEYPOINT_LIMIT, counts)
    return [*rows, row, *_confidence_differences(model, target, known, found)]


def _confidence_differences(model: PoseModel, target: str | Path, known: Reference, found: dict) -> list[Difference]:
    """Returns the differences in calibrated scores and covariances, of a model and a target that have them."""
    if model.preset.confidence is None or "keypoint_scores" not in found:
        return []
    if COVARIANCE not in found:
        raise UserError(f"{str(target)!r} has no covariances, model {model.name!r} has. Export it again.")
    _, scores, covariances, of_poses = (tensor.numpy() for tensor in decode(model.preset, tf.constant(known.heatmaps)))
    decided = known.decided
    size = np.trace(covariances, axis1=-2, axis2=-1)[..., None, None] / 2
    apart = {
        "scores": np.abs(found["keypoint_scores"] - scores)[decided],
        "variances": (np.abs(found[COVARIANCE] - covariances) / size)[decided],
        "poses": np.abs(found[POSES] - of_poses),
    }
    counts = (int(decided.sum()), decided.size)
    return [
        Difference(
            str(target), what, float(x.max()), float(x.mean()), CONFIDENCE_LIMIT, None if what == "poses" else counts
        )
        for what, x in apart.items()
    ]
