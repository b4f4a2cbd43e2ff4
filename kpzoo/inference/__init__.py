"""Inference on images, folders and videos, with the person boxes that it needs."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "predict": "kpzoo.inference.predictor",
        "stream": "kpzoo.inference.predictor",
        "make_predictor": "kpzoo.inference.predictor",
        "predict_boxes": "kpzoo.inference.predictor",
        "Found": "kpzoo.inference.predictor",
        "POSE_NMS": "kpzoo.inference.predictor",
        "accelerate": "kpzoo.inference.acceleration",
        "predict_to_folder": "kpzoo.inference.bulk",
    },
)
