"""Runtimes for `kpzoo.accelerate`: TensorFlow, OpenVINO and ONNX Runtime, and what the optional ones have in common."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from kpzoo import keras_setup
from kpzoo.errors import UserError, unknown
from kpzoo.inference.folded_model import FoldedModel, decoded, frozen_graph, instance_heatmaps, output_names
from kpzoo.pose_model import PoseModel

TENSORFLOW = "tensorflow"
# Packages that an engine needs, and the extra of kpzoo that installs them.
PACKAGES = {
    TENSORFLOW: ((), ""),
    "openvino": (("openvino",), "openvino"),
    "onnxruntime": (("onnxruntime", "tf2onnx", "onnx"), "onnx"),
}
ENGINES = tuple(PACKAGES)
# Precisions of each engine. ONNX Runtime has no bfloat16 kernels for x86 CPUs.
PRECISIONS = {
    TENSORFLOW: ("float32", "bfloat16"),
    "openvino": ("float32", "bfloat16", "int8"),
    "onnxruntime": ("float32",),
}

Wait = Callable[[], list[np.ndarray]]


class Network(Protocol):
    """A network that an engine has prepared. Threads may share it."""

    def start(self, image: np.ndarray) -> Wait:
        """Starts inference of (B, H, W, 3) float32 crops; what it returns waits for the outputs."""


Compile = Callable[[GraphDef, tuple[str, ...]], Network]


def is_installed(engine: str) -> bool:
    """Returns whether the packages of an engine are installed."""
    return all(find_spec(name) for name in PACKAGES[engine][0])


def imported(name: str, engine: str):
    """Imports a package of an engine, or raises an error that names the extra to install."""
    try:
        return import_module(name)
    except ImportError:
        extra = PACKAGES[engine][1]
        raise UserError(
            f"Engine {engine!r} requires the package {name}. Install it with `pip install 'kpzoo[{extra}]'`."
        ) from None


def check(engine: str, precision: str) -> None:
    """Raises if there is no such engine, it is not installed, or it does not have the precision."""
    if engine not in PACKAGES:
        raise unknown("engine", engine, (*ENGINES, "auto"))
    if precision not in PRECISIONS[engine]:
        able = [name for name, precisions in PRECISIONS.items() if precision in precisions]
        if not able:
            raise unknown("precision", precision, sorted({one for each in PRECISIONS.values() for one in each}))
        raise UserError(
            f"Engine {engine!r} does not compute in {precision}. It has {', '.join(PRECISIONS[engine])}.",
            *(f"Use `engine='{name}'`." for name in able[:1]),
        )
    for name in PACKAGES[engine][0]:
        imported(name, engine)


class EngineFunction:
    """What `kpzoo.accelerate` returns for the engines other than TensorFlow. The weights are constants of its graph.

    After a change of the model's weights the next call converts and compiles the network again, which takes seconds.
    Threads may share it.

    Args:
        model: Any model of the zoo.
        engine: Name of the engine.
        precision: A precision of the engine.
        compile_network: Makes a network from a graph and the names of its outputs.
    """

    def __init__(self, model: PoseModel, engine: str, precision: str, compile_network: Compile):
        self.model, self.engine, self.precision = model, engine, precision
        self._folded = FoldedModel(model)  # in float32: engines lower the precision themselves
        if not self._folded.is_folded:
            raise UserError(
                f"Engine {engine!r} cannot run model {model.name!r}, which has layers with loops or branches, or its "
                "weights on a GPU.",
                f"Use `engine='{TENSORFLOW}'`.",
            )
        self._compile, self._networks, self._weights, self._lock = compile_network, {}, None, Lock()

    def freeze(self) -> "EngineFunction":
        """Returns itself: the weights are constants already."""
        return self

    def __call__(self, image, flip: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns keypoints_crop_xy (B, N, K, 2) and keypoint_scores (B, N, K) of the model's N instances.

        Args:
            image: (B, H, W, 3) float32 RGB crops, 0 … 255.
            flip: Whether to average the heatmaps with those of the mirrored crops.
        """
        return self.start(image, flip)()[:2]

    def start(self, image, flip: bool = True) -> Callable[[], tuple[tf.Tensor, ...]]:
        """Starts the call, and returns a function that waits for its result.

        Models with a `preset.confidence` have two more outputs, keypoint_covariance_crop (B, N, K, 2, 2) and
        pose_scores (B, N) for a box score of 1.
        """
        preset = self.model.preset
        name = flip, preset.confidence
        wait = self._start(name, partial(decoded, self.model, flip), output_names(preset), image)
        return lambda: tuple(map(tf.constant, wait()))

    def heatmaps(self, image) -> tf.Tensor:
        """Returns the float32 heatmaps (B, N, h, w, K) of crops."""
        [found] = self._start("heatmaps", partial(instance_heatmaps, self.model), ("heatmaps",), image)()
        return tf.constant(found)

    def _start(self, name, compute: Callable, outputs: tuple[str, ...], image) -> Wait:
        keras_setup.check_process()
        image = np.ascontiguousarray(image, np.float32)
        # The weights are compared while the network runs; if they have changed, its outputs are not used.
        network = self._networks.get(name)
        wait = network.start(image) if network else None
        current = self._current(name, compute, outputs)
        if network is current:
            return wait
        if network:
            wait()
        return current.start(image)

    def _current(self, name, compute: Callable, outputs: tuple[str, ...]) -> Network:
        """Returns the network with the model's present weights."""
        with self._lock:
            weights = self._folded.weights()
            if weights is not self._weights:
                self._weights, self._networks = weights, {}
            if name not in self._networks:
                image = tf.TensorSpec((None, *self.model.preset.image_hw, 3), tf.float32, name="image")
                graph = frozen_graph(self._folded, compute, [image], outputs)
                self._networks[name] = self._compile(graph, outputs)
            return self._networks[name]
