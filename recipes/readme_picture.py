"""Draws the first picture of the README: what the default person detector and model find in drawn scenes.

python recipes/readme_picture.py    # seconds; writes docs/images/predict.jpg
"""

from pathlib import Path

import kpzoo
from kpzoo import drawing, images
from kpzoo.scenes import drawn

PICTURE = Path("docs/images/predict.jpg")
SEEDS = (0, 5, 1, 6)
SCENE_HW = (360, 480)


def main() -> None:
    predictor = kpzoo.Predictor(kpzoo.build("cpn_lite0", weights=kpzoo.info("cpn_lite0").weights[-1]))
    scenes = [drawn.draw_scene(seed, image_hw=SCENE_HW)[0] for seed in SEEDS]
    drawings = [predictor(scene).draw(scene) for scene in scenes]
    images.write_image(PICTURE, drawing.contact_sheet(drawings, len(SEEDS) // 2, cell_hw=SCENE_HW))
    print(PICTURE)


if __name__ == "__main__":
    main()
