"""Published weights: fetched once, verified before they are read, and never half there."""

import hashlib
import http.server
import multiprocessing
import threading
from dataclasses import replace

import keras
import numpy as np
import pytest

import kpzoo
from kpzoo import weights
from kpzoo.errors import UserError

TAG = "cpn_tiny.noise_64x64_v1"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A row whose file a server on this machine gives; yields (row, server's folder, paths asked for)."""
    folder, asked = tmp_path / "server", []
    folder.mkdir()
    keras.utils.set_random_seed(3)
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    model.save_weights(folder / "cpn_tiny.weights.h5")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    row = weights.Weights(
        model="cpn_tiny",
        url=f"http://127.0.0.1:{server.server_port}/cpn_tiny.weights.h5",
        sha256=hashlib.sha256((folder / "cpn_tiny.weights.h5").read_bytes()).hexdigest(),
        image_hw=(64, 64),
        skeleton="coco17",
        options={},
        license="test",
        origin="random numbers",
        recipe="none",
        metrics="none",
    )
    monkeypatch.setitem(weights.ROWS, TAG, row)
    monkeypatch.setenv("KPZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KPZOO_OFFLINE", raising=False)
    yield row, folder, asked, model
    server.shutdown()


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
    path = weights.fetch(TAG)
    path.write_bytes(b"<html>not here</html>")
    assert hashlib.sha256(weights.fetch(TAG).read_bytes()).hexdigest() == row.sha256
    assert "has been removed" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>"])
def test_a_wrong_answer_is_never_kept(served, content):
    _, folder, _, _ = served
    (folder / "cpn_tiny.weights.h5").write_bytes(content)
    with pytest.raises(UserError, match="SHA-256 differs.*by hand"):
        weights.fetch(TAG)
    assert [path.name for path in weights.home().iterdir() if not path.name.endswith(".lock")] == []


def test_no_network_is_told_with_the_place_for_the_file(served, monkeypatch):
    row = served[0]
    monkeypatch.setitem(weights.ROWS, TAG, replace(row, url="http://127.0.0.1:9/cpn_tiny.weights.h5"))
    with pytest.raises(UserError, match="cannot be fetched.*by hand: .*cpn_tiny.weights.h5"):
        weights.fetch(TAG)


def test_offline_never_asks(served, monkeypatch):
    monkeypatch.setenv("KPZOO_OFFLINE", "1")
    with pytest.raises(UserError, match="KPZOO_OFFLINE is set"):
        weights.fetch(TAG)
    assert served[2] == []


def test_an_unknown_tag_and_a_tag_of_another_model_are_refused(served):
    with pytest.raises(UserError, match="Did you mean 'cpn_tiny.noise_64x64_v1'"):
        weights.fetch("cpn_tiny.noise_64x64_v2")
    with pytest.raises(UserError, match="belong to 'cpn_tiny'"):
        kpzoo.build("cpn_nano", weights=TAG)


def _fetch_in_child(row, home, queue):
    import os

    os.environ["KPZOO_HOME"] = home
    weights.ROWS[TAG] = row
    queue.put(str(weights.fetch(TAG)))


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


def test_every_published_row_is_complete():
    for tag, row in weights.ROWS.items():
        assert tag.startswith(f"{row.model}.")
        assert row.model in kpzoo.list_models()
        assert len(row.sha256) == 64
        assert row.file_name.endswith(".weights.h5")


def test_convert_and_doctor_agree_on_what_a_file_is(tmp_path, capsys):
    from kpzoo import cli

    model = kpzoo.build("mipnet_tiny", image_hw=(64, 64))
    kpzoo.save_weights(model, tmp_path / "tiny.npz")
    arguments = ["convert", tmp_path / "tiny.npz", tmp_path / "tiny.weights.h5", "--model", "mipnet_tiny"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    capsys.readouterr()
    assert cli.main(["doctor", str(tmp_path / "tiny.weights.h5")]) == 0
    out = capsys.readouterr().out
    assert "It fits mipnet_tiny." in out
    assert "kpzoo_model: mipnet_tiny" in out
    assert cli.main([str(argument) for argument in arguments]) == 2  # nothing is overwritten unasked
    assert "exists already" in capsys.readouterr().err


def test_doctor_says_what_does_not_fit(tmp_path, capsys):
    from kpzoo import cli

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
