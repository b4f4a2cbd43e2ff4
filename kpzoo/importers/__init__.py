"""Published checkpoints into models of the zoo, and the zoo's own weights files."""

from kpzoo.importers.load import Report, load_weights
from kpzoo.importers.save import build_arguments, read_description, save_weights
from kpzoo.importers.sources import SOURCES, detect

__all__ = ["SOURCES", "Report", "build_arguments", "detect", "load_weights", "read_description", "save_weights"]
