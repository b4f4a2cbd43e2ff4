"""Shared code of the commands: parsers, argument types, and loading the model that the arguments name."""

import argparse
import math
import os
import re
import sys
import tempfile
from pathlib import Path

import kpzoo
from kpzoo import keras_setup
from kpzoo.errors import UserError
from kpzoo.weights import published


def command(commands, name: str, run, text: str, example: str) -> argparse.ArgumentParser:
    """Adds a command that calls `run(args)`, and returns its parser."""
    parser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: {example}", formatter_class=Formatter
    )
    parser.set_defaults(run=run, options=Options(parser))
    return parser


def command_group(commands, name: str, text: str):
    """Adds a command that only has subcommands, and returns what `command` adds these to."""
    parser = commands.add_parser(name, help=text, description=text)
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


class Options:
    """Options of a command, with a lookup of the option for an argument that a message names, see `kpzoo.errors`."""

    # Arguments, or arguments with a value, that have an option with another name.
    NAMES = {
        "answers": "--compare",
        "batch_per_replica": "--batch-per-device",
        "boxes_xywh": "--box",
        "category_id": "--box-category",
        "flip=False": "--no-flip",
        "half_body_probability": "--half-body",
        "head='new'": "--new-head",
        "image_hw": "--image-size",
        "max_iou": "--box-iou",
        "min_score": "--min-box-score",
        "min_size": "--min-box-size",
        "nms": "--pose-nms",
        "num_images": "--images",
        "num_shards": "--shards",
        "person_label": "--person-label",
        "pictures=False": "--no-pictures",
        "results_path": "--save-results",
        "root": "--data",
        "sigma": "--box-sigma",
        "suppression": "--box-nms",
    }

    def __init__(self, parser: argparse.ArgumentParser):
        self._parser = parser

    def __contains__(self, option: str) -> bool:
        return option in self._parser._option_string_actions

    def of(self, argument: str, value: str) -> str | None:
        """Returns the option for an argument and its value in a text, or ""; None if there is none."""
        own = self._parser.get_default("option_names") or {}
        whole = f"{argument}={value}"
        names = {**self.NAMES, **own}
        if whole in names:
            return names[whole] if names[whole] in self else None
        option = names.get(argument, "--" + argument.replace("_", "-"))
        if option not in self:
            of_models = "--option" in self and argument in _model_options()
            return f"--option {argument}={value.strip(chr(39)) or 'VALUE'}" if of_models else None
        return option if value in ("", "True") else f"{option} {_as_typed(value)}"


def _model_options() -> set[str]:
    """Returns the options of all models that have no command-line option."""
    return {option for name in kpzoo.list_models() for option in kpzoo.info(name).options}


def _as_typed(value: str) -> str:
    """Returns the value of an argument as it is typed at the command line: val for 'val', 64x48 for (64, 48)."""
    if pair := re.fullmatch(r"\((\d+), (\d+)\)", value):
        return "x".join(pair.groups())
    return value.strip("'\"") or "''"


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help formatter that shows default values except None and False."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def size(text: str) -> tuple[int, int]:
    """Argument type: (height, width) from text such as 256x192."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 256x192, received {text!r}")
    return int(height), int(width)


def positive(text: str) -> int:
    """Argument type: an integer of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {text!r}")
    return int(text)


def fraction(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    return _number(text, 0.0, 1.0)


def rate(text: str) -> float:
    """Argument type: a finite number above 0."""
    return _number(text, 1e-300, 1e300)


def _number(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        bounds = f"from {low:g} to {high:g}" if high <= 1 else "above 0"
        raise argparse.ArgumentTypeError(f"expected a number {bounds}, received {text!r}")
    return value


def seed(text: str) -> int:
    """Argument type: an integer from 0 to 2³² - 1."""
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**32 - 1}, received {text!r}")
    return int(text)


def crop_count(text: str) -> int:
    """Argument type: a batch size."""
    from kpzoo.geometry import MAX_CROPS

    if not text.isdigit() or not 1 <= int(text) <= MAX_CROPS:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MAX_CROPS}, received {text!r}")
    return int(text)


def add_model_arguments(parser: argparse.ArgumentParser, required: bool = True, default: str | None = None) -> None:
    """Adds the arguments that `load_model` reads."""
    text = "name of a model, see `kpzoo models`, or the folder of a training run"
    parser.add_argument("--model", required=required and not default, default=default, help=text)
    text = "weights file, or a tag listed by `kpzoo models NAME`, whose last part is enough; default: the newest "
    text += "weights of kpzoo, else those of COCO. Not for training runs"
    parser.add_argument("--weights", help=text)
    parser.add_argument("--image-size", type=size, help="size of the crops as HEIGHTxWIDTH; default: that of the model")
    text = "another model, as in --model or a tag of weights; the heatmaps of all are averaged. Repeatable"
    parser.add_argument("--ensemble", action="append", default=[], metavar="MODEL", help=text)


