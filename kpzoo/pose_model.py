"""The model classes of kpzoo, with their configuration and training step."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType, SimpleNamespace

import keras
import tensorflow as tf

from kpzoo import keras_setup
from kpzoo.errors import UserError, unknown
from kpzoo.heatmaps import CODECS, HEATMAP_STRIDE, Codec, Confidence, peak_hits
from kpzoo.keras_batches import check_class_weight, check_loss, check_shapes, named_inputs, unpacked
from kpzoo.replicas import mean_over_replicas, over_replicas
from kpzoo.skeletons import Skeleton

_NO_ORIGIN = SimpleNamespace()
keras_setup.check_backend()


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
        confidence: Numbers fitted to the weights, with which scores are calibrated and keypoints have covariances;
            None without such numbers. Training sets it to None. See `kpzoo.evaluation.fit_confidence`.
    """

    name: str
    image_hw: tuple[int, int]
    skeleton: Skeleton | None
    normalization: str | None
    codec: str
    num_instances: int = 1
    options: Mapping = field(default_factory=dict)
    confidence: Confidence | None = None

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
        config = {**self.__dict__, "skeleton": skeleton, "options": dict(self.options)}
        confidence = config.pop("confidence")
        return config if confidence is None else {**config, "confidence": confidence.to_config()}

    @classmethod
    def from_config(cls, config: Mapping) -> "Preset":
        skeleton = config["skeleton"] and Skeleton.from_config(config["skeleton"])
        confidence = Confidence.from_config(config["confidence"]) if config.get("confidence") else None
        return replace(cls(**config), image_hw=tuple(config["image_hw"]), skeleton=skeleton, confidence=confidence)


