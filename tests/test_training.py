"""Training is exact: over replicas, over interruptions, and in what a step does."""

import itertools
import json
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kpzoo
from kpzoo import training
from kpzoo.data import augment
from kpzoo.data.batches import make_dataset
from kpzoo.data.loading import load
from kpzoo.errors import UserError
from kpzoo.losses import CPNLoss
from kpzoo.training import averages, keras_callbacks, run_folder
from kpzoo.training.defaults import REFERENCES

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")
SIZE = dict(image_hw=(64, 64), refine="concat")  # the smallest CPN with both losses, which traces fastest


def run_python(code: str, *args, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=Path(__file__).parent, **kwargs)


def tiny_model(optimizer=None):
    keras.utils.set_random_seed(0)
    model = kpzoo.build("cpn_tiny", **SIZE)
    model.compile(optimizer or training.AdamL2(1e-3), CPNLoss())
    return model


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(small_folder):
    model, data = tiny_model(), load(small_folder, "train")
    streams = [make_dataset(data, model, 4, augment="cpn", seed=seed).take(3) for seed in (5, 5, 6)]
    first, again, other = ([{k: v.numpy() for k, v in batch.items()} for batch in stream] for stream in streams)
    for a, b, c in zip(first, again, other, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
        assert np.abs(a["image"] - c["image"]).max() > 1


def test_a_stream_that_starts_later_is_the_rest_of_the_whole(small_folder):
    model, data = tiny_model(), load(small_folder, "train")
    whole = list(make_dataset(data, model, 3, augment="hrnet", seed=1).take(5))[3:]
    rest = list(make_dataset(data, model, 3, augment="hrnet", seed=1, start_step=3).take(2))
    for a, b in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["heatmaps"], b["heatmaps"])


def test_rectangles_are_hidden_and_nothing_else_changes(small_folder):
    model, data = tiny_model(), load(small_folder, "train")
    plain, hidden = (
        next(
            iter(make_dataset(data, model, 4, augment=augment.Augment(brightness=(0.9, 1.1), erase_probability=share)))
        )
        for share in (0.0, 1.0)
    )
    np.testing.assert_array_equal(plain["heatmaps"], hidden["heatmaps"])
    changed = (plain["image"].numpy() != hidden["image"].numpy()).any(axis=-1)
    assert changed.any(axis=(1, 2)).all() and changed.mean() < 0.21
    fill = np.unique(hidden["image"].numpy()[changed], axis=0)
    assert len(fill) == 1  # of one colour


def test_each_person_comes_once_an_epoch(small_folder):
    model, data = tiny_model(), load(small_folder, "train")
    count = kpzoo.data.num_persons(data)
    batches = list(make_dataset(data, model, 1, seed=2).take(2 * count))
    prints = [hash(batch["image"].numpy().tobytes()) for batch in batches]
    assert len(set(prints[:count])) == count
    assert set(prints[:count]) == set(prints[count:])
    assert prints[:count] != prints[count:]


def test_batches_follow_the_contract(small_folder):
    batch = next(iter(make_dataset(load(small_folder, "train"), tiny_model(), 4, augment="cpn")))
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    assert shapes == {
        "image": (4, 64, 64, 3),
        "heatmaps": (4, 16, 16, 17),
        "weights": (4, 17),
        "global_heatmaps": (4, 4, 16, 16, 17),
        "global_weights": (4, 4, 17),
    }
    assert 0 <= batch["image"].numpy().min() < batch["image"].numpy().max() <= 255


@pytest.mark.parametrize("name", ["cpn_tiny", "mipnet_tiny"])
def test_a_preset_describes_the_batches_as_its_model_does(small_folder, name):
    model, data = kpzoo.build(name, image_hw=(64, 64)), load(small_folder, "train")
    of_model = next(iter(make_dataset(data, model, 4, augment="hrnet", seed=3)))
    of_preset = make_dataset(data, model.preset, 4, num_levels=model.num_levels, augment="hrnet", seed=3)
    for key, value in next(iter(of_preset)).items():
        np.testing.assert_array_equal(value, of_model.pop(key))
    assert not of_model


