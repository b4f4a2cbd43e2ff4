"""What kpzoo asks of Keras: the TensorFlow backend, and that Keras finds kpzoo's classes in saved models.

`import kpzoo` imports neither Keras nor the modules that define layers, losses and the model class. So that
`keras.models.load_model` works in a new process, each class is registered with Keras as a `Deferred` object, which
imports the class when Keras uses it. This happens as soon as both packages are imported, in any order.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path

from kpzoo.errors import UserError

PACKAGE = "kpzoo"  # the name in front of `>` in the registered names
CLASSES = {
    "kpzoo.pose_model": ("PoseModel", "PersonModel"),
    "kpzoo.models.blocks": (
        "PixelNormalization", "FusedBatchNorm", "ResizeBilinear", "UpsampleNearest", "StackMaps",
    ),
    "kpzoo.models.ensemble": ("MeanOfHeatmaps",),
    "kpzoo.models.mimb": ("MIMB", "RepeatPerQuery", "FlattenQueries", "SplitQueries"),
    "kpzoo.boxes": ("CellBoxes", "PersonBoxLoss"),
    "kpzoo.losses": ("CPNLoss", "HeatmapLoss", "MultiInstanceLoss"),
    "kpzoo.training.optimizers": ("AdamL2", "Ramp"),
}  # fmt: skip

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")

_builder: int | None = None  # the process that first built a model


class Deferred:
    """A class that is imported on first use; it has the attributes of the class and creates its instances.

    Args:
        module: Name of the module that defines the class.
        name: Name of the class.
    """

    def __init__(self, module: str, name: str):
        self._home = module, name

    def __getattr__(self, attribute: str):
        return getattr(self._class(), attribute)

    def __call__(self, *args, **kwargs):
        return self._class()(*args, **kwargs)

    def _class(self) -> type:
        module, name = self._home
        return getattr(importlib.import_module(module), name)


def register_classes() -> None:
    """Registers kpzoo's classes with Keras; those whose modules are imported are registered already."""
    known = sys.modules["keras"].saving.get_custom_objects()
    for module, names in CLASSES.items():
        for name in names:
            known.setdefault(f"{PACKAGE}>{name}", Deferred(module, name))


class _AfterImport(MetaPathFinder):
    """Calls a function at the end of the first import of a module (PEP 302)."""

    def __init__(self, module: str, function: Callable[[], None]):
        self.module, self.function = module, function

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                self.function()

            spec.loader.exec_module = exec_module
        return spec


def register_with_keras() -> None:
    """Registers kpzoo's classes now if Keras is imported, else when it is."""
    if hasattr(sys.modules.get("keras"), "saving"):
        register_classes()
    else:
        sys.meta_path.insert(0, _AfterImport("keras", register_classes))


def check_process() -> None:
    """Refuses to use TensorFlow in a forked process, whose copy of TensorFlow has no threads and would wait forever.

    Raises:
        UserError: If an ancestor of this process built a model before it was forked.
    """
    global _builder
    _builder = _builder or os.getpid()
    if _builder != os.getpid():
        raise UserError(
            f"Process {os.getpid()} was forked from process {_builder} after that had built a model. TensorFlow does "
            "not work in such a process. Build the model in the worker: not with `gunicorn --preload` but in its hook "
            "`post_fork`.",
            "Or start processes with `multiprocessing.get_context('spawn')`.",
        )


def check_policy(policy: str) -> None:
    """Refuses dtype policies that the layers do not compute in.

    Raises:
        UserError: The policy and those that can be used.
    """
    if policy not in POLICIES:
        raise UserError(
            f"The global dtype policy must be one of {', '.join(POLICIES)}. Received: {policy!r}. The "
            "weights stay float32 under all of them.",
            "Set it with `keras.mixed_precision.set_global_policy`.",
        )


def check_backend() -> None:
    """Refuses other backends of Keras than TensorFlow.

    Raises:
        UserError: The backend, and where it is set.
    """
    backend, source = _backend()
    if backend != "tensorflow":
        raise UserError(
            f"kpzoo needs Keras' TensorFlow backend. Received: {backend!r} from {source}. "
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )


def _backend() -> tuple[str, str]:
    """Returns the name of Keras' backend and where it is set, by Keras' own rules."""
    if hasattr(sys.modules.get("keras"), "config"):
        return sys.modules["keras"].config.backend(), "the Keras that is imported"
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "KERAS_BACKEND"
    writable = os.access(os.path.expanduser("~"), os.W_OK)
    home = os.environ.get("KERAS_HOME") or os.path.join("~" if writable else "/tmp", ".keras")
    path = Path(os.path.expanduser(home), "keras.json")
    try:
        return json.loads(path.read_text("utf-8")).get("backend", "tensorflow"), str(path)
    except (OSError, ValueError, AttributeError):  # as Keras does
        return "tensorflow", "the default"
