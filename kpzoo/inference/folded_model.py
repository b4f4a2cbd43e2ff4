"""A model's forward pass as a folded graph, and what follows it: all instances, the flip test and decoding."""

import gc
from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from kpzoo import heatmaps
from kpzoo.errors import UserError
from kpzoo.inference import folding
from kpzoo.pose_model import PoseModel, Preset

# Names of the decoded outputs. Only models with a confidence have the last two.
KEYPOINTS, COVARIANCE, POSES = ("keypoints_crop_xy", "keypoint_scores"), "keypoint_covariance_crop", "pose_scores"
_SMALL = 4096  # values of a variable that is compared by its values
Forward = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]


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
    identity = np.eye(model.preset.num_instances, dtype=np.float32)[None]  # other runtimes have no tf.eye
    queries = tf.tile(identity, [tf.shape(image)[0], 1, 1])
    return tf.cast(forward({"image": image, "instance": queries})["heatmaps"], tf.float32)


def flip_test_heatmaps(model: PoseModel, image: tf.Tensor, forward: Forward | None = None) -> tf.Tensor:
    """Returns the heatmaps of `instance_heatmaps`, averaged with those of the mirrored crops (flip test)."""
    preset, rules = model.preset, model.preset.rules  # of a person detector an error
    if not preset.skeleton.sides_known:
        return instance_heatmaps(model, image, forward)
    both = instance_heatmaps(model, tf.concat([image, tf.reverse(image, axis=[2])], axis=0), forward)
    return heatmaps.merge_flipped(rules, *tf.split(both, 2), preset.skeleton.flip_order)


def output_names(preset: Preset) -> tuple[str, ...]:
    """Returns the names of the outputs of `decode`."""
    return KEYPOINTS if preset.confidence is None else (*KEYPOINTS, COVARIANCE, POSES)


def decode(preset: Preset, maps: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Decodes (..., h, w, K) heatmaps of a model to keypoints_crop_xy (..., K, 2) and keypoint_scores (..., K).

    If the model has a `preset.confidence`, the scores are calibrated, and there are two more outputs:
    keypoint_covariance_crop (..., K, 2, 2), and pose_scores (...,) for a box score of 1.
    """
    if preset.confidence is None:
        return heatmaps.decode(preset.rules, maps)
    return heatmaps.decode_with_covariance(preset.rules, maps, preset.skeleton.sigmas, preset.confidence)


def decoded(model: PoseModel, flip: bool, image: tf.Tensor, forward: Forward | None = None) -> tuple[tf.Tensor, ...]:
    """Returns the outputs of `decode` for all N instances of crops: (B, N, K, 2), (B, N, K), ….

    Args:
        model: The model.
        flip: Whether to average the heatmaps with those of the mirrored crops.
        image: (B, H, W, 3) float32 RGB crops, 0 … 255.
        forward: Replaces the model's forward pass; None for the Keras model as it is.
    """
    heatmaps_of = flip_test_heatmaps if flip else instance_heatmaps
    return decode(model.preset, heatmaps_of(model, image, forward))


def frozen_graph(
    folded: "FoldedModel", compute: Callable, inputs: list[tf.TensorSpec], outputs: tuple[str, ...]
) -> GraphDef:
    """Returns a graph from named inputs to named outputs, with the present weights as constants.

    Args:
        folded: The network.
        compute: Function from the inputs to a tensor or a tuple of tensors, with the argument `forward`.
        inputs: Shapes, types and names of the inputs.
        outputs: Names of the outputs.
    """
    values = [weight.numpy() for weight in folded.weights()]

    def run(*tensors):
        found = compute(*tensors, forward=lambda asked: folded(asked, [tf.constant(value) for value in values]))
        found = found if isinstance(found, tuple) else (found,)
        return [tf.identity(tensor, name) for tensor, name in zip(found, outputs, strict=True)]

    traced = tf.function(run, input_signature=inputs, autograph=False).get_concrete_function().graph.as_graph_def()
    gc.collect()  # a traced graph refers to itself, and would keep its constants in memory
    return folding.leading_to(outputs, traced, {}).graph


def _reader(variables: list[tuple[tf.Tensor, tf.DType]], joined: set[int] = frozenset()):
    """Returns a function that reads all variables, which are given as (handle, dtype).

    The variables at the places in `joined` come last, in one vector.
    """
    handles = tf.stack([handle for handle, _ in variables]) if variables else None  # one argument takes less time

    def read() -> list[tf.Tensor]:
        each = tf.unstack(handles, num=len(variables)) if variables else ()
        dtypes = [dtype for _, dtype in variables]
        values = [tf.raw_ops.ReadVariableOp(resource=one, dtype=dtype) for one, dtype in zip(each, dtypes, strict=True)]
        rows = [tf.reshape(values[place], [-1]) for place in sorted(joined)]
        alone = [value for place, value in enumerate(values) if place not in joined]
        return [*alone, tf.concat(rows, axis=0)] if rows else alone

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
        sizes = {
            node.input[0]: graph.get_operation_by_name(node.name).outputs[0].shape.num_elements() for node in reads
        }
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
        of_float = [name for name in self._handles if self._dtypes[name] == tf.float32]
        small = {place for place, name in enumerate(self._handles) if name in of_float and sizes[name] <= _SMALL}
        self._has_small = bool(small)
        self._peek = _reader([(handle, self._dtypes[name]) for name, handle in self._handles.items()], small)
        self._held = None, [], None, []

    @property
    def is_folded(self) -> bool:
        """Whether the graph is folded, and not that of the Keras model."""
        return self._network is not None

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

        The values of small variables, which are most, are compared in one vector. For the others the addresses suffice:
        TensorFlow does not overwrite a buffer that was read from a variable and is still referenced; a write gives the
        variable a new buffer.
        """
        large = list(self._peek())
        small = large.pop().numpy() if self._has_small else np.zeros(0)
        addresses = [np.asarray(value).__array_interface__["data"][0] for value in large]
        before = self._held
        if before[0] is None or addresses != before[2] or not np.array_equal(small, before[0], equal_nan=True):
            by_name = dict(zip(self._handles, (np.asarray(value) for value in self._read()), strict=True))
            weights = [tf.constant(make(by_name)) for make in self._network.weights.values()] if self._network else []
            self._held = small, large, addresses, weights
        return self._held[3]
