"""The papers' ablation studies at a size for CPUs: the effect of each part of CPN and MIPNet, next to published values.

    python recipes/ablations.py --data ~/lspet --out runs/ablations    # hours; --smoke: a few steps of tiny models
    python recipes/ablations.py --data ~/lspet --out runs/ablations --only table7 globalnet --seeds 2
    python recipes/ablations.py --page docs/results.md                 # rewrites the page from the results file

Each row is one network. All rows are trained on the same images in the same order for the same number of steps. A row
that appears in several tables is trained once per seed. Rows of the last tables, which vary a number, are trained with
the first seed only, unless `--only` selects them. An interrupted study is resumed; several processes with the same
`--out` share the work. `~/lspet` is any folder in COCO format with the splits train and val.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ablation_page
import keras
import tensorflow as tf

import kpzoo
from kpzoo import files, training
from kpzoo.data import augment
from kpzoo.errors import UserError, unknown
from kpzoo.files import prepare_streams
from kpzoo.inference import POSE_NMS
from kpzoo.losses import CPNLoss, HeatmapLoss, MultiInstanceLoss
from kpzoo.models.counting import count_macs, count_params
from kpzoo.scenes import composed, drawn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="folder of a data set in COCO format")
parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="folder for all output")
parser.add_argument("--only", nargs="+", metavar="ROW", help="rows or tables to train (default: all)")
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of weights, order and augmentation")
parser.add_argument("--epochs", type=int, default=2, help="epochs per row")
parser.add_argument("--threads", type=int, help="TensorFlow threads; use 1 if several processes share the work")
parser.add_argument("--results", type=Path, default=Path("docs/results/ablations.json"), help="results file")
parser.add_argument("--page", type=Path, help="only write this page from the results file")
parser.add_argument("--smoke", action="store_true", help="train tiny models for a few steps, as a test")

BATCH_SIZE = 16
LEARNING_RATE = 4e-3
AUGMENT = augment.Augment(scale=(0.8, 1.25), rotation=30.0, rotation_probability=0.6, flip_probability=0.5)
CROWDS = dict(crowding=0.75, people=(3, 3))
NUM_CROWDS = {"train": 2000, "val": 200}
ONE_BOX_IOU = 0.5
SMOKE_STEPS, SMOKE_SCENES, SMOKE_HW = 2, 4, (64, 64)


@dataclass(frozen=True)
class Row:
    """A network to train: its differences from the small CPN with OHKM.

    Args:
        model: Name of the model.
        options: Arguments of `kpzoo.build`.
        loss: Arguments of `CPNLoss`. Models other than CPN and MIPNet are trained with `HeatmapLoss`.
        image_hw: (height, width) of the crops.
        start: Row of the initial weights for a training on composed scenes; None to train on the photos from random
            weights.
    """

    model: str = "cpn_nano"
    options: Mapping = field(default_factory=dict)
    loss: Mapping = field(default_factory=dict)
    image_hw: tuple[int, int] = (128, 96)
    start: str | None = None


L2 = dict(refine_loss="l2")
WIDER_HW = (192, 160)
BASIC = dict(bottlenecks=False, stem=32)
ROWS = {
    "cpn": Row(),  # L2 on GlobalNet, OHKM with M = 8 on RefineNet
    "cpn_l2": Row(loss=L2),  # the paper's CPN*
    "cpn_refine_l2": Row(loss=dict(global_loss=None, **L2)),
    "cpn_refine_ohkm": Row(loss=dict(global_loss=None)),
    "cpn_ohkm_ohkm": Row(loss=dict(global_loss="ohkm")),
    "globalnet": Row(options=dict(refine=None), loss=L2),
    "cpn_concat": Row(options=dict(refine="concat")),
    "cpn_bottleneck": Row(options=dict(refine="bottleneck")),
    # Widths that give about the multiply-adds of the small CPN.
    "simplebaseline": Row("simplebaseline_nano", dict(deconvs=(128, 128, 96))),
    "hourglass_1": Row("hourglass_nano"),
    "hourglass_2": Row("hourglass_nano", dict(num_stacks=2, width=88)),
    "resnet": Row("dilated_nano", dict(trunk_stride=32, blocks=(1, 2, 2, 1), widths=(64, 120, 192, 288))),
    "dilated": Row("dilated_nano", dict(trunk_stride=8, widths=(48, 96, 128, 168))),
    "crowd_1": Row(loss=L2, start="cpn_l2"),
    "crowd_2": Row("mipnet_nano", dict(num_instances=2), L2, start="cpn_l2"),
    "crowd_3": Row("mipnet_nano", dict(num_instances=3), L2, start="cpn_l2"),
    "cpn_c2": Row(options=dict(levels=("c2",))),
    "cpn_c2_c3": Row(options=dict(levels=("c2", "c3"))),
    "cpn_c2_c4": Row(options=dict(levels=("c2", "c3", "c4"))),
    "cpn_top6": Row(loss=dict(top_k=6)),
    "cpn_top10": Row(loss=dict(top_k=10)),
    "cpn_top12": Row(loss=dict(top_k=12)),
    "cpn_large": Row(image_hw=WIDER_HW),
    "cpn_l2_large": Row(loss=L2, image_hw=WIDER_HW),
}


def compiled(row: Row, skeleton, seed: int, steps: int, weights: Path | None):
    """Returns the row's network, compiled with its loss and one cosine decay over `steps` steps."""
    keras.utils.set_random_seed(seed)
    model = kpzoo.build(row.model, image_hw=row.image_hw, skeleton=skeleton, weights=weights, **row.options)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=LEARNING_RATE, warmup_steps=steps // 8)
    if model.preset.codec == "hrnet":
        model.compile(keras.optimizers.Adam(rate), HeatmapLoss())  # the references use no weight decay
    else:
        loss = CPNLoss(**row.loss, flavour=model.preset.codec.removeprefix("cpn_"))
        model.compile(training.AdamL2(rate), MultiInstanceLoss(loss) if row.model.startswith("mipnet") else loss)
    return model


