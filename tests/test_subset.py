"""Subsets of images in which people overlap."""

import json

import pytest
from conftest import SHARED

import kpzoo
from kpzoo import cli
from kpzoo.data.coco import training_persons
from kpzoo.data.subset import crowded_images
from kpzoo.scenes import write_drawn


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    write_drawn(folder, 12, seed=3, crowding=0.5, split="val")
    return folder


def overlaps(rows):
    """Returns the largest IoU of two boxes, computed pair by pair."""
    largest = 0.0
    for place, (x, y, w, h) in enumerate(rows):
        for left, top, width, height in rows[:place]:
            across = max(0, min(x + w, left + width) - max(x, left))
            shared = across * max(0, min(y + h, top + height) - max(y, top))
            largest = max(largest, shared / (w * h + width * height - shared))
    return largest


@pytest.mark.parametrize("min_iou", [0.1, 0.3])
def test_the_images_with_overlapping_people_are_kept_whole(drawn, tmp_path, capsys, min_iou):
    arguments = ["data", "subset", str(drawn), str(tmp_path / "out"), "--split", "val", "--min-iou", str(min_iou)]
    assert not cli.main(arguments)
    written = json.loads(open(capsys.readouterr().out.strip()).read())
    source = json.loads((drawn / "annotations/person_keypoints_val.json").read_text())
    boxes = {image["id"]: [] for image in source["images"]}
    for row in source["annotations"]:
        boxes[row["image_id"]].append(row["bbox"])
    expected = [image for image in source["images"] if overlaps(boxes[image["id"]]) >= min_iou]
    assert 0 < len(expected) < len(source["images"])
    assert written["images"] == expected
    ids = {image["id"] for image in expected}
    assert written["annotations"] == [row for row in source["annotations"] if row["image_id"] in ids]
    loaded = kpzoo.data.load(tmp_path / "out", "val")
    assert loaded.image_folder.resolve() == (drawn / "images/val").resolve()


def test_crowds_and_unlabelled_people_do_not_count(drawn, tmp_path):
    content = json.loads((drawn / "annotations/person_keypoints_val.json").read_text())
    for row in content["annotations"][1:]:  # the first person remains, and is alone
        row.update({"iscrowd": 1} if row["id"] % 2 else {"keypoints": [0] * 51, "num_keypoints": 0})
    (tmp_path / "val.json").write_text(json.dumps(content))
    data = kpzoo.data.load(annotations=tmp_path / "val.json", images=drawn / "images/val")
    assert len(crowded_images(training_persons(data.annotations), 0.0)) == 0


def test_a_subset_of_nothing_and_a_used_folder_are_refused(drawn, tmp_path, capsys):
    arguments = ["data", "subset", str(drawn), str(tmp_path / "out"), "--split", "val", "--min-iou"]
    assert cli.main([*arguments, "0.999"]) == 2
    assert "no image with two labelled people" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not cli.main([*arguments, "0.1"])
    before = (tmp_path / "out/annotations/person_keypoints_val.json").read_bytes()
    assert cli.main([*arguments, "0.2"]) == 2
    assert "exist already" in capsys.readouterr().err
    assert (tmp_path / "out/annotations/person_keypoints_val.json").read_bytes() == before


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data beside the project")
def test_crowds_of_real_photos_are_found():
    data = kpzoo.data.load(SHARED / "data/coco_people", "val")
    assert len(crowded_images(training_persons(data.annotations), 0.3)) == 22
