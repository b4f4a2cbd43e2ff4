"""What every export shares: nothing half-written on disk, and a description of the model that travels with it."""

from importlib import metadata
from pathlib import Path

import kpzoo
from kpzoo import heatmaps
from kpzoo.errors import UserError
from kpzoo.models.blocks import NORMALIZATIONS
from kpzoo.pose_model import PoseModel


def checked_model(model) -> PoseModel:
    """Returns the model if it is one of the zoo."""
    if not isinstance(model, PoseModel):
        raise UserError(f"Only models of `kpzoo.build` are exported. Received: {type(model).__name__}.")
    return model


def check_file_export(model: PoseModel, path: Path, kind: str, suffix: str) -> None:
    """Refuses what no export into a single file of that kind can be made of."""
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder. An export to {kind} is a file, such as 'model{suffix}'.")
    reduced = {layer.compute_dtype for layer in checked_model(model).layers} - {"float32"}
    if reduced:
        raise UserError(
            f"Model {model.name!r} computes in {', '.join(sorted(reduced))}; an export to {kind} needs float32. Set "
            "`keras.mixed_precision.set_global_policy('float32')`, build it again and load its weights."
        )


def description(model: PoseModel) -> dict:
    """Returns what a client needs to know of the model, as plain JSON values.

    A box becomes a crop by `crop_rule`: width and height times `grow_xy`, the shorter side stretched to the crop's
    aspect about the box's centre, both times `padding`. Pixels go in as RGB, 0 … 255: `normalization` tells what the
    model itself does first. `decoder` says how heatmaps were read, for those who read them anew.
    """
    preset = model.preset
    codec = preset.rules
    rule = codec.crop
    normalization = preset.normalization and NORMALIZATIONS[preset.normalization]._asdict()
    return {
        "model": preset.name,
        "options": dict(preset.options),
        "image_hw": list(preset.image_hw),
        "num_instances": preset.num_instances,
        "keypoints": list(preset.skeleton.keypoints),
        "skeleton": {"name": preset.skeleton.name, "links": preset.skeleton.link_indices.tolist()},
        "flip_pairs": [list(pair) for pair in preset.skeleton.flip_pairs],
        "normalization": {"name": preset.normalization, "inside_the_model": True, **(normalization or {})},
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
        "versions": {"kpzoo": kpzoo.__version__, **{name: _version(name) for name in ("tensorflow", "keras")}},
    }


def _version(package: str) -> str:
    """Returns the version of a package as it is imported: builds of TensorFlow have names of their own."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(__import__(package), "__version__", "unknown"))
