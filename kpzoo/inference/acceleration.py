"""Fast inference with batch norm folded into convolutions. Weight updates are picked up automatically.

Keras' `predict` builds a data set in each call and does not fold batch norm. Here a call runs one graph with the folded
network (see `kpzoo.inference.folding`), the flip test and decoding.
"""

import gc
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import tensorflow as tf

from kpzoo import keras_setup
from kpzoo.errors import UserError, unknown
from kpzoo.inference import agreement, engines, fastest
from kpzoo.inference.engines import EngineFunction
from kpzoo.inference.folded_model import FoldedModel, decoded, instance_heatmaps
from kpzoo.pose_model import PoseModel

PRECISIONS = ("float32", "bfloat16", "int8")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # CPU flags in Linux on Intel, AMD and ARM processors


def accelerate(
    model: PoseModel,
    precision: str = "float32",
    engine: str = engines.TENSORFLOW,
    calibration: np.ndarray | None = None,
) -> "Accelerated | EngineFunction | Replicated":
    """Returns an optimized function from crops to keypoints, as `kpzoo.Predictor` and `kpzoo.evaluate` use it.

    Batch norm is folded into the convolutions. Weight updates are picked up by the next call. Preparing the function
    takes up to some seconds, so keep it for as long as it is needed. A model that was built under a `MirroredStrategy`
    with several replicas is not folded; its replicas share each batch.

    The flip test, decoding and all instances of a MIPNet are part of the graph in every engine. OpenVINO and ONNX
    Runtime have the weights as constants: after a weight update the next call takes seconds. If the precision is not
    "float32", these engines print on stderr by how many pixels keypoints move.

    Args:
        model: Any model of the zoo.
        precision: "float32"; "bfloat16" on CPUs that support it, which is faster and moves some keypoints slightly; or
            "int8" in OpenVINO, quantized after training with `calibration`.
        engine: "tensorflow", "openvino" (`pip install 'kpzoo[openvino]'`), "onnxruntime" (`pip install 'kpzoo[onnx]'`),
            or "auto" for the fastest of those that are installed and whose keypoints agree. "auto" measures them once
            per process, network and crop size, and prints the result on stderr.
        calibration: (n, H, W, 3) crops of your own images, from which the ranges of "int8" are found; 32 to 300 are
            enough, see `kpzoo.inference.calibration_crops`.

    Raises:
        UserError: If the engine is unknown, not installed or lacks the precision, the precision is "bfloat16" and the
            CPU does not support it, the weights are on a GPU or on several devices, or the model has layers with loops
            or branches.

    >>> predict_crops = kpzoo.accelerate(model)
    >>> keypoints_crop_xy, keypoint_scores = predict_crops(crops, flip=True)
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.MirroredStrategy) and strategy.num_replicas_in_sync > 1:
        for name, value, only in (("precision", precision, "float32"), ("engine", engine, engines.TENSORFLOW)):
            if value != only:
                raise UserError(
                    f"`{name}=` must be {only!r} for a model on several devices, which keeps the precision that it was "
                    f"built with. Received: {value!r}."
                )
        return Replicated(model)
    if precision == "bfloat16" and not has_bfloat16():
        raise UserError(
            "This machine's CPU does not compute in bfloat16, which would be slower than float32. The CPU flags "
            f"(`lscpu`) must include {' or '.join(sorted(_BFLOAT16_FLAGS))}.",
            "Use `precision='float32'`.",
        )
    if (precision == "int8") != (calibration is not None):
        raise UserError(
            f"`calibration=` belongs to `precision='int8'`. Received: precision {precision!r} "
            f"{'with' if calibration is not None else 'without'} calibration."
        )
    prepare = partial(_prepared, model, precision, calibration)
    return fastest.choose(model, precision, prepare) if engine == fastest.AUTO else _told(prepare(engine), calibration)


def _prepared(model: PoseModel, precision: str, calibration: np.ndarray | None, engine: str):
    """Returns the function of one engine."""
    engines.check(engine, precision)
    if engine == engines.TENSORFLOW:
        return Accelerated(model, precision)
    if precision == "float32":
        compile_network = network_of(engine)
    elif precision == "bfloat16":
        from kpzoo.inference.openvino_precisions import in_bfloat16 as compile_network
    else:
        from kpzoo.inference.openvino_precisions import quantizer

        compile_network = quantizer(calibration, model.preset.image_hw)
    return EngineFunction(model, engine, precision, compile_network)


def network_of(engine: str) -> engines.Compile:
    """Returns what makes a float32 network of another engine than TensorFlow."""
    if engine == "onnxruntime":
        from kpzoo.inference.onnxruntime_engine import OnnxRuntimeNetwork as compile_network
    else:
        from kpzoo.inference.openvino_engine import compiled as compile_network
    return compile_network


def _told(function, calibration: np.ndarray | None):
    """Prints the change of keypoints by a reduced precision of other engines than TensorFlow; returns the function."""
    if isinstance(function, EngineFunction) and function.precision != "float32":
        image = None if calibration is None else np.asarray(calibration[: fastest.NUM_CROPS], np.float32)
        known = agreement.reference(function.model, fastest.NUM_CROPS, image=image, flip=True)
        apart = known.distances(function(known.inputs["image"])[0])
        print(
            f"kpzoo: {function.precision} in {function.engine}: keypoints move by {apart.mean():.2f} px on average, "
            f"95 % by less than {np.quantile(apart, 0.95):.2f} px ({len(known.inputs['image'])} "
            f"{'drawn' if calibration is None else 'given'} crops)",
            file=sys.stderr,
        )
    return function


def has_bfloat16() -> bool:
    """Returns whether the CPU has bfloat16 instructions. False where there is no `/proc/cpuinfo`."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8", "replace").split()
    except OSError:
        return False
    return not _BFLOAT16_FLAGS.isdisjoint(flags)


