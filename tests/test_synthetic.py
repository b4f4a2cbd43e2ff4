"""Drawn scenes: the same seed gives the same bytes, and every annotation agrees with the pixels it describes."""

import json
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from kpzoo.errors import UserError
from kpzoo.scenes import drawn
from kpzoo.scenes.drawn import draw_scene, write_drawn
from kpzoo.scenes.figures.clothes import sample_look
from kpzoo.scenes.figures.people import PARTS, draw_figure
from kpzoo.scenes.figures.postures import POSTURES, pose_body, sample_build, sample_posture
from kpzoo.skeletons import COCO17

SMALL_HW = (120, 160)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def scenes(crowding=0.6, count=8, image_hw=SMALL_HW):
    return [draw_scene((3, index), crowding=crowding, image_hw=image_hw) for index in range(count)]


def mask_of(annotation):
    encoded = annotation["segmentation"]
    return np.asarray(rle.decode([encoded]))[:, :, 0].astype(bool)


def keypoints_of(annotation):
    return np.array(annotation["keypoints"]).reshape(17, 3)


def nearest_overlaps(annotations):
    """The greatest IoU of every person's box with another's, box by box."""
    overlaps = []
    for i, one in enumerate(annotations):
        best = 0.0
        for j, other in enumerate(annotations):
            if i == j:
                continue
            (ax, ay, aw, ah), (bx, by, bw, bh) = one["bbox"], other["bbox"]
            w = max(0.0, min(ax + aw, bx + bw) - max(ax, bx))
            h = max(0.0, min(ay + ah, by + bh) - max(ay, by))
            best = max(best, w * h / (aw * ah + bw * bh - w * h))
        overlaps.append(best)
    return overlaps


def draw_one(yaw, name="stand", seed=0, bald=True, **angles):
    """One upright person alone, 200 pixels tall, in plain trousers."""
    rng = np.random.default_rng(seed)
    posture = replace(sample_posture(rng, name), **{"head": (0.0, 0.0, 0.0), "twist": 0.0, "roll": 0.0, **angles})
    look = sample_look(rng)
    look = replace(look, bag=None, hair="bald" if bald else "long", hem=0.0, trouser=1.0)
    body = pose_body(sample_build(rng), posture, yaw, 0.0)
    return draw_figure(body, look, 200.0, np.array([150.0, 140.0]), (300, 300), np.zeros(2))


def bare_names(figure):
    return {name for name, bare in zip(COCO17.keypoints, figure.bare, strict=True) if bare}


def point(figure, name):
    return figure.keypoints_image_xy[COCO17.keypoints.index(name)]


def test_the_same_seed_draws_the_same_scene_and_another_seed_does_not():
    image, annotations = draw_scene(5, image_hw=SMALL_HW)
    again, annotations_again = draw_scene(5, image_hw=SMALL_HW)
    other, _ = draw_scene(6, image_hw=SMALL_HW)
    assert image.dtype == np.uint8 and image.shape == (*SMALL_HW, 3)
    assert np.array_equal(image, again) and annotations == annotations_again
    assert not np.array_equal(image, other)


def test_a_longer_data_set_begins_with_the_shorter_one_byte_for_byte(tmp_path):
    short = write_drawn(tmp_path / "short", 2, seed=4, image_hw=SMALL_HW, crowding=0.5)
    long = write_drawn(tmp_path / "long", 4, seed=4, image_hw=SMALL_HW, crowding=0.5)
    few, many = json.loads(short.read_text()), json.loads(long.read_text())
    assert few["images"] == many["images"][:2] and len(many["images"]) == 4
    assert few["annotations"] == [row for row in many["annotations"] if row["image_id"] <= 2]
    for image in few["images"]:
        one, other = (tmp_path / name / "images/train" / image["file_name"] for name in ("short", "long"))
        assert one.read_bytes() == other.read_bytes()


def test_two_splits_of_one_seed_share_no_picture(tmp_path):
    for split in ("train", "val"):
        write_drawn(tmp_path, 2, split=split, image_hw=SMALL_HW)
    pictures = [path.read_bytes() for path in sorted(tmp_path.glob("images/*/*.jpg"))]
    assert len(pictures) == 4 and len(set(pictures)) == 4