def test_the_pipeline_serves_any_keras_network(small_folder):
    data = load(small_folder, "train")
    preset = kpzoo.Preset("own", (64, 64), data.skeleton, normalization=None, codec="hrnet")
    image = keras.Input((64, 64, 3), name="image")
    x = keras.layers.Conv2D(8, 3, 4, padding="same", activation="relu")(keras.layers.Rescaling(1 / 255)(image))
    network = keras.Model(image, keras.layers.Conv2D(data.skeleton.num_keypoints, 1)(x))
    network.compile("adam", "mse")
    batches = make_dataset(data, preset, 4, augment="hrnet").map(lambda batch: (batch["image"], batch["heatmaps"]))
    steps = kpzoo.data.num_persons(data) // 4
    history = network.fit(batches, epochs=2, steps_per_epoch=steps, shuffle=False, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    with pytest.raises(UserError, match="or a `Preset`. Received: Functional"):
        make_dataset(data, network, 4)


def test_a_corrupt_picture_is_named_and_left_out_of_training(tmp_path, capsys):
    from conftest import write_small_folder

    write_small_folder(tmp_path)
    victim = tmp_path / "images/train/1.jpg"
    victim.write_bytes(victim.read_bytes()[:300])
    (tmp_path / "images/train/2.jpg").write_text("<html>not found</html>")
    data = load(tmp_path, "train")
    batches = make_dataset(data, tiny_model(), 4, augment="cpn").take(10)
    assert sum(1 for _ in batches) == 10
    told = capsys.readouterr().err
    assert "1.jpg" in told
    assert "2.jpg" in told


def test_l2_decay_enters_the_gradient_of_kernels_alone():
    kernel, gamma = keras.Variable([1.0, -2.0], name="kernel"), keras.Variable([1.0, -2.0], name="gamma")
    plain = keras.Variable([1.0, -2.0], name="plain")
    gradient = tf.constant([0.3, 0.1])
    decayed, reference = training.AdamL2(0.1, l2=0.5), keras.optimizers.Adam(0.1)
    decayed.build([kernel, gamma])
    reference.build([plain])
    for _ in range(3):
        decayed.apply([gradient, gradient])
        reference.apply([gradient])
    np.testing.assert_allclose(gamma, plain)
    reference = keras.optimizers.Adam(0.1)
    expected = keras.Variable([1.0, -2.0])
    reference.build([expected])
    for _ in range(3):
        reference.apply([gradient + 0.5 * expected])
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


def test_schedules_are_functions_of_the_step():
    halving = training.halving(8.0, every=10)
    assert [float(halving(step)) for step in (0, 9, 10, 25, 30)] == [8, 8, 4, 2, 1]
    tenths = training.tenths(1.0, at=[5, 8])
    np.testing.assert_allclose([float(tenths(step)) for step in (0, 5, 6, 8, 9)], [1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("name", sorted(REFERENCES))
@pytest.mark.parametrize("num_steps", [1, 7, 100, 999, 5000, 6001, 700_000])
def test_the_default_schedule_suits_a_run_of_any_length(name, num_steps):
    defaults = REFERENCES[name]
    schedule = defaults.make_optimizer(num_steps)._learning_rate
    rate = schedule if callable(schedule) else lambda step: schedule
    steps = np.unique(np.linspace(0, num_steps - 1, 200).astype(int))
    rates = np.array([float(rate(int(step))) for step in steps])
    assert rates[0] == pytest.approx(defaults.learning_rate)
    assert (np.diff(rates) <= 0).all()
    assert rates.mean() > 0.3 * rates[0]
    drops = defaults.drops(num_steps)
    assert drops == sorted(drops) and all(0 <= drop <= num_steps for drop in drops)
    for before, after in itertools.pairwise([*dict.fromkeys(drops), num_steps]):  # the rate falls there
        if after - before > 1 and before > 0:
            assert float(rate(before + 1)) < float(rate(before - 1))
    if num_steps > 10_000:
        assert rates[-1] < 0.04 * rates[0]


def test_a_short_run_of_cpn_keeps_its_learning_rate():
    defaults = training.defaults_of("cpn_nano")
    assert defaults.drops(900) == [] and "constant in a run of less than 1000 steps" in defaults.describe(900)
    assert defaults.drops(2500) == [1000, 2000]
    assert defaults.drops(12_000) == [2000, 4000, 6000, 8000, 10_000]
    assert "halved after step 1000, 2000 of 2500" in defaults.describe(2500)


def test_every_model_has_training_defaults_and_unknown_ones_are_refused():
    detectors = set(kpzoo.list_models("person_fpn*"))
    for name in set(kpzoo.list_models()) - detectors:
        assert training.defaults_of(name).augment in augment.AUGMENTS
    for name in detectors:
        with pytest.raises(UserError, match="Expected a pose model. Received: 'person_fpn_"):
            training.defaults_of(name)
    with pytest.raises(UserError, match="Unknown schedule.*'hrnt'.*Did you mean 'hrnet'"):
        replace(training.defaults_of("hrnet_w32"), schedule="hrnt")


@pytest.mark.parametrize("make", [lambda: training.halving(5e-4, 7), lambda: training.tenths(1e-3, [4, 9])])
def test_the_optimizer_and_its_schedule_survive_a_keras_file(make, tmp_path):
    model = tiny_model(training.AdamL2(make(), l2=3e-5))
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.l2 == 3e-5
    assert again.optimizer.get_config() == model.optimizer.get_config()
    assert again.preset == model.preset


TWO_REPLICAS = """
    import sys
    import keras, numpy as np, tensorflow as tf
    import kpzoo
    from kpzoo import training
    from kpzoo.training.averages import WeightAverages
    from kpzoo.inference import accelerate
    from kpzoo.losses import default_loss
    from kpzoo.replicas import over_replicas

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # see `unoptimized_graphs`
    rng = np.random.default_rng(5)  # of the few values that lie within rounding of zero, none decides over a ReLU
    strategies = [training.make_strategy(replicas) for replicas in (2, 1)]  # two first: TensorFlow starts with them
    keras.config.set_dtype_policy("mixed_float16")
    for strategy in strategies:  # only the second replica overflows: no replica may take the step
        with strategy.scope():
            weight = keras.Variable([1.0], name="weight")
            optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=8.0)
            optimizer.build([weight])

        def step():
            context = tf.distribute.get_replica_context()
            last = context.replica_id_in_sync_group == context.num_replicas_in_sync - 1
            gradient = tf.where(last, tf.constant([np.inf]), tf.constant([1.0]))
            optimizer.apply(over_replicas([gradient], optimizer), [weight])

        strategy.run(tf.function(step))
        print("after an overflow", weight.numpy(), optimizer.dynamic_scale.numpy())

        with strategy.scope():  # the sum over replicas is cut to a length of 1, whatever its loss was scaled by
            weights = keras.Variable([3.0, -4.0], name="weights")
            clipping = keras.optimizers.SGD(1.0, global_clipnorm=1.0)
            clipping = keras.optimizers.LossScaleOptimizer(clipping, initial_scale=64.0)
            clipping.build([weights])

        def clipped():
            replicas = tf.distribute.get_replica_context().num_replicas_in_sync
            gradient = clipping.scale_loss(tf.constant([6.0, 8.0])) / replicas
            clipping.apply(over_replicas([gradient], clipping), [weights])

        strategy.run(tf.function(clipped))
        print("clipped", weights.numpy().round(5))
    keras.config.set_dtype_policy("float32")
    for name, shapes in {
        "cpn_tiny": dict(image=(4, 64, 64, 3), heatmaps=(4, 16, 16, 17), weights=(4, 17),
                         global_heatmaps=(4, 4, 16, 16, 17), global_weights=(4, 4, 17)),
        "mipnet_tiny": dict(image=(4, 64, 64, 3), heatmaps=(4, 2, 16, 16, 17), weights=(4, 2, 17), present=(4, 2)),
    }.items():
        rows = {key: rng.random((3, *shape), np.float32) for key, shape in shapes.items()}
        rows["image"] *= 255
        if "present" in rows:
            rows["instance"] = np.tile(np.eye(2, dtype=np.float32), (3, 4, 1, 1))
        data = tf.data.Dataset.from_tensor_slices(rows)
        for strategy in strategies:
            replicas = strategy.num_replicas_in_sync
            keras.utils.set_random_seed(0)
            options = {"refine": "concat"} if name == "cpn_tiny" else {}
            with strategy.scope():
                model = kpzoo.build(name, image_hw=(64, 64), **options)
                training.synchronize_batch_norm(model)
                clip = {"global_clipnorm": 0.5} if name == "cpn_tiny" else {}  # a hundredth of what it is
                model.compile(training.AdamL2(1e-3, l2=0.1, epsilon=1.0, **clip), default_loss(model.preset))
                model.optimizer.build(model.trainable_variables)
                model.averages = WeightAverages(model, 0.9)
                if replicas == 2:
                    model.optimizer.clipvalue = 1.0
                    try:
                        model.fit(data, verbose=0)
                    except kpzoo.errors.UserError as error:
                        print("refused", error)
                    model.optimizer.clipvalue, model.train_function = None, None
                history = model.fit(data, shuffle=False, verbose=0)
            weights = {variable.path: variable.numpy() for variable in model.weights}
            weights |= {f"average_{n}": variable.numpy() for n, variable in enumerate(model.averages.values)}
            if replicas == 2:  # an odd number of crops is shared out, and the answers are those of one device
                runs, run = [], strategy.run
                strategy.run = lambda *args, **kwargs: runs.append(1) or run(*args, **kwargs)
                plain = kpzoo.build(name, image_hw=(64, 64), **options)
                plain.set_weights(model.get_weights())
                shared, alone = (accelerate(each)(rows["image"][0, :3]) for each in (model, plain))
                for ours, theirs in zip(shared, alone):
                    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
                assert len(runs) == 1, runs
                strategy.run = run
            np.savez(f"{sys.argv[1]}/{name}-{replicas}.npz", **weights, **history.history)
"""


def test_two_replicas_train_to_the_weights_of_one(tmp_path):
    result = run_python(TWO_REPLICAS, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("after an overflow [1.] 4.0") == 2, result.stdout
    assert result.stdout.count("clipped [ 2.4 -4.8]") == 2, result.stdout
    assert result.stdout.count("refused `clipnorm=` and `clipvalue=` are not supported on 2 replicas") == 2, (
        result.stdout
    )
    for name in ("cpn_tiny", "mipnet_tiny"):
        one, two = (dict(np.load(tmp_path / f"{name}-{replicas}.npz")) for replicas in (1, 2))
        terms = [metric for metric in one if metric.startswith("loss_")]
        assert len(terms) == 2
        np.testing.assert_allclose(sum(one[metric] for metric in terms), one["loss"], rtol=1e-5)
        for metric in ("loss", "pck", *terms):
            np.testing.assert_allclose(one.pop(metric), two.pop(metric), rtol=1e-5)
        for path, value in one.items():
            np.testing.assert_allclose(value, two[path], rtol=1e-6, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_in_it_and_saves_float32(precision, small_folder, tmp_path):
    how = dict(epochs=1, batch_size=2, steps_per_epoch=8, augment=None, ema=0.5, clip_norm=100.0)
    model = training.run(tiny_model, load(small_folder, "train"), tmp_path, precision=precision, **how)
    assert json.loads((tmp_path / "run.json").read_text())["precision"] == precision
    assert model.get_layer("stem_conv").compute_dtype == precision.removeprefix("mixed_")
    assert keras.config.dtype_policy().name == "float32"
    again = training.load_run(tmp_path)
    assert again.get_layer("stem_conv").compute_dtype == "float32"
    fresh, crop = tiny_model().get_weights(), np.full((1, 64, 64, 3), 99.0, np.float32)
    assert max(np.abs(a - b).max() for a, b in zip(again.get_weights(), fresh, strict=True)) > 1e-3  # steps were made
    ours, theirs = (each({"image": crop}, training=False)["heatmaps"].numpy() for each in (model, again))
    np.testing.assert_allclose(ours, theirs, atol=0.05 * np.abs(theirs).max())
    with pytest.raises(UserError, match=f"precision={precision}. Received: float32"):
        training.run(tiny_model, load(small_folder, "train"), tmp_path, **how)
    again.compile("adam", CPNLoss())
    with pytest.raises(UserError, match="was built in float32, not in mixed"):
        training.run(lambda: again, load(small_folder, "train"), tmp_path / "other", precision=precision, **how)


def test_a_run_whose_steps_overflow_goes_on_exactly(small_folder, tmp_path):
    def make_model():
        optimizer = training.AdamL2(1e-2, epsilon=1.0)
        return tiny_model(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**120))

    def train(name, epochs):
        how = dict(batch_size=2, steps_per_epoch=5, augment="cpn", ema=0.5)
        return training.run(make_model, load(small_folder, "train"), tmp_path / name, epochs=epochs, **how)

    whole, _, cut = train("whole", 2), train("cut", 1), train("cut", 2)
    counts, scales = (
        [float(keras.ops.convert_to_numpy(getattr(model.optimizer, name))) for model in (whole, cut)]
        for name in ("iterations", "dynamic_scale")
    )
    assert 0 < counts[0] == counts[1] < 10 and scales[0] == scales[1]  # some steps were left out
    again = train("cut", 2)  # a run that is over makes no step
    for one, other, last in zip(whole.get_weights(), cut.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(other, last)
    names = [path.name for path in keras_callbacks.checkpoints(tmp_path / "cut/checkpoints")]
    assert names == ["step-000000010.weights.h5", "step-000000005.weights.h5"]
    rows = [keras_callbacks.read_log(tmp_path / name / "log.csv") for name in ("whole", "cut")]
    for one, other in zip(*rows, strict=True):
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-5)


def test_an_epoch_is_kept_whose_validation_fails_and_the_weights_of_before_are_not(small_folder, tmp_path):
    def run(epochs, validate):
        how = dict(batch_size=4, steps_per_epoch=2, augment=None, validate=validate)
        return training.run(tiny_model, load(small_folder, "train"), tmp_path, epochs=epochs, **how)

    def unreadable(model):
        raise UserError("A picture cannot be read.")

    first = run(1, lambda model: {"AP": 0.5}).get_weights()
    with pytest.raises(UserError, match="A picture"):
        run(2, unreadable)
    assert keras_callbacks.checkpoints(tmp_path / "checkpoints")[0].name == "step-000000004.weights.h5"
    for weights, raw in zip(weights_of(tmp_path), raw_weights_of(tmp_path), strict=True):
        np.testing.assert_array_equal(weights, raw)
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(first, weights_of(tmp_path), strict=True))
    run(3, lambda model: {"AP": 0.25})
    rows = keras_callbacks.read_log(tmp_path / "log.csv")
    assert [(row["epoch"], row["val_AP"]) for row in rows] == [("1", "0.5"), ("2", ""), ("3", "0.25")]


@pytest.mark.parametrize("rate", [0.5, training.tenths(0.5, [4])])
def test_rates_grow_with_the_batch_and_from_almost_nothing(rate, tmp_path):
    ramp = training.Ramp(rate, factor=3.0, warmup=3)
    drop = 1.0 if isinstance(rate, float) else 0.1
    np.testing.assert_allclose([ramp(step) for step in (0, 1, 2, 3, 4, 5)], [0.5, 1.0, 1.5, 1.5, 1.5, 1.5 * drop])
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ramp))
    assert float(again(5)) == float(ramp(5))
    with pytest.raises(UserError, match="0 or more. Received: 1.0 and -1"):
        training.Ramp(rate, warmup=-1)


def test_a_run_scales_the_rate_of_any_schedule_by_its_batch(small_folder, tmp_path):
    how = dict(epochs=1, batch_size=4, steps_per_epoch=3, augment=None, base_batch=2, warmup=2)
    model = training.run(tiny_model, load(small_folder, "train"), tmp_path, **how)
    assert float(model.optimizer.learning_rate) == pytest.approx(2e-3)
    assert float(keras_callbacks.read_log(tmp_path / "log.csv")[0]["learning_rate"]) == pytest.approx(2e-3)
    with pytest.raises(UserError, match="warmup=2. Received: 3"):
        training.run(tiny_model, load(small_folder, "train"), tmp_path, **{**how, "warmup": 3})


def test_a_recipe_scales_its_rate_with_the_batch_that_is_asked_for(small_folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "recipes"))
    import common

    data = common.Data("small", ("train", "train"), "coco")
    row = common.Run("cpn_tiny", data, (64, 64), 2, 1e-3, 3, (), "cpn", crops_per_epoch=10)
    called = []
    monkeypatch.setattr(training, "run", lambda *args, **kwargs: called.append(kwargs))
    monkeypatch.setattr(kpzoo, "evaluate", lambda *args, **kwargs: "AP")
    for given in ([], ["--batch-size", "5", "--warmup", "7", "--ema", "0.99", "--precision", "mixed_bfloat16"]):
        how = ["--data", str(small_folder), "--out", str(tmp_path), *given]
        monkeypatch.setattr(sys, "argv", ["page.py", row.name, *how])
        common.main("", [row], lambda *_: None)
    plain, scaled = called
    assert (plain["batch_size"], plain["base_batch"], plain["steps_per_epoch"]) == (2, None, 5)
    assert (scaled["batch_size"], scaled["base_batch"], scaled["steps_per_epoch"]) == (5, 2, 2)
    assert (scaled["warmup"], scaled["ema"], scaled["precision"]) == (7, 0.99, "mixed_bfloat16")


