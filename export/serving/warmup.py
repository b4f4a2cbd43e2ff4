"""Adds warm-up requests to a SavedModel, so that TensorFlow Serving answers its first request without delay.

    python export/serving/warmup.py serving/cpn/1

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests` when it loads a version. The requests are an image
with one box, with and without the flip test. Requires TensorFlow only.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

RECORDS = "assets.extra/tf_serving_warmup_requests"


def field(number: int, content: bytes) -> bytes:
    """Returns a length-delimited field of a protocol buffer, which avoids a dependency on TensorFlow Serving."""
    size, length = len(content), bytearray()
    while True:
        length.append(size & 127 | (128 if size > 127 else 0))
        size >>= 7
        if not size:
            return bytes([number << 3 | 2]) + bytes(length) + content


def prediction_log(signature: str, inputs: dict) -> bytes:
    """Returns a PredictionLog whose PredictLog (6) holds a PredictRequest (1) for a signature."""
    request = field(1, field(3, signature.encode()))  # ModelSpec.signature_name
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += field(2, field(1, name.encode()) + field(2, tensor))
    return field(6, field(1, request))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of a version, with saved_model.pb")
    args = parser.parse_args()
    if not (args.folder / "saved_model.pb").is_file():
        parser.error(f"there is no saved_model.pb in {args.folder}")
    path = args.folder / RECORDS
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    picture = tf.io.encode_jpeg(np.full((240, 320, 3), 128, np.uint8)).numpy()
    box = np.array([[40, 20, 100, 200]], np.float32)
    with tf.io.TFRecordWriter(str(part)) as records:
        for flip in (False, True):
            inputs = {"contents": picture, "boxes_xywh": box, "flip": flip}
            records.write(prediction_log("predict_image", inputs))
    part.replace(path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