def test_the_written_folder_is_what_pycocotools_reads(tmp_path, capsys):
    path = write_drawn(tmp_path / "set", 3, seed=9, crowding=0.25, split="val", image_hw=SMALL_HW)
    assert path == tmp_path / "set/annotations/person_keypoints_val.json"
    coco = COCO(str(path))
    assert coco.loadCats([1])[0]["keypoints"] == list(COCO17.keypoints)
    assert {key: coco.dataset["info"][key] for key in ("seed", "crowding")} == {"seed": 9, "crowding": 0.25}
    assert "synthetic" in coco.dataset["info"]["generator"]
    assert len(coco.anns) == len(coco.dataset["annotations"]) > 3
    for image in coco.loadImgs(coco.getImgIds()):
        pixels = cv2.imread(str(tmp_path / "set/images/val" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3) == (*SMALL_HW, 3)
        masks = [coco.annToMask(annotation) for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))]
        assert masks and sum(masks).max() == 1, "masks of different people share no pixel"


def test_masks_areas_and_boxes_agree():
    for _, annotations in scenes():
        for annotation in annotations:
            mask = mask_of(annotation)
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["area"] == mask.sum() > 0
            assert annotation["bbox"] == box
            assert (annotation["iscrowd"], annotation["category_id"]) == (0, 1)


