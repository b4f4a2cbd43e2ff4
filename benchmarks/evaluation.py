"""AP of 100,000 predicted poses against pycocotools, and OKS-NMS of 10,000 images of 30 poses.

    python benchmarks/evaluation.py --write

The data are 10,000 images with two people each and ten predictions per image. Both tools read the same two files, and
their ten metrics must be equal.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kpzoo.data.coco import read_annotations
from kpzoo.data.results import read_results
from kpzoo.evaluation.metrics import average_precision
from kpzoo.files import write_json
from kpzoo.nms import oks, oks_nms
from kpzoo.skeletons import COCO17

NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
SIGMAS = np.array(COCO17.sigmas)
PERSONS = 2  # per image


def write_files(folder: Path, num_images: int, num_poses: int) -> tuple[Path, Path]:
    """Writes annotations and predictions of random people in COCO's formats."""
    rng = np.random.default_rng(0)
    size = rng.uniform(40, 200, (num_images, PERSONS, 1, 1))
    points = rng.uniform(0, 400, (num_images, PERSONS, 1, 2)) + size * rng.random((num_images, PERSONS, 17, 2))
    visibility = rng.integers(0, 3, (num_images, PERSONS, 17, 1))
    labelled = np.concatenate([points * (visibility > 0), visibility], axis=-1)
    chosen = rng.integers(0, PERSONS, (num_images, num_poses))
    rows = np.arange(num_images)[:, None]
    noise = rng.exponential(0.05, (num_images, num_poses, 1, 1)) * rng.normal(size=(num_images, num_poses, 17, 2))
    found = points[rows, chosen] + noise * size[rows, chosen]
    images = [{"id": i + 1, "file_name": f"{i}.jpg", "height": 640, "width": 640} for i in range(num_images)]
    persons = [
        {
            "id": number + 1,
            "image_id": number // PERSONS + 1,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [*points[place].min(axis=0).tolist(), *np.ptp(points[place], axis=0).tolist()],
            "area": float(0.6 * np.ptp(points[place], axis=0).prod()),
            "num_keypoints": int((visibility[place] > 0).sum()),
            "keypoints": labelled[place].ravel().tolist(),
        }
        for number, place in enumerate(np.ndindex(num_images, PERSONS))
    ]
    results = [
        {
            "image_id": place[0] + 1,
            "category_id": 1,
            "score": float(np.exp(-20 * np.abs(noise[place]).mean()) * rng.uniform(0.7, 1.0)),
            "keypoints": np.concatenate([found[place], np.ones((17, 1))], axis=1).ravel().tolist(),
        }
        for place in np.ndindex(num_images, num_poses)
    ]
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.keypoints)}
    annotations = {"images": images, "annotations": persons, "categories": [category]}
    return write_json(folder / "annotations.json", annotations), write_json(folder / "results.json", results)


def with_pycocotools(annotations: Path, results: Path) -> tuple[list[float], float]:
    """Returns the ten metrics of pycocotools, and the seconds of the evaluation without reading the files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "keypoints")
        started = time.perf_counter()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist(), time.perf_counter() - started


def with_kpzoo(annotations: Path, results: Path) -> tuple[list[float], float]:
    """Returns the ten metrics of kpzoo, and the seconds of the evaluation without reading the files."""
    truth = read_annotations(annotations)
    poses = read_results(results, truth)
    started = time.perf_counter()
    values = average_precision(truth, poses).values
    return [values[name] for name in NAMES], time.perf_counter() - started


def average_precisions(num_images: int, num_poses: int, rounds: int) -> tuple[list[dict], list[dict]]:
    """Returns the table of AP and its targets."""
    alone, numbers = {"pycocotools": [], "kpzoo": []}, {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), num_images, num_poses)

        def call(name, evaluate):
            numbers[name], seconds = evaluate(*files)
            alone[name].append(1000 * seconds)

        tools = {"pycocotools": with_pycocotools, "kpzoo": with_kpzoo}
        times = measure.interleaved({n: lambda n=n: call(n, tools[n]) for n in tools}, rounds, warm_up=0)
    alone = {name: measure.Times.of(values) for name, values in alone.items()}
    lines = [
        {
            "tool": name,
            "files to AP, s (middle half)": str(times[name].scaled(1e-3)),
            "evaluation alone, s (middle half)": str(alone[name].scaled(1e-3)),
        }
        for name in times
    ]
    difference = float(np.abs(np.subtract(*numbers.values())).max())
    bars = [
        measure.bar("AP, times as fast", alone["pycocotools"].median / alone["kpzoo"].median, at_least=5.0, unit="x"),
        measure.bar("largest difference of the ten numbers", difference, at_most=1e-12),
    ]
    return lines, bars


def plain_nms(points: np.ndarray, scores: np.ndarray, areas: np.ndarray) -> list[int]:
    """Greedy OKS-NMS of one image as in the reference implementations: a loop over the kept poses."""
    order, keep = np.argsort(-scores), []
    while len(order):
        first, rest = order[0], order[1:]
        keep.append(first)
        order = rest[oks(points[first], points[rest], (areas[first] + areas[rest]) / 2, SIGMAS) <= 0.9]
    return keep


def suppressions(num_images: int, num_poses: int, rounds: int) -> tuple[list[dict], list[dict]]:
    """Returns the table of OKS-NMS and its targets. A third of the poses are near-duplicates."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 400, (num_images, num_poses, 17, 2))
    doubles = num_poses // 3
    points[:, :doubles] = points[:, -doubles:] + rng.normal(size=(num_images, doubles, 17, 2))
    scores, areas = rng.random((num_images, num_poses)), np.full((num_images, num_poses), 1e4)

    def all_images(nms):
        return [nms(*one) for one in zip(points, scores, areas, strict=True)]

    ways = {"kpzoo": lambda *one: oks_nms(*one, SIGMAS, 0.9), "plain loop": plain_nms}
    kept = [all_images(way) for way in ways.values()]
    if any(list(a) != list(b) for a, b in zip(*kept, strict=True)):
        raise SystemExit("the two ways keep different poses")
    times = measure.interleaved({n: lambda w=ways[n]: all_images(w) for n in ways}, rounds, warm_up=0)
    seconds = times["kpzoo"].median / 1000
    lines = [
        {"way": name, "s (middle half)": str(found.scaled(1e-3)), "images/s": num_images / found.median * 1000}
        for name, found in times.items()
    ]
    return lines, [measure.bar("OKS-NMS, seconds", seconds, at_most=10.0, unit=" s")]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="writes the file of results")
    args = parser.parse_args(argv)
    ap, ap_bars = average_precisions(args.images, 10, args.rounds)
    nms, nms_bars = suppressions(args.images, 30, args.rounds)
    measure.report(
        "evaluation",
        f"Evaluation: AP of {10 * args.images:,} poses, OKS-NMS of {30 * args.images:,}",
        "python benchmarks/evaluation.py --write",
        {"COCO AP": ap, f"OKS-NMS of {args.images:,} images of 30 poses, keeping the same": nms},
        [*ap_bars, *nms_bars],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
