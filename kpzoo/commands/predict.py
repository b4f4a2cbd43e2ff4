"""`kpzoo predict`: poses of pictures or a video, from boxes or a detector."""

import json
import sys
from dataclasses import asdict, replace

from kpzoo.commands.parsing import add_model_arguments, add_pass_arguments, command, load_model, positive


def add(commands) -> None:
    parser = command(
        commands, "predict", _run, "Find poses in pictures or a video; write pictures, results.json and poses.csv.",
        "kpzoo predict photos --model runs/first --detector whole --out poses",
    )  # fmt: skip
    parser.add_argument("source", help="a picture, folder, pattern such as 'photos/*.jpg', video, or webcam")
    add_model_arguments(parser)
    parser.add_argument("--out", required=True, help="folder for all that is written; a run that was stopped goes on")
    parser.add_argument("--overwrite", action="store_true", help="begin anew whatever the folder holds")
    parser.add_argument("--no-pictures", action="store_true", help="do not draw the poses")
    parser.add_argument("--show-nms", action="store_true", help="draw all poses beside those that OKS-NMS keeps, too")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_pass_arguments(parser, batch_size=16)
    parser.add_argument("--pose-nms", type=float, help="OKS above which the worse of two poses is dropped; 0.9")
    people = parser.add_argument_group("whom to look at")
    text = "hog, whole (picture), a .json file of boxes, an .onnx file, or keras-hub:PRESET"
    people.add_argument("--detector", default="hog", help=text)
    text = "a person's box in pixels, in every picture; may be repeated; then no detector looks"
    people.add_argument("--box", type=float, nargs=4, action="append", metavar=("X", "Y", "W", "H"), help=text)
    people.add_argument("--min-box-score", type=float, help="boxes below it are dropped")
    people.add_argument("--min-box-size", type=float, help="boxes with a side below it, in pixels, are dropped")
    people.add_argument("--max-boxes", type=positive, help="so many of the best in a picture are looked into; 100")
    people.add_argument("--box-nms", choices=("hard", "linear", "gaussian"), help="suppress boxes over a better one")
    people.add_argument("--box-iou", type=float, default=0.5, help="overlap above which hard and linear --box-nms act")
    people.add_argument("--every", type=positive, default=1, help="detect in every N-th frame of a video only")


def _run(args) -> int:
    from kpzoo import detect, sources

    source = sources.open_source(args.source)
    detector = detect.get(args.detector)
    given = {"suppression": args.box_nms, "max_iou": args.box_iou if args.box_nms else None}
    given |= {"min_score": args.min_box_score, "min_size": args.min_box_size, "max_boxes": args.max_boxes}
    detector = replace(detector, **{name: value for name, value in given.items() if value is not None})
    model = load_model(args)
    from kpzoo import bulk, inference

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
        every=args.every,
    )
    if not summary.num_poses and summary.num_pictures and isinstance(detector, detect.HOGDetector) and not args.box:
        print(f"kpzoo: {inference.NOBODY}", file=sys.stderr)
    if summary.problems:
        print(f"kpzoo: {len(summary.problems)} pictures could not be read, see above", file=sys.stderr)
    print(json.dumps({"out": args.out, **asdict(summary)}) if args.json else args.out)
    return 2 if summary.problems or summary.num_broken else 0
