"""Losses over dicts of targets and outputs; each returns one value per crop, which the train step averages."""

import keras
import tensorflow as tf

from kpzoo.errors import UserError, unknown
from kpzoo.pose_model import Preset

# tf-cpn averages its four levels and halves, pytorch-cpn sums them and halves.
GLOBAL_SCALE = {"official": 1 / 8, "pytorch": 1 / 2}


def keypoint_errors(targets: tf.Tensor, heatmaps: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns the (..., K) mean squared differences of (..., h, w, K) heatmaps, times the (..., K) weights."""
    heatmaps = tf.cast(heatmaps, tf.float32)
    return tf.reduce_mean(tf.math.squared_difference(heatmaps, targets), axis=[-3, -2]) * weights


def hardest(errors: tf.Tensor, top_k: int) -> tf.Tensor:
    """Returns the (...,) sums of the `top_k` largest of (..., K) keypoint errors, divided by `top_k`.

    Online hard keypoint mining (arXiv:1711.07319, section 3.2.2). The divisor stays `top_k` where fewer keypoints are
    labelled, as in both reference implementations.
    """
    num_keypoints = errors.shape[-1]
    if num_keypoints is not None and top_k > num_keypoints:
        raise UserError(f"`top_k=` must be at most the {num_keypoints} keypoints. Received: {top_k}.")
    return tf.reduce_sum(tf.math.top_k(errors, top_k, sorted=False).values, axis=-1) / top_k


def _checked_top_k(top_k: int) -> int:
    if not isinstance(top_k, int) or top_k < 1:
        raise UserError(f"`top_k=` must be a whole number of at least 1. Received: {top_k!r}.")
    return top_k


class PerCropLoss(keras.losses.Loss):
    """Base of the losses: Keras leaves the values as they are, one per crop, and each is a sum of named terms.

    A loss defines `terms(targets, outputs)`, a dict of (B,) tensors, and `term_names(num_instances, num_levels)`, the
    keys of it for a model with that many instances and levels. The train step tells the terms beside their sum.
    """

    def __init__(self, name=None):
        super().__init__(name=name, reduction="none")

    def call(self, targets, outputs):
        return tf.add_n(list(self.terms(targets, outputs).values()))

    def get_config(self):
        return {"name": self.name}


@keras.saving.register_keras_serializable("kpzoo")
class CPNLoss(PerCropLoss):
    """CPN's loss: L2 on every level of GlobalNet plus OHKM on RefineNet (arXiv:1711.07319, tables 6 and 7).

    Args:
        top_k: How many keypoints of a person OHKM keeps, M in the paper; 1 … K.
        global_loss: "l2", "ohkm" or None, for the levels.
        refine_loss: "ohkm" or "l2", for the final heatmaps.
        flavour: Which reference weighs the levels, "official" (an eighth of their sum) or "pytorch" (a half).
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
    """Half the mean squared difference, over keypoints, of the final heatmaps and of every level (HRNet's loss).

    Args:
        top_k: With a number, OHKM over that many keypoints replaces the mean; None for all.
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
    """The sum of a loss over the instances of a crop (arXiv:2101.11223).

    Args:
        loss: The loss of one instance, such as `HeatmapLoss()` or, for OHKM, `CPNLoss()`.
        missing: "repeat" to learn the first person's pose for instances that are not there, as the paper does, or
            "ignore" to learn nothing for them; the paper reports that this trains worse.
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
    """Returns the loss of the paper that the model's school comes from.

    Args:
        preset: Of the model.
        missing: See `MultiInstanceLoss`, for models with several instances.
    """
    loss = HeatmapLoss()
    if preset.codec.startswith("cpn"):
        loss = CPNLoss(top_k=min(8, preset.skeleton.num_keypoints), flavour=preset.codec.removeprefix("cpn_"))
    return MultiInstanceLoss(loss, missing) if preset.num_instances > 1 else loss
