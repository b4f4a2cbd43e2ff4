"""`kpzoo predict`: poses in images or a video, with given boxes or a person detector."""

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial

from kpzoo import stores
from kpzoo.commands.detector_options import OPTIONS, add_detector_arguments, check_detector_arguments, make_detector
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
from kpzoo.images import READABLE

DEFAULT_MODEL = "cpn_lite0"
_OF_FOLDERS = ("overwrite", "resume", "no_pictures", "show_nms", "draw_ellipses", "gallery", "openpose", "json")
_OF_FEW = ("show", "show_nms", "draw_ellipses", "gallery", "openpose", "track", "smooth", "interpolate")
_OF_CLUSTERS = ("workers", "cpus_per_worker", "gpus_per_worker")


def add(commands) -> None:
    parser = command(
        commands, "predict", _run, "Find poses in images or a video; write drawings, results.json and poses.csv.",
        "kpzoo predict photos --out poses",
    )  # fmt: skip
    parser.add_argument(
        "source",
        nargs="+",
        help="images, folders and globs such as 'photos/*.jpg', or one video, rtsp:// or http:// stream, or webcam; "
        "for Parquet parts one source, also on s3://, gs:// and az://, an image on http://, or a .txt file with an "
        "image in each line",
    )
    add_model_arguments(parser, default=DEFAULT_MODEL)
    text = "output folder, local, or on s3://, gs://, az://; an interrupted run resumes. Optional with --show"
    parser.add_argument("--out", help=text)
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
    _add_many(parser)
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


def _add_many(parser) -> None:
    text = "Chosen by any of these options, and by sources and outputs in object stores. Pictures are not drawn."
    group = parser.add_argument_group("millions of pictures, to Parquet parts", text)
    text = "Ray cluster: auto, the one of this machine or else a new one; local, a new one; or its address"
    group.add_argument("--ray", metavar="ADDRESS", help=text)
    group.add_argument("--workers", type=positive, help="processes that predict, with --ray (default: 1)")
    group.add_argument("--cpus-per-worker", type=rate, metavar="N", help="CPUs of a worker, such as 0.5 (default: 1)")
    group.add_argument("--gpus-per-worker", type=rate, metavar="N", help="GPUs of a worker, such as 0.25 (default: 0)")
    group.add_argument("--part-size", type=positive, metavar="N", help="pictures of a part (default: 256)")
    text = "also write results.json, the COCO results of all parts"
    group.add_argument("--coco-json", action="store_true", help=text)


def _is_many(args) -> bool:
    """Returns whether the poses are written to Parquet parts."""
    is_listed = any(
        source.endswith(".txt") or (stores.scheme_of(source) in stores.WEB and source.lower().endswith(READABLE))
        for source in args.source
    )
    given = any(getattr(args, name) for name in (*_OF_CLUSTERS, "ray", "part_size", "coco_json"))
    return given or is_listed or any(map(stores.is_store, [*args.source, args.out or ""]))


def _run_many(args) -> int:
    """Predicts to Parquet parts. The networks are loaded by the workers only."""
    unused = {**dict.fromkeys(_OF_FEW, False), "every": None}
    given = [f"--{name.replace('_', '-')}" for name, default in unused.items() if getattr(args, name) != default]
    if given or args.out is None:
        reason = f"Drop {', '.join(given)}." if given else "Add --out FOLDER."
        raise UserError(f"Poses in Parquet parts are not drawn or shown, and have no order in time. {reason}")
    if len(args.source) > 1:
        raise UserError(
            f"Poses in Parquet parts are those of one source. Received: {len(args.source)}. Pass a folder, a glob in "
            "quotes, or a .txt file with an image in each line."
        )
    alone = [f"--{name.replace('_', '-')}" for name in _OF_CLUSTERS if getattr(args, name) and not args.ray]
    if alone:
        raise UserError(f"{', '.join(alone)} need --ray auto, or the address of a cluster.")
    from kpzoo import distributed
    from kpzoo.distributed.run import PART_SIZE

    needed = argparse.Namespace(**{key: value for key, value in vars(args).items() if key not in ("run", "options")})
    if not args.ray:
        import_tensorflow()
    summary = distributed.predict(
        args.source[0],
        args.out,
        args.box,
        model=partial(load_model, needed),
        detector=partial(make_detector, needed),
        ray=args.ray,
        workers=args.workers or 1,
        num_cpus=args.cpus_per_worker or 1.0,
        num_gpus=args.gpus_per_worker or 0.0,
        part_size=args.part_size or PART_SIZE,
        coco_json=args.coco_json,
        overwrite=args.overwrite,
        resume=args.resume,
        **({} if args.pose_nms is None else {"nms": args.pose_nms}),
        **_pass_options(args),
    )
    if summary.num_problems:
        print(f"kpzoo: {summary.num_problems} images could not be read, see above", file=sys.stderr)
    print(json.dumps({"out": args.out, **asdict(summary)}) if args.json else args.out)
    return 2 if summary.num_problems else 0


def _pass_options(args) -> dict:
    return dict(
        flip=not args.no_flip,
        batch_size=args.batch_size,
        precision=args.precision,
        engine=args.engine,
    )


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
    if _is_many(args):
        return _run_many(args)
    from kpzoo.inference import pictures, window

    source = pictures.open_sources(args.source)
    if args.show:
        window.check(source)
    import_tensorflow()
    detector = None if args.box else make_detector(args)
    model = load_model(args)
    from kpzoo import inference

    options = dict(
        detector=detector,
        nms=inference.POSE_NMS if args.pose_nms is None else args.pose_nms,
        **_pass_options(args),
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
