"""`kpzoo predict`: poses in images or a video, with given boxes or a person detector."""

import argparse
import json
import math
import sys
from dataclasses import asdict, replace

from kpzoo.commands.parsing import (
    add_model_arguments,
    add_pass_arguments,
    command,
    fraction,
    import_tensorflow,
    load_model,
    positive,
    rate,
)
from kpzoo.errors import UserError

DEFAULT_MODEL = "cpn_nano"
DETECTION = (
    "detector",
    "person_label",
    "layout",
    "box_category",
    "min_box_score",
    "min_box_size",
    "max_boxes",
    "box_nms",
    "box_iou",
    "box_sigma",
    "every",
)


def add(commands) -> None:
    parser = command(
        commands, "predict", _run, "Find poses in images or a video; write drawings, results.json and poses.csv.",
        "kpzoo predict photos --detector whole --out poses",
    )  # fmt: skip
    parser.add_argument(
        "source", help="an image, folder, glob such as 'photos/*.jpg', video, rtsp:// or http:// stream, or webcam"
    )
    add_model_arguments(parser, default=DEFAULT_MODEL)
    parser.add_argument("--out", required=True, help="output folder; an interrupted run resumes")
    parser.add_argument("--overwrite", action="store_true", help="start again whatever the folder contains")
    parser.add_argument("--no-pictures", action="store_true", help="do not draw the poses")
    parser.add_argument(
        "--show-nms", action="store_true", help="also draw the poses before and after OKS-NMS, side by side"
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    add_pass_arguments(parser, batch_size=16)
    parser.add_argument(
        "--pose-nms",
        type=fraction,
        help="OKS above which the pose with the lower score of two is removed (default: 0.9)",
    )
    people = parser.add_argument_group("person boxes")
    text = "whole (image), yolox_tiny, yolox_m or yolox_x (downloaded once), a .json file of boxes, an .onnx file, "
    text += "keras-hub:PRESET, or a detector of the zoo, by model name or by the tag of its weights (default: "
    text += "person_fpn_lite0)"
    people.add_argument("--detector", help=text)
    text = "label of persons, if the file of an .onnx or keras-hub detector does not include it"
    people.add_argument("--person-label", type=int, metavar="N", help=text)
    text = "family of an .onnx detector, such as yolo or rtmdet, if it is not recognized"
    people.add_argument("--layout", help=text)
    text = "person box in pixels, applied to every image; repeatable; disables the detector"
    people.add_argument("--box", type=float, nargs=4, action="append", metavar=("X", "Y", "W", "H"), help=text)
    text = "name or id of the category to read from a .json file of boxes (default: 1, COCO's person)"
    people.add_argument("--box-category", metavar="CATEGORY", help=text)
    people.add_argument("--min-box-score", type=fraction, help="minimum box score")
    people.add_argument("--min-box-size", type=_length, help="minimum width and height of a box, in pixels")
    people.add_argument("--max-boxes", type=positive, help="maximum number of boxes per image (default: 100)")
    people.add_argument(
        "--box-nms", choices=("hard", "linear", "gaussian"), help="non-maximum suppression of detected boxes"
    )
    text = "IoU threshold of --box-nms hard and linear (default: 0.5)"
    people.add_argument("--box-iou", type=fraction, help=text)
    people.add_argument("--box-sigma", type=rate, help="width of --box-nms gaussian (default: 0.5)")
    people.add_argument("--every", type=positive, metavar="N", help="run the detector on every N-th frame of a video")


def _length(text: str) -> float:
    """Parses a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, received {text!r}")
    return value


def _check(args) -> None:
    """Raises an error for options that would have no effect."""
    given = [f"--{name.replace('_', '-')}" for name in DETECTION if getattr(args, name) is not None]
    if args.box and given:
        raise UserError(f"--box disables the detector. Drop {', '.join(given)}, or --box.")
    if args.box_iou is not None and args.box_nms not in ("hard", "linear"):
        raise UserError("--box-iou is for --box-nms hard or linear. Add one of these, or drop it.")
    if args.box_sigma is not None and args.box_nms != "gaussian":
        raise UserError("--box-sigma is for --box-nms gaussian. Add it, or drop --box-sigma.")


def _run(args) -> int:
    _check(args)
    from kpzoo.inference import detectors, pictures
    from kpzoo.inference.boxes import BoxFile

    source = pictures.open_source(args.source)
    import_tensorflow()
    detector = detectors.get(args.detector or detectors.DEFAULT)
    given = {"suppression": args.box_nms, "max_iou": args.box_iou, "sigma": args.box_sigma}
    given |= {"min_score": args.min_box_score, "min_size": args.min_box_size, "max_boxes": args.max_boxes}
    if args.box_category is not None:
        if not isinstance(detector, BoxFile):
            raise UserError("--box-category requires boxes from a file. Pass the file as --detector, or remove it.")
        given["category_id"] = args.box_category
    for name in ("person_label", "layout"):
        if (value := getattr(args, name)) is not None and not hasattr(detector, name):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} is not for --detector {args.detector or detectors.DEFAULT}. Remove {option}.")
        given[name] = value
    detector = replace(detector, **{name: value for name, value in given.items() if value is not None})
    model = load_model(args)
    from kpzoo import inference
    from kpzoo.inference import bulk

    summary = bulk.predict_to_folder(
        model,
        source,
        args.out,
        args.box,
        detector=None if args.box else detector,
        pictures=not args.no_pictures,
        show_nms=args.show_nms,
        overwrite=args.overwrite,
        flip=not args.no_flip,
        nms=inference.POSE_NMS if args.pose_nms is None else args.pose_nms,
        batch_size=args.batch_size,
        every=args.every or 1,
        precision=args.precision,
    )
    if not summary.num_poses and summary.num_pictures and not args.detector and not args.box:
        print(f"kpzoo: {inference.NO_PERSON}", file=sys.stderr)
    if summary.problems:
        print(f"kpzoo: {len(summary.problems)} images could not be read, see above", file=sys.stderr)
    print(json.dumps({"out": args.out, **asdict(summary)}) if args.json else args.out)
    return 2 if summary.problems or summary.num_broken else 0
