"""Drawing: what the pixels say about side, confidence and instance, at every size."""

import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from kpzoo.drawing import ACCENTS, COLOURS, INSTANCES, Picture, before_after, contact_sheet, draw_poses, heatmap_overlay
from kpzoo.errors import UserError
from kpzoo.skeletons import COCO17, CROWDPOSE14, Skeleton

LEFT, RIGHT, MIDDLE = COLOURS[-1], COLOURS[1], COLOURS[0]
GREY = 90


def figure(size=100.0) -> np.ndarray:
    """(1, 17, 2): a standing person seen from the front (its left is at our right), filling a square of that size."""
    at = {"nose": (50, 12), "eye": (53, 9), "ear": (57, 10), "shoulder": (62, 25), "elbow": (72, 40)}
    at |= {"wrist": (75, 55), "hip": (58, 55), "knee": (60, 75), "ankle": (61, 95)}
    points = []
    for name in COCO17.keypoints:
        x, y = at[name.split("_")[-1]]
        points.append((100 - x if name.startswith("right") else x, y))
    return np.array([points], float) * size / 100


def ground(height=100, width=100) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def draw(size=100, score=1.0, **options) -> np.ndarray:
    return np.asarray(draw_poses(ground(size, size), figure(size), np.full((1, 17), score), COCO17, **options))


def between(first: str, second: str, size=100) -> tuple[int, int]:
    """(row, column) of the middle of a limb."""
    points = figure(size)[0]
    x, y = (points[COCO17.keypoints.index(first)] + points[COCO17.keypoints.index(second)]) / 2
    return round(y), round(x)


@pytest.mark.parametrize("size", [100, 400, 3000])
@pytest.mark.parametrize(
    ("first", "second", "colour"),
    [
        ("left_hip", "left_knee", LEFT),
        ("right_hip", "right_knee", RIGHT),
        ("left_shoulder", "right_shoulder", MIDDLE),
        ("left_ear", "left_shoulder", LEFT),
    ],
)
def test_a_limb_has_the_colour_of_its_side(size, first, second, colour):
    np.testing.assert_allclose(draw(size)[between(first, second, size)], colour, atol=2)


def test_a_flip_pair_that_names_the_right_first_has_the_same_colours():
    swapped = replace(COCO17, flip_pairs=tuple((right, left) for left, right in COCO17.flip_pairs))
    other = draw_poses(ground(), figure(), np.ones((1, 17)), swapped)
    np.testing.assert_array_equal(other, draw())


def simulated(colour, kind) -> np.ndarray:
    """The colour as people see it who lack a kind of cone: Machado, Oliveira, Fernandes 2009, in linear RGB."""
    matrix = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        "none": np.eye(3),
    }[kind]
    seen = np.clip(np.array(matrix) @ (np.array(colour) / 255) ** 2.2, 0, 1) ** (1 / 2.2)
    return cv2.cvtColor(np.float32(seen)[None, None], cv2.COLOR_RGB2LAB)[0, 0]


@pytest.mark.parametrize("kind", ["none", "protan", "deutan", "tritan"])
def test_sides_and_outlines_differ_for_every_kind_of_colour_vision(kind):
    def nearest(colours):
        seen = [simulated(colour, kind) for colour in colours]
        return min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i])

    assert nearest(COLOURS.values()) > 25  # in units of CIE Lab, where about 2.3 can just be told apart
    assert nearest(ACCENTS[:2]) > 25


def test_little_confidence_is_faint_and_too_little_is_not_drawn():
    place = between("left_hip", "left_knee")
    strength = [np.abs(draw(score=score)[place].astype(int) - GREY).sum() for score in (1.0, 0.6, 0.3, 0.1)]
    assert strength[0] > strength[1] > strength[2] > strength[3] == 0
    np.testing.assert_array_equal(draw(score=0.1), ground())
    assert (draw(score=0.1, min_score=0.05) != GREY).any()


def test_a_joint_that_is_not_seen_takes_its_limbs_with_it():
    scores = np.ones((1, 17))
    scores[0, COCO17.keypoints.index("left_knee")] = 0
    picture = draw_poses(ground(), figure(), scores, COCO17)
    for limb in (("left_hip", "left_knee"), ("left_knee", "left_ankle")):
        assert (picture[between(*limb)] == GREY).all()
    assert (picture[between("right_hip", "right_knee")] != GREY).any()


def colours_along(picture, first, second, size) -> set:
    points = figure(size)[0]
    start, end = points[COCO17.keypoints.index(first)], points[COCO17.keypoints.index(second)]
    path = np.rint(start + np.linspace(0.15, 0.85, 200)[:, None] * (end - start)).astype(int)
    return {tuple(map(int, picture[y, x])) for x, y in path}


