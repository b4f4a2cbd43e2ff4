"""Functional Keras models that know what they were built as and how a step of training goes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import keras
import tensorflow as tf

from kpzoo.errors import UserError
from kpzoo.heatmaps import CODECS, HEATMAP_STRIDE, Codec
from kpzoo.skeletons import Skeleton

# A predicted peak is right for the training PCK within this share of the heatmap's height: about 0.2 torso lengths.
PCK_RADIUS = 0.05


@dataclass(frozen=True)
class Preset:
    """What a model was built as; it travels inside the model's configuration.

    Args:
        name: The zoo name, such as "cpn_res50".
        image_hw: (height, width) of the crops in pixels.
        skeleton: The keypoints that the heatmaps stand for, in order; None for a person detector.
        normalization: Name of the pixel normalisation in the model's first layer, None for none.
        codec: Name of the codec: how boxes are cropped, keypoints encoded and heatmaps decoded. A key of
            `heatmaps.CODECS`; `rules` is the codec. "boxes" for a person detector.
        num_instances: How many people of one box the model can be asked for (N); 1 for single-instance models.
        options: The builder's options that were given.
    """

    name: str
    image_hw: tuple[int, int]
    skeleton: Skeleton | None
    normalization: str | None
    codec: str
    num_instances: int = 1
    options: Mapping = field(default_factory=dict)

    @property
    def rules(self) -> Codec:
        """The codec that the model was built for; `rules.crop` is its crop rule."""
        if self.codec not in CODECS:
            raise UserError(
                f"Model {self.name!r} finds person boxes, no keypoints. Pass a pose model here, such as 'cpn_res50'."
            )
        return CODECS[self.codec]

    @property
    def heatmap_hw(self) -> tuple[int, int]:
        return self.image_hw[0] // HEATMAP_STRIDE, self.image_hw[1] // HEATMAP_STRIDE

    def to_config(self) -> dict:
        """Returns plain JSON values; `from_config` makes the same preset of them."""
        skeleton = self.skeleton and self.skeleton.to_config()
        return {**self.__dict__, "skeleton": skeleton, "options": dict(self.options)}

    @classmethod
    def from_config(cls, config: Mapping) -> "Preset":
        skeleton = config["skeleton"] and Skeleton.from_config(config["skeleton"])
        return replace(cls(**config), image_hw=tuple(config["image_hw"]), skeleton=skeleton)


class ZooModel(keras.Model):
    """A functional model whose batches are dicts of inputs and targets.

    It has no constructor of its own, so that Keras saves and loads it as it does any functional model. `preset` is set
    by `kpzoo.build`. The loss is a `keras.losses.Loss` over `(targets, outputs)` that returns one value per picture;
    the terms of one that knows its `terms`, as those of `kpzoo.losses` do, are tracked beside it.
    """

    preset: Preset
    pyramid_layers: Mapping[str, str] = MappingProxyType({})
    averages = None  # `averages.WeightAverages`, where a training keeps some
    losses_are = "one of `kpzoo.losses`"

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """Features by level, fine → coarse: "P2" at stride 4, "P3" at stride 8, and so on, (B, H/4, W/4, C2), …

        Use them to extract features, `keras.Model(model.input, model.pyramid_outputs)`, or to attach a new head. They
        are the last features at their stride: of GlobalNet in a CPN, of the ResNet's stages in a SimpleBaseline, of
        the branches of stage 4 in an HRNet, of the last hourglass in a stacked hourglass. A dilated ResNet has no
        levels beyond its `trunk_stride`. From the first MIMB of a MIPNet on, a feature has B * M rows, the M rows of
        a crop one after the other.
        """
        return {level: self.get_layer(name).output for level, name in self.pyramid_layers.items()}

    def get_config(self):
        pyramid = dict(self.pyramid_layers)
        return {**super().get_config(), "preset": self.preset.to_config(), "pyramid_layers": pyramid}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        preset, pyramid_layers = Preset.from_config(config.pop("preset")), config.pop("pyramid_layers", {})
        model = super().from_config(config, custom_objects=custom_objects)
        model.preset, model.pyramid_layers = preset, pyramid_layers
        return model

    # XLA's convolutions are slower on a CPU and fail on replicas, so Keras is not asked to choose.
    def compile(self, *args, jit_compile=False, **kwargs):
        super().compile(*args, jit_compile=jit_compile, **kwargs)
        if self.loss is not None and not callable(self.loss):
            raise UserError(
                f"The loss of model {self.name!r} is {self.losses_are}, or a function like them. "
                f"Received: {self.loss!r}."
            )
        for metric in [*self._metrics]:  # Keras keeps those of an earlier `compile`
            self._tracker.untrack(metric)
        names = self.loss.term_names(self.preset.num_instances, self.num_levels) if hasattr(self.loss, "terms") else []
        self.term_metrics = [keras.metrics.Mean(name=f"loss_{name}") for name in names]

    @property
    def num_levels(self) -> int:
        """How many heatmaps with intermediate supervision the model answers beside the final one."""
        return self.output["global_heatmaps"].shape[-4] if "global_heatmaps" in self.output else 0

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds the optimizer. Under a strategy Keras would take a batch from the stream to build the rest, too."""
        with self.distribute_strategy.scope():
            if self.optimizer is not None and not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force=False):
        """Makes the step of `fit`. Over several hosts Keras' own reduces numbers along an axis they do not have."""
        strategy = self.distribute_strategy
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            super().make_train_function(force)
        elif self.train_function is None or force:

            @tf.function
            def step(iterator):
                results = strategy.run(self.train_step, args=(next(iterator),))
                return {name: strategy.reduce("MEAN", value, axis=None) for name, value in results.items()}

            self.train_function = step

    def split(self, batch: Mapping) -> tuple[dict, dict]:
        """Returns the batch's model inputs and its targets, by the names of the model's inputs."""
        missing = [name for name in self.input if name not in batch]
        if missing:
            raise UserError(
                f"The batch lacks {missing}. Received: {sorted(batch)}. Model {self.name!r} needs {list(self.input)}."
            )
        inputs = {name: batch[name] for name in self.input}
        return inputs, {name: value for name, value in batch.items() if name not in inputs}

    def train_step(self, data):
        inputs, targets = self.split(data)
        with tf.GradientTape() as tape:
            outputs = self(inputs, training=True)
            losses, terms = self.losses_of(targets, outputs)  # (B,)
            scaled_loss = self.optimizer.scale_loss(mean_over_replicas(losses))
        gradients = tape.gradient(scaled_loss, self.trainable_variables)
        self.optimizer.apply(over_replicas(gradients, self.optimizer), self.trainable_variables)
        if self.averages is not None:
            self.averages.update()
        return self.track(losses, terms, targets, outputs)

    def test_step(self, data):
        inputs, targets = self.split(data)
        outputs = self(inputs, training=False)
        return self.track(*self.losses_of(targets, outputs), targets, outputs)

    def losses_of(self, targets: Mapping, outputs: Mapping) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Returns the (B,) losses, and the (B,) terms that they are the sum of."""
        if not self.term_metrics:
            return self.loss(targets, outputs), {}
        terms = self.loss.terms(targets, outputs)
        return tf.add_n(list(terms.values())), terms

    def track(self, losses, terms, targets, outputs) -> dict:
        """Updates the metrics with one batch and returns their results."""
        next(metric for metric in self.metrics if metric.name == "loss").update_state(losses)
        for metric, values in zip(self.term_metrics, terms.values(), strict=True):
            metric.update_state(values)
        return self.get_metrics_result()


@keras.saving.register_keras_serializable("kpzoo")
class PoseModel(ZooModel):
    """A model from crops to heatmaps; see `ZooModel`."""

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self.pck_metric = keras.metrics.Mean(name="pck")

    def track(self, losses, terms, targets, outputs) -> dict:
        self.pck_metric.update_state(*peak_hits(targets["heatmaps"], outputs["heatmaps"], targets["weights"]))
        return super().track(losses, terms, targets, outputs)


@keras.saving.register_keras_serializable("kpzoo")
class PersonModel(ZooModel):
    """A model from pictures to one logit and one box per cell; see `ZooModel` and `kpzoo.boxes`."""

    losses_are = "`kpzoo.boxes.PersonBoxLoss`"


def mean_over_replicas(losses: tf.Tensor) -> tf.Tensor:
    """Returns this replica's share of the mean over the global batch: the optimizer sums gradients over replicas."""
    count = tf.cast(tf.shape(losses)[0], tf.float32)
    count = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, count)
    return tf.reduce_sum(losses) / count


