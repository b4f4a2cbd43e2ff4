"""Evaluation of a model on annotated images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import kpzoo
from kpzoo import heatmaps
from kpzoo.data.coco import clipped_boxes, with_keypoints
from kpzoo.data.files import PoseData, undecodable
from kpzoo.data.pack import Pack
from kpzoo.data.results import Results, read_boxes, write_results
from kpzoo.errors import UserError
from kpzoo.evaluation import metrics
from kpzoo.evaluation.reliability import reliability
from kpzoo.inference.box_poses import POSE_NMS, predict_boxes, suppress
from kpzoo.inference.calibration import spread_crops
from kpzoo.inference.engines import TENSORFLOW
from kpzoo.nms import box_nms as box_nms_of
from kpzoo.pose_model import PoseModel, Preset
from kpzoo.poses import Poses

KEPT_IOUS = (1.0, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1, 0.0)  # from all boxes to only boxes that do not overlap


def evaluate(
    model: PoseModel,
    data: PoseData,
    boxes: str | Path = "gt",
    *,
    box_category: int | str | None = None,
    box_nms: float | None = None,
    kept_ious: Sequence[float] = (),
    flip: bool = True,
    nms: float | str | None = "auto",
    protocol: str = "coco",
    batch_size: int = 32,
    results_path: str | Path | None = None,
    progress: bool = False,
    precision: str = "float32",
    engine: str = TENSORFLOW,
    shared_keypoints: bool = False,
) -> metrics.Metrics:
    """Evaluates a model: AP and AR, and PCK@0.2 if the person boxes are the annotated ones.

    Args:
        model: Any model of the zoo, built for the skeleton of the data; with `shared_keypoints`, for any skeleton.
        data: What `kpzoo.data.load` returns.
        boxes: "gt" for the annotated boxes, or a file of detections in COCO's results format. AP values from the two
            are not comparable.
        box_category: Id or name of the category to read from the file of detections. Defaults to the category of the
            annotations if the file has it, else 1, COCO's person.
        box_nms: IoU threshold of non-maximum suppression of the boxes; None to keep all. Annotated boxes are ranked by
            their number of visible keypoints, so that 0.5 simulates a detector in a crowd.
        kept_ious: IoU thresholds at which AP after box NMS is also reported, such as `KEPT_IOUS`. Inference runs once
            on all boxes. `details["kept"]` has, for each threshold, `max_iou`, the `share` of boxes kept and the `AP`.
        flip: Whether to average the predictions with those for the mirrored crop.
        nms: OKS threshold of non-maximum suppression of the poses; None to keep all; "auto" for that of the reference
            implementation: None for the protocol "crowdpose" and for single-instance CPNs, else 0.9.
        protocol: "coco" or "crowdpose", see `metrics.average_precision`.
        batch_size: Crops per batch, in addition to their mirrored copies if `flip` is True.
        results_path: File to write the poses to, in COCO's results format.
        progress: Whether to print progress on stderr.
        precision: See `kpzoo.accelerate`. Published figures are computed in "float32". "int8" is calibrated with crops
            of the data. In engines other than TensorFlow, AP is also computed in float32, for comparison.
        engine: See `kpzoo.accelerate`.
        shared_keypoints: Whether to evaluate only the keypoints that model and data share, if they have different
            ones, with the sigmas of the data. Persons without such a label are ignored. AP over other keypoints is not
            comparable.

    Returns:
        Metrics of the poses of all instances together, and the poses in `results`. For models with several instances
        there are also `AP_instance_0`, `AP_instance_1`, …, the AP of the poses of each instance index (λ in the MIPNet
        paper) alone. With annotated boxes, `details["confidence"]` says how reliable the scores and covariances of
        the keypoints are, see `kpzoo.evaluation.reliability.reliability`.

    Raises:
        UserError: If the keypoints differ, an image cannot be decoded, or the boxes belong to other images.
    """
    if not isinstance(data, PoseData | Pack):  # a pack raises an error that names what it lacks
        raise UserError(f"`data=` must be a data set. Received: {data!r}.", "Read one with `kpzoo.data.load`.")
    if isinstance(nms, str) and nms != "auto":
        raise UserError(f"`nms=` must be a number, None or 'auto'. Received: {nms!r}.")
    preset = model.preset
    _ = preset.rules  # a person detector has none, and says so
    data, own, shared = _comparable(data, preset, shared_keypoints, results_path)
    annotations = data.annotations
    person_index, image_ids, boxes_xywh, box_scores, ranks = boxes_of(data, boxes, box_nms, box_category)
    paths = data.image_paths(image_ids)
    bad = undecodable(paths)
    if bad:
        path, reason = next(iter(bad.items()))
        raise UserError(f"{path} cannot be decoded: {reason}. {len(bad)} images in total. Evaluation needs all images.")
    asked = paths, boxes_xywh, box_scores
    options = dict(flip=flip, batch_size=batch_size, progress=progress, engine=engine)
    calibration = spread_crops(preset, paths, boxes_xywh) if precision == "int8" else None
    poses = predict_boxes(model, *asked, precision=precision, calibration=calibration, **options)
    pose_image_ids = np.repeat(image_ids, preset.num_instances)
    if nms == "auto":
        nms = _reference_nms(preset, protocol)

    def score(rows, poses=poses):
        rows = rows[_kept(poses[rows], pose_image_ids[rows], preset, nms)]
        kept = poses[rows]
        points, scores = kept.keypoints_xy[:, own], kept.keypoint_scores[:, own]
        results = Results(pose_image_ids[rows], points, scores, kept.scores)
        return results, metrics.average_precision(annotations, results, protocol, boxes=_source(boxes, box_nms))

    results, found = score(np.arange(len(poses)))
    circumstances = {**found.circumstances, **shared, **_circumstances(model, flip, nms, precision)}
    if engine != TENSORFLOW:
        circumstances["engine"] = engine
    if engine != TENSORFLOW and precision != "float32":
        _, full = score(np.arange(len(poses)), predict_boxes(model, *asked, **options))
        circumstances["AP_float32"] = full.values["AP"]
    values, details, circumstances["boxes_used"] = dict(found.values), dict(found.details), len(boxes_xywh)
    if preset.num_instances > 1:
        for instance in range(preset.num_instances):
            _, alone = score(np.flatnonzero(poses.instance == instance))
            values[f"AP_instance_{instance}"] = alone.values["AP"]
    if kept_ious:
        kept = {max_iou: _best(image_ids, boxes_xywh, ranks, max_iou) for max_iou in kept_ious}
        details["kept"] = _kept_curve(kept, len(boxes_xywh), preset.num_instances, score)
    if person_index is not None:
        first = poses[poses.instance == 0]
        covariance = None if first.covariance_xy is None else first.covariance_xy[:, own]
        confident = first.keypoint_scores[:, own], covariance
        first = first.keypoints_xy[:, own]
        details["confidence"] = reliability(annotations, person_index, first, *confident)
        size = "torso" if metrics.has_torso(annotations.skeleton) else "box"
        pck = metrics.pck(annotations, person_index, first, normalize_by=size)
        values |= pck.values
        details |= pck.details
        circumstances["pck_normalized_by"] = pck.circumstances["normalized_by"]
    if results_path is not None:
        write_results(results_path, results, annotations.category_id)
    return metrics.Metrics(values, circumstances, details, results)


def of_shared_keypoints(data: PoseData, preset: Preset) -> PoseData:
    """Returns the data with the keypoints that the model has, too. The data is unchanged if all keypoints are equal."""
    if preset.skeleton.keypoints == data.skeleton.keypoints:
        return data
    _, theirs = preset.skeleton.shared_with(data.skeleton)
    if not len(theirs):
        raise UserError(
            f"{data.annotations.path} and model {preset.name!r} share no keypoint: "
            f"{preset.skeleton.difference(data.skeleton)}."
        )
    return replace(data, annotations=with_keypoints(data.annotations, theirs))


def _comparable(data: PoseData, preset: Preset, shared_keypoints: bool, results_path) -> tuple:
    """Returns the data to evaluate on, the indices of the model's keypoints that are evaluated, and what to report.

    Raises:
        UserError: If the keypoints differ and `shared_keypoints` is False, or none is shared.
    """
    skeleton, given = preset.skeleton, data.annotations.skeleton
    if skeleton.keypoints == given.keypoints:
        return data, np.arange(skeleton.num_keypoints), {}
    own, _ = skeleton.shared_with(given)
    if not shared_keypoints:
        raise UserError(
            f"{data.annotations.path} has other keypoints than model {preset.name!r}: {skeleton.difference(given)}.",
            "`kpzoo train` makes a model for the keypoints of its data.",
            "Or build one with `kpzoo.build(name, skeleton=data.skeleton)` and train it.",
            f"Or evaluate the {len(own)} keypoints that both have with `shared_keypoints=True`." if len(own) else "",
        )
    if results_path is not None:
        raise UserError(
            "The poses of shared keypoints fit the keypoints of no annotation file, so they are not written.",
            "Leave out `results_path=` or `shared_keypoints=True`.",
        )
    data = of_shared_keypoints(data, preset)
    names = ", ".join(data.skeleton.keypoints)
    counts = f"{len(own)} of the data's {given.num_keypoints} and of the model's {skeleton.num_keypoints}"
    return data, own, {"shared_keypoints": f"{counts}: {names}"}


def _reference_nms(preset: Preset, protocol: str) -> float | None:
    """Returns the threshold of pose NMS in the reference implementation of model and protocol, None for no NMS."""
    if protocol == "crowdpose":  # MIPNet's CrowdPose loader keeps all poses, for HRNet and ResNet as well
        return None
    return None if preset.num_instances == 1 and preset.codec.startswith("cpn") else POSE_NMS


def _kept_curve(kept: Mapping[float, np.ndarray], num_boxes: int, num_instances: int, score: Callable) -> list[dict]:
    """Returns the share of boxes kept at each IoU threshold and the AP of their poses. `score` takes rows of poses."""
    box_of_pose = np.repeat(np.arange(num_boxes), num_instances)
    curve = []
    for max_iou, boxes in kept.items():
        _, found = score(np.flatnonzero(np.isin(box_of_pose, boxes)))
        share = len(boxes) / num_boxes if num_boxes else 1.0
        curve.append({"max_iou": max_iou, "share": share, "AP": found.values["AP"]})
    return curve


def _source(boxes: str | Path, box_nms: float | None) -> str:
    text = "gt (annotated)" if boxes == "gt" else f"detections of {Path(boxes).name}"
    return text if box_nms is None else f"{text}, after NMS at an IoU of {box_nms}"


def boxes_of(data: PoseData, boxes: str | Path, box_nms: float | None = None, box_category: int | str | None = None):
    """Returns (person_index or None, image_ids, boxes_image_xywh, box_scores, ranks) of the person boxes.

    Box NMS prefers boxes of a higher rank.
    """
    if boxes != "gt":
        found = read_boxes(boxes, data.annotations, box_category)
        keep = _best(found.image_ids, found.boxes_image_xywh, found.scores, box_nms)
        scores = found.scores[keep]
        return None, found.image_ids[keep], found.boxes_image_xywh[keep], scores, scores
    persons = data.annotations.persons
    sizes_hw = data.annotations.image_sizes_hw[persons.image_index]
    clipped, usable = clipped_boxes(persons.boxes_image_xywh, sizes_hw)
    labelled = (persons.visibility > 0).any(axis=1)
    index = np.flatnonzero(~persons.is_crowd & persons.has_box & usable & labelled)
    shown = (persons.visibility[index] == 2).sum(axis=1) + persons.area[index] / (1.0 + persons.area.max(initial=0.0))
    keep = _best(persons.image_ids[index], clipped[index], shown, box_nms)
    index, shown = index[keep], shown[keep]
    return index, persons.image_ids[index], clipped[index], np.ones(len(index)), shown


def _best(image_ids: np.ndarray, boxes_xywh: np.ndarray, scores: np.ndarray, max_iou: float | None) -> np.ndarray:
    """Returns the indices of the boxes that NMS keeps in each image, all of them if `max_iou` is None."""
    if max_iou is None:
        return np.arange(len(image_ids))
    return _per_image(image_ids, lambda rows: box_nms_of(boxes_xywh[rows], scores[rows], max_iou))


def _per_image(image_ids: np.ndarray, choose: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns the selected indices in ascending order. `choose` selects among the rows of one image."""
    order = np.argsort(image_ids, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(image_ids[order])) + 1) if len(order) else []
    return np.sort(np.concatenate([np.arange(0), *(rows[choose(rows)] for rows in groups)]))


def _kept(poses: Poses, image_ids: np.ndarray, preset, nms: float | None) -> np.ndarray:
    """Returns the indices of the poses that pose NMS keeps, in ascending order."""
    if nms is None:
        return np.arange(len(poses))
    return _per_image(image_ids, lambda rows: suppress(poses[rows], preset, nms))


def _circumstances(model: PoseModel, flip: bool, nms: float | None, precision: str) -> Mapping:
    preset, policy = model.preset, model.dtype_policy.name
    codec = preset.rules
    return {
        "model": preset.name,
        "image_hw": f"{preset.image_hw[0]}x{preset.image_hw[1]}",
        "precision": precision if policy == "float32" else policy,  # a model built with a mixed policy computes in that
        "flip_test": flip and preset.skeleton.sides_known,
        "decoder": codec.decoder,
        "crop_rule": codec.crop_rule,
        "oks_nms": "none" if nms is None else nms,
        "rescoring": heatmaps.RESCORING[codec.decoder],
        "versions": f"kpzoo {kpzoo.__version__}, keras {keras.__version__}, tensorflow {tf.__version__}",
    }
