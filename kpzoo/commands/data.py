"""`kpzoo data`: generates, converts, shows and checks data sets."""

import json
import sys

import kpzoo
from kpzoo.commands.parsing import (
    add_data_arguments,
    command,
    command_group,
    data_options,
    fraction,
    import_tensorflow,
    positive,
    size,
)
from kpzoo.convert import formats
from kpzoo.data import loading
from kpzoo.errors import UserError


def add(commands) -> None:
    parts = command_group(commands, "data", "Generate, convert, pack, show and check data sets.")
    _add_make(parts)
    _add_compose(parts)
    _add_pack(parts)
    _add_show(parts)
    _add_check(parts)
    _add_convert(parts)
    _add_stats(parts)
    _add_subset(parts)


def _add_make(parts) -> None:
    parser = command(
        parts, "make", _make, "Generate drawn scenes of people with exact annotations, in COCO format.",
        "kpzoo data make scenes --images 500 --crowding 0.5",
    )  # fmt: skip
    _add_scene_arguments(parser, crowding=0.0, split="name of the split")


def _add_scene_arguments(parser, crowding: float, split: str) -> None:
    """Adds the arguments of generated scenes: the default of --crowding, and the help of --split."""
    parser.add_argument("folder", help="output folder")
    parser.add_argument("--images", type=positive, default=100, help="number of images")
    parser.add_argument("--split", default="train", help=split)
    text = "overlap of the people, from 0 (apart) to 1 (as in OCHuman)"
    parser.add_argument("--crowding", type=float, default=crowding, help=text)
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing split")


def _make(args) -> None:
    from kpzoo import scenes

    path = scenes.write_drawn(
        args.folder, args.images, seed=args.seed, crowding=args.crowding, split=args.split, overwrite=args.overwrite
    )
    print(path)


def _add_compose(parts) -> None:
    parser = command(
        parts, "compose", _compose, "Compose crowds from people cut out of the photos of a data set, in COCO format.",
        "kpzoo data compose ~/coco crowds --split train2017 --images 5000 --crowding 0.7",
    )  # fmt: skip
    parser.add_argument("source", help="COCO-format folder with photos")
    _add_scene_arguments(parser, crowding=0.5, split="split of the source, and name of the new split")
    names = ("FEWEST", "MOST")
    parser.add_argument("--people", type=positive, nargs=2, default=[2, 3], metavar=names, help="people per image")
    add_data_arguments(parser, "--pictures")


def _compose(args) -> None:
    from kpzoo import scenes

    options = dict(seed=args.seed, crowding=args.crowding, people=tuple(args.people), split=args.split)
    source = loading.load(args.source, args.split, **data_options(args))
    print(scenes.write_composed(source, args.folder, args.images, **options, overwrite=args.overwrite, progress=True))


def _add_pack(parts) -> None:
    parser = command(
        parts, "pack", _pack, "Write the training crops of a COCO-format folder to a few TFRecord files, which are "
        "read sequentially. Train on them with `kpzoo train --data PACK --val-data FOLDER`.",
        "kpzoo data pack ~/coco coco_pack --split train2017 --image-size 256x192",
    )  # fmt: skip
    parser.add_argument("source", help="COCO-format folder with photos")
    parser.add_argument("folder", help="output folder; can be copied to an object store")
    parser.add_argument("--split", default="train", help="part of the annotation file's name")
    parser.add_argument("--image-size", type=size, default="256x192", metavar="HxW", help="largest crops to train on")
    parser.add_argument("--shards", type=positive, help="number of files; default: about 150 MB per file")
    parser.add_argument("--quality", type=positive, help="JPEG quality, 1 to 100")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing pack")
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
        parts, "show", _show, "Draw annotated images, or the crops and target heatmaps of a model, on one sheet.",
        "kpzoo data show ~/coco --split val --model mipnet_nano --out sheet.png",
    )  # fmt: skip
    parser.add_argument("folder", help="COCO-format folder")
    parser.add_argument("--split", help="part of the annotation file's name")
    parser.add_argument("--out", default="sheet.png", help="output image")
    parser.add_argument("--images", type=positive, default=12, help="number of images")
    parser.add_argument("--model", help="draw the crops and the target heatmaps of this model")
    parser.add_argument(
        "--image-size", type=size, default="256x192", metavar="HxW", help="height and width of the crops"
    )
    parser.add_argument("--augment", metavar="NAME", help="augmentation of the crops: cpn, hrnet or simplebaseline")
    add_data_arguments(parser, "--pictures")


