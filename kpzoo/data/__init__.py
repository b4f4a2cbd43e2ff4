"""Data sets: COCO-format files, synthetic scenes, crops, batches."""

import importlib

_HOME = {"load": "kpzoo.data.files", "PoseData": "kpzoo.data.files", "make_dataset": "kpzoo.data.batches"}


def __getattr__(name: str):
    if name in _HOME:  # TensorFlow is imported with `make_dataset`, not with this package
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kpzoo.data' has no attribute {name!r}. It has {', '.join(_HOME)}.")
