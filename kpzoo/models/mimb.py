"""MIMB, the multi-instance modulation block (arXiv:2101.11223).

A MIPNet predicts one of N persons in a box, selected by a query: a one-hot vector, λ in the paper. The network before
the first MIMB runs once per crop. Its features are then repeated, so that B crops with M queries each have B * M rows.
"""

from collections.abc import Mapping, Sequence
from math import prod

import keras
import tensorflow as tf
from keras import layers

from kpzoo.errors import UserError, unknown
from kpzoo.models import fresh
from kpzoo.models.blocks import HEAD_DTYPE, TORCH_NORM, FusedBatchNorm


def _linear_init() -> keras.initializers.Initializer:
    """PyTorch's default initialiser of linear layers, used by MIPNet's ResNet.

    Gates start near 0.5 and differ between instances. MIPNet's HRNet uses a normal distribution with a standard
    deviation of 0.001 instead, so that gates start equal.
    """
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


@keras.saving.register_keras_serializable("kpzoo")
class MIMB(layers.Layer):
    """Multi-instance modulation block: multiplies features by two gates per channel (arXiv:2101.11223, section 3.2).

    `MIMB(reduction=4)([features, instance_onehot])` maps features (B, h, w, C) and instance_onehot (B, N) to
    (B, h, w, C). The gate F_ex is a squeeze-and-excitation of the features; F_em depends on the instance only. Gates
    are computed in float32.

    Args:
        reduction: Ratio of C to the width of the hidden layers of both gates.

    Raises:
        UserError: The inputs have other shapes, or fewer channels than `reduction`.
    """

    def __init__(self, reduction: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.reduction = reduction

    def build(self, input_shape):
        if len(input_shape) != 2 or len(input_shape[0]) != 4 or len(input_shape[1]) != 2:
            raise UserError(
                "The inputs of MIMB must be [features (B, h, w, C), instance_onehot (B, N)]. "
                f"Received shapes: {[tuple(shape) for shape in input_shape]}.",
                "Make the second with `keras.ops.one_hot(index, num_instances)`.",
            )
        channels, num_instances = input_shape[0][-1], input_shape[1][-1]
        hidden = channels // self.reduction
        if hidden < 1:
            raise UserError(
                f"`reduction=` must be at most {channels}, the number of channels. Received: {self.reduction}."
            )
        self.image_squeeze = self._dense(hidden, channels, "image_squeeze", use_bias=False)
        self.image_excite = self._dense(channels, hidden, "image_excite", use_bias=False)
        self.instance_squeeze = self._dense(hidden, num_instances, "instance_squeeze")
        self.instance_bn = FusedBatchNorm(
            momentum=TORCH_NORM.momentum, epsilon=TORCH_NORM.epsilon, dtype=HEAD_DTYPE, name="instance_bn"
        )
        self.instance_bn.build((None, 1, 1, hidden))
        self.instance_excite = self._dense(channels, hidden, "instance_excite")

    def _dense(self, units: int, width: int, name: str, use_bias: bool = True) -> layers.Dense:
        dense = layers.Dense(units, use_bias=use_bias, kernel_initializer=_linear_init(), dtype=HEAD_DTYPE, name=name)
        with fresh.kernel_of(dense):
            dense.build((None, width))
        return dense

    def call(self, inputs, training=None):
        features, instance_onehot = inputs
        pooled = tf.reduce_mean(tf.cast(features, HEAD_DTYPE), axis=[1, 2])  # F_sq, (B, C)
        image_gate = tf.sigmoid(self.image_excite(tf.nn.relu(self.image_squeeze(pooled))))
        code = self.instance_squeeze(instance_onehot)
        # Reshapes, as OpenCV's dnn module reads no ONNX node that adds two axes.
        code = self.instance_bn(tf.reshape(code, [-1, 1, 1, code.shape[-1]]), training=training)
        instance_gate = tf.sigmoid(self.instance_excite(tf.nn.relu(tf.reshape(code, [-1, code.shape[-1]]))))
        gate = tf.reshape(image_gate * instance_gate, [-1, 1, 1, image_gate.shape[-1]])
        return features * tf.cast(gate, features.dtype)

    @property
    def macs(self) -> int:
        dense = (self.image_squeeze, self.image_excite, self.instance_squeeze, self.instance_excite)
        return sum(prod(layer.kernel.shape) for layer in dense)

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "reduction": self.reduction}


