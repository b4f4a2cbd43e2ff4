"""Exports a model as a SavedModel for TensorFlow Serving, and compares it with the Keras model.

    python export/savedmodel.py --model runs/cpn --out serving/cpn/1
    python export/savedmodel.py --model cpn_res50 --weights cpn_res50.weights.h5 --out serving/cpn_res50/1

Equivalent to `kpzoo export --to savedmodel`. See export/README.md for the signatures.
"""

import sys
from pathlib import Path

# Otherwise onnx.py in this folder would shadow the package onnx.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from kpzoo import cli  # noqa: E402

if __name__ == "__main__":
    sys.exit(cli.main(["export", "--to", "savedmodel", *sys.argv[1:]]))
