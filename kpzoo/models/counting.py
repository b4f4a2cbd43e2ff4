"""Counts parameters and multiply-adds of a model. `registry.MACS_RULE` says which operations are counted."""

from collections.abc import Collection
from math import prod

import keras


def count_macs(model: keras.Model) -> int:
    """Returns the number of multiply-adds for one crop, and one instance in a MIPNet."""
    nodes = {node for nodes in model._nodes_by_depth.values() for node in nodes}
    return sum(layer_macs(layer, nodes) for layer in model.layers)


def layer_macs(layer: keras.layers.Layer, nodes: Collection | None = None) -> int:
    """Returns the number of multiply-adds of a layer. Composite layers define an attribute `macs`.

    Args:
        layer: A layer of a functional model.
        nodes: The calls of layers to count, those of a model; None for all calls of the layer.
    """
    if hasattr(layer, "macs"):
        return layer.macs
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return prod(layer.input.shape[1:3]) * prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        return sum(prod(shape[1:3]) for shape in _output_shapes(layer, nodes)) * prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.Dense):
        return prod(layer.kernel.shape)
    return 0


def _output_shapes(layer: keras.layers.Layer, nodes: Collection | None) -> list[tuple]:
    """Returns the shapes of a layer's outputs: several if it is called on several levels of a pyramid."""
    called = layer._inbound_nodes  # Keras has no public list of them
    return [node.output_tensors[0].shape for node in called if nodes is None or node in nodes]


def count_params(model: keras.Model) -> int:
    """Returns the number of trainable parameters."""
    return sum(prod(variable.shape) for variable in model.trainable_variables)
