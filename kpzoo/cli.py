"""The command line: `kpzoo models | data | train | evaluate | predict | export`, over the functions of the same names.

TensorFlow is imported by the commands that need it, and silently. Exit codes: 0 done, 2 a mistake in what was asked,
1 a fault of kpzoo, 130 stopped by Ctrl-C.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import kpzoo
from kpzoo.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    args = make_parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except UserError as error:
        print(f"kpzoo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kpzoo: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kpzoo", description="Top-down 2D human pose estimation in Keras.")
    parser.add_argument("--version", action="version", version=f"kpzoo {kpzoo.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    running = (_add_data, _add_train, _add_evaluate, _add_predict, _add_export)
    for add in (_add_models, *running, _add_convert, _add_doctor):
        add(commands)
    return parser


def _command(commands, name: str, run, text: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: {example}", formatter_class=_Formatter
    )
    parser.set_defaults(run=run)
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but none where there is nothing to show."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _size(text: str) -> tuple[int, int]:
    """Returns (height, width) of a text like 256x192."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 256x192, received {text!r}")
    return int(height), int(width)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {text!r}")
    return int(text)


def _add_model_arguments(parser) -> None:
    parser.add_argument("--model", required=True, help="a name of `kpzoo models`, or the folder of a training run")
    parser.add_argument("--weights", help="a .weights.h5 file; a training run brings its own")
    parser.add_argument("--image-size", type=_size, help="crop as HEIGHTxWIDTH, if the model's own is not wanted")


def _load_model(args, skeleton=None):
    """Returns the model that `--model`, `--weights` and `--image-size` name."""
    _import_tensorflow()
    from kpzoo import training

    if (Path(args.model) / training.RECORD).exists():
        if args.weights or args.image_size:
            raise UserError("A training run has its own weights and size: drop --weights and --image-size.")
        return training.load_run(args.model)
    if not args.weights:
        raise UserError(f"Model {args.model!r} has no weights yet. Pass --weights FILE, or a training run as --model.")
    options = {"skeleton": skeleton} if skeleton else {}
    return kpzoo.build(args.model, image_hw=args.image_size, weights=args.weights, **options)


