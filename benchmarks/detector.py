"""Time of person detection, from the bytes of a JPEG file to boxes: the default detector against an ONNX detector.

python benchmarks/detector.py --images photos --onnx nanodet_g_person_416_f16.onnx --write
"""

import argparse
import sys
from itertools import cycle
from pathlib import Path

import cv2
import measure
import numpy as np

from kpzoo import images
from kpzoo.inference import detectors

OURS, OTHER = "{}, kpzoo", "{}, ONNX Runtime"


def onnx_call(path: Path, files: list[bytes]):
    """Returns a call that reads the next file and runs the detector as its users do: resize, pad, run, clip.

    The ONNX file takes one (1, S, S, 3) uint8 RGB image and returns boxes (1, N, 4) x0, y0, x1, y1 and scores (1, N).
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [source], queue = session.get_inputs(), cycle(files)
    side = source.shape[1]

    def run():
        image = cv2.cvtColor(cv2.imdecode(np.frombuffer(next(queue), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        scale = side / max(height, width)
        small = cv2.resize(image, (round(width * scale), round(height * scale)))
        canvas = np.zeros((1, side, side, 3), np.uint8)
        canvas[0, : small.shape[0], : small.shape[1]] = small
        boxes, scores = session.run(["boxes", "scores"], {source.name: canvas})
        return np.clip(boxes[0] / scale, 0, [width, height] * 2), scores[0]

    return run


def own_call(detector, files: list[bytes]):
    queue = cycle(files)
    return lambda: detector.detect([images.decode_image(next(queue))], [0])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--onnx", type=Path, required=True, help="detector to compare with, with NMS in the graph")
    parser.add_argument("--count", type=int, default=32, help="number of images")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    files = [path.read_bytes() for path in images.list_images(args.images)[: args.count]]
    detector = detectors.get(detectors.DEFAULT)
    ours, other = OURS.format(detector.weights), OTHER.format(args.onnx.stem)
    queue = cycle(files)
    alternatives = {
        ours: own_call(detector, files),
        other: onnx_call(args.onnx, files),
        "reading the image alone, kpzoo": lambda: images.decode_image(next(queue)),
    }
    times = measure.interleaved(alternatives, args.rounds, calls=len(files), warm_up=2 * len(files))
    measure.report(
        "detector",
        "JPEG bytes to person boxes",
        f"python benchmarks/detector.py --images PHOTOS --onnx {args.onnx.name} --write",
        {f"{len(files)} photos, one at a time": measure.rows(times)},
        [measure.bar("time over that of the other", times[ours].median / times[other].median, at_most=1.0, unit="x")],
        notes=[
            "kpzoo reads the EXIF orientation, pads to the smallest of five input sizes, and runs NMS. "
            "The ONNX detector has NMS in its graph, and one square input size.",
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
