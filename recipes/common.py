"""Shared by the recipe pages: data sets, the description of a run, command line, smoke test, training."""

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kpzoo.commands.parsing import add_scaling_arguments, crop_count, import_tensorflow, scaling_options

import_tensorflow()  # without its log messages, before a page imports Keras

import keras  # noqa: E402

import kpzoo  # noqa: E402
from kpzoo import evaluation, training  # noqa: E402
from kpzoo.errors import UserError, unknown  # noqa: E402
from kpzoo.scenes import drawn  # noqa: E402

SMOKE_BATCH, SMOKE_STEPS, SMOKE_SCENES = 2, 3, 3
SEED = 0  # of the initial weights
VALIDATE_EVERY = 10  # epochs


@dataclass(frozen=True)
class Data:
    """A data set.

    Args:
        name: Name of the data set, a part of the names of its runs.
        splits: Names of the splits to train and to validate on.
        protocol: Evaluation protocol, see `kpzoo.evaluate`.
    """

    name: str
    splits: tuple[str, str]
    protocol: str


COCO = Data("coco", ("train2017", "val2017"), "coco")
CROWDPOSE = Data("crowdpose", ("trainval", "test"), "crowdpose")


@dataclass(frozen=True)
class Run:
    """A training run: one row of a page's table.

    Args:
        model: Model name.
        data: Data set.
        image_hw: (height, width) of the crops.
        batch_size: Crops per step, summed over all devices.
        learning_rate: Initial learning rate, for `batch_size`.
        epochs: Number of epochs.
        drops: Epochs after which the learning rate is divided by 10. Empty if the page uses another schedule.
        augment: Name of the augmentation, see `kpzoo.data.make_dataset`.
        published: Published AP with the key of its source, such as "74.4 [1]". The page's docstring lists the sources.
        baseline: Model whose trained weights the run starts from; makes `--weights` required. None for no such model.
        crops_per_epoch: Number of crops in an epoch. None for every person once.
        options: Options of `kpzoo.build`.
    """

    model: str
    data: Data
    image_hw: tuple[int, int]
    batch_size: int
    learning_rate: float
    epochs: int
    drops: tuple[int, ...]
    augment: str
    published: str = "none"
    baseline: str | None = None
    crops_per_epoch: int | None = None
    options: Mapping = field(default_factory=dict)

    @property
    def size(self) -> str:
        return "{}x{}".format(*self.image_hw)

    @property
    def name(self) -> str:
        """Name of the run, of its folder and of its results file."""
        return f"{self.model}_{self.data.name}_{self.size}"


def main(doc: str, runs: Sequence[Run], compiled: Callable) -> None:
    """Trains the run that the command line names; lists the runs if there are no arguments.

    Args:
        doc: Docstring of the page.
        runs: Runs of the page.
        compiled: Function of a run, its model and the number of steps per epoch. Returns the compiled model.
    """
    try:
        if len(sys.argv) == 1:
            print(listing(doc, runs))
        else:
            run, args = parse(doc, runs)
            train(run, args, compiled)
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)


