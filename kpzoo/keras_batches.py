"""The forms in which Keras passes a batch to a training step: a dict, (x,), (x, y) or (x, y, sample_weight)."""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from kpzoo.errors import UserError


def unpacked(batch, names: Sequence[str], target_names: Sequence[str]) -> tuple[dict, dict, tf.Tensor | None]:
    """Returns the inputs, the targets and the sample weights of a batch.

    Args:
        batch: A dict with inputs and targets, or a tuple as Keras makes it of `fit(x, y, sample_weight=...)`. `x` is a
            dict, one tensor for a model with one input, or a list of tensors in the order of the inputs. `y` is a dict.
        names: Names of the model's inputs.
        target_names: Targets that the batch must hold.

    Returns:
        Inputs and targets by name, floating-point targets in float32; (B,) float32 sample weights or None.

    Raises:
        UserError: If inputs or targets are missing, or the sample weights are not one number per crop.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    x = named_inputs(x, names)
    targets = {name: value for name, value in x.items() if name not in names}
    if isinstance(sample_weight, Mapping) and isinstance(y, Mapping) and sample_weight.keys() == y.keys():
        sample_weight = next(iter(sample_weight.values()))  # Keras copies the one array of `fit` for each target
    if y is not None:
        if not isinstance(y, Mapping):
            kind = f"{len(y)} arrays without names" if isinstance(y, list | tuple) else "one array"
            raise UserError(f"`y` must be a dict with the targets {', '.join(target_names)}. Received: {kind}.")
        targets |= {name: value for name, value in y.items() if name not in names}
    missing = [name for name in target_names if name not in targets]
    if missing:
        raise UserError(
            f"The batch lacks the targets {missing}. Received: {sorted(targets)}.",
            f"Use the batches of `kpzoo.data`, or pass a dict `y` with {', '.join(target_names)}.",
        )
    targets = {name: _as_float(value) for name, value in targets.items()}
    return {name: x[name] for name in names}, targets, _per_crop(sample_weight)


def named_inputs(x, names: Sequence[str]) -> dict:
    """Returns a model's inputs by name, and whatever else is in the dict `x`.

    Raises:
        UserError: If an input is missing.
    """
    if not isinstance(x, Mapping):
        values = x if isinstance(x, list | tuple) else [x]
        x = dict(zip(names, values, strict=True)) if len(values) == len(names) else {}
        if not x:
            raise UserError(f"The model has {len(names)} inputs, {list(names)}. Received: {len(values)} without names.")
    missing = [name for name in names if name not in x]
    if missing:
        raise UserError(
            f"The batch must contain the inputs {list(names)} of the model. Received: {sorted(x)}, without {missing}."
        )
    return dict(x)


def check_shapes(targets: Mapping, outputs: Mapping) -> None:
    """Refuses target heatmaps of another shape than the model's output.

    Raises:
        UserError: The name and both shapes.
    """
    for name in targets.keys() & outputs.keys():
        received, expected = tf.TensorShape(targets[name].shape), outputs[name].shape
        if not received.is_compatible_with(expected):
            raise UserError(
                f"The target {name!r} must have the shape of the model's output, {tuple(expected)}. "
                f"Received: shape {tuple(received)}."
            )


def check_loss(loss, loss_weights, losses_are: str) -> None:
    """Refuses what is no loss over dicts of targets and outputs."""
    if loss_weights is not None:
        raise UserError(
            f"`loss_weights=` is not supported. Received: {loss_weights!r}. The weights of the terms are arguments of "
            f"the loss, {losses_are}."
        )
    given = loss if isinstance(loss, type) or not isinstance(loss, keras.losses.Loss) else type(loss)
    built_in = getattr(given, "__module__", "").split(".")[0] == "keras"
    if loss is not None and (not callable(loss) or isinstance(loss, type) or built_in):
        raise UserError(
            f"`loss=` must be {losses_are}, or a callable of (targets, outputs), both dicts, that returns one value "
            f"per image. Received: {loss!r}."
        )


def check_class_weight(class_weight) -> None:
    if class_weight is not None:
        raise UserError(
            f"`class_weight=` is not supported: the model predicts no classes. Received: {class_weight!r}. "
            "Pass `sample_weight` for weights per crop, or the target `weights` (B, K) for weights per keypoint."
        )


def _as_float(value) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    return tf.cast(value, tf.float32) if value.dtype.is_floating or value.dtype.is_bool else value


def _per_crop(sample_weight) -> tf.Tensor | None:
    """Returns (B,) float32 weights of the crops."""
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Mapping | list | tuple):
        raise UserError(
            "Sample weights must be one array (B,), one number per crop. Received: "
            f"a {type(sample_weight).__name__} with {len(sample_weight)} entries. For weights per keypoint use the "
            "target `weights` (B, K)."
        )
    weights = tf.cast(tf.convert_to_tensor(sample_weight), tf.float32)
    if weights.shape.rank not in (1, None) and weights.shape[1:].num_elements() != 1:
        raise UserError(
            f"Sample weights must be one array (B,), one number per crop. Received: shape {tuple(weights.shape)}. "
            "For weights per keypoint use the target `weights` (B, K)."
        )
    return tf.reshape(weights, [-1])
