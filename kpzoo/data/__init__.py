"""Data sets: COCO-format files, crops, batches and packs."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "load": "kpzoo.data.loading",
        "PoseData": "kpzoo.data.files",
        "make_dataset": "kpzoo.data.batches",
        "num_persons": "kpzoo.data.batches",
        "Augment": "kpzoo.data.augment",
    },
)
