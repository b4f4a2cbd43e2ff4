"""Inference on images, folders and videos, with the person boxes that it needs."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Predictor": "kpzoo.inference.predictor",
        "Prediction": "kpzoo.inference.predictor",
        "predict": "kpzoo.inference.predictor",
        "stream": "kpzoo.inference.predictor",
        "NO_PERSON": "kpzoo.inference.predictor",
        "predict_boxes": "kpzoo.inference.box_poses",
        "POSE_NMS": "kpzoo.inference.box_poses",
        "accelerate": "kpzoo.inference.acceleration",
        "calibration_crops": "kpzoo.inference.calibration",
        "predict_to_folder": "kpzoo.inference.bulk",
        "detect_to_file": "kpzoo.inference.detection",
    },
    renamed={"Found": "Prediction"},
)
