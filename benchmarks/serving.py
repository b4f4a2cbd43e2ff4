"""Load of `kpzoo serve` on this machine: requests per second, latency, memory, hostile requests.

    python benchmarks/serving.py --write                 # 50,000 requests
    python benchmarks/serving.py --count 500             # a short form

A client in this process sends as many requests as it can, 1 % of them hostile, then half as many per second. Answers
are compared with `kpzoo.predict`. The exit code is 1 if an answer is wrong or the server has not lived to the end,
whichever bars are met.
"""

import argparse
import base64
import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import measure
import numpy as np

MODEL = "cpn_nano"
HOSTILE = 0.01  # of the requests
CLIENTS = 16  # requests at a time
NUM_PICTURES = 40
IN_FLIGHT_SECONDS = 0.3  # between requests and the end of the server
SETTLED = 0.2  # of the requests, after which the memory is compared


def hostile(body: bytes, max_bytes: int) -> dict[str, tuple[str, str, bytes, int]]:
    """Returns method, suffix of the URL, body and expected status of requests that no server may answer or die of.

    Args:
        body: A good request, with a JPEG.
        max_bytes: Size of a body that the server accepts.
    """
    inputs = json.loads(body)["inputs"]
    jpeg = base64.b64decode(inputs["contents"]["b64"])
    frame = next(at for at in range(len(jpeg)) if jpeg[at] == 255 and jpeg[at + 1] in (0xC0, 0xC2))
    png = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (40_000).to_bytes(4, "big") * 2 + bytes(100)
    pictures = {
        "no picture": (b"no picture", 415),
        "a web page": (b"<!DOCTYPE html>", 415),
        "an empty picture": (b"", 415),
        "half a JPEG": (jpeg[: len(jpeg) // 2], 400),
        "noise after the header of a JPEG": (jpeg[: frame + 19] + jpeg[:300] * 9, 400),
        "a JPEG without a frame": (jpeg[:4] + bytes(500), 400),
        "a bomb in JPEG": (jpeg[: frame + 5] + b"\xff\xdc\xff\xdc" + jpeg[frame + 9 :], 413),
        "a bomb in PNG": (png, 413),
        "a JPEG with too many scans": (jpeg[:-2] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 200, 413),
    }

    def with_(**changed) -> bytes:
        return json.dumps({"inputs": {**inputs, **changed}}).encode()

    def encoded(data: bytes) -> bytes:
        return with_(contents={"b64": base64.b64encode(data).decode()})

    cases = {name: (encoded(data), status) for name, (data, status) in pictures.items()}
    cases |= {
        "an empty body": (b"", 400),
        "no JSON": (b"\xff\xfe" * 50, 400),
        "deep JSON": (b"[" * 100_000, 400),
        "no inputs": (b"{}", 400),
        "a list": (b"[1]", 400),
        "no base64": (with_(contents={"b64": "%%%"}), 400),
        "a box of three numbers": (with_(boxes_xywh=[[1, 2, 3]]), 400),
        "a box of text": (with_(boxes_xywh=[["a", "b", "c", "d"]]), 400),
        "a box without width": (with_(boxes_xywh=[[1, 2, 0, 4]]), 400),
        "a box that is not finite": (with_(boxes_xywh=[[1, float("nan"), 3, 4]]), 400),
        "too many boxes": (with_(boxes_xywh=[[1, 2, 3, 4]] * 10_000), 400),
        "another signature": (json.dumps({"signature_name": "x", "inputs": inputs}).encode(), 400),
        "a huge body": (bytes(max_bytes + 1), 413),
    }
    posted = {name: ("POST", ":predict", data, status) for name, (data, status) in cases.items()}
    return {
        **posted,
        "a wrong method": ("GET", ":predict", b"", 405),
        "a wrong method for the state": ("DELETE", "", b"", 405),
        "a wrong path": ("POST", "/../../etc/passwd:predict", body, 404),
    }


class Client:
    """Sends requests over one connection, which is opened again when the server has closed it."""

    def __init__(self, url: str):
        self._parts, self._connection = urlsplit(url), None

    def __call__(self, method: str, suffix: str, body: bytes) -> tuple[int, bytes]:
        """Returns status and body; status 0 if the server closed the connection without an answer."""
        self._connection = self._connection or http.client.HTTPConnection(self._parts.netloc, timeout=120)
        try:
            self._connection.request(method, self._parts.path + suffix, body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            data = answer.read()
            if answer.will_close:
                self.close()
            return answer.status, data
        except (OSError, http.client.HTTPException):
            self.close()
            return 0, b""

    def close(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None


def pictures(folder: Path) -> list[tuple[bytes, list]]:
    """Returns encoded pictures of drawn people, and their boxes."""
    import kpzoo

    kpzoo.scenes.write_drawn(folder, NUM_PICTURES, split="val", seed=7)
    data = kpzoo.data.load(folder, "val")
    found: dict[str, list] = {}
    persons = data.annotations.persons
    for path, box in zip(data.image_paths(persons.image_ids), persons.boxes_image_xywh, strict=True):
        found.setdefault(path, []).append(box.tolist())
    return [(Path(path).read_bytes(), boxes) for path, boxes in found.items()]


def body_of(contents: bytes, boxes: list, flip: bool) -> bytes:
    inputs = {"contents": {"b64": base64.b64encode(contents).decode()}, "boxes_xywh": boxes, "flip": flip}
    return json.dumps({"signature_name": "predict_image", "inputs": inputs}).encode()


def is_right(answer: bytes, expected: np.ndarray) -> bool:
    """Returns whether the keypoints of an answer are within 0.01 pixels of the expected ones, (P, K, 2)."""
    found = np.asarray(json.loads(answer)["outputs"]["keypoints_xy"], float)[:, 0]
    return found.shape == expected.shape and np.abs(found - expected).max() <= 0.01


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def server(folder: Path):
    """Context manager that runs `kpzoo serve`, and yields its process and its URL."""
    command = [sys.executable, "-c", "import sys; from kpzoo import cli; sys.exit(cli.main())"]
    command += ["serve", str(folder), "--port", str(free_port())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit("The server did not start.")
        yield process, url
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(180)


def memory_mb(process: subprocess.Popen) -> dict[str, float]:
    """Returns the memory of the replica and of the proxy of a server."""
    import psutil

    found = {}
    for one in psutil.Process(process.pid).children(recursive=True):
        try:
            name = " ".join(one.cmdline())
            kind = next((kind for kind in ("Replica", "Proxy") if f"ServeReplica:{kind}" in name or kind in name), None)
            if kind:
                found[kind] = found.get(kind, 0) + one.memory_info().rss / 1e6
        except psutil.Error:
            continue
    return {name: round(value, 1) for name, value in found.items()}


class Load:
    """Sends requests from several threads, and judges the answers.

    Args:
        url: Of the model.
        good: Bodies and expected keypoints.
        bad: See `hostile`.
    """

    def __init__(self, url: str, good: list[tuple[bytes, np.ndarray]], bad: dict):
        self._url, self._good, self._bad = url, good, list(bad.items())
        self.counts, self.seconds, self._lock = Counter(), [], threading.Lock()

    def run(self, count: int, seed: int, per_second: float | None = None, often=None) -> float:
        """Sends requests, each as soon as another is answered or at a steady rate, and returns the seconds taken."""
        waiting: queue.Queue = queue.Queue(maxsize=CLIENTS if per_second is None else 0)
        threads = [threading.Thread(target=self._work, args=(waiting,), daemon=True) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        rng, started = np.random.default_rng(seed), time.perf_counter()
        for number in range(count):
            is_bad = rng.random() < HOSTILE
            due = None
            if per_second is not None:
                due = started + number / per_second
                time.sleep(max(0.0, due - time.perf_counter()))
            waiting.put((is_bad, int(rng.integers(len(self._bad if is_bad else self._good))), due))
            if often and number % max(1, count // 20) == 0:
                often(number / count)
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def _work(self, waiting: queue.Queue) -> None:
        client = Client(self._url)
        while (job := waiting.get()) is not None:
            is_bad, index, due = job
            started = due or time.perf_counter()  # waiting for a free client counts
            if is_bad:
                name, (method, suffix, body, status) = self._bad[index]
                got, _ = client(method, suffix, body)
                kind = "refused" if got == status or (got == 0 and status == 413) else f"hostile, {name}: {got}"
            else:
                body, expected = self._good[index]
                got, answer = client("POST", ":predict", body)
                kind = ("right" if is_right(answer, expected) else "wrong") if got == 200 else f"good: {got}"
            with self._lock:
                self.counts[kind] += 1
                if not is_bad:
                    self.seconds.append(time.perf_counter() - started)
        client.close()

    def latency(self) -> dict:
        p50, p99 = (1000 * np.percentile(self.seconds, (50, 99))).round(1).tolist()
        return {"p50 ms": p50, "p99 ms": p99}


def run(folder: Path, args) -> int:
    import kpzoo
    from kpzoo.distributed.serving import MAX_BYTES
    from kpzoo.inference.predictor import as_model

    model = as_model(MODEL)
    saved = kpzoo.export.to_savedmodel(model, folder / "model/1")
    found = pictures(folder / "data")
    good = []
    for number, (contents, boxes) in enumerate(found):
        flip = bool(number % 2)
        poses = kpzoo.predict(model, contents, boxes, flip=flip, nms=None)
        good.append((body_of(contents, boxes, flip), poses.keypoints_xy))
    alone = own_time(saved, found)
    bad = hostile(good[0][0], MAX_BYTES)
    with server(saved) as (process, url):
        Load(url, good, bad).run(max(100, args.count // 100), seed=0)  # warms up
        memory: list[tuple[float, dict]] = []
        full, half = Load(url, good, bad), Load(url, good, bad)
        seconds = full.run(args.count, seed=1, often=lambda part: memory.append((part, memory_mb(process))))
        rate = args.count / seconds
        half.run(max(100, args.count // 10), seed=2, per_second=rate / 2)
        memory.append((1.0, memory_mb(process)))
        lives = Client(url)("GET", "", b"")[0] == 200 and process.poll() is None
        missing = unanswered(process, url, good)
    settled = next(sum(each.values()) for part, each in memory if part >= SETTLED)
    grown = max(sum(each.values()) for part, each in memory if part >= SETTLED) - settled
    counts = full.counts + half.counts
    wrong = sum(count for kind, count in counts.items() if kind not in ("right", "refused"))
    table = [
        {"load": "full", "requests/s": round(rate, 1), **full.latency()},
        {"load": "half", "requests/s": round(rate / 2, 1), **half.latency()},
        {"load": "one picture, without a server", **alone},
    ]
    bars = [
        measure.bar("wrong or missing answers", wrong, at_most=0),
        measure.bar("the server lives", int(lives), at_least=1),
        measure.bar("requests without an answer when it is stopped", missing, at_most=0),
        measure.bar("exit code of the server", process.returncode, at_most=0),
        measure.bar("memory grown", grown, at_most=50, unit=" MB"),
        measure.bar("p99 at half load over the model's own time", table[1]["p99 ms"] / alone["p99 ms"], at_most=3),
    ]
    kinds = [{"answers": kind, "requests": count} for kind, count in sorted(counts.items())]
    tracked = [{"part of the requests": round(part, 2), **each} for part, each in memory]
    measure.report(
        "serving",
        "Serving with Ray Serve",
        "python benchmarks/serving.py --write",
        {f"{MODEL}, {len(good)} pictures, {CLIENTS} clients": table, "Answers": kinds, "Memory in MB": tracked},
        bars,
        notes=[f"{HOSTILE:.0%} of the requests are hostile, of {len(bad)} kinds. Clients and server share the cores."],
        folder=measure.RESULTS if args.write else None,
    )
    return int(wrong > 0 or missing > 0 or not lives)


def unanswered(process: subprocess.Popen, url: str, good: list[tuple[bytes, np.ndarray]]) -> int:
    """Returns how many of `CLIENTS` requests get no right answer if the server is stopped while it has them."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        sent = [pool.submit(Client(url), "POST", ":predict", body) for body, _ in good[:CLIENTS]]
        time.sleep(IN_FLIGHT_SECONDS)
        process.send_signal(signal.SIGTERM)
        answers = [one.result() for one in sent]
    process.wait(180)
    pairs = zip(answers, good, strict=False)
    return sum(status != 200 or not is_right(answer, expected) for (status, answer), (_, expected) in pairs)


def own_time(saved: Path, found: list[tuple[bytes, list]]) -> dict:
    """Returns the time of the exported model for one picture in this process."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(saved))
    ask, taken = loaded.signatures["predict_image"], []
    for number in range(4 * len(found)):
        contents, boxes = found[number % len(found)]
        started = time.perf_counter()
        ask(
            contents=tf.constant(contents),
            boxes_xywh=tf.constant(boxes, tf.float32),
            flip=tf.constant(bool(number % 2)),
        )
        taken.append(1000 * (time.perf_counter() - started))
    p50, p99 = np.percentile(taken[len(found) :], (50, 99)).round(1).tolist()
    return {"p50 ms": p50, "p99 ms": p99}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="requests at full load; a tenth at half load")
    parser.add_argument("--write", action="store_true", help="write results/serving.json")
    args = parser.parse_args(argv)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), args)


if __name__ == "__main__":
    sys.exit(main())
