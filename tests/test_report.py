"""Mistakes joint by joint, and the report about them."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import kpzoo
from kpzoo import cli
from kpzoo.data import loading
from kpzoo.data.results import Results, write_results
from kpzoo.evaluation import metrics, mistakes, report
from kpzoo.html import charts
from kpzoo.skeletons import COCO17

LEFT, RIGHT = COCO17.keypoints.index("left_wrist"), COCO17.keypoints.index("right_wrist")
NOSE = COCO17.keypoints.index("nose")


@pytest.fixture(scope="module")
def data(small_folder):
    return loading.load(small_folder, "train")


def perfect(data, person_index) -> Results:
    """Returns results that are the annotations of some persons."""
    persons, index = data.annotations.persons, np.asarray(person_index, int)
    points = persons.keypoints_image_xy[index].copy()
    return Results(persons.image_ids[index], points, np.ones(points.shape[:2]), np.linspace(1, 0.5, len(index)))


def two_of_one_image(data) -> np.ndarray:
    ids = data.annotations.persons.image_ids
    crowded = [image_id for image_id in np.unique(ids) if (ids == image_id).sum() >= 2][0]
    return np.flatnonzero(ids == crowded)[:2]


@pytest.fixture
def apart(data):
    """The data with two persons far from each other and every joint far from every other, all labelled."""
    first, second = two_of_one_image(data)
    persons = data.annotations.persons
    points, visibility = persons.keypoints_image_xy.copy(), np.full_like(persons.visibility, 2)
    points[first] = np.arange(17)[:, None] * [1000.0, 0.0]
    points[second] = points[first] + [0.0, 1e6]
    area = np.full(len(persons.area), 100.0**2)
    persons = replace(persons, keypoints_image_xy=points, visibility=visibility, area=area)
    return replace(data, annotations=replace(data.annotations, persons=persons)), first, second


def shift(similarity: float, joint: int) -> float:
    """Returns how far off a joint of a person of 100² pixels has that similarity."""
    return float(np.sqrt(-2 * np.log(similarity)) * 2 * COCO17.sigmas[joint] * 100)


@pytest.mark.parametrize(
    ("kind", "move"),
    [
        ("good", lambda one, other: one[LEFT] + [shift(0.86, LEFT), 0]),
        ("jitter", lambda one, other: one[LEFT] + [shift(0.84, LEFT), 0]),
        ("jitter", lambda one, other: one[LEFT] + [0, shift(0.51, LEFT)]),
        ("miss", lambda one, other: one[LEFT] + [0, shift(0.49, LEFT)]),
        ("inversion", lambda one, other: one[RIGHT] + [shift(0.51, LEFT), 0]),
        ("miss", lambda one, other: one[RIGHT] + [shift(0.49, LEFT), 0]),
        ("miss", lambda one, other: one[NOSE]),
        ("swap", lambda one, other: other[LEFT]),
        ("swap", lambda one, other: other[RIGHT] + [shift(0.6, LEFT), 0]),
        ("miss", lambda one, other: other[NOSE]),
    ],
)
def test_a_joint_in_the_wrong_place_is_told_by_where_it_is(apart, kind, move):
    data, first, second = apart
    results = perfect(data, [first, second])
    one, other = data.annotations.persons.keypoints_image_xy[[first, second]]
    results.keypoints_image_xy[0, LEFT] = move(one, other)
    found = mistakes.find(data.annotations, results)
    row = found.person.tolist().index(first)
    assert mistakes.KINDS[found.kinds[row, LEFT]] == kind
    others = np.delete(found.kinds, np.s_[row * 17 + LEFT])
    assert (others == mistakes.KINDS.index("good")).all()
    assert f"{found.counts()[LEFT].sum()}" == "2"


def test_perfect_poses_have_no_mistakes_and_nobody_is_missing(data):
    everybody = np.arange(len(data.annotations.persons.image_ids))
    results = perfect(data, everybody)
    found = mistakes.find(data.annotations, results)
    labelled = data.annotations.persons.visibility > 0
    assert found.counts().sum(axis=0).tolist() == [labelled.sum(), 0, 0, 0, 0]
    np.testing.assert_array_equal(found.person, found.pose)
    assert len(found.not_found) == len(found.without_person) == 0
    assert found.oks == pytest.approx(1)


def test_no_results_at_all_leave_everybody_not_found(data):
    nothing = Results(np.zeros(0), np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros(0))
    found = mistakes.find(data.annotations, nothing)
    assert len(found.not_found) == len(data.annotations.persons.image_ids)
    assert found.counts().sum() == 0
    assert "0 persons found" in str(found)


def test_putting_a_kind_of_mistake_right_brings_back_its_ap(apart):
    data, first, second = apart
    results = perfect(data, [first, second])
    results.keypoints_image_xy[0, [LEFT, RIGHT]] = results.keypoints_image_xy[0, [RIGHT, LEFT]]
    found = mistakes.find(data.annotations, results)
    now = metrics.average_precision(data.annotations, results).values["AP"]
    without = mistakes.ap_without(data.annotations, results, found, "coco")
    best = metrics.average_precision(data.annotations, perfect(data, [first, second])).values["AP"]
    assert without["inversion"] == without["any of these"] == best > now
    assert without["jitter"] == without["swap"] == without["miss"] == now


class Tags(HTMLParser):
    """Checks that tags close in order, and gathers the addresses they load."""

    void = {"meta", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


def test_the_report_is_one_file_with_every_part(data, small_folder, tmp_path, capsys):
    results = perfect(data, np.arange(6))
    results.keypoints_image_xy[:] += np.random.default_rng(0).normal(0, 6, results.keypoints_image_xy.shape)
    write_results(tmp_path / "results.json", results)
    annotations = small_folder / "annotations/person_keypoints_train.json"
    arguments = ["evaluate", "--annotations", annotations, "--results", tmp_path / "results.json"]
    arguments += ["--images", small_folder / "images/train", "--report", tmp_path / "out.html"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    page = Tags()
    page.feed(text)
    assert page.open == []
    assert len(page.loads) == 1
    assert page.loads[0].startswith("data:image/jpeg;base64,")
    assert "<script" not in text
    shown = " ".join(page.texts)
    found = metrics.average_precision(data.annotations, results)
    for expected in (f"{found.values['AP']:.4f}", "left_wrist", "inversion", "OKS 0.75", "labelled", "overlap of"):
        assert expected in shown
    assert cli.main([str(argument) for argument in [*arguments[:-1], tmp_path / "out.txt"]]) == 2
    assert ".html" in capsys.readouterr().err


def test_the_report_shows_ap_against_the_boxes_kept_where_some_annotated_ones_overlap(small_folder, tmp_path):
    kpzoo.save_weights(kpzoo.build("cpn_tiny", image_hw=(64, 64)), tmp_path / "tiny.weights.h5")
    arguments = ["evaluate", "--model", "cpn_tiny", "--weights", tmp_path / "tiny.weights.h5", "--image-size", "64x64"]
    arguments += ["--annotations", small_folder / "annotations/person_keypoints_train.json", "--no-flip"]
    arguments += ["--report", tmp_path / "out.html"]
    for more, shown in (([], True), (["--box-nms", "0.5"], False)):
        assert cli.main([str(argument) for argument in [*arguments, *more]]) == 0
        text = (tmp_path / "out.html").read_text(encoding="utf-8")
        page = Tags()
        page.feed(text)
        assert page.open == []
        assert ("share of the boxes that are kept 1: " in text) == shown
        assert ("an IoU of 1, 0.8, 0.7" in text) == shown


def test_the_report_shows_no_boxes_kept_where_all_are(data, tmp_path):
    found = metrics.average_precision(data.annotations, perfect(data, np.arange(6)))
    for share in (1.0, 0.5):
        kept = [{"max_iou": 1.0, "share": 1.0, "AP": 0.4}, {"max_iou": 0.5, "share": share, "AP": 0.3}]
        told = replace(found, details={**found.details, "kept": kept}, circumstances={"model": "cpn_tiny"})
        path = report.write_report(tmp_path / "out.html", data.annotations, perfect(data, np.arange(6)), told)
        assert ("boxes that are kept 0.5: 0.3" in path.read_text(encoding="utf-8")) == (share < 1)


def test_the_worst_picture_comes_first(data):
    """The sheet shows annotation and poses of the picture whose persons are missed before those found."""
    ids = data.annotations.persons.image_ids
    results = perfect(data, np.flatnonzero(ids != 3))
    found = mistakes.find(data.annotations, results)
    sheet = report.worst_sheet(data, results, found)
    assert set(ids[found.not_found]) == {3}
    alone = Results(
        *(getattr(results, n)[:0] for n in ("image_ids", "keypoints_image_xy", "keypoint_scores", "scores"))
    )
    chosen = replace(found, pose=found.pose[:0], person=found.person[:0], oks=found.oks[:0])
    first = report.worst_sheet(data, alone, chosen)
    height = first.shape[0] - 20
    np.testing.assert_array_equal(sheet[:height, :500], first[:height, :500])


def test_overlap_is_the_mean_of_the_largest_iou(data):
    persons = data.annotations.persons
    boxes = np.tile([0.0, 0, 10, 10], (len(persons.image_ids), 1))
    annotations = replace(data.annotations, persons=replace(persons, boxes_image_xywh=boxes))
    counts = np.array([(persons.image_ids == image_id).sum() for image_id in annotations.image_ids])
    assert report.overlap(annotations).tolist() == np.where(counts > 1, 1.0, 0.0).tolist()


def test_charts_escape_names_and_take_nothing():
    assert "&lt;b&gt;" in charts.stacked_bars({"<b>": [1, 2]}, ["x", "y"])
    for chart in (charts.stacked_bars({"a": [0, 0]}, ["x", "y"]), charts.bars({}, [], "x", "y")):
        assert "nan" not in chart
        assert re.match(r"<svg .*</svg>$", chart)