@pytest.mark.parametrize("instance", [1, 2, 3])
def test_further_people_of_a_box_are_dashed_on_their_own_colour(instance):
    assert colours_along(draw(400), "left_hip", "left_knee", 400) == {LEFT}
    dashed = colours_along(draw(400, instance=[instance]), "left_hip", "left_knee", 400)
    assert {LEFT, ACCENTS[instance]} <= dashed


def test_limbs_can_have_the_colour_of_their_instance():
    limbs = [("left_hip", "left_knee"), ("right_hip", "right_knee")]
    for instance in range(4):
        picture = draw(400, instance=[instance], colour_by="instance")
        for limb in limbs:
            colours = colours_along(picture, *limb, 400)
            assert INSTANCES[instance] in colours
            assert not colours & (set(INSTANCES) - {INSTANCES[instance]})
    with pytest.raises(UserError, match="'side'"):
        draw(400, colour_by="sides")


def test_the_first_person_of_a_box_is_drawn_over_the_second():
    both = np.concatenate([figure(), figure()])
    pair = draw_poses(ground(), both, np.ones((2, 17)), COCO17, instance=[0, 1])
    alone = draw()
    drawn = (alone != GREY).any(-1)
    np.testing.assert_allclose(pair[between("left_hip", "left_knee")], alone[between("left_hip", "left_knee")])
    assert (pair != GREY).any(-1)[drawn].all()


@pytest.mark.parametrize("scores", [[0.9, 0.1], [0.1, 0.9]])
def test_the_best_pose_is_on_top(scores):
    mirrored = figure()[:, COCO17.flip_order]
    picture = draw_poses(ground(), np.concatenate([figure(), mirrored]), np.ones((2, 17)), COCO17, scores=scores)
    on_top = LEFT if scores[0] > scores[1] else RIGHT
    np.testing.assert_allclose(picture[between("left_hip", "left_knee")], on_top, atol=2)


