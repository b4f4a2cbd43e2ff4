"""Soak test of videos: the memory of `kpzoo predict` over the frames of an hour of video.

    python benchmarks/soak_video.py --write                                  # an hour, 90,000 frames
    python benchmarks/soak_video.py --frames 6000 --batch-size 4 --write    # a short form, see its notes

A drawn clip is repeated in one video file. The command runs in a process of its own, with detection, poses,
interpolation, identities, smoothing and drawings; its memory is read from outside. Nobody is in view at the end of the
clip, for longer than identities are kept, so that each repetition has new identities. The exit code is 1 if the memory
grows by more than the limit.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import measure
import numpy as np

from kpzoo.inference import outputs
from kpzoo.inference.tracking import KEPT_SECONDS
from kpzoo.scenes.drawn_video import draw_video
from kpzoo.video_file import VideoFile

FPS, HOUR = 25.0, 90_000  # frames per second, and frames of an hour
CLIP, IMAGE_HW, PEOPLE = 100, (192, 320), 3  # frames with people
EMPTY = round(1.2 * KEPT_SECONDS * FPS)  # frames without
WARM_UP, COLLECTED = 0.2, 2500  # share of the frames, at least so many: then Python has freed what the start left
LIMIT = 50  # MB that the process may grow in an hour
COMMAND = "import sys; from kpzoo import cli; sys.exit(cli.main())"


class Sample(NamedTuple):
    """What is known at one time: seconds since the start, frames that are written, and memory in bytes.

    The system takes pages of files, such as those of libraries, from a process when it needs memory; what the process
    has allocated is the rest, `allocated`.
    """

    seconds: float
    frames: int
    resident: int
    allocated: int


class Counter:
    """Counts frames, poses and identities in the lines that a run adds to its `progress.jsonl`."""

    def __init__(self, path: Path):
        self.path, self.place, self.rest = path, 0, b""
        self.frames = self.poses = self.identities = 0

    def read(self) -> int:
        """Returns the number of frames so far."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self.place)
                while data := file.read(1 << 22):
                    self.place += len(data)
                    *lines, self.rest = (self.rest + data).split(b"\n")
                    self._count(lines)
        return self.frames

    def _count(self, lines: list[bytes]) -> None:
        for line in lines:
            if line.startswith(b'{"file_name"'):
                self.frames, self.poses = self.frames + 1, self.poses + line.count(b'"keypoints"')
                self.identities = max([self.identities, *map(int, re.findall(rb'"track_id":(\d+)', line))])


def write_video(path: Path, num_frames: int) -> None:
    """Writes a video of a clip that is repeated."""
    clip = [image for image, _ in draw_video(0, CLIP, people=PEOPLE, image_hw=IMAGE_HW, fps=FPS)]
    clip += EMPTY * [np.full_like(clip[0], 128)]
    video = VideoFile(path, FPS)
    for number in range(num_frames):
        video.add(clip[number % len(clip)])
    video.close()