def parse(doc: str, runs: Sequence[Run]) -> tuple[Run, argparse.Namespace]:
    """Returns the run that the command line names, and the options.

    Raises:
        UserError: If the run is unknown, or an option that it requires is missing.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "run to train; without any arguments, the runs are listed"
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help=text)
    parser.add_argument("--data", help="folder of the data set, or folder or URL of a pack")
    parser.add_argument("--val-data", metavar="FOLDER", help="folder of the validation data, if --data is a pack")
    text = "run folder (default: runs/NAME); an interrupted run in it is resumed"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=text)
    text = "initial weights: a file, a tag of published weights, or `none`; required by runs that start from a baseline"
    parser.add_argument("--weights", help=text)
    text = "crops per step, summed over all devices; the learning rate is scaled in proportion"
    parser.add_argument("--batch-size", type=crop_count, metavar="CROPS", help=text)
    add_scaling_arguments(parser)
    parser.add_argument("--smoke", action="store_true", help="train three steps on generated images, without data")
    args = parser.parse_args()
    named = {run.name: run for run in runs}
    if not args.name:
        raise UserError("NAME is missing. Run the page without arguments to list the names.")
    if args.name not in named:
        raise unknown("run", args.name, named)
    run = named[args.name]
    if not (args.smoke or args.data):
        raise UserError("--data FOLDER is missing. Use --smoke to test the run without data.")
    if run.baseline and not (args.smoke or args.weights):
        raise UserError(
            f"--weights FILE is missing: {run.name} starts from a trained {run.baseline}. "
            "Use --weights none to start from random weights."
        )
    args.weights = None if args.weights == "none" else args.weights
    args.out = args.out or Path("runs") / run.name
    return run, args


def train(run: Run, args: argparse.Namespace, compiled: Callable) -> None:
    """Trains a run, validates it every `VALIDATE_EVERY` epochs without flip test, and prints its AP with flip test."""
    if args.smoke:
        args.out = Path(tempfile.mkdtemp(prefix="kpzoo_smoke_"))
        args.data, args.val_data, args.weights = args.out / "scenes", None, None
        for split in run.data.splits:
            drawn.write_drawn(args.data, SMOKE_SCENES, split=split, people=(2, 2), crowding=0.7)
        run = replace(run, batch_size=SMOKE_BATCH, crops_per_epoch=SMOKE_BATCH * SMOKE_STEPS, epochs=1)
    options = scaling_options(args)
    batch_size = run.batch_size
    if args.batch_size:
        options["base_batch"] = options["base_batch"] or batch_size
        batch_size = args.batch_size
    train_data = kpzoo.data.load(args.data, run.data.splits[0])
    val_data = kpzoo.data.load(args.val_data or args.data, run.data.splits[1])
    steps = max(1, (run.crops_per_epoch or kpzoo.data.num_persons(train_data)) // batch_size)

    def make_model():
        keras.utils.set_random_seed(SEED)
        build = dict(image_hw=run.image_hw, skeleton=train_data.skeleton, weights=args.weights)
        return compiled(run, kpzoo.build(run.model, **build, **run.options), steps)

    model = training.run(
        make_model,
        train_data,
        args.out,
        epochs=run.epochs,
        batch_size=batch_size,
        steps_per_epoch=steps,
        augment=run.augment,
        validate=lambda model: kpzoo.evaluate(model, val_data, flip=False, protocol=run.data.protocol).values,
        validate_every=VALIDATE_EVERY,
        draw=lambda model: evaluation.progress_sheet(model, val_data),
        **options,
    )
    if training.is_chief():
        print(kpzoo.evaluate(model, val_data, protocol=run.data.protocol))
        print(f"Run folder: {args.out}")


def table(runs: Sequence[Run]) -> list[list[str]]:
    """Returns the runs as rows of text, headings first."""
    rows = [["run", "size", "batch", "epochs", "rate", "starts from", "published AP"]]
    for run in runs:
        epochs = f"{run.epochs} x {run.crops_per_epoch:,} crops" if run.crops_per_epoch else f"{run.epochs}"
        numbers = run.size, f"{run.batch_size}", epochs, f"{run.learning_rate:g}"
        rows.append([run.name, *numbers, run.baseline or "", run.published])
    if not any(run.baseline for run in runs):
        rows = [row[:5] + row[6:] for row in rows]
    return rows


def listing(doc: str, runs: Sequence[Run]) -> str:
    """Returns the runs as a table for the terminal, followed by the sources of the published AP."""
    rows = table(runs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", *sources(doc)])


def sources(doc: str) -> list[str]:
    """Returns the sources that a page's docstring lists, such as "[1] authors, COCO val2017", one line each."""
    found = re.findall(r"^\[\d\] .+?(?=\n\[|\n\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    return [" ".join(text.split()) for text in found]