@pytest.mark.parametrize(("size", "least", "most"), [(100, 2, 8), (640, 8, 20), (3000, 30, 80)])
def test_limbs_are_as_wide_as_person_and_picture_ask(size, least, most):
    row, column = between("left_hip", "left_knee", size)
    across = (draw(size)[row, size // 2 : size - size // 10] != GREY).any(-1)  # the left leg with its outline
    assert least <= across.sum() <= most
    assert across[column - size // 2]


def test_a_small_person_in_a_large_picture_keeps_a_visible_line():
    picture = draw_poses(ground(2000, 3000), figure(60), np.ones((1, 17)), COCO17)
    row, column = between("left_hip", "left_knee", 60)
    assert (picture[row, column - 6 : column + 7] != GREY).any(-1).sum() >= 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e12, -1e12])
def test_impossible_coordinates_do_no_harm(bad):
    points = figure()
    points[0, 9] = bad
    boxes = np.array([[bad, 0.0, 10.0, bad]])
    picture = draw_poses(ground(), points, np.ones((1, 17)), COCO17, boxes_xywh=boxes, scores=[0.5])
    np.testing.assert_allclose(picture[between("right_hip", "right_knee")], RIGHT, atol=2)


def test_nothing_to_draw_gives_a_copy():
    image = ground()
    nobody = draw_poses(image, np.zeros((0, 17, 2)), np.zeros((0, 17)), COCO17, boxes_xywh=np.zeros((0, 4)), scores=[])
    np.testing.assert_array_equal(nobody, image)
    assert not np.shares_memory(nobody, image)
    no_links = Skeleton("dots", ("a", "b"), (), (0.1, 0.1), ())
    dots = draw_poses(image, np.array([[[20.0, 20], [70, 70]]]), np.ones((1, 2)), no_links)
    assert (dots[20, 20] == MIDDLE).all() and (image == GREY).all()


def test_keypoints_of_another_skeleton_are_refused():
    with pytest.raises(UserError, match=r"'crowdpose14' need keypoints_xy \(P, 14, 2\).*Received: \(1, 17, 2\)"):
        draw_poses(ground(), figure(), np.ones((1, 17)), CROWDPOSE14)


def test_boxes_are_thin_and_labelled_where_there_is_room():
    def with_box(box, **options):
        return draw_poses(
            ground(400, 400), figure(), np.zeros((1, 17)), COCO17, boxes_xywh=np.array([box], float), **options
        )

    large = with_box([100, 100, 200, 250])
    changed = (large != GREY).any(-1)
    assert changed[100, 100:300].all() and changed[350, 100:300].all() and changed[100:350, 300].all()
    assert not changed[104:346, 104:296].any() and changed.sum() <= 7 * 2 * (200 + 250)
    assert (with_box([100, 100, 200, 250], scores=[0.75])[85:97, 105:120] != GREY).any()
    small = [[100, 100, 20, 25]]
    np.testing.assert_array_equal(with_box(small[0], scores=[0.75]), with_box(small[0]))


def test_no_limb_covers_a_score():
    options = dict(boxes_xywh=np.array([[100.0, 100, 200, 250]]), scores=[0.75])
    points = np.stack([np.linspace(90, 310, 17), np.tile([80.0, 110], 9)[:17]], 1)[None]  # to and fro over the plate
    blank, limbs = (
        draw_poses(ground(400, 400), points, np.full((1, 17), score), COCO17, **options) for score in (0, 1)
    )
    plate = np.s_[85:97, 102:120]
    assert (blank[plate] != GREY).any() and (limbs != blank).any()
    np.testing.assert_array_equal(limbs[plate], blank[plate])


def test_captions_of_large_pictures_stay_small():
    images = [np.zeros((900, 1200, 3), np.uint8)] * 2
    plain, sheet = (contact_sheet(images, 2, captions, cell_hw=(900, 1200)) for captions in (None, ["a", "b"]))
    assert sheet.shape[0] - plain.shape[0] <= 28


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_a_heatmap_glows_where_it_is_high_whatever_its_scale(peak):
    heatmaps = np.zeros((16, 12, 3), np.float32)
    heatmaps[4, 3, 1] = peak
    overlay = heatmap_overlay(np.full((64, 48, 3), 200, np.uint8), heatmaps)
    assert overlay.shape == (64, 48, 3) and overlay.dtype == np.uint8
    row, column = np.unravel_index(np.asarray(overlay).sum(-1).argmax(), (64, 48))
    assert abs(row - 17.5) <= 1 and abs(column - 13.5) <= 1  # the centre of heatmap pixel (4, 3), four times as large
    assert (overlay[40:] == 120).all()


@pytest.mark.parametrize("value", [0.0, np.nan, -1.0])
def test_a_heatmap_without_a_peak_darkens_evenly(value):
    overlay = heatmap_overlay(ground(), np.full((25, 25, 2), value))
    assert len(np.unique(np.asarray(overlay))) == 1 and overlay[0, 0, 0] <= GREY


def test_a_sheet_shows_each_picture_whole_in_its_cell():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    shapes = [(10, 40), (400, 100), (30, 30)]
    images = [np.full((*shape, 3), colour, np.uint8) for shape, colour in zip(shapes, colours, strict=True)]
    sheet = contact_sheet(images, columns=2, cell_hw=(100, 100))
    assert sheet.shape == (2 * 104 + 4, 2 * 104 + 4, 3)
    for (row, column), colour, (height, width) in zip([(0, 0), (0, 1), (1, 0)], colours, shapes, strict=True):
        cell = sheet[4 + row * 104 :, 4 + column * 104 :][:100, :100]
        scale = 100 / max(height, width)
        assert (cell == colour).all(-1).sum() == round(height * scale) * round(width * scale)
        assert (cell[50, 50] == colour).all()
    assert (sheet[108:, 108:] == 255).all()


@pytest.mark.parametrize(
    "captions", [["one", "two"], ["a very long caption that fits nowhere" * 3, ""], ["λ = 0", "日本"]]
)
def test_captions_stay_in_their_cells(captions):
    images = [ground(), ground()]
    plain, sheet = contact_sheet(images, 2, cell_hw=(100, 100)), contact_sheet(images, 2, captions, cell_hw=(100, 100))
    assert sheet.shape[0] > plain.shape[0] and sheet.shape[1] == plain.shape[1]
    np.testing.assert_array_equal(sheet[:104], plain[:104])
    assert (sheet[104:] < 255).any() and (sheet[104:, :4] == 255).all() and (sheet[104:, 104:108] == 255).all()


def test_a_sheet_of_nothing_is_white_and_captions_must_be_as_many_as_pictures():
    assert (contact_sheet([], 3) == 255).all()
    with pytest.raises(UserError, match="2 images, 1 captions"):
        contact_sheet([ground(), ground()], 2, ["one"])


def test_before_and_after_stand_side_by_side_in_full_size():
    colours = (10, 60, 110), (200, 150, 100)  # not grey, as the captions are
    sheet = before_after(*(np.full((60, 80, 3), colour, np.uint8) for colour in colours))
    left, right = (np.argwhere((sheet == colour).all(-1)) for colour in colours)
    assert len(left) == len(right) == 60 * 80
    assert left[:, 1].max() < right[:, 1].min()


def test_a_notebook_gets_a_png_of_a_picture_and_only_of_a_picture():
    picture = draw_poses(ground(), figure(), np.ones((1, 17)), COCO17)
    shown = cv2.imdecode(np.frombuffer(picture._repr_png_(), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(shown, picture)
    for part in (picture[..., 0], picture[:0], picture / 255, picture.sum()):
        assert not isinstance(part, Picture) or part._repr_png_() is None


def test_pictures_poses_and_boxes_need_no_tensorflow():
    code = "import sys, kpzoo.drawing, kpzoo.poses, kpzoo.inference.detectors; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
