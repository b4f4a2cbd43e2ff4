"""Losses and gradients of replicas that train together under a `tf.distribute` strategy."""

import keras
import tensorflow as tf

from kpzoo.errors import UserError


def mean_over_replicas(losses: tf.Tensor) -> tf.Tensor:
    """Returns the replica's sum divided by the global batch size, as the optimizer sums gradients over replicas."""
    count = tf.cast(tf.shape(losses)[0], tf.float32)
    count = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, count)
    return tf.reduce_sum(losses) / count


def inner_optimizer(optimizer: keras.optimizers.Optimizer | None) -> keras.optimizers.Optimizer | None:
    """Returns the optimizer without the loss-scaling wrapper of mixed_float16."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def over_replicas(gradients: list, optimizer: keras.optimizers.Optimizer) -> list:
    """Applies clipping and overflow checks to the gradients summed over replicas.

    Keras applies `global_clipnorm` to each replica's gradients separately, and checks only the first replica for
    float16 overflow. Here the gradients are first summed and clipped. Each replica then returns an equal share of the
    sum, because the optimizer sums over replicas again.
    """
    context, inner = tf.distribute.get_replica_context(), inner_optimizer(optimizer)
    limit, scales = inner.global_clipnorm, optimizer is not inner
    if context.num_replicas_in_sync == 1:
        return gradients
    if inner.clipnorm or inner.clipvalue:
        raise UserError(
            f"`clipnorm=` and `clipvalue=` are not supported on {context.num_replicas_in_sync} replicas, as each would "
            f"clip its own gradients. Received: clipnorm={inner.clipnorm}, clipvalue={inner.clipvalue}.",
            "Use `global_clipnorm=`.",
            "Or use one device.",
        )
    if not (limit or scales):
        return gradients
    known = [gradient for gradient in gradients if gradient is not None]
    known = context.all_reduce(tf.distribute.ReduceOp.SUM, known)
    if limit:
        known, _ = tf.clip_by_global_norm(known, optimizer.scale_loss(limit))
    shares = iter([gradient / context.num_replicas_in_sync for gradient in known])
    return [None if gradient is None else next(shares) for gradient in gradients]
