"""`kpzoo detect`: person boxes of images or a video."""

import json
import sys
from dataclasses import asdict

from kpzoo.commands.detector_options import add_detector_arguments, check_detector_arguments, make_detector
from kpzoo.commands.parsing import command


def add(commands) -> None:
    parser = command(
        commands, "detect", _run, "Find people in images or a video; write their boxes as COCO results JSON.",
        "kpzoo detect photos --out boxes.json",
    )  # fmt: skip
    text = "images, folders and globs such as 'photos/*.jpg', or one video, rtsp:// or http:// stream, or webcam"
    parser.add_argument("source", nargs="+", help=text)
    parser.add_argument("--out", required=True, help="JSON file to write; an existing file is replaced")
    group = parser.add_argument_group("person detector")
    add_detector_arguments(group)
    group.add_argument("--weights", help="weights of a detector of the zoo: .safetensors, .weights.h5 or .keras file")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def _run(args) -> int:
    check_detector_arguments(args)
    from kpzoo.inference.detection import detect_to_file
    from kpzoo.inference.pictures import open_sources

    found = detect_to_file(open_sources(args.source), args.out, make_detector(args, args.weights))
    if found.problems:
        print(f"kpzoo: {len(found.problems)} images could not be read, see above", file=sys.stderr)
    print(json.dumps({"out": args.out, **asdict(found)}) if args.json else args.out)
    return 2 if found.problems or found.num_broken else 0
