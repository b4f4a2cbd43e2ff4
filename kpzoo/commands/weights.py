"""`kpzoo convert` and `kpzoo doctor`: convert and inspect weights files."""

import json
from dataclasses import asdict
from pathlib import Path

import kpzoo
from kpzoo.commands.parsing import command, import_tensorflow, own_arguments, size
from kpzoo.errors import UserError


def add_convert(commands) -> None:
    parser = command(
        commands, "convert", _convert, "Convert a published checkpoint to a kpzoo weights file.",
        "kpzoo convert pose_hrnet_w32_256x192.pth hrnet_w32.weights.h5 --model hrnet_w32",
    )  # fmt: skip
    text = ".pth, .safetensors, .npz or .weights.h5 file, or prefix of a TensorFlow 1 checkpoint"
    parser.add_argument("input", help=text)
    parser.add_argument("output", help=".weights.h5, .safetensors or .npz file")
    parser.add_argument("--model", required=True, help="name of the model, see `kpzoo models`")
    parser.add_argument("--source", default="auto", help="project that wrote the checkpoint (default: detected)")
    text = "default: that of a kpzoo weights file, else"
    parser.add_argument("--skeleton", help=f"keypoints of the model ({text} coco17)")
    parser.add_argument("--image-size", type=size, help=f"crop size as HEIGHTxWIDTH ({text} that of the model)")
    text = f"pixel normalization, such as imagenet_rgb or none ({text} that of the model)"
    parser.add_argument("--normalization", help=text)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE",
                        help="option of the model, such as flavour=pytorch. Repeatable")  # fmt: skip
    text = "round kernels to float16, for half the size. Requires a .safetensors output"
    parser.add_argument("--half", action="store_true", help=text)
    parser.add_argument("--new-head", action="store_true", help="do not load the heatmap heads, for other keypoints")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


# Command-line options of arguments of `build`.
_OWN_OPTIONS = {"name": "--model", "image_hw": "--image-size", "skeleton": "--skeleton", "weights": "INPUT"}
_OWN_OPTIONS["normalization"] = "--normalization"


def _convert(args) -> None:
    if Path(args.output).exists():
        raise UserError(f"{args.output!r} already exists. Choose another name, or remove it.")
    given = dict(map(_option, args.option))
    given |= {"skeleton": args.skeleton} if args.skeleton else {}
    given |= {"image_hw": args.image_size} if args.image_size else {}
    if args.normalization:
        given["normalization"] = None if args.normalization == "none" else args.normalization
    import_tensorflow()
    from kpzoo import weights
    from kpzoo.weights.save import writer_of

    writer_of(args.output, args.half)  # raises an error for an invalid name before the conversion
    model = kpzoo.build(args.model, **{**own_arguments(args.model, args.input), **given})
    head = "new" if args.new_head else "strict"
    report = weights.load_weights(model, args.input, source=args.source, head=head)
    path = weights.save_weights(model, args.output, half=args.half)
    told = {"output": str(path), "model": args.model, **asdict(report)}
    print(json.dumps(told) if args.json else f"{report}\n{path}")


def _option(text: str) -> tuple[str, object]:
    """Parses NAME=VALUE, such as levels=["c2"] or flavour=pytorch. Values that are not JSON are strings."""
    name, separator, value = text.partition("=")
    if not separator:
        raise UserError(f"--option must be NAME=VALUE. Received: {text!r}.")
    if name in _OWN_OPTIONS:
        raise UserError(f"--option does not accept {name!r}. Received: {text!r}. Use {_OWN_OPTIONS[name]}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def add_doctor(commands) -> None:
    parser = command(
        commands, "doctor", _doctor, "Describe a weights file and find the model that it fits.",
        "kpzoo doctor pose_hrnet_w32_256x192.pth",
    )  # fmt: skip
    parser.add_argument("path", help="weights file, or prefix of a TensorFlow 1 checkpoint")
    parser.add_argument("--model", help="the only model to try (default: models with a similar number of parameters)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(args) -> None:
    import_tensorflow()
    from kpzoo.models.doctor import diagnose

    found = diagnose(args.path, args.model)
    print(json.dumps(asdict(found)) if args.json else found)
