"""Results and boxes belong to the images that their names and numbers mean; what may mean two is refused."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reliability_rows import row
from test_coco import annotation, box, content, result, write

import kpzoo
from kpzoo import cli
from kpzoo.data.coco import read_annotations
from kpzoo.data.image_names import ImageNames, parts_of
from kpzoo.data.results import read_boxes, read_results
from kpzoo.errors import UserError
from kpzoo.inference.boxes import BoxFile

stems = st.integers(0, 30).map(str) | st.sampled_from(["a", "b", "img.v2", "grün"])
folders = st.lists(st.sampled_from(["cam1", "cam2", "x"]), max_size=3)


@given(folders=folders, stem=stems, zeros=st.integers(0, 5), suffix=st.sampled_from(["", ".jpg", ".PNG", ".jfif"]))
def test_a_name_in_any_spelling_has_the_same_parts(folders, stem, zeros, suffix):
    spelt = "0" * zeros * stem.isdigit() + stem + suffix
    assert parts_of("/".join([*folders, spelt])) == (*folders, stem)
    assert parts_of("\\".join([".", *folders, spelt])) == (*folders, stem)
    if stem.isdigit():
        assert parts_of(int(stem)) == (stem,)


@given(names=st.lists(st.tuples(folders, stems), min_size=1, max_size=8, unique_by=str), data=st.data())
def test_a_name_means_the_images_whose_folders_agree_and_never_one_of_another_folder(names, data):
    paths = ["/".join([*folder, stem]) for folder, stem in names]
    index = ImageNames([f"{path}.jpg" for path in paths])
    for place, (folder, stem) in enumerate(names):
        assert place in index.all(paths[place])
        assert (
            index.all("/".join(["top", *folder, stem])) == [place]
            or len(index.all("/".join(["top", *folder, stem]))) != 1
        )
        bare = {k for k, (_, other) in enumerate(names) if other == stem}
        assert set(index.all(stem)) <= bare
        assert index.find(f"nowhere{place}/{stem}") == ImageNames.NONE or any(not names[k][0] for k in bare)


CAMS = ["cams/cam1/0001.jpg", "cams/cam2/0001.jpg"]


def boxes_of(tmp_path, *names, key="image_id", **fields):
    rows = [
        {"bbox": [k, 2, 30, 40], "score": 0.5, "category_id": 1, key: name} | fields for k, name in enumerate(names)
    ]
    return BoxFile(write(tmp_path, rows, "boxes.json"))


def left_of(detector, name):
    """The x of the boxes that a file has for an image."""
    return detector.find(None, name)[0][:, 0].tolist()


@row(
    87,
    "Images of the same name in several folders, with boxes from a file",
    "Matched by folder and name; error if a box can belong to several",
)
@pytest.mark.parametrize("key", ["image_id", "file_name"])
@pytest.mark.parametrize("names", [("cam1/0001", "cam2/0001"), ("cam1\\0001.jpg", "cam2\\0001.jpg"), tuple(CAMS)])
def test_two_images_of_one_name_keep_their_boxes_by_their_folders(tmp_path, names, key):
    detector = boxes_of(tmp_path, *names, key=key)
    paths = [str(tmp_path / name) for name in CAMS]
    detector.check(paths)
    assert [left_of(detector, path) for path in paths] == [[0.0], [1.0]]
    assert left_of(detector, str(tmp_path / "cams/cam3/0001.jpg")) == []
    with pytest.raises(UserError, match=r"boxes of \['.*', '.*'\], of which each may be the image '0001'"):
        detector.find(None, "0001")


def test_boxes_of_a_name_that_two_images_have_are_refused(tmp_path):
    paths = [str(tmp_path / name) for name in CAMS]
    for name in ("0001", 1, "1.jpg"):
        with pytest.raises(UserError, match="which may be '.*cam1/0001.jpg' or '.*cam2/0001.jpg'.*such as 'cam2/0001'"):
            boxes_of(tmp_path, name).check(paths)
    boxes_of(tmp_path, "0001").check(paths[:1])


def test_boxes_of_another_folder_are_not_taken(tmp_path):
    detector = boxes_of(tmp_path, "cam2/0001")
    with pytest.raises(UserError, match="none of the 1 images.*is in another folder than 'cam2/1'"):
        detector.check([str(tmp_path / CAMS[0])])


def test_boxes_of_which_a_filter_leaves_none_are_refused(tmp_path):
    rows = [dict(image_id="a", bbox=[0, 0, 30, 40], score=0.2), dict(image_id="b", bbox=[0, 0, 3, 40], score=0.6)]
    path = write(tmp_path, rows, "boxes.json")
    BoxFile(path, min_score=0.5).check(["a.jpg", "b.jpg"])
    with pytest.raises(UserError, match="1 boxes of the images, none with a score of 0.5.*highest score is 0.2"):
        BoxFile(path, min_score=0.5).check(["a.jpg", "c.jpg"])
    with pytest.raises(UserError, match="sides of 50 pixels or more.*the longest shorter side 30"):
        BoxFile(path, min_size=50).check(["a.jpg", "b.jpg"])
    BoxFile(write(tmp_path, [], "none.json"), min_score=0.5).check(["a.jpg"])


def test_results_of_predict_are_boxes_by_file_name_where_numbers_are_counted(tmp_path):
    rows = [
        dict(image_id=k + 1, file_name=name, bbox=[k, 2, 30, 40], score=1) for k, name in enumerate(["b.jpg", "a.jpg"])
    ]
    detector = BoxFile(write(tmp_path, rows, "boxes.json"))
    assert left_of(detector, "/photos/a.jpg") == [1.0] and left_of(detector, "/photos/b.jpg") == [0.0]
    assert left_of(detector, 1) == [0.0] and left_of(detector, 2) == [1.0]  # ids of a data set
    frames = [dict(image_id=k + 1, file_name=str(k), bbox=[k, 2, 30, 40]) for k in range(3)]  # of a list of arrays
    detector = BoxFile(write(tmp_path, frames, "boxes.json"))
    assert [left_of(detector, k) for k in range(3)] == [[0.0], [1.0], [2.0]]


@row(
    79,
    "A box file in which persons have another category id, such as 0",
    "Error with the received id and the option that reads it",
)
@pytest.mark.parametrize(
    ("category", "wanted", "received"), [(0, 1, "0"), ("person", 1, "'person'"), (1, "person", "1"), ("2", 1, "2")]
)
def test_boxes_of_other_categories_alone_are_refused_and_can_be_asked_for(tmp_path, category, wanted, received):
    rows = [box(category_id=category), box(7, category_id=category)]
    detector = BoxFile(write(tmp_path, rows, "boxes.json"), category_id=wanted)
    told = f"2 boxes, none of category {wanted!r}: received {received}"
    with pytest.raises(UserError, match=f"{told}. To read these pass `category_id={received}`"):
        detector.find(None, 1)
    assert len(BoxFile(detector.path, category_id=category).find(None, 1)[0]) == 1
    annotations = read_annotations(write(tmp_path, content()))
    with pytest.raises(UserError, match=f"{told}. To read these pass `box_category={received}`"):
        read_boxes(detector.path, annotations, wanted if wanted != 1 else None)
    assert len(read_boxes(detector.path, annotations, category).scores) == 2


def test_of_several_categories_the_wanted_one_is_read(tmp_path):
    annotations = read_annotations(write(tmp_path, content()))
    rows = [box(category_id=0), box(7, category_id="1"), box(7, category_id="car")]
    assert read_boxes(write(tmp_path, rows, "boxes.json"), annotations).image_ids.tolist() == [7]
    with pytest.raises(UserError, match="not an integer or a name, such as true"):
        read_boxes(write(tmp_path, [box(category_id=True)], "boxes.json"), annotations)


def test_boxes_of_which_none_can_be_used_are_refused_and_no_boxes_are_not(tmp_path):
    annotations = read_annotations(write(tmp_path, content()))
    rows = [box(1, [5, 5, 0, 9]), box(7, [900, 5, 9, 9]), box(7, [5, 5, 9, 0])]
    with pytest.raises(
        UserError, match="3 boxes, and none can be used: 0 of other images, 2 without a size, 1 outside"
    ):
        read_boxes(write(tmp_path, rows, "boxes.json"), annotations)
    assert len(read_boxes(write(tmp_path, [], "boxes.json"), annotations).scores) == 0


def named(tmp_path, *names):
    """Annotations of images with the ids 10, 11, … and the given names."""
    data = content()
    data["images"] = [dict(id=10 + k, file_name=name, height=120, width=160) for k, name in enumerate(names)]
    data["annotations"] = [annotation(k + 1, 10 + k) for k in range(len(names))]
    return read_annotations(write(tmp_path, data))


def results_for(tmp_path, annotations, *rows):
    return read_results(write(tmp_path, [result() | row for row in rows], "results.json"), annotations)


def test_results_are_matched_by_file_name_where_both_sides_have_it(tmp_path):
    annotations = named(tmp_path, "b.jpg", "cam1/0001.jpg", "cam2/0001.jpg")
    rows = [
        dict(image_id=k, file_name=name) for k, name in enumerate(["cam2\\0001.png", "x/b.jpg", "cam1/0001"], start=10)
    ]
    read = results_for(tmp_path, annotations, *rows)
    assert read.image_ids.tolist() == [12, 10, 11]
    assert "`image_id` is not that of their `file_name` (entries 0, 1, 2)" in " ".join(map(str, read.problems))
    boxes = [box() | dict(image_id=1, file_name="b.jpg"), box() | dict(image_id="cam1/0001.jpg")]
    assert read_boxes(write(tmp_path, boxes, "boxes.json"), annotations).image_ids.tolist() == [10, 11]


@row(
    88,
    "Results whose `image_id` and `file_name` are those of different images",
    "Matched by `file_name` if it is in the annotations; error if the two contradict each other",
)
def test_names_and_numbers_that_contradict_each_other_are_refused(tmp_path):
    annotations = named(tmp_path, "a.jpg", "cam1/7.jpg", "cam2/7.jpg", "10.jpg")
    with pytest.raises(UserError, match="of two images, such as 'z.jpg' and 10, which is 'a.jpg'"):
        results_for(tmp_path, annotations, dict(image_id=10, file_name="z.jpg"))
    with pytest.raises(UserError, match="cannot be told apart, such as '7.jpg'"):
        results_for(tmp_path, annotations, dict(image_id=1, file_name="7.jpg"))
    with pytest.raises(UserError, match="of two images"):  # the number of one image, the name of another
        results_for(tmp_path, annotations, dict(image_id="10"))
    assert results_for(tmp_path, annotations, dict(image_id="11")).image_ids.tolist() == [11]
    assert results_for(tmp_path, annotations, dict(image_id="a.jpg")).image_ids.tolist() == [10]


def test_results_that_count_by_the_names_of_files_are_read_so_where_nothing_else_is_meant(tmp_path):
    annotations = named(tmp_path, "000785.jpg", "001000.jpg")
    read = results_for(tmp_path, annotations, dict(image_id=785), dict(image_id=1000))
    assert read.image_ids.tolist() == [10, 11] and "Read as the numbers in the file names" in str(read.problems[0])
    with pytest.raises(UserError, match="belongs to another data set"):
        results_for(tmp_path, annotations, dict(image_id=785), dict(image_id=5))


def test_the_commands_take_boxes_by_folder_and_by_category(tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in CAMS:
        Path(name).parent.mkdir(parents=True)
        cv2.imwrite(name, np.full((80, 80, 3), 60, np.uint8))
    write(tmp_path, [dict(image_id="0001", bbox=[1, 1, 20, 20])], "one.json")
    both = [dict(image_id=f"cam{k}/0001", category_id=0, bbox=[k, 2, 20, 30]) for k in (1, 2)]
    write(tmp_path, both, "both.json")
    arguments = ["predict", "cams/*/*.jpg", "--no-pictures", *tiny_model, "--detector"]
    assert cli.main([*arguments, "one.json", "--out", "o1"]) == 2
    assert "which may be" in capsys.readouterr().err and not Path("o1").exists()
    assert cli.main([*arguments, "both.json", "--out", "o2"]) == 2
    assert "none of category 1: received 0. To read these pass --box-category 0." in capsys.readouterr().err
    assert cli.main([*arguments, "both.json", "--out", "o2", "--box-category", "0"]) == 0
    rows = json.loads(Path("o2/results.json").read_text())
    assert [(row["file_name"], row["box_image_xywh"][0]) for row in rows] == [
        ("cam1/0001.jpg", 1),
        ("cam2/0001.jpg", 2),
    ]
    assert cli.main([*arguments, "whole", "--out", "o3", "--box-category", "0"]) == 2
    assert "--box-category requires a .json file of boxes as --detector" in capsys.readouterr().err
    with pytest.raises(UserError, match="which may be"):
        kpzoo.stream(kpzoo.build("cpn_tiny", image_hw=(64, 64)), list(CAMS), detector="one.json")
