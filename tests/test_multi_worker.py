"""Hosts that train together: each makes its own rows, the chief writes, and the weights are those of one host."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest

import kpzoo
from kpzoo import training
from kpzoo.data import packing
from kpzoo.data.batches import make_dataset
from kpzoo.data.loading import load
from kpzoo.errors import UserError
from kpzoo.training import devices, keras_callbacks

WORKER = """
    import sys
    import keras, tensorflow as tf
    import kpzoo
    from kpzoo import training
    from kpzoo.losses import HeatmapLoss

    data = kpzoo.data.load(sys.argv[1], "train")

    def make_model():
        keras.utils.set_random_seed(0)
        model = kpzoo.build("simplebaseline_tiny", image_hw=(64, 64))
        model.compile(keras.optimizers.SGD(1.0, momentum=0.9), HeatmapLoss())
        return model

    def validate(model):
        print("validated", flush=True)
        return {"peak": float(model({"image": tf.zeros((1, 64, 64, 3))}, training=False)["heatmaps"].numpy().max())}

    for epochs in map(int, sys.argv[3:]):  # a second run goes on with the checkpoint of the first
        training.run(make_model, data, sys.argv[2], epochs=epochs, batch_size=4, augment="cpn", steps_per_epoch=1,
                     validate=validate, sync_batch_norm=True, ema=0.9)
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(folder: Path, out: Path, tf_config: dict | None, *epochs: int) -> subprocess.Popen:
    environment = {**os.environ, "TF_CONFIG": json.dumps(tf_config)} if tf_config else dict(os.environ)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), str(folder), str(out), *map(str, epochs)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_hosts_train_to_the_weights_of_one_and_the_chief_alone_writes(small_folder, tmp_path):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in (0, 1)]
    workers = [start(small_folder, tmp_path / "two", task, 1, 2) for task in tasks]
    alone = start(small_folder, tmp_path / "one", None, 2)
    told = [worker.communicate(timeout=600) for worker in workers]
    for worker, (_, errors) in zip(workers, told, strict=True):
        assert worker.returncode == 0, errors[-4000:]
    assert [output.count("validated") for output, _ in told] == [2, 0]
    assert alone.communicate(timeout=600)[0].count("validated") == 2
    keras.utils.set_random_seed(0)
    before = kpzoo.build("simplebaseline_tiny", image_hw=(64, 64))
    one, two = (training.load_run(tmp_path / name) for name in ("one", "two"))
    moved, apart = [], []
    for values in zip(before.trainable_weights, one.trainable_weights, two.trainable_weights, strict=True):
        first, ours, theirs = (value.numpy() for value in values)
        moved.append(np.square(ours - first).sum())
        apart.append(np.square(ours - theirs).sum())
    # Sums in another order differ by rounding.
    assert np.sqrt(sum(apart)) < 1e-4 * np.sqrt(sum(moved))
    for ours, theirs in zip(one.non_trainable_weights, two.non_trainable_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    logs = [keras_callbacks.read_log(tmp_path / name / "log.csv") for name in ("one", "two")]
    assert len(logs[0]) == 2
    for ours, theirs in zip(*logs, strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-4)


def test_a_mistake_ends_all_hosts_before_the_first_step(small_folder, tmp_path):
    for name, epochs in (("settings", (1, 2)), ("record", (1, 1))):
        (tmp_path / name).mkdir()
        cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
        tasks = [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in (0, 1)]
        if name == "record":
            (tmp_path / name / "run.json").write_text("{")
        workers = [start(small_folder, tmp_path / name, task, count) for task, count in zip(tasks, epochs, strict=True)]
        told = [worker.communicate(timeout=600)[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [1, 1]
        if name == "settings":
            for index, text in enumerate(told):
                assert f"than the chief: epochs. Received on host {index}: epochs={epochs[index]}." in text
            assert not (tmp_path / name / "run.json").exists()
        else:
            assert "is damaged" in told[0] and "The chief has stopped with an error" in told[1]
        assert not (tmp_path / name / "checkpoints").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_hosts_make_the_rows_of_each_batch_between_them(packed, small_folder, tmp_path):
    model, data = kpzoo.build("mipnet_tiny", image_hw=(64, 64)), load(small_folder, "train")
    if packed:
        data = load(packing.write_pack(data, tmp_path / "pack", image_hw=(64, 64)))
    how = dict(augment="hrnet", seed=3, start_step=2)
    whole = make_dataset(data, model, 6, **how).take(3)
    parts = [make_dataset(data, model, 6, **how, host=(index, 2)).take(3) for index in (0, 1)]
    for batch, *rows in zip(whole, *parts, strict=True):
        for name, values in batch.items():
            assert len(rows[0][name]) == 3
            np.testing.assert_array_equal(np.concatenate([part[name] for part in rows]), values, err_msg=name)
    with pytest.raises(UserError, match="A batch of 6 cannot be split over 4 hosts"):
        make_dataset(data, model, 6, host=(0, 4))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, (0, 1)),
        ({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}, (0, 1)),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}, (1, 2)),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": "1"}}, (1, 2)),
        (
            {"cluster": {"worker": ["b:1"], "ps": ["p:1"], "chief": ["a:1"]}, "task": {"type": "worker", "index": 0}},
            (1, 2),
        ),
        ({"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "worker", "index": 0}}, (1, 3)),
        ({"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 0}}, (0, 2)),
    ],
)
def test_tf_config_tells_which_host_this_is(config, expected, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "" if config is None else json.dumps(config))
    assert devices.hosts() == expected
    assert devices.is_chief() == (expected[0] == 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not list this process among its hosts .JSONDecodeError"),
        ("[]", r"does not list this process among its hosts .* Received: '\[\]'"),
        ('{"cluster": 3, "task": {"type": "worker", "index": 0}}', "TypeError: `cluster` must be a dictionary"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": "x"}}', "ValueError: .*'x'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', r"\('ps', 0\) is not in list"),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
            r"\('worker', 2\) is not in list",
        ),
    ],
)
def test_a_wrong_tf_config_is_told(text, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=message):
        training.make_strategy()
