"""Tests the page in headless Chromium, and compares its keypoints with ONNX Runtime in Python.

    python export/web/check.py --model model.onnx --image photo.jpg --box 40 30 120 260 --out page.png

Requires `npm install --prefix export/web` and Debian's chromium and chromium-driver. The exit code is 0 if 90 % of the
keypoints agree to half a pixel. Others may differ because the JPEG decoder of the browser rounds differently.
"""

import argparse
import base64
import http.server
import json
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
LIMIT, SHARE = 0.5, 0.9  # image pixels, and the share of keypoints within them
DROP = """
    const done = arguments[arguments.length - 1];
    fetch("photo").then(answer => answer.blob()).then(blob => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([blob], "photo.jpg"));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        done(true);
    });
"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the page, the model and the photo."""

    files: dict[str, str] = {}

    def translate_path(self, path):
        return self.files.get(path.split("?")[0]) or super().translate_path(path)

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_):
        pass


class Browser:
    """A headless Chromium, spoken to in the WebDriver protocol."""

    def __init__(self, port: int):
        self.root = f"http://127.0.0.1:{port}"
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1400"]
        wanted = {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}
        for attempt in range(60):
            try:
                self.session = self.send("/session", {"capabilities": wanted}, "")["sessionId"]
                return
            except OSError:
                time.sleep(0.5 if attempt < 59 else 0)
        self.driver.terminate()
        raise SystemExit("chromedriver does not start.")

    def send(self, path: str, body: dict | None = None, session: str | None = None):
        session = f"/session/{self.session}" if session is None else session
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + session + path, data, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=300))["value"]

    def script(self, code: str, kind: str = "sync"):
        return self.send(f"/execute/{kind}", {"script": code, "args": []})

    def wait(self, condition: str, seconds: float = 180):
        ends = time.monotonic() + seconds
        while not self.script(f"return Boolean({condition})"):
            error = self.script("return window.kpzoo && kpzoo.error")
            if error or time.monotonic() > ends:
                raise SystemExit(f"The page did not come to {condition}: {error or 'time is over'}")
            time.sleep(0.2)

    def drag(self, start, end):
        """Presses the mouse at one place of the page, moves and releases it at another."""
        steps = [("pointerMove", start), ("pointerDown", None), ("pointerMove", end), ("pointerUp", None)]
        actions = [
            {"type": kind, "button": 0, **({"x": round(at[0]), "y": round(at[1]), "duration": 50} if at else {})}
            for kind, at in steps
        ]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self.send("/actions", {"actions": [mouse]})

    def close(self):
        urllib.request.urlopen(urllib.request.Request(f"{self.root}/session/{self.session}", method="DELETE"))
        self.driver.terminate()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="ONNX file with keypoints as outputs")
    parser.add_argument("--image", required=True, help="a photo")
    parser.add_argument("--box", type=float, nargs=4, action="append", required=True, metavar=("X", "Y", "W", "H"))
    parser.add_argument("--out", default="page.png", help="file of the screenshot")
    args = parser.parse_args()
    Handler.files = {"/model.onnx": str(Path(args.model).resolve()), "/photo": str(Path(args.image).resolve())}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(HERE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = Browser(server.server_port + 1)
    try:
        browser.send("/url", {"url": f"http://127.0.0.1:{server.server_port}/"})
        browser.wait("window.kpzoo && kpzoo.session")
        browser.script(DROP, "async")
        browser.wait("kpzoo.pixels")
        shown = browser.script(
            "const r = canvas.getBoundingClientRect(); return [r.left, r.top, r.width / canvas.width]"
        )
        for x, y, width, height in args.box:
            corners = np.array([[x, y], [x + width, y + height]]) * shown[2] + shown[:2]
            browser.drag(*corners.tolist())
        first = np.array(args.box[0])  # moved away and back: the boxes can be dragged
        middle = (first[:2] + first[2:] / 2) * shown[2] + shown[:2]
        before = browser.script("return kpzoo.boxes")
        for start, end in ((middle, middle + 15), (middle + 15, middle)):
            browser.drag(start.tolist(), end.tolist())
        boxes, poses = np.array(browser.script("return kpzoo.boxes")), ()
        if len(boxes) != len(args.box) or np.abs(boxes - before).max() > 2:
            raise SystemExit(f"The drags left other boxes: {boxes.tolist()}, before {before}")
        browser.wait("kpzoo.runs >= 1")
        settled = f"kpzoo.poses.length === {len(boxes)} * kpzoo.model.num_instances"
        browser.wait(settled)
        time.sleep(2)
        browser.wait(settled)
        poses = browser.script("return kpzoo.poses.map(pose => pose.keypoints)")
        Path(args.out).write_bytes(base64.b64decode(browser.send("/screenshot")))
        print(browser.script("return document.getElementById('status').textContent"))
    finally:
        browser.close()
        server.shutdown()
    expected = answers_in_python(args.model, args.image, boxes)
    apart = np.linalg.norm(np.array(poses)[..., :2] - expected, axis=-1)
    near = (apart <= LIMIT).mean()
    print(
        f"{args.out}: {len(poses)} poses, {near:.0%} of keypoints within {LIMIT} px, the worst {apart.max():.3f} px off"
    )
    return int(near < SHARE)


def answers_in_python(model: str, image: str, boxes: np.ndarray) -> np.ndarray:
    """Returns the (P * N, K, 2) keypoints in image pixels of the same boxes, by onnxruntime and OpenCV."""
    import cv2
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    (height, width), rule, count = told["image_hw"], told["crop_rule"], told["num_instances"]
    pixels = cv2.imread(image)[..., ::-1]
    crops, found = [], []
    for x, y, box_width, box_height in boxes:
        grown = max(box_width * rule["grow_xy"][0], box_height * rule["grow_xy"][1] * width / height) * rule["padding"]
        scale = grown / width
        matrix = np.array(
            [[scale, 0, x + box_width / 2 - grown / 2], [0, scale, y + (box_height - scale * height) / 2]]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        fill = [round(value) for value in rule["fill_rgb"]]
        crops.append(cv2.warpAffine(pixels, matrix, (width, height), flags=flags, borderValue=fill))
        found.append(matrix)
    feeds = {"image": np.array(crops, np.float32), "instance": np.tile(np.eye(count, dtype="f"), (len(boxes), 1, 1))}
    names = {entry.name for entry in session.get_inputs()}
    points = session.run(["keypoints_crop_xy"], {name: value for name, value in feeds.items() if name in names})[0]
    matrices = np.array(found)[:, None, None]
    return (np.einsum("...ij,...j->...i", matrices[..., :2], points) + matrices[..., 2]).reshape(-1, points.shape[2], 2)


if __name__ == "__main__":
    sys.exit(main())
