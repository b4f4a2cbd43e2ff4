"""Every family, through its smallest member: the registry is the test list."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDEN

from kpzoo.errors import UserError
from kpzoo.models import build, info, list_models
from kpzoo.models.blocks import NORMALIZATIONS, FusedBatchNorm, PixelNormalization, ResizeBilinear, UpsampleNearest
from kpzoo.models.counting import count_macs, count_params, layer_macs
from kpzoo.models.cpn import REFINE_BLOCKS
from kpzoo.models.mimb import MIMB

PERSON_DETECTORS = list_models("person_*")
TINY = [name for name in list_models("*_tiny") if name not in PERSON_DETECTORS]
ALL_TINY = list_models("*_tiny")
IMAGE_HW = (64, 64)


@pytest.fixture(autouse=True)
def same_weights_each_time():
    keras.utils.set_random_seed(0)


@functools.cache
def tiny(name):
    """A small model, built once for all tests that leave it as it is."""
    keras.utils.set_random_seed(0)
    model = build(name, image_hw=IMAGE_HW)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2DTranspose):  # three fresh ones in a row leave nothing in 16 bits
            layer.kernel.assign(100 * layer.kernel)
    return model


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


@pytest.mark.parametrize("name", ALL_TINY)
def test_every_trainable_variable_gets_a_gradient(name):
    model = build(name, image_hw=IMAGE_HW)
    for layer in model.layers:
        if isinstance(layer, MIMB):  # small weights saturate no gate, and of both signs they switch some cells on
            squeeze, *rest = (np.abs(value) / value.shape[0] + 1e-3 for value in layer.get_weights())
            layer.set_weights([squeeze * (-1.0) ** np.arange(squeeze.shape[-1]), *rest])
    for training in (False, True):
        with tf.GradientTape() as tape:
            outputs = model(inputs_for(model, batch=3), training=training)
            loss = sum(tf.reduce_sum(tf.square(value - 1.0)) for value in outputs.values())
        gradients = tape.gradient(loss, model.trainable_variables)
        finite = [gradient is not None and np.isfinite(gradient).all() for gradient in gradients]
        # Batch statistics cancel a bias before them, so that in training only rounding may be left of its gradient.
        right = (
            finite if training else [one and np.any(gradient) for one, gradient in zip(finite, gradients, strict=True)]
        )
        assert all(right), [
            variable.path for variable, fine in zip(model.trainable_variables, right, strict=True) if not fine
        ]


@pytest.mark.parametrize("name", ALL_TINY)
def test_reload_gives_the_same_heatmaps_and_preset(name, tmp_path):
    model = tiny(name)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.preset == model.preset
    assert again.pyramid_layers == model.pyramid_layers
    inputs = inputs_for(model)
    before, after = as_arrays(model(inputs)), as_arrays(again(inputs))
    assert all((before[key] == after[key]).all() for key in before)


# Levels of the feature pyramid where they are not 2 … 5.
LEVELS = {"hourglass_tiny": [2, 3], "hourglass_corner_tiny": [2, 3, 4], "dilated_tiny": [2, 3]}
LEVELS["person_fpn_tiny"] = [3, 4, 5]


@pytest.mark.parametrize("name", ALL_TINY)
def test_pyramid_outputs_are_features_at_known_strides_from_which_the_heatmaps_follow(name):
    model = tiny(name)
    pyramid, inputs = model.pyramid_outputs, inputs_for(model)
    assert list(pyramid) == [f"P{level}" for level in LEVELS.get(name, [2, 3, 4, 5])]
    features = keras.Model(model.input, pyramid)(inputs)
    for level, x in features.items():
        assert x.shape[1:3] == (IMAGE_HW[0] // 2 ** int(level[1]), IMAGE_HW[1] // 2 ** int(level[1]))
        assert x.shape[0] == 2 or ("instance" in inputs and x.shape[0] == 2 * 2)
    queries = {key: value for key, value in model.input.items() if key == "instance"}
    output = "person_boxes" if "person_boxes" in model.output else "heatmaps"
    head = keras.Model({**pyramid, **queries}, model.output[output])
    found = head({**features, **{key: tf.constant(inputs[key]) for key in queries}})
    np.testing.assert_allclose(found, model(inputs)[output], atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ALL_TINY)
def test_mixed_precision_keeps_float32_heads(name, policy):
    exact = tiny(name)
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = build(name, image_hw=IMAGE_HW)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model.set_weights(exact.get_weights())
    inputs = inputs_for(model)
    outputs, expected = model(inputs), as_arrays(exact(inputs))
    assert {value.dtype for value in outputs.values()} == {tf.float32}
    outputs = as_arrays(outputs)
    assert model.layers[-1].compute_dtype == "float32"
    for key in expected:
        assert np.abs(outputs[key] - expected[key]).max() <= 0.1 * np.abs(expected[key]).max() + 1e-6, key
        # Values that 16 bits cannot hold: the last layers really computed in float32.
        assert (outputs[key] != outputs[key].astype("float16")).any(), key


@pytest.mark.parametrize("name", ALL_TINY)
def test_tiny_models_are_tiny(name):
    assert info(name).num_params < 100_000


@pytest.mark.parametrize("name", ALL_TINY)
def test_names_and_shapes_of_variables_are_a_checkpoint_contract(name, accept):
    path = GOLDEN / f"{name}.json"
    variables = {variable.path: list(variable.shape) for variable in tiny(name).variables}
    if accept:
        GOLDEN.mkdir(exist_ok=True)
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(shape)}" for key, shape in variables.items())
        path.write_text(f"{{\n{lines}\n}}\n", "utf-8")
        return
    assert json.loads(path.read_text("utf-8")) == variables, f"to accept, run `pytest --accept -k {name}`"


@pytest.mark.parametrize("name", list_models("*_nano"))
def test_nano_models_fit_a_small_download_and_a_small_machine(name):
    row = info(name)
    assert row.num_params <= 2.9e6
    assert 0.1e9 <= row.macs["128x96"] <= 0.25e9


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
    pyramids = dict(name="cpn_tiny", flavour="pytorch", width=256)  # the trunk is in both and cancels
    alone, whole = count_macs(build(**pyramids, refine=None)), count_macs(build(**pyramids, **options))
    assert (whole - alone) / 1e9 == pytest.approx(gmacs, rel=0.15)


# MIPNet

MIPNETS = [name for name in TINY if name.startswith("mipnet")]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_mimb_is_the_formula_of_the_paper():
    rng = np.random.default_rng(0)
    features, onehot = rng.normal(size=(5, 3, 4, 16)).astype("float32"), np.eye(3, dtype="float32")[[0, 2, 1, 1, 0]]
    layer = MIMB(reduction=4)
    layer([features, onehot])
    for variable in layer.variables:
        low = 0.5 if "variance" in variable.path else -1.0
        variable.assign(rng.uniform(low, 2.0, variable.shape))
    w = {variable.path.split("/", 1)[1]: np.asarray(variable, "float64") for variable in layer.variables}

    pooled = features.mean(axis=(1, 2))
    f_ex = sigmoid(np.maximum(pooled @ w["image_squeeze/kernel"], 0) @ w["image_excite/kernel"])
    code = onehot @ w["instance_squeeze/kernel"] + w["instance_squeeze/bias"]
    code = (code - w["instance_bn/moving_mean"]) / np.sqrt(w["instance_bn/moving_variance"] + 1e-5)
    code = np.maximum(code * w["instance_bn/gamma"] + w["instance_bn/beta"], 0)
    f_em = sigmoid(code @ w["instance_excite/kernel"] + w["instance_excite/bias"])
    expected = features * f_ex[:, None, None] * f_em[:, None, None]

    assert w["image_squeeze/kernel"].shape == (16, 4)
    np.testing.assert_allclose(layer([features, onehot]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "shapes, message",
    [
        ([(2, 4, 4, 8), (2, 3, 2)], "inputs of MIMB must be"),
        ([(2, 8), (2, 2)], "inputs of MIMB must be"),
        ([(2, 4, 4, 3), (2, 2)], "at most 3, the number of channels"),
    ],
)
def test_mimb_refuses_other_shapes(shapes, message):
    with pytest.raises(UserError, match=message):
        MIMB().build(shapes)


@pytest.mark.parametrize("name", MIPNETS)
def test_asking_for_both_people_at_once_equals_asking_twice(name):
    model = tiny(name)
    inputs = inputs_for(model, batch=3)
    both = as_arrays(model(inputs))
    for index in range(2):
        one = as_arrays(model({**inputs, "instance": inputs["instance"][:, index : index + 1]}))
        for key in both:
            np.testing.assert_allclose(both[key][:, index], one[key][:, 0], atol=2e-5 * np.abs(one[key]).max())
    assert np.abs(both["heatmaps"][:, 0] - both["heatmaps"][:, 1]).max() > 0


@pytest.mark.parametrize("name", MIPNETS)
def test_every_crop_is_asked_its_own_queries(name):
    model = build(name, image_hw=IMAGE_HW, num_instances=3)
    inputs = inputs_for(model, batch=2)
    inputs["instance"] = np.eye(3, dtype="float32")[[[2, 0], [1, 1]]]
    mixed = as_arrays(model(inputs))["heatmaps"]
    asked = as_arrays(model(inputs_for(model, batch=2)))["heatmaps"]
    expected = np.stack([asked[0, [2, 0]], asked[1, [1, 1]]])
    np.testing.assert_allclose(mixed, expected, atol=2e-5 * np.abs(expected).max())


def executed_macs(model, num_queries):
    """Multiply-adds of all convolutions that run for one crop, from the shapes they really have."""
    shapes = {name: (1, *tensor.shape[1:]) for name, tensor in model.input.items()}
    shapes["instance"] = (1, num_queries, shapes["instance"][-1])
    specs = [tf.TensorSpec(shape) for shape in shapes.values()]
    run = tf.compat.v1.wrap_function(lambda *inputs: model(dict(zip(shapes, inputs, strict=True))), specs)
    kinds = ("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput")
    convs = [op for op in run.graph.get_operations() if op.type in kinds]
    # A convolution's place in the output, a deconvolution's in its input; the kernel is the second input of all.
    places = [op.inputs[2] if op.type == "Conv2DBackpropInput" else op.outputs[0] for op in convs]
    values = run.prune(run.inputs[: len(shapes)], places)(*(tf.zeros(shape) for shape in shapes.values()))
    pairs = zip(values, convs, strict=True)
    return sum(np.prod(value.shape[:3]) * np.prod(op.inputs[1].shape.as_list()) for value, op in pairs)


@pytest.mark.parametrize("name", MIPNETS)
def test_trunk_runs_once_however_many_queries(name):
    model = tiny(name)
    one, two, three = (executed_macs(model, count) for count in (1, 2, 3))
    gates = sum(layer.macs for layer in model.layers if isinstance(layer, MIMB))
    assert one == count_macs(model) - gates
    assert three - two == two - one  # the tail, once per query
    assert two - one < one  # and without the trunk


def test_trunks_of_the_papers_networks_are_as_cheap_as_their_placement_allows():
    """Share of two queries' cost over one's: only what follows the first MIMB is run twice."""
    for name, ratio in [("mipnet_res50", 1.67), ("mipnet_hrnet_w32", 1.38)]:
        model = build(name)
        index = min(i for i, layer in enumerate(model.layers) if isinstance(layer, MIMB))
        tail = sum(layer_macs(layer) for layer in model.layers[index:])
        assert 1 + tail / count_macs(model) == pytest.approx(ratio, abs=0.02)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(num_instances=1), "`num_instances=` must be at least 2"),
        (dict(mimb_stages=()), "`mimb_stages=` must name one or more"),
        (dict(mimb_stages=("c6",)), "Unknown MIMB stage"),
    ],
)
def test_mipnet_refuses_what_has_no_meaning(options, message):
    with pytest.raises(UserError, match=message):
        build("mipnet_tiny", image_hw=IMAGE_HW, **options)


def test_mipnet_of_cpn_needs_a_mimb_in_its_trunk():
    with pytest.raises(UserError, match="must name one of"):
        build("mipnet_cpn_tiny", image_hw=IMAGE_HW, mimb_stages=("refine",))


@pytest.mark.parametrize("stages", [("c2",), ("c5",), ("c2", "c3", "c4", "c5")])
@pytest.mark.parametrize("name", ["mipnet_tiny", "mipnet_cpn_tiny"])
def test_mimbs_can_stand_before_any_stage_of_a_resnet(name, stages):
    model = build(name, image_hw=IMAGE_HW, mimb_stages=stages)
    assert model(inputs_for(model))["heatmaps"].shape == (2, 2, 16, 16, 17)
    assert sum(isinstance(layer, MIMB) for layer in model.layers) == len(stages)


@pytest.mark.parametrize("stages, count", [(("stage1",), 2), (("stage4",), 1), (("stage2", "stage3"), 7)])
def test_mimbs_stand_on_every_branch_of_an_hrnet(stages, count):
    model = build("mipnet_hrnet_tiny", image_hw=IMAGE_HW, mimb_stages=stages)
    assert model(inputs_for(model))["heatmaps"].shape == (2, 2, 16, 16, 17)
    assert sum(isinstance(layer, MIMB) for layer in model.layers) == count


@pytest.mark.parametrize("name, share", [("mipnet_hrnet_w32", "0.2%"), ("mipnet_res50", "2.9%")])
def test_info_tells_what_mimbs_cost(name, share):
    assert share in str(info(name))


# Others


@pytest.mark.parametrize("trunk_stride", [4, 8, 16, 32])
def test_dilated_resnets_keep_parameters_and_change_work(trunk_stride):
    widths = (8, 12, 16, 20)  # every stage projects its shortcut for its width, whatever its stride
    plain = build("dilated_tiny", image_hw=IMAGE_HW, widths=widths, trunk_stride=32)
    model = build("dilated_tiny", image_hw=IMAGE_HW, widths=widths, trunk_stride=trunk_stride)
    assert count_params(model) == count_params(plain)
    assert model.get_layer("head_conv").output.shape[1] == 64 // trunk_stride
    assert (count_macs(model) > count_macs(plain)) == (trunk_stride < 32)


def test_hourglass_52_of_mmpose_has_its_published_size_but_for_an_unused_block():
    unused = 2 * (256 * 256 * 9 + 2 * 256)  # it carries the block that would lead into a second stack
    assert (info("hourglass_corner_1").num_params + unused) / 1e6 == pytest.approx(94.85, abs=0.005)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("dilated_tiny", dict(trunk_stride=2), "`trunk_stride=` must be 4, 8, 16 or 32"),
        ("simplebaseline_tiny", dict(deconvs=(8,)), "3 deconvolutions"),
        ("simplebaseline_tiny", dict(blocks=(1, 1)), "must have 4 entries"),
        ("hourglass_tiny", dict(num_stacks=0), "`num_stacks=` .* must be a positive integer"),
        ("hourglass_tiny", dict(depth=5), "multiples of 128"),
        ("hourglass_corner_tiny", dict(widths=(8,)), "one entry per level"),
    ],
)
def test_options_without_a_network_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, image_hw=IMAGE_HW, **options)


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