def test_averages_are_those_of_a_plain_loop_and_are_swapped_in_and_out(small_folder):
    model = tiny_model()
    model.optimizer.build(model.trainable_variables)
    model.averages, seen = averages.WeightAverages(model, 0.4), [model.get_weights()]
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: seen.append(model.get_weights()))
    data = make_dataset(load(small_folder, "train"), model, 2)
    model.fit(data, steps_per_epoch=5, shuffle=False, verbose=0, callbacks=[keep])
    expected = seen[0]
    for step, weights in enumerate(seen[1:], 1):
        momentum = min(0.4, (1 + step) / (10 + step))
        expected = [momentum * a + (1 - momentum) * w for a, w in zip(expected, weights, strict=True)]
    with model.averages.in_use():
        inside = model.get_weights()
    for average, within, raw, after in zip(expected, inside, seen[-1], model.get_weights(), strict=True):
        np.testing.assert_allclose(within, average, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(after, raw)
    with pytest.raises(UserError, match="below 1. Received: 1.0"):
        averages.WeightAverages(model, 1.0)


def test_a_run_validates_and_saves_averages_and_goes_on_from_its_own_weights(small_folder, tmp_path):
    validated = []

    def validate(model):
        validated.append(model.get_weights())
        return {}

    how = dict(batch_size=2, steps_per_epoch=2, augment=None, validate=validate, ema=0.9)
    data = load(small_folder, "train")
    model = training.run(tiny_model, data, tmp_path, epochs=1, **how)
    saved, raw = weights_of(tmp_path), raw_weights_of(tmp_path)
    (tmp_path / training.WEIGHTS).unlink()
    unfinished = weights_of(tmp_path)  # what a run that is not over yet answers with
    for values in zip(saved, unfinished, model.get_weights(), validated[0], strict=True):
        for value in values[1:]:
            np.testing.assert_array_equal(values[0], value)
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(saved, raw, strict=True))
    for changed in (dict(ema=None), dict(clip_norm=1.0)):
        with pytest.raises(UserError, match="ema=0.9. Received: None|global_clipnorm=None. Received: 1.0"):
            training.run(tiny_model, data, tmp_path, epochs=2, **{**how, **changed})


