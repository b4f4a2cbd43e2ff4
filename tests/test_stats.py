"""Statistics of a data set with known answers, and the page about them."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest

from kpzoo import cli, images
from kpzoo.data import duplicates, load
from kpzoo.data.statistics import statistics
from kpzoo.errors import UserError
from kpzoo.skeletons import CROWDPOSE14

NUM_IMAGES, SIDE = 12, 400
BODY = {  # a standing person, seen from the front: x to the person's left, y down
    **{f"left_{part}": (x, y) for part, x, y in (("shoulder", 10, 30), ("elbow", 16, 45), ("wrist", 18, 58))},
    **{f"left_{part}": (x, y) for part, x, y in (("hip", 7, 60), ("knee", 8, 80), ("ankle", 8, 100))},
    **{"head": (0, 0), "neck": (0, 20)},
}
BODY |= {name.replace("left", "right"): (-x, y) for name, (x, y) in BODY.items() if "left" in name}
POSE = np.array([BODY[name] for name in CROWDPOSE14.keypoints], float)


def place(name: str) -> int:
    return CROWDPOSE14.keypoints.index(name)


def scene(seed: int) -> np.ndarray:
    """A smooth picture, unlike those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path):
    """Two persons in each image, apart from each other; the first of images 0, 1, 2 and 3 have wrong labels."""
    random, annotations = np.random.default_rng(0), []
    (tmp_path / "images").mkdir()
    for image in range(NUM_IMAGES):
        images.write_image(tmp_path / f"images/{image}.png", scene(image))
        for side in range(2):
            size = random.uniform(1.2, 3.0)
            points = POSE * size + random.normal(0, 0.3, POSE.shape) + (100 + 200 * side, 20)
            box = [*(points.min(axis=0) - 4), *(np.ptp(points, axis=0) + 8)]
            flags = np.full(14, 2)
            if side == 0 and image == 0:  # left and right of the shoulders are swapped
                a, b = place("left_shoulder"), place("right_shoulder")
                points[[a, b]] = points[[b, a]]
            if side == 0 and image == 1:
                points[place("left_wrist")] += (0, 70 * size)
                box[3] += 70 * size
            if side == 0 and image == 2:
                points[place("head")] -= (2 * box[3], 0)
                flags[place("left_knee")], flags[place("right_knee")] = 1, 0
            annotations.append(row(len(annotations) + 1, image + 1, points, flags, box))
        if image == 3:
            again = dict(annotations[-1], id=99)
            annotations.append(again)
    crowd = dict(annotations[0], id=100, iscrowd=1)
    shape = {"height": SIDE, "width": SIDE}
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE14.keypoints)}
    content = {
        "images": [{"id": k + 1, "file_name": f"{k}.png", **shape} for k in range(NUM_IMAGES)],
        "categories": [category],
        "annotations": [*annotations, crowd],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.json").write_text(json.dumps(content))
    return tmp_path


def row(number, image_id, points, flags, box) -> dict:
    keypoints = np.c_[points * (flags > 0)[:, None], flags].ravel().tolist()
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "keypoints": keypoints,
        "bbox": list(map(float, box)),
        "iscrowd": 0,
    }


def test_counts_are_those_of_the_annotations(folder):
    found = statistics(load(folder).annotations)
    assert found.per_image.tolist() == [2, 2, 2, 3] + [2] * (NUM_IMAGES - 4)
    assert len(found.person) == 25  # without the crowd
    assert sorted(found.num_labelled.tolist()) == [13] + [14] * 24
    assert sorted(found.num_visible.tolist()) == [12] + [14] * 24
    assert found.labels[place("left_knee")].tolist() == [0, 1, 24]
    assert found.labels[place("right_knee")].tolist() == [1, 0, 24]
    assert found.labels.sum() == 25 * 14
    boxes = load(folder).annotations.persons.boxes_image_xywh[found.person]
    np.testing.assert_allclose(found.sizes, np.sqrt(boxes[:, 2] * boxes[:, 3]))
    assert (found.crowding == 1.0).sum() == 2  # the person that is labelled twice, both times
    assert ((found.crowding > 0) & (found.crowding < 1)).sum() == 0


