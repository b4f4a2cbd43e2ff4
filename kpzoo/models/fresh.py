"""Fresh weights: drawn when a layer is built, or only those that a file leaves open.

Drawing the 64 million numbers of a large network, only to overwrite them, takes a third of the time of building it.
"""

import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import keras

Undrawn = dict[str, keras.initializers.Initializer]  # what would draw a kernel, by the variable's path

_UNDRAWN: ContextVar[Undrawn | None] = ContextVar("undrawn", default=None)


@contextmanager
def undrawn() -> Iterator[Undrawn]:
    """Leaves the kernels of the layers that are built meanwhile at zero, and says what `draw` needs to draw them."""
    found = {}
    token = _UNDRAWN.set(found)
    try:
        yield found
    finally:
        _UNDRAWN.reset(token)


@contextmanager
def kernel_of(layer: keras.layers.Layer) -> Iterator[None]:
    """To be put around the building of a layer with a drawn kernel; the layer's configuration stays as it is."""
    found = _UNDRAWN.get()
    if found is None:
        yield
        return
    drawn, layer.kernel_initializer = layer.kernel_initializer, keras.initializers.Zeros()
    try:
        yield
    finally:
        layer.kernel_initializer = drawn
    found[layer.kernel.path] = drawn


def draw(model: keras.Model, undrawn: Undrawn, paths: Collection[str]) -> None:
    """Draws those kernels of a model that `paths` name, to the numbers that building alone would have given them."""
    for variable in model.variables:
        if variable.path in undrawn and variable.path in paths:
            variable.assign(undrawn[variable.path](variable.shape, variable.dtype))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Pauses Python's search for cycles: it walks again and again through the objects of a model that all stay."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()
