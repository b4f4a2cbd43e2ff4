"""Which files of a folder belong together."""

import shutil

import pytest

from kpzoo.data import files, loading
from kpzoo.errors import UserError


@pytest.fixture
def two_splits(small_folder, tmp_path):
    """A folder whose splits share the names of their pictures."""
    shutil.copytree(small_folder, tmp_path / "data")
    root = tmp_path / "data"
    shutil.copytree(root / "images/train", root / "images/val")
    shutil.copy(root / "annotations/person_keypoints_train.json", root / "annotations/person_keypoints_val.json")
    return root


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_gets_its_own_pictures(two_splits, split):
    assert loading.load(two_splits, split).image_folder.name == split
    alone = loading.load(annotations=two_splits / f"annotations/person_keypoints_{split}.json")
    assert alone.image_folder.name == split


@pytest.mark.parametrize("folder", [".", "images", "train2017", "images/anything"])
def test_pictures_are_found_in_the_usual_places(small_folder, tmp_path, folder):
    (tmp_path / "annotations").mkdir()
    shutil.copy(small_folder / "annotations/person_keypoints_train.json", tmp_path / "annotations")
    shutil.copytree(small_folder / "images/train", tmp_path / folder, dirs_exist_ok=True)
    assert loading.load(tmp_path, "train").image_folder.resolve() == (tmp_path / folder).resolve()


def test_what_is_missing_or_ambiguous_is_named(two_splits):
    with pytest.raises(UserError, match="Expected one annotation file.*person_keypoints_train.json"):
        loading.load(two_splits)
    with pytest.raises(UserError, match="Found: none"):
        loading.load(two_splits, "test")
    shutil.rmtree(two_splits / "images")
    with pytest.raises(UserError, match="Pass the folder as `images=`"):
        loading.load(two_splits, "val")
    with pytest.raises(UserError, match="image folder .* does not exist"):
        loading.load(two_splits, "val", images=two_splits / "nowhere")


def test_pictures_that_cannot_be_decoded_are_found(two_splits):
    bad = two_splits / "images/val"
    (bad / "1.jpg").write_bytes(b"")
    (bad / "2.jpg").write_text("<html>")
    (bad / "3.jpg").write_bytes((bad / "3.jpg").read_bytes()[:300])
    (bad / "4.jpg").unlink()
    data = loading.load(two_splits, "val")
    found = files.undecodable(data.image_paths(data.annotations.image_ids))
    assert sorted(path[-5:] for path in found) == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert "0 bytes" in found[str(bad / "1.jpg")]
    assert "a web page" in found[str(bad / "2.jpg")]
    assert "no such file" in found[str(bad / "4.jpg")]
