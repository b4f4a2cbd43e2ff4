"""`kpzoo predict`: poses in images or a video, with given boxes or a person detector."""

import json
import sys
from dataclasses import asdict

from kpzoo.commands.detector_options import OPTIONS, add_detector_arguments, check_detector_arguments, make_detector
from kpzoo.commands.parsing import (
    add_model_arguments,
    add_pass_arguments,
    command,
    fraction,
    import_tensorflow,
    load_model,
    positive,
)
from kpzoo.errors import UserError

DEFAULT_MODEL = "cpn_nano"


def add(commands) -> None:
    parser = command(
        commands, "predict", _run, "Find poses in images or a video; write drawings, results.json and poses.csv.",
        "kpzoo predict photos --out poses",
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
    add_detector_arguments(people)
    text = "person box in pixels, applied to every image; repeatable; disables the detector"
    people.add_argument("--box", type=float, nargs=4, action="append", metavar=("X", "Y", "W", "H"), help=text)
    people.add_argument("--every", type=positive, metavar="N", help="run the detector on every N-th frame of a video")


def _check(args) -> None:
    """Raises an error for options that would have no effect."""
    given = [f"--{name.replace('_', '-')}" for name in (*OPTIONS, "every") if getattr(args, name) is not None]
    if args.box and given:
        raise UserError(f"--box disables the detector. Drop {', '.join(given)}, or --box.")
    check_detector_arguments(args)


def _run(args) -> int:
    _check(args)
    from kpzoo.inference import pictures

    source = pictures.open_source(args.source)
    import_tensorflow()
    detector = None if args.box else make_detector(args)
    model = load_model(args)
    from kpzoo import inference
    from kpzoo.inference import bulk

    summary = bulk.predict_to_folder(
        model,
        source,
        args.out,
        args.box,
        detector=detector,
        pictures=not args.no_pictures,
        show_nms=args.show_nms,
        overwrite=args.overwrite,
        flip=not args.no_flip,
        nms=inference.POSE_NMS if args.pose_nms is None else args.pose_nms,
        batch_size=args.batch_size,
        every=args.every or 1,
        precision=args.precision,
        engine=args.engine,
    )
    if not summary.num_poses and summary.num_pictures and not args.detector and not args.box:
        print(f"kpzoo: {inference.NO_PERSON}", file=sys.stderr)
    if summary.problems:
        print(f"kpzoo: {len(summary.problems)} images could not be read, see above", file=sys.stderr)
    print(json.dumps({"out": args.out, **asdict(summary)}) if args.json else args.out)
    return 2 if summary.problems or summary.num_broken else 0
