"""The model classes of kpzoo, with their configuration and training step."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import keras
import tensorflow as tf

from kpzoo.errors import UserError
from kpzoo.heatmaps import CODECS, HEATMAP_STRIDE, Codec
from kpzoo.skeletons import Skeleton

# PCK threshold in training, as a fraction of the heatmap's height: about 0.2 torso lengths.
PCK_RADIUS = 0.05


@dataclass(frozen=True)
class Preset:
    """Configuration of a model. It is saved with the model.

    Args:
        name: Name of the model in the zoo, such as "cpn_res50".
        image_hw: (height, width) of the crops in pixels.
        skeleton: The keypoints, in the order of the heatmaps' channels; None for a person detector.
        normalization: Name of the pixel normalisation in the model's first layer, None for none.
        codec: Name of the codec: how boxes are cropped, keypoints encoded and heatmaps decoded. A key of
            `heatmaps.CODECS`; `rules` is the codec. "boxes" for a person detector.
        num_instances: N, number of persons the model predicts per box; 1 for single-instance models.
        options: Options passed to `kpzoo.build`.
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
        """Returns the preset as JSON-serialisable values, the argument of `from_config`."""
        skeleton = self.skeleton and self.skeleton.to_config()
        return {**self.__dict__, "skeleton": skeleton, "options": dict(self.options)}

    @classmethod
    def from_config(cls, config: Mapping) -> "Preset":
        skeleton = config["skeleton"] and Skeleton.from_config(config["skeleton"])
        return replace(cls(**config), image_hw=tuple(config["image_hw"]), skeleton=skeleton)


class ZooModel(keras.Model):
    """Base class of `PoseModel` and `PersonModel`: a functional Keras model with dicts as batches.

    A batch holds inputs and targets. The loss is a `keras.losses.Loss` over `(targets, outputs)` that returns one value
    per image. If the loss defines `terms`, as those of `kpzoo.losses` do, each term is a metric.
    """

    preset: Preset
    pyramid_layers: Mapping[str, str] = MappingProxyType({})
    averages = None  # `averages.WeightAverages`, set by `kpzoo.training` if moving averages are enabled
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

    # XLA is off by default: its convolutions are slower on CPUs and fail under `MirroredStrategy`.
    def compile(self, *args, jit_compile=False, **kwargs):
        super().compile(*args, jit_compile=jit_compile, **kwargs)
        if self.loss is not None and not callable(self.loss):
            raise UserError(
                f"`loss=` of model {self.name!r} must be {self.losses_are}, or a callable of (targets, outputs). "
                f"Received: {self.loss!r}."
            )
        for metric in [*self._metrics]:  # Keras keeps the metrics of an earlier `compile`
            self._tracker.untrack(metric)
        self.add_metrics()
        names = self.loss.term_names(self.preset.num_instances, self.num_levels) if hasattr(self.loss, "terms") else []
        self.term_metrics = [keras.metrics.Mean(name=f"loss_{name}") for name in names]

    @property
    def num_levels(self) -> int:
        """L, number of heatmaps with intermediate supervision; 0 if there are none."""
        return self.output["global_heatmaps"].shape[-4] if "global_heatmaps" in self.output else 0

    def add_metrics(self) -> None:
        """Creates the metrics that `track` updates, beside the loss and its terms."""

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds the optimizer only. Keras would consume a batch of the data set to build the rest."""
        with self.distribute_strategy.scope():
            if self.optimizer is not None and not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force=False):
        """Compiles the training step. Keras' multi-worker version reduces scalars along an axis they do not have."""
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
        """Splits a batch into model inputs and targets, by the names of the model's inputs."""
        missing = [name for name in self.input if name not in batch]
        if missing:
            raise UserError(
                f"The batch must contain the inputs {list(self.input)} of model {self.name!r}. "
                f"Received: {sorted(batch)}, without {missing}."
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
        """Returns the (B,) losses and their terms, each (B,)."""
        if not self.term_metrics:
            return self.loss(targets, outputs), {}
        terms = self.loss.terms(targets, outputs)
        return tf.add_n(list(terms.values())), terms

    def track(self, losses, terms, targets, outputs) -> dict:
        """Updates the metrics with a batch and returns their values."""
        next(metric for metric in self.metrics if metric.name == "loss").update_state(losses)
        for metric, values in zip(self.term_metrics, terms.values(), strict=True):
            metric.update_state(values)
        return self.get_metrics_result()


@keras.saving.register_keras_serializable("kpzoo")
class PoseModel(ZooModel):
    """Functional Keras model that maps image crops to keypoint heatmaps.

    `kpzoo.build` creates it. It is a `keras.Model`: `compile`, `fit`, `predict`, `save` and callbacks work as in Keras.
    Inputs, outputs and batches are dicts; a batch holds inputs and targets together.

    Inputs:
        image: (B, H, W, 3) float32, RGB crops, 0 … 255. The first layer normalises them.
        instance: (B, M, N) float32, MIPNets only. One-hot index of the person to predict (λ in the paper): row [1, 0]
            selects the person the box is centred on, [0, 1] the second person.

    Outputs:
        heatmaps: (B, H/4, W/4, K) float32, for a MIPNet (B, M, H/4, W/4, K).
        global_heatmaps: Heatmaps with intermediate supervision, (B, L, H/4, W/4, K), for a MIPNet
            (B, M, L, H/4, W/4, K): the levels of a CPN, or the first stacks of an hourglass.

    Targets: `heatmaps` and `weights` (B, K), 0 for unlabelled keypoints; with intermediate supervision also
    `global_heatmaps` and `global_weights` (B, L, K). `kpzoo.heatmaps.encode` computes them.

    The loss is one of `kpzoo.losses`, or a `keras.losses.Loss` over `(targets, outputs)` that returns one value per
    crop. `fit` reports the loss, its terms, and the PCK of the training heatmaps.

    Attributes:
        preset: The configuration of the model; `preset.rules` is its codec.

    Examples:

    Heatmaps and keypoints of two crops:

    >>> import numpy as np
    >>> import kpzoo
    >>> model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    >>> image = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    >>> outputs = model.predict({"image": image}, verbose=0)
    >>> outputs["heatmaps"].shape
    (2, 16, 16, 17)
    >>> keypoints_crop_xy, scores = kpzoo.heatmaps.decode(model.preset.rules, outputs["heatmaps"])
    >>> tuple(keypoints_crop_xy.shape)
    (2, 17, 2)

    Training on one batch:

    >>> import tensorflow as tf
    >>> visibility = np.full((2, 17), 2)  # all keypoints are labelled and visible
    >>> targets = kpzoo.heatmaps.encode(
    ...     model.preset.rules, keypoints_crop_xy, visibility, model.preset.image_hw, model.num_levels
    ... )
    >>> model.compile("adam", kpzoo.losses.default_loss(model.preset))
    >>> history = model.fit(tf.data.Dataset.from_tensors({"image": image, **targets}), verbose=0)
    >>> sorted(history.history)
    ['loss', 'loss_global', 'loss_refine', 'pck']

    Both persons in a box:

    >>> mipnet = kpzoo.build("mipnet_tiny", image_hw=(64, 64))
    >>> instance = np.tile(np.eye(2, dtype="float32"), (2, 1, 1))  # (B, M, N)
    >>> mipnet.predict({"image": image, "instance": instance}, verbose=0)["heatmaps"].shape
    (2, 2, 16, 16, 17)

    Feature extraction:

    >>> import keras
    >>> backbone = keras.Model(model.input, model.pyramid_outputs)
    >>> {level: x.shape for level, x in backbone.predict({"image": image}, verbose=0).items()}
    {'P2': (2, 16, 16, 8), 'P3': (2, 8, 8, 8), 'P4': (2, 4, 4, 8), 'P5': (2, 2, 2, 8)}

    Saving and loading:

    >>> model.save("pose.keras")
    >>> keras.saving.load_model("pose.keras").preset == model.preset
    True
    """

    def add_metrics(self):
        self.pck_metric = keras.metrics.Mean(name="pck")

    def track(self, losses, terms, targets, outputs) -> dict:
        self.pck_metric.update_state(*peak_hits(targets["heatmaps"], outputs["heatmaps"], targets["weights"]))
        return super().track(losses, terms, targets, outputs)


@keras.saving.register_keras_serializable("kpzoo")
class PersonModel(ZooModel):
    """Functional Keras model that maps images to one logit and one person box per cell; see `kpzoo.boxes`."""

    losses_are = "`kpzoo.boxes.PersonBoxLoss`"


def mean_over_replicas(losses: tf.Tensor) -> tf.Tensor:
    """Returns the replica's sum divided by the global batch size, as the optimizer sums gradients over replicas."""
    count = tf.cast(tf.shape(losses)[0], tf.float32)
    count = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, count)
    return tf.reduce_sum(losses) / count