def add_data_arguments(parser: argparse.ArgumentParser, folder: str | None = "--images") -> None:
    """Adds how annotations are read; `data_options` reads them.

    Args:
        parser: Of the command.
        folder: The option for the folder of images, None if the command has added it.
    """
    group = parser.add_argument_group("reading the annotations")
    group.add_argument("--category", help="name or id of the category to read, if several have keypoints")
    group.add_argument("--skeleton", help="name of a skeleton, for a category that does not list its keypoints")
    group.add_argument("--allow-outside", action="store_true", help="images may lie outside of the folder")
    if folder:
        text = "folder of the images; default: searched for in the data set's folder"
        group.add_argument(folder, dest="image_folder", metavar="FOLDER", help=text)
        parser.set_defaults(option_names={**(parser.get_default("option_names") or {}), "images": folder})


def data_options(args: argparse.Namespace) -> dict:
    """Returns the options of `kpzoo.data.load` that `add_data_arguments` added."""
    options = dict(category=args.category, skeleton=args.skeleton, allow_outside=args.allow_outside)
    return {**options, "images": args.image_folder} if "image_folder" in args else options


def add_pass_arguments(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Adds the options of inference."""
    parser.add_argument("--no-flip", action="store_true", help="do not average with the mirrored crop")
    text = "bfloat16 is faster on CPUs that support it; int8, in OpenVINO, is calibrated with the first people. Both "
    text += "change keypoints slightly"
    parser.add_argument("--precision", choices=("float32", "bfloat16", "int8"), default="float32", help=text)
    text = "runtime of the network; auto measures those that are installed, and takes the fastest that agrees"
    engines = ("tensorflow", "openvino", "onnxruntime", "auto")
    parser.add_argument("--engine", choices=engines, default="tensorflow", help=text)
    parser.add_argument("--batch-size", type=crop_count, default=batch_size, help="crops per batch, across images")


def add_scaling_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of devices and training steps, which `scaling_options` reads."""
    group = parser.add_argument_group("steps and devices", "A resumed run needs the options it was started with.")
    text = "replicas per host: GPUs, or logical CPUs if there is no GPU. TF_CONFIG configures several hosts"
    group.add_argument("--devices", type=positive, help=text)
    text = "synchronize batch normalization across devices"
    group.add_argument("--sync-batch-norm", action="store_true", help=text)
    text = "computation precision: bfloat16 for recent GPUs and CPUs, float16 for older GPUs; weights are float32"
    group.add_argument("--precision", choices=("float32", "mixed_bfloat16", "mixed_float16"), help=text)
    text = "batch size that the learning rate is meant for; it is scaled linearly with the actual batch size"
    group.add_argument("--base-batch", type=positive, metavar="CROPS", help=text)
    text = "steps of linear learning-rate warmup"
    group.add_argument("--warmup", type=positive, default=0, metavar="STEPS", help=text)
    text = "momentum of an exponential moving average of the weights, such as 0.999, which is validated and saved"
    group.add_argument("--ema", type=fraction, metavar="MOMENTUM", help=text)
    text = "maximum global gradient norm"
    group.add_argument("--clip-norm", type=rate, metavar="NORM", help=text)


def scaling_options(args: argparse.Namespace) -> dict:
    """Returns the arguments of `training.run` that `add_scaling_arguments` added."""
    names = ("devices", "sync_batch_norm", "precision", "base_batch", "warmup", "ema", "clip_norm")
    return {name: getattr(args, name) for name in names}


def load_model(args: argparse.Namespace, skeleton=None):
    """Returns the model that `--model`, `--weights`, `--image-size` and `--ensemble` name.

    A training run, or a weights file of kpzoo, describes how to build the model. For other weights files the model is
    built with `skeleton`, that of the data.
    """
    import_tensorflow()
    model = _one_model(args.model, args.weights, args.image_size, skeleton)
    others = []
    for name in args.ensemble:
        tag = published.ROWS[name].model if name in published.ROWS else None
        others.append(_one_model(tag or name, name if tag else None, None, skeleton))
    return kpzoo.ensemble([model, *others]) if others else model


def _one_model(name: str, weights: str | None, image_hw: tuple[int, int] | None, skeleton):
    from kpzoo import training

    if (Path(name) / training.RECORD).exists():
        if weights or image_hw:
            raise UserError("A training run has its own weights and image size. Remove --weights and --image-size.")
        return training.load_run(name)
    kpzoo.info(name)  # an unknown name is reported first
    weights = weights or _published(name)
    arguments = {"skeleton": skeleton} if skeleton and not published.resolve(weights, name) else {}
    arguments |= own_arguments(name, weights)
    if image_hw:
        arguments["image_hw"] = image_hw
    return kpzoo.build(name, weights=weights, **arguments)


def _published(model: str) -> str:
    """Returns the tag of a model's published weights that is used by default, and prints it."""
    from kpzoo.models.registry import spec_of

    tag = published.default_tag(model, spec_of(model).image_hw)
    if not tag:
        raise UserError(f"Model {model!r} has no weights yet. Pass --weights FILE, or a training run as --model.")
    print(f"kpzoo: weights {tag}", file=sys.stderr)
    return tag


def own_arguments(name: str, weights: str) -> dict:
    """Returns the `kpzoo.build` arguments stored in a weights file of the model `name`; {} for other files."""
    from kpzoo.weights import build_arguments, read_description

    description = read_description(weights)
    return build_arguments(description) if description.get("kpzoo_model") == name else {}


def import_tensorflow() -> None:
    """Imports TensorFlow without the messages it prints on stderr, which no setting of TensorFlow turns off."""
    keras_setup.check_backend()
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