def memory(pid: int) -> tuple[int, int, int]:
    """Returns the resident and the allocated memory of a process and the highest in bytes; 0 after its end."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0, 0, 0
    found = (re.search(rf"{name}:\s+(\d+) kB", status) for name in ("VmRSS", "RssAnon", "VmHWM"))
    return tuple(1024 * int(one[1]) if one else 0 for one in found)


def watched(arguments: list[str], out: Path, log: Path, pause: float) -> tuple[list[Sample], int, Counter]:
    """Runs `kpzoo` and returns the samples, the highest memory in bytes and the counts of its results."""
    counter, samples, highest, started = Counter(out / outputs.PROGRESS), [], 0, time.perf_counter()
    with log.open("wb") as told, subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stderr=told) as process:
        while process.poll() is None:
            frames, (resident, allocated, most) = counter.read(), memory(process.pid)
            if resident:
                samples.append(Sample(time.perf_counter() - started, frames, resident, allocated))
                highest = max(highest, most)
            time.sleep(pause)
    if process.returncode:
        raise SystemExit(f"The command failed with exit code {process.returncode}:\n{log.read_text()[-2000:]}")
    counter.read()
    return samples, highest, counter


def warm_up(num_frames: int) -> int:
    """Returns the number of frames after which memory is compared."""
    return max(round(WARM_UP * num_frames), COLLECTED)


def slope(samples: list[Sample], num_frames: int) -> tuple[float, float, list[Sample]]:
    """Returns bytes per frame, their standard error, and the samples after the warm-up until the last frame."""
    start = warm_up(num_frames)
    settled = [one for one in samples if start <= one.frames < num_frames]
    if len({one.frames for one in settled}) < 3:
        raise SystemExit("Too few samples. Add --frames, or shorten --pause.")
    frames, allocated = np.array([(one.frames, one.allocated) for one in settled], float).T
    offsets = frames - frames.mean()
    found = (offsets * allocated).sum() / (offsets**2).sum()
    rest = allocated - allocated.mean() - found * offsets
    return found, float(np.sqrt((rest**2).sum() / (len(rest) - 2) / (offsets**2).sum())), settled


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=HOUR)
    parser.add_argument("--every", type=int, default=10, help="the networks run on every N-th frame")
    parser.add_argument("--model", default="cpn_lite0", help="a model with weights in the package")
    parser.add_argument("--batch-size", type=int, help="crops per batch (default: that of `kpzoo predict`)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between samples")
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        video, out = Path(folder) / "hour.mp4", Path(folder) / "out"
        write_video(video, args.frames)
        options = ["--track", "--smooth", "--interpolate", "--every", str(args.every)]
        options += ["--no-flip", "--model", args.model]
        options += [] if args.batch_size is None else ["--batch-size", str(args.batch_size)]
        samples, highest, counter = watched(
            ["predict", str(video), "--out", str(out), *options], out, Path(folder) / "log", args.pause
        )
        sizes = {path.name: path.stat().st_size / 1e6 for path in out.iterdir()}
    bytes_per_frame, error, settled = slope(samples, args.frames)
    shown = [settled[row] for row in np.unique(np.linspace(0, len(settled) - 1, 20).round().astype(int))]
    shown = [*(one for one in samples if 0 < one.frames < shown[0].frames)][:1] + shown + samples[-1:]
    growth = bytes_per_frame * HOUR / 1e6
    line = {
        "frames": counter.frames,
        "poses": counter.poses,
        "identities": counter.identities,
        "minutes": samples[-1].seconds / 60,
        "bytes per frame": bytes_per_frame,
        "standard error": error,
        "MB resident, highest": highest / 1e6,
        **{f"MB of {name}": size for name, size in sorted(sizes.items())},
    }
    bars = [
        measure.bar("frames with results, of those of the video", counter.frames / args.frames, at_least=1),
        measure.bar("growth of the memory in an hour, from its slope", growth, at_most=LIMIT, unit=" MB"),
    ]
    measure.report(
        "soak_video" if args.batch_size is None else f"soak_video_batch_{args.batch_size}",
        f"Videos: memory over {args.frames:,} frames",
        " ".join(["python benchmarks/soak_video.py", *(sys.argv[1:] if argv is None else argv)]),
        {
            f"kpzoo predict VIDEO {' '.join(options)}, {IMAGE_HW[1]} x {IMAGE_HW[0]} pixels": [line],
            "Memory over time": [
                {
                    "minutes": f"{one.seconds / 60:.1f}",
                    "frames": str(one.frames),
                    "MB allocated": f"{one.allocated / 1e6:.1f}",
                    "MB resident": f"{one.resident / 1e6:.1f}",
                }
                for one in shown
            ],
        },
        bars,
        notes=[
            f"The slope is that of a line through the allocated memory after {warm_up(args.frames):,} frames. "
            "Resident memory also has pages of files. The last row is that of the end, when the tables are written.",
            "TensorFlow keeps compiled kernels for each size of a batch of crops, up to `--batch-size`: with each new "
            "size memory grows by some MB, once. Small batches soon have had all sizes.",
            f"A drawn clip of {CLIP} frames with people and {EMPTY} without is repeated. An hour has {HOUR:,} frames.",
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return int(any(one["met"] == "no" for one in bars))


if __name__ == "__main__":
    sys.exit(main())