def weights_of(folder) -> list[np.ndarray]:
    return training.load_run(folder).get_weights()


def raw_weights_of(folder) -> list[np.ndarray]:
    """The weights that a run's newest checkpoint goes on from, not their averages."""
    return kpzoo.build("cpn_tiny", **SIZE, weights=keras_callbacks.checkpoints(folder / "checkpoints")[0]).get_weights()


def test_a_run_with_other_settings_is_refused(tmp_path):
    training.resume(tiny_model(), tmp_path, {"batch_size": 8})
    with pytest.raises(ValueError, match="started with batch_size=8. Received: 16"):
        training.resume(tiny_model(), tmp_path, {"batch_size": 16})
    assert json.loads((tmp_path / "run.json").read_text())["batch_size"] == 8


def test_a_run_of_before_there_were_these_options_goes_on(small_folder, tmp_path):
    data, how = load(small_folder, "train"), dict(batch_size=4, steps_per_epoch=1, augment=augment.Augment())
    training.run(tiny_model, data, tmp_path, epochs=1, **how)
    record = json.loads((tmp_path / "run.json").read_text())
    for name in ("ema", "precision", "base_batch", "warmup", "sync_batch_norm", "instance_rule"):
        record.pop(name)
    record["augment"].pop("erase_probability")
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert training.run(tiny_model, data, tmp_path, epochs=2, **how).optimizer.iterations == 2
    with pytest.raises(UserError, match="ema=None. Received: 0.5"):
        training.run(tiny_model, data, tmp_path, epochs=2, **how, ema=0.5)
    with pytest.raises(UserError, match="instance_rule=paper. Received: official"):
        training.run(tiny_model, data, tmp_path, epochs=2, **how, instance_rule="official")


