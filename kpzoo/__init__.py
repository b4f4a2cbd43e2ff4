"""kpzoo: top-down 2D human pose models in Keras 3.

The names below are imported when they are first used, so that `import kpzoo` is quick and quiet.
"""

from kpzoo import keras_setup, lazy

__version__ = "0.1.0"

_FUNCTIONS = {
    "build": "kpzoo.models",
    "list_models": "kpzoo.models",
    "info": "kpzoo.models",
    "ensemble": "kpzoo.models",
    "load_weights": "kpzoo.weights",
    "save_weights": "kpzoo.weights",
    "accelerate": "kpzoo.inference",
    "Predictor": "kpzoo.inference",
    "predict": "kpzoo.inference",
    "stream": "kpzoo.inference",
    "predict_to_folder": "kpzoo.inference",
    "detect_to_file": "kpzoo.inference",
    "watch": "kpzoo.inference",
    "evaluate": "kpzoo.evaluation",
    "score": "kpzoo.evaluation",
    "score_boxes": "kpzoo.evaluation",
    "score_tracks": "kpzoo.evaluation",
    "Preset": "kpzoo.pose_model",
    "Poses": "kpzoo.poses",
}
_MODULES = [
    "convert",
    "data",
    "distributed",
    "drawing",
    "evaluation",
    "export",
    "geometry",
    "heatmaps",
    "images",
    "inference",
    "losses",
]
_MODULES += ["models", "nms", "poses", "scenes", "skeletons", "training", "weights"]
_MODULES = {name: f"kpzoo.{name}" for name in _MODULES}
_MODULES |= {"detectors": "kpzoo.inference.detectors", "metrics": "kpzoo.evaluation.metrics"}
_RENAMED = {"detect": "detectors", "importers": "weights"}

__getattr__, __dir__, __all__ = lazy.attach(__name__, {**_FUNCTIONS, **_MODULES}, _RENAMED)

keras_setup.register_with_keras()
