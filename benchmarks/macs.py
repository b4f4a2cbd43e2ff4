"""Multiply-adds of models, and of the graphs of `kpzoo.accelerate`."""

from functools import cache

import numpy as np
import tensorflow as tf

from kpzoo.inference.folded_model import FoldedModel
from kpzoo.models.counting import count_macs, layer_macs
from kpzoo.pose_model import PoseModel


@cache
def folded(model: PoseModel) -> FoldedModel:
    """Returns the folded graph of the model in float32, which is cached."""
    return FoldedModel(model)


def bound(model: PoseModel, queries: int = 2) -> float:
    """Returns the multiply-adds of several queries of a MIPNet relative to one query. The trunk runs once."""
    per_query, names = 0, set()
    for layer in model.layers:  # in the order of the data flow
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        behind = any(tensor._keras_history.operation.name in names for tensor in inputs)
        if behind or type(layer).__name__ == "RepeatPerQuery":
            names.add(layer.name)
            per_query += layer_macs(layer)
    return 1 + (queries - 1) * per_query / count_macs(model)


def of_all(model: PoseModel) -> float:
    """Returns the multiply-adds of the Keras model for one crop and all instances."""
    return count_macs(model) * bound(model, model.preset.num_instances)


def accelerated(model: PoseModel, queries: int | None = None, outputs: tuple[str, ...] = ("heatmaps",)) -> int:
    """Returns the multiply-adds of the folded graph for one crop.

    Args:
        model: Any model of the zoo.
        queries: Number of instances of a MIPNet, None for all.
        outputs: Names of the outputs that are computed.
    """
    network, people = folded(model), model.preset.num_instances
    specs = [tf.TensorSpec(weight.shape, weight.dtype) for weight in network.weights()]
    shapes = {"image": (1, *model.preset.image_hw, 3), "instance": (1, queries or people, people)}
    inputs = {name: tf.TensorSpec(shapes[name]) for name in model.input}
    ask = tf.function(network.__call__, autograph=False).get_concrete_function(inputs, specs)
    graph, answers = ask.graph, [ask.graph.structured_outputs[name].op.name for name in outputs]
    needed = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), answers).node
    macs = 0
    for op in (graph.get_operation_by_name(node.name) for node in needed):
        if op.type == "Conv2D":
            macs += np.prod(op.outputs[0].shape[:3]) * np.prod(op.inputs[1].shape)
        elif op.type == "Conv2DBackpropInput":  # a deconvolution, whose input is the third
            macs += np.prod(op.inputs[2].shape[:3]) * np.prod(op.inputs[1].shape)
        elif op.type == "MatMul":
            macs += np.prod(op.outputs[0].shape) * op.inputs[0].shape[-1]
    return int(macs)
