"""kpzoo: top-down 2D human pose models in Keras 3.

The names below are imported when they are first used, so that `import kpzoo` is quick and quiet.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "build": "kpzoo.models",
    "list_models": "kpzoo.models",
    "info": "kpzoo.models",
    "load_weights": "kpzoo.importers",
    "save_weights": "kpzoo.importers",
    "accelerate": "kpzoo.acceleration",
    "predict": "kpzoo.inference",
    "predict_to_folder": "kpzoo.bulk",
    "evaluate": "kpzoo.evaluation",
}
_MODULES = ("data", "detect", "drawing", "evaluation", "export", "geometry", "heatmaps", "importers", "losses")
_MODULES += ("models", "nms", "poses", "skeletons", "training")

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"kpzoo.{name}")
    raise AttributeError(f"module 'kpzoo' has no attribute {name!r}. It has {', '.join(__all__)}.")


def __dir__():
    return sorted([*globals(), *__all__])