def _show(args) -> None:
    if args.augment and not args.model:
        raise UserError("--augment needs crops. Add --model NAME.")
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
        parts, "check", _check, "Check the annotations and images of a data set. Exit code 2 means that something must "
        "be repaired.",
        "kpzoo data check ~/coco --split train --fix ~/coco_repaired",
    )  # fmt: skip
    parser.add_argument("folder", help="COCO-format folder")
    parser.add_argument("--split", help="part of the annotation file's name; default: all files")
    parser.add_argument("--no-images", action="store_true", help="do not decode the images")
    text = "write repaired annotations, with links to the images, to this folder"
    parser.add_argument("--fix", metavar="OUT", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_data_arguments(parser)


def _check(args) -> None:
    """Prints the problems of a data set. The exit code is 2 if something must be repaired."""
    from kpzoo.data import check, repair

    if not args.no_images:
        import_tensorflow()
    options, outside = data_options(args), args.allow_outside
    found = check.check(args.folder, args.split, pictures=not args.no_images, progress=sys.stderr.isatty(), **options)
    print(json.dumps([one.to_config() for one in found]) if args.json else "\n".join(map(str, found)))
    for one in found if args.fix else ():
        path, done = repair.write_repaired(one, args.fix, allow_outside=outside)
        repairs = ", ".join(f"{count} {what}" for what, count in done.items() if count) or "nothing to repair"
        print(f"{path}: {repairs}", file=sys.stderr)
    if not all(one.clean for one in found):
        raise SystemExit(2)


def _add_convert(parts) -> None:
    parser = command(
        parts, "convert", _convert, "Convert an export of a labelling tool, another data set's files or the poses of "
        "another program to a COCO-format folder, or such a folder to an Ultralytics YOLO-pose folder.",
        "kpzoo data convert cvat_export people --from cvat",
    )  # fmt: skip
    parser.add_argument("source", help="folder or file of the export; with --to yolo a COCO-format folder")
    parser.add_argument("out", help="output folder, which must be new; with --to results a .json file")
    text = "format of the export; default: guessed by its content. One of: " + ", ".join(formats.FORMATS)
    parser.add_argument("--from", dest="format", metavar="FORMAT", help=text)
    text = "format of the output; results are the poses of a program, to be scored with `kpzoo evaluate --results`"
    parser.add_argument("--to", choices=("coco", "yolo", "results"), default="coco", help=text)
    text = "with --to results: COCO annotations of the images, which give the image ids and the order of the keypoints"
    parser.add_argument("--annotations", metavar="FILE", help=text)
    text = "name of the split, of exports that have none; with --to yolo the only split to write; default: train, all"
    parser.add_argument("--split", help=text)
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking them")
    text = "leave out images that are not found, with their labels"
    parser.add_argument("--skip-missing", action="store_true", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    add_data_arguments(parser)
    parser.set_defaults(option_names={**parser.get_default("option_names"), "format": "--from"})


def _convert(args) -> None:
    """Prints the annotation files, and on stderr what was guessed, read, and could not be carried."""
    from kpzoo import convert

    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    output = dict(copy=args.copy, overwrite=args.overwrite, progress=sys.stderr.isatty())
    if (args.to == "results") != bool(args.annotations):
        raise UserError("--to results needs the annotations of the images, --annotations FILE, and others do not.")
    if args.to == "yolo":
        if args.format not in (None, "coco") or args.skip_missing:
            raise UserError(
                "--to yolo reads a COCO-format folder. Convert the export to one first, and that with --to."
            )
        print(convert.to_yolo(args.source, args.out, split=args.split, tell=tell, **data_options(args), **output))
        return
    export = convert.read(
        args.source, args.format, images=args.image_folder, skip_missing=args.skip_missing,
        category=None if args.annotations else args.category, skeleton=args.skeleton, tell=tell,
    )  # fmt: skip
    if args.to == "results":
        paths = [convert.to_results(export, args.out, args.annotations, category=args.category)]
    else:
        paths = convert.to_coco(export, args.out, split=args.split or "train", **output)
    print(*paths, sep="\n")
    print(export, *export.notes.lines(), sep="\n", file=sys.stderr)


def _add_stats(parts) -> None:
    parser = command(
        parts, "stats", _stats, "Write an HTML page about a data set: people, sizes, visible keypoints, crowding, left "
        "and right, duplicates, and the persons with the most unusual labels.",
        "kpzoo data stats ~/coco --split val --out stats.html",
    )  # fmt: skip
    parser.add_argument("folder", help="COCO-format folder")
    parser.add_argument("--split", help="part of the annotation file's name")
    parser.add_argument("--out", default="stats.html", help="output page")
    parser.add_argument("--no-pictures", action="store_true", help="do not read the images")
    add_data_arguments(parser)


def _stats(args) -> None:
    from kpzoo.data import stats_page

    data = loading.load(args.folder, args.split, **data_options(args))
    how = dict(pictures=not args.no_pictures, progress=sys.stderr.isatty())
    print(stats_page.write_stats(args.out, data, **how))


def _add_subset(parts) -> None:
    parser = command(
        parts, "subset", _subset, "Write the annotations of the images in which people overlap, with links to the "
        "images: a folder to evaluate crowds on.",
        "kpzoo data subset ~/coco crowded --split val --min-iou 0.3",
    )  # fmt: skip
    parser.add_argument("folder", help="COCO-format folder")
    parser.add_argument("out", help="output folder")
    parser.add_argument("--split", required=True, help="part of the annotation file's name")
    text = "IoU of the boxes of two labelled people that an image must have at least"
    parser.add_argument("--min-iou", type=fraction, required=True, metavar="IOU", help=text)
    add_data_arguments(parser)


def _subset(args) -> None:
    from kpzoo.data import subset

    data = loading.load(args.folder, args.split, **data_options(args))
    path, found = subset.write_subset(data, args.out, min_iou=args.min_iou)
    print(path)
    print(f"kpzoo: {found.num_images} of {found.of_images} images with {found.num_people} people", file=sys.stderr)