def test_a_run_whose_record_names_modules_of_before_goes_on(small_folder, tmp_path):
    def make_model():
        return tiny_model(training.AdamL2(training.Ramp(1e-3, 0.5, 2)))

    data, how = load(small_folder, "train"), dict(batch_size=4, steps_per_epoch=1, augment=None)
    training.run(make_model, data, tmp_path, epochs=1, **how)
    record = json.loads((tmp_path / "run.json").read_text())
    assert "module" not in record["optimizer"] and "module" not in record["loss"]
    record["optimizer"]["module"] = "kpzoo.training"
    record["optimizer"]["config"]["learning_rate"]["module"] = "kpzoo.training"
    record["loss"]["module"] = "kpzoo.losses"
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert training.run(make_model, data, tmp_path, epochs=2, **how).optimizer.iterations == 2
    with pytest.raises(UserError, match="optimizer.config.l2"):
        training.run(
            lambda: tiny_model(training.AdamL2(training.Ramp(1e-3, 0.5, 2), l2=0.5)), data, tmp_path, epochs=2, **how
        )


def test_a_run_on_other_annotations_or_in_anothers_folder_is_refused(small_folder, tmp_path):
    data = load(small_folder, "train")
    how = dict(epochs=1, batch_size=4, steps_per_epoch=1, augment=None)
    with run_folder.held(tmp_path), pytest.raises(UserError, match="Another process is training in"):
        training.run(tiny_model, data, tmp_path, **how)
    training.run(tiny_model, data, tmp_path, **how)
    persons = data.annotations.persons
    moved = replace(persons, keypoints_image_xy=persons.keypoints_image_xy + 1)
    with pytest.raises(UserError, match="annotations_crc32"):
        training.run(tiny_model, replace(data, annotations=replace(data.annotations, persons=moved)), tmp_path, **how)


