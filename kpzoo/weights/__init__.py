"""Reads and writes weights files: those of kpzoo, and checkpoints of other projects."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "load_weights": "kpzoo.weights.load",
        "Report": "kpzoo.weights.load",
        "save_weights": "kpzoo.weights.save",
        "build_arguments": "kpzoo.weights.save",
        "read_description": "kpzoo.weights.save",
        "SOURCES": "kpzoo.weights.sources",
        "detect": "kpzoo.weights.sources",
    },
)
