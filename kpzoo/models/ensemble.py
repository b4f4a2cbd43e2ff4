"""Ensembles: one model that averages the heatmaps of several, CPN+ in the CPN paper (arXiv:1711.07319, section 4.4)."""

from collections.abc import Sequence
from dataclasses import replace

import keras
import tensorflow as tf

from kpzoo.errors import UserError
from kpzoo.models.blocks import HEAD_DTYPE, RESIZE_CONVENTIONS, ResizeBilinear
from kpzoo.pose_model import PoseModel

_CROP_PIXELS = "legacy"  # pixel x of a crop is a share x / W of its width, see `geometry.crop_to_image`


@keras.saving.register_keras_serializable("kpzoo")
class MeanOfHeatmaps(keras.layers.Layer):
    """Averages heatmaps (B, …, h, w, K) of several sizes, resized to (B, …, H, W, K), in float32.

    Args:
        size_hw: (H, W), size of the output.
        convention: How they are resized, a key of `blocks.RESIZE_CONVENTIONS`.
    """

    def __init__(self, size_hw: tuple[int, int], convention: str, **kwargs):
        super().__init__(**{**kwargs, "dtype": HEAD_DTYPE})
        self.size_hw = tuple(size_hw)
        self.convention = convention

    def call(self, heatmaps):
        return tf.add_n([self._resized(tf.cast(one, tf.float32)) for one in heatmaps]) / len(heatmaps)

    def _resized(self, heatmaps):
        if tuple(heatmaps.shape[-3:-1]) == self.size_hw:
            return heatmaps
        flat = tf.reshape(heatmaps, [-1, *heatmaps.shape[-3:]])
        flat = tf.raw_ops.ResizeBilinear(images=flat, size=self.size_hw, **RESIZE_CONVENTIONS[self.convention])
        return tf.reshape(flat, tf.concat([tf.shape(heatmaps)[:-3], tf.shape(flat)[1:]], axis=0))

    def compute_output_shape(self, shapes):
        return (*shapes[0][:-3], *self.size_hw, shapes[0][-1])

    def get_config(self):
        return {**super().get_config(), "size_hw": self.size_hw, "convention": self.convention}


def ensemble(models: Sequence[PoseModel]) -> PoseModel:
    """Returns a model whose heatmaps are the mean of those of several models.

    It is used like any other model: by `kpzoo.predict`, `kpzoo.evaluate`, `kpzoo.accelerate` and the exports. Its crops
    are the largest of those of the models. Models of smaller crops are given the same crop, made smaller, and their
    heatmaps are enlarged.

    Args:
        models: Two or more models with the same skeleton, codec, number of instances and aspect of the crops. The
            same model can be given only once.

    Returns:
        A `PoseModel` with the output `heatmaps` only. It shares the weights of the models.

    Raises:
        UserError: Too few models, or models that differ in what is named above.

    >>> import kpzoo
    >>> models = [kpzoo.build("cpn_tiny", image_hw=image_hw) for image_hw in ((64, 64), (96, 96))]
    >>> kpzoo.ensemble(models).output["heatmaps"].shape
    (None, 24, 24, 17)
    """
    models = list(models)
    _check(models)
    largest = max(models, key=lambda model: model.preset.image_hw).preset
    inputs = {name: keras.Input(part.shape[1:], name=name) for name, part in models[0].input.items()}
    inputs["image"] = image = keras.Input((*largest.image_hw, 3), name="image", dtype="float32")
    maps = []
    for place, model in enumerate(models):
        part = image
        if model.preset.image_hw != largest.image_hw:
            part = ResizeBilinear(model.preset.image_hw, _CROP_PIXELS, dtype=HEAD_DTYPE, name=f"smaller_{place}")(image)
        member = keras.Model(model.input, model.output["heatmaps"], name=f"model_{place}")  # names must differ
        maps.append(member({**inputs, "image": part}))
    # The centres of cells agree with those of pixels if they are half a cell from the border.
    convention = "half_pixel" if largest.rules.cell_centre else _CROP_PIXELS
    mean = MeanOfHeatmaps(largest.heatmap_hw, convention, name="heatmaps")(maps)
    joined = PoseModel(inputs, {"heatmaps": mean}, name="ensemble")
    names = "+".join(model.preset.name for model in models)
    # The confidence that was fitted to one model does not fit the mean.
    joined.preset = replace(largest, name=names, normalization=None, options={}, confidence=None)
    return joined


def _check(models: list[PoseModel]) -> None:
    for model in models:
        if not isinstance(model, PoseModel):
            raise UserError(f"An ensemble needs pose models of the zoo. Received: {type(model).__name__}.")
    if len(models) < 2 or len({id(model) for model in models}) < len(models):
        raise UserError(f"An ensemble needs two or more different models. Received: {len(models)} models.")
    first = models[0].preset
    for preset in (model.preset for model in models[1:]):
        (height, width), (other_height, other_width) = first.image_hw, preset.image_hw
        compared = {
            "skeleton": (first.skeleton == preset.skeleton, first.skeleton.name, preset.skeleton.name),
            "codec": (first.codec == preset.codec, first.codec, preset.codec),
            "number of instances": (
                first.num_instances == preset.num_instances, first.num_instances, preset.num_instances
            ),
            "aspect of the crops": (
                height * other_width == width * other_height, f"{height}x{width}", f"{other_height}x{other_width}"
            ),
        }  # fmt: skip
        for what, (is_same, own, other) in compared.items():
            if not is_same:
                raise UserError(
                    f"The models of an ensemble need the same {what}. "
                    f"Received: {own} of {first.name!r}, {other} of {preset.name!r}."
                )
