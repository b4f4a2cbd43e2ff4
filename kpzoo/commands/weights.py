"""`kpzoo convert` and `kpzoo doctor`: published checkpoints."""

import json
from dataclasses import asdict
from pathlib import Path

import kpzoo
from kpzoo.commands.parsing import command, import_tensorflow, own_arguments, size
from kpzoo.errors import UserError


def add_convert(commands) -> None:
    parser = command(
        commands, "convert", _convert, "Turn a published checkpoint into a weights file of a model of the zoo.",
        "kpzoo convert pose_hrnet_w32_256x192.pth hrnet_w32.weights.h5 --model hrnet_w32",
    )  # fmt: skip
    parser.add_argument("input", help="a .pth, .safetensors, .npz or .weights.h5 file, or a TensorFlow 1 checkpoint")
    parser.add_argument("output", help="a .weights.h5, .safetensors or .npz file")
    parser.add_argument("--model", required=True, help="a name of `kpzoo models`")
    parser.add_argument("--source", default="auto", help="whose checkpoint it is; told by its names if not given")
    text = "; of a file of kpzoo's own, as it says"
    parser.add_argument("--skeleton", help=f"the keypoints of the model, coco17 if not given{text}")
    parser.add_argument("--image-size", type=size, help=f"crop as HEIGHTxWIDTH, if the model's own is not wanted{text}")
    parser.add_argument("--normalization", help=f"of pixels, such as imagenet_rgb or none, if not the model's{text}")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE",
                        help="an option of the model, such as flavour=pytorch; may be repeated")  # fmt: skip
    text = "round kernels to float16, for half the size; the output is a .safetensors file"
    parser.add_argument("--half", action="store_true", help=text)
    parser.add_argument("--new-head", action="store_true", help="leave the heads fresh, for other keypoints")
    parser.add_argument("--json", action="store_true", help="print what went where as JSON")


# Arguments of a model that have an option of their own.
_OWN_OPTIONS = {"name": "--model", "image_hw": "--image-size", "skeleton": "--skeleton", "weights": "INPUT"}
_OWN_OPTIONS["normalization"] = "--normalization"


def _convert(args) -> None:
    if Path(args.output).exists():
        raise UserError(f"{args.output!r} exists already. Name another file, or remove it.")
    given = dict(map(_option, args.option))
    given |= {"skeleton": args.skeleton} if args.skeleton else {}
    given |= {"image_hw": args.image_size} if args.image_size else {}
    if args.normalization:
        given["normalization"] = None if args.normalization == "none" else args.normalization
    import_tensorflow()
    from kpzoo import weights
    from kpzoo.weights.save import writer_of

    writer_of(args.output, args.half)  # refuses a bad name before the long work
    model = kpzoo.build(args.model, **{**own_arguments(args.model, args.input), **given})
    head = "new" if args.new_head else "strict"
    report = weights.load_weights(model, args.input, source=args.source, head=head)
    path = weights.save_weights(model, args.output, half=args.half)
    told = {"output": str(path), "model": args.model, **asdict(report)}
    print(json.dumps(told) if args.json else f"{report}\n{path}")


def _option(text: str) -> tuple[str, object]:
    """Returns (name, value) of a text like levels=["c2"] or flavour=pytorch; what is no JSON is a word."""
    name, separator, value = text.partition("=")
    if not separator:
        raise UserError(f"An option of a model is NAME=VALUE. Received: {text!r}.")
    if name in _OWN_OPTIONS:
        raise UserError(f"--option is for options of a model. Received: {text!r}. Use {_OWN_OPTIONS[name]}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def add_doctor(commands) -> None:
    parser = command(
        commands, "doctor", _doctor, "Tell what is in a weights file, and which model takes it.",
        "kpzoo doctor pose_hrnet_w32_256x192.pth",
    )  # fmt: skip
    parser.add_argument("path", help="a weights file, or a TensorFlow 1 checkpoint's prefix")
    parser.add_argument("--model", help="the only model to try; by default those of about the file's size")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(args) -> None:
    import_tensorflow()
    from kpzoo.models.doctor import diagnose

    found = diagnose(args.path, args.model)
    print(json.dumps(asdict(found)) if args.json else found)
