"""Exports a model as an ONNX file for ONNX Runtime, and compares it with the Keras model.

    python export/onnx.py --model runs/cpn --out cpn.onnx
    python export/onnx.py --model runs/cpn --out cpn_float16.onnx --precision float16

Equivalent to `kpzoo export --to onnx`. See export/README.md for inputs, outputs and metadata.
"""

import sys
from pathlib import Path

# Otherwise onnx.py in this folder would shadow the package onnx.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from kpzoo import cli  # noqa: E402

if __name__ == "__main__":
    sys.exit(cli.main(["export", "--to", "onnx", *sys.argv[1:]]))
