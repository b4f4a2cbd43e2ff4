"""Generated data sets: drawn figures, and crowds composed of annotated photos."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "draw_scene": "kpzoo.scenes.drawn",
        "write_drawn": "kpzoo.scenes.drawn",
        "compose_scene": "kpzoo.scenes.composed",
        "write_composed": "kpzoo.scenes.composed",
        "Crowd": "kpzoo.scenes.crowd",
        "Cutouts": "kpzoo.scenes.cutouts",
        "StoredCutouts": "kpzoo.scenes.cutout_folder",
    },
)
