import contextlib
import copy
import io
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import SHARED

from kpzoo.data.coco import read_annotations
from kpzoo.data.results import Results, read_results
from kpzoo.errors import UserError
from kpzoo.evaluation import matching, metrics
from kpzoo.skeletons import COCO17, CROWDPOSE14

TENTHS = [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]


def person(rng, earlier, skeleton):
    """Keypoints as (K, 3); now and then a copy of an earlier person, or one without labels."""
    if earlier and rng.random() < 0.15:
        return earlier[rng.integers(len(earlier))].copy()
    size = rng.uniform(10, 200)
    points = np.round(rng.uniform(0, 300, 2) + rng.uniform(0, size, (skeleton.num_keypoints, 2)))
    flags = rng.choice([0, 1, 2], skeleton.num_keypoints, p=[0.3, 0.2, 0.5]) * (rng.random() > 0.1)
    return np.c_[points, flags] * (flags > 0)[:, None]


def scene(seed, skeleton=COCO17, with_boxes=False, num_images=8):
    """A small data set with all that the rules are about, and predictions for it, both as JSON values."""
    rng = np.random.default_rng(seed)
    images, annotations, predictions = [], [], []
    for image_id in rng.permutation(10 * num_images)[:num_images].tolist():
        images.append(dict(id=image_id, height=400, width=500, file_name=f"{image_id}.jpg", crowdIndex=rng.random()))
        persons = []
        for _ in range(rng.integers(0, 7)):
            keypoints = person(rng, persons, skeleton)
            persons.append(keypoints)
            low, high = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0) + 5
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=1,
                    keypoints=keypoints.ravel().tolist(),
                    num_keypoints=int((keypoints[:12, 2] > 0).sum()),
                    bbox=[*low.tolist(), *(high - low).tolist()],
                    area=float((high - low).prod() * rng.choice([0.5, 0.7])),
                    iscrowd=int(rng.random() < 0.1),
                )
            )
        for _ in range(rng.integers(0, 26)):
            if persons and rng.random() < 0.8:
                keypoints = persons[rng.integers(len(persons))].copy()
                keypoints[:, :2] += rng.normal(0, rng.choice([0, 1, 3, 10]), (skeleton.num_keypoints, 2))
            else:
                keypoints = np.c_[rng.uniform(0, 500, (skeleton.num_keypoints, 2)), np.ones(skeleton.num_keypoints)]
            score = float(np.round(rng.random(), rng.choice([1, 6])))
            row = dict(image_id=image_id, category_id=1, keypoints=keypoints.ravel().tolist(), score=score)
            if with_boxes:
                row["bbox"] = rng.uniform(5, 150, 4).tolist()
            predictions.append(row)
    rng.shuffle(predictions)
    rng.shuffle(annotations)
    category = dict(id=1, name="person", keypoints=list(skeleton.keypoints), skeleton=[])
    return dict(info={}, images=images, annotations=annotations, categories=[category]), predictions


def files(folder, content, predictions):
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(predictions))
    annotations = read_annotations(folder / "annotations.json")
    return annotations, read_results(folder / "results.json", annotations)


def pycocotools_evaluation(content, predictions, sigmas, image_ids=None):
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(copy.deepcopy(predictions)), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def one_person(tmp_path, poses, *, visibility=2, area=5000.0, **fields):
    """One person with all keypoints at (100, 100), and poses given as (offset in x, score)."""
    image = dict(id=1, height=400, width=500, file_name="1.jpg")
    keypoints = np.tile([100.0, 100.0, visibility], (17, 1))
    row = dict(id=1, image_id=1, category_id=1, keypoints=keypoints.ravel().tolist(), bbox=[90, 90, 20, 20], area=area)
    row |= dict(iscrowd=0, num_keypoints=17) | fields
    category = dict(id=1, name="person", keypoints=list(COCO17.keypoints))
    predictions = []
    for offset, score in poses:
        placed = keypoints + [offset, 0, 0]
        placed[0] += [0, 50, 0]  # so that the extent of the pose has an area
        predictions.append(dict(image_id=1, category_id=1, keypoints=placed.ravel().tolist(), score=score))
    return files(tmp_path, dict(images=[image], annotations=[row], categories=[category]), predictions)


def test_sigmas_are_bit_for_bit_those_of_the_tools():
    assert metrics.reference_sigmas(COCO17).tolist() == (np.array(TENTHS) / 10.0).tolist()
    limbs = np.repeat([0.79, 0.72, 0.62, 1.07, 0.87, 0.89], 2)
    assert metrics.reference_sigmas(CROWDPOSE14).tolist() == (np.array([*limbs, 0.79, 0.79]) / 10.0).tolist()


