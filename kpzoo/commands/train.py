"""`kpzoo train`: trains a model, or resumes an interrupted run."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import kpzoo
from kpzoo import stores
from kpzoo.commands.parsing import (
    add_data_arguments,
    add_scaling_arguments,
    command,
    crop_count,
    data_options,
    fraction,
    import_tensorflow,
    positive,
    rate,
    scaling_options,
    seed,
    size,
)
from kpzoo.data.files import is_pack
from kpzoo.errors import UserError
from kpzoo.training.defaults import OPTIMIZERS, SCHEDULES, Defaults, defaults_of
from kpzoo.training.summary import LOG, RECORD, read_log


def add(commands) -> None:
    parser = command(
        commands, "train", _run, "Train a model, or resume an interrupted run.",
        "kpzoo train --model cpn_nano --image-size 128x96 --data scenes --out runs/first",
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="model name, see `kpzoo models`")
    parser.add_argument("--weights", help="initial weights: a file, or a tag of published weights")
    parser.add_argument(
        "--image-size", type=size, default="256x192", metavar="HxW", help="height and width of the crops"
    )
    parser.add_argument("--data", required=True, help="COCO-format folder, or a pack; the model gets its keypoints")
    parser.add_argument("--split", default="train", help="part of the name of the training annotations")
    parser.add_argument(
        "--val-split", default="val", help="part of the name of the validation annotations; '' for none"
    )
    parser.add_argument("--val-data", metavar="FOLDER", help="folder of the validation data, if it differs from --data")
    parser.add_argument("--out", required=True, help="run folder; an interrupted run in it is resumed")
    text = "folder in a store, such as s3://bucket/runs/cpn, that the run folder is copied to when the run has ended"
    parser.add_argument("--upload", metavar="URL", help=text)
    parser.add_argument("--resume", action="store_true", help="resume the run in --out; fail if there is none")
    parser.add_argument("--epochs", type=positive, default=30, help="number of epochs")
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument(
        "--batch-size", type=crop_count, default=32, help="crops per step, summed over all devices and hosts"
    )
    batch.add_argument("--batch-per-device", type=crop_count, help="crops per step and device")
    text = "share of the crops that are taken from crowds composed of several photos"
    parser.add_argument("--crowd", type=fraction, default=0.0, metavar="SHARE", help=text)
    text = "with --crowd: folder to keep the cut-out people in for later runs (default: a temporary one)"
    parser.add_argument("--cutouts", metavar="FOLDER", help=text)
    text = "share of the crops that show only the upper or lower body; default: that of the augmentation"
    parser.add_argument("--half-body", type=fraction, metavar="SHARE", help=text)
    group = parser.add_argument_group(
        "optimization", "Defaults are those of the model's reference; `kpzoo train` prints them."
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS, help="adam_l2 is Adam with L2 regularization of the kernels")
    group.add_argument("--learning-rate", type=rate, metavar="RATE", help="initial learning rate")
    text = "learning-rate schedule of these references, scaled to the length of the run, or constant"
    group.add_argument("--schedule", choices=SCHEDULES, help=text)
    group.add_argument("--augment", metavar="NAME", help="augmentation: cpn, hrnet or simplebaseline")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, and progress on stderr")
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the initial weights, the order of the data and the augmentation"
    )
    group = parser.add_argument_group("MIPNet", "Training targets of a MIPNet, which predicts several people per box.")
    text = "number of keypoints in the crop that makes another person a target: 3 (paper) or 4 (code of its authors)"
    group.add_argument("--instance-rule", choices=("paper", "official"), default="paper", help=text)
    text = "target if there is no other person: repeat the first person (paper), or ignore the instance in the loss"
    group.add_argument("--missing", choices=("repeat", "ignore"), default="repeat", help=text)
    add_data_arguments(parser)
    text = "folder of the validation images; default: --images if there is no --val-data, else searched for"
    parser.add_argument("--val-images", metavar="FOLDER", help=text)
    add_scaling_arguments(parser)


def _run(args) -> None:
    if args.resume and not (Path(args.out) / RECORD).exists():
        raise UserError(f"{args.out!r} contains no training run to resume. Check --out, or remove --resume.")
    import_tensorflow()
    import keras

    from kpzoo import evaluation, training
    from kpzoo.losses import default_loss
    from kpzoo.scenes.crowd import Crowd

    several = kpzoo.info(args.model).options.get("num_instances", 1) > 1
    if not several and (args.instance_rule, args.missing) != ("paper", "repeat"):
        raise UserError(f"--instance-rule and --missing are for MIPNets. Received: --model {args.model}. Remove them.")
    if args.upload and not stores.is_store(args.upload):
        raise UserError(f"--upload must be a folder in a store, such as s3://bucket/runs. Received: {args.upload!r}.")
    if args.cutouts and not args.crowd:
        raise UserError("--cutouts keeps the people of composed crowds. Add --crowd SHARE, or remove it.")
    train, val = _data(args)
    batch_size = args.batch_size
    if args.batch_per_device:
        batch_size = args.batch_per_device * training.make_strategy(args.devices).num_replicas_in_sync
    steps = max(1, kpzoo.data.num_persons(train) // batch_size)
    crowd = Crowd(train, args.crowd, folder=args.cutouts) if args.crowd else None
    settings = _settings(args)
    print(f"kpzoo: training {args.model}: {settings.describe(args.epochs * steps)}", file=sys.stderr)
    if not args.weights and not (Path(args.out) / RECORD).exists():
        print(f"kpzoo: {_start(args, train.skeleton)}", file=sys.stderr)

    def make_model():
        keras.utils.set_random_seed(args.seed)
        model = kpzoo.build(args.model, image_hw=args.image_size, skeleton=train.skeleton, weights=args.weights)
        model.compile(settings.make_optimizer(args.epochs * steps), default_loss(model.preset, args.missing))
        return model

    with redirect_stdout(sys.stderr if args.json else sys.stdout):
        model = training.run(
            make_model,
            train,
            args.out,
            epochs=args.epochs,
            batch_size=batch_size,
            augment=_augment(args, settings, train.skeleton),
            seed=args.seed,
            instance_rule=args.instance_rule,
            crowd=crowd,
            validate=val and (lambda model: kpzoo.evaluate(model, val, flip=False).values),
            draw=val and (lambda model: evaluation.progress_sheet(model, val)),
            **scaling_options(args),
        )
    if training.is_chief():
        if args.upload:
            stores.upload(args.out, args.upload)
        _print_results(args, kpzoo.evaluate(model, val) if val else None)


def _start(args, skeleton) -> str:
    """Returns what to know of a training from random weights: the published ones that it could start from."""
    from kpzoo.models import registry, starts

    options = registry.spec_of(args.model).options(args.model, {})
    words = starts.starts_of(args.model, options, skeleton, args.image_size)
    if not words:
        return "the training starts from random weights; none are published for this model and these keypoints"
    return f"the training starts from random weights; --weights {words[0]} starts from published ones"


def _data(args):
    """Returns the training and the validation data; the latter is None if `--val-split` is empty."""
    options = data_options(args)
    of_folder = {} if is_pack(args.data) and args.val_data else options  # a pack has its category and its images
    train = kpzoo.data.load(args.data, args.split, **of_folder)
    if not args.val_split:
        return train, None
    images = args.val_images or (None if args.val_data else args.image_folder)
    return train, kpzoo.data.load(args.val_data or args.data, args.val_split, **{**options, "images": images})


def _settings(args) -> Defaults:
    """Returns the training settings: the options that were given, and the defaults of the model's reference."""
    names = ("optimizer", "learning_rate", "schedule", "augment")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return replace(defaults_of(args.model), **given)


def _augment(args, settings: Defaults, skeleton):
    """Returns the augmentation; its name if `--half-body` does not change it."""
    if args.half_body is None:
        return settings.augment

    from kpzoo.data.augment import without_mirroring

    return replace(without_mirroring(settings.augment, skeleton), half_body_probability=args.half_body)


def _print_results(args, found) -> None:
    """Prints the results of the run: its log, and its metrics on the validation data if there is some."""
    if args.json:
        rows = [{name: float(value) for name, value in row.items() if value} for row in read_log(Path(args.out) / LOG)]
        measured = {"metrics": found.values, **found.circumstances} if found else {}
        print(json.dumps({"out": args.out, "log": rows, **measured}))
        return
    if found:
        print(found)
    print(f"Run folder: {args.out}, with a summary in summary.html. Use the model with `--model {args.out}`.")
