"""Deferred weight initialisation: kernels that a weights file fills are not initialised first.

Initialising the 64 million parameters of a large network takes a third of the time of building it.
"""

import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import keras

Undrawn = dict[str, keras.initializers.Initializer]  # initialisers of kernels, by the variable's path

_UNDRAWN: ContextVar[Undrawn | None] = ContextVar("undrawn", default=None)


@contextmanager
def undrawn() -> Iterator[Undrawn]:
    """Sets the kernels of layers built in this context to zero. Yields their initialisers, an argument of `draw`."""
    found = {}
    token = _UNDRAWN.set(found)
    try:
        yield found
    finally:
        _UNDRAWN.reset(token)


@contextmanager
def kernel_of(layer: keras.layers.Layer) -> Iterator[None]:
    """Wraps the building of a layer with a kernel, to support `undrawn`. The layer's configuration is unchanged."""
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
    """Initialises the kernels in `paths`, to the same values as without `undrawn`."""
    for variable in model.variables:
        if variable.path in undrawn and variable.path in paths:
            variable.assign(undrawn[variable.path](variable.shape, variable.dtype))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disables the cyclic garbage collector, which would scan the many live objects of a model repeatedly."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()