def test_no_pose_at_all_has_an_ap_of_zero(tmp_path):
    annotations, results = one_person(tmp_path, [])
    values = metrics.average_precision(annotations, results).values
    assert values["AP"] == values["AR"] == values["APM"] == 0.0 and values["APL"] == values["ARL"] == -1


def test_no_labelled_person_is_not_available_and_said_so(tmp_path):
    annotations, results = one_person(tmp_path, [(0, 0.9)], num_keypoints=0)
    result = metrics.average_precision(annotations, results)
    assert set(result.values.values()) == {-1}
    assert str(result).splitlines()[0].startswith("AP    n/a (no ground truth in range)")


def test_ap_of_three_poses_is_what_pencil_and_paper_say(tmp_path):
    # The second of three is right with 16 of 17 keypoints, an OKS of 0.94: at 9 of 10 thresholds, with a precision
    # of 1/2 at every recall.
    annotations, results = one_person(tmp_path, [(400, 0.9), (0, 0.8), (300, 0.7)])
    values = metrics.average_precision(annotations, results).values
    assert values["AP"] == pytest.approx(0.9 * 0.5) and values["AP50"] == pytest.approx(0.5)
    assert values["AR"] == pytest.approx(0.9) and values["AR75"] == 1.0


def test_oks_of_a_pair_is_the_formula_in_a_plain_loop():
    content, predictions = scene(3)
    for row in content["annotations"]:
        truth = np.array(row["keypoints"]).reshape(17, 3)
        persons = matching.Truth(
            image=np.zeros(1, int),
            num_images=1,
            keypoints_xy=truth[None, :, :2],
            labelled=truth[None, :, 2] > 0,
            boxes_xywh=np.array([row["bbox"]]),
            area=np.array([row["area"]]),
            is_crowd=np.zeros(1, bool),
            ignored=np.zeros(1, bool),
        )
        pose = np.array(predictions[0]["keypoints"]).reshape(17, 3)
        x0, y0, w, h = row["bbox"]
        terms = []
        for k, ((x, y, _), (gx, gy, v)) in enumerate(zip(pose, truth, strict=True)):
            if truth[:, 2].any():
                dx, dy = x - gx, y - gy
            else:
                dx = max(0, x0 - w - x) + max(0, x - (x0 + 2 * w))
                dy = max(0, y0 - h - y) + max(0, y - (y0 + 2 * h))
            if v or not truth[:, 2].any():
                terms.append(math.exp(-(dx**2 + dy**2) / (2 * (2 * COCO17.sigmas[k]) ** 2 * row["area"])))
        sigmas, first = np.array(COCO17.sigmas), np.zeros(1, int)
        oks = matching.pair_oks(persons, pose[None, :, :2], sigmas, first, first)
        assert oks[0] == pytest.approx(sum(terms) / len(terms), abs=1e-12)


