"""Models of the zoo. Importing this package registers all families."""

from kpzoo.models import cpn, hourglass, hrnet, person_fpn, simplebaseline  # noqa: F401
from kpzoo.models.ensemble import ensemble
from kpzoo.models.registry import ModelInfo, build, info, list_models

__all__ = ["ModelInfo", "build", "ensemble", "info", "list_models"]