class ZooModel(keras.Model):
    """Base class of `PoseModel` and `PersonModel`: a functional Keras model with dicts as batches.

    A batch holds inputs and targets. The loss is a `keras.losses.Loss` over `(targets, outputs)` that returns one value
    per image. If the loss defines `terms`, as those of `kpzoo.losses` do, each term is a metric. A list of Keras
    metrics in `compile` applies to the output `metrics_of`. `kpzoo.build` sets `preset` and `pyramid_layers`, which
    `keras.models.clone_model` keeps.
    """

    averages = None  # `averages.WeightAverages`, set by `kpzoo.training` if moving averages are enabled
    losses_are = "one of `kpzoo.losses`"
    target_names: tuple[str, ...]  # required in every batch
    metrics_of: str | None = None  # None for models whose targets have other names than their outputs

    @property
    def preset(self) -> Preset:
        if not hasattr(self._origin, "preset"):
            raise AttributeError("This model was not created by `kpzoo.build`. Set its `preset` to another model's.")
        return self._origin.preset

    @preset.setter
    def preset(self, preset: Preset) -> None:
        self._set_origin(preset=preset)

    @property
    def pyramid_layers(self) -> Mapping[str, str]:
        return getattr(self._origin, "pyramid_layers", MappingProxyType({}))

    @pyramid_layers.setter
    def pyramid_layers(self, layers: Mapping[str, str]) -> None:
        self._set_origin(pyramid_layers=layers)

    @property
    def _origin(self) -> SimpleNamespace:
        """`preset` and `pyramid_layers`. Keras passes only tensors to clones, so the symbolic outputs have it, too."""
        tagged = (tensor.kpzoo_origin for tensor in self.outputs if hasattr(tensor, "kpzoo_origin"))
        return self.__dict__.get("_own_origin") or next(tagged, _NO_ORIGIN)

    def _set_origin(self, **changed) -> None:
        self._own_origin = SimpleNamespace(**{**vars(self._origin), **changed})
        for tensor in self.outputs:
            tensor.kpzoo_origin = self._own_origin

    def _run_through_graph(self, *args, **kwargs):
        outputs = super()._run_through_graph(*args, **kwargs)
        if hasattr(self, "_outputs_struct"):  # not while it is constructed
            for tensor in keras.tree.flatten(outputs):
                if isinstance(tensor, keras.KerasTensor):
                    tensor.kpzoo_origin = self._origin
        return outputs

    def __call__(self, inputs, *args, **kwargs):
        """Computes the outputs of a dict with the inputs; other entries, such as targets of a batch, are ignored."""
        keras_setup.check_process()
        if isinstance(inputs, Mapping):
            known = named_inputs(inputs, list(self.input))
            inputs = {name: known[name] for name in self.input}
        return super().__call__(inputs, *args, **kwargs)

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
        keras_setup.check_process()
        preset, pyramid_layers = Preset.from_config(config.pop("preset")), config.pop("pyramid_layers", {})
        model = super().from_config(config, custom_objects=custom_objects)
        model.preset, model.pyramid_layers = preset, pyramid_layers
        return model

    # XLA is off by default: its convolutions are slower on CPUs and fail under `MirroredStrategy`.
    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        jit_compile=False,
        **kwargs,
    ):
        check_loss(loss, loss_weights, self.losses_are)
        self._compile_metrics = None  # Keras keeps the metrics of an earlier `compile`
        kwargs["metrics"], kwargs["weighted_metrics"] = map(self._by_output, (metrics, weighted_metrics))
        super().compile(optimizer, loss, jit_compile=jit_compile, **kwargs)
        if self._compile_metrics is not None:  # Keras would build them inside the first step
            self._compile_metrics.build(self.output, self.output)
        for metric in [*self._metrics]:  # as it keeps these
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

    def _by_output(self, metrics):
        """Returns metrics by output."""
        if not metrics:
            return None
        if self.metrics_of is None:
            raise UserError(f"Model {self.name!r} takes no Keras metrics: its targets are boxes, its outputs cells.")
        for name in metrics if isinstance(metrics, Mapping) else ():
            if name not in self.output:
                raise unknown("output in `metrics`", name, self.output)
        return {self.metrics_of: [*metrics]} if isinstance(metrics, list | tuple) else metrics

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
        keras_setup.check_process()
        if hasattr(self._origin, "preset"):  # the numbers were fitted to the weights before training
            self.preset = replace(self.preset, confidence=None)
        strategy = self.distribute_strategy
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            super().make_train_function(force)
        elif self.train_function is None or force:

            @tf.function
            def step(iterator):
                results = strategy.run(self.train_step, args=(next(iterator),))
                return {name: strategy.reduce("MEAN", value, axis=None) for name, value in results.items()}

            self.train_function = step

    def make_test_function(self, force=False):
        keras_setup.check_process()
        super().make_test_function(force)

    def make_predict_function(self, force=False):
        keras_setup.check_process()
        return super().make_predict_function(force)

    def fit(self, *args, class_weight=None, **kwargs):
        check_class_weight(class_weight)
        return super().fit(*args, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, **kwargs):
        check_class_weight(class_weight)
        return super().train_on_batch(x, y, sample_weight, **kwargs)

    def train_step(self, data):
        inputs, targets, weights = unpacked(data, list(self.input), self.target_names)
        with tf.GradientTape() as tape:
            outputs = self(inputs, training=True)
            losses, terms = self.losses_of(targets, outputs, weights)  # (B,)
            scaled_loss = self.optimizer.scale_loss(mean_over_replicas(losses))
        gradients = tape.gradient(scaled_loss, self.trainable_variables)
        self.optimizer.apply(over_replicas(gradients, self.optimizer), self.trainable_variables)
        if self.averages is not None:
            self.averages.update()
        return self.track(losses, terms, targets, outputs, weights)

    def test_step(self, data):
        inputs, targets, weights = unpacked(data, list(self.input), self.target_names)
        outputs = self(inputs, training=False)
        return self.track(*self.losses_of(targets, outputs, weights), targets, outputs, weights)

    def predict_step(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self(named_inputs(x, list(self.input)), training=False)

    def losses_of(self, targets: Mapping, outputs: Mapping, weights=None) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Returns the (B,) losses and their terms, each (B,), times the (B,) `weights`.

        The losses include the regularization losses of the layers.
        """
        check_shapes(targets, outputs)
        if self.loss is None:
            raise UserError("The model was compiled without a loss. Pass `loss=` to `compile`.")
        terms = self.loss.terms(targets, outputs) if self.term_metrics else {"loss": self.loss(targets, outputs)}
        terms = {name: tf.convert_to_tensor(values) for name, values in terms.items()}
        for values in terms.values():
            if values.shape.rank not in (1, None):
                raise UserError(
                    f"The loss must return one value per image, shape (B,). Received: shape {tuple(values.shape)}.",
                    "Average over all axes but the first, and pass `reduction='none'` to a `keras.losses.Loss`.",
                )
        if weights is not None:
            terms = {name: values * weights for name, values in terms.items()}
        losses = tf.add_n([*terms.values()])
        if self.losses:
            losses += tf.add_n([tf.cast(loss, tf.float32) for loss in self.losses])
        return losses, terms if self.term_metrics else {}

    def track(self, losses, terms, targets, outputs, weights=None) -> dict:
        """Updates the metrics with a batch and returns their values."""
        next(metric for metric in self.metrics if metric.name == "loss").update_state(losses)
        for metric, values in zip(self.term_metrics, terms.values(), strict=True):
            metric.update_state(values)
        if self._compile_metrics is None:
            return self.get_metrics_result()
        missing = [name for name in outputs if name not in targets]
        if missing:
            raise UserError(f"Metrics need targets for every output. The batch lacks {missing}.")
        return self.compute_metrics(None, {name: targets[name] for name in outputs}, outputs, weights)


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

    target_names, metrics_of = ("heatmaps", "weights"), "heatmaps"

    def add_metrics(self):
        self.pck_metric = keras.metrics.Mean(name="pck")

    def track(self, losses, terms, targets, outputs, weights=None) -> dict:
        self.pck_metric.update_state(*peak_hits(targets["heatmaps"], outputs["heatmaps"], targets["weights"]))
        return super().track(losses, terms, targets, outputs, weights)


@keras.saving.register_keras_serializable("kpzoo")
class PersonModel(ZooModel):
    """Functional Keras model that maps images to one logit and one person box per cell; see `kpzoo.boxes`."""

    losses_are = "`kpzoo.boxes.PersonBoxLoss`"
    target_names = ("boxes", "box_weights", "ignored")
