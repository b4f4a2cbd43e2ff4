"""Packs: the same crops and targets as from the folder, in an order of their own, and no damage that goes unseen."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_small_folder

import kpzoo
from kpzoo import cli, crops, geometry, training
from kpzoo.data import augment, batches, packing
from kpzoo.data import pack as packs
from kpzoo.data.coco import training_persons
from kpzoo.data.loading import load
from kpzoo.errors import UserError
from kpzoo.losses import default_loss

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")


@pytest.fixture(scope="module")
def data(small_folder):
    return load(small_folder, "train")


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A pack of the 13 persons in three shards, for crops of 64x64; their windows are made smaller."""
    return packing.write_pack(data, tmp_path_factory.mktemp("packs") / "small", image_hw=(64, 64), num_shards=3)


@pytest.fixture(scope="module", params=["cpn_tiny", "mipnet_tiny"])
def model(request):
    return kpzoo.build(request.param, image_hw=(64, 64))


def order_of(data, pack, seed, count, start=0) -> list[int]:
    """The places of the persons among the trainable ones, in the order of the pack's stream."""
    ids = data.annotations.persons.ids[training_persons(data.annotations)["index"]].tolist()
    feature = {"annotation_id": tf.io.FixedLenFeature((), tf.int64)}
    stream = packs.records(pack, seed, start).take(count)
    return [ids.index(int(tf.io.parse_single_example(one, feature)["annotation_id"])) for one in stream]


def arrays(stream, count) -> list[dict[str, np.ndarray]]:
    return [{name: value.numpy() for name, value in batch.items()} for batch in stream.take(count)]


@pytest.mark.parametrize(("augment", "pack_hw"), [("cpn", (64, 64)), ("hrnet", (64, 64)), ("hrnet", (160, 160))])
def test_a_pack_gives_the_crops_and_targets_of_its_folder(data, folder, model, augment, pack_hw, tmp_path, monkeypatch):
    if pack_hw != (64, 64):  # windows as they are in the pictures, for smaller crops
        folder = packing.write_pack(data, tmp_path / "large", image_hw=pack_hw)
    pack = load(folder, "train")
    order = tf.constant(order_of(data, pack, 5, 24), tf.int64)
    monkeypatch.setattr(batches, "person_of", lambda count, seed, num_persons: tf.gather(order, count))
    expected, found = (
        arrays(batches.make_dataset(source, model, 8, augment=augment, seed=5), 3) for source in (data, pack)
    )
    for one, other in zip(expected, found, strict=True):
        assert {name: value.shape for name, value in one.items()} == {
            name: value.shape for name, value in other.items()
        }
        difference = np.abs(one.pop("image") - other.pop("image"))
        # JPEG twice instead of once; at the picture's border a smaller window has coarser pixels.
        assert difference.mean() < 2.5
        assert np.percentile(difference, 95) < 9
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("how", augment.AUGMENTS.values(), ids=augment.AUGMENTS)
def test_windows_hold_all_that_an_augmentation_can_reach(data, how):
    persons, image_hw = training_persons(data.annotations), (64, 48)
    low, high, _ = packing.windows(persons, data.skeleton, image_hw)
    corners = tf.constant([[0.0, 0.0], [47.0, 0.0], [0.0, 63.0], [47.0, 63.0]])
    halves = 0
    for crop_rule in geometry.CROP_RULES.values():
        views = geometry.views(persons["boxes_image_xywh"], crop_rule, image_hw)
        for place in range(len(views)):
            points, visibility = persons["keypoints_image_xy"][place], persons["visibility"][place]
            person = augment.Person(points, visibility, data.skeleton.is_lower)
            for turn, half in ((0.01, 0.99), (0.3, 0.0), (0.85, 0.0), (0.99, 0.99)):
                numbers = {"scale": [0.999], "rotation": [0.0, turn], "flip": [half], "half_body": [0.0, half]}
                view = augment.augmented_view(
                    how, tf.constant(views[place]), person, lambda name, size, all=numbers: tf.constant(all[name])
                )
                halves += not np.allclose(view.box, views[place])
                to_image = crops.view_matrix(*view, image_hw)
                reached = crops.to_image(to_image[None], corners[None])[0].numpy()
                assert (reached > low[place] + 1).all() and (reached < high[place] - 1).all()
    assert bool(halves) == bool(how.half_body_probability)


