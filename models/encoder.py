"""Encoders: BERT, RoBERTa, ALBERT, Longformer and DistilBERT, with their heads."""

import jax.numpy as jnp

from models.body import Body
from models.heads import MaskedHead, Pooler, Scores, mean_real, unit
from models.sparing import take


class Encoder(Body):
    """A stack over token embeddings that looks both ways, with the heads that `o.head` names.

    "none": hidden states alone. "masked": the masked-language head. "pretrain": that and a score of
    the pair of segments (0: B follows A; Devlin et al. 2018, section 3.1, or 1: swapped; Lan et al.
    2019). "pair": the pair alone. "classify" [B,C], "tokens" [B,T,C], "spans" [B,T,2] (start, end),
    "choice" (tokens [B,N,T] -> [B,N]). "embed": unit vectors [B,D] (Reimers and Gurevych 2019).

    With `o.causal` and `o.cross` it is a decoder with the masked-language head, as BERT can be.
    """

    def setup(self):
        super().setup()
        o = self.o
        if o.head in ("masked", "pretrain"):
            self.head = MaskedHead(o)
        if o.pools:
            self.pool = Pooler(o)
        if o.head not in ("none", "masked", "embed"):
            self.score = Scores(o)

    def features(self, batch, cache=None, table=None, slots=None):
        """Hidden states [B,T,D], see `Body.features`; choices [B,N,T] are folded into rows."""
        if batch["tokens"].ndim == 3:
            rows = lambda a: a.reshape(-1, *a.shape[2:])
            batch = {k: rows(v) if k in FOLDED else v for k, v in batch.items()}
        if self.o.windows and self.o.head == "classify" and "global_mask" not in batch:
            batch = {**batch, "global_mask": self._first(batch)}
        return super().features(batch, cache, table, slots=slots)

    def _first(self, batch):
        """Marks the token that is read to classify, [B,T]: it sees the whole row."""
        tokens, read = batch["tokens"], self.read(batch)
        slots = jnp.arange(tokens.shape[1])
        return jnp.any(slots == read.reshape(len(tokens), -1, 1), 1).astype(jnp.int32)

    def logits(self, x):
        """The masked-language head: logits [...,V] in float32 of any hidden states [...,D]."""
        if self.o.head not in ("masked", "pretrain"):
            raise ValueError(f"a model with model.head={self.o.head!r} has no masked-language head")
        return self.head(x, self.embed.tokens.embedding if self.o.tied else None)

    def pooled(self, x, batch):
        """The state that stands for a row, [B,D]: of its first real token, or the mean of the real ones.

        `batch['read']` names other slots: [B], or [B,M] for M documents packed into a row, which
        gives [B,M,D]. A pooler, if the model has one, acts on it.
        """
        return self._pooled(x, batch, self._key())

    def _pooled(self, x, batch, key):
        o = self.o
        if o.pool == "mean":
            mask = batch.get("mask")
            mask = jnp.ones(x.shape[:2]) if mask is None else mask.reshape(x.shape[:2])
            state = mean_real(x, mask)
        elif "read" in batch or "mask" in batch:
            read = self.read(batch)
            state = take(x, read.reshape(len(x), -1)).reshape(*read.shape, x.shape[-1])
        else:
            state = x[:, 0]
        return self.pool(state, key) if o.pools else state

    def read(self, batch):
        """The slots that stand for rows: `batch['read']` [B] or [B,M], or the first real ones [B]."""
        if "read" in batch:
            return batch["read"]
        tokens = batch["tokens"]
        real = batch.get("mask", jnp.ones_like(tokens))
        return jnp.argmax(real.reshape(-1, tokens.shape[-1]), 1)

    def picked(self, batch, slots):
        """(hidden states at `slots` [B,M] of a batch, [B,M,D], and, of a model that scores pairs, scores)."""
        if self.o.head != "pretrain":
            return self.features(batch, slots=slots)[0], None
        read = self.read(batch)[:, None]
        x, _ = self.features(batch, slots=jnp.concatenate([read, slots], 1))
        return x[:, 1:], self.scores(x, {**batch, "read": jnp.zeros(len(x), read.dtype)})

    def judged(self, batch):
        """`scores` of what `features` gives, without the states that a pooled head does not read."""
        if self.o.pool == "mean" or self.o.head in ("tokens", "spans"):
            return self.scores(self.features(batch)[0], batch)
        read = self.read(batch)
        x, _ = self.features(batch, slots=read.reshape(len(read), -1))
        here = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2]).reshape(read.shape)
        return self.scores(x, {**batch, "read": here})

    def scores(self, x, batch):
        """The outputs, float32, of the head that is not a language head, from hidden states x."""
        o, key = self.o, self._key()
        if o.head in ("none", "masked"):
            raise ValueError(f"a model with model.head={o.head!r} gives no scores")
        if o.head in ("tokens", "spans"):
            return self.score(x, key)
        state = self._pooled(x, batch, key)
        if o.head == "embed":
            return unit(state)
        scores = self.score(state, key)
        return scores.reshape(batch["tokens"].shape[:2]) if o.head == "choice" else scores

    def __call__(self, batch, cache=None):
        """`logits`, `scores` and `pooled`, as far as the model has them, and `cache`."""
        o = self.o
        x, given = self.features(batch, cache)
        out = {"cache": given["cache"]} if "cache" in given else {}
        if o.head in ("masked", "pretrain"):
            out["logits"] = self.logits(x)
        if o.head not in ("none", "masked"):
            out["scores"] = self.scores(x, batch)
        if o.pools:
            out["pooled"] = self.pooled(x, batch)
        return out


FOLDED = (
    "tokens", "mask", "positions", "segments", "token_types", "global_mask", "encoded",
    "encoded_mask",
)  # fmt: skip
