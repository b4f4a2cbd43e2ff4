"""Parameters and multiply-adds, counted on a built model by the rule that `registry.MACS_RULE` spells out."""

from math import prod

import keras


def count_macs(model: keras.Model) -> int:
    """Returns the multiply-adds of one crop, and of one query in a MIPNet."""
    return sum(layer_macs(layer) for layer in model.layers)


def layer_macs(layer: keras.layers.Layer) -> int:
    """Returns a layer's multiply-adds; layers with parts of their own count themselves in an attribute `macs`."""
    if hasattr(layer, "macs"):
        return layer.macs
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return prod(layer.input.shape[1:3]) * prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.Conv2D):
        return prod(layer.output.shape[1:3]) * prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.Dense):
        return prod(layer.kernel.shape)
    return 0


def count_params(model: keras.Model) -> int:
    """Returns the number of trainable values."""
    return sum(prod(variable.shape) for variable in model.trainable_variables)