def inner_optimizer(optimizer: keras.optimizers.Optimizer | None) -> keras.optimizers.Optimizer | None:
    """Returns the optimizer without the loss-scaling wrapper of mixed_float16."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def over_replicas(gradients: list, optimizer: keras.optimizers.Optimizer) -> list:
    """Applies clipping and overflow checks to the gradients summed over replicas.

    Keras applies `global_clipnorm` to each replica's gradients separately, and checks only the first replica for
    float16 overflow. Here the gradients are first summed and clipped. Each replica then returns an equal share of the
    sum, because the optimizer sums over replicas again.
    """
    context, inner = tf.distribute.get_replica_context(), inner_optimizer(optimizer)
    limit, scales = inner.global_clipnorm, optimizer is not inner
    if context.num_replicas_in_sync == 1:
        return gradients
    if inner.clipnorm or inner.clipvalue:
        raise UserError(
            f"`clipnorm=` and `clipvalue=` are not supported on {context.num_replicas_in_sync} replicas, as each would "
            f"clip its own gradients. Received: clipnorm={inner.clipnorm}, clipvalue={inner.clipvalue}.",
            "Use `global_clipnorm=`.",
            "Or use one device.",
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
    """Returns hits and weights for the PCK metric, each (..., K) float32.

    A hit is a predicted peak within `PCK_RADIUS` of the target's peak.

    Args:
        targets: (..., h, w, K) target heatmaps.
        heatmaps: (..., h, w, K) predicted heatmaps.
        weights: (..., K), 0 for unlabelled keypoints.
    """
    distance = tf.norm(_peaks(targets) - _peaks(heatmaps), axis=-1)
    radius = PCK_RADIUS * tf.cast(tf.shape(targets)[-3], tf.float32)
    labelled = (weights > 0) & (tf.reduce_max(targets, axis=[-3, -2]) > 0)
    return tf.cast(distance <= radius, tf.float32), tf.cast(labelled, tf.float32)


def _peaks(heatmaps: tf.Tensor) -> tf.Tensor:
    """Returns x and y of each heatmap's maximum, (..., K, 2) in heatmap pixels."""
    shape = tf.shape(heatmaps)
    width = shape[-2]
    flat = tf.reshape(heatmaps, tf.concat([shape[:-3], [shape[-3] * width], shape[-1:]], 0))
    index = tf.argmax(flat, axis=-2, output_type=tf.int32)
    return tf.cast(tf.stack([index % width, index // width], axis=-1), tf.float32)
