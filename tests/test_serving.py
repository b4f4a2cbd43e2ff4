"""The server of exported models: answers, limits, hostile requests; Ray Serve itself."""

import asyncio
import json
import socket
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

import kpzoo
from kpzoo import cli, export
from kpzoo.distributed import serving
from kpzoo.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import serving as load  # noqa: E402

BOXES = [[10.0, 10.0, 50.0, 90.0], [60.0, 5.0, 40.0, 110.0]]
MAX_BYTES = 200_000


def jpeg(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (160, 120 + seed)))[1].tobytes()


@pytest.fixture(scope="module")
def model():
    return kpzoo.build("cpn_tiny", image_hw=(64, 64))


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    return export.to_savedmodel(model, tmp_path_factory.mktemp("serving") / "1")


@pytest.fixture(scope="module")
def replica(saved):
    replica = serving.Replica(str(saved), "cpn", serving.Limits(max_bytes=MAX_BYTES), threads=1)

    async def alone(request):  # without the queue, which Ray Serve runs
        return replica._answers([request])[0]

    replica._predict = alone
    return replica


async def answered(replica, method: str, suffix: str, body: bytes) -> tuple[int, dict]:
    """Returns status and JSON of the response to a request, whose body comes in pieces."""
    from starlette.requests import Request

    pieces = [body[start : start + 50_000] for start in range(0, len(body), 50_000)] or [b""]
    messages = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]

    async def receive():
        return messages.pop(0)

    path = f"{serving.PREFIX}/cpn{suffix}"
    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
    response = await replica(Request(scope, receive))
    return response.status_code, json.loads(response.body)


def test_pictures_that_arrive_together_answer_as_predict_does(model, replica):
    sent = [(jpeg(seed), BOXES[: seed % 3], bool(seed % 2)) for seed in range(6)]

    bodies = [load.body_of(*one) for one in sent] + [load.body_of(jpeg(0)[:900], BOXES, True)]
    *answers, refused = replica._answers([serving.parsed_request(body, serving.MAX_PIXELS) for body in bodies])
    assert (refused.status, refused.reason) == (
        400,
        "The picture is incomplete or damaged.",
    )  # it spoils no other answer
    for (contents, boxes, flip), answer in zip(sent, answers, strict=True):
        found = np.reshape(json.loads(answer)["outputs"]["keypoints_xy"], (-1, 17, 2))
        assert found.shape == (len(boxes), 17, 2)
        if boxes:
            expected = kpzoo.predict(model, contents, boxes, flip=flip, nms=None)
            np.testing.assert_allclose(found, expected.keypoints_xy, atol=0.01)


HOSTILE = load.hostile(load.body_of(jpeg(0), BOXES, True), MAX_BYTES)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_are_refused(replica, name):
    method, suffix, body, expected = HOSTILE[name]
    status, told = asyncio.run(answered(replica, method, suffix, body))
    assert status == expected, told
    assert 0 < len(told["error"]) < 500


def test_the_limit_of_pixels_fills_batches(replica):
    small, large = serving.Request(b"", [], False, 1e-6), serving.Request(b"", [], False, 1.0)
    assert serving.size_of_batch([small] * 3) == 3
    assert serving.size_of_batch([large]) == serving.CROPS
    assert serving.size_of_batch([large, small]) > serving.CROPS
    with pytest.raises(serving.Refused, match="may have 1000 pixels. Received: 120 x 160"):
        serving.parsed_request(load.body_of(jpeg(0), BOXES, True), 1000)


def test_the_state_has_the_description(replica):
    status, told = asyncio.run(answered(replica, "GET", "", b""))
    assert status == 200 and told["model_version_status"][0]["state"] == "AVAILABLE"
    assert told["metadata"]["keypoints"][0] == "nose"


def test_folders_that_are_no_model_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="no SavedModel of a pose model with the signature `predict_images`"):
        serving.description(tmp_path)
    assert cli.main(["serve", str(tmp_path)]) == 2
    assert "Write it with `kpzoo export" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(saved):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="Cannot listen on 127.0.0.1:.*Use another `port=`"):
            with serving.served(saved, port=taken.getsockname()[1]):
                pass


def test_ray_serves_and_answers_what_it_accepted(model, saved):
    import ray

    contents = jpeg(1)
    try:
        with serving.served(saved, name="cpn", port=load.free_port(), metrics_port=load.free_port()) as url:
            client, body = load.Client(url), load.body_of(contents, BOXES, True)
            expected = kpzoo.predict(model, contents, BOXES, flip=True, nms=None).keypoints_xy
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda _: load.Client(url)("POST", ":predict", body), range(12)))
            assert [status for status, _ in answers] == [200] * 12
            assert all(load.is_right(answer, expected) for _, answer in answers)
            for name in ("half a JPEG", "a bomb in PNG", "an empty body", "a wrong method"):
                method, suffix, body, expected = HOSTILE[name]
                assert client(method, suffix, body)[0] == expected
            root = url.partition("/v1/")[0]
            assert urllib.request.urlopen(f"{root}/-/healthz", timeout=30).status == 200
    finally:
        ray.shutdown()
    assert client("GET", "", b"")[0] == 0