def test_a_run_with_another_augmentation_is_refused_and_any_keras_loss_is_recorded(small_folder, tmp_path):
    def plain():
        model = tiny_model()
        model.compile("adam", CPNLoss(refine_loss="l2"))
        return model

    data, how = load(small_folder, "train"), dict(epochs=1, batch_size=4, steps_per_epoch=1)
    with pytest.raises(UserError, match="Did you mean 'hrnet'"):
        training.run(plain, data, tmp_path, augment="hrnett", **how)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="Did you mean 'official'"):
        training.run(plain, data, tmp_path / "no_rule", augment="cpn", instance_rule="offical", **how)
    training.run(plain, data, tmp_path, augment="cpn", **how)
    for changed in (dict(augment="hrnet"), dict(augment="cpn", visibility_rule="visible")):
        with pytest.raises(UserError, match="augment=cpn. Received: hrnet|visibility_rule=None. Received: visible"):
            training.run(plain, data, tmp_path, **changed, **how)


def test_a_training_that_broke_down_is_told_and_hides_no_checkpoint(small_folder, tmp_path):
    data, how = load(small_folder, "train"), dict(batch_size=4, steps_per_epoch=2, augment=None)
    training.run(lambda: tiny_model(training.AdamL2(1e-3)), data, tmp_path / "good", epochs=1, **how)
    with pytest.raises(UserError, match="Training diverged: the weights contain NaN"):
        training.run(lambda: tiny_model(training.AdamL2(1e30)), data, tmp_path / "bad", epochs=2, **how)
    assert not (tmp_path / "bad" / training.WEIGHTS).exists()


