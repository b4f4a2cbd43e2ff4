"""Prediction of any number of pictures: Ray Data, Parquet parts, object stores."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "predict": "kpzoo.distributed.run",
        "Summary": "kpzoo.distributed.run",
        "read_rows": "kpzoo.data.parts",
    },
)
