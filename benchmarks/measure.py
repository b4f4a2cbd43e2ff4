"""Shared code of the benchmarks: timing, description of the machine, targets, and files of results.

The speed of a shared machine varies by tens of percent within a minute. Alternatives are therefore timed in turn, round
by round, and compared by the ratio of their medians.
"""

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import kpzoo
from kpzoo.files import write_json

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "onnxruntime", "openvino", "nncf", "pycocotools")


class OwnTime(float):
    """Milliseconds measured by an alternative itself, to exclude its start."""


class Times(NamedTuple):
    """Milliseconds per call: the median and the quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Times":
        return cls(*np.percentile(list(values), [50, 25, 75]).tolist())

    def scaled(self, factor: float) -> "Times":
        """Returns the times multiplied by a factor, to convert the unit."""
        return Times(*(factor * value for value in self))

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g} … {self.high:.4g})"


def interleaved(
    alternatives: Mapping[str, Callable[[], object]], rounds: int, calls: int = 1, warm_up: int = 2
) -> dict[str, Times]:
    """Times the alternatives in turn.

    Args:
        alternatives: Calls by name. A call must wait for its result, for example with `.numpy()`, or return an
            `OwnTime`.
        rounds: Number of rounds. Every other round has the reverse order.
        calls: Number of consecutive calls that are timed together.
        warm_up: Number of calls before the first round.
    """
    for _ in range(warm_up):
        for call in alternatives.values():
            call()
    taken = {name: [] for name in alternatives}
    for number in range(rounds):
        for name in list(alternatives)[:: -1 if number % 2 else 1]:
            started = time.perf_counter()
            results = [alternatives[name]() for _ in range(calls)]
            elapsed = (time.perf_counter() - started) * 1000
            taken[name].append((sum(results) if isinstance(results[0], OwnTime) else elapsed) / calls)
    return {name: Times.of(values) for name, values in taken.items()}


def limit_threads(intra_op: int | None) -> None:
    """Sets the threads per TensorFlow operation; None for one per core. Must be called before any operation."""
    import tensorflow as tf

    if intra_op is not None:
        tf.config.threading.set_intra_op_parallelism_threads(intra_op)


def machine() -> dict:
    """Returns the processor, threads, versions, and the measured peaks in GFLOP/s of matrix products."""
    import tensorflow as tf

    text = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    model = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in text]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": f"{model or platform.processor() or platform.machine()} ({', '.join(flags)})",
        "cores": cores,
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads() or cores,
        "peak_gflops": peaks(),
        "versions": {
            "kpzoo": kpzoo.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _installed(PACKAGES)},
        },
    }


def _installed(names: Iterable[str]) -> list[str]:
    from importlib.metadata import PackageNotFoundError

    def known(name):
        try:
            return bool(version(name))
        except PackageNotFoundError:
            return False

    return [name for name in names if known(name)]


@cache
def peaks(size: int = 2048, rounds: int = 5) -> dict[str, float]:
    """Returns the GFLOP/s of a large matrix product in float32 and bfloat16, an upper bound for networks."""

    import tensorflow as tf

    def product(dtype):
        matrix = tf.cast(tf.random.stateless_normal((size, size), (0, 0)), dtype)
        run = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)[0]))
        return lambda: run().numpy()

    times = interleaved({dtype: product(dtype) for dtype in ("float32", "bfloat16")}, rounds)
    return {dtype: round(2 * size**3 / found.low / 1e6, 1) for dtype, found in times.items()}


def bar(name: str, reached: float, at_least: float | None = None, at_most: float | None = None, unit: str = "") -> dict:
    """Returns a target and the value reached. Exactly one of the two limits is given."""
    wanted = f"≥ {at_least:g}{unit}" if at_most is None else f"≤ {at_most:g}{unit}"
    reached_it = reached >= at_least if at_most is None else reached <= at_most
    return {"bar": name, "wanted": wanted, "reached": f"{reached:.3g}{unit}", "met": "yes" if reached_it else "no"}


def speed(name: str, multiply_adds: float, milliseconds: float) -> dict:
    """Returns the columns of the speed: multiply-adds, GFLOP/s, and the share of the peak in the same precision.

    Args:
        name: Name of the alternative, which contains "bfloat16" if that is its precision.
        multiply_adds: Multiply-adds per call, of two operations each.
        milliseconds: Time per call.
    """
    gflops = 2 * multiply_adds / milliseconds / 1e6
    peak = peaks()["bfloat16" if "bfloat16" in name else "float32"]
    columns = {"G multiply-adds": multiply_adds / 1e9, "GFLOP/s": gflops}
    return {**columns, "of the peak": f"{100 * gflops / peak:.0f} %"}


def rows(
    times: Mapping[str, Times],
    multiply_adds: Mapping[str, float] | None = None,
    **columns: Callable[[Times], object],
) -> list[dict]:
    """Returns a table of times.

    Args:
        times: What `interleaved` returned.
        multiply_adds: Multiply-adds per call of each alternative, for the columns of `speed`.
        **columns: Further columns, as functions of the `Times` of an alternative.
    """
    return [
        {
            "alternative": name,
            "ms (middle half)": str(found),
            **(speed(name, multiply_adds[name], found.median) if multiply_adds else {}),
            **{key: make(found) for key, make in columns.items()},
        }
        for name, found in times.items()
    ]


def report(
    name: str,
    title: str,
    command: str,
    tables: Mapping[str, list[dict]],
    bars: list[dict],
    *,
    notes: Iterable[str] = (),
    folder: Path | None = None,
) -> dict:
    """Prints the results and writes them to `NAME.json`.

    Args:
        name: Name of the file.
        title: Title of the section in the README.
        command: Command that repeats the measurement.
        tables: Rows by caption. A row is a dict from column to value.
        bars: Targets, as returned by `bar`.
        notes: Sentences on the meaning and the limits of the figures.
        folder: Folder of the file; None for no file.
    """
    found = {"title": title, "command": command, "machine": machine(), "tables": dict(tables), "bars": bars}
    found["notes"] = list(notes)
    print(as_text(found))
    if folder is not None:
        write_json(folder / f"{name}.json", found, indent=1)
    return found


def as_text(found: Mapping) -> str:
    """Returns the content of a file of results as Markdown."""
    machine, peak = found["machine"], found["machine"]["peak_gflops"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    parts = [f"## {found['title']}", f"    {found['command']}"]
    parts.append(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['intra_op_threads']} threads per operation; peak of "
        f"this run {peak['float32']:g} GFLOP/s in float32, {peak['bfloat16']:g} in bfloat16. {versions}."
    )
    tables = {**({"Bars": found["bars"]} if found["bars"] else {}), **found["tables"]}
    parts += [f"**{caption}**\n\n{table(lines)}" for caption, lines in tables.items()]
    parts += ["\n".join(f"* {note}" for note in found["notes"])] if found["notes"] else []
    return "\n\n".join(parts)


def table(lines: list[dict]) -> str:
    """Returns rows as a Markdown table."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    body = [[_cell(line.get(key, "")) for key in columns] for line in lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [columns, ["---"] * len(columns), *body])


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
