"""Rewrites a traced network for inference: batch norm folded into convolutions, fewer multiplications, bfloat16.

The functions work on `GraphDef`s and change no option of the process. Weights become placeholders, each with a function
that computes its value from the variables, so that a rewritten graph can be used with any later values of the
variables.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

Values = Mapping[str, np.ndarray]  # of variables, by the names of their placeholders
Shapes = Mapping[str, tuple[int | None, ...]]  # by node name; empty where the rank is unknown

_CONVOLUTIONS = {"Conv2D": (0, 1), "Conv2DBackpropInput": (1, 2)}  # inputs that have the operation's type
_FOLDING = {*_CONVOLUTIONS, "DepthwiseConv2dNative"}  # operations that the following batch norm is folded into
_FILTER = 1  # input of these operations that is the filter
# Operations that compute in bfloat16 if an input does, with the inputs that have the operation's type; for
# ConcatV2 they are all but the last.
_FOLLOWING = {
    "AddV2": (0, 1), "BiasAdd": (0, 1), "ConcatV2": (), "FusedBatchNormV3": (0,), "MaxPool": (0,), "Mul": (0, 1),
    "Pad": (0,), "Relu": (0,), "Reshape": (0,), "ResizeNearestNeighbor": (0,), "StridedSlice": (0,), "Tile": (0,),
}  # fmt: skip


@dataclass
class Network:
    """A graph without variables.

    Args:
        graph: The nodes that the outputs depend on.
        weights: For each placeholder, a function from the variables' values to its value.
    """

    graph: GraphDef
    weights: dict[str, Callable[[Values], np.ndarray]]

    def is_whole(self, inputs: Iterable[str]) -> bool:
        """Returns whether all placeholders are inputs or weights, which is false if a loop reads a variable."""
        known = {*inputs, *self.weights}
        open_places = {node.name for node in self.graph.node if node.op == "Placeholder"}
        return open_places <= known and not self.graph.library.function


@dataclass(frozen=True)
class Fold:
    """A convolution followed by batch norm, given by the placeholders of their variables; `bias` may be None."""

    filters: str
    scale: str
    offset: str
    mean: str
    variance: str
    bias: str | None
    epsilon: float
    output_third: bool  # whether the filter is (kh, kw, out, ·), as for transposed and depthwise convolutions

    def _factor(self, values: Values) -> np.ndarray:
        return values[self.scale] / np.sqrt(values[self.variance].astype(np.float64) + self.epsilon)

    def folded_filter(self, values: Values) -> np.ndarray:
        factor = self._factor(values)  # (out,)
        return values[self.filters] * (factor[:, None] if self.output_third else factor).astype(np.float32)

    def folded_bias(self, values: Values) -> np.ndarray:
        bias = values[self.bias].ravel() if self.bias else 0.0
        return (values[self.offset] + (bias - values[self.mean]) * self._factor(values)).astype(np.float32)


def folded(graph: GraphDef, outputs: Iterable[str], variables: Iterable[str], shapes: Shapes) -> Network:
    """Returns the nodes that the outputs depend on, with batch norm folded into the preceding convolutions.

    1x1 convolutions of upsampled maps are computed before upsampling.

    Args:
        graph: A traced network without control flow, which is modified.
        outputs: Names of the output nodes.
        variables: Names of the placeholders of variables.
        shapes: Shapes of the nodes' first outputs.
    """
    # Before folding, because the shapes of folded filters are unknown.
    pointwise = {
        node.name: shapes[_source(node.input[_FILTER])][2] for node in graph.node if _is_pointwise(node, shapes)
    }
    nodes, weights, variables = {node.name: node for node in graph.node}, {}, set(variables)
    reads = {n.name: n.input[0] for n in graph.node if n.op == "ReadVariableOp" and n.input[0] in variables}
    for name, variable in reads.items():
        nodes[name].CopyFrom(_placeholder(name, nodes[name].attr["dtype"].type))
        weights[name] = partial(_value, variable)
    for norm, convolution, fold in list(_folds(nodes, reads)):
        for part, make in (("filter", fold.folded_filter), ("bias", fold.folded_bias)):
            weights[f"{norm.name}/{part}"] = make
            nodes[f"{norm.name}/{part}"] = _placeholder(f"{norm.name}/{part}", tf.float32.as_datatype_enum)
        convolution.input[_FILTER] = f"{norm.name}/filter"
        with_bias = NodeDef(name=norm.name, op="BiasAdd", input=[convolution.name, f"{norm.name}/bias"])
        for name in ("T", "data_format"):
            with_bias.attr[name].CopyFrom(norm.attr[name])
        norm.CopyFrom(with_bias)
    ordered = [new for node in nodes.values() for new in _before_enlarging(node, nodes, weights, pointwise, shapes)]
    return leading_to(outputs, GraphDef(node=ordered, library=graph.library, versions=graph.versions), weights)


def _is_pointwise(node: NodeDef, shapes: Shapes) -> bool:
    """Returns whether a node is a 1x1 convolution with stride 1 in float32."""
    if node.op != "Conv2D" or node.attr["T"].type != tf.float32 or node.attr["padding"].s == b"EXPLICIT":
        return False
    strided = set(node.attr["strides"].list.i) != {1} or node.attr["data_format"].s not in (b"", b"NHWC")
    return not strided and tuple(shapes[_source(node.input[_FILTER])][:2]) == (1, 1)


def _before_enlarging(
    node: NodeDef, nodes: Mapping[str, NodeDef], weights: dict, pointwise: Mapping[str, int], shapes: Shapes
) -> list[NodeDef]:
    """Returns the nodes that replace a node: several for a 1x1 convolution of maps of which some were upsampled.

    Bilinear resizing acts on pixels and a 1x1 convolution on channels, so that their order does not change the result,
    but convolving the small maps takes fewer multiplications. The convolution of concatenated maps is the sum of the
    convolutions of each map; RefineNet's largest convolutions then take a third of the multiplications. The last node
    keeps the convolution's name. The filters of the parts are added to `weights`.
    """
    if node.name not in pointwise or node.input[_FILTER] not in weights:
        return [node]
    before = nodes[_source(node.input[0])]
    maps = list(before.input[: before.attr["N"].i]) if before.op == "ConcatV2" else [node.input[0]]
    channels = [_channels(name, shapes) for name in maps]
    joined = (
        None not in channels and sum(channels) == pointwise[node.name]
    )  # False for concatenation along another axis
    if not joined or not any(_enlarges(nodes[_source(name)], shapes) for name in maps):
        return [node]
    made, terms, ends = [], [], list(accumulate(channels, initial=0))
    for place, name in enumerate(maps):
        resized = nodes[_source(name)]
        grows, label = _enlarges(resized, shapes), f"{node.name}/part_{place}"
        weights[f"{label}/filter"] = partial(_inputs, weights[node.input[_FILTER]], ends[place], ends[place + 1])
        made.append(_placeholder(f"{label}/filter", tf.float32.as_datatype_enum))
        made.append(_renamed(node, label, resized.input[0] if grows else name, f"{label}/filter"))
        if grows:
            made.append(_renamed(resized, f"{label}/enlarged", label, resized.input[1]))
        terms.append(made[-1].name)
    if len(terms) == 1:
        made[-1].name = node.name
        return made
    total = NodeDef(name=node.name, op="AddN", input=terms)
    total.attr["N"].i = len(terms)
    total.attr["T"].CopyFrom(node.attr["T"])
    return [*made, total]


def _channels(name: str, shapes: Shapes) -> int | None:
    """Returns the number of channels of a map; None if it is not 4-D or not a node's first output."""
    shape = shapes.get(name.removesuffix(":0"), ())
    return shape[-1] if len(shape) == 4 else None


