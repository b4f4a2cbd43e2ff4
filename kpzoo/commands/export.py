"""`kpzoo export`: SavedModel, ONNX, LiteRT and OpenVINO files, compared with the Keras model."""

import sys
import tempfile
from pathlib import Path

import kpzoo
from kpzoo.commands.parsing import add_model_arguments, command, crop_count, import_tensorflow, load_model, positive
from kpzoo.errors import UserError


def add(commands) -> None:
    parser = command(
        commands, "export", _run, "Export a model as SavedModel, ONNX, LiteRT or OpenVINO file, to run without kpzoo.",
        "kpzoo export --model runs/first --out first.onnx --to onnx",
    )  # fmt: skip
    add_model_arguments(parser)
    parser.add_argument("--untrained", action="store_true", help="export random weights, to test or time a server")
    parser.add_argument("--out", help="file to write, or folder of the SavedModel, such as serving/NAME/1")
    parser.add_argument(
        "--to", choices=("savedmodel", "onnx", "litert", "openvino"), default="savedmodel",
        help="export format",
    )  # fmt: skip
    parser.add_argument("--answer", choices=("keypoints", "heatmaps"), default="keypoints", help="outputs, for ONNX")
    parser.add_argument("--opset", type=positive, default=17, help="operator set, for ONNX")
    parser.add_argument(
        "--batch", type=crop_count, metavar="CROPS",
        help="fixed batch size, for ONNX in OpenCV's dnn, which reads --answer heatmaps, and TensorRT; default: any",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("float32", "float16", "int8"), default="float32",
        help="precision, for ONNX; the change of the keypoints in pixels is measured and printed",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file or folder")
    parser.add_argument("--no-check", action="store_true", help="do not compare the export with the model")
    parser.add_argument("--compare", nargs="+", metavar="PATH", help="compare existing exports with the model")


def _run(args) -> None:
    if bool(args.out) == bool(args.compare):
        raise UserError("Pass either --out PATH to write an export, or --compare PATH ... to compare existing ones.")
    if args.to != "onnx" and (args.answer, args.precision, args.batch) != ("keypoints", "float32", None):
        raise UserError("--answer, --batch and --precision are for ONNX files. Add --to onnx.")
    model = _untrained_model(args) if args.untrained else load_model(args)
    from kpzoo import export

    if args.compare:
        return _check(model, args.compare, sys.stdout)
    if args.to == "savedmodel":
        export.to_savedmodel(model, args.out, overwrite=args.overwrite)
    elif args.to == "openvino":
        export.to_openvino(model, args.out, overwrite=args.overwrite)
    elif args.to == "litert":
        export.to_litert(model, args.out, overwrite=args.overwrite)
    elif args.precision == "float32":
        export.to_onnx(model, args.out, **_onnx_options(args), overwrite=args.overwrite)
    else:
        with tempfile.TemporaryDirectory() as folder:
            full = export.to_onnx(model, Path(folder) / "float32.onnx", **_onnx_options(args))
            reduction = export.reduce_onnx(full, args.out, args.precision, model, overwrite=args.overwrite)
        print(reduction, file=sys.stderr)
    print(args.out)
    if args.precision == "float32" and not args.no_check:
        _check(model, [args.out], sys.stderr)


def _onnx_options(args) -> dict:
    """Returns the options of `export.to_onnx`."""
    return dict(answer=args.answer, opset=args.opset, batch=args.batch)


def _check(model, paths, stream) -> None:
    """Prints how exports differ from the model, and exits with code 1 if they differ too much."""
    from kpzoo import export

    parity = export.compare(model, *paths)
    print(parity, file=stream)
    if not parity.passed:
        raise SystemExit(1)


def _untrained_model(args):
    """Returns the model that `--model` and `--image-size` name, with random weights from a fixed seed."""
    if args.weights:
        raise UserError("Pass either --weights FILE or --untrained.")
    if args.ensemble:
        raise UserError("--ensemble averages trained models. Remove --untrained, or --ensemble.")
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(0)
    print("kpzoo: random weights: the predictions of this export are meaningless", file=sys.stderr)
    return kpzoo.build(args.model, image_hw=args.image_size)
