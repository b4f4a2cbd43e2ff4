"""Confidence of keypoints against annotations: fitting its numbers to a model, and how reliable it is on data."""

from dataclasses import replace

import numpy as np

from kpzoo import geometry
from kpzoo.data.coco import Annotations
from kpzoo.data.files import PoseData
from kpzoo.errors import UserError
from kpzoo.evaluation.evaluator import boxes_of
from kpzoo.evaluation.reliability import RADIUS2, hits, squared_radii
from kpzoo.heatmaps import UNFITTED, Confidence
from kpzoo.heatmaps.decoding import LEAST_PEAK
from kpzoo.inference.box_poses import predict_boxes
from kpzoo.pose_model import PoseModel, Preset
from kpzoo.poses import Poses

MIN_KEYPOINTS = 200  # labelled keypoints, of both outcomes at least a tenth of it
_RIDGE = 1e-6  # of the number of keypoints, on the diagonal of the Hessian


def fit_confidence(
    model: PoseModel, data: PoseData, *, flip: bool = True, batch_size: int = 32, progress: bool = False
) -> Confidence:
    """Fits the confidence of a model to annotated people, and sets it in `model.preset`.

    Then the scores of its keypoints are calibrated and the keypoints have covariances, in all ways of inference and in
    exports that are written afterwards. `kpzoo.save_weights` stores the numbers, and `kpzoo.build(weights=FILE)` reads
    them. The images must be like those of later predictions, and must not be training data, of which every model is too
    sure. About a hundred people are enough.

    Args:
        model: A trained model of the zoo. Of several instances the first is fitted.
        data: What `kpzoo.data.load` returns, with the keypoints of the model. The annotated boxes are used.
        flip: Whether later predictions use the flip test.
        batch_size: Crops per batch.
        progress: Whether to print progress on stderr.

    Returns:
        The numbers.

    Raises:
        UserError: If the keypoints differ, an image cannot be decoded, or there are too few labelled keypoints.

    >>> confidence = fit_confidence(model, kpzoo.data.load(annotations="val.json", images="val"))
    >>> kpzoo.save_weights(model, "model.weights.h5")
    """
    preset = model.preset
    _ = preset.rules  # a person detector has none, and says so
    if preset.skeleton.keypoints != data.skeleton.keypoints:
        difference = preset.skeleton.difference(data.skeleton)
        raise UserError(f"{data.annotations.path} has other keypoints than model {preset.name!r}: {difference}.")
    person_index, image_ids, boxes_xywh, box_scores, _ = boxes_of(data, "gt")
    before, confidence = preset.confidence, None
    model.preset = replace(preset, confidence=UNFITTED)
    try:
        options = dict(flip=flip, batch_size=batch_size, progress=progress)
        poses = predict_boxes(model, data.image_paths(image_ids), boxes_xywh, box_scores, **options)
        confidence = fitted(data.annotations, person_index, poses[poses.instance == 0], preset)
    finally:
        model.preset = replace(preset, confidence=before if confidence is None else confidence)
    return confidence


def fitted(annotations: Annotations, person_index: np.ndarray, poses: Poses, preset: Preset) -> Confidence:
    """Returns the numbers that fit predictions with `UNFITTED` confidence.

    Args:
        annotations: The annotated persons.
        person_index: (P,) indices of the persons whose boxes the poses were predicted in.
        poses: The P poses, whose scores are peaks and whose covariances are spreads.
        preset: That of the model.
    """
    labelled, hit = hits(annotations, person_index, poses.keypoints_xy)
    few = min(hit[labelled].sum(), (~hit[labelled]).sum())
    if labelled.sum() < MIN_KEYPOINTS or few < MIN_KEYPOINTS // 10:
        raise UserError(
            f"Confidence is fitted to at least {MIN_KEYPOINTS} labelled keypoints, at least {MIN_KEYPOINTS // 10} of "
            f"them found and {MIN_KEYPOINTS // 10} missed. {annotations.path} has {labelled.sum()} and the model finds "
            f"{hit[labelled].sum()}.",
            "Use annotations of more people.",
        )
    radii = squared_radii(annotations, person_index, poses.keypoints_xy, poses.covariance_xy)[labelled]
    scale = np.quantile(radii, 0.9) / RADIUS2[0.9]
    # The same quotient as in crop pixels: the crop is a scaled copy of its view.
    area = geometry.views(poses.boxes_xywh, preset.rules.crop, preset.image_hw)[:, 2:].prod(axis=1)
    variance = np.trace(poses.covariance_xy, axis1=-2, axis2=-1) / 2
    allowed = np.log(np.square(preset.skeleton.sigmas) * area[:, None] / variance)
    peaks = np.log(np.maximum(poses.keypoint_scores, LEAST_PEAK))
    weights = logistic_regression(np.stack([peaks, allowed], axis=-1)[labelled], hit[labelled])
    return Confidence(_rounded(scale), tuple(map(_rounded, weights)))


def logistic_regression(features: np.ndarray, outcomes: np.ndarray, steps: int = 50) -> np.ndarray:
    """Returns the (F + 1,) weights of a logistic regression, the constant first, by Newton's method.

    Args:
        features: (n, F).
        outcomes: (n,) bool.
        steps: Largest number of steps.
    """
    middle, size = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    design = np.concatenate([np.ones((len(features), 1)), (features - middle) / size], axis=1)
    weights = np.zeros(design.shape[1])
    for _ in range(steps):
        shares = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        hessian = design.T * (shares * (1 - shares)) @ design + _RIDGE * len(design) * np.eye(len(weights))
        step = np.linalg.solve(hessian, design.T @ (outcomes - shares) - _RIDGE * len(design) * weights)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    slopes = weights[1:] / size
    return np.concatenate([[weights[0] - slopes @ middle], slopes])


def _rounded(value: float) -> float:
    """Returns four significant digits, more than the data determine."""
    return float(f"{value:.4g}")