def inner_optimizer(optimizer: keras.optimizers.Optimizer | None) -> keras.optimizers.Optimizer | None:
    """Returns the optimizer that makes the steps, without the loss scaling of float16 around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def over_replicas(gradients: list, optimizer: keras.optimizers.Optimizer) -> list:
    """Returns this replica's gradients, such that what must be looked at in their sum has been looked at.

    Keras clips to `global_clipnorm` what each replica has, and looks for float16's overflows in the first one alone.
    Where several replicas do either, gradients are added up, and clipped, here; each replica goes on with its equal
    share, which Keras adds up again.
    """
    context, inner = tf.distribute.get_replica_context(), inner_optimizer(optimizer)
    limit, scales = inner.global_clipnorm, optimizer is not inner
    if context.num_replicas_in_sync == 1:
        return gradients
    if inner.clipnorm or inner.clipvalue:
        raise UserError(
            f"Each of {context.num_replicas_in_sync} replicas would clip its own gradients. Received: "
            f"clipnorm={inner.clipnorm}, clipvalue={inner.clipvalue}. Use `global_clipnorm`, or one device."
        )
    if not (limit or scales):
        return gradients
    known = [gradient for gradient in gradients if gradient is not None]
    known = context.all_reduce(tf.distribute.ReduceOp.SUM, known)
    if limit:
        known, _ = tf.clip_by_global_norm(known, optimizer.scale_loss(limit))
    shares = iter([gradient / context.num_replicas_in_sync for gradient in known])
    return [None if gradient is None else next(shares) for gradient in gradients]


def peak_hits(targets: tf.Tensor, heatmaps: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (hits, weights) of the labelled keypoints: is the predicted peak within `PCK_RADIUS` of the target peak?

    Args:
        targets: (..., h, w, K) target heatmaps.
        heatmaps: (..., h, w, K) predicted heatmaps.
        weights: (..., K), 0 for keypoints without a label.
    """
    distance = tf.norm(_peaks(targets) - _peaks(heatmaps), axis=-1)
    radius = PCK_RADIUS * tf.cast(tf.shape(targets)[-3], tf.float32)
    labelled = (weights > 0) & (tf.reduce_max(targets, axis=[-3, -2]) > 0)
    return tf.cast(distance <= radius, tf.float32), tf.cast(labelled, tf.float32)


def _peaks(heatmaps: tf.Tensor) -> tf.Tensor:
    """Returns (..., K, 2): x and y of each map's largest value, in heatmap pixels."""
    shape = tf.shape(heatmaps)
    width = shape[-2]
    flat = tf.reshape(heatmaps, tf.concat([shape[:-3], [shape[-3] * width], shape[-1:]], 0))
    index = tf.argmax(flat, axis=-2, output_type=tf.int32)
    return tf.cast(tf.stack([index % width, index // width], axis=-1), tf.float32)
