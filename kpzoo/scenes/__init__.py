"""Generated data sets: drawn figures and videos of them, and crowds composed of annotated photos."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "draw_scene": "kpzoo.scenes.drawn",
        "write_drawn": "kpzoo.scenes.drawn",
        "draw_video": "kpzoo.scenes.drawn_video",
        "write_drawn_video": "kpzoo.scenes.drawn_video",
        "compose_scene": "kpzoo.scenes.composed",
        "write_composed": "kpzoo.scenes.composed",
        "Crowd": "kpzoo.scenes.crowd",
        "Cutouts": "kpzoo.scenes.cutouts",
        "StoredCutouts": "kpzoo.scenes.cutout_folder",
    },
)