def _import_tensorflow() -> None:
    """Imports TensorFlow without its remarks on stderr, which no setting of its own turns off."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as told:
        os.dup2(told.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            told.seek(0)
            os.write(kept, told.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _add_models(commands) -> None:
    parser = _command(commands, "models", _models, "List the models of the zoo.", "kpzoo models 'cpn_*'")
    parser.add_argument("pattern", nargs="?", default="*", help="names to list, with * and ?")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _models(args) -> None:
    _import_tensorflow()
    rows = [kpzoo.info(name) for name in kpzoo.list_models(args.pattern)]
    if not rows:
        raise UserError(f"No model matches {args.pattern!r}. `kpzoo models` lists all.")
    if args.json:
        print(json.dumps([{**vars(row), "macs": dict(row.macs), "options": dict(row.options)} for row in rows]))
        return
    print(f"{'model':<24}{'family':<16}{'params':>10}{'MACs at size':>22}  paper")
    for row in rows:
        size, macs = next(iter(row.macs.items()))
        counts = f"{row.num_params / 1e6:>8.2f} M{macs / 1e9:>10.2f} G {size:>9}"
        print(f"{row.name:<24}{row.family:<16}{counts}  {row.paper}")


def _add_data(commands) -> None:
    parser = commands.add_parser("data", help="Make and look at data sets.", description="Make and look at data sets.")
    parts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    make = _command(
        parts, "make", _data_make, "Draw scenes of articulated figures as a COCO-format folder.",
        "kpzoo data make scenes --images 500 --crowding 0.5",
    )  # fmt: skip
    make.add_argument("folder", help="where to write")
    make.add_argument("--images", type=_positive, default=100, help="how many pictures")
    make.add_argument("--split", default="train", help="name of the part")
    make.add_argument("--crowding", type=float, default=0.0, help="0: people apart, 1: overlapping as in OCHuman")
    make.add_argument("--seed", type=int, default=0, help="which scenes")
    make.add_argument("--overwrite", action="store_true", help="replace a part that is there")
    show = _command(
        parts, "show", _data_show, "Draw the annotations of pictures on a sheet.",
        "kpzoo data show ~/coco --split val --out sheet.png",
    )  # fmt: skip
    show.add_argument("folder", help="a COCO-format folder")
    show.add_argument("--split", help="part of the annotation file's name")
    show.add_argument("--out", default="sheet.png", help="the picture to write")
    show.add_argument("--images", type=_positive, default=12, help="how many pictures")


def _data_make(args) -> None:
    from kpzoo.data import synthetic

    path = synthetic.make_dataset(
        args.folder, args.images, seed=args.seed, crowding=args.crowding, split=args.split, overwrite=args.overwrite
    )
    print(path)


def _data_show(args) -> None:
    from kpzoo import evaluation, images
    from kpzoo.data import files

    data = files.load(args.folder, args.split)
    print(images.write_image(args.out, evaluation.annotation_sheet(data, args.images)))


def _add_train(commands) -> None:
    parser = _command(
        commands, "train", _train, "Train a model, or go on with a run that was cut off.",
        "kpzoo train --model cpn_nano --image-size 128x96 --data scenes --out runs/first",
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="a name of `kpzoo models`")
    parser.add_argument("--weights", help="a .weights.h5 file to start from")
    parser.add_argument("--image-size", type=_size, default="256x192", help="crop as HEIGHTxWIDTH")
    parser.add_argument("--data", required=True, help="a COCO-format folder; its skeleton becomes the model's")
    parser.add_argument("--split", default="train", help="part of the training annotations' name")
    parser.add_argument("--val-split", default="val", help="part of the validation annotations' name; '' for none")
    parser.add_argument("--out", required=True, help="folder of the run; an unfinished run there is continued")
    parser.add_argument("--epochs", type=_positive, default=30, help="passes over the data")
    parser.add_argument("--batch-size", type=_positive, default=32, help="crops in a step, over all devices")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="halved after each sixth of the run")
    parser.add_argument("--augment", default="cpn", help="cpn, hrnet or simplebaseline")
    parser.add_argument("--devices", type=_positive, help="replicas: GPUs, or logical CPUs where there is none")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")


def _train(args) -> None:
    _import_tensorflow()
    import keras

    from kpzoo import training
    from kpzoo.losses import default_loss

    train = kpzoo.data.load(args.data, args.split)
    val = kpzoo.data.load(args.data, args.val_split) if args.val_split else None
    steps = max(1, training.num_persons(train) // args.batch_size)
    every = max(1, args.epochs * steps // 6)

    def make_model():
        keras.utils.set_random_seed(args.seed)
        model = kpzoo.build(args.model, image_hw=args.image_size, skeleton=train.skeleton, weights=args.weights)
        model.compile(training.AdamL2(training.halving(args.learning_rate, every)), default_loss(model.preset))
        return model

    model = training.run(
        make_model,
        train,
        args.out,
        epochs=args.epochs,
        batch_size=args.batch_size,
        augment=args.augment,
        seed=args.seed,
        validate=val and (lambda model: kpzoo.evaluate(model, val, flip=False).values),
        devices=args.devices,
    )
    if val:
        print(kpzoo.evaluate(model, val))
    print(f"The run is in {args.out}. Use it as `--model {args.out}`.")


def _add_evaluate(commands) -> None:
    parser = _command(
        commands, "evaluate", _evaluate, "Score a model, or a results file alone, against annotations.",
        "kpzoo evaluate --model runs/first --annotations val.json --images val --boxes gt",
    )  # fmt: skip
    parser.add_argument("--annotations", required=True, help="COCO keypoint JSON")
    parser.add_argument("--results", help="COCO results JSON to score, instead of a model")
    parser.add_argument("--protocol", choices=("coco", "crowdpose"), default="coco", help="rules of the evaluation")
    parser.add_argument("--model", help="a name of `kpzoo models`, or the folder of a training run")
    parser.add_argument("--weights", help="a .weights.h5 file; a training run brings its own")
    parser.add_argument("--image-size", type=_size, help="crop as HEIGHTxWIDTH, if the model's own is not wanted")
    parser.add_argument("--images", help="folder of the pictures; found beside the annotations if not given")
    parser.add_argument("--boxes", default="gt", help="gt, or a file of detections in COCO's results format")
    parser.add_argument("--no-flip", action="store_true", help="do not average over the mirrored crop")
    parser.add_argument("--batch-size", type=_positive, default=32, help="crops in one pass")
    parser.add_argument("--save-results", help="write the poses as COCO results JSON")
    parser.add_argument("--report", help="write an .html file: curves, mistakes by joint, the worst pictures")
    parser.add_argument("--json", action="store_true", help="print JSON in full precision")


def _evaluate(args) -> None:
    if bool(args.results) == bool(args.model):
        raise UserError("Pass either --results FILE or --model NAME, to say what is scored.")
    if args.report and Path(args.report).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--report must name an .html file. Received: {args.report!r}.")
    if args.results:
        from kpzoo import metrics
        from kpzoo.data import coco, results

        annotations = coco.read_annotations(args.annotations)
        poses = results.read_results(args.results, annotations)
        found = metrics.average_precision(annotations, poses, protocol=args.protocol)
        data = _load_data(args) if args.images else None
        _report(args, annotations, poses, found, data)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = _evaluate_model(args, args.save_results or Path(folder) / "results.json")
    print(json.dumps({"metrics": found.values, **found.circumstances}) if args.json else found)


def _load_data(args):
    """Returns the data of `--annotations` and `--images`; of folders with equal file names, that of the split."""
    split = Path(args.annotations).name.split(".")[0].split("_")[-1]
    return kpzoo.data.load(split=split, annotations=args.annotations, images=args.images)


def _evaluate_model(args, results_path):
    from kpzoo.data.results import read_results

    data = _load_data(args)
    model = _load_model(args, data.skeleton)
    found = kpzoo.evaluate(
        model,
        data,
        boxes=args.boxes,
        protocol=args.protocol,
        flip=not args.no_flip,
        batch_size=args.batch_size,
        results_path=results_path,
        progress=True,
    )
    _report(args, data.annotations, read_results(results_path, data.annotations), found, data)
    return found


def _report(args, annotations, poses, found, data) -> None:
    if args.report:
        from kpzoo import report

        path = report.write_report(args.report, annotations, poses, found, data, protocol=args.protocol)
        print(f"The report is in {path}", file=sys.stderr)


def _add_predict(commands) -> None:
    parser = _command(
        commands, "predict", _predict, "Find poses in pictures or a video; write pictures, results.json and poses.csv.",
        "kpzoo predict photos --model runs/first --detector whole --out poses",
    )  # fmt: skip
    parser.add_argument("source", help="a picture, folder, pattern such as 'photos/*.jpg', video, or webcam")
    _add_model_arguments(parser)
    parser.add_argument("--out", required=True, help="folder for all that is written; a run that was stopped goes on")
    parser.add_argument("--overwrite", action="store_true", help="begin anew whatever the folder holds")
    parser.add_argument("--no-pictures", action="store_true", help="do not draw the poses")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.add_argument("--no-flip", action="store_true", help="do not average over the mirrored crop")
    parser.add_argument("--batch-size", type=_positive, default=16, help="crops in one pass, of any pictures")
    parser.add_argument("--pose-nms", type=float, help="OKS above which the worse of two poses is dropped; 0.9")
    people = parser.add_argument_group("whom to look at")
    text = "hog, whole (picture), a .json file of boxes, an .onnx file, or keras-hub:PRESET"
    people.add_argument("--detector", default="hog", help=text)
    text = "a person's box in pixels, in every picture; may be repeated; then no detector looks"
    people.add_argument("--box", type=float, nargs=4, action="append", metavar=("X", "Y", "W", "H"), help=text)
    people.add_argument("--min-box-score", type=float, help="boxes below it are dropped")
    people.add_argument("--box-nms", choices=("hard", "linear", "gaussian"), help="suppress boxes over a better one")
    people.add_argument("--box-iou", type=float, default=0.5, help="overlap above which hard and linear --box-nms act")
    people.add_argument("--every", type=_positive, default=1, help="detect in every N-th frame of a video only")


def _predict(args) -> None:
    from kpzoo import detect, sources

    source = sources.open_source(args.source)
    detector = detect.get(args.detector)
    given = {"suppression": args.box_nms, "max_iou": args.box_iou if args.box_nms else None}
    given = {name: value for name, value in {**given, "min_score": args.min_box_score}.items() if value is not None}
    detector = replace(detector, **given)
    model = _load_model(args)
    from kpzoo import bulk, inference

    summary = bulk.predict_to_folder(
        model,
        source,
        args.out,
        args.box,
        detector=None if args.box else detector,
        pictures=not args.no_pictures,
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


def _add_export(commands) -> None:
    parser = _command(
        commands, "export", _export, "Write a model as a SavedModel or an ONNX file that serves without kpzoo.",
        "kpzoo export --model runs/first --out first.onnx --to onnx",
    )  # fmt: skip
    _add_model_arguments(parser)
    parser.add_argument("--untrained", action="store_true", help="fresh weights, to try a server or measure its speed")
    parser.add_argument("--out", help="the SavedModel's folder, such as serving/NAME/1, or the ONNX file")
    parser.add_argument("--to", choices=("savedmodel", "onnx"), default="savedmodel", help="what to write")
    parser.add_argument("--answer", choices=("keypoints", "heatmaps"), default="keypoints", help="of an ONNX file")
    parser.add_argument("--opset", type=_positive, default=17, help="of an ONNX file")
    parser.add_argument(
        "--precision", choices=("float32", "float16", "int8"), default="float32",
        help="of an ONNX file; what less than float32 costs in pixels is measured and told",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--no-check", action="store_true", help="do not compare the export with the model")
    parser.add_argument("--compare", nargs="+", metavar="PATH", help="write nothing; compare exports with the model")


def _export(args) -> None:
    if bool(args.out) == bool(args.compare):
        raise UserError("Pass either --out PATH to write an export, or --compare PATH ... to check what is there.")
    if args.to != "onnx" and (args.answer, args.precision) != ("keypoints", "float32"):
        raise UserError("--answer and --precision are for ONNX files. Add --to onnx.")
    model = _untrained_model(args) if args.untrained else _load_model(args)
    from kpzoo import export

    if args.compare:
        return _check_export(model, args.compare, sys.stdout)
    if args.to == "savedmodel":
        export.to_savedmodel(model, args.out, overwrite=args.overwrite)
    elif args.precision == "float32":
        export.to_onnx(model, args.out, answer=args.answer, opset=args.opset, overwrite=args.overwrite)
    else:
        with tempfile.TemporaryDirectory() as folder:
            full = export.to_onnx(model, Path(folder) / "float32.onnx", answer=args.answer, opset=args.opset)
            reduction = export.reduce_onnx(full, args.out, args.precision, model, overwrite=args.overwrite)
        print(reduction, file=sys.stderr)
    print(args.out)
    if args.precision == "float32" and not args.no_check:
        _check_export(model, [args.out], sys.stderr)


def _check_export(model, paths, stream) -> None:
    """Tells how exports differ from the model, with exit code 1 if they do."""
    from kpzoo import export

    parity = export.compare(model, *paths)
    print(parity, file=stream)
    if not parity.passed:
        raise SystemExit(1)


def _untrained_model(args):
    """Returns the model that `--model` and `--image-size` name with fresh weights, always the same."""
    if args.weights:
        raise UserError("Pass either --weights FILE or --untrained.")
    _import_tensorflow()
    import keras

    keras.utils.set_random_seed(0)
    print("kpzoo: fresh weights: the answers of this export mean nothing", file=sys.stderr)
    return kpzoo.build(args.model, image_hw=args.image_size)


def _add_convert(commands) -> None:
    parser = _command(
        commands, "convert", _convert, "Turn a published checkpoint into a weights file of a model of the zoo.",
        "kpzoo convert pose_hrnet_w32_256x192.pth hrnet_w32.weights.h5 --model hrnet_w32",
    )  # fmt: skip
    parser.add_argument("input", help="a .pth, .safetensors, .npz or .weights.h5 file, or a TensorFlow 1 checkpoint")
    parser.add_argument("output", help="a .weights.h5, .safetensors or .npz file")
    parser.add_argument("--model", required=True, help="a name of `kpzoo models`")
    parser.add_argument("--source", default="auto", help="whose checkpoint it is; told by its names if not given")
    parser.add_argument("--skeleton", default="coco17", help="the keypoints of the model")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE",
                        help="an option of the model, such as flavour=pytorch; may be repeated")  # fmt: skip
    parser.add_argument("--new-head", action="store_true", help="leave the heads fresh, for other keypoints")


def _convert(args) -> None:
    _import_tensorflow()
    from kpzoo import importers

    if Path(args.output).exists():
        raise UserError(f"{args.output!r} exists already. Name another file, or remove it.")
    model = kpzoo.build(args.model, skeleton=args.skeleton, **dict(map(_option, args.option)))
    head = "new" if args.new_head else "strict"
    print(importers.load_weights(model, args.input, source=args.source, head=head))
    print(importers.save_weights(model, args.output))


def _option(text: str) -> tuple[str, object]:
    """Returns (name, value) of a text like levels=["c2"] or flavour=pytorch; what is no JSON is a word."""
    name, separator, value = text.partition("=")
    if not separator:
        raise UserError(f"An option of a model is NAME=VALUE. Received: {text!r}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _add_doctor(commands) -> None:
    parser = _command(
        commands, "doctor", _doctor, "Tell what is in a weights file, and which model takes it.",
        "kpzoo doctor pose_hrnet_w32_256x192.pth",
    )  # fmt: skip
    parser.add_argument("path", help="a weights file, or a TensorFlow 1 checkpoint's prefix")
    parser.add_argument("--model", help="the only model to try; by default those of about the file's size")


def _doctor(args) -> None:
    _import_tensorflow()
    from kpzoo.doctor import diagnose

    print(diagnose(args.path, args.model))
