"""`kpzoo predict`: poses of pictures or a video, from boxes or a detector."""

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
    load_model,
    positive,
    rate,
)
from kpzoo.errors import UserError

DEFAULT_MODEL = "cpn_nano"
DETECTION = ("detector", "min_box_score", "min_box_size", "max_boxes", "box_nms", "box_iou", "box_sigma", "every")


def add(commands) -> None:
    parser = command(
        commands, "predict", _run, "Find poses in pictures or a video; write pictures, results.json and poses.csv.",
        "kpzoo predict photos --detector whole --out poses",
    )  # fmt: skip
    parser.add_argument("source", help="a picture, folder, pattern such as 'photos/*.jpg', video, or webcam")
    add_model_arguments(parser, default=DEFAULT_MODEL)
    parser.add_argument("--out", required=True, help="folder for all that is written; a run that was stopped goes on")
    parser.add_argument("--overwrite", action="store_true", help="begin anew whatever the folder holds")
    parser.add_argument("--no-pictures", action="store_true", help="do not draw the poses")
    parser.add_argument("--show-nms", action="store_true", help="draw all poses beside those that OKS-NMS keeps, too")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_pass_arguments(parser, batch_size=16)
    parser.add_argument("--pose-nms", type=fraction, help="OKS above which the worse of two poses is dropped; 0.9")
    people = parser.add_argument_group("whom to look at")
    text = "hog (if not given), whole (picture), a .json file of boxes, an .onnx file, or keras-hub:PRESET"
    people.add_argument("--detector", help=text)
    text = "a person's box in pixels, in every picture; may be repeated; then no detector looks"
    people.add_argument("--box", type=float, nargs=4, action="append", metavar=("X", "Y", "W", "H"), help=text)
    people.add_argument("--min-box-score", type=fraction, help="boxes below it are dropped")
    people.add_argument("--min-box-size", type=_length, help="boxes with a side below it, in pixels, are dropped")
    people.add_argument("--max-boxes", type=positive, help="so many of the best in a picture are looked into; 100")
    people.add_argument("--box-nms", choices=("hard", "linear", "gaussian"), help="suppress boxes over a better one")
    text = "overlap above which hard and linear --box-nms act; 0.5"
    people.add_argument("--box-iou", type=fraction, help=text)
    people.add_argument("--box-sigma", type=rate, help="how gentle gaussian --box-nms is; 0.5")
    people.add_argument("--every", type=positive, help="detect in every N-th frame of a video only")


def _length(text: str) -> float:
    """Returns the finite number of at least 0 of a text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, received {text!r}")
    return value


def _check(args) -> None:
    """Refuses options that would do nothing."""
    given = [f"--{name.replace('_', '-')}" for name in DETECTION if getattr(args, name) is not None]
    if args.box and given:
        raise UserError(f"With --box no detector looks. Drop {', '.join(given)}, or --box.")
    if args.box_iou is not None and args.box_nms not in ("hard", "linear"):
        raise UserError("--box-iou is for --box-nms hard or linear. Add one of these, or drop it.")
    if args.box_sigma is not None and args.box_nms != "gaussian":
        raise UserError("--box-sigma is for --box-nms gaussian. Add it, or drop --box-sigma.")


def _run(args) -> int:
    _check(args)
    from kpzoo.inference import detectors, pictures

    source = pictures.open_source(args.source)
    detector = detectors.get(args.detector or detectors.DEFAULT)
    given = {"suppression": args.box_nms, "max_iou": args.box_iou, "sigma": args.box_sigma}
    given |= {"min_score": args.min_box_score, "min_size": args.min_box_size, "max_boxes": args.max_boxes}
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
    if not summary.num_poses and summary.num_pictures and isinstance(detector, detectors.HOGDetector) and not args.box:
        print(f"kpzoo: {inference.NO_PERSON}", file=sys.stderr)
    if summary.problems:
        print(f"kpzoo: {len(summary.problems)} pictures could not be read, see above", file=sys.stderr)
    print(json.dumps({"out": args.out, **asdict(summary)}) if args.json else args.out)
    return 2 if summary.problems or summary.num_broken else 0