def measure(name: str, seed: int, args) -> dict:
    """Trains and scores a row."""
    row = small(ROWS[name]) if args.smoke else ROWS[name]
    source = crowds(args) if row.start else args.data
    train, val = (kpzoo.data.load(source, split) for split in ("train", "val"))
    steps = SMOKE_STEPS if args.smoke else kpzoo.data.num_persons(train) // BATCH_SIZE
    weights = args.out / f"{row.start}_seed{seed}" / training.WEIGHTS if row.start else None
    started = time.perf_counter()
    model = training.run(
        lambda: compiled(row, train.skeleton, seed, args.epochs * steps, weights),
        train,
        args.out / f"{name}_seed{seed}",
        epochs=args.epochs,
        steps_per_epoch=steps,
        batch_size=4 if args.smoke else BATCH_SIZE,
        augment=AUGMENT,
        seed=seed,
        precision=precision(args),
    )
    minutes = (time.perf_counter() - started) / 60
    found = {"num_params": count_params(model), "macs": count_macs(model), "minutes": round(minutes, 1)}
    found |= {"num_train": kpzoo.data.num_persons(train), "num_val": kpzoo.data.num_persons(val)}
    # NMS is needed on composed scenes only, and is then applied to all rows.
    values = kpzoo.evaluate(model, val, nms=POSE_NMS if row.start else "auto").values
    found |= {key: value for key, value in values.items() if key in ("AP", "AP50", "AR", "PCK@0.2")}
    if row.start:
        found["AP_one_box"] = kpzoo.evaluate(model, val, nms=POSE_NMS, box_nms=ONE_BOX_IOU).values["AP"]
    return found


def small(row: Row) -> Row:
    """Returns the row with a tiny network, for the smoke test."""
    model = {"mipnet_nano": "mipnet_cpn_tiny"}.get(row.model, row.model.replace("nano", "tiny"))
    sizes = ("width", "widths", "blocks", "deconvs", "num_stacks")
    options = {key: value for key, value in row.options.items() if key not in sizes}
    return Row(model, options, row.loss, SMOKE_HW, row.start)


def crowds(args) -> Path:
    """Returns the folder of composed scenes, which the first process writes."""
    folder = args.out / "crowds"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        files.hold(lock)
        for split, count in NUM_CROWDS.items():
            if not (folder / f"annotations/person_keypoints_{split}.json").exists():
                print(f"composing crowds for {split} …", flush=True)
                source = kpzoo.data.load(args.data, split)
                composed.write_composed(source, folder, SMOKE_SCENES if args.smoke else count, split=split, **CROWDS)
    return folder


