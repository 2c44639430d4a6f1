"""Longformer's attention maps in the reference library's layouts, and its default global tokens."""

import numpy as np


def marks(tokens, head: str, separator: int):
    """The global tokens that the reference marks where none are given, or None: the first one to
    classify, a question's for spans, what follows the question for choices."""
    if head == "classify":
        return (np.arange(tokens.shape[-1]) == 0).astype(np.int32) + 0 * tokens
    found = tokens == separator
    if head not in ("spans", "choice"):
        return None
    if (found.sum(-1) != 3).any():
        raise ValueError("the reference wants exactly three separators in every row")
    end = found.argmax(-1)[..., None]
    places = np.arange(tokens.shape[-1])
    return (places < end if head == "spans" else places > end + 1).astype(np.int32)


def maps(o, layer: int, weights, batch) -> dict:
    """Their maps of a layer from ours, [B,H,T,T].

    attentions: [B,H,T,n + w + 1], the columns of the (at most n) global keys, then the window, where
    global keys are 0; rows of global tokens are 0. global_attentions: [B,H,T',n] from the global
    tokens to all, T' being the length padded to a multiple of the largest window.
    """
    out = {f"dense_attentions.{layer}": weights}
    batch_size, heads, time, _ = weights.shape
    flat = lambda a: a.reshape(-1, time)  # noqa: E731
    real = flat(batch["mask"]) != 0 if "mask" in batch else np.ones((batch_size, time), bool)
    marked = (flat(batch["global_mask"]) != 0) & real if "global_mask" in batch else real & False
    count, window = int(marked.sum(1).max()), o.kinds()[layer]
    largest = max(o.kinds())
    padded = -(-time // largest) * largest
    columns = np.zeros((batch_size, heads, time, count), np.float32)
    to_all = np.full((batch_size, heads, padded, count), 1 / padded, np.float32)
    band = np.zeros((batch_size, heads, time, window + 1), np.float32)
    for row in range(batch_size):
        slots = np.flatnonzero(marked[row])
        local = np.where(marked[row][:, None], 0.0, weights[row])
        columns[row, :, :, : len(slots)] = local[..., slots]
        to_all[row, :, :, : len(slots)] = 0.0
        to_all[row, :, :time, : len(slots)] = weights[row][:, slots].transpose(0, 2, 1)
        near = np.where(marked[row][None, None], 0.0, local)
        for place in range(window + 1):
            shift = place - window // 2
            queries = np.arange(max(0, -shift), min(time, time - shift))
            band[row, :, queries, place] = near[:, queries, queries + shift].T
    out[f"attentions.{layer}"] = np.concatenate([columns, band], -1)
    if count:
        out[f"global_attentions.{layer}"] = to_all
    return out
