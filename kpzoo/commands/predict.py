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

DEFAULT_MODEL = "cpn_lite0"
_OF_FOLDERS = ("overwrite", "resume", "no_pictures", "show_nms", "draw_ellipses", "gallery", "openpose", "json")


def add(commands) -> None:
    parser = command(
        commands, "predict", _run, "Find poses in images or a video; write drawings, results.json and poses.csv.",
        "kpzoo predict photos --out poses",
    )  # fmt: skip
    parser.add_argument(
        "source", help="an image, folder, glob such as 'photos/*.jpg', video, rtsp:// or http:// stream, or webcam"
    )
    add_model_arguments(parser, default=DEFAULT_MODEL)
    parser.add_argument("--out", help="output folder; an interrupted run resumes. Optional with --show")
    parser.add_argument("--resume", action="store_true", help="an error if there is no run to resume")
    parser.add_argument("--overwrite", action="store_true", help="start again whatever the folder contains")
    parser.add_argument("--no-pictures", action="store_true", help="do not draw the poses")
    parser.add_argument(
        "--show-nms", action="store_true", help="also draw the poses before and after OKS-NMS, side by side"
    )
    text = "also draw the ellipses that hold the true keypoints with 90 %% probability; needs a model with a confidence"
    parser.add_argument("--draw-ellipses", action="store_true", help=text)
    text = "write gallery.html, a page of thumbnails and scores that opens without a server"
    parser.add_argument("--gallery", action="store_true", help=text)
    text = "write an OpenPose JSON file for each image or frame, to OUT/openpose"
    parser.add_argument("--openpose", action="store_true", help=text)
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
    moving = parser.add_argument_group("videos")
    text = "run the detector on every N-th frame; between them boxes follow the poses"
    moving.add_argument("--every", type=positive, metavar="N", help=text)
    text = "run no network between every N-th frame; the poses there are interpolated. Includes --track"
    moving.add_argument("--interpolate", action="store_true", help=text)
    text = "give people identities: track_id in results.json and poses.csv, and the colours of the drawing"
    moving.add_argument("--track", action="store_true", help=text)
    moving.add_argument("--smooth", action="store_true", help="smooth the joints of people. Includes --track")
    text = "show the poses in a window, with frames per second, until q or Esc; needs opencv-python"
    moving.add_argument("--show", action="store_true", help=text)


def _check(args) -> None:
    """Raises an error for options that would have no effect, and if there is no output."""
    if args.out is None and not args.show:
        raise UserError("There is no output. Add --out FOLDER, or --show to watch a video in a window.")
    if args.out is None:
        unused = [f"--{name.replace('_', '-')}" for name in _OF_FOLDERS if getattr(args, name)]
        if unused:
            raise UserError(f"{', '.join(unused)} need --out FOLDER.")
    if args.gallery and args.no_pictures:
        raise UserError("--gallery shows the drawings. Drop it, or --no-pictures.")
    if args.draw_ellipses and args.no_pictures:
        raise UserError("--draw-ellipses adds to the drawings. Drop it, or --no-pictures.")
    thinned = args.every is not None and not args.interpolate
    given = [f"--{name.replace('_', '-')}" for name in OPTIONS if getattr(args, name) is not None]
    given += ["--every"] if thinned else []
    if args.box and given:
        raise UserError(f"--box disables the detector. Drop {', '.join(given)}, or --box.")
    check_detector_arguments(args)


def _run(args) -> int:
    _check(args)
    from kpzoo.inference import pictures, window

    source = pictures.open_source(args.source)
    if args.show:
        window.check(source)
    import_tensorflow()
    detector = None if args.box else make_detector(args)
    model = load_model(args)
    from kpzoo import inference

    options = dict(
        detector=detector,
        flip=not args.no_flip,
        nms=inference.POSE_NMS if args.pose_nms is None else args.pose_nms,
        batch_size=args.batch_size,
        precision=args.precision,
        engine=args.engine,
        every=args.every or 1,
        track=args.track,
        smooth=args.smooth,
        interpolate=args.interpolate,
    )
    if args.out is None:
        print(f"{inference.watch(model, source, args.box, **options)} frames")
        return 0
    summary = inference.predict_to_folder(
        model,
        source,
        args.out,
        args.box,
        pictures=not args.no_pictures,
        show_nms=args.show_nms,
        ellipses=args.draw_ellipses,
        overwrite=args.overwrite,
        resume=args.resume,
        gallery=args.gallery,
        openpose=args.openpose,
        show=args.show,
        **options,
    )
    if not summary.num_poses and summary.num_pictures and not args.detector and not args.box:
        print(f"kpzoo: {inference.NO_PERSON}", file=sys.stderr)
    if summary.problems:
        print(f"kpzoo: {len(summary.problems)} images could not be read, see above", file=sys.stderr)
    print(json.dumps({"out": args.out, **asdict(summary)}) if args.json else args.out)
    return 2 if summary.problems or summary.num_broken else 0
