"""Inference in OpenVINO."""

import tempfile
from functools import cache, partial
from pathlib import Path
from threading import Lock

import numpy as np
from tensorflow.core.framework.graph_pb2 import GraphDef

from kpzoo.inference.engines import Wait, imported

# The precision is that of the graph's nodes; without the hint it would be bfloat16 on CPUs that have it.
CONFIG = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
OWN_SIZES = 2  # batch sizes that have their own network


class OpenVinoNetwork:
    """A network compiled by OpenVINO. Threads share it: each call has its own request.

    The first batch sizes get a network of fixed shape each, which is up to 5 % faster; all others share one.

    Args:
        model: An `openvino.Model` with one input, whose first dimension varies.
        outputs: Names of the outputs.
    """

    def __init__(self, model, outputs: tuple[str, ...]):
        self._tensor = imported("openvino", "openvino").Tensor
        self._model, self._outputs = model, outputs
        self._compiled, self._idle, self._lock = {}, {}, Lock()

    def start(self, image: np.ndarray) -> Wait:
        """See `engines.Network`. Writeable crops are not copied, and must not change until the outputs are there."""
        image = image if image.flags.writeable else image.copy()  # OpenVINO takes no read-only memory
        with self._lock:
            size = self._size(image)
            request = self._idle[size].pop() if self._idle[size] else self._compiled[size].create_infer_request()
        request.set_input_tensor(self._tensor(image, shared_memory=True))
        request.start_async()
        return partial(self._outputs_of, request, image, size)

    def _size(self, image: np.ndarray) -> int | None:
        """Returns the key of the compiled network for a batch: its size, or None for that of all sizes."""
        size = len(image)
        if size not in self._compiled:
            size = size if len(self._compiled) < OWN_SIZES else None
        if size not in self._compiled:
            model = self._model
            if size is not None:
                model = model.clone()
                model.reshape(list(image.shape))
            self._compiled[size], self._idle[size] = core().compile_model(model, "CPU", CONFIG), []
        return size

    def _outputs_of(self, request, image: np.ndarray, size: int | None) -> list[np.ndarray]:
        """Waits for a request. The crops are an argument so that they exist until then."""
        request.wait()
        found = [request.get_tensor(name).data.copy() for name in self._outputs]
        with self._lock:
            self._idle[size].append(request)
        return found


@cache
def core():
    """Returns OpenVINO's core, of which a process needs one."""
    return imported("openvino", "openvino").Core()


def converted(graph: GraphDef, outputs: tuple[str, ...]):
    """Returns a frozen TensorFlow graph as an `openvino.Model`, with its names of inputs and outputs."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "frozen.pb"  # OpenVINO reads it several times as fast as a graph in memory
        path.write_bytes(graph.SerializeToString())
        model = core().read_model(path)
    for port in model.inputs:
        port.get_tensor().set_names({next(name.partition(":")[0] for name in port.names)})
    for name in outputs:
        model.output(f"{name}:0").get_tensor().set_names({name})
    return model


def compiled(graph: GraphDef, outputs: tuple[str, ...]) -> OpenVinoNetwork:
    """Returns a frozen TensorFlow graph, ready to be compiled for the sizes of batches that come."""
    return OpenVinoNetwork(converted(graph, outputs), outputs)
