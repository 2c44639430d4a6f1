"""Terms of losses: each is a sum divided by a total that was counted on the whole global batch."""

import jax.numpy as jnp

from models.likelihood import token_log_probs


def cross_entropy(head, x, targets, weights, total, chunk: int = 0, smooth: float = 0.0):
    """(loss, {name: (sum, count)}): mean negative log-likelihood in nats per weighted target.

    head: hidden states [B,T,D] -> float32 logits; x: [B,T,D]; targets: int32 [B,T]; weights: [B,T],
    0 leaves a target out; total: the sum of the weights of the whole global batch. With `smooth`,
    a share of each label that is spread over the vocabulary, the sum is named `smoothed`.
    """
    summed = -jnp.sum(token_log_probs(head, x, targets, chunk, smooth) * weights)
    name = "smoothed" if smooth else "nll"
    return summed / total, {name: (summed, jnp.sum(weights))}


def balance(router: dict, experts: int):
    """E * sum_e f_e P_e, the load-balancing loss of Fedus et al. 2021 (eq. 4) as Mixtral computes it.

    f_e: assignments to expert e per token (top-k: they sum to k); P_e: mean router probability. Both
    are pooled over all layers before they are multiplied, padding left out. `router` is a model's
    `out["router"]`: probs [L,E] and counts [L,E], summed over real tokens, and tokens [L].

    The one loss here that is no sum over tokens, so micro-batches do not add up to the large batch's
    value: a loop weights each micro-batch by its share of real tokens, which averages it.
    """
    tokens = jnp.maximum(jnp.sum(router["tokens"]), 1).astype(jnp.float32)
    chosen = jnp.sum(router["counts"], 0).astype(jnp.float32) / tokens
    probability = jnp.sum(router["probs"], 0).astype(jnp.float32) / tokens
    return experts * jnp.sum(chosen * probability)
