"""Counts parameters and multiply-adds of a model. `registry.MACS_RULE` says which operations are counted."""

from math import prod

import keras


def count_macs(model: keras.Model) -> int:
    """Returns the number of multiply-adds for one crop, and one instance in a MIPNet."""
    return sum(layer_macs(layer) for layer in model.layers)


def layer_macs(layer: keras.layers.Layer) -> int:
    """Returns the number of multiply-adds of a layer. Composite layers define an attribute `macs`."""
    if hasattr(layer, "macs"):
        return layer.macs
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return prod(layer.input.shape[1:3]) * prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        return sum(prod(shape[1:3]) for shape in _output_shapes(layer)) * prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.Dense):
        return prod(layer.kernel.shape)
    return 0


def _output_shapes(layer: keras.layers.Layer) -> list[tuple]:
    """Returns the shapes of all that a layer gives: several where it is called on several levels of a pyramid."""
    return [node.output_tensors[0].shape for node in layer._inbound_nodes]  # Keras has no public list of them


def count_params(model: keras.Model) -> int:
    """Returns the number of trainable parameters."""
    return sum(prod(variable.shape) for variable in model.trainable_variables)
