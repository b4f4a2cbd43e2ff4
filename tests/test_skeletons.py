"""Which keypoints two skeletons share: by name, by the table of names of one joint, and never by another point."""

from itertools import product

import numpy as np
import pytest

from kpzoo.skeletons import AIC14, COCO17, CROWDPOSE14, MPII16, POSETRACK17, SKELETONS, Skeleton

NECKS, HEADS = {"neck", "upper_neck", "head_bottom"}, {"head", "head_top"}


def skeleton_of(*keypoints):
    return Skeleton("own", keypoints, (), (0.05,) * len(keypoints), ())


@pytest.mark.parametrize(("one", "other"), [*product(SKELETONS.values(), repeat=2)], ids=lambda skeleton: skeleton.name)
def test_shared_keypoints_are_the_same_from_both_sides_and_mirrored_alike(one, other):
    own, others = one.shared_with(other)
    back = other.shared_with(one)
    assert (np.diff(own) > 0).all()
    assert set(zip(own, others, strict=True)) == set(zip(*reversed(back), strict=True))
    assert len(set(others)) == len(others)
    assert len(own) >= 12  # all have shoulders to ankles
    other_of = dict(zip(own, others, strict=True))
    for k, same in other_of.items():
        assert other_of[one.flip_order[k]] == other.flip_order[same]
        names = {one.keypoints[k], other.keypoints[same]}
        assert len(names) == 1 or names <= NECKS or names <= HEADS
    places = one.places_in(other)
    assert {k: place for k, place in enumerate(places) if place >= 0} == other_of


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        (COCO17, COCO17, 17),
        (COCO17, CROWDPOSE14, 12),
        (COCO17, MPII16, 12),
        (COCO17, POSETRACK17, 15),  # with nose and ears
        (CROWDPOSE14, AIC14, 14),
        (CROWDPOSE14, MPII16, 14),
        (MPII16, POSETRACK17, 14),
    ],
)
def test_the_number_of_shared_keypoints(one, other, count):
    assert len(one.shared_with(other)[0]) == count


def test_thorax_and_pelvis_are_points_of_mpii_alone():
    for other in SKELETONS.values():
        shared = {MPII16.keypoints[k] for k in MPII16.shared_with(other)[0]}
        assert {"thorax", "pelvis"} & shared == ({"thorax", "pelvis"} if other is MPII16 else set())


def test_names_may_be_written_in_other_ways():
    own, others = AIC14.shared_with(skeleton_of("Head top", "Left Shoulder", "tail"))
    assert [AIC14.keypoints[k] for k in own] == ["left_shoulder", "head_top"] and others.tolist() == [1, 0]


def test_a_skeleton_with_two_names_of_a_joint_means_two_joints():
    two = skeleton_of("head", "head_top", "neck")
    assert [pair.tolist() for pair in two.shared_with(CROWDPOSE14)] == [[0, 2], [12, 13]]
    assert [pair.tolist() for pair in two.shared_with(skeleton_of("top_head", "neck"))] == [[2], [1]]


def test_names_that_are_alike_but_for_signs_are_told_apart():
    signs = skeleton_of("+", "-", "tip")
    assert signs.places_in(signs).tolist() == [0, 1, 2]
    assert signs.places_in(skeleton_of("-", "+")).tolist() == [1, 0, -1]


def test_a_part_of_a_skeleton_keeps_what_lies_within():
    part = COCO17.part(np.array([0, 5, 6, 7]))
    assert part.keypoints == ("nose", "left_shoulder", "right_shoulder", "left_elbow")
    assert part.sigmas == (0.026, 0.079, 0.079, 0.072)
    assert part.flip_pairs == (("left_shoulder", "right_shoulder"),)
    assert set(part.links) == {("left_shoulder", "left_elbow"), ("left_shoulder", "right_shoulder")}
    assert part.name == "coco17, 4 of 17 keypoints"
