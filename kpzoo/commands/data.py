"""`kpzoo data`: making and looking at data sets."""

from kpzoo.commands.parsing import command, positive


def add(commands) -> None:
    parser = commands.add_parser("data", help="Make and look at data sets.", description="Make and look at data sets.")
    parts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_make(parts)
    _add_show(parts)


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
    from kpzoo.data import synthetic

    path = synthetic.make_dataset(
        args.folder, args.images, seed=args.seed, crowding=args.crowding, split=args.split, overwrite=args.overwrite
    )
    print(path)


def _add_show(parts) -> None:
    parser = command(
        parts, "show", _show, "Draw the annotations of pictures on a sheet.",
        "kpzoo data show ~/coco --split val --out sheet.png",
    )  # fmt: skip
    parser.add_argument("folder", help="a COCO-format folder")
    parser.add_argument("--split", help="part of the annotation file's name")
    parser.add_argument("--out", default="sheet.png", help="the picture to write")
    parser.add_argument("--images", type=positive, default=12, help="how many pictures")


def _show(args) -> None:
    from kpzoo import evaluation, images
    from kpzoo.data import files

    data = files.load(args.folder, args.split)
    print(images.write_image(args.out, evaluation.annotation_sheet(data, args.images)))
