"""What the commands share: how they are declared, the arguments that name a model, and loading it."""

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

import kpzoo
from kpzoo.errors import UserError
from kpzoo.weights.published import ROWS


def command(commands, name: str, run, text: str, example: str) -> argparse.ArgumentParser:
    """Returns the parser of a new command, which calls `run(args)`."""
    parser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: {example}", formatter_class=Formatter
    )
    parser.set_defaults(run=run)
    return parser


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but none where there is nothing to show."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def size(text: str) -> tuple[int, int]:
    """Returns (height, width) of a text like 256x192."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 256x192, received {text!r}")
    return int(height), int(width)


def positive(text: str) -> int:
    """Returns the whole number of a text, which is at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {text!r}")
    return int(text)


def fraction(text: str) -> float:
    """Returns the number from 0 to 1 of a text."""
    return _number(text, 0.0, 1.0)


def rate(text: str) -> float:
    """Returns the number of a text that is above 0 and finite."""
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
    """Returns the whole number from 0 to 2³² - 1 of a text."""
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**32 - 1}, received {text!r}")
    return int(text)


def crop_count(text: str) -> int:
    """Returns the size of a batch that a text names."""
    from kpzoo.geometry import MAX_CROPS

    if not text.isdigit() or not 1 <= int(text) <= MAX_CROPS:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MAX_CROPS}, received {text!r}")
    return int(text)


def add_model_arguments(parser: argparse.ArgumentParser, required: bool = True, default: str | None = None) -> None:
    """Adds what `load_model` reads."""
    text = "a name of `kpzoo models`, or the folder of a training run"
    parser.add_argument("--model", required=required and not default, default=default, help=text)
    text = "a weights file, or a tag that `kpzoo models NAME` tells; the newest tag if not given. A run brings its own"
    parser.add_argument("--weights", help=text)
    parser.add_argument("--image-size", type=size, help="crop as HEIGHTxWIDTH, if the model's own is not wanted")


def add_pass_arguments(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Adds how crops go through a model."""
    parser.add_argument("--no-flip", action="store_true", help="do not average over the mirrored crop")
    text = "bfloat16 is faster, on CPUs that compute with it; some keypoints move a little; float32 if not given"
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help=text)
    parser.add_argument("--batch-size", type=crop_count, default=batch_size, help="crops in one pass, of any pictures")


def add_scaling_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how a training computes and makes its steps, whatever it trains; `scaling_options` reads them."""
    group = parser.add_argument_group("steps and devices", "What a run was started with, it goes on with.")
    text = "replicas of each host: GPUs, or logical CPUs where there is none. Several hosts are named by TF_CONFIG"
    group.add_argument("--devices", type=positive, help=text)
    text = "batch norm over the batches of all devices together, so that many devices train as one does"
    group.add_argument("--sync-batch-norm", action="store_true", help=text)
    text = "what to compute in; bfloat16 for new GPUs and CPUs, float16 for older GPUs. Weights stay float32"
    group.add_argument("--precision", choices=("float32", "mixed_bfloat16", "mixed_float16"), help=text)
    text = "batch that the learning rate is meant for: it is multiplied by the batch's size over this"
    group.add_argument("--base-batch", type=positive, metavar="CROPS", help=text)
    text = "steps in which the learning rate climbs from almost nothing, for large batches"
    group.add_argument("--warmup", type=positive, default=0, metavar="STEPS", help=text)
    text = "validate and save moving averages of the weights with this momentum, such as 0.999"
    group.add_argument("--ema", type=fraction, metavar="MOMENTUM", help=text)
    text = "cut the gradient of a batch to this length"
    group.add_argument("--clip-norm", type=rate, metavar="LENGTH", help=text)


def scaling_options(args: argparse.Namespace) -> dict:
    """Returns the options of `training.run` that `add_scaling_arguments` added."""
    names = ("devices", "sync_batch_norm", "precision", "base_batch", "warmup", "ema", "clip_norm")
    return {name: getattr(args, name) for name in names}


def load_model(args: argparse.Namespace, skeleton=None):
    """Returns the model that `--model`, `--weights` and `--image-size` name.

    A run, and a weights file that says so, tell how it was built; for other files `skeleton` is that of the data.
    """
    import_tensorflow()
    from kpzoo import training

    if (Path(args.model) / training.RECORD).exists():
        if args.weights or args.image_size:
            raise UserError("A training run has its own weights and size: drop --weights and --image-size.")
        return training.load_run(args.model)
    kpzoo.info(args.model)  # a name that nothing has is the first thing to tell
    weights = args.weights or _published(args.model)
    arguments = {"skeleton": skeleton} if skeleton and weights not in ROWS else {}
    arguments |= own_arguments(args.model, weights)
    if args.image_size:
        arguments["image_hw"] = args.image_size
    return kpzoo.build(args.model, weights=weights, **arguments)


def _published(model: str) -> str:
    """Returns the newest tag of a model's published weights, and tells it."""
    tags = kpzoo.info(model).weights
    if not tags:
        raise UserError(f"Model {model!r} has no weights yet. Pass --weights FILE, or a training run as --model.")
    print(f"kpzoo: weights {tags[-1]}", file=sys.stderr)
    return tags[-1]


def own_arguments(name: str, weights: str) -> dict:
    """Returns how to build the model `name` as a weights file of its own says it was; {} for all other files."""
    from kpzoo.weights import build_arguments, read_description

    description = read_description(weights)
    return build_arguments(description) if description.get("kpzoo_model") == name else {}


def import_tensorflow() -> None:
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
