"""Exponential moving averages of a model's weights, which are validated and saved in place of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf

from kpzoo.errors import UserError
from kpzoo.pose_model import PoseModel
from kpzoo.replicas import inner_optimizer


class WeightAverages:
    """Exponential moving averages of all weights of a model, including batch normalization statistics.

    The averages are variables of the optimizer and are stored in its checkpoints. Keras' own `use_ema` averages only
    the trainable weights, which do not match the statistics of other weights. The momentum is limited to
    (1 + n) / (10 + n) after n steps, so that the initial weights have little influence.

    Args:
        model: A compiled model whose optimizer is built.
        momentum: Decay of the averages per step, 0 … 1. With 0.999 they cover about the last thousand steps.

    Raises:
        UserError: If the momentum is not in [0, 1).
    """

    def __init__(self, model: PoseModel, momentum: float):
        if not 0 <= momentum < 1:
            raise UserError(f"The momentum of averaged weights must be 0 or more and below 1. Received: {momentum}.")
        self.momentum = momentum
        self.optimizer = inner_optimizer(model.optimizer)
        self.weights = list(model.weights)
        self.values = [self.optimizer.add_variable_from_reference(weight, "average") for weight in self.weights]
        self._assign(self.values, self.weights)

    def update(self) -> None:
        """Updates the averages with the current weights. To be called after the optimizer, in its context."""
        count = tf.cast(self.optimizer.iterations.value, tf.float32)
        take = 1.0 - tf.minimum(self.momentum, (1.0 + count) / (10.0 + count))
        for weight, average in zip(self.weights, self.values, strict=True):
            average.assign(average.value + take * (weight.value - average.value))

    def use(self) -> None:
        """Replaces the model's weights by the averages."""
        self._assign(self.weights, self.values)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Context manager that replaces the model's weights by the averages."""
        kept = [tf.identity(weight.value) for weight in self.weights]
        try:
            self.use()
            yield
        finally:
            self._assign(self.weights, kept)

    @staticmethod
    def _assign(variables: list[keras.Variable], values: list) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def load_averages(model: keras.Model, checkpoint: str | Path) -> None:
    """Loads the averages of a checkpoint into a model. They are the last variables of the optimizer."""
    import h5py

    with h5py.File(checkpoint) as file:
        stored = file["optimizer/vars"]
        first = len(stored) - len(model.weights)
        for place, weight in enumerate(model.weights, first):
            weight.assign(stored[str(place)][()])
