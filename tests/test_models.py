"""Every family, through its smallest member: the registry is the test list."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDEN

from kpzoo.models import build, list_models
from kpzoo.models.blocks import NORMALIZATIONS, FusedBatchNorm, PixelNormalization, ResizeBilinear, UpsampleNearest
from kpzoo.models.counting import count_macs, count_params
from kpzoo.models.cpn import REFINE_BLOCKS

TINY = list_models("*_tiny")
IMAGE_HW = (64, 64)


def inputs_for(model, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    inputs = {"image": rng.uniform(0, 255, (batch, *model.input["image"].shape[1:])).astype("float32")}
    if "instance" in model.input:
        inputs["instance"] = np.repeat(np.eye(model.input["instance"].shape[-1], dtype="float32")[None], batch, axis=0)
    return inputs


def as_arrays(outputs):
    return {name: np.asarray(value, "float32") for name, value in outputs.items()}


@pytest.mark.parametrize("name", TINY)
def test_heatmaps_are_finite_float32_and_a_quarter_of_the_crop(name):
    model = build(name, image_hw=(64, 128))
    inputs = inputs_for(model)
    outputs = model(inputs)
    queries = (len(inputs["instance"][0]),) if "instance" in inputs else ()
    assert outputs["heatmaps"].shape == (2, *queries, 16, 32, 17)
    if model.num_levels:
        assert outputs["global_heatmaps"].shape == (2, *queries, model.num_levels, 16, 32, 17)
    assert all(np.isfinite(value).all() and value.dtype == "float32" for value in outputs.values())


@pytest.mark.parametrize("name", TINY)
def test_every_trainable_variable_gets_a_gradient(name):
    model = build(name, image_hw=IMAGE_HW)
    with tf.GradientTape() as tape:
        outputs = model(inputs_for(model, batch=3), training=True)
        loss = sum(tf.reduce_sum(tf.square(value - 1.0)) for value in outputs.values())
    gradients = tape.gradient(loss, model.trainable_variables)
    dead = [
        variable.path
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
        if gradient is None or not np.isfinite(gradient).all() or not np.any(gradient)
    ]
    # A bias that a batch normalisation follows is subtracted again: its gradient is rounding around zero.
    assert dead == []


@pytest.mark.parametrize("name", TINY)
def test_reload_gives_the_same_heatmaps_and_preset(name, tmp_path):
    model = build(name, image_hw=IMAGE_HW)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.preset == model.preset
    inputs = inputs_for(model)
    before, after = as_arrays(model(inputs)), as_arrays(again(inputs))
    assert all((before[key] == after[key]).all() for key in before)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", TINY)
def test_mixed_precision_keeps_float32_heads(name, policy):
    exact = build(name, image_hw=IMAGE_HW)
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = build(name, image_hw=IMAGE_HW)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model.set_weights(exact.get_weights())
    inputs = inputs_for(model)
    outputs, expected = as_arrays(model(inputs)), as_arrays(exact(inputs))
    assert {value.dtype for value in model(inputs).values()} == {tf.float32}
    assert model.layers[-1].compute_dtype == "float32"
    for key in expected:
        assert np.abs(outputs[key] - expected[key]).max() <= 0.1 * np.abs(expected[key]).max() + 1e-6, key
        # Values that 16 bits cannot hold: the last layers really computed in float32.
        assert (outputs[key] != outputs[key].astype("float16")).any(), key


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_are_tiny(name):
    assert count_params(build(name, image_hw=IMAGE_HW)) < 100_000


@pytest.mark.parametrize("name", TINY)
def test_names_and_shapes_of_variables_are_a_checkpoint_contract(name, accept):
    path = GOLDEN / f"{name}.json"
    variables = {variable.path: list(variable.shape) for variable in build(name, image_hw=IMAGE_HW).variables}
    if accept:
        GOLDEN.mkdir(exist_ok=True)
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(shape)}" for key, shape in variables.items())
        path.write_text(f"{{\n{lines}\n}}\n", "utf-8")
        return
    assert json.loads(path.read_text("utf-8")) == variables, f"to accept, run `pytest --accept -k {name}`"


@pytest.mark.parametrize("name", list_models("*_nano"))
def test_nano_models_fit_a_small_download_and_a_small_machine(name):
    model = build(name, image_hw=(128, 96))
    assert count_params(model) <= 2.9e6
    assert 0.1e9 <= count_macs(model) <= 0.3e9


# CPN's ablations


@pytest.mark.parametrize("flavour", ["official", "pytorch"])
@pytest.mark.parametrize("refine", [*REFINE_BLOCKS, None])
def test_cpn_refine_kinds_run_in_both_flavours(flavour, refine):
    model = build("cpn_tiny", image_hw=IMAGE_HW, flavour=flavour, refine=refine)
    outputs = as_arrays(model(inputs_for(model)))
    assert outputs["heatmaps"].shape == (2, 16, 16, 17)
    if refine is None:
        assert (outputs["heatmaps"] == outputs["global_heatmaps"][:, -1]).all()


def test_cpn_levels_are_coarse_to_fine():
    model = build("cpn_tiny", image_hw=IMAGE_HW)
    before = as_arrays(model(inputs_for(model)))["global_heatmaps"]
    # The lateral of c2 reaches the finest level alone.
    kernel = model.get_layer("global_c2_lateral_conv").kernel
    kernel.assign(kernel + 1.0)
    changed = (as_arrays(model(inputs_for(model)))["global_heatmaps"] != before).any(axis=(0, 2, 3, 4))
    assert changed.tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    "options, gmacs",
    [  # Tables 4 and 5 of the paper, relative to GlobalNet alone (3.90 G there, on a lighter trunk)
        (dict(refine="concat"), 5.87 - 3.90),
        (dict(refine="bottleneck"), 6.92 - 3.90),
        (dict(refine="cascade"), 6.20 - 3.90),
        (dict(levels=("c2", "c3", "c4")), 5.88 - 3.90),
        (dict(levels=("c2", "c3")), 5.50 - 3.90),
        (dict(levels=("c2",)), 5.02 - 3.90),
    ],
)
def test_refine_net_costs_what_the_paper_says(options, gmacs):
    alone = count_macs(build("cpn_res50", flavour="pytorch", refine=None))
    whole = count_macs(build("cpn_res50", flavour="pytorch", **options))
    assert (whole - alone) / 1e9 == pytest.approx(gmacs, rel=0.15)


# Blocks


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_pixels_are_normalised_per_channel_in_the_rules_order(name):
    rule = NORMALIZATIONS[name]
    image = np.random.default_rng(0).uniform(0, 255, (2, 3, 4, 3)).astype("float32")
    channels = [image[..., "rgb".index(letter)] for letter in rule.order]
    expected = np.stack([(c - m) / s for c, m, s in zip(channels, rule.mean, rule.std, strict=True)], axis=-1)
    np.testing.assert_allclose(PixelNormalization(name)(image), expected, rtol=1e-5, atol=1e-5)


def test_fused_batch_norm_trains_like_keras_own_but_for_the_unbiased_variance():
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 6, 7)).astype("float32")
    fused = FusedBatchNorm(momentum=0.9, epsilon=1e-5)
    plain = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    weight = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    results = []
    for layer in (fused, plain):
        x_in = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x_in)
            y = layer(x_in, training=True)
            loss = tf.reduce_sum(y * weight)
        results.append([y, *tape.gradient(loss, [x_in, layer.gamma.value, layer.beta.value])])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    np.testing.assert_allclose(fused.moving_mean, plain.moving_mean, atol=1e-5)
    count = 4 * 5 * 6
    variance = x.reshape(-1, 7).astype("float64").var(axis=0) * count / (count - 1)
    np.testing.assert_allclose(fused.moving_variance, 0.9 + 0.1 * variance, rtol=1e-5)
    np.testing.assert_allclose(fused(x), plain(x), atol=2e-2)  # statistics differ by that factor alone


def test_frozen_batch_norm_neither_uses_nor_updates_batch_statistics():
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 6, 7)).astype("float32")
    layer = FusedBatchNorm()
    layer.build(x.shape)
    layer.trainable = False
    np.testing.assert_allclose(layer(x, training=True), x / np.sqrt(1 + layer.epsilon), rtol=1e-5)
    assert (np.asarray(layer.moving_mean) == 0).all()


def test_batch_norm_can_be_made_synchronized_after_it_was_built():
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 6, 7)).astype("float32")
    layer = FusedBatchNorm(epsilon=1e-5)
    fused = layer(x, training=True)
    layer.synchronized = True
    np.testing.assert_allclose(layer(x, training=True), fused, atol=1e-5)
    assert layer.get_config()["synchronized"] is True


def legacy(out, size_in, size_out):
    return min(out * size_in / size_out, size_in - 1)


def align_corners(out, size_in, size_out):
    return out * (size_in - 1) / (size_out - 1)


def half_pixel(out, size_in, size_out):
    return min(max((out + 0.5) * size_in / size_out - 0.5, 0), size_in - 1)


@pytest.mark.parametrize("source_of", [legacy, align_corners, half_pixel])
def test_bilinear_resize_places_samples_by_its_convention(source_of):
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    expected = np.zeros((10, 12))
    for i in range(10):
        for j in range(12):
            row, column = source_of(i, 5, 10), source_of(j, 3, 12)
            top, left = int(row), int(column)
            bottom, right = min(top + 1, 4), min(left + 1, 2)
            above = x[top, left] + (x[top, right] - x[top, left]) * (column - left)
            below = x[bottom, left] + (x[bottom, right] - x[bottom, left]) * (column - left)
            expected[i, j] = above + (below - above) * (row - top)
    y = ResizeBilinear((10, 12), source_of.__name__)(x[None, ..., None])
    np.testing.assert_allclose(y[0, ..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_nearest_upsampling_repeats_cells(factor):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("float32")
    np.testing.assert_array_equal(UpsampleNearest(factor)(x), x.repeat(factor, axis=1).repeat(factor, axis=2))
