"""The losses against plain loops over persons and keypoints."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kpzoo
from kpzoo.errors import UserError
from kpzoo.losses import CPNLoss, HeatmapLoss, MultiInstanceLoss

B, L, H, W, K = 3, 4, 6, 5, 7


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    weights = (rng.random((B, K)) > 0.3).astype(np.float32)
    targets = {
        "heatmaps": rng.random((B, H, W, K)).astype(np.float32),
        "weights": weights,
        "global_heatmaps": rng.random((B, L, H, W, K)).astype(np.float32),
        "global_weights": np.ones((B, L, K), np.float32),
    }
    outputs = {name: rng.random(targets[name].shape).astype(np.float32) for name in ("heatmaps", "global_heatmaps")}
    return targets, outputs


def mean_square(target, output):
    return float(np.mean((target.astype(np.float64) - output) ** 2))


def plain_ohkm(targets, outputs, top_k, levels="l2", scale=1 / 8):
    losses = []
    for b in range(B):
        errors = [
            mean_square(targets["heatmaps"][b, :, :, k], outputs["heatmaps"][b, :, :, k]) * targets["weights"][b, k]
            for k in range(K)
        ]
        loss = sum(sorted(errors, reverse=True)[:top_k]) / top_k
        for level in range(L):
            pair = targets["global_heatmaps"][b, level], outputs["global_heatmaps"][b, level]
            errors = [mean_square(pair[0][..., k], pair[1][..., k]) for k in range(K)]
            if levels == "l2":
                loss += scale * sum(errors) / K
            elif levels == "ohkm":
                loss += scale * sum(sorted(errors, reverse=True)[:top_k]) / top_k
        losses.append(loss)
    return losses


@pytest.mark.parametrize("top_k", [1, 3, K])
@pytest.mark.parametrize(("levels", "flavour", "scale"), [("l2", "official", 1 / 8), ("ohkm", "pytorch", 1 / 2)])
def test_cpn_loss_equals_a_plain_loop(case, top_k, levels, flavour, scale):
    loss = CPNLoss(top_k=top_k, global_loss=levels, flavour=flavour)(*case)
    np.testing.assert_allclose(loss, plain_ohkm(*case, top_k, levels, scale), rtol=1e-5)


def test_cpn_loss_without_levels_is_the_refine_loss_alone(case):
    np.testing.assert_allclose(CPNLoss(3, global_loss=None)(*case), plain_ohkm(*case, 3, levels=None), rtol=1e-5)


def test_ohkm_over_all_keypoints_is_the_l2_loss(case):
    both = [CPNLoss(top_k=K, refine_loss=kind)(*case) for kind in ("ohkm", "l2")]
    np.testing.assert_allclose(*both, rtol=1e-6)


def test_only_the_hardest_labelled_keypoints_receive_a_gradient(case):
    targets, outputs = case
    heatmaps = tf.constant(outputs["heatmaps"])
    with tf.GradientTape() as tape:
        tape.watch(heatmaps)
        loss = CPNLoss(top_k=2, global_loss=None)(targets, {"heatmaps": heatmaps})
    touched = np.any(tape.gradient(loss, heatmaps).numpy() != 0, axis=(1, 2))
    for b in range(B):
        errors = [
            mean_square(targets["heatmaps"][b, :, :, k], outputs["heatmaps"][b, :, :, k]) * targets["weights"][b, k]
            for k in range(K)
        ]
        assert set(np.flatnonzero(touched[b])) == set(np.argsort(errors)[-2:])


def test_heatmap_loss_halves_the_mean_over_keypoints_and_sums_the_levels(case):
    targets, outputs = case
    expected = []
    for b in range(B):
        loss = 0.0
        for k in range(K):
            pair = targets["heatmaps"][b, :, :, k], outputs["heatmaps"][b, :, :, k]
            loss += 0.5 * mean_square(*pair) * targets["weights"][b, k] / K
            for level in range(L):
                pair = targets["global_heatmaps"][b, level, :, :, k], outputs["global_heatmaps"][b, level, :, :, k]
                loss += 0.5 * mean_square(*pair) / K
        expected.append(loss)
    np.testing.assert_allclose(HeatmapLoss()(targets, outputs), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "num_instances", "names"),
    [
        (CPNLoss(3), 1, ["refine", "global"]),
        (CPNLoss(3, global_loss=None), 1, ["refine"]),
        (HeatmapLoss(), 1, ["final", "levels"]),
        (MultiInstanceLoss(CPNLoss(3)), B, [f"instance_{index}" for index in range(B)]),
        (MultiInstanceLoss(HeatmapLoss(), missing="ignore"), B, [f"instance_{index}" for index in range(B)]),
    ],
)
def test_the_terms_have_the_names_that_the_loss_tells_and_sum_to_it(case, loss, num_instances, names):
    targets, outputs = case
    if num_instances > 1:  # the crops of the case as the people of one crop
        targets, outputs = ({name: value[None] for name, value in part.items()} for part in case)
        targets["present"] = np.array([[1, 1, 0]], np.float32)
    terms = loss.terms(targets, outputs)
    assert list(terms) == names == loss.term_names(num_instances, L)
    assert all(values.shape == (len(targets["weights"]),) and values.numpy().max() >= 0 for values in terms.values())
    np.testing.assert_allclose(sum(values.numpy() for values in terms.values()), loss(targets, outputs), rtol=1e-6)


def test_a_model_reports_the_terms_of_its_loss_and_after_another_compile_those_of_the_new_one():
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    model.compile("adam", CPNLoss())
    model.compile("adam", CPNLoss(global_loss=None))
    assert [metric.name for metric in model.metrics] == ["loss", "pck", "loss_refine"]


@pytest.mark.parametrize("loss", [CPNLoss(3, "ohkm", "l2", "pytorch"), HeatmapLoss(top_k=2)])
def test_losses_survive_serialisation(case, loss):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    np.testing.assert_array_equal(again(*case), loss(*case))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(top_k=0), "at least 1.*Received: 0"),
        (dict(top_k=99), "at most 7, the number of keypoints.*99"),
        (dict(refine_loss="okhm"), "Did you mean 'ohkm'"),
        (dict(flavour="torch"), "Did you mean 'pytorch'"),
    ],
)
def test_impossible_options_are_refused(case, options, message):
    with pytest.raises(ValueError, match=message):
        CPNLoss(**options)(*case)


@pytest.mark.parametrize("top_k", [0, -1, 2.5, 99])
@pytest.mark.parametrize("loss", [HeatmapLoss, CPNLoss])
def test_ohkm_over_no_or_too_many_keypoints_is_refused(loss, top_k):
    maps, ones = tf.zeros((1, 4, 4, 3)), tf.ones((1, 3))
    targets = {"heatmaps": maps, "weights": ones, "global_heatmaps": maps[:, None], "global_weights": ones[:, None]}
    with pytest.raises(UserError, match="`top_k=` must be"):
        loss(top_k=top_k)(targets, {name: targets[name] for name in ("heatmaps", "global_heatmaps")})