def settle(name: str, seed: int, args, wait: bool = False) -> None:
    """Measures a row and writes its file, unless the file exists or another process is measuring the row."""
    if ROWS[name].start:
        settle(ROWS[name].start, seed, args, wait=True)
    path = args.out / "rows" / f"{name}_seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w", encoding="utf-8") as lock:
        if not files.hold(lock, wait=wait):
            return
        if not path.exists():
            print(f"{name}, seed {seed} …", flush=True)
            found = {"row": name, "seed": seed, "settings": settings(args), **measure(name, seed, args)}
            files.write_json(path, found, indent=1)
            print(f"{name}, seed {seed}: AP {found['AP']:.3f}, PCK@0.2 {found['PCK@0.2']:.3f}", flush=True)
            keras.backend.clear_session()
    merge(args)


def settings(args) -> dict:
    """Returns the settings that must be equal for all rows of a study."""
    low, high = AUGMENT.scale
    augment = f"scale {low} to {high}, rotation up to {AUGMENT.rotation:g} degrees, mirrored"
    versions = f"kpzoo {kpzoo.__version__}, keras {keras.__version__}, tensorflow {tf.__version__}"
    values = dict(epochs=args.epochs, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, augment=augment)
    data = [kpzoo.data.load(args.data, split).crc32 for split in ("train", "val")]
    return values | {"precision": precision(args), "versions": versions, "data_crc32": data}


def check(path: Path, before: dict, args) -> None:
    """Raises a `UserError` if the settings of the rows in `path` differ."""
    for name, value in settings(args).items():
        if before.get(name) != value:
            received = f"{name}={before.get(name)!r}. Received: {value!r}"
            raise UserError(f"{str(path)!r} was made with {received}. Use the same, or another --out and --results.")


def precision(args) -> str:
    return "float32" if args.smoke else "mixed_bfloat16"


def merge(args) -> None:
    """Adds the files of all measured rows to the results file. Other rows of the file are kept."""
    with (args.out / ".merge.lock").open("w", encoding="utf-8") as lock:
        files.hold(lock)
        results = {"command": "python recipes/ablations.py --data PHOTOS", "settings": settings(args), "rows": {}}
        if args.results.exists():
            results = json.loads(args.results.read_text("utf-8"))
            check(args.results, results["settings"], args)
        for path in (args.out / "rows").glob("*.json"):
            found = json.loads(path.read_text("utf-8"))
            check(path, found.pop("settings"), args)
            results["rows"].setdefault(found.pop("row"), {})[str(found.pop("seed"))] = found
        results["rows"] = {
            name: dict(sorted(results["rows"][name].items())) for name in ROWS if name in results["rows"]
        }
        files.write_json(args.results, results, indent=1)


def work(only: list[str] | None, seeds: list[int]) -> Iterator[tuple[str, int]]:
    """Yields (row, seed) in training order, see `ablation_page.ORDER`."""
    tables = ablation_page.TABLES
    for known in only or ():
        if known not in ROWS and known not in tables:
            raise unknown("row or table", known, [*ROWS, *tables])
    wanted = {row for name in only or tables for row in (tables[name].rows if name in tables else [name])}
    for group in ablation_page.ORDER:
        if not only and group == ablation_page.ORDER[-1]:
            seeds = seeds[:1]
        rows = [name for name in ROWS if name in wanted and any(name in tables[table].rows for table in group)]
        yield from ((name, seed) for seed in seeds for name in rows)
        wanted -= set(rows)


def main(args) -> None:
    prepare_streams()
    if args.page:
        print(ablation_page.write(args.results, args.page))
        return
    if args.threads:
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    if args.smoke:
        args.epochs, args.seeds, args.data = 1, args.seeds[:1], args.out / "scenes"
        args.results = args.out / "results.json"
        for split in ("train", "val"):
            drawn.write_drawn(args.data, SMOKE_SCENES, split=split, people=(2, 2), overwrite=True)
    elif args.data is None:
        parser.error("--data FOLDER is needed, or --smoke")
    if args.results.exists():
        check(args.results, json.loads(args.results.read_text("utf-8"))["settings"], args)
    for name, seed in work(args.only, args.seeds):
        settle(name, seed, args)
    print(ablation_page.page(json.loads(args.results.read_text("utf-8"))))


if __name__ == "__main__":
    main(parser.parse_args())
