"""The gallery of a results folder, and OpenPose files of images."""

import json
import re

import numpy as np
import pytest

import kpzoo
from kpzoo.errors import UserError
from kpzoo.images import write_image
from kpzoo.inference import write_gallery


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Results of four images, one without people and one with a hostile name."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(("a.png", "a.bmp", "sub/b.gif.jpg", "<script>alert(1)<,script>.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
        (folder / name).parent.mkdir(exist_ok=True)
        write_image(folder / name, pixels)

    class Some:
        def detect(self, images, image_ids):
            empty = str(image_ids[0]).endswith("a.png")
            boxes = np.zeros((0, 4)) if empty else np.array([[1.0, 2, 30, 30], [20, 2, 30, 30]])
            return [boxes], [np.ones(len(boxes))]

    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    options = dict(detector=Some(), flip=False, nms=None, gallery=True, openpose=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    kpzoo.predict_to_folder(model, files, folder.parent / "out", **options)
    return folder.parent / "out"


def test_a_gallery_shows_every_drawing_with_its_scores_and_nothing_from_elsewhere(out):
    page = (out / "gallery.html").read_text("utf-8")
    best = sorted(float(one) for one in re.findall(r'data-best="([^"]+)"', page))
    rows = json.loads((out / "results.json").read_text())
    names = {row["file_name"] for row in rows}
    highest = [max(row["score"] for row in rows if row["file_name"] == name) for name in names]
    assert best == pytest.approx([-1.0, *sorted(highest)], abs=1e-4)
    assert "no pose" in page and page.count("<figure") == 4
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "http" not in re.sub(r"data:image/jpeg;base64,[^\"]+", "", page)
    for link in re.findall(r'<a href="([^"]+)"', page):
        from urllib.parse import unquote

        assert (out / unquote(link)).is_file()


def test_a_gallery_needs_results_with_drawings(out, tmp_path):
    with pytest.raises(UserError, match="There are no results of `kpzoo predict`"):
        write_gallery(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match="There are no drawings"):
        write_gallery(tmp_path)


def test_openpose_files_are_beside_each_other_like_the_images(out):
    files = {path.relative_to(out / "openpose").as_posix() for path in (out / "openpose").rglob("*.json")}
    assert {"a_keypoints.json", "a.png_keypoints.json", "sub/b.gif_keypoints.json"} <= files and len(files) == 4
    assert json.loads((out / "openpose/a.png_keypoints.json").read_text())["people"] == []
    assert len(json.loads((out / "openpose/sub/b.gif_keypoints.json").read_text())["people"]) == 2
