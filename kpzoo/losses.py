"""Losses of pose models. They take dicts of targets and outputs and return one value per crop."""

import keras
import tensorflow as tf

from kpzoo.errors import UserError, unknown
from kpzoo.pose_model import Preset

# Factor of the loss summed over four levels: tf-cpn halves their mean, pytorch-cpn halves their sum.
GLOBAL_SCALE = {"official": 1 / 8, "pytorch": 1 / 2}


def keypoint_errors(targets: tf.Tensor, heatmaps: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns weighted mean squared errors per keypoint, (..., K).

    Args:
        targets: (..., h, w, K) target heatmaps.
        heatmaps: (..., h, w, K) predicted heatmaps.
        weights: (..., K) keypoint weights.
    """
    heatmaps = tf.cast(heatmaps, tf.float32)
    return tf.reduce_mean(tf.math.squared_difference(heatmaps, targets), axis=[-3, -2]) * weights


def hardest(errors: tf.Tensor, top_k: int) -> tf.Tensor:
    """Averages the `top_k` largest errors: online hard keypoint mining (arXiv:1711.07319, section 3.2.2).

    The divisor is `top_k` even if fewer keypoints are labelled, as in both reference implementations.

    Args:
        errors: (..., K) keypoint errors.
        top_k: Number of keypoints to keep, at most K.

    Returns:
        (...,) losses.
    """
    num_keypoints = errors.shape[-1]
    if num_keypoints is not None and top_k > num_keypoints:
        raise UserError(f"`top_k=` must be at most {num_keypoints}, the number of keypoints. Received: {top_k}.")
    return tf.reduce_sum(tf.math.top_k(errors, top_k, sorted=False).values, axis=-1) / top_k


def _checked_top_k(top_k: int) -> int:
    if not isinstance(top_k, int) or top_k < 1:
        raise UserError(f"`top_k=` must be an integer of at least 1. Received: {top_k!r}.")
    return top_k


class PerCropLoss(keras.losses.Loss):
    """Base class of losses that return one value per crop, the sum of named terms.

    Subclasses define `terms(targets, outputs)`, a dict of (B,) tensors, and `term_names(num_instances, num_levels)`,
    its keys for a model with that many instances and levels. `fit` reports each term as `loss_<name>`.
    """

    def __init__(self, name=None):
        super().__init__(name=name, reduction="none")

    def call(self, targets, outputs):
        return tf.add_n(list(self.terms(targets, outputs).values()))

    def get_config(self):
        return {"name": self.name}


@keras.saving.register_keras_serializable("kpzoo")
class CPNLoss(PerCropLoss):
    """CPN's loss: L2 on the levels of GlobalNet plus OHKM on RefineNet (arXiv:1711.07319, tables 6 and 7).

    Args:
        top_k: Number of keypoints per person that OHKM keeps, M in the paper; 1 … K.
        global_loss: Loss of the levels: "l2", "ohkm", or None to train on the final heatmaps only.
        refine_loss: Loss of the final heatmaps: "ohkm" or "l2".
        flavour: Weight of the levels: an eighth of their sum ("official", tf-cpn) or half ("pytorch", pytorch-cpn).
    """

    def __init__(self, top_k=8, global_loss="l2", refine_loss="ohkm", flavour="official", name="cpn_loss"):
        super().__init__(name=name)
        for value, known in ((global_loss, ("l2", "ohkm", None)), (refine_loss, ("l2", "ohkm"))):
            if value not in known:
                raise unknown("part of CPNLoss", value, map(str, known))
        if flavour not in GLOBAL_SCALE:
            raise unknown("flavour of CPNLoss", flavour, GLOBAL_SCALE)
        self.top_k = _checked_top_k(top_k)
        self.global_loss = global_loss
        self.refine_loss = refine_loss
        self.flavour = flavour

    def terms(self, targets, outputs):
        errors = keypoint_errors(targets["heatmaps"], outputs["heatmaps"], targets["weights"])
        terms = {"refine": self.reduce(errors, self.refine_loss)}
        if self.global_loss:
            errors = keypoint_errors(targets["global_heatmaps"], outputs["global_heatmaps"], targets["global_weights"])
            levels = self.reduce(errors, self.global_loss)  # (..., L)
            terms["global"] = GLOBAL_SCALE[self.flavour] * tf.reduce_sum(levels, axis=-1)
        return terms

    def term_names(self, num_instances, num_levels):
        return ["refine", "global"] if self.global_loss else ["refine"]

    def reduce(self, errors, kind):
        if kind == "l2":
            return tf.reduce_mean(errors, axis=-1)
        return hardest(errors, self.top_k)

    def get_config(self):
        keys = ("top_k", "global_loss", "refine_loss", "flavour")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


@keras.saving.register_keras_serializable("kpzoo")
class HeatmapLoss(PerCropLoss):
    """HRNet's loss: half the mean squared error over keypoints, of the final heatmaps and of each level.

    Args:
        top_k: Number of keypoints for OHKM. None averages over all keypoints.
    """

    def __init__(self, top_k=None, name="heatmap_loss"):
        super().__init__(name=name)
        self.top_k = None if top_k is None else _checked_top_k(top_k)

    def terms(self, targets, outputs):
        terms = {"final": self.reduce(keypoint_errors(targets["heatmaps"], outputs["heatmaps"], targets["weights"]))}
        if "global_heatmaps" in outputs:
            errors = keypoint_errors(targets["global_heatmaps"], outputs["global_heatmaps"], targets["global_weights"])
            terms["levels"] = tf.reduce_sum(self.reduce(errors), axis=-1)
        return terms

    def term_names(self, num_instances, num_levels):
        return ["final", "levels"] if num_levels else ["final"]

    def reduce(self, errors):
        return 0.5 * (tf.reduce_mean(errors, axis=-1) if self.top_k is None else hardest(errors, self.top_k))

    def get_config(self):
        return {**super().get_config(), "top_k": self.top_k}


@keras.saving.register_keras_serializable("kpzoo")
class MultiInstanceLoss(PerCropLoss):
    """MIPNet's loss: the sum of a loss over the instances of a crop (arXiv:2101.11223).

    Args:
        loss: Loss of one instance, such as `HeatmapLoss()`, or `CPNLoss()` for OHKM.
        missing: Target of instances without a person: "repeat" uses the pose of the first person, as in the paper;
            "ignore" excludes them from the loss, which the paper reports to be worse.
    """

    def __init__(self, loss, missing="repeat", name="multi_instance_loss"):
        super().__init__(name=name)
        if missing not in ("repeat", "ignore"):
            raise unknown("treatment of missing instances", missing, ("repeat", "ignore"))
        self.loss = loss
        self.missing = missing

    def terms(self, targets, outputs):
        losses = self.loss.call(targets, outputs)  # (B, N)
        if self.missing == "ignore":
            losses *= targets["present"]
        return {f"instance_{index}": values for index, values in enumerate(tf.unstack(losses, axis=-1))}

    def term_names(self, num_instances, num_levels):
        return [f"instance_{index}" for index in range(num_instances)]

    def get_config(self):
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss), "missing": self.missing}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def default_loss(preset: Preset, missing: str = "repeat") -> PerCropLoss:
    """Returns the loss of the model's reference implementation.

    Args:
        preset: Configuration of the model, `model.preset`.
        missing: `missing` of `MultiInstanceLoss`; used for MIPNets only.
    """
    loss = HeatmapLoss()
    if preset.codec.startswith("cpn"):
        flavour = "official" if preset.codec == "cpn_official" else "pytorch"
        loss = CPNLoss(top_k=min(8, preset.skeleton.num_keypoints), flavour=flavour)
    return MultiInstanceLoss(loss, missing) if preset.num_instances > 1 else loss
