import contextlib
import copy
import gzip
import json
import os
import re

import numpy as np
import pytest
from conftest import SHARED

from kpzoo import files
from kpzoo.data import json_file
from kpzoo.data.coco import examine, read_annotations, training_persons
from kpzoo.data.results import Results, read_boxes, read_results, write_results
from kpzoo.data.sides import Sides, sides_of
from kpzoo.errors import UserError
from kpzoo.skeletons import COCO17, CROWDPOSE14

NAN, INFINITY = float("nan"), float("inf")
K = 17


def annotation(id=1, image_id=1, **fields):
    keypoints = np.zeros((K, 3))
    keypoints[:5] = [[30 + 2 * k, 20 + 3 * k, 1 + k % 2] for k in range(5)]
    row = dict(id=id, image_id=image_id, category_id=1, iscrowd=0, bbox=[25.0, 15.5, 40, 60], area=1300.0)
    return row | dict(num_keypoints=5, keypoints=keypoints.ravel().tolist(), segmentation=[[1, 2, 3, 4, 5, 6]]) | fields


def content():
    """Two images, three persons, all well."""
    images = [dict(id=i, file_name=f"{i}.jpg", height=120, width=160) for i in (7, 1)]
    skeleton = [[a + 1, b + 1] for a, b in COCO17.link_indices.tolist()]
    category = dict(id=1, name="person", keypoints=list(COCO17.keypoints), skeleton=skeleton)
    rows = [annotation(3), annotation(1, 7), annotation(2, iscrowd=1)]
    return dict(info={}, images=images, annotations=rows, categories=[category])


def changed(*path_and_value):
    """Returns `content()` with one value replaced, or deleted where the value is `del`."""
    *path, last, value = path_and_value
    data = content()
    place = data
    for key in path:
        place = place[key]
    if value is del_:
        del place[last]
    else:
        place[last] = value
    return data


del_ = object()


def write(folder, data, name="annotations.json"):
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def keypoints_with(place, value):
    keypoints = annotation()["keypoints"]
    keypoints[place] = value
    return keypoints


