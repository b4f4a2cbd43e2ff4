"""Numbers in the forms that other tools write: read if they are unambiguous, else refused with the value."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reliability_rows import row
from test_coco import K, annotation, changed, content, result, write

from kpzoo.data import check, repair
from kpzoo.data.coco import read_annotations
from kpzoo.data.columns import NO_NUMBERS, NumberLists, numbers
from kpzoo.data.results import read_boxes, read_results
from kpzoo.errors import UserError

NAN = float("nan")
coordinates = st.floats(0, 100).map(lambda value: round(value, 3))
triples = st.tuples(coordinates, coordinates, st.sampled_from([0, 1, 2]))


def forms(triple, draw):
    """A keypoint as a tool may write it, and whether it keeps its place in a flat list."""
    x, y, v = triple
    if v == 0:
        choices = [
            [x, y, 0],
            [None, None, 0],
            [NAN, NAN, 0],
            [None, None, None],
            [x, y, False],
            ["nan", x, 0][1:] + [0],
        ]
        return draw(st.sampled_from(choices[:5]))
    return draw(st.sampled_from([[x, y, v], [str(x), f" {y}", v], [x, y, str(v)], [x, y, float(v)]]))


@row(
    81,
    "Keypoints with null or NaN if unlabelled, with numbers as strings, or as one list per keypoint",
    "Read as numbers",
)
@given(triples=st.lists(triples, min_size=K, max_size=K), nested=st.booleans(), data=st.data())
def test_any_form_of_a_persons_keypoints_is_read_as_the_plain_one(tmp_path, triples, nested, data):
    written = [forms(triple, data.draw) for triple in triples]
    if nested:
        empty = data.draw(st.sampled_from([None, []]))
        written = [empty if one == [None, None, None] else one for one in written]
    else:
        written = [value for one in written for value in one]
    plain = np.array(triples)
    persons = read_annotations(write(tmp_path, changed("annotations", 0, "keypoints", written))).persons
    labelled = plain[:, 2] > 0
    np.testing.assert_array_equal(persons.visibility[0], plain[:, 2])
    np.testing.assert_array_equal(persons.keypoints_image_xy[0][labelled], plain[labelled, :2])
    assert np.isfinite(persons.keypoints_image_xy).all()


@given(
    lists=st.lists(st.none() | st.lists(st.floats(allow_infinity=False) | st.integers(-5, 5), max_size=7), max_size=6),
    cut=st.integers(0, 6),
)
def test_plain_lists_are_taken_as_they_are_in_any_pieces(lists, cut):
    column = NumberLists(group=3)
    column.extend(lists[:cut])
    column.extend(lists[cut:])
    column.finish()
    assert not column.faults and not column.converted.any()
    for length in {len(one) for one in lists if one}:
        rows = np.flatnonzero([one is not None and len(one) == length for one in lists])
        table, wrong = column.of_length(length, rows)
        assert not wrong.any()
        np.testing.assert_array_equal(table, [np.array(lists[row], float) for row in rows])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=10,
)


@given(values=st.lists(json_values, max_size=8))
def test_any_json_value_is_read_or_named(values):
    column = NumberLists(group=3)
    column.extend(values)
    column.finish()
    assert len(column.lengths) == len(column.converted) == len(values)
    assert set(column.faults) == set(np.flatnonzero(column.lengths == NO_NUMBERS).tolist())
    found = numbers(values)
    assert not (found.bad & found.missing).any() and np.isfinite(found.values[~found.bad & ~found.missing]).all()


@given(value=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**12), 10**12))
def test_a_number_as_text_is_that_number(value):
    found = numbers([str(value), value])
    assert found.values[0] == found.values[1] and found.text.tolist() == [True, False] and not found.bad.any()


@pytest.mark.parametrize(
    "text", ["", " ", "1,5", "1 2", "0x10", "1_000", "one", "true", "null", "٣", "--1", "1e", "nan", "inf"]
)
def test_text_that_is_not_certainly_a_number_is_none(text):
    assert numbers([text]).bad.tolist() == [True]


@row(
    82,
    "Keypoints with booleans, empty strings, objects, or lists of different lengths",
    "Error with the value",
)
@pytest.mark.parametrize(
    ("keypoints", "told"),
    [
        ({"nose": [1, 2, 2]}, r'such as \{"nose": \[1, 2, 2\]\}'),
        ([[1, 2, 2], 5] * 8 + [[1, 2, 2]], "such as 5"),
        ([[1, 2, 2], [3, 4]] + [[1, 2, 2]] * 15, r"such as \[3, 4\]"),
        ([[[1, 2, 2]]] * 17, r"such as \[\[1, 2, 2\]\]"),
        (True, "such as true"),
        ([1, 2, True] * 17, "such as true"),
        ([1, "", 2] * 17, 'such as ""'),
        ([None, None, 2] * 17, r"null, NaN or infinite, such as 'nose' at \[nan, nan\]"),
        ([5, 6, None] * 17, r"a visibility of \[None\]"),
    ],
)
def test_a_value_that_may_mean_two_things_is_shown(tmp_path, keypoints, told):
    with pytest.raises(UserError, match=told):
        read_annotations(write(tmp_path, changed("annotations", 0, "keypoints", keypoints)))


def test_names_and_links_of_a_category_are_read_as_numbers_or_names(tmp_path):
    row = annotation(1, keypoints=[5, 6, 2] * 3, num_keypoints=3)
    category = dict(
        id="1", name="thing", keypoints=[1, 2, 3], flip_pairs=[], sigmas=[0.1] * 3, skeleton=[["1", 2], ["2", "3"]]
    )
    data = content() | dict(categories=[category], annotations=[row])
    skeleton = read_annotations(write(tmp_path, data)).skeleton
    assert skeleton.keypoints == ("1", "2", "3") and skeleton.links == (("1", "2"), ("2", "3"))
    category |= dict(keypoints=["a", "b", "c"], skeleton=[["a", "b"], ["c", "b"]])
    assert read_annotations(write(tmp_path, data)).skeleton.links == (("a", "b"), ("c", "b"))


def test_results_and_boxes_are_read_alike(tmp_path):
    annotations = read_annotations(write(tmp_path, content()))
    plain = result()
    keypoints = np.array(plain["keypoints"]).reshape(-1, 3).tolist()
    odd = plain | dict(keypoints=keypoints, score="0.5", image_id="1", bbox=[["1", 2, "3.5", 4]], category_id="1")
    read = read_results(write(tmp_path, [odd], "results.json"), annotations)
    assert read.keypoints_image_xy.ravel().tolist() == [value for one in keypoints for value in one[:2]]
    assert read.scores.tolist() == [0.5] and read.boxes_image_xywh.tolist() == [[1, 2, 3.5, 4]]
    read = read_boxes(write(tmp_path, [odd], "boxes.json"), annotations)
    assert read.boxes_image_xywh.tolist() == [[1, 2, 3.5, 4]]
    told = " ".join(map(str, read.problems))
    assert "`bbox` with strings or lists" in told and "Scores with a string" in told


def test_a_repaired_copy_has_plain_numbers(tmp_path):
    data = changed("annotations", 0, "keypoints", [[1, 2, 2], None, ["3", 4, "1"]] + [[5, 6, 1]] * 14)
    data["annotations"][0] |= dict(bbox=[["25", 15.5, 40, 60]], area="9.5", iscrowd="0", num_keypoints="16")
    data["images"][0]["width"] = "160"
    (tmp_path / "annotations").mkdir()
    write(tmp_path / "annotations", data, "train.json")
    (found,) = check.check(tmp_path, pictures=False)
    assert not found.clean
    path, _ = repair.write_repaired(found, tmp_path / "mended")
    (again,) = check.check(tmp_path / "mended", pictures=False)
    assert again.clean, str(again)
    row = json.loads(path.read_text())["annotations"][0]
    assert row["bbox"] == [25, 15.5, 40, 60] and row["keypoints"][6:9] == [3, 4, 1] and row["area"] == 9.5
