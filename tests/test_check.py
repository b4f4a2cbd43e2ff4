"""`kpzoo data check` finds what would stop or spoil a training, and its repaired copy has none of it."""

import json
import os

import cv2
import numpy as np
import pytest
from conftest import write_small_folder

from kpzoo import cli
from kpzoo.data import check as checking
from kpzoo.data import loading, repair
from kpzoo.errors import UserError

NAME = "annotations/person_keypoints_train.json"


@pytest.fixture
def spoilt(tmp_path):
    """A folder with each kind of fault: in annotations, in images, in pictures."""
    root = tmp_path / "data"
    write_small_folder(root)
    content = json.loads((root / NAME).read_text())
    rows = content["annotations"]
    rows[0]["area"] = 0
    rows[1]["id"] = rows[0]["id"]
    rows[2]["id"] = 0
    rows[3]["bbox"] = [5, 5, -1, 9]
    del rows[4]["iscrowd"], rows[5]["num_keypoints"]
    rows[6]["keypoints"] = rows[6]["keypoints"][:-3]
    rows[7]["image_id"] = 99
    first = dict(rows[11], id=20, image_id="1")
    rows += [first, dict(first, id=21, iscrowd=True), dict(first, id=22, category_id=7)]
    content["images"][3]["height"] = 60
    content["images"] += [dict(id=8, file_name="../8.jpg"), dict(id=1, file_name="9.jpg")]
    (root / NAME).write_text(json.dumps(content))
    (root / "images/train/5.jpg").write_text("<html>gone</html>")
    (root / "images/train/3.jpg").write_bytes((root / "images/train/3.jpg").read_bytes()[:300])
    return root


def test_a_good_folder_is_clean_with_its_pictures(small_folder):
    (found,) = checking.check(small_folder)
    assert found.clean and set(found.decoded.values()) == {(120, 160)}
    assert "6 images, 6 of them decoded, 13 persons of coco17: clean" in str(found)


def test_every_fault_is_counted_with_the_first_ten(spoilt):
    (found,) = checking.check(spoilt, "train")
    assert not found.clean
    told = {problem.what: problem for problem in found.problems}
    for what, count in {
        "Annotation ids that occur twice": 1,
        "An annotation has the id 0": 1,
        "`image_id` of no image": 1,
        "Image ids that occur twice": 2,
        "`bbox` that is not x, y and a width and height above 0": 1,
        "`annotations` of other categories than 1": 1,
        "Images that cannot be read": 3,
        "Images of another size than annotated": 1,
    }.items():
        assert told[what].count == count, what
    assert "'3.jpg'" in str(told["Images that cannot be read"]) and "60x160 in the file" in str(found)
    assert any("`keypoints` of [48] numbers" in what for what in told)


def test_the_repaired_copy_is_clean_and_holds_the_rest_unchanged(spoilt, tmp_path):
    (found,) = checking.check(spoilt)
    path, done = repair.write_repaired(found, tmp_path / "mended")
    (again,) = checking.check(tmp_path / "mended")
    assert again.clean, str(again)
    assert done["images removed"] == 4 and done["annotations renumbered"] == 2
    data = loading.load(tmp_path / "mended", "train", strict=True)
    assert data.image_paths([1]) == [str(tmp_path / "mended/images/person_keypoints_train/1.jpg")]
    before = json.loads((spoilt / NAME).read_text())["annotations"]
    after = {row["id"]: row for row in json.loads(path.read_text())["annotations"]}
    assert after[12] == before[11] and after[20] == before[13] | {"image_id": 1} and after[21]["iscrowd"] == 1
    assert after[22]["category_id"] == 7
    assert after[1]["area"] == 0.53 * np.prod(before[0]["bbox"][2:])
    assert not {4, 6, 7, 8, 9, 10, 11} & set(after)
    sizes = {row["id"]: row["height"] for row in json.loads(path.read_text())["images"]}
    assert sizes[4] == 120


def test_the_command_tells_it_as_lines_and_json_and_by_its_code(spoilt, small_folder, tmp_path, capsys):
    assert cli.main(["data", "check", str(small_folder), "--no-images"]) == 0
    assert "clean" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", "check", str(spoilt), "--split", "train", "--json", "--fix", str(tmp_path / "mended")])
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    (report,) = json.loads(out)
    assert not report["clean"] and report["num_pictures_read"] == len(os.listdir(spoilt / "images/train")) + 1
    assert "4 images removed" in err and (tmp_path / "mended" / NAME).exists()
    assert cli.main(["data", "check", str(tmp_path / "mended")]) == 0
    assert cli.main(["data", "check", str(spoilt), "--split", "test"]) == 2
    assert "with 'test' in the name" in capsys.readouterr().err


def test_a_copy_is_never_written_over_another_or_left_half(spoilt, tmp_path, monkeypatch):
    (found,) = checking.check(spoilt)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        repair.write_repaired(found, tmp_path / "mended")
    assert not [path for path in (tmp_path / "mended").rglob("*") if not path.is_dir() or path.is_symlink()]
    monkeypatch.undo()
    repair.write_repaired(found, tmp_path / "mended")
    with pytest.raises(UserError, match="exist already"):
        repair.write_repaired(found, tmp_path / "mended")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write "):
        repair.write_repaired(found, tmp_path / "file/x")


def test_a_turned_picture_is_named_by_its_stored_size(small_folder, tmp_path):
    write_small_folder(tmp_path)
    path = tmp_path / "images/train/1.jpg"
    cv2.imwrite(str(path), np.rot90(cv2.imread(str(path))))
    (found,) = checking.check(tmp_path)
    (problem,) = [problem for problem in found.problems if problem.severity == "error"]
    assert "'1.jpg': 120x160 in the file, 160x120 in the image" in str(problem) and "EXIF" in str(problem)
