"""Fast inference with batch norm folded into convolutions. Weight updates are picked up automatically.

Keras' `predict` builds a data set in each call and does not fold batch norm. Here a call runs one graph with the folded
network (see `kpzoo.inference.folding`), the flip test and decoding.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import tensorflow as tf

from kpzoo import heatmaps, keras_setup
from kpzoo.errors import UserError, unknown
from kpzoo.inference import folding
from kpzoo.pose_model import PoseModel

PRECISIONS = ("float32", "bfloat16")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # CPU flags in Linux on Intel, AMD and ARM processors

Forward = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]


def accelerate(model: PoseModel, precision: str = "float32") -> "Accelerated | Replicated":
    """Returns an optimized function from crops to keypoints, as `kpzoo.Predictor` and `kpzoo.evaluate` use it.

    Batch norm is folded into the convolutions. Weight updates are picked up by the next call. Preparing the function
    takes up to some seconds, so keep it for as long as it is needed. A model that was built under a `MirroredStrategy`
    with several replicas is not folded; its replicas share each batch.

    Args:
        model: Any model of the zoo.
        precision: "float32", or "bfloat16" on CPUs that support it, which is faster and moves some keypoints slightly.

    Raises:
        UserError: If the precision is "bfloat16" and the CPU does not support it, the weights are on a GPU or on
            several devices, or the model has layers with loops or branches.

    >>> predict_crops = kpzoo.accelerate(model)
    >>> keypoints_crop_xy, keypoint_scores = predict_crops(crops, flip=True)
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.MirroredStrategy) and strategy.num_replicas_in_sync > 1:
        if precision != "float32":
            raise UserError(
                "`precision=` must be 'float32' for a model on several devices, which keeps the precision that it was "
                f"built with. Received: {precision!r}."
            )
        return Replicated(model)
    if precision == "bfloat16" and not has_bfloat16():
        raise UserError(
            "This machine's CPU does not compute in bfloat16, which would be slower than float32. The CPU flags "
            f"(`lscpu`) must include {' or '.join(sorted(_BFLOAT16_FLAGS))}.",
            "Use `precision='float32'`.",
        )
    return Accelerated(model, precision)


def has_bfloat16() -> bool:
    """Returns whether the CPU has bfloat16 instructions. False where there is no `/proc/cpuinfo`."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8", "replace").split()
    except OSError:
        return False
    return not _BFLOAT16_FLAGS.isdisjoint(flags)


def instance_heatmaps(model: PoseModel, image: tf.Tensor, forward: Forward | None = None) -> tf.Tensor:
    """Returns the heatmaps of all N instances of the model, N = 1 except for MIPNets.

    Args:
        model: The model.
        image: (B, H, W, 3) float32 RGB crops, 0 … 255.
        forward: Replaces the model's forward pass; None for the Keras model as it is.

    Returns:
        (B, N, h, w, K) float32 heatmaps.
    """
    forward = forward or partial(model, training=False)
    if "instance" not in model.input:
        return tf.cast(forward({"image": image})["heatmaps"], tf.float32)[:, None]
    queries = tf.tile(tf.eye(model.preset.num_instances)[None], [tf.shape(image)[0], 1, 1])
    return tf.cast(forward({"image": image, "instance": queries})["heatmaps"], tf.float32)


def flip_test_heatmaps(model: PoseModel, image: tf.Tensor, forward: Forward | None = None) -> tf.Tensor:
    """Returns the heatmaps of `instance_heatmaps`, averaged with those of the mirrored crops (flip test)."""
    preset = model.preset
    if not preset.skeleton.sides_known:
        return instance_heatmaps(model, image, forward)
    both = instance_heatmaps(model, tf.concat([image, tf.reverse(image, axis=[2])], axis=0), forward)
    return heatmaps.merge_flipped(preset.rules, *tf.split(both, 2), preset.skeleton.flip_order)


def decoded(model: PoseModel, flip: bool, image: tf.Tensor, forward: Forward | None = None):
    """Returns keypoints_crop_xy (B, N, K, 2) and keypoint_scores (B, N, K) of crops.

    Args:
        model: The model.
        flip: Whether to average the heatmaps with those of the mirrored crops.
        image: (B, H, W, 3) float32 RGB crops, 0 … 255.
        forward: Replaces the model's forward pass; None for the Keras model as it is.
    """
    heatmaps_of = flip_test_heatmaps if flip else instance_heatmaps
    return heatmaps.decode(model.preset.rules, heatmaps_of(model, image, forward))


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
        few crops at a time. The next call takes seconds and several times the memory of the weights, not all of which
        is released when the weights change and are frozen again: do not use it on a model that is being trained.
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
        return self._run(flip, partial(decoded, self.model, flip), image)

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
                make = _with_constants if frozen else _traced
                functions[name] = make(self._folded, compute, self._spec, weights)
            return functions[name](image) if frozen else functions[name](image, weights)

    @property
    def _spec(self) -> tf.TensorSpec:
        return tf.TensorSpec((None, *self.model.preset.image_hw, 3), tf.float32)


# These functions are not methods: a closure over the `Accelerated` that stores it would be a reference cycle, and its
# weights would stay in memory until the garbage collector runs.


def _with_constants(folded: "FoldedModel", compute: Callable, spec: tf.TensorSpec, weights: list[tf.Tensor]):
    """Returns a traced `tf.function` from crops to `compute`'s outputs, with the weights as constants."""
    values = [weight.numpy() for weight in weights]

    def run(image):
        return compute(image, forward=lambda inputs: folded(inputs, [tf.constant(value) for value in values]))

    return _ready(run, [spec])


