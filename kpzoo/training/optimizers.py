"""Optimizers and learning-rate schedules of the papers."""

import re

import keras
import tensorflow as tf

from kpzoo.errors import UserError


@keras.saving.register_keras_serializable("kpzoo")
class AdamL2(keras.optimizers.Adam):
    """Adam with L2 regularization: `l2 * kernel` is added to the gradient of each kernel.

    Both CPN repositories train this way. Keras' `weight_decay` is decoupled from the gradient (AdamW) and gives other
    weights.

    Args:
        learning_rate: A number or a `LearningRateSchedule`.
        l2: Factor of the kernels. Biases and batch normalization are not regularized.
    """

    def __init__(self, learning_rate=5e-4, l2=1e-5, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        # The gradient is already summed over the replicas. `variable` is TensorFlow's variable of one replica, named
        # "kernel:0" or "kernel/replica_1:0".
        if "kernel" in re.split("[/:]", variable.name):
            gradient = gradient + self.l2 * tf.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable("kpzoo")
class Ramp(keras.optimizers.schedules.LearningRateSchedule):
    """Scales a learning rate for another batch size, with linear warmup.

    A batch that is k times larger gets k times the learning rate (linear scaling rule, arXiv:1706.02677). Since this is
    too high for initial weights, the rate increases linearly over the first `warmup` steps.

    Args:
        learning_rate: A number or a `LearningRateSchedule`.
        factor: Factor of the learning rate.
        warmup: Number of warmup steps; 0 for none.

    Raises:
        UserError: If `factor` is not above 0, or `warmup` is negative.
    """

    def __init__(self, learning_rate, factor=1.0, warmup=0):
        super().__init__()
        if warmup < 0 or not factor > 0:
            raise UserError(f"`factor=` must be above 0 and `warmup=` 0 or more. Received: {factor} and {warmup}.")
        if isinstance(learning_rate, dict):
            learning_rate = keras.saving.deserialize_keras_object(learning_rate)
        self.learning_rate, self.factor, self.warmup = learning_rate, factor, warmup

    def __call__(self, step):
        rate = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        climbed = (tf.cast(step, tf.float32) + 1.0) / max(self.warmup, 1)
        return self.factor * rate * tf.minimum(climbed, 1.0)

    def get_config(self):
        rate = self.learning_rate
        rate = keras.saving.serialize_keras_object(rate) if callable(rate) else rate
        return {"learning_rate": rate, "factor": self.factor, "warmup": self.warmup}


def halving(learning_rate: float, every: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns CPN's learning-rate schedule: halved after every `every` steps."""
    return keras.optimizers.schedules.ExponentialDecay(learning_rate, every, 0.5, staircase=True)


def tenths(learning_rate: float, at: list[int]) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning-rate schedule of HRNet and MIPNet: divided by 10 after each of the steps `at`."""
    rates = [learning_rate * 0.1**drops for drops in range(len(at) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(at, rates)
