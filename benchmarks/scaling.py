"""Training crops per second of one core, and evaluation with replicas; also generates docs/scaling.md.

python benchmarks/scaling.py --write    # measure (one minute), write results/scaling.json and the page
python benchmarks/scaling.py --page     # only write the page, after results or models have changed

The speed for photos is that of results/input_pipeline.json.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

PAGE = Path(__file__).parents[1] / "docs/scaling.md"
TEXT = Path(__file__).parent / "scaling.md.template"
RESULTS, INPUT, PREDICTION, DETECTION = "scaling", "input_pipeline", "end_to_end", "detector"
DRAWN, RATE = "Training crops that one core makes", "crops/s of a core"
PHOTO_HW = (480, 640)  # as most of COCO's
BATCH_SIZE = 32

# Assumptions of the page, not measured.
GPU_TFLOPS = 30.0  # what a GPU computes of such networks in mixed precision: a tenth of an A100's peak of 312
HOST_GPUS, NUM_HOSTS = 8, 8
NETWORK_GBIT = 100.0  # between hosts
BACKWARD = 2.0  # a step is a forward pass and a backward pass of twice its work
COCO_PERSONS = 149_813  # of train2017 with keypoints, an epoch of HRNet's and MIPNet's recipes
CPN_EPOCH = 60_000  # crops, recipes/cpn.py
NUM_PICTURES = 10_000_000  # to predict, of a size as those of input_pipeline.json
NODES = (8, 64)
NODE_CORES = 16
NODE_GBIT = 10.0  # of a node, to the store
PICTURE_KB = 200.0
STORE_GETS = 5500.0  # per second and prefix, what Amazon documents for S3
POSES, DETECTOR = "cpn_res50", "person_fpn_lite0"  # of these files, in float32, with the flip test

MODELS = {  # size, crops in an epoch, epochs: those of the recipes
    "cpn_res50": ("256x192", CPN_EPOCH, 350),
    "simplebaseline_res50": ("256x192", COCO_PERSONS, 140),
    "hrnet_w32": ("256x192", COCO_PERSONS, 210),
    "mipnet_res50": ("256x192", COCO_PERSONS, 110),
    "hrnet_w48": ("384x288", COCO_PERSONS, 210),
    "mipnet_hrnet_w48": ("384x288", COCO_PERSONS, 110),
}
TWO_QUERIES = {"mipnet_res50": 1.67, "mipnet_hrnet_w48": 1.42}  # over one: `macs.bound`, for trainings ask for two

STAGES = ("read the file", "decode all of the JPEG")
LIMITS = ("cores", "GPUs", "network", "store")


def input_rate(image_hw: tuple[int, int]) -> float:
    """Returns the augmented training crops per second of one core, for drawn images."""
    import kpzoo
    from kpzoo.data.batches import make_dataset
    from kpzoo.scenes import drawn

    model = kpzoo.build("cpn_tiny", image_hw=image_hw)
    with tempfile.TemporaryDirectory() as folder:
        drawn.write_drawn(folder, 16, image_hw=PHOTO_HW, split="train")
        data = kpzoo.data.load(folder, "train")
        batches = iter(make_dataset(data, model, BATCH_SIZE, augment="hrnet"))
        for _ in range(3):
            next(batches)
        rates = []
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(3):
                next(batches)
            rates.append(3 * BATCH_SIZE / (time.perf_counter() - started))
    return sorted(rates)[len(rates) // 2]


def replicas() -> list[dict]:
    """Returns a table of the time per evaluation batch on one and on two logical CPUs."""
    import numpy as np

    import kpzoo
    from kpzoo.training import make_strategy

    crops = np.zeros((BATCH_SIZE, 128, 96, 3), np.float32)
    calls = {}
    for count in (2, 1):  # two first: TensorFlow starts with them
        with make_strategy(count).scope():
            run = kpzoo.accelerate(kpzoo.build("cpn_nano", image_hw=(128, 96)))
        calls[f"{count} logical CPU{'s' * (count > 1)}"] = lambda run=run: run(crops)[0].numpy()
    return measure.rows(measure.interleaved(calls, 7))


def part(name: str) -> list[dict]:
    """Returns a table measured in a separate process, as cores and logical devices are set once per process."""
    command = [sys.executable, __file__, "--part", name]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measured_part(name: str) -> list[dict]:
    if name == "replicas":
        return replicas()
    sizes = {"256x192": (256, 192), "384x288": (384, 288)}
    return [{"crop": label, RATE: input_rate(size)} for label, size in sizes.items()]


def arithmetic(rates: dict[str, float]) -> list[dict]:
    """Returns what each recipe asks of `NUM_HOSTS` hosts, and what then limits it.

    Args:
        rates: Crops a second of a core, by their size.
    """
    import kpzoo

    lines = []
    for name, (size, epoch, epochs) in MODELS.items():
        info = kpzoo.info(name)
        height, width = map(int, size.split("x"))
        area = height * width / (256 * 192)  # convolutions cost in proportion to it
        queries = TWO_QUERIES.get(name, 1.0)
        work = 2 * info.macs["256x192"] * area * queries * (1 + BACKWARD)  # FLOP of a crop
        of_gpu = GPU_TFLOPS * 1e12 / work
        ring = 2 * (NUM_HOSTS - 1) / NUM_HOSTS * 4 * info.num_params / (NETWORK_GBIT * 1e9 / 8)
        step = BATCH_SIZE / of_gpu
        lines.append(
            {
                "model": f"`{name}` {size}",
                "GFLOP of a crop's step": work / 1e9,
                "crops/s of a GPU": round(of_gpu),
                f"cores to feed {HOST_GPUS} GPUs": round(HOST_GPUS * of_gpu / rates[size] + 0.5),
                "MB of gradients": round(4 * info.num_params / 1e6),
                "ms of a step": round(1000 * step),
                "ms of the network": round(1000 * ring),
                "hours, 1 GPU": round(epoch * epochs / of_gpu / 3600, 1),
                f"hours, {HOST_GPUS} GPUs": round(epoch * epochs / of_gpu / HOST_GPUS / 3600, 1),
                f"hours, {NUM_HOSTS} hosts": round(
                    epoch * epochs / (HOST_GPUS * NUM_HOSTS * BATCH_SIZE) * max(step, ring) / 3600, 2
                ),
            }
        )
    return lines


def feeding(drawn: list[dict], samples: list[dict]) -> list[dict]:
    """Returns how many training crops of photos and of packs one core makes in a second, by their size.

    Args:
        drawn: What a core makes of drawn pictures: larger crops of photos are taken to be as many times slower.
        samples: The ways of the input pipeline's benchmark, with crops of 256x192 and two threads on as many cores.
    """
    drawn = {row["crop"]: row["crops/s of a core"] for row in drawn}
    photos, packed = (
        next(float(row["samples/s"].split()[0]) for row in samples if row["way"] == way) / 2
        for way in ("kpzoo, 2 threads", "kpzoo, packed, 2 threads")
    )
    return [
        {"crop": size, RATE: round(photos * rate / drawn["256x192"]), "packed": round(packed * rate / drawn["256x192"])}
        for size, rate in drawn.items()
    ]


def milliseconds(rows: list[dict], name: str) -> float:
    """Returns the median of the row whose first column begins with a name."""
    row = next(row for row in rows if next(iter(row.values())).startswith(name))
    return float(next(value for key, value in row.items() if key.endswith("(middle half)")).split()[0])


def counted(title: str, what: str) -> int:
    """Returns the number before a word in the title of a table."""
    return int(re.search(rf"(\d+) {what}", title)[1])


def stages(fed: dict, predicted: dict, detected: dict) -> list[dict]:
    """Returns the milliseconds of one core that each stage of predicting a picture takes.

    Args:
        fed, predicted, detected: Files of results. All cores were in use in the last two.
    """
    read = [milliseconds(fed["tables"]["Time per stage of a sample, one thread"], name) for name in STAGES]
    ((title, rows),), (photos,) = predicted["tables"].items(), detected["tables"].values()
    whole, network = (milliseconds(rows, name) for name in ("kpzoo.Predictor, batches of 8", "the network alone"))
    cores, count = predicted["machine"]["cores"], counted(title, "images")
    boxes = milliseconds(photos, DETECTOR) - milliseconds(photos, "reading the image alone")
    return [
        {"stage": "read and decode", "core ms of a picture": sum(read) / 1000},
        {"stage": f"person boxes, {DETECTOR}", "core ms of a picture": boxes * detected["machine"]["cores"]},
        {"stage": "crops, keypoints from heatmaps", "core ms of a picture": (whole - network) * cores / count},
        {"stage": f"poses, {POSES}", "core ms of a picture": network * cores / count},
    ]


def clusters(table: list[dict], people: float) -> list[dict]:
    """Returns how fast `NODES` predict `NUM_PICTURES`, with and without a GPU in each, and what limits them.

    Args:
        table: See `stages`.
        people: Crops of a picture.
    """
    import kpzoo

    decoding, detecting, cropping, posing = (row["core ms of a picture"] / 1000 for row in table)
    pose, boxes = (next(iter(kpzoo.info(name).macs.values())) for name in (POSES, DETECTOR))
    on_gpu = 2 * (boxes + 2 * people * pose) / (GPU_TFLOPS * 1e12)  # seconds; the flip test doubles the poses
    cores = f"{NODE_CORES} cores"
    lines = []
    for kind, on_cores, rate in (
        (cores, decoding + cropping + detecting + posing, None),
        (f"{cores}, 1 GPU", decoding + cropping, 1 / on_gpu),
    ):
        for count in NODES:
            limits = {"cores": count * NODE_CORES / on_cores}
            limits |= {"GPUs": count * rate} if rate else {}
            limits |= {"network": count * NODE_GBIT * 1e9 / 8 / (PICTURE_KB * 1000), "store": STORE_GETS}
            least = min(limits, key=limits.get)
            hours = NUM_PICTURES / limits[least] / 3600
            lines.append(
                {
                    "nodes": f"{count} of {kind}",
                    **{f"{name}: pictures/s": round(limits[name]) if name in limits else "" for name in LIMITS},
                    "limited by": least,
                    "hours": round(hours, 2),
                    "node-hours per million": round(hours * count / (NUM_PICTURES / 1e6), 2),
                }
            )
    return lines


def page() -> str:
    """Returns docs/scaling.md for the files of results."""
    found, fed, predicted, detected = (
        json.loads((measure.RESULTS / f"{name}.json").read_text("utf-8"))
        for name in (RESULTS, INPUT, PREDICTION, DETECTION)
    )
    spent, title = stages(fed, predicted, detected), next(iter(predicted["tables"]))
    people = counted(title, "boxes") / counted(title, "images")
    predicting, total = clusters(spent, people), sum(row["core ms of a picture"] for row in spent)
    table = feeding(found["tables"][DRAWN], fed["tables"]["Samples per second"])
    lines = arithmetic({row["crop"]: row[RATE] for row in table})
    cores = f"cores to feed {HOST_GPUS} GPUs"
    needed = [line[cores] for line in lines]
    hungriest = max(lines, key=lambda line: line[cores])
    slowest_network = max(lines, key=lambda line: line["ms of the network"] / line["ms of a step"])
    machine = found["machine"]
    alone, both = (row["ms (middle half)"] for row in reversed(found["tables"]["Evaluation of 32 crops by cpn_nano"]))
    values = dict(
        gpu_tflops=f"{GPU_TFLOPS:g}", gpus=HOST_GPUS, hosts=NUM_HOSTS, gbit=f"{NETWORK_GBIT:g}", batch=BATCH_SIZE,
        step=f"{1 + BACKWARD:g}", persons=f"{COCO_PERSONS:,}", cpn_epoch=f"{CPN_EPOCH:,}",
        all_gpus=HOST_GPUS * NUM_HOSTS, global_batch=HOST_GPUS * NUM_HOSTS * BATCH_SIZE,
        cpu=fed["machine"]["cpu"], drawn=f"{PHOTO_HW[1]}x{PHOTO_HW[0]}", input_table=measure.table(table),
        arithmetic=measure.table(lines), fewest=min(needed), most=max(needed), hungriest=hungriest["model"],
        busiest=slowest_network["model"], busiest_ms=slowest_network["ms of the network"],
        busiest_step=slowest_network["ms of a step"], alone=alone, both=both, cores=machine["cores"],
        predictions=measure.table(spent), clusters=measure.table(predicting), pictures=f"{NUM_PICTURES:,}",
        node_gbit=f"{NODE_GBIT:g}", kb=f"{PICTURE_KB:g}", gets=f"{STORE_GETS:,.0f}", people=f"{people:g}",
        share=round(100 * (spent[1]["core ms of a picture"] + spent[3]["core ms of a picture"]) / total),
        predicting_cpu=predicted["machine"]["cpu"], per_million=f"{1e6 * PICTURE_KB / 1e6:g}",
        queries=" and ".join(f"{times:g} queries of `{name}`" for name, times in TWO_QUERIES.items()),
    )  # fmt: skip
    return TEXT.read_text(encoding="utf-8").format(**values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the file of results and the page")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page from the file")
    parser.add_argument("--part", choices=("input", "replicas"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(measured_part(args.part)))
        return
    if not args.page:
        measure.report(
            RESULTS,
            "Training crops per core, and evaluation with several replicas",
            "python benchmarks/scaling.py --write",
            {
                DRAWN: part("input"),
                f"Evaluation of {BATCH_SIZE} crops by cpn_nano": part("replicas"),
            },
            [],
            notes=[
                f"Crops of drawn photos of {PHOTO_HW[1]}x{PHOTO_HW[0]} with HRNet's augmentation. docs/scaling.md uses "
                "these results."
            ],
            folder=measure.RESULTS if args.write else None,
        )
    if args.write or args.page:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    if "input" in sys.argv and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    main()