def _enlarges(node: NodeDef, shapes: Shapes) -> bool:
    if node.op != "ResizeBilinear" or node.attr["T"].type != tf.float32 or len(shapes[_source(node.input[0])]) != 4:
        return False
    (_, *small, _), (_, *large, _) = shapes[_source(node.input[0])], shapes[node.name]
    return None not in (*small, *large) and np.prod(large) > np.prod(small)


def _renamed(node: NodeDef, name: str, *inputs: str) -> NodeDef:
    new = NodeDef()
    new.CopyFrom(node)
    new.name, new.input[:] = name, inputs
    return new


def _inputs(make: Callable[[Values], np.ndarray], start: int, stop: int, values: Values) -> np.ndarray:
    """Returns the part of a filter for the input channels from `start` to `stop`."""
    return np.ascontiguousarray(make(values)[:, :, start:stop])


def _value(variable: str, values: Values) -> np.ndarray:
    return values[variable]


def _placeholder(name: str, dtype: int) -> NodeDef:
    node = NodeDef(name=name, op="Placeholder")
    node.attr["dtype"].type = dtype
    return node


def _source(name: str) -> str:
    """Returns the node name of an input "name", "name:1" or "^name"."""
    return name.removeprefix("^").partition(":")[0]


def leading_to(outputs: Iterable[str], graph: GraphDef, weights: Mapping) -> Network:
    """Returns the nodes and weights that the outputs depend on, without control inputs: no node has side effects."""
    nodes = {node.name: node for node in graph.node}
    needed, todo = set(), list(outputs)
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            nodes[name].input[:] = [source for source in nodes[name].input if not source.startswith("^")]
            todo += map(_source, nodes[name].input)
    kept = [node for name, node in nodes.items() if name in needed]
    whole = GraphDef(node=kept, library=graph.library, versions=graph.versions)
    return Network(whole, {name: make for name, make in weights.items() if name in needed})