@pytest.mark.parametrize("with_boxes", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_coco_metrics_equal_pycocotools(tmp_path, seed, with_boxes):
    content, predictions = scene(seed, with_boxes=with_boxes)
    annotations, results = files(tmp_path, content, predictions)
    result = metrics.average_precision(annotations, results)
    expected = pycocotools_evaluation(content, predictions, np.array(TENTHS) / 10.0)
    assert list(result.values) == ["AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"]
    np.testing.assert_allclose(list(result.values.values()), expected.stats, rtol=0, atol=1e-9)
    precision, recall = expected.eval["precision"][:, :, 0, 0, 0], expected.eval["recall"][:, 0, 0, 0]
    np.testing.assert_allclose(result.details["AP_per_threshold"], precision.mean(axis=1), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.details["precision"], precision, rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.details["AR_per_threshold"], recall, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_crowdpose_metrics_equal_pycocotools_with_crowdposes_area_and_images(tmp_path, seed):
    content, predictions = scene(seed, CROWDPOSE14, num_images=16)
    for row in content["annotations"]:
        del row["area"]
    annotations, results = files(tmp_path, content, predictions)
    values = metrics.average_precision(annotations, results, "crowdpose").values
    for row in content["annotations"]:
        row["area"] = 0.53 * row["bbox"][2] * row["bbox"][3]
    sigmas = metrics.reference_sigmas(CROWDPOSE14)
    stats = pycocotools_evaluation(content, predictions, sigmas).stats
    assert list(values) == ["AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_easy", "AP_medium", "AP_hard"]
    np.testing.assert_allclose(list(values.values())[:6], [*stats[:3], *stats[5:8]], rtol=0, atol=1e-9)
    for name, low, high in (("easy", 0, 0.2), ("medium", 0.2, 0.8), ("hard", 0.8, 9)):
        chosen = [image["id"] for image in content["images"] if low <= image["crowdIndex"] < high]
        stats = pycocotools_evaluation(content, predictions, sigmas, chosen).stats if chosen else [-1]
        assert values[f"AP_{name}"] == pytest.approx(stats[0], abs=1e-9)


@pytest.mark.parametrize("pairs", [1, 50])
def test_the_size_of_the_blocks_changes_nothing(tmp_path, pairs, monkeypatch):
    annotations, results = files(tmp_path, *scene(5, num_images=20))
    expected = metrics.average_precision(annotations, results).values
    monkeypatch.setattr(matching, "_PAIRS", pairs)
    assert metrics.average_precision(annotations, results).values == expected


def test_chosen_images_are_scored_alone(tmp_path):
    content, predictions = scene(6)
    annotations, results = files(tmp_path, content, predictions)
    chosen = annotations.image_ids[:4].tolist()
    stats = pycocotools_evaluation(content, predictions, np.array(TENTHS) / 10.0, chosen).stats
    result = metrics.average_precision(annotations, results, image_ids=chosen)
    np.testing.assert_allclose(list(result.values.values()), stats, rtol=0, atol=1e-9)
    assert result.circumstances["images"] == 4


REFERENCES = sorted(path.parent.name for path in (SHARED / "data/eval_reference").glob("*/expected.json"))
SHORT = {"AP_medium": "APM", "AP_large": "APL", "AR_medium": "ARM", "AR_large": "ARL"}


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data beside the project")
@pytest.mark.parametrize("name", REFERENCES)
def test_the_reference_sets_are_reproduced(shared, name):
    folder = shared / "data/eval_reference" / name
    expected = json.loads((folder / "expected.json").read_text())
    annotations = read_annotations(shared / "data" / expected["gt"])
    crowded = "crowd_index" in expected
    assert metrics.reference_sigmas(annotations.skeleton).tolist() == expected["sigmas"]
    for row in expected["sets"].values():
        results = read_results(folder / row["file"], annotations)
        assert len(results.scores) == row["n_predictions"]
        result = metrics.average_precision(annotations, results, "crowdpose" if crowded else "coco")
        stats = row["stats"] | row.get("stats_unrounded", {})
        stats = stats if crowded else {SHORT.get(key, key): value for key, value in stats.items()}
        assert result.values == pytest.approx(stats, rel=0, abs=1e-9)
        assert result.details["AP_per_threshold"] == pytest.approx(row["AP_at_oks_50_to_95"], rel=0, abs=1e-9)
        assert result.details["AR_per_threshold"] == pytest.approx(row["AR_at_oks_50_to_95"], rel=0, abs=1e-9)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data beside the project")
@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "lspet_val"])  # it comes without matrices
def test_the_reference_oks_matrices_are_reproduced(shared, name):
    folder = shared / "data/eval_reference" / name
    expected = json.loads((folder / "expected.json").read_text())
    annotations = read_annotations(shared / "data" / expected["gt"])
    results = read_results(folder / expected["sets"]["mixed"]["file"], annotations)
    ids = np.sort(annotations.image_ids)
    truth = metrics._truth(annotations, ids, "crowdpose" if "crowd_index" in expected else "coco")
    predictions = metrics._predictions(results, ids, annotations.skeleton)
    for row in expected["oks_matrices_of_set_mixed"]:
        image = np.searchsorted(ids, row["image_id"])
        poses, persons = np.flatnonzero(predictions.image == image), np.flatnonzero(truth.image == image)
        assert predictions.scores[poses].tolist() == row["pred_scores"]
        assert truth.ignored[persons].astype(int).tolist() == row["gt_ignore"]
        of_pose, of_person = np.repeat(poses, len(persons)), np.tile(persons, len(poses))
        sigmas = metrics.reference_sigmas(annotations.skeleton)
        oks = matching.pair_oks(truth, predictions.keypoints_xy, sigmas, of_pose, of_person)
        np.testing.assert_allclose(oks.reshape(len(poses), -1), row["oks"], rtol=0, atol=1e-9)


def test_the_table_names_protocol_and_boxes(tmp_path):
    annotations, results = one_person(tmp_path, [(0, 0.9)] * 23)
    result = metrics.average_precision(annotations, results, "crowdpose", boxes="detector:nanodet")
    assert result.circumstances["poses"] == 20 and result.circumstances["poses_left_out"] == 3
    lines = str(result).splitlines()
    assert "protocol: crowdpose" in lines and "boxes: detector:nanodet" in lines
    assert json.loads(json.dumps(result.values)) == result.values
    assert json.loads(json.dumps(result.circumstances)) == result.circumstances


