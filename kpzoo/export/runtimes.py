"""Inference with exports in their runtimes, as functions from named inputs to named outputs in the model's layout."""

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from kpzoo.errors import UserError
from kpzoo.export.litert import DESCRIPTION, IDENTIFIER
from kpzoo.export.onnx import imported
from kpzoo.export.openvino import DESCRIPTION as OPENVINO_DESCRIPTION
from kpzoo.inference.engines import imported as imported_of_engine

Answer = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def ask(target: str | Path) -> Answer:
    """Returns the inference function of an export of any kind."""
    target = Path(target).expanduser()
    if target.is_dir():
        return ask_savedmodel(target)
    try:
        with open(target, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f"Cannot read {str(target)!r}: {error.strerror}.") from None
    if start.startswith(b"<?xml"):
        return ask_openvino(target)
    return ask_litert(target) if start[4:] == IDENTIFIER else ask_onnx(target)


def ask_savedmodel(folder: str | Path) -> Answer:
    """Returns the inference function of a SavedModel of `to_savedmodel`."""
    try:
        loaded = tf.saved_model.load(str(folder))
        forward, predict_crops = loaded.signatures["serving_default"], loaded.signatures.get("predict_crops")
        if predict_crops is None and "person_boxes" not in forward.structured_outputs:
            raise KeyError("predict_crops")
    except Exception as error:  # OSError, KeyError, and protobuf's and TensorFlow's own
        raise UserError(f"{str(folder)!r} is not a SavedModel of `kpzoo export`: {first_line(error)}") from error

    def answer(inputs):
        names = forward.structured_input_signature[1]
        found = forward(**{name: tf.constant(value) for name, value in inputs.items() if name in names})
        if predict_crops is None:  # a person detector
            return {name: value.numpy() for name, value in found.items()}
        decoded = predict_crops(image=tf.constant(inputs["image"]), flip=tf.constant(False))
        return {name: value.numpy() for name, value in {"heatmaps": found["heatmaps"], **decoded}.items()}

    answer.loaded = loaded  # keeps the weights alive, which the functions do not
    return answer


def ask_onnx(path: str | Path) -> Answer:
    """Returns the inference function of an ONNX file of `to_onnx`, with its metadata in `metadata`.

    Heatmaps are transposed to (..., h, w, K), the layout of the model.
    """
    onnxruntime = imported("onnxruntime")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
        told["image_hw"], told["num_instances"]
    except Exception as error:  # onnxruntime has many exceptions
        raise UserError(f"{str(path)!r} is not an ONNX file of `kpzoo export`: {first_line(error)}") from error
    names = [entry.name for entry in session.get_inputs()]
    batch = session.get_inputs()[0].shape[0]  # a name if it varies

    def answer(inputs):
        count = len(inputs["image"])
        size = batch if isinstance(batch, int) else count
        parts = []
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)  # the last crop fills the last batch
            parts.append(session.run(None, {name: inputs[name][rows] for name in names}))
        found = [np.concatenate(part)[:count] for part in zip(*parts, strict=True)]
        found = dict(zip([entry.name for entry in session.get_outputs()], found, strict=True))
        if "heatmaps" in found:
            found["heatmaps"] = np.moveaxis(found["heatmaps"], -3, -1)
        return found

    answer.metadata = told
    return answer


def ask_openvino(path: str | Path) -> Answer:
    """Returns the inference function of an .xml file of `to_openvino`."""
    core = imported_of_engine("openvino", "openvino").Core()
    try:
        model = core.read_model(path)
        json.loads(model.get_rt_info([OPENVINO_DESCRIPTION]).astype(str))
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:  # OpenVINO's RuntimeErrors, and JSON's
        raise UserError(f"{str(path)!r} is not an OpenVINO file of `kpzoo export`: {first_line(error)}") from error
    names = [port.any_name for port in compiled.inputs]

    def answer(inputs):
        found = compiled({name: inputs[name] for name in names})
        return {port.any_name: found[port] for port in compiled.outputs}

    return answer


def ask_litert(path: str | Path) -> Answer:
    """Returns the inference function of a LiteRT file of `to_litert`."""
    try:
        with zipfile.ZipFile(path) as behind:
            json.loads(behind.read(DESCRIPTION))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a deprecation notice
            answer = tf.lite.Interpreter(model_path=str(path)).get_signature_runner()
    except Exception as error:  # zipfile, JSON and the interpreter have various exceptions
        raise UserError(f"{str(path)!r} is not a LiteRT file of `kpzoo export`: {first_line(error)}") from error
    names = answer.get_input_details()
    return lambda inputs: answer(**{name: inputs[name] for name in names})


def first_line(error: Exception) -> str:
    """Returns the first line of the message of an exception."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