def _folds(nodes: Mapping[str, NodeDef], reads: Mapping[str, str]) -> Iterator[tuple[NodeDef, NodeDef, Fold]]:
    """Yields (batch norm, convolution, fold) for convolutions whose output only the batch norm reads."""
    readers = Counter(_source(name) for node in nodes.values() for name in node.input if not name.startswith("^"))

    def variable(name: str) -> str | None:  # a bias may be reshaped first
        node = nodes[_source(name)]
        while node.op in ("Reshape", "Squeeze"):
            node = nodes[_source(node.input[0])]
        return reads.get(node.name)

    for norm in nodes.values():
        if norm.op != "FusedBatchNormV3" or norm.attr["is_training"].b or norm.attr["T"].type != tf.float32:
            continue
        before, bias = nodes[_source(norm.input[0])], None
        if before.op == "BiasAdd" and readers[before.name] == 1:
            bias, before = variable(before.input[1]), nodes[_source(before.input[0])]
            if bias is None:
                continue
        if before.op not in _FOLDING or readers[before.name] != 1:
            continue
        names = [variable(name) for name in (before.input[_FILTER], *norm.input[1:5])]
        if None not in names:
            yield norm, before, Fold(*names, bias, norm.attr["epsilon"].f, output_third=before.op != "Conv2D")


def in_bfloat16(network: Network, outputs: Iterable[str]) -> Network:
    """Returns the network with its convolutions, and the operations between them, in bfloat16.

    The last convolutions, which compute heatmaps, and all later operations stay in float32: bfloat16 has eight
    significant bits, so that neighbouring pixels become equal and the position of a peak between them is lost.
    """
    graph, weights, outputs = network.graph, dict(network.weights), list(outputs)
    low, nodes, made = _lowered(graph), {node.name: node for node in graph.node}, {}

    def cast(name: str, to: tf.DType, source: tf.DType) -> str:
        new = f"{name.replace(':', '_')}/{to.name}"
        if new not in made and name in weights:
            made[new] = _placeholder(new, to.as_datatype_enum)
            weights[new] = partial(_cast, weights[name], to.as_numpy_dtype)
        elif new not in made:
            made[new] = NodeDef(name=new, op="Cast", input=[name])
            made[new].attr["DstT"].type = to.as_datatype_enum
            made[new].attr["SrcT"].type = source.as_datatype_enum
        return new

    for node in graph.node:
        if node.name in low:
            node.attr["T"].type = tf.bfloat16.as_datatype_enum
        for place, name in enumerate(node.input):
            lowered = node.name in low and place in _places(node)
            if lowered and _source(name) not in low:
                node.input[place] = cast(name, tf.bfloat16, tf.float32)
            elif not lowered and _source(name) in low:
                node.input[place] = cast(name, tf.float32, tf.bfloat16)
    return leading_to(outputs, GraphDef(node=[*nodes.values(), *made.values()], versions=graph.versions), weights)


def _cast(make: Callable[[Values], np.ndarray], dtype: type, values: Values) -> np.ndarray:
    return make(values).astype(dtype)


def _places(node: NodeDef) -> tuple[int, ...]:
    """Returns the inputs of a node that have its type."""
    if node.op == "ConcatV2":
        return tuple(range(len(node.input) - 1))
    return _CONVOLUTIONS.get(node.op) or _FOLLOWING.get(node.op) or ()


def _lowered(graph: GraphDef) -> set[str]:
    """Returns the names of the nodes to convert to bfloat16."""
    before_convolution = set()  # nodes with a later convolution
    for node in reversed(graph.node):  # inputs precede their nodes
        if node.op in _CONVOLUTIONS or node.name in before_convolution:
            before_convolution |= {_source(name) for name in node.input}
    low = set()
    for node in graph.node:
        # Reading a missing key of a protobuf map adds it, so that "T" is read only where it exists.
        if "T" not in node.attr or node.attr["T"].type != tf.float32 or node.name not in before_convolution:
            continue
        follows = node.op in _FOLLOWING and any(_source(node.input[place]) in low for place in _places(node))
        if node.op in _CONVOLUTIONS or follows:
            low.add(node.name)
    return low