def test_a_good_file_becomes_arrays_in_file_order(tmp_path):
    read = read_annotations(write(tmp_path, content()), strict=True)
    persons = read.persons
    assert read.skeleton is COCO17 and read.category_id == 1 and read.problems == ()
    assert read.image_ids.tolist() == [7, 1] and read.file_names == ["7.jpg", "1.jpg"]
    assert read.image_sizes_hw.tolist() == [[120, 160]] * 2 and np.isnan(read.crowd_index).all()
    assert persons.ids.tolist() == [3, 1, 2] and persons.image_ids.tolist() == [1, 7, 1]
    assert persons.image_index.tolist() == [1, 0, 1] and persons.is_crowd.tolist() == [False, False, True]
    assert persons.keypoints_image_xy.shape == (3, K, 2) and persons.keypoints_image_xy[0, 2].tolist() == [34, 26]
    assert persons.visibility[0].tolist() == [1, 2, 1, 2, 1] + [0] * 12
    assert persons.boxes_image_xywh[1].tolist() == [25.0, 15.5, 40, 60] and persons.area.tolist() == [1300.0] * 3
    assert persons.num_keypoints.tolist() == [5, 5, 5] and persons.segmentation[1] == [[1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize(
    "encode", [lambda t: t.encode(), lambda t: b"\xef\xbb\xbf" + t.encode(), lambda t: gzip.compress(t.encode())]
)
def test_a_byte_order_mark_and_gzip_are_read(tmp_path, encode):
    path = tmp_path / "annotations.json"
    path.write_bytes(encode(json.dumps(content(), indent=2)))
    assert read_annotations(path).persons.ids.tolist() == [3, 1, 2]


def test_no_annotations_at_all_are_no_fault_of_the_reader(tmp_path):
    data = content() | dict(annotations=[])
    read = read_annotations(write(tmp_path, data))
    assert read.persons.keypoints_image_xy.shape == (0, K, 2)
    assert "No annotation has a labelled keypoint" in str(read.problems[0])
    with pytest.raises(UserError, match="no labelled person to train on"):
        training_persons(read)


def pieces(*numbers, key="annotations"):
    return changed(key, [annotation(number) for number in numbers])


REFUSED = {
    "no json": (
        '{"images": [],\n "annotations": [1 2]}',
        r"annotations.json:2:20 is not JSON: Expecting ',' delimiter",
    ),
    "trailing text": (json.dumps(content()) + "x", r":1:\d+ is not JSON: Extra data"),
    "empty": ("", ":1:1 is not JSON"),
    "huge number": ('{"annotations": [' + "9" * 5000 + "]}", "cannot be read"),
    "annotations dict": (changed("annotations", {}), "Received: 'annotations' is a dict"),
    "annotation is text": (changed("annotations", 1, "person"), r"annotations\[1\] must be an object.*'person'"),
    "image is a number": (changed("images", 1, 5), r"images\[1\] must be an object"),
    "keypoints with text": (
        changed("annotations", 1, "keypoints", keypoints_with(3, "4,5")),
        r'not a list of numbers, such as "4,5" \(annotation ids 1\)',
    ),
    "keypoints with null": (
        changed("annotations", 1, "keypoints", keypoints_with(3, None)),
        r"null, NaN or infinite, such as 'left_eye' at \[nan, 23.0\]",
    ),
    "keypoints of pairs": (changed("annotations", 1, "keypoints", [[1, 2]] * 17), r"numbers, such as \[1, 2\]"),
    "keypoints are text": (
        changed("annotations", 1, "keypoints", "1, 2, 2"),
        'not a list of numbers, such as "1, 2, 2"',
    ),
    "visibility null": (changed("annotations", 1, "keypoints", keypoints_with(2, None)), r"visibility of \[None\]"),
    "visibility true": (changed("annotations", 1, "keypoints", keypoints_with(2, True)), "of numbers, such as true"),
    "x false": (changed("annotations", 1, "keypoints", keypoints_with(0, False)), "of numbers, such as false"),
    "labelled NaN": (
        changed("annotations", 1, "keypoints", keypoints_with(0, NAN)),
        r"NaN or infinite, such as 'nose' at \[nan, 20.0\] \(annotation ids 1",
    ),
    "labelled infinity": (changed("annotations", 1, "keypoints", keypoints_with(1, INFINITY)), "NaN or infinite"),
    "no id": (changed("annotations", 1, "id", del_), r"without an integer as `id`, such as null \(entries 1\)"),
    "id of text": (changed("annotations", 1, "id", "one"), "without an integer as `id`"),
    "huge id": (changed("annotations", 1, "id", 10**30), "without an integer as `id`"),
    "no image id": (changed("annotations", 1, "image_id", del_), "without an integer as `image_id`, such as null"),
    "iscrowd 2": (changed("annotations", 1, "iscrowd", 2), "neither 0 nor 1, such as 2"),
    "category of text": (
        changed("annotations", 1, "category_id", "person"),
        r'an integer as `category_id`, such as "person" \(entries 1\)',
    ),
    "image without id": (changed("images", 0, "id", None), r"an integer as `id`, such as null \(entries 0\)"),
    "negative height": (
        changed("images", 0, "height", -5),
        r"`height` is not a number of pixels, such as -5 \(image ids 7\)",
    ),
    "width of text": (changed("images", 0, "width", "160 px"), '`width` is not a number of pixels, such as "160 px"'),
    "file name of numbers": (changed("images", 0, "file_name", 12), "`file_name` is not a string, such as 12"),
    "keypoint names twice": (changed("categories", 0, "keypoints", ["a", "b", "a"]), r"Received twice: \['a'\]"),
    "keypoint name is null": (changed("categories", 0, "keypoints", ["a", None]), "list of names. Received: null"),
    "no category": (changed("categories", []), "no category has `keypoints`"),
    "category without id": (changed("categories", 0, "id", None), "`id` of a category must be an integer"),
    "bad sigmas": (changed("categories", 0, dict(id=1, keypoints=["a", "b"], sigmas=[0.1, 0])), "2 numbers above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line_that_names_it(tmp_path, case):
    data, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        read_annotations(write(tmp_path, data))
    assert "\n" not in str(error.value) and "annotations.json" in str(error.value) and len(str(error.value)) < 500


def test_the_wrong_category_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'person'"):
        read_annotations(write(tmp_path, content()), category="persons")


@pytest.mark.parametrize("data", [b"\xff\xfe{\x00}\x00", b'{"images": [], "annotations": "\xe4"}'])
def test_other_encodings_are_refused_at_their_place(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=r"a.json:1:\d+ is not JSON: the text is not UTF-8"):
        read_annotations(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "message"), [("nothing.json", "does not exist"), ("", "is a folder"), ("cut.gz", "cannot be read")]
)
def test_what_is_no_readable_file_is_named(tmp_path, name, message):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"{}" * 99)[:-9])
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path / name)


