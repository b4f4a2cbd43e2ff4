"""Imports the public names of a package on first use (PEP 562)."""

import importlib
import warnings
from collections.abc import Callable, Mapping

from kpzoo import keras_setup


def attach(
    package: str, homes: Mapping[str, str], renamed: Mapping[str, str] | None = None
) -> tuple[Callable, Callable, list[str]]:
    """Returns `__getattr__`, `__dir__` and `__all__` of a package that imports its names on first use.

    Args:
        package: Name of the package.
        homes: For each public name, the module that defines it. If the last part of the module's name equals the public
            name, the name refers to the module itself.
        renamed: Old names and the names that replace them. An old name still works, with a `DeprecationWarning`.
    """
    renamed = renamed or {}

    def __getattr__(name: str):
        if name in renamed:
            new = renamed[name]
            warnings.warn(f"`{package}.{name}` is now `{package}.{new}`.", DeprecationWarning, stacklevel=2)
            return __getattr__(new)
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}. It has {', '.join(homes)}.")
        try:
            module = importlib.import_module(homes[name])
        except (ImportError, ValueError):  # what Keras raises for a backend that is not installed or unknown
            keras_setup.check_backend()
            raise
        return module if homes[name].endswith(f".{name}") else getattr(module, name)

    return __getattr__, lambda: sorted(homes), list(homes)
