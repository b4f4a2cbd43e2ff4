"""Soak test: thousands of predictions for readable and unreadable images in one process, with constant memory.

    python benchmarks/soak.py --count 10000 --out benchmarks/soak.json

Half of the images are passed to a `kpzoo.Predictor` one by one, half in lists to its stream of batches. A quarter of
the files cannot be read, for various reasons. The exit code is 1 if a readable image has no pose, an unreadable one
has, or the memory of the process grows by more than `--limit` megabytes after the first fifth.
"""

import argparse
import json
import os
import platform
import struct
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np
import tensorflow as tf

import kpzoo
from kpzoo.errors import UserError

ROUND = 100  # images between measurements of the memory
BATCH = 16  # crops per batch of the stream


def write_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """Writes readable images of various sizes and formats, and unreadable files."""
    rng, good = np.random.default_rng(0), []
    for number in range(60):
        height, width = rng.integers(20, 700, 2)
        pixels = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (int(width), int(height)))
        suffix = (".jpg", ".jpg", ".png", ".webp", ".bmp", ".gif")[number % 6]
        if number % 5 == 1 and suffix != ".gif":
            pixels = pixels[..., 0]
        good.append(folder / f"good{number}{suffix}")
        cv2.imwrite(str(good[-1]), pixels.astype(np.uint16) * 257 if suffix == ".png" and number % 4 == 0 else pixels)
    jpeg, png = good[0].read_bytes(), good[2].read_bytes()
    contents = {
        "empty.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><html></html>",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "bomb.png": png[:16] + struct.pack(">II", 60_000, 60_000) + png[24:],
        "scan.tif": b"II*\0" + bytes(40),
        "text.jpg": b"no picture",
        "noise.jpg": jpeg[:4] + rng.bytes(3000),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    bad = [folder / name for name in (*contents, "missing.jpg")]
    return good, bad


def resident_mb() -> float:
    """Returns the memory of the process in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def one_by_one(predictor, paths: list[Path]) -> list[int]:
    """Returns the number of poses of each file, -1 for unreadable files, from single predictions."""
    counts = []
    for path in paths:
        try:
            counts.append(len(predictor(path)))
        except UserError:
            counts.append(-1)
    return counts


def as_a_stream(predictor, paths: list[Path]) -> list[int]:
    """Returns the number of poses of each file, -1 for unreadable files, from one call."""
    return [-1 if one.picture.problem else len(one.poses) for one in predictor.stream(paths)]


def soak(predictor, folder: Path, count: int) -> dict:
    """Returns the results of `count` predictions."""
    good, bad = write_pictures(folder)
    rng = np.random.default_rng(1)
    for size in range(1, BATCH + 1):  # TensorFlow caches kernels for each batch size
        as_a_stream(predictor, good[:size])
    wrong, num_good, memory, started = [], 0, [], time.perf_counter()
    for done in range(0, count, ROUND):
        chosen = [bad if rng.random() < 0.25 else good for _ in range(min(ROUND, count - done))]
        paths = [files[rng.integers(len(files))] for files in chosen]
        counts = (one_by_one if done // ROUND % 2 else as_a_stream)(predictor, paths)
        expected = [1 if files is good else -1 for files in chosen]
        wrong += [path.name for path, a, b in zip(paths, counts, expected, strict=True) if a != b]
        num_good += expected.count(1)
        memory.append(round(resident_mb(), 1))
    settled = memory[len(memory) // 5]
    seconds = time.perf_counter() - started
    return {
        "pictures": count,
        "good": num_good,
        "bad": count - num_good,
        "wrong": wrong[:10],
        "num_wrong": len(wrong),
        "seconds": round(seconds, 1),
        "pictures_per_s": round(count / seconds, 1),
        "memory_mb": memory[:: max(1, len(memory) // 20)],
        "settled_mb": settled,
        "grown_mb": round(max(memory[len(memory) // 5 :]) - settled, 1),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="pictures in all")
    parser.add_argument("--model", default="cpn_tiny", help="a name of `kpzoo models`, with fresh weights")
    parser.add_argument("--limit", type=float, default=50, help="megabytes that the process may grow")
    parser.add_argument("--out", help="where to write the figures as JSON")
    args = parser.parse_args(argv)
    model = kpzoo.build(args.model, image_hw=(64, 64))
    with tempfile.TemporaryDirectory() as folder:
        predictor = kpzoo.Predictor(model, detector="whole", flip=False, batch_size=BATCH)
        found = soak(predictor, Path(folder), args.count)
    found |= {"model": args.model, "limit_mb": args.limit}
    found["versions"] = {"kpzoo": kpzoo.__version__, "tensorflow": tf.__version__, "python": platform.python_version()}
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")
    return int(found["num_wrong"] > 0 or found["grown_mb"] > args.limit)


if __name__ == "__main__":
    sys.exit(main())