def test_every_epoch_has_each_person_once_in_another_order(data, folder, monkeypatch):
    monkeypatch.setattr(packs, "_BLOCK", 4)
    pack = load(folder)
    whole = order_of(data, pack, 3, 45)
    epochs = [whole[:13], whole[13:26], whole[26:39]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(13))] * 3
    assert len(set(map(tuple, epochs))) == 3
    tf.random.set_seed(99)  # of TensorFlow's own, on which nothing depends
    assert order_of(data, pack, 3, 45) == whole
    assert order_of(data, pack, 4, 13) != whole[:13]
    for start in (1, 7, 13, 30):
        assert order_of(data, pack, 3, 45 - start, start) == whole[start:]


def test_a_packs_stream_that_starts_later_is_the_rest_of_the_whole(folder):
    model, pack = kpzoo.build("cpn_tiny", image_hw=(64, 64)), load(folder)
    whole = arrays(batches.make_dataset(pack, model, 3, augment="cpn", seed=1), 6)
    rest = arrays(batches.make_dataset(pack, model, 3, augment="cpn", seed=1, start_step=4), 2)
    for one, other in zip(whole[4:], rest, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_pack_is_the_same_however_often_it_is_written_and_read_by_its_address_too(data, folder, tmp_path):
    again = packing.write_pack(data, tmp_path / "again", image_hw=(64, 64), num_shards=3)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
    far = load(f"file://{folder}")
    packs.check_shards(far)
    assert (far.crc32, far.num_persons) == (load(folder).crc32, 13)


def test_pictures_that_cannot_be_decoded_are_named_and_not_packed(tmp_path, capsys):
    write_small_folder(tmp_path)
    victim = tmp_path / "images/train/1.jpg"
    victim.write_bytes(victim.read_bytes()[:300])
    lost = sum(row["image_id"] == 1 for row in json.loads(annotations_of(tmp_path).read_text())["annotations"])
    arguments = ["data", "pack", tmp_path, tmp_path / "pack", "--image-size", "64x64"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    told = capsys.readouterr()
    assert "skipped" in told.err and "1.jpg" in told.err and "packed 6/6 images" in told.err
    assert told.out.split() == [str(tmp_path / "pack")]
    assert load(tmp_path / "pack").num_persons == 13 - lost
    for path in (tmp_path / "images/train").iterdir():
        path.write_text("<html>")
    with pytest.raises(UserError, match="No labelled person with a readable image"):
        packing.write_pack(load(tmp_path, "train"), tmp_path / "none", image_hw=(64, 64))
    assert not [path.name for path in tmp_path.iterdir() if "none" in path.name]


def annotations_of(folder: Path) -> Path:
    return folder / "annotations/person_keypoints_train.json"


def test_what_a_pack_cannot_give_is_refused(data, folder, tmp_path, capsys):
    pack, model = load(folder), kpzoo.build("cpn_tiny", image_hw=(64, 64))

    def use(name="cpn_tiny", image_hw=(64, 64), augment=None, **options):
        return batches.make_dataset(pack, kpzoo.build(name, image_hw=image_hw, **options), 2, augment=augment)

    for call, message in (
        (lambda: use(image_hw=(96, 96)), "for crops of 64x64 and smaller.*'cpn_tiny' with 96x96"),
        (lambda: use(image_hw=(64, 32)), "Received: model 'cpn_tiny' with 64x32"),
        (lambda: use("mipnet_tiny", num_instances=6), "has 4 neighbours per person, but model 'mipnet_tiny' needs"),
        (lambda: use(augment=augment.Augment((0.5, 1.5))), "allow a scale of up to 1.35. Received: .* up to 1.5"),
        (lambda: use(skeleton="crowdpose14"), "other keypoints than model 'cpn_tiny'"),
        (lambda: kpzoo.evaluate(model, pack), "is a pack, .* no annotations. Evaluation, contact sheets"),
        (
            lambda: load(folder, "val"),
            "is a pack of 'person_keypoints_train.json', .* no split 'val'. Validation needs",
        ),
        (lambda: packing.write_pack(pack, tmp_path / "again"), "no annotations. Evaluation, contact sheets"),
        (lambda: packing.write_pack(data, folder), "exists already"),
        (lambda: packing.write_pack(data, Path(data.image_folder)), "exists and is not a pack"),
        (lambda: packing.write_pack(data, "gs://bucket/pack"), "written to a local folder"),
        (lambda: packing.write_pack(data, tmp_path / "x", num_shards=14), "must be 1 to 13, .* Received: 14"),
        (lambda: packing.write_pack(data, tmp_path / "x", quality=101), "`quality=` must be 1 to 100"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    how = ["--model", "cpn_tiny", "--data", str(folder), "--image-size", "64x64", "--out", str(tmp_path / "run")]
    for more in ([], ["--val-split", "", "--crowd", "0.5"]):
        assert cli.main(["train", *how, *more]) == 2
    first, second = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "Validation needs a folder" in first and "composed crowds" in second
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_a_pack_trains_and_goes_on_with_no_other_data(data, folder, tmp_path):
    def make_model():
        model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
        model.compile(training.AdamL2(1e-3), default_loss(model.preset))
        return model

    how = dict(epochs=1, batch_size=5, augment="cpn")
    training.run(make_model, load(folder), tmp_path / "run", **how)
    assert training.load_run(tmp_path / "run").preset.name == "cpn_tiny"
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["num_persons"], record["steps_per_epoch"]) == (13, 2)
    other = packing.write_pack(data, tmp_path / "other", image_hw=(64, 64), quality=50)
    with pytest.raises(UserError, match="annotations_crc32"):
        training.run(make_model, load(other), tmp_path / "run", **how)


def test_a_pack_is_replaced_whole_and_only_if_nobody_else_writes_it(data, folder, tmp_path):
    target = shutil.copytree(folder, tmp_path / "pack")
    with packing._part_of(target), pytest.raises(UserError, match="Another process is writing the pack"):
        packing.write_pack(data, target, image_hw=(64, 64), overwrite=True)
    with pytest.raises(UserError):  # what was written above is no pack, and now takes its place
        load(target)
    packing.write_pack(data, tmp_path / "new", image_hw=(64, 64))
    packing.write_pack(data, tmp_path / "new", image_hw=(64, 64), num_shards=2, overwrite=True)
    assert len(load(tmp_path / "new").shards) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "pack"]


def test_a_pack_that_a_kill_left_aside_is_put_back(data, folder, tmp_path):
    shutil.copytree(folder, tmp_path / ".pack.old")
    (tmp_path / ".pack.part").mkdir()
    with pytest.raises(UserError, match="exists already"):
        packing.write_pack(data, tmp_path / "pack", image_hw=(64, 64))
    assert [path.name for path in tmp_path.iterdir()] == ["pack"] and len(load(tmp_path / "pack").shards) == 3
    shutil.move(tmp_path / "pack", tmp_path / ".pack.old")
    packing.write_pack(data, tmp_path / "pack", image_hw=(64, 64), num_shards=2, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["pack"] and len(load(tmp_path / "pack").shards) == 2


def test_a_pack_that_another_process_has_written_meanwhile_is_not_replaced(data, folder, tmp_path, monkeypatch):
    hold = packing.hold

    def late(file, wait):
        shutil.copytree(folder, tmp_path / "pack")
        return hold(file, wait)

    monkeypatch.setattr(packing, "hold", late)
    with pytest.raises(UserError, match="exists already"):
        packing.write_pack(data, tmp_path / "pack", image_hw=(64, 64))
    assert [path.name for path in tmp_path.iterdir()] == ["pack"] and len(load(tmp_path / "pack").shards) == 3


def test_a_pack_is_not_written_over_the_folder_one_is_in_and_an_empty_one_will_do(data, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here/file").write_text("kept")
    with pytest.raises(UserError, match="here' exists and is not a pack"):
        packing.write_pack(data, ".", image_hw=(64, 64))
    (tmp_path / "here/file").unlink()
    assert packing.write_pack(data, ".", image_hw=(64, 64)) == tmp_path / "here"
    assert load(tmp_path / "here").num_persons == 13
