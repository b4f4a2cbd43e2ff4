"""Compares exports with the Keras model. The exit code is 0 if they agree, else 1.

    python export/parity.py serving/cpn/1 cpn.onnx --model runs/cpn

Equivalent to `kpzoo export --compare serving/cpn/1 cpn.onnx`. Without `--no-check`, `kpzoo export` compares as well.
"""

import sys
from pathlib import Path

# Otherwise onnx.py in this folder would shadow the package onnx.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from kpzoo import cli  # noqa: E402

if __name__ == "__main__":
    sys.exit(cli.main(["export", "--compare", *sys.argv[1:]] if "--help" not in sys.argv else ["export", "--help"]))
