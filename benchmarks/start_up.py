"""Start-up times: `kpzoo --help`, building a large model, and loading its weights.

python benchmarks/start_up.py --write
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import measure

import kpzoo
from kpzoo.models import fresh

PLAIN = "build, draw all weights, then load a file"
QUICK = "build, with a weights file"


def plain(name: str, path: Path) -> None:
    """Builds a model with random weights and garbage collection, then loads the weights."""
    with mock.patch.object(fresh, "no_garbage_collection", nullcontext):
        model = kpzoo.build(name)
    kpzoo.load_weights(model, path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hrnet_w48", help="a name of `kpzoo models`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    command = [sys.executable, "-c", "from kpzoo import cli; cli.main(['--help'])"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        started = time.perf_counter()
        model = kpzoo.build(args.model)
        first = time.perf_counter() - started  # includes one-time initialization
        kpzoo.save_weights(model, path)
        alternatives = {
            "kpzoo --help": lambda: subprocess.run(command, check=True, capture_output=True),
            "build, fresh weights": lambda: kpzoo.build(args.model),
            PLAIN: lambda: plain(args.model, path),
            QUICK: lambda: kpzoo.build(args.model, weights=path),
            "load_weights into a built model": lambda: kpzoo.load_weights(model, path),
        }
        times = measure.interleaved(alternatives, args.rounds, warm_up=1)
    measure.report(
        "start_up",
        "Start-up",
        "python benchmarks/start_up.py --write",
        {args.model: measure.rows(times)},
        [
            measure.bar("kpzoo --help", times["kpzoo --help"].median / 1000, at_most=0.3, unit=" s"),
            measure.bar(f"{QUICK}, times as fast", times[PLAIN].median / times[QUICK].median, at_least=2.0, unit="x"),
        ],
        notes=[f"The first build in the process took {first:.1f} s."],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