@keras.saving.register_keras_serializable("kpzoo")
class RepeatPerQuery(layers.Layer):
    """Repeats features for each query: [(B, h, w, C), (B, M, N)] → (B * M, h, w, C)."""

    def call(self, inputs):
        features, instance = inputs
        copies = tf.stack([1, tf.shape(instance)[1], 1, 1, 1])
        return tf.reshape(tf.tile(features[:, tf.newaxis], copies), [-1, *features.shape[1:]])

    def compute_output_shape(self, input_shape):
        return input_shape[0]


@keras.saving.register_keras_serializable("kpzoo")
class FlattenQueries(layers.Layer):
    """Flattens queries: (B, M, N) → (B * M, N)."""

    def call(self, instance):
        return tf.reshape(instance, [-1, instance.shape[-1]])

    def compute_output_shape(self, shape):
        return (None, shape[-1])


@keras.saving.register_keras_serializable("kpzoo")
class SplitQueries(layers.Layer):
    """Splits rows into crops and queries: [(B * M, …), (B, M, N)] → (B, M, …), float32."""

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": HEAD_DTYPE})

    def call(self, inputs):
        maps, instance = inputs
        return tf.reshape(maps, tf.concat([[-1, tf.shape(instance)[1]], maps.shape[1:]], axis=0))

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], input_shape[1][1], *input_shape[0][1:])


class InstanceGates:
    """Inserts MIMBs into a network while it is built, and repeats the features before the first of them.

    Args:
        num_instances: N, number of persons per box that the network predicts. With 1 nothing is inserted.
        stages: Names of the places that get a MIMB; not used for one instance.
        places: All places of the network, in the order of the data flow.
    """

    def __init__(self, num_instances: int = 1, stages: Sequence[str] = (), places: Sequence[str] = ()):
        self.places = tuple(places)
        self.stages: list[str] = []
        if num_instances == 1:
            return
        for stage in stages:
            if stage not in places:
                raise unknown("MIMB stage", stage, places)
        if not stages:
            raise UserError(f"`mimb_stages=` must name one or more of {tuple(places)}. Received: {stages!r}.")
        self.stages = sorted(set(stages), key=self.places.index)
        self.instance = keras.Input((None, num_instances), name="instance", dtype="float32")
        self._onehots = FlattenQueries(dtype=HEAD_DTYPE, name="instance_rows")(self.instance)

    def __call__(self, features: Sequence, stage: str) -> list:
        """Returns the features, modulated if `stage` has a MIMB; the first such stage also repeats them per query."""
        if stage not in self.stages:
            return list(features)
        if stage == self.stages[0]:
            features = [self.per_query(x, f"{stage}_repeat_{index}") for index, x in enumerate(features)]
        return [MIMB(name=f"{stage}_mimb_{index}")([x, self._onehots]) for index, x in enumerate(features)]

    def needs_repeat(self, place: str) -> bool:
        """Returns whether the output of `place` comes before the first MIMB, and so has one row per crop."""
        return bool(self.stages) and self.places.index(place) < self.places.index(self.stages[0])

    def per_query(self, x, name: str):
        """(B, h, w, C) → (B * M, h, w, C)."""
        return RepeatPerQuery(name=name)([x, self.instance])

    def inputs(self, image) -> dict:
        """Returns the inputs of the network: the image, and the queries if there are several instances."""
        return {"image": image, "instance": self.instance} if self.stages else {"image": image}

    def per_crop(self, outputs: Mapping) -> dict:
        """Returns all outputs as (B, M, …); those of a network with one instance as they are."""
        if not self.stages:
            return dict(outputs)
        return {name: SplitQueries(name=f"{name}_per_query")([y, self.instance]) for name, y in outputs.items()}


ONE_INSTANCE = InstanceGates()  # inserts nothing
