"""Prediction of any number of pictures with Ray Data, Parquet parts and object stores; a server with Ray Serve."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "predict": "kpzoo.distributed.run",
        "Summary": "kpzoo.distributed.run",
        "read_rows": "kpzoo.data.parts",
        "served": "kpzoo.distributed.serving",
        "Limits": "kpzoo.distributed.serving",
    },
)
