"""Export of models with the decoder as SavedModel, ONNX, LiteRT and OpenVINO files, and comparison with the model."""

from kpzoo.export.litert import to_litert
from kpzoo.export.onnx import to_onnx
from kpzoo.export.onnx_reduced import reduce_onnx
from kpzoo.export.openvino import to_openvino
from kpzoo.export.parity import Parity, compare
from kpzoo.export.savedmodel import to_savedmodel

__all__ = ["Parity", "compare", "reduce_onnx", "to_litert", "to_onnx", "to_openvino", "to_savedmodel"]
