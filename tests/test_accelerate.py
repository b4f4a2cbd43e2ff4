"""Accelerated models answer what their models answer, whatever becomes of the weights; bfloat16 is kept apart."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_export import lively

import kpzoo
from kpzoo import heatmaps
from kpzoo.errors import UserError
from kpzoo.inference import acceleration
from kpzoo.inference.acceleration import accelerate
from kpzoo.inference.folded_model import flip_test_heatmaps, instance_heatmaps
from kpzoo.models.blocks import ResizeBilinear

NAMES = ["cpn_tiny", "mipnet_tiny", "hrnet_tiny", "hourglass_tiny", "simplebaseline_tiny"]
bfloat16 = pytest.mark.skipif(not acceleration.has_bfloat16(), reason="this CPU does not compute in bfloat16")


@pytest.fixture(scope="module")
def models():
    return {name: lively(kpzoo.build(name, image_hw=(64, 64))) for name in NAMES}


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)


def plain(model, crops):
    return instance_heatmaps(model, tf.constant(crops)).numpy()


@pytest.mark.parametrize("name", NAMES)
def test_heatmaps_and_keypoints_are_those_of_the_model(models, crops, name):
    model, expected = models[name], plain(models[name], crops)
    ask = accelerate(model)
    spread = np.ptp(expected)
    assert np.abs(ask.heatmaps(crops).numpy() - expected).max() <= 5e-6 * spread
    for flip, of_model in ((False, instance_heatmaps), (True, flip_test_heatmaps)):
        points, scores = heatmaps.decode(model.preset.rules, of_model(model, tf.constant(crops)).numpy())
        found, found_scores = ask(crops, flip=flip)
        np.testing.assert_allclose(found, points, atol=1e-3)
        np.testing.assert_allclose(found_scores, scores, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_no_batch_norm_is_left_behind_a_convolution(models, name):
    graph = acceleration.FoldedModel(models[name])._network.graph
    nodes = {node.name: node for node in graph.node}
    norms = [node for node in graph.node if node.op == "FusedBatchNormV3"]
    assert all(nodes[norm.input[0]].op not in ("Conv2D", "Conv2DBackpropInput") for norm in norms)
    count = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in models[name].layers)
    assert len(norms) <= {"hourglass_tiny": count // 2 + 1, "mipnet_tiny": 2}.get(name, 0)
    assert not {node.op for node in graph.node} & {"ReadVariableOp", "NoOp"}


@pytest.mark.parametrize("flavour", ["official", "pytorch"])
def test_enlarged_maps_are_convolved_while_they_are_small(crops, flavour):
    model = lively(kpzoo.build("cpn_tiny", image_hw=(64, 64), flavour=flavour))
    graph = acceleration.FoldedModel(model)._network.graph
    enlarged = {node.name for node in graph.node if node.op == "ResizeBilinear"}
    readers = {node.op for node in graph.node if enlarged.intersection(node.input)}
    assert len(enlarged) == 3 + 3 * 2 + 4  # in the pyramid, of three levels for two convolutions, and of its heads
    assert not readers & {"Conv2D", "ConcatV2"}
    expected = plain(model, crops)
    np.testing.assert_allclose(accelerate(model).heatmaps(crops), expected, atol=5e-6 * np.ptp(expected))


@pytest.mark.parametrize("axis", [3, 1])
def test_a_concatenation_is_taken_apart_along_channels_alone(crops, axis):
    image = keras.Input((64, 64, 3), name="image")
    small = keras.layers.AveragePooling2D(2)(image)
    large = ResizeBilinear((64, 64), "half_pixel")(small)
    both = keras.layers.Concatenate(axis)([large, image, large])
    conv = keras.layers.Conv2D(17, 1, name="first")
    maps = keras.layers.Add()([conv(both), keras.layers.Conv2D(17, 1, name="second")(both), 0 * conv(both)])
    model = kpzoo.pose_model.PoseModel({"image": image}, {"heatmaps": maps}, name="joined")
    model.preset = kpzoo.build("simplebaseline_tiny", image_hw=(64, 64)).preset
    graph = acceleration.FoldedModel(model)._network.graph
    assert [node.op for node in graph.node].count("AddN") == {3: 3, 1: 0}[axis]
    expected = plain(model, crops)
    np.testing.assert_allclose(accelerate(model).heatmaps(crops), expected, atol=5e-6 * np.ptp(expected))


def train_a_step(model):
    def step():
        for variable in model.trainable_variables:
            variable.assign_sub(0.01 * tf.sign(variable.value))

    tf.function(step)()


CHANGES = {
    "a step of training": train_a_step,
    "set_weights": lambda model: model.set_weights([0.9 * weights for weights in model.get_weights()]),
    "one batch norm's variance": lambda model: model.variables[4].assign(2 * model.variables[4].value),
    "one bias": lambda model: model.variables[-1].assign_add(tf.ones(model.variables[-1].shape)),
    "statistics of a forward pass": lambda model: model({"image": 50 * tf.ones((2, 64, 64, 3))}, training=True),
    "a filter, element by element": lambda model: model.variables[0].value.scatter_nd_update([[0, 0, 0, 0]], [9.0]),
}


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_no_answer_is_of_old_weights(crops, change, freeze):
    model = lively(kpzoo.build("cpn_tiny", image_hw=(64, 64)))
    ask = accelerate(model)
    if freeze:
        np.testing.assert_allclose(ask.heatmaps(crops), ask.freeze().heatmaps(crops), rtol=1e-4, atol=1e-4)
        assert ask._frozen
    before = ask.heatmaps(crops).numpy()
    CHANGES[change](model)
    expected = plain(model, crops)
    assert np.abs(expected - before).max() > 1e-4 * np.ptp(before), "the change changed nothing"
    np.testing.assert_allclose(ask.heatmaps(crops), expected, atol=5e-6 * np.ptp(expected))


def test_new_weights_cost_neither_a_trace_nor_memory_that_grows(models, crops):
    model = models["cpn_tiny"]
    ask = accelerate(model)
    for _ in range(3):
        train_a_step(model)
        ask(crops)
    assert ask._functions[True, None].experimental_get_tracing_count() == 1
    unchanged = ask._folded.weights()
    assert ask._folded.weights() is unchanged


def test_replicas_are_accelerated_too(crops):
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        model = lively(kpzoo.build("simplebaseline_tiny", image_hw=(64, 64)))
        ask = accelerate(model)
        ask.heatmaps(crops)
        model.set_weights([0.9 * weights for weights in model.get_weights()])
        expected = plain(model, crops)
        np.testing.assert_allclose(ask.heatmaps(crops), expected, atol=5e-6 * np.ptp(expected))


@keras.saving.register_keras_serializable("test")
class Looped(keras.layers.Dense):
    def call(self, inputs):
        return tf.map_fn(lambda row: super(Looped, self).call(row), inputs)


def test_a_model_with_a_loop_stays_as_it_is(crops):
    inner = kpzoo.build("simplebaseline_tiny", image_hw=(64, 64))
    maps = Looped(17, name="looped")(inner.output["heatmaps"])
    model = kpzoo.pose_model.PoseModel(inner.input, {"heatmaps": maps}, name="looped")
    model.preset = inner.preset
    np.testing.assert_allclose(accelerate(model).heatmaps(crops), plain(model, crops), atol=1e-6)
    with pytest.raises(
        UserError, match="model 'looped' has layers that cannot be converted to it. Use `precision='float32'`."
    ):
        acceleration.FoldedModel(model, "bfloat16")


@bfloat16
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near_and_heads_stay_in_float32(models, crops, name):
    model, expected = models[name], plain(models[name], crops)
    found = accelerate(model, "bfloat16").heatmaps(crops).numpy()
    apart = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    assert 1e-5 < apart < 0.05
    assert len(np.unique(found)) > 0.9 * found.size  # maps rounded to eight bits have many equal values
    graph = acceleration.FoldedModel(model, "bfloat16")._network.graph
    low = [node.attr["T"].type == tf.bfloat16 for node in graph.node if node.op == "Conv2D"]
    heads = 1 + models[name].num_levels
    assert low[0] and not low[-1] and len(low) - heads <= sum(low) < len(low)


@bfloat16
def test_predictions_and_scores_in_bfloat16_are_near(models, shipped_model, small_folder):
    data, options = kpzoo.data.load(small_folder, "train"), dict(flip=True, precision="bfloat16")
    path, box = data.image_paths(data.annotations.image_ids[:1])[0], [[4.0, 4.0, 60.0, 60.0]]
    found, known = kpzoo.Predictor(shipped_model, **options)(path, box), kpzoo.predict(shipped_model, path, box)
    assert not np.array_equal(found.keypoint_scores, known.keypoint_scores)  # it was computed in bfloat16
    np.testing.assert_allclose(found.keypoint_scores, known.keypoint_scores, atol=0.05)
    told = kpzoo.evaluate(models["cpn_tiny"], data, **options).circumstances
    assert told["precision"] == "bfloat16"


@bfloat16
def test_bfloat16_leaves_the_process_as_it_was(models, crops):
    before = tf.config.optimizer.get_experimental_options()
    accelerate(models["cpn_tiny"], "bfloat16")(crops)
    assert tf.config.optimizer.get_experimental_options() == before
    expected = plain(models["cpn_tiny"], crops)
    np.testing.assert_allclose(accelerate(models["cpn_tiny"]).heatmaps(crops), expected, atol=5e-6 * np.ptp(expected))


def test_a_precision_that_nobody_or_not_this_cpu_has_is_refused(models, monkeypatch):
    with pytest.raises(UserError, match="Did you mean 'bfloat16'"):
        accelerate(models["cpn_tiny"], "bfloat")
    monkeypatch.setattr(acceleration, "has_bfloat16", lambda: False)
    with pytest.raises(UserError, match="CPU does not compute in bfloat16.*avx512_bf16"):
        kpzoo.Predictor(models["cpn_tiny"], precision="bfloat16")


def test_evaluation_tells_its_precision_and_float32_is_the_default(models, small_folder):
    found = kpzoo.evaluate(models["cpn_tiny"], kpzoo.data.load(small_folder, "train"), flip=False)
    assert found.circumstances["precision"] == "float32"
