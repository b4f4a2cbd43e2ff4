"""Inference on images, folders and videos, with the person boxes that it needs."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Predictor": "kpzoo.inference.predictor",
        "Prediction": "kpzoo.inference.prediction",
        "predict": "kpzoo.inference.predictor",
        "stream": "kpzoo.inference.predictor",
        "NO_PERSON": "kpzoo.inference.predictor",
        "predict_boxes": "kpzoo.inference.box_poses",
        "POSE_NMS": "kpzoo.inference.box_poses",
        "Tracker": "kpzoo.inference.tracking",
        "Smoother": "kpzoo.inference.smoothing",
        "accelerate": "kpzoo.inference.acceleration",
        "calibration_crops": "kpzoo.inference.calibration",
        "predict_to_folder": "kpzoo.inference.bulk",
        "watch": "kpzoo.inference.watching",
        "write_gallery": "kpzoo.inference.gallery",
        "detect_to_file": "kpzoo.inference.detection",
    },
    renamed={"Found": "Prediction"},
)