REPAIRED = {  # what is read, part of the message, a check of the persons
    "id of digits": (changed("annotations", 1, "id", "1"), "string as `id`", lambda p: p.ids.tolist() == [3, 1, 2]),
    "image id of digits": (
        changed("annotations", 1, "image_id", "7"),
        "string as `image_id`",
        lambda p: p.image_index.tolist() == [1, 0, 1],
    ),
    "num_keypoints of text": (
        changed("annotations", 1, "num_keypoints", "many"),
        "not a count",
        lambda p: p.num_keypoints.tolist() == [5, 5, 5],
    ),
    "area NaN": (changed("annotations", 1, "area", NAN), "not a number above 0", lambda p: p.area[1] == 0.53 * 40 * 60),
    "area of text": (
        changed("annotations", 1, "area", "large"),
        'such as "large"',
        lambda p: p.area[1] == 0.53 * 40 * 60,
    ),
    "area of digits": (changed("annotations", 1, "area", "9.5"), "`area` with a string", lambda p: p.area[1] == 9.5),
    "iscrowd of digits": (
        changed("annotations", 1, "iscrowd", "1"),
        "`iscrowd` with a string",
        lambda p: p.is_crowd.tolist() == [False, True, True],
    ),
    "box of digits": (
        changed("annotations", 1, "bbox", ["25", "15.5", "40", 60]),
        "`bbox` with strings or lists",
        lambda p: p.boxes_image_xywh[1].tolist() == [25, 15.5, 40, 60],
    ),
    "box in a list": (
        changed("annotations", 1, "bbox", [[25, 15.5, 40, 60]]),
        "`bbox` with strings or lists",
        lambda p: p.boxes_image_xywh[1].tolist() == [25, 15.5, 40, 60],
    ),
    "keypoints in triples": (
        changed("annotations", 1, "keypoints", [[1, 2, 2], None, [], [3, 4, False]] + [[5, 6, 1]] * 13),
        "`keypoints` with strings, lists or false",
        lambda p: p.visibility[1].tolist() == [2, 0, 0, 0] + [1] * 13,
    ),
    "keypoints of digits": (
        changed("annotations", 1, "keypoints", keypoints_with(0, "30.25")),
        "`keypoints` with strings, lists or false",
        lambda p: p.keypoints_image_xy[1, 0].tolist() == [30.25, 20],
    ),
    "empty keypoints": (
        changed("annotations", 1, "keypoints", []),
        "without `keypoints`",
        lambda p: not p.visibility[1].any(),
    ),
    "unlabelled null": (
        changed("annotations", 1, "keypoints", [*keypoints_with(0, 30.0)[:48], None, None, 0]),
        "Unlabelled `keypoints`",
        lambda p: p.keypoints_image_xy[1, 16].tolist() == [0, 0],
    ),
    "nothing but null": (
        changed("annotations", 1, "keypoints", [*keypoints_with(0, 30.0)[:48], None, None, None]),
        "Unlabelled `keypoints`",
        lambda p: p.visibility[1, 16] == 0 and p.visibility[1, 0] > 0,
    ),
    "width of digits": (changed("images", 0, "width", "160"), "string as `width`", lambda p: True),
    "negative area": (changed("annotations", 1, "area", -5), "`area`", lambda p: p.area[1] == 0.53 * 40 * 60),
    "no keypoints": (
        changed("annotations", 1, "keypoints", del_),
        "without `keypoints`",
        lambda p: not p.visibility[1].any(),
    ),
    "unlabelled NaN": (
        changed("annotations", 1, "keypoints", keypoints_with(50 - 2, NAN)),
        "Unlabelled `keypoints`",
        lambda p: p.keypoints_image_xy[1, 16].tolist() == [0, 0],
    ),
    "no box, no area": (
        changed("annotations", 1, annotation(1, 7, bbox=None, area=None)),
        "neither an area nor a box",
        lambda p: p.ids.tolist() == [3, 2],
    ),
    "nothing": (
        changed("annotations", 1, annotation(1, 7, bbox=None, keypoints=[0] * 51, num_keypoints=0)),
        "without keypoints and box",
        lambda p: p.ids.tolist() == [3, 2],
    ),
    "crowdIndex of text": (changed("images", 0, "crowdIndex", "hard"), "`crowdIndex` is not a number", lambda p: True),
}


