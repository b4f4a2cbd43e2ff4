"""The function that all answers come from: a model's folded graph, weights that are never old, the flip test, decoding.

Keras' own `predict` builds a data set around each call and leaves batch norms as they are. Here a call runs one graph,
in which they are part of the convolutions (see `kpzoo.inference.folding`).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from kpzoo import heatmaps
from kpzoo.errors import UserError, unknown
from kpzoo.inference import folding
from kpzoo.pose_model import PoseModel

PRECISIONS = ("float32", "bfloat16")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # Linux' names for it on Intel's, AMD's and ARM's processors

Forward = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]


def accelerate(model: PoseModel, precision: str = "float32") -> "Accelerated":
    """Returns the model as a function from crops to keypoints, as `kpzoo.predict` and `kpzoo.evaluate` ask it.

    It follows the model: new weights are noticed in the next call, whoever sets them. Where few crops are asked at a
    time, again and again, `.freeze()` makes it faster still, and `predict` with it.

    Args:
        model: Any model of the zoo.
        precision: "float32", or "bfloat16" on a CPU that computes with it: faster, and some keypoints move a
            little.

    Raises:
        UserError: bfloat16, and this machine's CPU does not compute in it, the model's weights are on a GPU, or it has
            layers that loop or branch.

    >>> ask = kpzoo.accelerate(model)
    >>> keypoints_crop_xy, keypoint_scores = ask(crops, flip=True)
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "bfloat16" and not has_bfloat16():
        raise UserError(
            "This machine's CPU does not compute in bfloat16: it would be slower than float32. It takes one with "
            f"{' or '.join(sorted(_BFLOAT16_FLAGS))} among its flags (`lscpu`). Use precision 'float32'."
        )
    return _accelerated(model, precision)


def has_bfloat16() -> bool:
    """Returns whether the CPU multiplies in bfloat16, as far as Linux tells."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return not _BFLOAT16_FLAGS.isdisjoint(told.split())


def ask_all(model: PoseModel, image: tf.Tensor, forward: Forward | None = None) -> tf.Tensor:
    """Returns the heatmaps (B, N, h, w, K) of all N instances in (B, H, W, 3) crops, N = 1 for most models.

    Args:
        model: The model.
        image: RGB, 0 … 255.
        forward: What answers in the model's place.
    """
    forward = forward or partial(model, training=False)
    if "instance" not in model.input:
        return tf.cast(forward({"image": image})["heatmaps"], tf.float32)[:, None]
    queries = tf.tile(tf.eye(model.preset.num_instances)[None], [tf.shape(image)[0], 1, 1])
    return tf.cast(forward({"image": image, "instance": queries})["heatmaps"], tf.float32)


def ask_both_sides(model: PoseModel, image: tf.Tensor, forward: Forward | None = None) -> tf.Tensor:
    """Returns the heatmaps of `ask_all`, averaged with those of the mirrored crop (flip test)."""
    preset = model.preset
    if not preset.skeleton.sides_known:
        return ask_all(model, image, forward)
    both = ask_all(model, tf.concat([image, tf.reverse(image, axis=[2])], axis=0), forward)
    return heatmaps.merge_flipped(preset.rules, *tf.split(both, 2), preset.skeleton.flip_order)


class Accelerated:
    """What `accelerate` returns. To be called eagerly; batches of one size are fastest."""

    def __init__(self, model: PoseModel, precision: str):
        self.model = model
        self.precision = precision
        self._folded = FoldedModel(model, precision)
        self._functions = {}
        self._constant, self._frozen = None, {}

    def freeze(self) -> "Accelerated":
        """Makes constants of the weights, until they change; returns itself.

        oneDNN then arranges them once, and not in each call: worth it where one or few crops are asked at a time, again
        and again. The next call takes seconds and several times the weights' memory, not all of which comes back when
        it is frozen anew: not for a model that is being trained, and the reason why nothing is frozen unasked.
        """
        self._constant, self._frozen = self._folded.weights(), {}
        return self

    def __call__(self, image, flip: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns keypoints_crop_xy (B, N, K, 2) and keypoint_scores (B, N, K) of the model's N instances.

        Args:
            image: (B, H, W, 3) float32 RGB crops, 0 … 255.
            flip: Whether the mirrored crops are asked too and the heatmaps averaged.
        """
        codec = self.model.preset.rules
        ask = ask_both_sides if flip else ask_all
        return self._run(flip, lambda image, forward: heatmaps.decode(codec, ask(self.model, image, forward)), image)

    def heatmaps(self, image) -> tf.Tensor:
        """Returns the float32 heatmaps (B, N, h, w, K) of crops."""
        return self._run("heatmaps", partial(ask_all, self.model), image)

    def _run(self, name, answer: Callable, image):
        weights = self._folded.weights()
        if weights is self._constant:
            if name not in self._frozen:
                self._frozen[name] = self._with_constants(answer, weights)
            return self._frozen[name](image)
        self._constant, self._frozen = None, {}
        if name not in self._functions:
            self._functions[name] = self._traced(answer, weights)
        return self._functions[name](image, weights)

    @property
    def _spec(self) -> tf.TensorSpec:
        return tf.TensorSpec((None, *self.model.preset.image_hw, 3), tf.float32)

    def _with_constants(self, answer: Callable, weights: list[tf.Tensor]):
        """Returns the `tf.function` of an answer with these weights in it."""
        values = [weight.numpy() for weight in weights]

        def run(image):
            return answer(image, forward=lambda inputs: self._folded(inputs, [tf.constant(value) for value in values]))

        return tf.function(run, input_signature=[self._spec], autograph=False)

    def _traced(self, answer: Callable, weights: list[tf.Tensor]):
        """Returns the `tf.function` of an answer, which is traced once for all batches and weights."""
        specs = [tf.TensorSpec(weight.shape, weight.dtype) for weight in weights]

        def run(image, weights):
            return answer(image, forward=lambda inputs: self._folded(inputs, weights))

        return tf.function(run, input_signature=[self._spec, specs], autograph=False)


