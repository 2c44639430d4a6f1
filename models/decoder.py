"""Decoder-only language models: GPT-1, GPT-2, GPT-3, LLaMA and their mixtures of experts."""

import jax.numpy as jnp

from models.body import Body
from models.heads import LanguageHead, ScoreHead, last_real


class Decoder(Body):
    """A causal stack over token embeddings, with the heads that `o.head` names.

    `features` gives hidden states, `logits` the language head on them; `__call__` both and the
    pooled scores.
    """

    def setup(self):
        super().setup()
        o = self.o
        if o.head != "classify":
            self.head = LanguageHead(o)
        if o.head != "lm":
            self.score = ScoreHead(o)

    def logits(self, x):
        """Logits [...,V] in float32 of hidden states [...,D]."""
        return self.head(x, self.embed.tokens.embedding if self.o.tied else None)

    def values(self, x):
        """The pooled head at every slot: hidden states [B,T,D] -> [B,T,C], a value net's."""
        rows = x.reshape(-1, 1, x.shape[-1])
        found = self.score(rows, jnp.zeros(rows.shape[0], jnp.int32))
        return found.reshape(*x.shape[:2], -1)

    def __call__(self, batch, cache=None, last=0):
        """`logits` [B,T,V] and `scores` [B,C], as far as the model has the heads, and `cache`.

        `batch['read']` [B] names the slots that the pooled head reads; default the last real token.
        `last` > 0: as `features` has it; all that is read must stand in those slots.
        """
        x, given = self.features(batch, cache, last=last)
        out = {"cache": given["cache"]} if "cache" in given else {}
        if "router" in given:
            out["router"] = given["router"]
        if self.o.head != "classify":
            out["logits"] = self.logits(x)
        if self.o.head != "lm":
            read = batch.get("read")
            if read is None:
                read = last_real(batch.get("mask", jnp.ones_like(batch["tokens"])))
            left_out = batch["tokens"].shape[1] - x.shape[1]
            out["scores"] = self.score(x, read - left_out, self._key())
        return out
