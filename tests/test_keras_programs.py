"""The programs that Keras users write, on a tiny model of each family: each works, or says what to write instead."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reliability_rows import row
from test_models import as_arrays, inputs_for, tiny

import kpzoo
from kpzoo import keras_setup
from kpzoo.boxes import PersonBoxLoss
from kpzoo.errors import UserError
from kpzoo.keras_batches import unpacked
from kpzoo.losses import CPNLoss, HeatmapLoss, default_loss
from kpzoo.models import build, info, list_models

_BY_SIZE = sorted(list_models("*_tiny"), key=lambda name: -info(name).num_params)
EVERY = sorted({info(name).family: name for name in _BY_SIZE}.values())  # the smallest of each family
NAMES = [name for name in EVERY if not name.startswith("person_")]
HW = (64, 64)
every_family = pytest.mark.parametrize("name", EVERY)


def batch_for(model, batch=4) -> dict:
    """Inputs and targets of a model, as `kpzoo.data` names them."""
    rng, found = np.random.default_rng(1), inputs_for(model, batch)
    if "heatmaps" not in model.output:
        boxes = np.tile(np.float32([[8, 8, 40, 60], [0, 0, 0, 0]]), (batch, 1, 1))
        return found | dict(boxes=boxes, box_weights=boxes[..., 2] / 40, ignored=0 * boxes)
    for name, tensor in model.output.items():
        shape = [batch, *(size or model.preset.num_instances for size in tensor.shape[1:])]
        found[name] = rng.uniform(0, 1, shape).astype("float32")
        found[name.replace("heatmaps", "weights")] = rng.uniform(0.5, 1, [*shape[:-3], shape[-1]]).astype("float32")
    return found


def loss_for(model):
    """The default loss of a model."""
    return PersonBoxLoss(model.preset.image_hw) if model.preset.skeleton is None else default_loss(model.preset)


def parts(model, batch) -> tuple[dict, dict]:
    """x and y of a batch."""
    return {k: v for k, v in batch.items() if k in model.input}, {
        k: v for k, v in batch.items() if k not in model.input
    }


def compiled(name="cpn_tiny", **options):
    model = build(name, image_hw=HW)
    model.compile(keras.optimizers.SGD(1e-6), loss_for(model), **options)
    return model


def loss_of(model, data) -> np.ndarray:
    inputs, targets, weights = unpacked(data, list(model.input), model.target_names)
    return np.asarray(model.losses_of(targets, model(inputs), weights)[0])


def told(call, *args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# The forms of a batch


@every_family
def test_a_batch_is_one_dict_or_x_and_y_and_means_the_same(name):
    model = compiled(name)
    batch = batch_for(model, 2)
    x, y = parts(model, batch)
    outputs = model(batch)
    expected = np.asarray(model.losses_of(y, outputs)[0])
    by_order = list(x.values()) if len(x) > 1 else x["image"]
    forms = [(batch,), (batch, None, None), (x, y), (by_order, y), (x, y, np.ones(2)), (batch, None, np.ones((2, 1)))]
    forms += [(x, {key: value.astype("float64") for key, value in y.items()}), (x, y, np.array([0.0, 2.0]))]
    for form in forms:
        inputs, targets, weights = unpacked(form, list(model.input), model.target_names)
        assert all((inputs[key] == x[key]).all() for key in x) and inputs.keys() == x.keys()
        losses, _ = model.losses_of(targets, outputs, weights)
        np.testing.assert_allclose(losses, expected * (1 if weights is None else weights), rtol=1e-5)
    for form in (batch, (x, y), x):
        assert as_arrays(model.predict_step(form)).keys() == model.output.keys()


@settings(max_examples=30, deadline=None)
@given(weights=arrays("float32", (4,), elements=st.floats(0, 10, width=32)), as_copies=st.booleans())
def test_sample_weights_are_read_as_keras_passes_them(weights, as_copies):
    batch = batch_for(tiny("cpn_tiny"))
    y = parts(tiny("cpn_tiny"), batch)[1]
    given_weights = {key: weights for key in y} if as_copies else weights
    *_, read = unpacked((batch["image"], y, given_weights), ["image"], ["heatmaps", "weights"])
    np.testing.assert_array_equal(read, weights)


@row(
    91,
    "`fit(x, y)`, data sets of pairs, sample weights, `train_on_batch`, Keras metrics, `predict` on a training batch",
    "Supported, with the same losses as for a batch in one dict",
)
def test_fit_evaluate_and_predict_take_arrays_data_sets_and_generators():
    model = compiled(metrics=["mae", keras.metrics.RootMeanSquaredError("rmse")], weighted_metrics=["mse"])
    batch = batch_for(model)
    x, y = parts(model, batch)
    calls = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: calls.append(logs))
    stop = keras.callbacks.EarlyStopping("val_heatmaps_mae", mode="min")
    how = dict(batch_size=2, verbose=0)
    weights = np.array([1, 0, 2, 1])
    model.fit(x["image"], y, sample_weight=weights, validation_split=0.5, callbacks=[callback, stop], **how)
    assert {"loss", "pck", "heatmaps_mae", "heatmaps_rmse", "heatmaps_mse", "val_loss", "val_heatmaps_mae"} <= calls[
        0
    ].keys()
    pairs = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    whole = tf.data.Dataset.from_tensor_slices(batch).batch(2)
    history = model.fit(pairs, validation_data=(x, y, weights), verbose=0).history
    assert np.isfinite(history["loss"] + history["val_heatmaps_mae"]).all()
    expected = np.abs(as_arrays(model(x))["heatmaps"] - y["heatmaps"]).mean()
    scores = [model.evaluate(form, return_dict=True, verbose=0) for form in (pairs, whole)]
    scores += [model.test_on_batch(batch, return_dict=True)]
    for score in scores:
        assert score["heatmaps_mae"] == pytest.approx(expected, rel=1e-4)
        assert score["loss"] == pytest.approx(scores[0]["loss"], rel=1e-4)
    maps = as_arrays(model(x))["heatmaps"]
    for form in (whole, x["image"]):  # others are in the test of one step
        np.testing.assert_allclose(model.predict(form, verbose=0)["heatmaps"], maps, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.asarray(model(batch)["heatmaps"]), maps, rtol=1e-3, atol=1e-3)
    assert model.train_on_batch(batch, return_dict=True)["loss"] > 0
    assert model.train_on_batch(x, y, sample_weight=np.zeros(4), return_dict=True)["loss"] == 0
    model.fit(((x, y) for _ in range(2)), steps_per_epoch=2, verbose=0)
    model.compile("adam", CPNLoss())
    assert not {"heatmaps_mae", "heatmaps_mse"} & {metric.name for metric in model.metrics}


SHAPES = {"heatmaps": (2, 8, 16, 17)}
NEEDS = {
    "targets as one array": (lambda x, y: (x, y["heatmaps"]), "`y` must be a dict .* Received: one array"),
    "targets as a list": (lambda x, y: (x, [*y.values()]), "`y` must be a dict .* 4 arrays without names"),
    "no targets": (lambda x, y: (x,), "lacks the targets .'heatmaps', 'weights'.*kpzoo.data"),
    "no weights": (lambda x, y: (x, {"heatmaps": y["heatmaps"]}), "lacks the targets .'weights'"),
    "no input": (lambda x, y: (y,), "must contain the inputs .'image'.*without .'image'"),
    "two inputs": (lambda x, y: ([x["image"]] * 2, y), "has 1 inputs.*Received: 2"),
    "weights of outputs": (lambda x, y: (x, y, {"heatmaps": np.ones(2)}), "one number per crop.*dict with 1"),
    "weights of keypoints": (lambda x, y: (x, y, np.ones((2, 17))), r"one number per crop.*shape \(2, 17\)"),
    "other shape": (lambda x, y: (x, y | {"heatmaps": np.zeros(SHAPES["heatmaps"])}), "'heatmaps' must have the shape"),
}


@pytest.mark.parametrize("case", NEEDS)
def test_a_batch_that_cannot_be_trained_on_is_refused_in_one_line(case):
    model = tiny("cpn_tiny")
    form, message = NEEDS[case]
    with pytest.raises(UserError, match=message):
        model.loss = CPNLoss()
        model.term_metrics = []
        loss_of(model, form(*parts(model, batch_for(model, 2))))


@row(
    92,
    "Keras losses, a loss that returns a scalar, `loss_weights`, `class_weight`, metrics of unknown outputs",
    "Error of one line that states what a pose model accepts",
)
def test_arguments_of_compile_without_a_meaning_here_are_refused():
    model = build("cpn_tiny", image_hw=HW)
    loss = CPNLoss()
    for other in ("mse", {"heatmaps": "mse"}, ["mse"], CPNLoss, keras.losses.MeanSquaredError(), keras.losses.huber):
        assert "one value per image" in told(model.compile, "adam", other)
    assert "not supported" in told(model.compile, "adam", loss, loss_weights={"heatmaps": 1.0})
    assert "Did you mean 'heatmaps'" in told(model.compile, "adam", loss, metrics={"heatmap": "mae"})
    model.compile("adam")
    assert "without a loss" in told(loss_of, model, batch_for(model, 2))
    for wrong in (lambda t, o: tf.reduce_mean(o["heatmaps"]), lambda t, o: tf.reduce_mean(o["heatmaps"], [1, 2])):
        model.compile("adam", wrong)
        assert "one value per image, shape (B,)" in told(loss_of, model, batch_for(model, 2))
    detector = build("person_fpn_tiny", image_hw=HW)
    assert "takes no Keras metrics" in told(detector.compile, "adam", PersonBoxLoss(HW), metrics=["mae"])
    assert "PersonBoxLoss" in told(detector.compile, "adam", "mse")
    assert "predicts no classes" in told(model.fit, batch_for(model), class_weight={0: 1.0})
    assert "predicts no classes" in told(model.train_on_batch, batch_for(model), class_weight={0: 1.0})


# Models as material


@every_family
def test_clones_cuts_and_extensions_keep_what_they_need(name):
    model = compiled(name)
    batch = batch_for(model, 2)
    x, _ = parts(model, batch)
    clone = keras.models.clone_model(model)
    assert (type(clone), clone.preset, clone.compiled) == (type(model), model.preset, True)
    assert clone.pyramid_layers == model.pyramid_layers and clone.pyramid_outputs.keys() == model.pyramid_layers.keys()
    assert keras.models.clone_model(clone).preset == model.preset
    assert keras.models.model_from_json(model.to_json()).preset == model.preset
    clone.set_weights(model.get_weights())
    for key, value in model(x).items():
        np.testing.assert_array_equal(clone(x)[key], value)
    np.testing.assert_allclose(loss_of(clone, batch), loss_of(model, batch), rtol=1e-6)
    key = next(iter(model.output))
    final = type(model)(model.input, {key: model.output[key]})
    assert final.preset == model.preset
    features = next(layer for layer in reversed(model.layers) if isinstance(layer, keras.layers.Activation)).output
    extractor = keras.Model(model.input, features)  # feature extraction
    assert np.isfinite(extractor(x)).all()
    vector = keras.layers.GlobalAveragePooling2D(data_format="channels_last")(features)
    classifier = keras.Model(model.input, keras.layers.Dense(3, "softmax")(vector))  # functional surgery
    assert classifier(x).shape[-1] == 3
    outer = {key: keras.Input(tensor.shape[1:], name=key) for key, tensor in model.input.items()}
    nested = keras.Model(outer, model(outer)[key])
    np.testing.assert_allclose(nested(x), model(x)[key], rtol=1e-5)


@every_family
def test_an_own_loop_and_frozen_layers(name):
    model = build(name, image_hw=HW)
    half = len(model.layers) // 2
    for layer in model.layers[:half]:
        layer.trainable = False
    batch = batch_for(model, 2)
    frozen = [weight.numpy() for layer in model.layers[:half] for weight in layer.weights]
    optimizer, loss = keras.optimizers.Adam(1e-3), loss_for(model)
    inputs, targets, _ = unpacked(batch, list(model.input), model.target_names)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss(targets, model(inputs, training=True)))
    before = [weight.numpy() for weight in model.trainable_weights]
    optimizer.apply_gradients(zip(tape.gradient(value, model.trainable_weights), model.trainable_weights, strict=True))
    assert any((weight.numpy() != old).any() for weight, old in zip(model.trainable_weights, before, strict=True))
    kept = [weight for layer in model.layers[:half] for weight in layer.weights]
    assert all((weight.numpy() == old).all() for weight, old in zip(kept, frozen, strict=True))


def test_an_own_loss_under_mixed_precision_with_regularization_and_frozen_layers():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = build("simplebaseline_tiny", image_hw=HW)
    finally:
        keras.mixed_precision.set_global_policy("float32")

    def regularized(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.Conv2D):
            config["kernel_regularizer"] = keras.regularizers.L2(0.5)
        return type(layer).from_config(config)

    def own_loss(targets, outputs):
        return tf.reduce_mean(tf.square(targets["heatmaps"] - outputs["heatmaps"]), [1, 2, 3])

    model = keras.models.clone_model(model, clone_function=regularized)
    model.layers[3].trainable = False
    model.compile("adam", own_loss)
    batch = batch_for(model)
    penalty = sum(float(value) for value in model.losses)
    x, y = parts(model, batch)
    plain = np.square(as_arrays(model(x))["heatmaps"] - y["heatmaps"]).mean((1, 2, 3))
    assert penalty > 0
    np.testing.assert_allclose(loss_of(model, batch), plain + penalty, rtol=1e-4)
    assert np.isfinite(model.fit(batch, batch_size=2, verbose=0).history["loss"]).all()


# Saved models, in this and in another process


@row(
    90,
    "A model saved as `.keras`, loaded by `keras.models.load_model` in a new process; a clone",
    "Loaded if kpzoo is imported, before or after Keras; a clone keeps the preset",
)
def test_a_new_process_loads_saved_models_of_every_family(tmp_path):
    for name in EVERY:
        model = build(name, image_hw=HW)
        loss = loss_for(model)
        optimizer = kpzoo.training.AdamL2(kpzoo.training.Ramp(1e-3, warmup=3)) if name == EVERY[0] else "adam"
        model.compile(optimizer, loss, metrics=["mae"] if name in NAMES else None)
        model.save(tmp_path / f"{name}.keras")
    program = """
