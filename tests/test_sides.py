"""Left and right of a skeleton: read from a category or from names in any script, or known to be unknown."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from reliability_rows import row
from test_coco import annotation, content, write

import kpzoo
from kpzoo.data import augment, check, flip_pairs, loading, sides
from kpzoo.data.coco import read_annotations
from kpzoo.data.sides import sides_of
from kpzoo.errors import UserError
from kpzoo.inference.folded_model import flip_test_heatmaps, instance_heatmaps
from kpzoo.skeletons import COCO17, SKELETONS, Skeleton

# A part of the body that lies in the middle, and three with two sides, in some languages.
PARTS = {
    "latin": ("nose", ["eye", "shoulder", "knee"]),
    "cyrillic": ("нос", ["глаз", "плечо", "колено"]),
    "chinese": ("鼻", ["眼", "肩", "膝"]),
    "arabic": ("أنف", ["عين", "كتف", "ركبة"]),
    "thai": ("จมูก", ["ตา", "ไหล่", "เข่า"]),
    "hindi": ("नाक", ["आंख", "कंधा", "घुटना"]),
    "korean": ("코", ["눈", "어깨", "무릎"]),
}
STYLES = ["{side}_{part}", "{part}_{side}", "{side} {part}", "{part}.{side}", "{part}-{side}", "{part} ({side})"]
WORDS = [pair for left, right in sides._LANGUAGES for pair in zip(left.split(), right.split(), strict=False)]


@row(
    77,
    "Keypoint names in many languages and scripts, in any order and spelling, such as ojo_izq, 左眼, RKnee",
    "Paired by the words for left and right; `flip_pairs` or `flip_idx` of the category take precedence",
)
@given(
    words=st.sampled_from(WORDS), style=st.sampled_from(STYLES), script=st.sampled_from(sorted(PARTS)), data=st.data()
)
def test_any_word_for_a_side_pairs_names_in_any_order_case_and_script(words, style, script, data):
    middle, parts = PARTS[script]
    case = data.draw(st.sampled_from([str, str.upper, str.title]))
    pairs = [tuple(case(style.format(side=side, part=part)) for side in words) for part in parts]
    names = data.draw(st.permutations([case(middle), *(name for pair in pairs for name in pair)]))
    found = sides_of(names)
    assert set(map(frozenset, found.pairs)) == set(map(frozenset, pairs))
    assert found.unpaired == found.unclear == ()


@given(
    letters=st.sampled_from(sides._LETTERS),
    style=st.sampled_from([*STYLES, "{side}{part}", "{part}{side}"]),
    upper=st.booleans(),
)
def test_one_letter_is_enough_where_several_pairs_agree(letters, style, upper):
    letters = [letter.upper() if upper else letter for letter in letters]
    parts = ["Shoulder", "Elbow", "Knee"] if upper else ["shoulder", "elbow", "knee"]
    pairs = [tuple(style.format(side=side, part=part) for side in letters) for part in parts]
    found = sides_of(["nose", *(name for pair in pairs for name in pair)])
    assert set(map(frozenset, found.pairs)) == set(map(frozenset, pairs))
    assert found.unclear == ()


@given(names=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=20, unique=True))
def test_of_any_names_each_is_in_one_pair_at_most_and_never_in_two_groups(names):
    found = sides_of(names)
    paired = [name for pair in found.pairs for name in pair]
    assert len(set(paired)) == len(paired) and set(paired) <= set(names)
    assert not set(paired) & {*found.unpaired, *found.unclear}


@given(style=st.sampled_from(["{}", "kp{}", "point_{}", "kpt-{:02d}", "P {}", "关键点{}"]), count=st.integers(2, 30))
def test_numbered_keypoints_have_no_known_sides(style, count):
    names = [style.format(number) for number in range(1, count + 1)]
    assert sides_of(names) == ((), (), tuple(names))


@given(swap=st.lists(st.booleans(), min_size=1, max_size=8), data=st.data())
def test_flip_idx_and_flip_pairs_of_one_order_say_the_same(swap, data):
    names = tuple(f"kp{number}" for number in range(2 * len(swap)))
    places = data.draw(st.permutations(range(len(names))))
    pairs = [places[2 * k : 2 * k + 2] for k, swapped in enumerate(swap) if swapped]
    order = list(range(len(names)))
    for a, b in pairs:
        order[a], order[b] = b, a
    named = [[names[a], names[b]] for a, b in pairs]
    assert flip_pairs._unordered(flip_pairs._named_pairs(named, names, "")) == flip_pairs._unordered(
        flip_pairs._indexed_pairs(order, names, "")
    )


COMMON = {
    "MPII": "r_ankle r_knee r_hip l_hip l_knee l_ankle pelvis thorax upper_neck head_top r_wrist r_elbow r_shoulder "
    "l_shoulder l_elbow l_wrist",
    "BODY_25": "Nose Neck RShoulder RElbow LShoulder LElbow MidHip RHip LHip REye LEye LBigToe RBigToe",
    "animals": "L_Eye R_Eye L_EarBase R_EarBase Nose Throat TailBase Withers L_F_Elbow R_F_Elbow L_B_Elbow R_B_Elbow",
    "spine": "pelvis spine1 spine2 spine3 neck left_hip right_hip C7 T12 L5",
    "hand": "wrist thumb1 thumb2 thumb3 thumb4 index1 index2 index3 index4 index_tip thumb_tip",
    "racket": "tip throat butt",
}


@pytest.mark.parametrize("name", COMMON)
def test_common_skeletons_are_clear(name):
    names = COMMON[name].split()
    found = sides_of(names)
    assert (found.unpaired, found.unclear) == ((), ())
    assert len(found.pairs) == sum(
        word.startswith(("l_", "L_", "left")) or word[:2] in ("LS", "LE", "LH", "LB") for word in names
    )


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=list(SKELETONS))
def test_the_pairs_of_our_skeletons_follow_from_their_names(skeleton):
    pairs, *unknown = sides_of(skeleton.keypoints)
    assert (sorted(pairs), *unknown) == (sorted(skeleton.flip_pairs), (), ())


@pytest.mark.parametrize(
    ("names", "unclear"),
    [
        ("eye1 eye2 nose", "eye1 eye2"),
        ("nose leye reye", "leye reye"),  # one pair alone proves nothing
        ("okoA okoB uchoA uchoB", "okoA okoB uchoA uchoB"),
        ("a_foo a_bar b_foo b_bar left_hip right_hip", "a_foo a_bar b_foo b_bar"),
        ("l_hip r_hip r_knee", "r_knee"),
        ("鼻 左眼 右眼 左耳", "左耳"),
        ("left_eye right_eye 3 4", "3 4"),
    ],
)
def test_what_could_be_a_pair_is_unclear(names, unclear):
    assert sides_of(names.split()).unclear == tuple(unclear.split())


def test_names_that_shrink_to_the_same_words_do_not_take_each_others_place():
    names = ("left_eye", "Left Eye", "right_eye", "Right Eye")
    assert sides_of(names).pairs == (("left_eye", "right_eye"), ("Left Eye", "Right Eye"))
    found = sides_of(("left_eye", "left-eye", "right_eye"))
    assert found.pairs == (("left_eye", "right_eye"),) and found.unpaired == ("left-eye",)
    assert sides_of(("-", "_", "+")).unclear == ("-", "_", "+")


def of_names(names, **category):
    """COCO content of one person with the given keypoints."""
    names = list(names)
    row = annotation(
        1, keypoints=[float(3 * k + j % 3 + 5) if j % 3 < 2 else 2 for k in range(len(names)) for j in range(3)]
    )
    category = dict(id=1, name="thing", keypoints=names, sigmas=[0.05] * len(names), **category)
    return content() | dict(categories=[category], annotations=[row | dict(num_keypoints=len(names))])


NUMBERED = [str(number) for number in range(1, 6)]


def read(tmp_path, names, **category):
    return read_annotations(write(tmp_path, of_names(names, **category)))


@pytest.mark.parametrize(
    ("category", "pairs"),
    [
        (dict(flip_pairs=[["2", "3"], ["5", "4"]]), (("2", "3"), ("5", "4"))),
        (dict(flip_pairs=[[2, 3], [5, 4]]), (("2", "3"), ("5", "4"))),  # numbers that are names
        (dict(flip_idx=[0, 2, 1, 4, 3]), (("2", "3"), ("4", "5"))),
        (dict(flip_idx=[0, 2, 1, 4, 3], flip_pairs=[["3", "2"], ["4", "5"]]), (("3", "2"), ("4", "5"))),
        (dict(flip_idx=None, flip_pairs=[]), ()),
        (dict(flip_idx=[0, 1, 2, 3, 4]), ()),
    ],
)
def test_a_category_says_what_its_names_do_not(tmp_path, category, pairs):
    found = read(tmp_path, NUMBERED, **category)
    assert found.skeleton.flip_pairs == pairs and found.skeleton.sides_known
    assert not [problem for problem in found.problems if problem.severity != "note"]


@pytest.mark.parametrize(
    ("category", "text"),
    [
        (dict(flip_pairs="2,3"), r"`flip_pairs` must be a list of pairs of names. Received: 2,3"),
        (dict(flip_pairs=[["2", "9"]]), "pairs of names of keypoints. Received: '9'"),
        (dict(flip_pairs=[["2", "3"], ["3", "4"]]), r"names a keypoint twice. Received: \['3'\]"),
        (dict(flip_idx=[0, 2, 1]), "each index from 0 to 4 once"),
        (dict(flip_idx=[1, 3, 2, 5, 4]), "each index from 0 to 4 once"),
        (dict(flip_idx=[1, 2, 0, 3, 4]), "must swap keypoints in pairs. Received: '1' becomes '2', which becomes '3'"),
        (dict(flip_idx=[0, 2, 1, 4, 3], flip_pairs=[["2", "3"]]), "contradict each other"),
        (dict(flip_idx=[0, 2, None, 4, 3]), "each index from 0 to 4 once"),
    ],
)
def test_pairs_that_cannot_be_are_refused_with_what_was_received(tmp_path, category, text):
    with pytest.raises(UserError, match=text):
        read(tmp_path, NUMBERED, **category)


def test_pairs_that_contradict_a_known_skeleton_are_refused(tmp_path):
    names = COCO17.keypoints
    assert read(tmp_path, names, flip_pairs=[list(pair) for pair in COCO17.flip_pairs]).skeleton is COCO17
    with pytest.raises(UserError, match="keypoints of 'coco17' and other pairs of left and right"):
        read(tmp_path, names, flip_pairs=[["left_eye", "right_ear"]])


@pytest.fixture
def sideless(small_folder, tmp_path):
    """The small folder with keypoints that are numbered."""
    path = next(small_folder.glob("annotations/*train*.json"))
    data = json.loads(path.read_text())
    data["categories"][0]["keypoints"] = [str(number) for number in range(1, 18)]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.json").write_text(json.dumps(data))
    (tmp_path / "images").symlink_to(small_folder / "images", target_is_directory=True)
    return tmp_path


@row(
    78,
    "Keypoint names without left and right, such as 1 … 17",
    "Warning, error with strict; no mirroring in training and in the flip test",
)
def test_where_sides_are_unknown_nothing_is_mirrored_and_it_is_told(sideless):
    (found,) = check.check(sideless, pictures=False)
    assert not found.clean and "No pairs of left and right were found among the 17 keypoints" in str(found)
    with pytest.raises(UserError, match="No pairs of left and right"):
        loading.load(sideless, "train", strict=True)
    with pytest.warns(UserWarning, match="Images are not flipped"):
        data = loading.load(sideless, "train")
    assert not data.skeleton.sides_known
    assert Skeleton.from_config(json.loads(json.dumps(data.skeleton.to_config()))) == data.skeleton
    assert "sides_known" not in COCO17.to_config()
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64), skeleton=data.skeleton)
    image = tf.random.stateless_uniform((2, 64, 64, 3), (1, 2), maxval=255.0)
    np.testing.assert_array_equal(flip_test_heatmaps(model, image), instance_heatmaps(model, image))
    own = augment.Augment(flip_probability=0.5)
    with pytest.raises(UserError, match="Crops cannot be mirrored"):
        kpzoo.data.make_dataset(data, model, 2, augment=own)
    assert augment.without_mirroring("hrnet", data.skeleton).flip_probability == 0
    assert augment.without_mirroring("hrnet", COCO17).flip_probability == 0.5
    assert augment.without_mirroring(own, COCO17) is own
    found = kpzoo.evaluate(model, data)
    assert found.circumstances["flip_test"] is False
    assert found.circumstances["pck_normalized_by"] == "longer side of the box"
