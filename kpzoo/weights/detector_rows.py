"""Person detectors of other projects in ONNX format."""

from collections.abc import Mapping

from kpzoo.weights.rows import DetectorFile


def _yolox(size: str, side: int, name: str) -> DetectorFile:
    return DetectorFile(
        detector=f"yolox_{size}",
        member="end2end.onnx",
        image_hw=(side, side),
        url=f"https://download.openmmlab.com/mmpose/v1/projects/rtmposev1/onnx_sdk/{name}.zip",
        sha256="",  # the digits in the name are those of the training checkpoint
        license="Apache-2.0; trained on COCO and Human-Art (research use)",
        origin="OpenMMLab's ONNX export",
    )


# Tag -> row.
ROWS: Mapping[str, DetectorFile] = {
    "yolox_tiny.humanart_v1": _yolox("tiny", 416, "yolox_tiny_8xb8-300e_humanart-6f3252f9"),
    "yolox_m.humanart_v1": _yolox("m", 640, "yolox_m_8xb8-300e_humanart-c2c7a14a"),
    "yolox_x.humanart_v1": _yolox("x", 640, "yolox_x_8xb8-300e_humanart-a39d44ed"),
}