@pytest.mark.parametrize("crowding", [0.0, 1.0])
def test_visibility_agrees_with_the_masks(crowding):
    seen = {0: 0, 1: 0, 2: 0}
    for _, annotations in scenes(crowding, 14):
        for annotation in annotations:
            mask = mask_of(annotation)
            keypoints = keypoints_of(annotation)
            assert annotation["num_keypoints"] == (keypoints[:, 2] > 0).sum()
            assert (keypoints[:, 2] == 2).sum() >= 3, "a person without visible keypoints is not annotated"
            for x, y, v in keypoints:
                seen[int(v)] += 1
                if v == 0:
                    assert (x, y) == (0, 0)
                    continue
                assert 0 <= x <= SMALL_HW[1] - 1 and 0 <= y <= SMALL_HW[0] - 1
                row, column = round(y), round(x)
                near = mask[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                if v == 2:
                    assert near.mean() >= 0.4, "a joint that shows lies in the own mask"
                if not near.any():
                    assert v == 1, "a joint behind something else is hidden"
    assert seen[1] > 0 and seen[2] > seen[1]


def test_joints_beyond_the_picture_are_not_labelled():
    flags = [keypoints_of(row)[:, 2] for _, rows in scenes(0.0, 40, (64, 64)) for row in rows]
    assert any((v == 0).any() for v in flags)


@pytest.mark.parametrize("yaw, sign", [(0, 1), (180, -1), (25, 1), (-155, -1)])
def test_the_left_side_is_on_the_pictures_right_from_the_front_and_on_its_left_from_the_back(yaw, sign):
    figure = draw_one(yaw)
    for part in ("eye", "ear", "shoulder", "hip"):
        assert sign * (point(figure, f"left_{part}") - point(figure, f"right_{part}"))[0] > 0


def test_the_face_shows_from_the_front_only():
    face = {"nose", "left_eye", "right_eye"}
    front, back = draw_one(0), draw_one(180)
    assert face | {"left_ear", "right_ear"} <= bare_names(front)
    assert not face & bare_names(back)
    contrast = [figure.rgba[figure.parts == PARTS.index("head")][:, :3].std(0).mean() for figure in (front, back)]
    assert contrast[0] > 1.3 * contrast[1], "eyes, nose and mouth are drawn"


@pytest.mark.parametrize("yaw, near, far", [(90, "right", "left"), (-90, "left", "right")])
def test_the_far_side_of_a_profile_is_hidden(yaw, near, far):
    names = bare_names(draw_one(yaw))
    assert {f"{near}_{part}" for part in ("eye", "ear", "shoulder", "knee")} <= names
    assert not {f"{far}_{part}" for part in ("eye", "ear", "shoulder", "hip")} & names
    assert "nose" in names


def test_long_hair_hides_the_ears():
    assert not {"left_ear", "right_ear"} & bare_names(draw_one(0, bald=False))


@pytest.mark.parametrize("yaw, shows", [(0, False), (180, True)])
def test_a_wrist_behind_the_back_shows_from_behind_only(yaw, shows):
    arms = np.array([(-22.0, -2.0, -85.0, 85.0), (0.0, 12.0, 0.0, 10.0)])
    names = bare_names(draw_one(yaw, arms=arms, bend=0.0, lean=0.0))
    assert ("left_wrist" in names) is shows
    assert "right_wrist" in names


@pytest.mark.parametrize("name", POSTURES)
def test_every_posture_draws_all_its_limbs_in_one_piece(name):
    figure = draw_one(35, name, seed=2)
    pieces, _ = cv2.connectedComponents((figure.parts > 0).astype(np.uint8))
    assert pieces == 2, "the background and one body"
    assert {"torso", "head"} <= {PARTS[index] for index in np.unique(figure.parts)}
    assert figure.bare.sum() >= 6


def test_more_crowding_means_more_overlap_up_to_that_of_ochuman():
    curve = []
    for crowding in (0.0, 0.5, 1.0):
        scenes = [draw_scene((8, index), crowding=crowding, image_hw=(96, 128)) for index in range(70)]
        curve.append(np.mean([overlap for _, rows in scenes for overlap in nearest_overlaps(rows)]))
    assert curve[0] < 0.02
    assert 0.2 < curve[1] < 0.45
    assert curve[2] == pytest.approx(0.67, abs=0.05)


def test_as_many_people_are_drawn_as_asked():
    counts = [len(draw_scene((1, index), people=(3, 3), image_hw=SMALL_HW)[1]) for index in range(10)]
    assert max(counts) == 3 and np.mean(counts) > 2.6
    assert all(len(draw_scene((1, index), people=(1, 1), image_hw=SMALL_HW)[1]) == 1 for index in range(5))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crowding": 1.01}, r"`crowding=` must be in \[0, 1\]. Received: 1.01"),
        ({"crowding": -0.1}, r"`crowding=` must be in \[0, 1\]. Received: -0.1"),
        ({"crowding": float("nan")}, "`crowding=` must be in .* Received: nan"),
        ({"crowding": 0.5, "people": (1, 1)}, "needs at least two people"),
        ({"people": (0, 2)}, r"1 <= fewest <= most <= 20. Received: \(0, 2\)"),
        ({"people": (3, 2)}, r"Received: \(3, 2\)"),
        ({"image_hw": (16, 320)}, r"Received: \(16, 320\)"),
        ({"num_images": 0}, "at least one image. Received: 0"),
        ({"seed": -1}, "`seed=` must be 0 or more. Received: -1"),
        ({"split": "../train"}, "plain name .* Received: '../train'"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        write_drawn(tmp_path / "set", **{"num_images": 1, **options})
    assert not (tmp_path / "set").exists()


def test_an_existing_split_is_replaced_only_when_asked(tmp_path):
    path = write_drawn(tmp_path, 3, image_hw=SMALL_HW)
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists already. .*overwrite=True"):
        write_drawn(tmp_path, 1, image_hw=SMALL_HW)
    assert path.read_bytes() == before
    write_drawn(tmp_path, 1, image_hw=SMALL_HW, overwrite=True)
    assert [image.name for image in (tmp_path / "images/train").iterdir()] == ["000000000001.jpg"]
    assert sorted(item.name for item in tmp_path.rglob("*") if item.is_dir()) == ["annotations", "images", "train"]


@pytest.mark.parametrize("text", ['{"info": {"generator": "a camera"}}', '{"images": []}', "not json"])
def test_what_others_wrote_is_never_overwritten(tmp_path, text):
    path = tmp_path / "annotations/person_keypoints_train.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match="is not overwritten"):
        write_drawn(tmp_path, 1, image_hw=SMALL_HW, overwrite=True)
    assert path.read_text() == text and not (tmp_path / "images").exists()


def test_a_failure_half_way_leaves_the_old_split_as_it_was(tmp_path, monkeypatch):
    path = write_drawn(tmp_path, 2, image_hw=SMALL_HW)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def failing(seed, **options):
        if seed[-1] == 1:
            raise OSError("disk full")
        return draw_scene(seed, **options)

    monkeypatch.setattr(drawn, "draw_scene", failing)
    with pytest.raises(UserError, match="Cannot write .*disk full"):
        write_drawn(tmp_path, 3, seed=7, image_hw=SMALL_HW, overwrite=True)
    assert path.exists()
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_drawing_does_not_need_tensorflow():
    code = "import sys, kpzoo.scenes.drawn as s; s.draw_scene(0); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_data_sets_of_before_are_recognised():
    assert (
        drawn.GENERATOR.split()[0] == "kpzoo.data.synthetic"
    )  # what is written in them; it must not follow the module's name
