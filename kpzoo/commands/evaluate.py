"""`kpzoo evaluate`: AP of a model, of a results file or of person boxes, and an HTML report."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import kpzoo
from kpzoo import files
from kpzoo.commands.parsing import (
    add_data_arguments,
    add_model_arguments,
    add_pass_arguments,
    command,
    data_options,
    fraction,
    import_tensorflow,
    load_model,
    positive,
)
from kpzoo.errors import UserError


def add(commands) -> None:
    parser = command(
        commands, "evaluate", _run, "Evaluate a model, a results file or person boxes against annotations.",
        "kpzoo evaluate --model runs/first --annotations val.json --images val --boxes gt",
    )  # fmt: skip
    parser.add_argument("--annotations", required=True, help="COCO keypoint JSON; for --detections with boxes at least")
    text = "COCO keypoint results JSON, or a folder of Parquet parts, to evaluate instead of a model"
    parser.add_argument("--results", help=text)
    text = "COCO results JSON of person boxes, such as `kpzoo detect` writes, to evaluate instead of a model"
    parser.add_argument("--detections", help=text)
    parser.add_argument("--protocol", choices=("coco", "crowdpose"), default="coco", help="evaluation protocol")
    add_model_arguments(parser, required=False)
    parser.add_argument("--images", help="folder of the images; default: searched for next to the annotations")
    parser.add_argument("--boxes", default="gt", help="gt, the annotated boxes, or a COCO results JSON of detections")
    text = "name or id of the category to read from --boxes; default: that of the annotations, else 1, COCO's person"
    parser.add_argument("--box-category", metavar="CATEGORY", help=text)
    add_data_arguments(parser, folder=None)
    add_pass_arguments(parser, batch_size=32)
    text = "replicas that share each batch: GPUs, or logical CPUs if there is no GPU"
    parser.add_argument("--devices", type=positive, help=text)
    text = "IoU threshold of non-maximum suppression of the boxes; annotated boxes are ranked by visible keypoints"
    parser.add_argument("--box-nms", type=fraction, metavar="IOU", help=text)
    text = "OKS threshold of non-maximum suppression of the poses, 1 to keep all; default: that of the reference "
    text += "implementation, which is none for the CrowdPose protocol and for single-instance CPNs, else 0.9"
    parser.add_argument("--pose-nms", type=fraction, metavar="OKS", help=text)
    text = "evaluate only the keypoints that model and annotations share, if they have different ones"
    parser.add_argument("--shared-keypoints", action="store_true", help=text)
    parser.add_argument("--save-results", help="write the poses as COCO keypoint results JSON")
    parser.add_argument("--report", help="write an HTML report: curves, errors by keypoint, the worst images")
    text = "fit calibrated scores and covariances of keypoints to these annotations, which must not be training data, "
    text += "print the numbers, and write the model's weights with them to FILE, .weights.h5 or .safetensors, if given"
    parser.add_argument("--fit-confidence", nargs="?", const="", metavar="FILE", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON in full precision")


def _run(args) -> None:
    if sum(map(bool, (args.results, args.model, args.detections))) != 1:
        raise UserError("Pass one of --model NAME, --results FILE and --detections FILE.")
    if args.detections:
        return _evaluate_boxes(args)
    if args.report and Path(args.report).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--report must name an .html file. Received: {args.report!r}.")

    _check_fit(args)
    for path in filter(None, (args.report, args.save_results)):
        files.check_target(path)
    if args.results:
        _refuse_ignored(args)
        from kpzoo.data.coco import read_annotations

        data = _load_data(args) if args.images else None
        annotations = data.annotations if data else read_annotations(args.annotations, **data_options(args))
        found = kpzoo.score(annotations, args.results, protocol=args.protocol)
        _report(args, annotations, found, data)
    else:
        found = _evaluate_model(args)
    _print(args, found)


def _check_fit(args) -> None:
    """Raises an error if the confidence cannot be fitted, or written to the file."""
    if args.fit_confidence is None:
        return
    given = [
        f"--{name.replace('_', '-')}" for name in ("shared_keypoints", "box_nms", "devices") if getattr(args, name)
    ]
    given += ["--boxes"] * (args.boxes != "gt") + ["--precision"] * (args.precision != "float32")
    if given:
        raise UserError(f"{', '.join(given)} cannot be used with --fit-confidence. Remove them.")
    if args.fit_confidence.endswith(".npz"):
        raise UserError(
            f"A .npz file has no metadata. Received: {args.fit_confidence!r}.", "Write a .safetensors file."
        )


def _evaluate_boxes(args) -> None:
    given = [f"--{name}" for name in ("report", "category", "skeleton", "images") if getattr(args, name, None)]
    given += ["--protocol"] if args.protocol != "coco" else []
    if given:
        raise UserError(f"{', '.join(given)} cannot be used with --detections. Remove them.")
    _refuse_ignored(args)
    _print(args, kpzoo.score_boxes(args.annotations, args.detections))


def _print(args, found) -> None:
    if args.json:
        keypoints = {name: found.details[name] for name in ("per_keypoint", "confidence") if name in found.details}
        print(json.dumps({"metrics": found.values, **keypoints, **found.circumstances}))
    else:
        print(found)


def _refuse_ignored(args) -> None:
    """Refuses options of inference if a file is evaluated."""
    given = {
        "--weights": args.weights,
        "--image-size": args.image_size,
        "--ensemble": args.ensemble or None,
        "--boxes": args.boxes != "gt",
        "--box-category": args.box_category,
        "--box-nms": args.box_nms,
        "--pose-nms": args.pose_nms,
        "--no-flip": args.no_flip,
        "--precision": args.precision != "float32",
        "--engine": args.engine != "tensorflow",
        "--devices": args.devices,
        "--save-results": args.save_results,
        "--shared-keypoints": args.shared_keypoints,
        "--fit-confidence": args.fit_confidence is not None,
    }
    if names := [name for name, value in given.items() if value is not None and value is not False]:
        raise UserError(f"{', '.join(names)} need --model. Remove them, or pass --model instead of the file.")


def _load_data(args):
    """Returns the data of `--annotations` and `--images`. The name of the annotation file selects the image folder."""
    split = Path(args.annotations).name.split(".")[0].split("_")[-1]
    return kpzoo.data.load(split=split, annotations=args.annotations, images=args.images, **data_options(args))


def _evaluate_model(args):
    import_tensorflow()
    from kpzoo import evaluation
    from kpzoo.training import devices

    data = _load_data(args)
    with devices.make_strategy(args.devices, over_hosts=False).scope() if args.devices else nullcontext():
        model = load_model(args, None if args.shared_keypoints else data.skeleton)
    if args.fit_confidence is not None:
        _fit(args, model, data)
    in_report = args.report and args.boxes == "gt" and args.box_nms is None
    found = kpzoo.evaluate(
        model,
        data,
        boxes=args.boxes,
        box_category=args.box_category,
        box_nms=args.box_nms,
        kept_ious=evaluation.KEPT_IOUS if in_report else (),
        nms="auto" if args.pose_nms is None else args.pose_nms,
        protocol=args.protocol,
        flip=not args.no_flip,
        batch_size=args.batch_size,
        precision=args.precision,
        engine=args.engine,
        results_path=args.save_results,
        shared_keypoints=args.shared_keypoints,
        progress=True,
    )
    if args.report and args.shared_keypoints:
        data = evaluation.of_shared_keypoints(data, model.preset)
    _report(args, data.annotations, found, data)
    return found


def _fit(args, model, data) -> None:
    """Fits the confidence of the model, prints it on stderr as in a row of published weights, and saves it."""
    from kpzoo.evaluation import fit_confidence
    from kpzoo.weights.save import writer_of

    if args.fit_confidence:
        writer_of(args.fit_confidence)  # raises an error before the work
    confidence = fit_confidence(model, data, flip=not args.no_flip, batch_size=args.batch_size, progress=True)
    print(f"confidence={confidence}", file=sys.stderr)
    if args.fit_confidence:
        print(f"Weights written to {kpzoo.save_weights(model, args.fit_confidence)}", file=sys.stderr)


def _report(args, annotations, found, data) -> None:
    if args.report:
        from kpzoo.evaluation import report

        path = report.write_report(args.report, annotations, found.results, found, data, protocol=args.protocol)
        print(f"Report written to {path}", file=sys.stderr)
