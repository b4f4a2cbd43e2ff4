"""Inference in ONNX Runtime."""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from tensorflow.core.framework.graph_pb2 import GraphDef

from kpzoo.inference.engines import Wait, imported

OPSET = 17


class OnnxRuntimeNetwork:
    """A network in ONNX Runtime. Calls of several threads run one after another, each on all cores.

    Args:
        graph: What `folded_model.frozen_graph` returns.
        outputs: Names of the outputs.
    """

    def __init__(self, graph: GraphDef, outputs: tuple[str, ...]):
        onnxruntime, tf2onnx = imported("onnxruntime", "onnxruntime"), imported("tf2onnx", "onnxruntime")
        with quiet("tf2onnx"):
            ports = [f"{name}:0" for name in outputs]
            proto, _ = tf2onnx.convert.from_graph_def(graph, input_names=["image:0"], output_names=ports, opset=OPSET)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        self._run = partial(session.run, ports)
        self._thread = ThreadPoolExecutor(1)  # so that the caller can work meanwhile

    def start(self, image: np.ndarray) -> Wait:
        """See `engines.Network`."""
        return self._thread.submit(self._run, {"image:0": image}).result


class quiet:
    """Context manager that hides messages below errors of a logger, which logs every step."""

    def __init__(self, name: str):
        self._logger = logging.getLogger(name)

    def __enter__(self):
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_):
        self._logger.setLevel(self._level)