def _traced(folded: "FoldedModel", compute: Callable, spec: tf.TensorSpec, weights: list[tf.Tensor]):
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
        with self._lock:
            if flip not in self._functions:
                spec = tf.TensorSpec((None, *self.model.preset.image_hw, 3), tf.float32)
                self._functions[flip] = tf.function(_shared(self.model, flip), input_signature=[spec])
                self._functions[flip].get_concrete_function()
            return self._functions[flip](image)


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


def _reader(variables: list[tuple[tf.Tensor, tf.DType]]):
    """Returns a function that reads all variables, which are given as (handle, dtype)."""

    def read() -> list[tf.Tensor]:
        return [tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype) for handle, dtype in variables]

    return tf.function(read, autograph=False).get_concrete_function()


def _shapes(graph: tf.Graph) -> folding.Shapes:
    """Returns the shape of each operation's first output."""
    shapes = {op.name: op.outputs[0].shape for op in graph.get_operations() if op.outputs}
    return {name: tuple(shape) if shape.rank is not None else () for name, shape in shapes.items()}


class FoldedModel:
    """The forward pass of a model as a folded graph, which takes the folded weights as an argument.

    A model whose layers have loops or branches, or whose weights are on a GPU, is not folded: `weights` is empty, the
    call runs the Keras model, and bfloat16 raises an error.

    Args:
        model: Any model of the zoo.
        precision: "float32" or "bfloat16".
    """

    def __init__(self, model: PoseModel, precision: str = "float32"):
        specs = {name: tf.TensorSpec(tensor.shape, tensor.dtype) for name, tensor in model.input.items()}
        self._forward = tf.function(partial(model, training=False), input_signature=[specs], autograph=False)
        graph = self._forward.get_concrete_function().graph
        names = [tensor.op.name for tensor in graph.inputs]
        self._inputs = dict(zip(names, sorted(specs), strict=False))  # the graph's first inputs
        self._handles = {inner.op.name: outer for outer, inner in graph.captures}
        self._outputs = {name: tensor.name for name, tensor in graph.structured_outputs.items()}
        outputs = [name.partition(":")[0] for name in self._outputs.values()]
        definition = graph.as_graph_def()
        reads = [node for node in definition.node if node.op == "ReadVariableOp"]
        self._dtypes = {node.input[0]: tf.as_dtype(node.attr["dtype"].type) for node in reads}
        on_cpu = all("GPU" not in handle.device for handle in self._handles.values())
        self._network = folding.folded(definition, outputs, self._handles, _shapes(graph))
        if not on_cpu or not self._network.is_whole(self._inputs):
            if precision != "float32":
                reason = "has layers that cannot be converted to it" if on_cpu else "has its weights on a GPU"
                raise UserError(
                    f"Precision {precision!r} is for CPUs; model {model.name!r} {reason}.", "Use `precision='float32'`."
                )
            self._network, self._handles = None, {}
        elif precision == "bfloat16":
            self._network = folding.in_bfloat16(self._network, outputs)
        self._read = _reader([(handle, self._dtypes[name]) for name, handle in self._handles.items()])
        self._held = [], [], []

    def __call__(self, inputs: dict[str, tf.Tensor], weights: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds the forward pass to the graph that is being traced; `weights` have the order of `self.weights()`."""
        if self._network is None:
            return self._forward(inputs)
        given = {name: inputs[key] for name, key in self._inputs.items()}
        given |= zip(self._network.weights, weights, strict=True)
        wanted = list(self._outputs.values())
        found = tf.graph_util.import_graph_def(self._network.graph, given, return_elements=wanted, name="")
        return dict(zip(self._outputs, found, strict=True))

    def weights(self) -> list[tf.Tensor]:
        """Returns the folded weights, which are recomputed if a variable of the model was written to.

        TensorFlow does not overwrite a buffer that was read from a variable and is still referenced: a write gives the
        variable a new buffer. The variables are therefore unchanged exactly if all buffer addresses are.
        """
        reads = self._read()  # in one call, because separate reads would take longer than the comparison
        values = [np.asarray(value) for value in reads]
        addresses = [value.__array_interface__["data"][0] for value in values]
        if addresses != self._held[0]:
            by_name = dict(zip(self._handles, values, strict=True))
            self._held = addresses, reads, [tf.constant(make(by_name)) for make in self._network.weights.values()]
        return self._held[2]