# A model that is asked again is not traced again.
_accelerated = lru_cache(maxsize=4)(Accelerated)


def _shapes(graph: tf.Graph) -> folding.Shapes:
    """Returns the shapes of all operations' first outputs."""
    shapes = {op.name: op.outputs[0].shape for op in graph.get_operations() if op.outputs}
    return {name: tuple(shape) if shape.rank is not None else () for name, shape in shapes.items()}


class FoldedModel:
    """A model's forward pass as a folded graph, with the weights that it needs as an argument.

    Models with layers of their own that loop or branch, and weights on a GPU, stay as they are: then it takes no
    weights, and asks the model; bfloat16 is refused.

    Args:
        model: Any model of the zoo.
        precision: A name of `PRECISIONS`.
    """

    def __init__(self, model: PoseModel, precision: str = "float32"):
        specs = {name: tf.TensorSpec(tensor.shape, tensor.dtype) for name, tensor in model.input.items()}
        self._forward = tf.function(partial(model, training=False), input_signature=[specs], autograph=False)
        graph = self._forward.get_concrete_function().graph
        names = [tensor.op.name for tensor in graph.inputs]
        self._inputs = dict(zip(names, sorted(specs), strict=False))  # inputs come first, in this order
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
                reason = "has layers that cannot be turned to it" if on_cpu else "has its weights on a GPU"
                raise UserError(f"Precision {precision!r} is for CPUs; model {model.name!r} {reason}. Use 'float32'.")
            self._network, self._handles = None, {}
        elif precision == "bfloat16":
            self._network = folding.in_bfloat16(self._network, outputs)
        self._read = tf.function(self._reads, autograph=False).get_concrete_function()
        self._held = [], [], []

    def _reads(self) -> list[tf.Tensor]:
        read = tf.raw_ops.ReadVariableOp
        return [read(resource=handle, dtype=self._dtypes[name]) for name, handle in self._handles.items()]

    def __call__(self, inputs: dict[str, tf.Tensor], weights: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds the forward pass to the graph that is being traced; `weights` are in the order of `self.weights()`."""
        if self._network is None:
            return self._forward(inputs)
        given = {name: inputs[key] for name, key in self._inputs.items()}
        given |= zip(self._network.weights, weights, strict=True)
        wanted = list(self._outputs.values())
        found = tf.graph_util.import_graph_def(self._network.graph, given, return_elements=wanted, name="")
        return dict(zip(self._outputs, found, strict=True))

    def weights(self) -> list[tf.Tensor]:
        """Returns the folded weights, made anew whenever a variable of the model was written to.

        TensorFlow never writes into memory that somebody has read from a variable and still holds: a write gives the
        variable new memory. So the variables are as they were exactly while each still lies where it did.
        """
        reads = self._read()  # all in one call: one by one they take longer than the comparison
        values = [np.asarray(value) for value in reads]
        places = [value.__array_interface__["data"][0] for value in values]
        if places != self._held[0]:
            by_name = dict(zip(self._handles, values, strict=True))
            self._held = places, reads, [tf.constant(make(by_name)) for make in self._network.weights.values()]
        return self._held[2]
