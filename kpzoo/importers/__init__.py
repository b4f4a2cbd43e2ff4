"""Published checkpoints into models of the zoo, and the zoo's own weights files."""

from kpzoo.importers.load import Report, load_weights
from kpzoo.importers.save import save_weights
from kpzoo.importers.sources import SOURCES, detect

__all__ = ["SOURCES", "Report", "detect", "load_weights", "save_weights"]
