"""Writes a model as an ONNX file for onnxruntime and proves that it answers what the Keras model answers.

    python export/onnx.py --model runs/cpn --out cpn.onnx
    python export/onnx.py --model runs/cpn --out cpn_float16.onnx --precision float16

The same as `kpzoo export --to onnx`; see export/README.md for inputs, outputs and metadata.
"""

import sys
from pathlib import Path

# This folder's onnx.py would otherwise stand in for the package of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from kpzoo import cli  # noqa: E402

if __name__ == "__main__":
    sys.exit(cli.main(["export", "--to", "onnx", *sys.argv[1:]]))