def test_wrong_arguments_are_named(tmp_path):
    annotations, results = one_person(tmp_path, [(0, 0.9)])
    with pytest.raises(UserError, match="Did you mean 'coco'"):
        metrics.average_precision(annotations, results, "cocoo")
    with pytest.raises(UserError, match=r"Received: \[7\], 1 in all"):
        metrics.average_precision(annotations, results, image_ids=[1, 7])
    other = Results(results.image_ids, np.zeros((1, 14, 2)), np.zeros((1, 14)), results.scores)
    with pytest.raises(UserError, match="14 keypoints per pose, the annotations 17"):
        metrics.average_precision(annotations, other)


def pck_case(tmp_path):
    """A torso of 3-4-5 times 20 = 100 pixels, a person that lacks the left shoulder, one that lacks both shoulders."""
    truth = np.zeros((3, 17, 3))
    truth[:, :, 2] = 2
    truth[:, 5, :2], truth[:, 12, :2] = (100, 100), (160, 180)
    truth[:, 6, :2], truth[:, 11, :2] = (130, 100), (130, 150)
    truth[1, 5], truth[2, [5, 6]] = 0, 0
    rows = [
        dict(
            id=i + 1,
            image_id=1,
            category_id=1,
            keypoints=t.ravel().tolist(),
            bbox=[0, 0, 200, 300],
            area=9e3,
            iscrowd=0,
        )
        for i, t in enumerate(truth)
    ]
    image = dict(id=1, height=400, width=500, file_name="1.jpg")
    category = dict(id=1, name="person", keypoints=list(COCO17.keypoints))
    annotations, _ = files(tmp_path, dict(images=[image], annotations=rows, categories=[category]), [])
    return annotations, truth[..., :2]


def test_pck_counts_the_keypoints_within_a_fifth_of_the_torso(tmp_path):
    annotations, places = pck_case(tmp_path)
    moved = places.copy()
    moved[0, 0, 0] += 20.0  # exactly there
    moved[0, 1, 0] += 20.1
    moved[1, 2, 0] += 9.9  # the other diagonal is 50 pixels long
    moved[1, 3, 0] += 10.1
    result = metrics.pck(annotations, np.arange(3), moved)
    assert result.values["PCK@0.2"] == pytest.approx((16 + 15) / (17 + 16))
    rates = [0.5 if k in (1, 3) else 1.0 for k in range(17)]
    assert list(result.details["per_keypoint"].values()) == rates
    assert result.values["PCK@0.2_keypoint_mean"] == pytest.approx(np.mean(rates))
    assert result.circumstances["persons"] == 2 and result.circumstances["persons_left_out"] == 1
    assert result.details["num_labelled"]["left_shoulder"] == 1
    assert "left_eye" in str(result) and "boxes: gt" in str(result)


def test_pck_by_box_takes_the_longer_side_and_counts_everybody(tmp_path):
    annotations, places = pck_case(tmp_path)
    moved = places.copy()
    moved[0, 0, 0] += 60.0
    moved[2, 1, 0] += 60.1
    result = metrics.pck(annotations, np.arange(3), moved, normalize_by="box")
    assert result.values["PCK@0.2"] == pytest.approx((17 + 16 + 15 - 1) / (17 + 16 + 15))
    assert metrics.pck(annotations, np.arange(3), moved, normalize_by="box", threshold=0.21).values["PCK@0.21"] == 1


def test_pck_of_nobody_is_not_available(tmp_path):
    annotations, _ = pck_case(tmp_path)
    assert metrics.pck(annotations, np.array([], int), np.zeros((0, 17, 2))).values["PCK@0.2"] == -1


def test_pck_names_what_is_wrong(tmp_path):
    annotations, places = pck_case(tmp_path)
    with pytest.raises(UserError, match=r"must have shape \(2, 17, 2\)"):
        metrics.pck(annotations, np.arange(2), places)
    with pytest.raises(UserError, match="of pose 1 is not finite"):
        metrics.pck(annotations, np.arange(3), places * [[[1]], [[np.nan]], [[1]]])
    with pytest.raises(UserError, match="'box', 'torso'"):
        metrics.pck(annotations, np.arange(3), places, normalize_by="head")
    nameless = replace(
        annotations.skeleton, keypoints=tuple("abcdefghijklmnopq"), flip_pairs=(), links=(), upper_body=()
    )
    with pytest.raises(UserError, match="normalize_by='box'"):
        metrics.pck(replace(annotations, skeleton=nameless), np.arange(3), places)


def test_scoring_a_file_needs_no_tensorflow():
    names = "kpzoo.nms, kpzoo.evaluation.metrics, kpzoo.data.coco, kpzoo.data.results"
    code = f"import sys, {names}; sys.exit('tensorflow' in sys.modules or 'pycocotools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_keypoint_at_the_end_of_the_world_is_wrong_and_nothing_else(tmp_path, recwarn):
    annotations, results = one_person(tmp_path, [(1e300, 0.9), (0, 0.8)])
    assert metrics.average_precision(annotations, results).values["AR50"] == 1
    assert not recwarn.list
