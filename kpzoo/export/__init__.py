"""From a model to what serves it: SavedModel and ONNX files that hold the decoder, and the proof that they agree."""

from kpzoo.export.onnx import to_onnx
from kpzoo.export.parity import Parity, compare
from kpzoo.export.reduced import reduce_onnx
from kpzoo.export.savedmodel import to_savedmodel

__all__ = ["Parity", "compare", "reduce_onnx", "to_onnx", "to_savedmodel"]