def test_crowding_is_the_largest_overlap_with_another_person(folder):
    path = folder / "annotations/train.json"
    content = json.loads(path.read_text())
    x, y, width, height = content["annotations"][0]["bbox"]
    content["annotations"][1]["bbox"] = [x + width / 2, y, width, height]
    path.write_text(json.dumps(content))
    assert statistics(load(folder).annotations).crowding[:2] == pytest.approx(1 / 3)


def test_wrong_labels_are_found_and_right_ones_are_not(folder):
    found = statistics(load(folder).annotations)
    ids = load(folder).annotations.persons.ids
    assert {ids[one.person] for one in found.contradictions} == {1}
    assert "left_shoulder – right_shoulder against left_hip – right_hip" in found.contradictions[0].text
    assert {ids[one.person] for one in found.outliers} == {1, 3, 5}  # swapped shoulders are far from their elbows
    texts = {ids[one.person]: one.text for one in (*found.outliers, *found.others)}
    assert re.search(r"left_elbow – left_wrist is [5-7]\.\d times as long as usual", texts[3])
    outside = next(one.text for one in found.others if ids[one.person] == 5)
    assert "1 labelled keypoints lie far outside of the box" in outside
    assert texts[99] == "has the keypoints of annotation 8: the person may be labelled twice"
    worst = found.worst(50)
    assert {ids[one.person] for one in worst} == {1, 3, 5, 99}
    assert [one.score for one in worst] == sorted((one.score for one in worst), reverse=True)
    assert len(found.worst(2)) == 2


def test_limbs_are_compared_without_links_too(folder):
    path = folder / "annotations/train.json"
    content = json.loads(path.read_text())
    names = [f"left_{k}" for k in range(14)]  # unknown names have no links
    content["categories"][0] |= {"keypoints": names, "flip_pairs": []}
    path.write_text(json.dumps(content))
    data = load(folder)
    assert {3, 5} <= {data.annotations.persons.ids[one.person] for one in statistics(data.annotations).outliers}


def test_equal_files_and_images_that_look_the_same_are_found(folder):
    paths = [str(folder / f"images/{k}.png") for k in range(NUM_IMAGES)]
    assert duplicates.find(paths) == ([], [], [])
    shutil.copy(paths[0], paths[5])
    smaller = cv2.resize(images.read_image(paths[1]), (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    images.write_image(folder / "images/7.jpg", smaller)
    (folder / "images/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    paths += [str(folder / "images/7.jpg"), str(folder / "images/broken.png")]
    assert duplicates.find(paths) == ([[0, 5]], [[1, NUM_IMAGES]], [NUM_IMAGES + 1])


def test_the_page_shows_it_all_in_one_file_of_bounded_size(folder, tmp_path, capsys):
    shutil.copy(folder / "images/0.png", folder / "images/5.png")
    out = tmp_path / "stats.html"
    assert cli.main(["data", "stats", str(folder), "--split", "train", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = out.read_text()
    assert not re.search(r'(src|href)="(?!data:)', text) and "<script" not in text
    assert text.count("data:image/jpeg") == 4 and out.stat().st_size < 500_000
    for name, value in (("persons with labelled keypoints", 25), ("crowds", 1), ("images", NUM_IMAGES)):
        assert f'<th>{name}</th><td class="number">{value}</td>' in text
    assert "<li>0.png, 5.png</li>" in text and "annotation 99, image 4: has the keypoints of annotation 8" in text
    assert cli.main(["data", "stats", str(folder), "--out", str(out), "--no-pictures"]) == 0
    assert "data:image" not in out.read_text() and "Duplicates" not in out.read_text()


def test_a_page_of_no_labels_and_one_that_cannot_be_written(folder, tmp_path):
    from kpzoo.data.stats_page import write_stats

    path = folder / "annotations/train.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": []}))
    assert "No labels stand out." in write_stats(tmp_path / "empty.html", load(folder)).read_text()
    with pytest.raises(UserError, match="there is no folder"):
        write_stats(tmp_path / "nowhere/page.html", load(folder))