class Accelerated:
    """What `accelerate` returns. Call it eagerly; batches of equal size are fastest.

    Threads may share it. Their forward passes run one after another, each on all cores.
    """

    def __init__(self, model: PoseModel, precision: str):
        self.model = model
        self.precision = precision
        self._folded = FoldedModel(model, precision)
        self._functions = {}
        self._constant, self._frozen = None, {}
        # One forward pass at a time, which uses all cores: TensorFlow 2.21's fused convolutions with a summand
        # (oneDNN) are not thread-safe, and two passes through one graph can end the process.
        self._lock = Lock()

    def freeze(self) -> "Accelerated":
        """Makes the weights constants of the graph, until they change; returns itself.

        oneDNN then reorders the weights once instead of in each call, which pays off in servers that run one or
        few crops at a time. The next call takes seconds and several times the memory of the weights, which is released
        when the weights change.
        """
        with self._lock:
            self._constant, self._frozen = self._folded.weights(), {}
        return self

    def __call__(self, image, flip: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns keypoints_crop_xy (B, N, K, 2) and keypoint_scores (B, N, K) of the model's N instances.

        Args:
            image: (B, H, W, 3) float32 RGB crops, 0 … 255.
            flip: Whether to average the heatmaps with those of the mirrored crops.
        """
        return self.start(image, flip)()[:2]

    def start(self, image, flip: bool = True) -> Callable[[], tuple[tf.Tensor, ...]]:
        """Computes the call, and returns a function that returns its result.

        Models with a `preset.confidence` have two more outputs, keypoint_covariance_crop (B, N, K, 2, 2) and
        pose_scores (B, N) for a box score of 1.
        """
        found = self._run((flip, self.model.preset.confidence), partial(decoded, self.model, flip), image)
        return lambda: found

    def heatmaps(self, image) -> tf.Tensor:
        """Returns the float32 heatmaps (B, N, h, w, K) of crops."""
        return self._run("heatmaps", partial(instance_heatmaps, self.model), image)

    def _run(self, name, compute: Callable, image):
        keras_setup.check_process()
        with self._lock:
            weights = self._folded.weights()
            frozen = weights is self._constant
            if not frozen:
                self._constant, self._frozen = None, {}
            functions = self._frozen if frozen else self._functions
            if name not in functions:
                if frozen:
                    gc.collect()  # graphs refer to themselves: those of older weights would stay in memory
                make = _with_constants if frozen else _traced
                functions[name] = make(self._folded, compute, self._spec, weights)
            return functions[name](image) if frozen else functions[name](image, weights)

    @property
    def _spec(self) -> tf.TensorSpec:
        return tf.TensorSpec((None, *self.model.preset.image_hw, 3), tf.float32)


# These functions are not methods: a closure over the `Accelerated` that stores it would be a reference cycle, and its
# weights would stay in memory until the garbage collector runs.


def _with_constants(folded: FoldedModel, compute: Callable, spec: tf.TensorSpec, weights: list[tf.Tensor]):
    """Returns a traced `tf.function` from crops to `compute`'s outputs, with the weights as constants."""
    values = [weight.numpy() for weight in weights]

    def run(image):
        return compute(image, forward=lambda inputs: folded(inputs, [tf.constant(value) for value in values]))

    return _ready(run, [spec])


def _traced(folded: FoldedModel, compute: Callable, spec: tf.TensorSpec, weights: list[tf.Tensor]):
    """Returns a traced `tf.function` from crops and weights to `compute`'s outputs, for all batch sizes."""

    def run(image, weights):
        return compute(image, forward=lambda inputs: folded(inputs, weights))

    return _ready(run, [spec, [tf.TensorSpec(weight.shape, weight.dtype) for weight in weights]])


def _ready(run: Callable, signature: list):
    function = tf.function(run, input_signature=signature, autograph=False)
    function.get_concrete_function()  # traces it, in the one thread that holds the lock
    return function


class Replicated:
    """What `accelerate` returns for a model on several devices: the replicas share the rows of each batch."""

    def __init__(self, model: PoseModel):
        self.model = model
        self._functions, self._lock = {}, Lock()

    def __call__(self, image, flip: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Accelerated`; the batch is padded to the same number of rows for each replica."""
        return self.start(image, flip)()[:2]

    def start(self, image, flip: bool = True) -> Callable[[], tuple[tf.Tensor, ...]]:
        """See `Accelerated`."""
        name = flip, self.model.preset.confidence
        with self._lock:
            if name not in self._functions:
                spec = tf.TensorSpec((None, *self.model.preset.image_hw, 3), tf.float32)
                self._functions[name] = tf.function(_shared(self.model, flip), input_signature=[spec])
                self._functions[name].get_concrete_function()
            found = self._functions[name](image)
        return lambda: found


def _shared(model: PoseModel, flip: bool) -> Callable:
    """Returns a function that splits the rows of a batch over the replicas."""
    strategy, count = model.distribute_strategy, model.distribute_strategy.num_replicas_in_sync

    def of_replica(image):
        rows = tf.shape(image)[0] // count
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * rows
        return decoded(model, flip, image[first : first + rows])

    def of_all(image):
        rows = tf.shape(image)[0]
        image = tf.pad(image, [[0, -rows % count], [0, 0], [0, 0], [0, 0]])
        parts = strategy.run(of_replica, args=(image,))
        return tuple(tf.concat(strategy.experimental_local_results(part), axis=0)[:rows] for part in parts)

    return of_all
