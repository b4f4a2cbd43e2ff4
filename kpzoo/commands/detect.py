"""`kpzoo detect`: person boxes of images or a video."""

import json
import sys
from dataclasses import asdict, replace

from kpzoo.commands.parsing import command, fraction, import_tensorflow, positive, rate


def add(commands) -> None:
    parser = command(
        commands, "detect", _run, "Find people in images or a video; write their boxes as COCO results JSON.",
        "kpzoo detect photos --out boxes.json",
    )  # fmt: skip
    parser.add_argument(
        "source", help="an image, folder, glob such as 'photos/*.jpg', video, rtsp:// or http:// stream, or webcam"
    )
    parser.add_argument("--out", required=True, help="JSON file to write; an existing file is replaced")
    add_detector_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def add_detector_arguments(parser) -> None:
    """Adds the options of person detectors, which `make_detector` reads."""
    group = parser.add_argument_group("person detector")
    text = "whole (image), a .json file of boxes, an .onnx file, keras-hub:PRESET, or a detector of the zoo, by model "
    text += "name or by the tag of its weights (default: person_fpn_lite0)"
    group.add_argument("--detector", help=text)
    group.add_argument("--weights", help="weights of a detector of the zoo: .safetensors, .weights.h5 or .keras file")
    group.add_argument("--min-box-score", type=fraction, help="minimum box score")
    group.add_argument("--max-boxes", type=positive, help="maximum number of boxes per image (default: 100)")
    group.add_argument("--box-nms", choices=("hard", "linear", "gaussian"), help="non-maximum suppression of the boxes")
    group.add_argument("--box-iou", type=fraction, help="IoU threshold of --box-nms hard and linear")
    group.add_argument("--box-sigma", type=rate, help="width of --box-nms gaussian (default: 0.5)")


def make_detector(args):
    from kpzoo.inference import detectors

    if not args.detector or args.detector.startswith(detectors.ZOO):
        import_tensorflow()
    detector = detectors.get(args.detector or detectors.DEFAULT, weights=args.weights)
    given = {"suppression": args.box_nms, "max_iou": args.box_iou, "sigma": args.box_sigma}
    given |= {"min_score": args.min_box_score, "max_boxes": args.max_boxes}
    return replace(detector, **{name: value for name, value in given.items() if value is not None})


def _run(args) -> int:
    from kpzoo.inference.detection import detect_to_file

    found = detect_to_file(args.source, args.out, make_detector(args))
    if found.problems:
        print(f"kpzoo: {len(found.problems)} images could not be read, see above", file=sys.stderr)
    print(json.dumps({"out": args.out, **asdict(found)}) if args.json else args.out)
    return 2 if found.problems or found.num_broken else 0