@pytest.mark.parametrize("case", REPAIRED)
def test_what_can_be_mended_is_counted_and_strictly_refused(tmp_path, case):
    data, message, check = REPAIRED[case]
    path = write(tmp_path, data)
    read = read_annotations(path)
    repairs = [problem for problem in read.problems if problem.severity == "repair"]
    assert check(read.persons) and any(re.search(message, str(repair)) for repair in repairs)
    with pytest.raises(UserError, match="This is an error because of `strict=True`"):
        read_annotations(path, strict=True)


NOTED = {
    "no area anywhere": (lambda row: row.pop("area"), "without `area`"),
    "no num_keypoints anywhere": (lambda row: row.pop("num_keypoints"), "without `num_keypoints`"),
    "no iscrowd anywhere": (lambda row: row.pop("iscrowd"), "without `iscrowd`"),
    "no category_id anywhere": (lambda row: row.pop("category_id"), "Read as the only category"),
    "num_keypoints of 0": (lambda row: row.update(num_keypoints=0), "beside labelled keypoints"),
    "num_keypoints too many": (lambda row: row.update(num_keypoints=9), "above the number"),
    "box over the border": (lambda row: row.update(bbox=[100, 90, 70, 50]), "exceed the image"),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_a_whole_data_set_does_is_noted_and_not_refused(tmp_path, case):
    change, message = NOTED[case]
    data = content()
    for row in data["annotations"]:
        change(row)
    problems = read_annotations(write(tmp_path, data), strict=True).problems
    (note,) = [problem for problem in problems if message in str(problem)]
    assert note.severity == "note" and note.count == 3 and note.ids in ((3, 1, 2), (0, 1, 2))


def test_numbers_that_reach_over_the_border_stay_as_they_are_for_the_evaluation(tmp_path):
    data = changed("annotations", 1, annotation(1, 7, bbox=[-3.5, -2, 300, 200], keypoints=keypoints_with(0, -4.0)))
    persons = read_annotations(write(tmp_path, data)).persons
    assert persons.boxes_image_xywh[1].tolist() == [-3.5, -2, 300, 200]
    assert persons.keypoints_image_xy[1, 0, 0] == -4 and persons.visibility[1, 0] == 1


def test_training_takes_clipped_boxes_and_the_keypoints_in_the_picture(tmp_path):
    data = content()
    data["annotations"] = [
        annotation(1, bbox=[-5, 100, 300, 50], keypoints=keypoints_with(0, -4.0)),
        annotation(2, iscrowd=1),
        annotation(3, bbox=[0, 0, 0, 0]),
        annotation(4, bbox=[200, 0, 9, 9]),
        annotation(5, keypoints=[0] * 51, num_keypoints=0),
        annotation(6, 7, bbox=[159, 119, 1, 1]),
        annotation(7, 7, keypoints=[500, 500, 2] + [0] * 48, num_keypoints=1),
    ]
    read = read_annotations(write(tmp_path, data))
    persons = training_persons(read)
    assert read.persons.ids[persons["index"]].tolist() == [1, 6] and persons["image_ids"].tolist() == [1, 7]
    assert persons["boxes_image_xywh"].tolist() == [[0, 100, 159, 19], [159, 119, 0, 0]]
    assert persons["visibility"][0].tolist() == [0, 2, 1, 2, 1] + [0] * 12
    assert {name: array.dtype.kind for name, array in persons.items()} == dict(
        index="i", image_ids="i", boxes_image_xywh="f", keypoints_image_xy="f", visibility="f", keypoint_weights="f"
    )
    assert training_persons(read, min_keypoints=5)["index"].tolist() == [5]
    with pytest.raises(UserError, match="0 with 6 or more labelled keypoints"):
        training_persons(read, min_keypoints=6)


def test_an_image_may_lack_size_and_name_until_it_is_opened(tmp_path):
    data = content()
    for image in data["images"]:
        del image["height"], image["width"], image["file_name"]
    read = read_annotations(write(tmp_path, data), strict=True)
    assert read.image_sizes_hw.tolist() == [[0, 0]] * 2 and read.file_names == ["", ""]
    assert {problem.what for problem in read.problems} == {
        "Images without `height`",
        "Images without `width`",
        "Images without `file_name`",
    }
    with pytest.raises(UserError, match="image id 7 has no `file_name`"):
        training_persons(read)


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    data = pieces(4, 5, 5, 0)
    data["annotations"][0]["keypoints"] = [1]
    data["images"][0]["file_name"] = "../7.jpg"
    path = write(tmp_path, data)
    found = [(problem.severity, problem.ids) for problem in examine(path).problems]
    assert found[:4] == [("error", (7,)), ("error", (5,)), ("repair", (0,)), ("error", (4,))]
    with pytest.raises(UserError, match="And 2 more kinds of problem"):
        read_annotations(path)


def test_more_than_ten_ids_are_counted(tmp_path):
    data = content() | dict(annotations=[annotation(i, area=0) for i in range(1, 31)])
    (problem,) = read_annotations(write(tmp_path, data)).problems
    assert problem.count == 30 and "ids 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … 30 in total" in str(problem)


def two_categories():
    data = content()
    data["categories"].append(dict(id=2, name="hand", keypoints=["left_thumb", "right_thumb", "palm"]))
    data["annotations"].append(annotation(9, category_id=2, keypoints=[1, 2, 2, 3, 4, 1, 0, 0, 0]))
    return data


def test_of_two_categories_with_keypoints_one_must_be_chosen(tmp_path):
    path = write(tmp_path, two_categories())
    with pytest.raises(UserError, match=r"\{'person': 17, 'hand': 3\}. Choose one, such as `category='person'`"):
        read_annotations(path)
    hand = read_annotations(path, category="hand")
    assert hand.persons.ids.tolist() == [9] and hand.skeleton.keypoints == ("left_thumb", "right_thumb", "palm")
    assert hand.category_id == 2 and hand.persons.visibility.tolist() == [[2, 1, 0]]
    assert read_annotations(path, category=1).persons.ids.tolist() == [3, 1, 2]


def test_categories_without_keypoints_are_passed_over(tmp_path):
    data = content()
    data["categories"].insert(0, dict(id=3, name="bicycle"))
    data["annotations"].append(dict(id=10, image_id=1, category_id=3, bbox=[0, 0, 5, 5], area=25, iscrowd=0))
    read = read_annotations(write(tmp_path, data), strict=True)
    assert read.persons.ids.tolist() == [3, 1, 2] and "of other categories than 1 (entries 3)" in str(read.problems[0])


def test_a_skeleton_is_made_of_the_file(tmp_path):
    names = ["tail", "left_paw", "right_paw", "left_shoulder", "right_shoulder"]
    category = dict(id=1, name="cat", keypoints=names, skeleton=[[1, 2], [4, 5]])
    data = content() | dict(categories=[category], annotations=[annotation(1, keypoints=[5, 5, 2] * 5)])
    read = read_annotations(write(tmp_path, data), strict=True)
    assert read.skeleton.name == "cat" and read.skeleton.links == (("tail", "left_paw"), names_pair(names, 3, 4))
    assert read.skeleton.flip_pairs == (names_pair(names, 1, 2), names_pair(names, 3, 4))
    assert read.skeleton.sigmas == (0.05, 0.05, 0.05, 0.079, 0.079)
    assert "3 have 0.05: ['tail', 'left_paw', 'right_paw']" in str(read.problems[0])
    category["sigmas"] = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert read_annotations(write(tmp_path, data)).skeleton.sigmas == (0.1, 0.2, 0.3, 0.4, 0.5)


def names_pair(names, a, b):
    return names[a], names[b]


def test_the_skeleton_can_be_given_and_must_fit(tmp_path):
    nameless = write(tmp_path, changed("categories", 0, "keypoints", del_))
    assert read_annotations(nameless, skeleton="coco17").skeleton is COCO17
    with pytest.raises(UserError, match="other keypoints than skeleton 'crowdpose14' or another order"):
        read_annotations(write(tmp_path, content()), skeleton=CROWDPOSE14)


def test_flip_pairs_are_read_from_names_of_many_styles():
    pairs = sides_of(("nose", "left_eye", "right_eye", "RHip", "LHip", "knee-l", "knee-r", "leftToe", "rightToe")).pairs
    assert pairs == (("left_eye", "right_eye"), ("LHip", "RHip"), ("knee-l", "knee-r"), ("leftToe", "rightToe"))
    assert sides_of(("upright", "bright", "cleft", "r")) == Sides((), (), ())


@pytest.mark.parametrize("chunk", [1, 2, 3, 20_000])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_read_in_pieces_is_the_same(tmp_path, chunk, indent, monkeypatch):
    monkeypatch.setattr(json_file, "CHUNK", chunk)
    data = content() | dict(annotations=[annotation(i, area=i) for i in range(1, 7)])
    data["annotations"][4]["bbox"] = None
    taken = []
    path = write(tmp_path, json.dumps(data, indent=indent))
    members = json_file.read_object(path, "annotations", taken.extend)
    assert members | dict(annotations=taken) == data
    assert read_annotations(path).persons.area.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data beside the project")
@pytest.mark.parametrize(
    ("name", "num_persons", "num_training", "skeleton"),
    [
        ("coco_real/annotations/person_keypoints_val.json", 174, 123, "coco17"),
        ("crowdpose/annotations/crowdpose_val_noimages.json", 8527, 7962, "crowdpose14"),
        ("lspet/annotations/lspet_train.json", 6284, 6284, "crowdpose14"),
        ("mpii/annotations/mpii_sample_coco_format.json", 5, 5, "mpii16"),
        ("aic/annotations/mmpose_test_aic.json", 9, 9, "person"),
    ],
)
def test_published_data_sets_pass_strictly_and_unchanged(shared, name, num_persons, num_training, skeleton):
    read = read_annotations(shared / "data" / name, strict=True)
    rows = json.loads((shared / "data" / name).read_text())["annotations"]
    assert len(rows) == len(read.persons.ids) == num_persons and read.skeleton.name == skeleton
    assert read.persons.boxes_image_xywh.tolist() == [row["bbox"] for row in rows]
    triples = np.concatenate([read.persons.keypoints_image_xy, read.persons.visibility[..., None]], axis=-1)
    assert triples.reshape(num_persons, -1).tolist() == [row["keypoints"] for row in rows]
    assert read.persons.num_keypoints.tolist() == [row["num_keypoints"] for row in rows]
    assert read.persons.area.tolist() == [row.get("area", 0.53 * row["bbox"][2] * row["bbox"][3]) for row in rows]
    assert len(training_persons(read)["index"]) == num_training


@pytest.fixture
def annotations(tmp_path):
    return read_annotations(write(tmp_path, content()))


def result(image_id=1, score=0.5, **fields):
    return dict(image_id=image_id, category_id=1, keypoints=annotation()["keypoints"], score=score) | fields


def test_results_are_read_in_file_order_and_no_results_too(annotations, tmp_path):
    rows = [result(7, 0.25), result(1, 3), result(7, -1e-3)]
    read = read_results(write(tmp_path, rows, "r.json"), annotations)
    assert read.image_ids.tolist() == [7, 1, 7] and read.scores.tolist() == [0.25, 3, -1e-3] and read.problems == ()
    assert read.keypoints_image_xy[0, 4].tolist() == [38, 32] and read.keypoint_scores[0, 1] == 2
    assert read.boxes_image_xywh is None and read.area.tolist() == [38 * 32] * 3
    empty = read_results(write(tmp_path, [], "empty.json"), annotations)
    assert empty.keypoints_image_xy.shape == (0, K, 2) and empty.area.shape == (0,)
    assert "Results for 0 of the 2 annotated images" in str(empty.problems[0])


def test_results_with_boxes_take_their_area_from_them_as_the_tools_do(annotations, tmp_path):
    read = read_results(write(tmp_path, [result(bbox=[1, 2, 3, 4.5])], "r.json"), annotations)
    assert read.area.tolist() == [13.5]
    some = read_results(write(tmp_path, [result(), result(bbox=[1, 2, 3, 4.5])], "r.json"), annotations)
    assert some.boxes_image_xywh is None


BAD_RESULTS = {
    "object": ({"annotations": []}, r"must contain a list of results. Received: a dict with keys \['annotations'\]"),
    "number": ([5], "entry 0 must be an object"),
    "wrong length": ([result(keypoints=[1.0] * 42)], r"must be 51 numbers. Received lists of \[42\]"),
    "text": (
        [result(keypoints=keypoints_with(1, "5;"))],
        r"must be 51 numbers. Received lists of \[0\], such as \"5;\"",
    ),
    "null": ([result(keypoints=keypoints_with(1, None))], "with null, NaN or infinity"),
    "score NaN": ([result(score=NAN)], "Scores that are not finite numbers"),
    "score of text": ([result(score="high")], 'Scores that are not finite numbers, such as "high"'),
    "unknown images": ([result(), result(8), result(9)], r"without annotations \(image ids 8, 9\)"),
    "other data": ([result(8), result(9)], r"belongs to another data set.*such as \[8, 9\], expected such as \[1, 7\]"),
    "image of text": ([result("one.jpg")], r'`image_id` is not an integer, such as "one.jpg" \(entries 0\)'),
    "other category": (
        [result(category_id=3)],
        r"1 results, none of category 1: received 3. To read these pass `category=3`",
    ),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_bad_results_are_refused_and_named(annotations, tmp_path, case):
    rows, message = BAD_RESULTS[case]
    with pytest.raises(UserError, match=message) as error:
        read_results(write(tmp_path, rows, "results.json"), annotations)
    assert "results.json" in str(error.value) and "\n" not in str(error.value)


def test_results_with_digits_as_image_ids_are_mended(annotations, tmp_path):
    read = read_results(write(tmp_path, [result("7"), result(1)], "r.json"), annotations)
    assert read.image_ids.tolist() == [7, 1] and "string as `image_id`" in str(read.problems[0])


def results_of(count=3, **fields):
    rng = np.random.default_rng(0)
    arrays = dict(image_ids=np.array([7, 1, 7][:count]), keypoints_image_xy=rng.normal(50, 30, (count, K, 2)))
    return Results(**(arrays | dict(keypoint_scores=rng.random((count, K)), scores=rng.random(count)) | fields))


@pytest.mark.parametrize("boxes", [None, np.arange(12.0).reshape(3, 4)])
def test_written_results_read_back_to_the_last_bit(annotations, tmp_path, boxes):
    written = results_of(boxes_image_xywh=boxes)
    read = read_results(write_results(tmp_path / "r.json", written), annotations)
    for name in ("image_ids", "keypoints_image_xy", "keypoint_scores", "scores", "area"):
        assert getattr(read, name).tolist() == getattr(written, name).tolist()
    assert os.listdir(tmp_path).count("r.json") == 1 and not [n for n in os.listdir(tmp_path) if "part" in n]
    assert write_results(tmp_path / "none.json", results_of(0)).read_text() == "[]"


def test_results_with_nan_are_not_made_and_a_failed_write_leaves_the_old_file(tmp_path):
    with pytest.raises(UserError, match="`scores` of result 1 is not finite"):
        results_of(scores=np.array([1, NAN, 1]))
    with pytest.raises(UserError, match=r"need `scores` of shape \(3,\)"):
        results_of(scores=np.ones(2))
    path = write(tmp_path, "[]", "r.json")
    with pytest.raises(UserError, match="JSON has no NaN"):
        files.write_json(path, [NAN])
    assert path.read_text() == "[]" and sorted(os.listdir(tmp_path)) == ["r.json"]
    with pytest.raises(UserError, match="Cannot write .*r.json/r.json'"):
        files.write_json(path / "r.json", [])


def box(image_id=1, bbox=(10, 10, 20, 30), score=0.5, **fields):
    return dict(image_id=image_id, category_id=1, bbox=list(bbox), score=score) | fields


def test_boxes_of_persons_in_the_pictures_are_kept(annotations, tmp_path):
    rows = [
        box(),
        box(category_id=3),
        box(99),
        box(7, (0, 0, 0, 5)),
        box(7, (160, 5, 9, 9)),
        box(7, (-9, 5, 9, 9)),
        box(7, (-9, -9, 900, 900), 1),
    ]
    del rows[0]["score"]
    read = read_boxes(write(tmp_path, rows, "boxes.json"), annotations)
    assert read.boxes_image_xywh.tolist() == [[10, 10, 20, 30], [-9, -9, 900, 900]] and read.scores.tolist() == [1, 1]
    assert read.image_ids.tolist() == [1, 7] and read.image_index.tolist() == [1, 0]
    assert [(problem.what, problem.ids) for problem in read.problems] == [
        ("Results of other categories than 1", (1,)),
        ("Boxes of images without annotations", (99,)),
        ("Boxes without `score`", (0,)),
        ("Boxes without width or height", (3,)),
        ("Boxes outside their image", (4, 5)),
    ]
    assert read_boxes(write(tmp_path, [], "none.json"), annotations).boxes_image_xywh.shape == (0, 4)


BAD_BOXES = {
    "negative": ([box(), box(bbox=(50, 50, -9, 9))], r"negative size \(entries 1\)"),
    "NaN": ([box(bbox=(50, 50, NAN, 9))], "`bbox` with null, NaN"),
    "missing": ([dict(image_id=1, score=1)], r"`bbox` must be 4 numbers. Received lists of \[0\]"),
    "five": ([box(bbox=(1, 2, 3, 4, 5))], "must be 4 numbers"),
}


@pytest.mark.parametrize("case", BAD_BOXES)
def test_bad_boxes_are_refused_and_named(annotations, tmp_path, case):
    rows, message = BAD_BOXES[case]
    with pytest.raises(UserError, match=message):
        read_boxes(write(tmp_path, rows, "boxes.json"), annotations)


def test_boxes_of_coco_persons_serve_annotations_of_another_category_number(tmp_path):
    data = content()
    data["categories"][0]["id"] = 5
    for row in data["annotations"]:
        row["category_id"] = 5
    dancers = read_annotations(write(tmp_path, data))
    rows = [box(), box(category_id=2)]
    assert len(read_boxes(write(tmp_path, rows, "boxes.json"), dancers).scores) == 1
    rows = [box(), box(category_id=5, score=0.25)]
    assert read_boxes(write(tmp_path, rows, "boxes.json"), dancers).scores.tolist() == [0.25]


def test_damage_at_any_place_is_told_and_never_a_crash(tmp_path):
    whole = json.dumps(content()).encode()
    rng = np.random.default_rng(0)
    path = tmp_path / "annotations.json"
    for trial in range(300):
        data = bytearray(whole)
        if trial % 3 == 0:
            del data[rng.integers(len(data)) :]
        for place in rng.integers(len(data), size=3) if data else []:
            data[place] = rng.integers(256)
        path.write_bytes(bytes(data))
        with contextlib.suppress(UserError):
            read = read_annotations(path)
            assert np.isfinite(read.persons.area).all() and np.isfinite(read.persons.keypoints_image_xy).all()


def test_values_of_any_kind_at_any_place_are_told_and_never_a_crash(tmp_path):
    rng = np.random.default_rng(1)
    kinds = [None, True, "x", "", -1, 0, 1.5, 10**40, NAN, INFINITY, [], [None], {}, [[1]], {"a": 1}]
    for _ in range(400):
        data = content()
        place = data
        path = []
        while isinstance(place, (dict, list)) and len(place) and (len(path) < 2 or rng.random() < 0.8):
            keys = list(place) if isinstance(place, dict) else range(len(place))
            path.append(keys[rng.integers(len(keys))])
            parent, place = place, place[path[-1]]
        parent[path[-1]] = copy.deepcopy(kinds[rng.integers(len(kinds))])
        with contextlib.suppress(UserError):
            read = read_annotations(write(tmp_path, data))
            assert np.isfinite(read.persons.boxes_image_xywh).all() and np.isfinite(read.persons.area).all()
            assert len(read.persons.ids) == len(read.persons.segmentation)
