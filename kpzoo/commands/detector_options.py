"""The options of person detectors, which several commands share."""

import argparse
import math
from dataclasses import replace

from kpzoo.commands.parsing import fraction, import_tensorflow, positive, rate
from kpzoo.errors import UserError

# Field of a detector -> name of its option in the parsed arguments.
_FIELDS = {
    "person_label": "person_label",
    "layout": "layout",
    "category_id": "box_category",
    "min_score": "min_box_score",
    "min_size": "min_box_size",
    "max_boxes": "max_boxes",
    "suppression": "box_nms",
    "max_iou": "box_iou",
    "sigma": "box_sigma",
}
# Fields that only some detectors have -> these detectors.
_NEEDED = {
    "person_label": "an .onnx file or keras-hub:PRESET",
    "layout": "an .onnx file",
    "category_id": "a .json file of boxes",
}
OPTIONS = ("detector", *_FIELDS.values())


def add_detector_arguments(group) -> None:
    """Adds the options that `make_detector` reads."""
    text = "whole (image), yolox_tiny, yolox_m or yolox_x (downloaded once), a .json file of boxes, an .onnx file, "
    text += "keras-hub:PRESET, or a detector of the zoo, by model name or by the tag of its weights (default: "
    text += "person_fpn_lite0)"
    group.add_argument("--detector", help=text)
    text = "label of persons, if the file of an .onnx or keras-hub detector does not include it"
    group.add_argument("--person-label", type=int, metavar="N", help=text)
    text = "family of an .onnx detector, such as yolo or rtmdet, if it is not recognized"
    group.add_argument("--layout", help=text)
    text = "name or id of the category to read from a .json file of boxes (default: 1, COCO's person)"
    group.add_argument("--box-category", metavar="CATEGORY", help=text)
    group.add_argument("--min-box-score", type=fraction, help="minimum box score")
    group.add_argument("--min-box-size", type=_length, help="minimum width and height of a box, in pixels")
    group.add_argument("--max-boxes", type=positive, help="maximum number of boxes per image (default: 100)")
    text = "non-maximum suppression of detected boxes"
    group.add_argument("--box-nms", choices=("hard", "linear", "gaussian"), help=text)
    text = "IoU threshold of --box-nms hard and linear (default: 0.5)"
    group.add_argument("--box-iou", type=fraction, help=text)
    group.add_argument("--box-sigma", type=rate, help="width of --box-nms gaussian (default: 0.5)")


def _length(text: str) -> float:
    """Parses a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, received {text!r}")
    return value


def check_detector_arguments(args) -> None:
    """Raises an error for options that would have no effect."""
    if args.box_iou is not None and args.box_nms not in ("hard", "linear"):
        raise UserError("--box-iou is for --box-nms hard or linear. Add one of these, or drop it.")
    if args.box_sigma is not None and args.box_nms != "gaussian":
        raise UserError("--box-sigma is for --box-nms gaussian. Add it, or drop --box-sigma.")


def make_detector(args, weights: str | None = None):
    """Returns the detector of the options.

    Args:
        args: The parsed arguments.
        weights: Weights file of a detector of the zoo.
    """
    from kpzoo.inference import detectors

    name = args.detector or detectors.DEFAULT
    if name.startswith(detectors.ZOO):
        import_tensorflow()
    detector = detectors.get(name, weights=weights)
    given = {field: getattr(args, option) for field, option in _FIELDS.items()}
    given = {field: value for field, value in given.items() if value is not None}
    for field, needed in _NEEDED.items():
        if field in given and not hasattr(detector, field):
            option = f"--{_FIELDS[field].replace('_', '-')}"
            raise UserError(
                f"{option} requires {needed} as --detector. Received: {name}. Pass one, or remove {option}."
            )
    return replace(detector, **given)
