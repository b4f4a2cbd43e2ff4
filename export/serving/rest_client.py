"""Sends an image and person boxes to TensorFlow Serving and prints the keypoints. Requires Python only.

python export/serving/rest_client.py photo.jpg --box 40 30 120 260 --url http://localhost:8501/v1/models/cpn
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path


def request_body(picture: bytes, boxes_xywh: list[list[float]], flip: bool) -> dict:
    """Returns the body of a predict request, with the image as base64 and boxes as x, y, width, height in pixels."""
    contents = {"b64": base64.b64encode(picture).decode()}
    return {
        "signature_name": "predict_image",
        "inputs": {"contents": contents, "boxes_xywh": boxes_xywh, "flip": flip},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, help="a JPEG, PNG, GIF or BMP file")
    parser.add_argument("--box", type=float, nargs=4, action="append", required=True, metavar=("X", "Y", "W", "H"))
    parser.add_argument("--url", default="http://localhost:8501/v1/models/cpn", help="URL of the model")
    parser.add_argument("--no-flip", action="store_true", help="do not average with the mirrored crop")
    args = parser.parse_args()
    body = json.dumps(request_body(args.image.read_bytes(), args.box, not args.no_flip)).encode()
    request = urllib.request.Request(f"{args.url}:predict", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:  # the body has the error message
        print(f"{args.url}: {error.code}: {error.read().decode(errors='replace')[:500]}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{args.url}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found))  # keypoints_xy (P, N, K, 2), keypoint_scores (P, N, K), scores (P, N)
    return 0


if __name__ == "__main__":
    sys.exit(main())
