"""What the recipes for COCO and CrowdPose share: arguments, a smoke test, and the run itself."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import kpzoo
from kpzoo import evaluation, training
from kpzoo.commands.parsing import add_scaling_arguments, crop_count, scaling_options
from kpzoo.pose_model import PoseModel
from kpzoo.scenes import drawn

SMOKE_BATCH, SMOKE_STEPS, SMOKE_SCENES = 2, 3, 3


def arguments(doc: str, name: str, baseline: str | None = None) -> argparse.Namespace:
    """Returns what a recipe was asked for; with `--smoke` its data are a few drawn scenes in a temporary folder.

    Args:
        doc: The recipe's docstring, for its help.
        name: Of the recipe.
        baseline: The model whose weights it goes on from: `--weights` must then be given, if only as "none".
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="the data set's folder, or a pack's, or the address of one")
    parser.add_argument("--val-data", help="the folder to validate on, if --data is a pack")
    parser.add_argument("--out", type=Path, default=Path("runs") / name, help="the run's folder; a stopped run goes on")
    text = "what to start from: a weights file, a tag of `kpzoo info`, or none for fresh weights"
    parser.add_argument("--weights", help=f"{text}; needed, that of a trained {baseline}" if baseline else text)
    text = "crops in a step over all devices, if not the recipe's; its learning rate is then scaled with it"
    parser.add_argument("--batch-size", type=crop_count, help=text)
    add_scaling_arguments(parser)
    parser.add_argument("--smoke", action="store_true", help="three steps on a few drawn scenes, in minutes")
    args = parser.parse_args()
    if not args.smoke and args.data is None:
        parser.error("--data FOLDER is needed, or --smoke")
    if baseline and not (args.smoke or args.weights):
        parser.error(f"--weights FILE of a trained {baseline} is needed, or --weights none to start without it")
    args.weights = None if args.weights == "none" else args.weights
    return args


def train(
    args: argparse.Namespace,
    compiled: Callable[..., PoseModel],
    *,
    splits: tuple[str, str],
    batch_size: int,
    epochs: int,
    augment: str,
    crops_per_epoch: int | None = None,
    protocol: str = "coco",
) -> None:
    """Trains, validates every tenth epoch without flip test, and prints what the trained model reaches with it.

    Args:
        args: Of `arguments`.
        compiled: From the data's skeleton, the weights to start from and the steps of an epoch to the compiled model.
        splits: Names of the parts to train and to validate on.
        batch_size: Crops in a step, over all devices together, where `args` names no other.
        epochs: Of `crops_per_epoch` crops each; None for one of each person.
        augment: A key of `crops.AUGMENTS`.
        crops_per_epoch: See `epochs`.
        protocol: See `kpzoo.evaluate`.
    """
    if args.smoke:
        args.out = Path(tempfile.mkdtemp(prefix="kpzoo_smoke_"))
        args.data, args.val_data, args.weights = args.out / "scenes", None, None
        for split in splits:
            drawn.write_drawn(args.data, SMOKE_SCENES, split=split, people=(2, 2), crowding=0.7)
        batch_size, crops_per_epoch, epochs = SMOKE_BATCH, SMOKE_BATCH * SMOKE_STEPS, 1
    options = scaling_options(args)
    if args.batch_size:
        options["base_batch"] = options["base_batch"] or batch_size
        batch_size = args.batch_size
    train_data = kpzoo.data.load(args.data, splits[0])
    val_data = kpzoo.data.load(args.val_data or args.data, splits[1])
    steps = max(1, (crops_per_epoch or training.num_persons(train_data)) // batch_size)
    model = training.run(
        lambda: compiled(train_data.skeleton, args.weights, steps),
        train_data,
        args.out,
        epochs=epochs,
        batch_size=batch_size,
        steps_per_epoch=steps,
        augment=augment,
        validate=lambda model: kpzoo.evaluate(model, val_data, flip=False, protocol=protocol).values,
        validate_every=10,
        draw=lambda model: evaluation.progress_sheet(model, val_data),
        **options,
    )
    if not training.is_chief():
        return
    print(kpzoo.evaluate(model, val_data, protocol=protocol))
    print(f"The run is in {args.out}.")
