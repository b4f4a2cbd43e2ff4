"""Optimizers and learning-rate schedules of the papers."""

import re

import keras
import tensorflow as tf

from kpzoo.errors import UserError


@keras.saving.register_keras_serializable("kpzoo")
class AdamL2(keras.optimizers.Adam):
    """Adam with the weight decay of 2018: `l2 * kernel` is added to the gradient of each kernel (not decoupled).

    It is what `weight_decay` meant in both CPN repositories. Keras' own `weight_decay` shrinks weights apart from the
    gradient (AdamW), which is another rule.
    """

    def __init__(self, learning_rate=5e-4, l2=1e-5, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        # The gradient is summed over replicas already. TensorFlow's own variable comes here, one for each replica,
        # named "kernel:0", "kernel/replica_1:0".
        if "kernel" in re.split("[/:]", variable.name):
            gradient = gradient + self.l2 * tf.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable("kpzoo")
class Ramp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for another batch than it was meant for: multiplied, and reached in equal steps.

    A batch k times as large has k times the rate (linear scaling rule, arXiv:1706.02677), which is too much for fresh
    weights, so that the first `warmup` steps climb to it.

    Args:
        learning_rate: The rate, or its schedule.
        factor: What it is multiplied by.
        warmup: After how many steps all of it is reached; 0 for at once.
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
    """Returns the schedule of CPN: the learning rate halves after each `every` steps."""
    return keras.optimizers.schedules.ExponentialDecay(learning_rate, every, 0.5, staircase=True)


def tenths(learning_rate: float, at: list[int]) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the schedule of HRNet and MIPNet: the learning rate falls to a tenth at each of these steps."""
    rates = [learning_rate * 0.1**drops for drops in range(len(at) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(at, rates)