import json, sys
import kpzoo
assert "keras" not in sys.modules
import keras
found = {}
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    found[model.preset.name] = [type(model.loss).__name__, type(model.optimizer).__name__, model.compiled]
print(json.dumps(found))
"""
    files = [str(tmp_path / f"{name}.keras") for name in EVERY]
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert sorted(found) == EVERY
    for name in EVERY:
        expected = type(loss_for(tiny(name))).__name__
        assert found[name] == [expected, "AdamL2" if name == EVERY[0] else "Adam", True]


def test_every_registered_class_is_in_the_table_of_classes():
    registered = {name for name in keras.saving.get_custom_objects() if name.startswith("kpzoo>")}
    table = {name: module for module, names in keras_setup.CLASSES.items() for name in names}
    assert registered == {f"kpzoo>{name}" for name in table}
    for name, module in table.items():
        deferred = keras_setup.Deferred(module, name)
        assert deferred.from_config.__self__.__module__ == module
    assert isinstance(keras_setup.Deferred("kpzoo.losses", "HeatmapLoss")(top_k=3), HeatmapLoss)


# Global settings of Keras


@row(93, "channels_first in keras.json", "No effect: every layer sets its data format")
@every_family
def test_channels_first_as_the_global_default_changes_nothing(name):
    keras.config.set_image_data_format("channels_first")
    try:
        model = build(name, image_hw=HW)
        model.set_weights(tiny(name).get_weights())
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        outputs = [as_arrays(one(inputs_for(model))) for one in (model, clone)]
    finally:
        keras.config.set_image_data_format("channels_last")
    expected = as_arrays(tiny(name)(inputs_for(model)))
    for found in outputs:
        for key in expected:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float64"])
def test_policies_that_the_layers_do_not_compute_in_are_refused(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        assert f"Received: '{policy}'" in told(build, "cpn_tiny", image_hw=HW)
    finally:
        keras.config.set_dtype_policy(before)


@row(
    94,
    "Another Keras backend in KERAS_BACKEND or keras.json; the dtype policies float16, bfloat16 and float64",
    "Error with the place that sets it",
)
@pytest.mark.parametrize("where", ["environment", "file"])
@given(backend=st.sampled_from(["jax", "torch", "numpy", "openvino", "theano", "TensorFlow"]))
@settings(max_examples=6, deadline=None)
def test_another_backend_is_refused_with_the_place_that_names_it(where, backend, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    (folder / "keras.json").write_text(json.dumps({"backend": "tensorflow" if where == "environment" else backend}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(folder))
        patch.setenv("KERAS_BACKEND", backend if where == "environment" else "")
        patch.delitem(sys.modules, "keras")
        message = told(keras_setup.check_backend)
        patch.setenv("KERAS_BACKEND", "tensorflow")
        keras_setup.check_backend()
    assert f"{backend!r} from " + ("KERAS_BACKEND" if where == "environment" else str(folder / "keras.json")) in message


@row(
    95,
    "A model built before the process forks, as with gunicorn --preload",
    "Error in the child process, in which TensorFlow would block forever",
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_to_build_its_model_itself():
    model = tiny("cpn_tiny")
    uses = [lambda: build("cpn_tiny"), lambda: model(inputs_for(model)), lambda: model.predict(inputs_for(model))]
    uses += [lambda: kpzoo.predict(model, np.zeros((64, 64, 3), np.uint8), [[1, 1, 50, 50]])]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # only what needs no thread of TensorFlow works here
        said = []
        for use in uses:
            try:
                use()
            except BaseException as error:
                said.append(str(error))
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = json.loads(pipe.read())
    assert len(said) == len(uses) and all("was forked from process" in one for one in said), said
    os.waitpid(child, 0)
