"""Training with `fit`: optimizers, schedules, devices, and runs that can be resumed exactly."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "run": "kpzoo.training.trainer",
        "callbacks": "kpzoo.training.trainer",
        "AdamL2": "kpzoo.training.optimizers",
        "Ramp": "kpzoo.training.optimizers",
        "halving": "kpzoo.training.optimizers",
        "tenths": "kpzoo.training.optimizers",
        "Defaults": "kpzoo.training.defaults",
        "defaults_of": "kpzoo.training.defaults",
        "RECORD": "kpzoo.training.summary",
        "WEIGHTS": "kpzoo.training.keras_callbacks",
        "load_run": "kpzoo.training.run_folder",
        "resume": "kpzoo.training.run_folder",
        "is_chief": "kpzoo.training.devices",
        "make_strategy": "kpzoo.training.devices",
        "synchronize_batch_norm": "kpzoo.training.devices",
    },
)
