"""From a model to what serves it: SavedModel, ONNX and LiteRT files with the decoder, and proof that they agree."""

from kpzoo.export.litert import to_litert
from kpzoo.export.onnx import to_onnx
from kpzoo.export.onnx_reduced import reduce_onnx
from kpzoo.export.parity import Parity, compare
from kpzoo.export.savedmodel import to_savedmodel

__all__ = ["Parity", "compare", "reduce_onnx", "to_litert", "to_onnx", "to_savedmodel"]
