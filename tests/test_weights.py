"""Published weights: fetched once, verified before they are read, and never half there."""

import argparse
import hashlib
import json
import multiprocessing
from dataclasses import replace

import keras
import numpy as np
import pytest
from published_server import Server

import kpzoo
from kpzoo import cli, weights
from kpzoo.commands import parsing
from kpzoo.errors import UserError
from kpzoo.models import doctor
from kpzoo.skeletons import COCO17, Skeleton
from kpzoo.weights import published

TAG = "cpn_tiny.noise_64x64_v1"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A row with a file on a local server; yields (row, folder of the server, requested paths, model)."""
    folder = tmp_path / "server"
    folder.mkdir()
    keras.utils.set_random_seed(3)
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    model.save_weights(folder / "cpn_tiny.weights.h5")
    server = Server(folder)
    row = published.Weights(
        model="cpn_tiny",
        url=server.url("cpn_tiny.weights.h5"),
        sha256=server.sha256("cpn_tiny.weights.h5"),
        image_hw=(64, 64),
        skeleton="coco17",
        options={},
        license="test",
        origin="random numbers",
        recipe="none",
        metrics="none",
    )
    monkeypatch.setitem(published.ROWS, TAG, row)
    monkeypatch.setenv("KPZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KPZOO_OFFLINE", raising=False)
    yield row, folder, server.asked, model
    server.shutdown()
    server.server_close()


def test_a_tag_builds_the_model_it_was_trained_as(served):
    _, _, asked, model = served
    again = kpzoo.build("cpn_tiny", weights=TAG)
    assert again.preset.image_hw == (64, 64)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    kpzoo.build("cpn_tiny", weights=TAG)
    assert len(asked) == 1  # the second time it lies in the cache
    assert TAG in kpzoo.info("cpn_tiny").weights


def test_a_bad_cached_file_is_removed_and_fetched_anew(served, capsys):
    row = served[0]
    path = published.fetch(TAG)
    path.write_bytes(b"<html>not here</html>")
    assert hashlib.sha256(published.fetch(TAG).read_bytes()).hexdigest() == row.sha256
    assert "Removed " in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>"])
def test_a_wrong_answer_is_never_kept(served, content):
    _, folder, _, _ = served
    (folder / "cpn_tiny.weights.h5").write_bytes(content)
    with pytest.raises(UserError, match="SHA-256 differs.*Or put the file"):
        published.fetch(TAG)
    assert [path.name for path in published.home().iterdir() if not path.name.endswith(".lock")] == []


def test_no_network_is_told_with_the_place_for_the_file(served, monkeypatch):
    row = served[0]
    monkeypatch.setitem(published.ROWS, TAG, replace(row, url="http://127.0.0.1:9/cpn_tiny.weights.h5"))
    with pytest.raises(UserError, match="cannot be downloaded.*Or put the file .*cpn_tiny.weights.h5"):
        published.fetch(TAG)


def test_offline_never_asks(served, monkeypatch):
    monkeypatch.setenv("KPZOO_OFFLINE", "1")
    with pytest.raises(UserError, match="KPZOO_OFFLINE is set"):
        published.fetch(TAG)
    assert served[2] == []


def test_an_unknown_tag_and_a_tag_of_another_model_are_refused(served):
    with pytest.raises(UserError, match="Did you mean 'cpn_tiny.noise_64x64_v1'"):
        published.fetch("cpn_tiny.noise_64x64_v2")
    with pytest.raises(UserError, match="are weights of model 'cpn_tiny'"):
        kpzoo.build("cpn_nano", weights=TAG)


def _fetch_in_child(row, home, queue):
    import os

    os.environ["KPZOO_HOME"] = home
    published.ROWS[TAG] = row
    queue.put(str(published.fetch(TAG)))


def test_two_processes_share_one_download(served, tmp_path):
    row, _, asked, _ = served
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    children = [
        context.Process(target=_fetch_in_child, args=(row, str(tmp_path / "shared_home"), queue)) for _ in range(2)
    ]
    for child in children:
        child.start()
    paths = {queue.get(timeout=900) for _ in children}
    for child in children:
        child.join()
    assert len(paths) == 1
    assert len(asked) == 1


def complete(tag, row):
    return (
        tag.startswith(f"{row.model}.")
        and row.model in kpzoo.list_models()
        and len(row.sha256) == 64
        and row.file_name.endswith((".weights.h5", ".safetensors"))
        and row.stated is None
        and all((row.license, row.origin, row.recipe, row.metrics))
    )


def test_every_row_of_own_weights_is_complete():
    row = published.Weights(
        "cpn_tiny", "https://host/a.weights.h5", "0" * 64, (64, 64), "coco17", {}, "CC0", "x", "y", "z"
    )
    assert complete("cpn_tiny.x_v1", row)
    for changes in (dict(model="cpn"), dict(sha256="0"), dict(url="a.h5"), dict(license=""), dict(metrics="")):
        assert not complete("cpn_tiny.x_v1", replace(row, **changes))
    for tag, row in published.ROWS.items():
        assert complete(tag, row) or row.origin != "trained here", tag


def test_info_tells_of_published_weights_with_their_evidence(monkeypatch):
    row = published.Weights(
        "cpn_tiny",
        "https://host/a.weights.h5",
        "0" * 64,
        (64, 64),
        "coco17",
        {},
        "CC0",
        "trained here",
        "r.py",
        "r.json",
    )
    assert "none published yet" in str(kpzoo.info("cpn_tiny"))
    monkeypatch.setitem(published.ROWS, "cpn_tiny.x_v1", row)
    told = str(kpzoo.info("cpn_tiny"))
    assert "cpn_tiny.x_v1: 64x64, coco17, trained here by r.py, figures in r.json, CC0" in told


def test_convert_and_doctor_agree_on_what_a_file_is(tmp_path, capsys):
    model = kpzoo.build("mipnet_tiny", image_hw=(64, 64))
    kpzoo.save_weights(model, tmp_path / "tiny.npz")
    arguments = ["convert", tmp_path / "tiny.npz", tmp_path / "tiny.weights.h5", "--model", "mipnet_tiny"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    capsys.readouterr()
    assert cli.main(["doctor", str(tmp_path / "tiny.weights.h5")]) == 0
    out = capsys.readouterr().out
    assert "It fits mipnet_tiny." in out
    assert "kpzoo_model: mipnet_tiny" in out
    assert cli.main(["doctor", str(tmp_path / "tiny.weights.h5"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fits"] == "mipnet_tiny" and told["metadata"]["kpzoo_model"] == "mipnet_tiny"
    arguments[2] = tmp_path / "again.npz"
    assert cli.main([str(argument) for argument in (*arguments, "--json")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["output"] == str(tmp_path / "again.npz") and len(told["filled"]) == len(model.variables)
    assert cli.main([str(argument) for argument in arguments]) == 2  # nothing is overwritten unasked
    assert "already exists" in capsys.readouterr().err


def test_doctor_says_what_does_not_fit(tmp_path, capsys):
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    arrays = {variable.path: variable.numpy() for variable in model.variables}
    name = next(name for name in arrays if name.endswith("gamma"))
    arrays[name] = np.full_like(arrays[name], np.nan)
    np.savez(tmp_path / "broken.npz", **arrays)
    assert cli.main(["doctor", str(tmp_path / "broken.npz"), "--model", "cpn_tiny"]) == 0
    out = capsys.readouterr().out
    assert f"NaN or infinity in 1 tensors, such as {name}" in out
    assert "fits none" in out
    (tmp_path / "page.weights.h5").write_text("<html>not found</html>")
    assert cli.main(["doctor", str(tmp_path / "page.weights.h5")]) == 2


THREE = Skeleton("three", ("nose", "left_eye", "right_eye"), (("left_eye", "right_eye"),), (0.03, 0.02, 0.02), ())


@pytest.fixture(scope="module", params=[".weights.h5", ".safetensors"])
def own(request, tmp_path_factory):
    """A file of ours whose model differs from the defaults in all that can differ."""
    model = kpzoo.build("cpn_tiny", image_hw=(64, 96), skeleton=THREE, normalization="imagenet_rgb", levels=["c2"])
    return kpzoo.save_weights(model, tmp_path_factory.mktemp("own") / f"own{request.param}"), model


def arguments_of(path, image_size=None, model="cpn_tiny"):
    return argparse.Namespace(model=model, weights=str(path), image_size=image_size, ensemble=[])


def test_a_command_builds_the_model_that_an_own_file_tells_of(own, recwarn):
    path, model = own
    again = parsing.load_model(arguments_of(path), COCO17)
    assert again.preset == model.preset
    assert [str(w.message) for w in recwarn if w.category is UserWarning] == []
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_command_takes_the_size_that_is_asked_for_and_tells_of_the_other(own):
    with pytest.warns(UserWarning, match="with image size 64x96, but the model has 128x64"):
        model = parsing.load_model(arguments_of(own[0], image_size=(128, 64)))
    assert (model.preset.image_hw, model.preset.skeleton) == ((128, 64), THREE)


def test_a_file_without_a_description_is_of_the_skeleton_of_the_data(tmp_path):
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64), skeleton=THREE)
    path = kpzoo.save_weights(model, tmp_path / "own.npz")
    assert parsing.load_model(arguments_of(path, (64, 64)), THREE).preset.skeleton == THREE
    with pytest.raises(UserError, match="do not fit model 'cpn_tiny'"):
        parsing.load_model(arguments_of(path, (64, 64)))


def test_build_warns_of_another_normalization(own):
    arguments = dict(image_hw=(64, 96), skeleton=THREE, levels=["c2"], weights=own[0])
    with pytest.warns(UserWarning, match='with normalization "imagenet_rgb", but the model has null'):
        kpzoo.build("cpn_tiny", normalization=None, **arguments)


def test_doctor_builds_what_an_own_file_tells_of(own):
    diagnosis = doctor.diagnose(own[0])
    assert (diagnosis.fits, len(diagnosis.findings)) == ("cpn_tiny", 1)


def test_doctor_tells_of_arrays_without_numbers(tmp_path):
    model = kpzoo.build("simplebaseline_tiny", image_hw=(64, 64))
    arrays = {variable.path: variable.numpy() for variable in model.variables}
    np.savez(tmp_path / "more.npz", **arrays, note=np.array("some text"))
    diagnosis = doctor.diagnose(tmp_path / "more.npz", "simplebaseline_tiny")
    assert (diagnosis.others, diagnosis.fits, diagnosis.num_tensors) == (("note",), "", len(arrays))
    assert "1 arrays are not floats, such as note." in str(diagnosis)
    assert "1 arrays are not numeric: note" in str(diagnosis)
    name = next(name for name in arrays if name.endswith("moving_variance"))
    np.savez(tmp_path / "text.npz", **{**arrays, name: np.array("some text")})
    assert doctor.diagnose(tmp_path / "text.npz", "simplebaseline_tiny").others == (name,)


def test_doctor_reads_the_checkpoints_of_tensorflow_2(tmp_path):
    import tensorflow as tf

    path = tf.train.Checkpoint(kernel=tf.Variable([1.0, np.inf])).save(str(tmp_path / "ckpt"))
    diagnosis = doctor.diagnose(path)
    assert (diagnosis.source, diagnosis.fits) == ("", "")
    assert diagnosis.broken == ("kernel/.ATTRIBUTES/VARIABLE_VALUE",)
    assert "_CHECKPOINTABLE_OBJECT_GRAPH" in diagnosis.others


def test_doctor_refuses_an_unknown_model(own, capsys):
    assert cli.main(["doctor", str(own[0]), "--model", "cpn_tinny"]) == 2
    assert "Did you mean 'cpn_tiny'" in capsys.readouterr().err


def test_convert_records_what_is_asked_for_and_keeps_what_an_own_file_says(own, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    arguments = ["convert", str(own[0]), str(out), "--model", "cpn_tiny", "--image-size", "64x64"]
    assert cli.main([*arguments, "--normalization", "none"]) == 0
    assert "with image size 64x96, but the model has 64x64" in capsys.readouterr().out
    built = weights.build_arguments(weights.read_description(out))
    assert built == {"image_hw": (64, 64), "skeleton": THREE, "normalization": None, "levels": ["c2"]}


def test_half_size_rounds_kernels_alone(own, tmp_path, capsys):
    path, model = own
    out = tmp_path / "half.safetensors"
    assert cli.main(["convert", str(path), str(out), "--model", "cpn_tiny", "--half"]) == 0
    whole = kpzoo.save_weights(model, tmp_path / "whole.safetensors")
    rounded = sum(array.size for array in model.get_weights() if array.ndim > 1)
    assert whole.stat().st_size - out.stat().st_size >= 2 * rounded
    again = parsing.load_model(arguments_of(out))
    assert again.preset == model.preset
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a.astype("f2").astype("f4") if a.ndim > 1 else a, b)


def test_half_size_refuses_what_would_overflow(tmp_path):
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    kernel = next(weight for weight in model.trainable_variables if len(weight.shape) == 4)
    kernel.assign(np.full(kernel.shape, 1e5))
    with pytest.raises(UserError, match="too large for float16"):
        kpzoo.save_weights(model, tmp_path / "half.safetensors", half=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "output, options, message",
    [
        ("out.h5", [], "name of a weights file must end in"),
        ("out.npz", ["--half"], "float16 weights must be written to a .safetensors"),
        ("missing/out.npz", [], "does not exist"),
        ("out.npz", ["--option", "skeleton=coco17"], "Use --skeleton."),
        ("out.npz", ["--option", "image_hw=[64,64]"], "Use --image-size."),
        ("out.npz", ["--option", "normalization=null"], "Use --normalization."),
        ("out.npz", ["--option", "weights=x"], "Use INPUT."),
    ],
)
def test_convert_refuses_what_cannot_be_before_it_reads(output, options, message, tmp_path, capsys):
    arguments = [str(tmp_path / "no_such_file.pth"), str(tmp_path / output), "--model", "cpn_tiny", *options]
    assert cli.main(["convert", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_tag_does_not_override_another_skeleton(served):
    with pytest.raises(UserError, match="trained with skeleton 'coco17'. Received: skeleton 'crowdpose14'"):
        kpzoo.build("cpn_tiny", weights=TAG, skeleton="crowdpose14")
    assert served[2] == []
    same = replace(COCO17, name="person")
    assert kpzoo.build("cpn_tiny", weights=TAG, skeleton=same).preset.skeleton == same


def test_a_mistyped_tag_is_answered_with_the_nearest(served):
    with pytest.raises(UserError, match=f"Did you mean '{TAG}'"):
        kpzoo.build("cpn_tiny", weights=TAG.replace("noise", "nose"))


def test_where_no_weights_are_published_a_tag_is_told_so():
    with pytest.raises(UserError, match="Unknown weights tag. Received: 'cpn_tiny.coco_256x192_v1'"):
        kpzoo.build("cpn_tiny", weights="cpn_tiny.coco_256x192_v1")
