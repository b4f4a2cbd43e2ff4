"""Removal of the Transpose nodes that tf2onnx leaves where features are repeated per query.

TensorFlow computes with channels last, ONNX with channels first. tf2onnx moves Transposes through most operations until
they cancel, but not through the repetition of features, a product with gates per channel, or a change of rank.
"""

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # (B, C, h, w) -> (B, h, w, C), and back
WIDE_TO_LAST = [0, 2, 3, 4, 1]  # (B, C, 1, h, w) -> (B, 1, h, w, C)


def without_needless_transposes(onnx, proto):
    """Returns an equivalent ONNX model that computes with channels first throughout."""
    graph = _Graph(onnx, proto)
    rules = (_repeat_channels_first, _gate_channels_first, _mean_channels_first, _drop_reshapes, _drop_pairs)
    while any(rule(graph, node) for node in list(graph.nodes) for rule in rules):
        graph.drop_unused()
    graph.write(proto)
    return proto


class _Graph:
    """The nodes of an ONNX graph in order, with the producers, shapes and constants of its tensors."""

    def __init__(self, onnx, proto):
        self.onnx = onnx
        self.nodes = list(proto.graph.node)
        self.outputs = {value.name for value in proto.graph.output}
        self.opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
        self.constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(proto).graph
        self.shapes = {
            value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
        }
        self._index()

    def _index(self):
        self.makers = {name: node for node in self.nodes for name in node.output}

    def maker(self, name: str, kind: str):
        """Returns the node that produces a tensor if it is of this kind, else None."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == kind else None

    def transposed(self, name: str, order: list[int]):
        """Returns the tensor that `name` is the transpose of, or None."""
        node = self.maker(name, "Transpose")
        return node.input[0] if node is not None and list(node.attribute[0].ints) == order else None

    def values(self, name: str) -> list | None:
        """Returns the values of a one-dimensional constant, or None."""
        tensor = self.constants.get(name)
        if tensor is None or len(tensor.dims) != 1:
            return None
        return self.onnx.numpy_helper.to_array(tensor).tolist()

    def constant(self, name: str, values: list[int]) -> str:
        helper, kind = self.onnx.helper, self.onnx.TensorProto.INT64
        self.constants[name] = helper.make_tensor(name, kind, [len(values)], values)
        return name

    def replace(self, node, *steps) -> bool:
        """Replaces a node by a chain of nodes (kind, inputs, attributes), the last of which produces its output.

        An input None is the output of the previous node.
        """
        made, new, output = None, [], node.output[0]
        for number, (kind, inputs, attributes) in enumerate(steps):
            name = output if number == len(steps) - 1 else f"{output}_first_{number}"
            inputs = [made if tensor is None else tensor for tensor in inputs]
            new.append(self.onnx.helper.make_node(kind, inputs, [name], name=f"{name}_node", **attributes))
            made = name
        place = self.nodes.index(node)
        self.nodes[place : place + 1] = new
        self._index()
        return True

    def rename(self, node, tensor: str) -> bool:
        """Replaces the output of a node by `tensor`, and removes the node."""
        for user in self.nodes:
            for place, name in enumerate(user.input):
                if name == node.output[0]:
                    user.input[place] = tensor
        self.nodes.remove(node)
        self._index()
        return True

    def drop_unused(self):
        """Removes nodes whose outputs are not used."""
        while True:
            read = {name for node in self.nodes for name in node.input} | self.outputs
            kept = [node for node in self.nodes if any(name in read for name in node.output)]
            if len(kept) == len(self.nodes):
                return self._index()
            self.nodes = kept

    def write(self, proto):
        read = {name for node in self.nodes for name in node.input}
        constants = [tensor for name, tensor in self.constants.items() if name in read]
        del proto.graph.node[:], proto.graph.initializer[:]
        proto.graph.node.extend(self.nodes)
        proto.graph.initializer.extend(constants)


def _repeat_channels_first(graph: _Graph, node) -> bool:
    """Repeats feature maps per query before the Transpose instead of after it."""
    tile = graph.maker(node.input[0], "Tile") if node.op_type == "Reshape" else None
    wide = tile and graph.transposed(tile.input[0], WIDE_TO_LAST)
    shape = graph.values(node.input[1]) if wide else None
    if not shape or len(shape) != 4:
        return False
    _, height, width, channels = shape
    single = graph.constant(f"{node.output[0]}_single", [-1, 1, channels, height, width])
    rows = graph.constant(f"{node.output[0]}_rows", [-1, channels, height, width])
    return graph.replace(
        node,
        ("Reshape", [wide, single], {}),
        ("Tile", [None, tile.input[1]], {}),  # copies (1, M, 1, 1, 1), the same for both orders
        ("Reshape", [None, rows], {}),
        ("Transpose", [None], {"perm": TO_LAST}),
    )


def _gate_channels_first(graph: _Graph, node) -> bool:
    """Multiplies channels by (B, 1, 1, C) gates before the Transpose instead of after it."""
    if node.op_type != "Mul":
        return False
    for features, gate in (node.input, reversed(node.input)):
        first = graph.transposed(features, TO_LAST)
        shape = graph.shapes.get(gate)
        if first and shape and len(shape) == 4 and shape[1:3] == [1, 1]:
            last_two = graph.constant(f"{node.output[0]}_gate", [0, -1, 1, 1])
            return graph.replace(
                node,
                ("Reshape", [gate, last_two], {}),
                ("Mul", [first, None], {}),
                ("Transpose", [None], {"perm": TO_LAST}),
            )
    return False


def _mean_channels_first(graph: _Graph, node) -> bool:
    """Computes the mean over height and width before the Transpose instead of after it."""
    first = graph.transposed(node.input[0], TO_LAST) if node.op_type == "ReduceMean" else None
    if not first:
        return False
    attributes = {entry.name: graph.onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    axes = graph.values(node.input[1]) if len(node.input) > 1 else attributes.get("axes")
    if not axes or sorted(axes) != [1, 2]:
        return False
    if graph.opset >= 18:  # axes are an input from opset 18
        keep = {"keepdims": attributes.get("keepdims", 1)}
        name = graph.constant(f"{node.output[0]}_axes", [2, 3])
        mean = ("ReduceMean", [first, name], keep)
    else:
        mean = ("ReduceMean", [first], {"axes": [2, 3], "keepdims": attributes.get("keepdims", 1)})
    if attributes.get("keepdims", 1):
        return graph.replace(node, mean, ("Transpose", [None], {"perm": TO_LAST}))
    return graph.replace(node, mean)


def _drop_reshapes(graph: _Graph, node) -> bool:
    """Removes a Reshape to the shape that its input has, or had before another Reshape."""
    shape = graph.values(node.input[1]) if node.op_type == "Reshape" else None
    if not shape or shape[0] != -1 or node.output[0] in graph.outputs:
        return False
    before = graph.maker(node.input[0], "Reshape")
    for tensor in (node.input[0], *(before.input[:1] if before is not None else ())):
        source = graph.shapes.get(tensor)
        if source and len(source) == len(shape) and source[1:] == shape[1:]:
            return graph.rename(node, tensor)
    return False


def _drop_pairs(graph: _Graph, node) -> bool:
    """Removes two Transposes that cancel."""
    if node.op_type != "Transpose" or list(node.attribute[0].ints) != TO_FIRST or node.output[0] in graph.outputs:
        return False
    first = graph.transposed(node.input[0], TO_LAST)
    return bool(first) and graph.rename(node, first)
