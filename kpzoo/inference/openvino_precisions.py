"""Networks of reduced precision in OpenVINO: bfloat16, and int8 by NNCF. Heads and decoding stay in float32.

OpenVINO's own hint "bf16" also rounds the heatmaps to eight significant bits, so that neighbouring pixels become equal:
it moves keypoints several times as far.
"""

import contextlib
import io
import logging
from functools import partial
from importlib import import_module

import numpy as np
from tensorflow.core.framework.graph_pb2 import GraphDef

from kpzoo.errors import UserError
from kpzoo.inference.engines import Compile, imported
from kpzoo.inference.openvino_engine import OpenVinoNetwork, converted

LEAST, MOST = 8, 300  # crops for int8; more than `MOST` are not used
_CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
_NOT_OPERATIONS = ("Constant", "Parameter", "Result")


def in_bfloat16(graph: GraphDef, outputs: tuple[str, ...]) -> OpenVinoNetwork:
    """Returns a network that computes in bfloat16 from its first convolution up to its heads."""
    model = converted(graph, outputs)
    _lower(model)
    return OpenVinoNetwork(model, outputs)


def _lower(model) -> None:
    """Makes the part between the first convolution and the heads of an `openvino.Model` compute in bfloat16."""
    openvino, operations = imported("openvino", "openvino"), imported("openvino.opset13", "openvino")
    nodes = model.get_ordered_ops()
    below, above, heads = set(), set(), []  # names of nodes from a convolution on, and before one
    for node in nodes:
        if node.get_type_name() in _CONVOLUTIONS or not below.isdisjoint(_sources(node)):
            below.add(node.get_friendly_name())
    for node in reversed(nodes):
        name, convolves = node.get_friendly_name(), node.get_type_name() in _CONVOLUTIONS
        heads += [node] if convolves and name not in above else []
        if convolves or name in above:
            above.update(_sources(node))
    inner = below & above
    for node in nodes:
        lowered = node.get_friendly_name() in inner
        if lowered and node.get_type_name() == "Convert" and node.get_output_element_type(0) == openvino.Type.f32:
            node.set_destination_type(openvino.Type.bf16)
        for port in node.inputs():
            source = port.get_source_output()
            is_float = source.get_element_type() == openvino.Type.f32
            from_inner = source.get_node().get_friendly_name() in inner
            # The further inputs of an Interpolate are sizes and scales.
            if not is_float or (lowered and port.get_index() and node.get_type_name() == "Interpolate"):
                continue
            if lowered != from_inner:
                to = "bf16" if lowered else "f32"
                port.replace_source_output(operations.convert(source, to).output(0))
    model.validate_nodes_and_infer_types()


def _sources(node) -> set[str]:
    """Returns the names of the nodes that a node reads."""
    return {port.get_source_output().get_node().get_friendly_name() for port in node.inputs()}


def quantizer(crops: np.ndarray, image_hw: tuple[int, int]) -> Compile:
    """Returns a function from a frozen graph to a network in int8.

    Args:
        crops: (n, H, W, 3) crops of people, as in later calls. The ranges of activations are found with them.
        image_hw: (height, width) of a crop.

    Raises:
        UserError: If there are too few crops, they have another size, or NNCF is not installed.
    """
    shape = np.shape(crops)
    if len(shape) != 4 or shape[1:] != (*image_hw, 3) or shape[0] < LEAST:
        expected = f"(n, {image_hw[0]}, {image_hw[1]}, 3) with n of at least {LEAST}"
        raise UserError(f"`calibration=` must be crops {expected}. Received: shape {shape}.")
    try:
        nncf = import_module("nncf")
    except ImportError:
        raise UserError("int8 requires the package nncf. Install it with `pip install 'kpzoo[int8]'`.") from None
    return partial(_quantized, nncf, np.asarray(crops[:MOST], np.float32))


def _quantized(nncf, crops: np.ndarray, graph: GraphDef, outputs: tuple[str, ...]) -> OpenVinoNetwork:
    """Returns a network in int8 up to its heads."""
    model = converted(graph, outputs)
    operations = [one for one in model.get_ordered_ops() if one.get_type_name() not in _NOT_OPERATIONS]
    last = max(place for place, one in enumerate(operations) if one.get_type_name() in _CONVOLUTIONS)
    kept = nncf.IgnoredScope(names=[one.get_friendly_name() for one in operations[last:]], validate=False)
    data = nncf.Dataset([crops[place : place + 1] for place in range(len(crops))])
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF draws bars of progress there
        model = nncf.quantize(
            model, data, subset_size=len(crops), preset=nncf.QuantizationPreset.MIXED, ignored_scope=kept
        )
    return OpenVinoNetwork(model, outputs)
