"""Measures how SavedModels and ONNX files differ from the Keras model; exit code 0 if they are equal, else 1.

    python export/parity.py serving/cpn/1 cpn.onnx --model runs/cpn

The same as `kpzoo export --compare serving/cpn/1 cpn.onnx`, which each export does on its own unless told `--no-check`.
"""

import sys
from pathlib import Path

# This folder's onnx.py would otherwise stand in for the package of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from kpzoo import cli  # noqa: E402

if __name__ == "__main__":
    sys.exit(cli.main(["export", "--compare", *sys.argv[1:]] if "--help" not in sys.argv else ["export", "--help"]))
