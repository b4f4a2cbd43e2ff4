"""Serves an exported SavedModel over HTTP with Ray Serve: the REST requests of TensorFlow Serving, in batches."""

import asyncio
import base64
import json
import logging
import math
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kpzoo import images
from kpzoo.distributed import ray_run
from kpzoo.distributed.worker import limit_threads
from kpzoo.errors import UserError

PREFIX = "/v1/models"
NAME = re.compile(r"[A-Za-z0-9._-]+")
SIGNATURE, BATCHES = "predict_image", "predict_images"
DESCRIPTION = "assets.extra/kpzoo.json"
CROPS = 32  # of a batch, and boxes of a request
WAIT_SECONDS = 0.005  # of a batch for more requests
MAX_BYTES, MAX_PIXELS = 16_000_000, 25_000_000
LARGEST = 1e9  # number in a box; NaN is not smaller
MAX_SCANS = 100  # of a JPEG; each costs a pass over all pixels, and may need a few bytes only
ONGOING, QUEUED = 64, 256  # requests of a replica; further ones get 503
TIMEOUT_SECONDS = 60.0  # of a request
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


class Refused(Exception):
    """A request that gets an error.

    Args:
        status: HTTP status.
        reason: Text for the client.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Limits:
    """What a request may have.

    Args:
        max_bytes: Of the body, in which the picture is base64.
        max_pixels: Of the picture.
    """

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Request:
    """A picture and boxes.

    Args:
        contents: An encoded JPEG or PNG.
        boxes_xywh: P boxes in image pixels.
        flip: Whether to average with the mirrored crops.
        share: Of the pixels that a batch may have.
    """

    contents: bytes
    boxes_xywh: list
    flip: bool
    share: float


@contextmanager
def served(
    folder: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
    metrics_port: int | None = None,
    name: str | None = None,
    ray: str = ray_run.LOCAL,
    replicas: int = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    limits: Limits | None = None,
) -> Iterator[str]:
    """Context manager that serves a SavedModel and yields its URL. On exit, requests that were accepted are answered.

    `POST URL:predict` takes the JSON that TensorFlow Serving takes for the signature `predict_image`, see
    export/README.md, and `GET URL` answers with the state and with the description of the model. Requests that arrive
    together share batches of `CROPS` crops.

    Args:
        folder: SavedModel of `kpzoo.export.to_savedmodel`, on all hosts of a cluster.
        host, port: Address to listen on.
        metrics_port: Port of the metrics in Prometheus' format; None for one that Ray chooses. A cluster that runs
            already has its own.
        name: Of the model in the URL. Defaults to that of the network.
        ray: "local", "auto" or the address of a cluster, see `kpzoo.distributed.predict`.
        replicas: Processes that hold the model.
        num_cpus, num_gpus: CPUs and GPUs of a replica, fractions too.
        limits: Of requests. Larger ones get 413.

    Raises:
        UserError: If the folder holds no pose model with the signature, the port is taken, or Ray Serve is missing.

    >>> with served("serving/cpn/1", port=8501) as url:  # doctest: +SKIP
    ...     print(url)
    http://127.0.0.1:8501/v1/models/cpn_lite0
    """
    folder = os.path.abspath(Path(folder).expanduser())
    described = description(folder)
    name = name or described["model"]
    if not NAME.fullmatch(name):
        raise UserError(f"The name of a model has letters, digits, '.', '_' and '-'. Received: `name={name}`.")
    serve = _imported()
    if ray == ray_run.LOCAL:
        _check_free(host, port)
    with ray_run.connected(ray, replicas, num_cpus, metrics_port):
        application = serve.deployment(
            num_replicas=replicas,
            ray_actor_options={"num_cpus": num_cpus, "num_gpus": num_gpus},
            max_ongoing_requests=ONGOING,
            max_queued_requests=QUEUED,
            graceful_shutdown_timeout_s=TIMEOUT_SECONDS,
        )(Replica).bind(folder, name, limits or Limits(), max(1, round(num_cpus)))
        http = {"host": host, "port": port, "request_timeout_s": TIMEOUT_SECONDS}
        try:
            _start(serve, application, name, http)
            yield f"http://{host}:{port}{PREFIX}/{name}"
        finally:
            serve.delete(name)  # other applications of a cluster stay


def _start(serve, application, name: str, http: dict) -> None:
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(http_options=http, logging_config=quiet)
        serve.run(application, name=name, route_prefix=PREFIX, logging_config=quiet)
    except RuntimeError as error:
        raise UserError(f"The server did not start: {str(error).strip().splitlines()[-1]}") from None


def _check_free(host: str, port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            raise UserError(f"Cannot listen on {host}:{port}: {error.strerror}. Use another `port=`.") from None


def description(folder: str | Path) -> dict:
    """Returns the description of an exported pose model.

    Raises:
        UserError: If there is none, or it has no signature for several pictures.
    """
    try:
        told = json.loads((Path(folder) / DESCRIPTION).read_text("utf-8"))
        graph = (Path(folder) / "saved_model.pb").read_bytes()
    except (OSError, ValueError):
        told, graph = {}, b""
    if "keypoints" not in told or BATCHES.encode() not in graph:
        raise UserError(
            f"{str(folder)!r} is no SavedModel of a pose model with the signature `{BATCHES}`. "
            "Write it with `kpzoo export --model MODEL --out FOLDER`."
        )
    return told


def _imported():
    ray_run.imported()
    try:
        from ray import serve
    except ImportError as error:
        raise UserError(f"Ray Serve is needed ({error}). Install it with `pip install 'kpzoo[ray]'`.") from None
    return serve


class Replica:
    """Answers requests with a SavedModel.

    Args:
        folder: The SavedModel.
        name: Of the model in URLs.
        limits: Of requests.
        threads: Threads of TensorFlow.
    """

    def __init__(self, folder: str, name: str, limits: Limits, threads: int):
        limit_threads(threads)
        import tensorflow as tf
        from ray import serve

        self._name, self._limits, self._described = name, limits, description(folder)
        self._model = tf.saved_model.load(folder)
        batched = serve.batch(max_batch_size=CROPS, batch_wait_timeout_s=WAIT_SECONDS, batch_size_fn=size_of_batch)
        self._predict = batched(self._predicted)

    async def __call__(self, request):
        """Returns the response to an HTTP request."""
        from starlette.responses import JSONResponse, Response

        try:
            if request.url.path == f"{PREFIX}/{self._name}":
                _check_method(request, "GET", "HEAD")
                return JSONResponse(self._state())
            if request.url.path != f"{PREFIX}/{self._name}:predict":
                raise Refused(404, f"There is {PREFIX}/{self._name} and {PREFIX}/{self._name}:predict only.")
            _check_method(request, "POST")
            body = await _body(request, self._limits.max_bytes)
            parsed = await asyncio.to_thread(parsed_request, body, self._limits.max_pixels)
            answer = await self._predict(parsed)
            if isinstance(answer, Refused):
                raise answer
            return Response(answer, media_type="application/json")
        except Refused as error:
            return JSONResponse({"error": error.reason}, error.status)

    def _state(self) -> dict:
        state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return {"model_version_status": [state], "metadata": self._described}

    async def _predicted(self, requests: list[Request]) -> list[bytes | Refused]:
        return await asyncio.to_thread(self._answers, requests)

    def _answers(self, requests: Sequence[Request]) -> list[bytes | Refused]:
        """Returns JSON or an error for each request. What spoils a batch is found by answering each request alone."""
        answers: dict[int, bytes | Refused] = {}
        for flip in (False, True):
            chosen = [index for index, request in enumerate(requests) if request.flip == flip]
            answers |= zip(chosen, self._answered([requests[index] for index in chosen]), strict=True)
        return [answers[index] for index in range(len(requests))]

    def _answered(self, requests: Sequence[Request]) -> list[bytes | Refused]:
        import numpy as np
        import tensorflow as tf

        if not requests:
            return []
        counts = [len(request.boxes_xywh) for request in requests]
        boxes = np.concatenate([np.reshape(request.boxes_xywh, (-1, 4)) for request in requests])
        try:
            outputs = self._model.signatures[BATCHES](
                contents=tf.constant([request.contents for request in requests]),
                boxes_xywh=tf.constant(boxes, tf.float32),
                image_indices=tf.constant(np.repeat(np.arange(len(requests)), counts), tf.int32),
                flip=tf.constant(requests[0].flip),
            )
        except tf.errors.InvalidArgumentError:  # its text is about nodes of the graph
            if len(requests) > 1:
                return [answer for request in requests for answer in self._answered([request])]
            return [Refused(400, "The picture is incomplete or damaged.")]
        ends = np.cumsum(counts)[:-1]
        parts = {name: np.split(value.numpy(), ends) for name, value in outputs.items()}
        return [
            json.dumps({"outputs": {name: rows[index].tolist() for name, rows in parts.items()}}).encode()
            for index in range(len(requests))
        ]


def size_of_batch(requests: Sequence[Request]) -> int:
    """Returns the size of a batch: its boxes, or its share of the pixels if that is larger."""
    boxes = sum(max(1, len(request.boxes_xywh)) for request in requests)
    return max(boxes, math.ceil(CROPS * sum(request.share for request in requests)))


def _check_method(request, *allowed: str) -> None:
    if request.method not in allowed:
        raise Refused(405, f"Expected {' or '.join(allowed)}. Received: {request.method}.")


async def _body(request, max_bytes: int) -> bytes:
    """Returns the body of a request. A body that is too large is not read to its end."""
    too_large = Refused(413, f"The body may have {max_bytes} bytes.")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def parsed_request(body: bytes, max_pixels: int) -> Request:
    """Returns the request in a body. The picture's header is read, its pixels are not.

    Raises:
        Refused: If the body is no request, or the picture is too large.
    """
    try:
        told = json.loads(body)
        inputs = told["inputs"]
        contents = base64.b64decode(inputs["contents"]["b64"], validate=True)
        boxes, flip = inputs["boxes_xywh"], inputs["flip"]
        fine = isinstance(flip, bool) and told.get("signature_name", SIGNATURE) == SIGNATURE
        boxes = [[float(number) for number in box] for box in boxes]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        fine = False
    if not fine:
        raise Refused(
            400,
            f'Expected {{"signature_name": "{SIGNATURE}", "inputs": {{"contents": {{"b64": "…"}}, '
            '"boxes_xywh": [[x, y, width, height], …], "flip": true}}.',
        )
    if len(boxes) > CROPS or not all(map(_is_box, boxes)):
        raise Refused(400, f"Expected at most {CROPS} boxes of finite x, y, width and height, with sizes above 0.")
    return Request(contents, boxes, flip, _pixels(contents, max_pixels) / max_pixels)


def _is_box(box: list[float]) -> bool:
    return len(box) == 4 and all(abs(number) < LARGEST for number in box) and min(box[2:]) > 0


def _pixels(contents: bytes, max_pixels: int) -> int:
    """Returns the number of pixels that the header of a JPEG or PNG tells."""
    if not contents.startswith(STARTS):
        raise Refused(415, f"Expected a JPEG or PNG. Received {len(contents)} bytes that begin with {contents[:8]!r}.")
    try:
        height, width = images.size_of(contents)
    except images.UnreadablePicture as error:
        raise Refused(413 if "megapixels" in error.reason else 400, error.reason) from None
    if height * width > max_pixels:
        raise Refused(413, f"The picture may have {max_pixels} pixels. Received: {height} x {width}.")
    if contents.startswith(STARTS[0]) and contents.count(b"\xff\xda") > MAX_SCANS:
        raise Refused(413, f"The JPEG may have {MAX_SCANS} scans.")
    return height * width