def test_a_loss_that_knows_no_dicts_is_refused_at_once():
    with pytest.raises(UserError, match="one of `kpzoo.losses`, .*Received: 'mse'"):
        tiny_model().compile("adam", "mse")


@pytest.mark.parametrize("text", ["[]", "{", '{"preset": 3}'])
def test_a_damaged_record_of_a_run_is_told(text, tmp_path):
    (tmp_path / training.RECORD).write_text(text)
    for use in (lambda: training.load_run(tmp_path), lambda: training.resume(tiny_model(), tmp_path, {})):
        with pytest.raises(UserError, match="run.json' is damaged"):
            use()


def test_one_step_of_training_lowers_the_loss_and_reports_pck(small_folder):
    model = tiny_model(keras.optimizers.Adam(3e-3))
    batch = next(iter(make_dataset(load(small_folder, "train"), model, 8)))
    history = model.fit(tf.data.Dataset.from_tensors(batch).repeat(12), epochs=1, verbose=0).history
    before = history["loss"][0]
    history = model.fit(tf.data.Dataset.from_tensors(batch).repeat(12), epochs=1, verbose=0).history
    assert history["loss"][0] < before
    assert 0 <= history["pck"][0] <= 1


def test_nan_leaves_the_last_good_checkpoint(tmp_path):
    model = tiny_model()
    model.optimizer.build(model.trainable_variables)
    checkpoint = keras_callbacks.Checkpoint(tmp_path)
    checkpoint.set_model(model)
    checkpoint.on_epoch_end(0, {"loss": 1.0})
    checkpoint.on_epoch_end(1, {"loss": float("nan")})
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_throughput_counts_images(small_folder):
    model = tiny_model()
    batch = next(iter(make_dataset(load(small_folder, "train"), model, 4)))
    started = time.perf_counter()
    history = model.fit(
        tf.data.Dataset.from_tensors(batch).repeat(6), verbose=0, callbacks=[keras_callbacks.Throughput(4)]
    ).history
    assert history["images_per_s"][0] > 6 * 4 / (time.perf_counter() - started)
