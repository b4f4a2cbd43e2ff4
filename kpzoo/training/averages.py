"""Moving averages of a model's weights: what is validated and saved, while the training goes on with its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf

from kpzoo.errors import UserError
from kpzoo.pose_model import PoseModel, inner_optimizer


class WeightAverages:
    """Exponential moving averages of all weights of a model, batch-norm statistics included.

    They are variables of the optimizer, so that its checkpoints hold them. (Keras' own `use_ema` averages the trained
    weights alone, and the statistics of other weights do not suit them.) In the first steps the momentum is smaller,
    (1 + n) / (10 + n) after n steps, so that the weights of the start are soon forgotten.

    Args:
        model: A compiled model whose optimizer is built.
        momentum: What is kept of the averages in a step, 0 … 1; with 0.999 about the last thousand steps count.
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
        """Takes the weights after a step into the averages; to be called where the optimizer is applied."""
        count = tf.cast(self.optimizer.iterations.value, tf.float32)
        take = 1.0 - tf.minimum(self.momentum, (1.0 + count) / (10.0 + count))
        for weight, average in zip(self.weights, self.values, strict=True):
            average.assign(average.value + take * (weight.value - average.value))

    def use(self) -> None:
        """Makes the averages the model's weights."""
        self._assign(self.weights, self.values)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Makes the averages the model's weights for a while."""
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
    """Fills a model with the averages in a checkpoint of a training that kept some: the optimizer's last variables."""
    import h5py

    with h5py.File(checkpoint) as file:
        stored = file["optimizer/vars"]
        first = len(stored) - len(model.weights)
        for place, weight in enumerate(model.weights, first):
            weight.assign(stored[str(place)][()])
