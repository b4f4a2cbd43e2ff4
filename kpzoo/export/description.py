"""Shared code of the exports: checks, and the description of the model that is stored with an export."""

from importlib import metadata
from pathlib import Path

import kpzoo
from kpzoo import heatmaps
from kpzoo.boxes import PAD, STRIDES
from kpzoo.errors import UserError
from kpzoo.models.blocks import NORMALIZATIONS
from kpzoo.pose_model import PersonModel, Preset, ZooModel


def checked_model(model) -> ZooModel:
    """Returns the model, or raises if it is not a model of the zoo."""
    if not isinstance(model, ZooModel):
        received = type(model).__name__
        raise UserError(f"Only models of the zoo can be exported. Received: {received}.", "Use `kpzoo.build`.")
    return model


def check_file_export(model: ZooModel, path: Path, kind: str, suffix: str) -> None:
    """Raises if the model cannot be exported to a file of this kind at this path."""
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder. {kind} exports are files, such as 'model{suffix}'.")
    reduced = {layer.compute_dtype for layer in checked_model(model).layers} - {"float32"}
    if reduced:
        raise UserError(
            f"Model {model.name!r} computes in {', '.join(sorted(reduced))}; {kind} exports require float32.",
            "Call `keras.mixed_precision.set_global_policy('float32')`, build the model again and load its weights.",
        )


def description(model: ZooModel) -> dict:
    """Returns the description of a model for clients, as JSON values.

    `crop_rule` defines the crop of a box: width and height are multiplied by `grow_xy`, the shorter side is extended
    about the centre to the aspect ratio of the crop, and both are multiplied by `padding`. Pixels are RGB in [0, 255];
    `normalization` is part of the model. `decoder` defines how keypoints are decoded from heatmaps.
    """
    preset = model.preset
    normalization = preset.normalization and NORMALIZATIONS[preset.normalization]._asdict()
    return {
        "model": preset.name,
        "options": dict(preset.options),
        "image_hw": list(preset.image_hw),
        "num_instances": preset.num_instances,
        "normalization": {"name": preset.normalization, "inside_the_model": True, **(normalization or {})},
        **(_of_boxes() if isinstance(model, PersonModel) else _of_poses(preset)),
        "versions": {"kpzoo": kpzoo.__version__, **{name: _version(name) for name in ("tensorflow", "keras")}},
    }


def _of_boxes() -> dict:
    """Returns how a picture becomes the input of a person detector, and what its cells are."""
    return {"picture": {"scaled_to_fit": True, "place": "upper left", "fill": PAD}, "strides": list(STRIDES)}


def _of_poses(preset: Preset) -> dict:
    codec = preset.rules
    rule = codec.crop
    return {
        "keypoints": list(preset.skeleton.keypoints),
        "skeleton": {"name": preset.skeleton.name, "links": preset.skeleton.link_indices.tolist()},
        # None where it is not known which keypoints are the left and right of each other.
        "flip_pairs": [list(pair) for pair in preset.skeleton.flip_pairs] if preset.skeleton.sides_known else None,
        "crop_rule": {
            "name": codec.crop_rule,
            "grow_xy": list(rule.grow_xy),
            "padding": rule.padding,
            "fill_rgb": list(rule.fill_rgb),
        },
        "decoder": {
            "name": codec.decoder,
            "stride": heatmaps.HEATMAP_STRIDE,
            "cell_centre": codec.cell_centre,
            "peak": codec.peak,
            "flip_shift": codec.flip_shift,
        },
        # How the scores are calibrated and the covariances scaled, see `kpzoo.heatmaps.Confidence`.
        **({"confidence": preset.confidence.to_config()} if preset.confidence else {}),
    }


def _version(package: str) -> str:
    """Returns the version of a package. Some builds of TensorFlow are distributed under other names."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(__import__(package), "__version__", "unknown"))
