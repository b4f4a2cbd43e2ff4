"""AP of person boxes: equal to pycocotools on the files themselves, and what is not a box is refused in one line."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import kpzoo
from kpzoo.cli import main
from kpzoo.errors import UserError


def scene(seed, num_images=12):
    """Annotations of persons and crowds, and detections near them, with ties, duplicates and false ones."""
    rng = np.random.default_rng(seed)
    images, people, found = [], [], []
    for number in range(num_images):
        image_id = 7 * number + 3
        images.append(dict(id=image_id, file_name=f"photo {number}.jpg", width=640, height=480))
        for _ in range(rng.integers(0, 7)):
            box = np.r_[rng.uniform(0, 300, 2), rng.uniform(4, 250, 2)]
            area = float(box[2] * box[3] * rng.uniform(0.3, 0.8))
            row = dict(id=len(people) + 1, image_id=image_id, category_id=1, bbox=box.tolist(), area=area)
            people.append(row | dict(iscrowd=int(rng.random() < 0.15)))
            for _ in range(rng.integers(0, 4)):
                near = box + rng.normal(0, 0.08, 4) * np.tile(box[2:], 2)
                near[2:] = np.maximum(near[2:], 0)
                score = round(float(rng.random()), int(rng.choice([1, 5])))
                found.append(dict(image_id=image_id, category_id=1, bbox=near.tolist(), score=score))
    rng.shuffle(found)
    return dict(images=images, annotations=people, categories=[dict(id=1, name="person")]), found


def write(folder, truth, found):
    paths = folder / "truth.json", folder / "boxes.json"
    for path, content in zip(paths, (truth, found), strict=True):
        path.write_text(json.dumps(content))
    return paths


def of_the_tool(truth, found):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(found)), "bbox")
        evaluation.params.catIds = [1]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(4))
def test_ap_and_ar_are_those_of_pycocotools(tmp_path, seed):
    truth, found = write(tmp_path, *scene(seed))
    values, stats = kpzoo.score_boxes(truth, found).values, of_the_tool(truth, found)
    names = ["AP", "AP50", "AP75", "APS", "APM", "APL"]
    assert [values[name] for name in names] == pytest.approx(stats[:6], abs=1e-9)
    assert values["AR"] == pytest.approx(stats[8], abs=1e-9) and 0.05 < values["AP"] < 0.95


def test_boxes_are_matched_by_file_name_where_they_have_one(tmp_path):
    content, found = scene(5)
    truth, plain = write(tmp_path, content, found)
    names = {row["id"]: row["file_name"] for row in content["images"]}
    renamed = [{**row, "image_id": 1, "file_name": names[row["image_id"]]} for row in found]
    (tmp_path / "named.json").write_text(json.dumps(renamed))
    assert kpzoo.score_boxes(truth, tmp_path / "named.json").values == kpzoo.score_boxes(truth, plain).values


def test_a_first_annotation_with_the_id_zero_counts(tmp_path):
    content, found = scene(6)
    for row in content["annotations"]:
        row["id"] -= 1
    expected = kpzoo.score_boxes(*write(tmp_path, scene(6)[0], found)).values
    assert kpzoo.score_boxes(*write(tmp_path, content, found)).values == expected


def test_f1_is_that_of_a_plain_loop_over_thresholds(tmp_path):
    # Two persons; right at 0.9 and 0.4, wrong at 0.6: F1 is 2/3 at 0.9, 1/2 at 0.6, 4/5 at 0.4.
    people = [dict(id=n, image_id=1, category_id=1, bbox=[100 * n, 0, 50, 90], area=2000, iscrowd=0) for n in (1, 2)]
    content = dict(images=[dict(id=1, file_name="a.jpg")], annotations=people)
    rows = [([100, 0, 50, 90], 0.9), ([400, 0, 50, 90], 0.6), ([200, 0, 50, 90], 0.4), ([500, 0, 50, 90], 0.1)]
    found = [dict(image_id=1, category_id=1, bbox=box, score=score) for box, score in rows]
    result = kpzoo.score_boxes(*write(tmp_path, content, found))
    assert result.values["F1"] == pytest.approx(0.8) and result.details["F1_min_score"] == 0.4


@pytest.mark.parametrize("people, expected", [(True, 0.0), (False, -1.0)])
def test_no_box_at_all(tmp_path, people, expected):
    content, _ = scene(1)
    content["annotations"] = content["annotations"] if people else []
    values = kpzoo.score_boxes(*write(tmp_path, content, [])).values
    assert values["AP"] == values["AR"] == values["F1"] == expected


@pytest.mark.parametrize(
    "found, told",
    [
        ({"a": 1}, "list of boxes"),
        ([3], r"entry \[0\] must be an object"),
        ([dict(image_id=999, bbox=[0, 0, 1, 1], score=1)], "no person box in the images"),
        ([dict(image_id=3, bbox=[0, 0, 1], score=1)], r"entry \[0\] must have bbox"),
        ([dict(image_id=3, bbox=[0, 0, -1, 1], score=1)], "not negative"),
        ([dict(image_id=3, bbox=[0, 0, 1, 1], score="high")], "finite number as score"),
    ],
)
def test_what_is_not_a_box_is_refused_in_one_line(tmp_path, found, told):
    truth, boxes = write(tmp_path, scene(2)[0], found)
    with pytest.raises(UserError, match=told) as error:
        kpzoo.score_boxes(truth, boxes)
    assert "\n" not in str(error.value)


def test_the_command_prints_the_same_numbers(tmp_path, capsys):
    truth, found = write(tmp_path, *scene(3))
    assert main(["evaluate", "--detections", str(found), "--annotations", str(truth), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["metrics"] == kpzoo.score_boxes(truth, found).values and printed["protocol"] == "boxes"
    assert main(["evaluate", "--detections", str(found), "--annotations", str(truth)]) == 0
    assert "mean over IoU 0.50" in capsys.readouterr().out
    assert main(["evaluate", "--detections", str(found), "--annotations", str(truth), "--weights", "x"]) == 2
    assert "--weights need --model" in capsys.readouterr().err
