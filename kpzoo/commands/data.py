"""`kpzoo data`: making, looking at and checking data sets."""

import json
import sys

import kpzoo
from kpzoo.commands.parsing import add_data_arguments, command, data_options, import_tensorflow, positive, size
from kpzoo.data import loading
from kpzoo.errors import UserError

TEXT = "Make, look at and check data sets."


def add(commands) -> None:
    parser = commands.add_parser("data", help=TEXT, description=TEXT)
    parts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_make(parts)
    _add_compose(parts)
    _add_pack(parts)
    _add_show(parts)
    _add_check(parts)


def _add_make(parts) -> None:
    parser = command(
        parts, "make", _make, "Draw scenes of articulated figures as a COCO-format folder.",
        "kpzoo data make scenes --images 500 --crowding 0.5",
    )  # fmt: skip
    parser.add_argument("folder", help="where to write")
    parser.add_argument("--images", type=positive, default=100, help="how many pictures")
    parser.add_argument("--split", default="train", help="name of the part")
    parser.add_argument("--crowding", type=float, default=0.0, help="0: people apart, 1: overlapping as in OCHuman")
    parser.add_argument("--seed", type=int, default=0, help="which scenes")
    parser.add_argument("--overwrite", action="store_true", help="replace a part that is there")


def _make(args) -> None:
    from kpzoo import scenes

    path = scenes.write_drawn(
        args.folder, args.images, seed=args.seed, crowding=args.crowding, split=args.split, overwrite=args.overwrite
    )
    print(path)


def _add_compose(parts) -> None:
    parser = command(
        parts, "compose", _compose, "Put people of several photos into one, as a COCO-format folder of crowds.",
        "kpzoo data compose ~/coco crowds --split train2017 --images 5000 --crowding 0.7",
    )  # fmt: skip
    parser.add_argument("source", help="a COCO-format folder of photos")
    parser.add_argument("folder", help="where to write")
    parser.add_argument("--images", type=positive, default=100, help="how many pictures")
    parser.add_argument("--split", default="train", help="part of the source, and its name in the new folder")
    parser.add_argument("--crowding", type=float, default=0.5, help="0: people apart, 1: overlapping as in OCHuman")
    parser.add_argument(
        "--people", type=positive, nargs=2, default=[2, 3], metavar=("FEWEST", "MOST"), help="people in a picture"
    )
    parser.add_argument("--seed", type=int, default=0, help="which scenes")
    parser.add_argument("--overwrite", action="store_true", help="replace a part that is there")
    add_data_arguments(parser, "--pictures")


def _compose(args) -> None:
    from kpzoo import scenes

    options = dict(seed=args.seed, crowding=args.crowding, people=tuple(args.people), split=args.split)
    source = loading.load(args.source, args.split, **data_options(args))
    print(scenes.write_composed(source, args.folder, args.images, **options, overwrite=args.overwrite, progress=True))


def _add_pack(parts) -> None:
    parser = command(
        parts, "pack", _pack, "Write all that training sees of a COCO-format folder into a few files that are read "
        "from beginning to end. Train on them with `kpzoo train --data PACK --val-data FOLDER`.",
        "kpzoo data pack ~/coco coco_pack --split train2017 --image-size 256x192",
    )  # fmt: skip
    parser.add_argument("source", help="a COCO-format folder of photos")
    parser.add_argument("folder", help="where to write; copy it as it is, to an object store too")
    parser.add_argument("--split", default="train", help="part of the annotation file's name")
    parser.add_argument("--image-size", type=size, default="256x192", help="largest crops to train on, HEIGHTxWIDTH")
    parser.add_argument("--shards", type=positive, help="how many files; if not given, as many as are of a handy size")
    parser.add_argument("--quality", type=positive, help="of the JPEGs, 1 to 100")
    parser.add_argument("--overwrite", action="store_true", help="replace a pack that is there")
    add_data_arguments(parser)


def _pack(args) -> None:
    import_tensorflow()
    from kpzoo.data import packing

    source = loading.load(args.source, args.split, **data_options(args))
    print(
        packing.write_pack(
            source,
            args.folder,
            image_hw=args.image_size,
            num_shards=args.shards,
            quality=args.quality or packing.QUALITY,
            overwrite=args.overwrite,
            progress=True,
        )
    )


def _add_show(parts) -> None:
    parser = command(
        parts, "show", _show, "Draw annotations on a sheet: of pictures, or as a model is trained with them.",
        "kpzoo data show ~/coco --split val --model mipnet_nano --out sheet.png",
    )  # fmt: skip
    parser.add_argument("folder", help="a COCO-format folder")
    parser.add_argument("--split", help="part of the annotation file's name")
    parser.add_argument("--out", default="sheet.png", help="the picture to write")
    parser.add_argument("--images", type=positive, default=12, help="how many pictures")
    parser.add_argument("--model", help="draw crops with the target heatmaps of every instance, as this model has them")
    parser.add_argument("--image-size", type=size, default="256x192", help="of those crops, as HEIGHTxWIDTH")
    parser.add_argument("--augment", help="of those crops: cpn, hrnet or simplebaseline")
    add_data_arguments(parser, "--pictures")


def _show(args) -> None:
    if args.augment and not args.model:
        raise UserError("--augment is for crops. Add --model NAME, to say whose.")
    import_tensorflow()
    from kpzoo import evaluation, images

    data = loading.load(args.folder, args.split, **data_options(args))
    if args.model:
        model = kpzoo.build(args.model, image_hw=args.image_size, skeleton=data.skeleton)
        sheet = evaluation.heatmap_sheet(model, data, args.images, augment=args.augment)
    else:
        sheet = evaluation.annotation_sheet(data, args.images)
    print(images.write_image(args.out, sheet))


def _add_check(parts) -> None:
    parser = command(
        parts, "check", _check, "Look for faults in annotations and pictures before hours of training.",
        "kpzoo data check ~/coco --split train --fix ~/coco_mended",
    )  # fmt: skip
    parser.add_argument("folder", help="a COCO-format folder")
    parser.add_argument("--split", help="part of the annotation file's name; all files if not given")
    parser.add_argument("--no-images", action="store_true", help="do not decode the images")
    text = "folder for repaired copies of the annotations, with links to the pictures"
    parser.add_argument("--fix", metavar="OUT", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_data_arguments(parser)


def _check(args) -> None:
    """Tells what is wrong, with exit code 2 where anything had to be mended."""
    from kpzoo.data import check, repair

    if not args.no_images:
        import_tensorflow()
    options, outside = data_options(args), args.allow_outside
    found = check.check(args.folder, args.split, pictures=not args.no_images, progress=sys.stderr.isatty(), **options)
    print(json.dumps([one.to_config() for one in found]) if args.json else "\n".join(map(str, found)))
    for one in found if args.fix else ():
        path, done = repair.write_repaired(one, args.fix, allow_outside=outside)
        told = ", ".join(f"{count} {what}" for what, count in done.items() if count) or "nothing to mend"
        print(f"{path}: {told}", file=sys.stderr)
    if not all(one.clean for one in found):
        raise SystemExit(2)
