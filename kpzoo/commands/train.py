"""`kpzoo train`: a run of training, resumed where it was cut off."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import kpzoo
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
        commands, "train", _run, "Train a model, or go on with a run that was cut off.",
        "kpzoo train --model cpn_nano --image-size 128x96 --data scenes --out runs/first",
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="a name of `kpzoo models`")
    parser.add_argument("--weights", help="a weights file to start from, published or own")
    parser.add_argument("--image-size", type=size, default="256x192", help="crop as HEIGHTxWIDTH")
    parser.add_argument(
        "--data", required=True, help="a COCO-format folder or a pack; its skeleton becomes the model's"
    )
    parser.add_argument("--split", default="train", help="part of the training annotations' name")
    parser.add_argument("--val-split", default="val", help="part of the validation annotations' name; '' for none")
    parser.add_argument("--val-data", help="the folder to validate on, if it is not that of --data")
    parser.add_argument("--out", required=True, help="folder of the run; an unfinished run there is continued")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, never start one")
    parser.add_argument("--epochs", type=positive, default=30, help="passes over the data")
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--batch-size", type=crop_count, default=32, help="crops in a step, over all devices and hosts")
    batch.add_argument("--batch-per-device", type=crop_count, help="crops in a step of each device, instead")
    text = "share of the crops that show people of several photos put into one, 0 to 1"
    parser.add_argument("--crowd", type=fraction, default=0.0, help=text)
    text = "share of the crops that show one half of a person alone, if not the augmentation's"
    parser.add_argument("--half-body", type=fraction, metavar="SHARE", help=text)
    group = parser.add_argument_group(
        "optimization", "Defaults are those of the model's reference; `kpzoo train` prints them."
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS, help="adam_l2 is Adam with L2 regularization of the kernels")
    group.add_argument("--learning-rate", type=rate, metavar="RATE", help="initial learning rate")
    text = "learning-rate schedule of these references, scaled to the length of the run, or constant"
    group.add_argument("--schedule", choices=SCHEDULES, help=text)
    group.add_argument("--augment", metavar="NAME", help="augmentation: cpn, hrnet or simplebaseline")
    parser.add_argument("--json", action="store_true", help="print what came of it as JSON, the progress on stderr")
    parser.add_argument("--seed", type=seed, default=0, help="of weights, order and augmentation")
    group = parser.add_argument_group("several people in one box", "How MIPNets learn them.")
    text = "with how many keypoints in the crop another person is learned: 3 as the paper says, 4 as its authors' code"
    group.add_argument("--instance-rule", choices=("paper", "official"), default="paper", help=text)
    text = "what is learned where there is no other person: the first one's pose, as in the paper, or nothing, which "
    text += "the paper reports to train worse"
    group.add_argument("--missing", choices=("repeat", "ignore"), default="repeat", help=text)
    add_data_arguments(parser)
    text = "folder of the validation images; default: --images if there is no --val-data, else searched for"
    parser.add_argument("--val-images", metavar="FOLDER", help=text)
    add_scaling_arguments(parser)


def _run(args) -> None:
    if args.resume and not (Path(args.out) / RECORD).exists():
        raise UserError(f"{args.out!r} holds no training run to go on with. Check --out, or drop --resume.")
    import_tensorflow()
    import keras

    from kpzoo import evaluation, training
    from kpzoo.losses import default_loss
    from kpzoo.scenes import composed

    several = kpzoo.info(args.model).options.get("num_instances", 1) > 1
    if not several and (args.instance_rule, args.missing) != ("paper", "repeat"):
        raise UserError(f"--instance-rule and --missing are for MIPNets, which {args.model!r} is not. Drop them.")
    train, val = _data(args)
    batch_size = args.batch_size
    if args.batch_per_device:
        batch_size = args.batch_per_device * training.make_strategy(args.devices).num_replicas_in_sync
    steps = max(1, kpzoo.data.num_persons(train) // batch_size)
    settings = _settings(args)
    print(f"kpzoo: training {args.model}: {settings.describe(args.epochs * steps)}", file=sys.stderr)

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
            augment=_augment(args, settings),
            seed=args.seed,
            instance_rule=args.instance_rule,
            crowd=composed.Crowd(composed.Cutouts(train), args.crowd) if args.crowd else None,
            validate=val and (lambda model: kpzoo.evaluate(model, val, flip=False).values),
            draw=val and (lambda model: evaluation.progress_sheet(model, val)),
            **scaling_options(args),
        )
    if training.is_chief():
        _tell(args, kpzoo.evaluate(model, val) if val else None)


def _data(args):
    """Returns the data to train and to validate on; the second is None without --val-split."""
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


def _augment(args, settings: Defaults):
    """Returns the augmentation; its name if `--half-body` does not change it."""
    if args.half_body is None:
        return settings.augment

    from kpzoo.data.augment import augmentation

    return replace(augmentation(settings.augment), half_body_probability=args.half_body)


def _tell(args, found) -> None:
    """Prints what came of the run; `found` is its score, if there is data to score it on."""
    if args.json:
        rows = [{name: float(value) for name, value in row.items() if value} for row in read_log(Path(args.out) / LOG)]
        measured = {"metrics": found.values, **found.circumstances} if found else {}
        print(json.dumps({"out": args.out, "log": rows, **measured}))
        return
    if found:
        print(found)
    print(f"The run is in {args.out}, and summary.html about it. Use it as `--model {args.out}`.")
