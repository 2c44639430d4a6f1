"""Decoder-only language models: GPT-1, GPT-2, GPT-3, LLaMA and their mixtures of experts."""

import math

import flax.linen as nn
import jax.numpy as jnp

from models import cache as caches
from models import positions as places
from models import transformer
from models.heads import LanguageHead, ScoreHead, last_real
from models.layers import Norm, drop, normal, site
from models.masks import Mask
from models.options import Options
from models.placement import ROWS, place


class Embed(nn.Module):
    """Tokens [B,T] and positions [B,T] to (x [B,T,D], what attention needs to know of positions)."""

    o: Options

    def setup(self):
        o = self.o
        self.tokens = Table(o)
        self.positions = places.Positions(o)
        if o.embed_norm:
            self.norm = Norm(o)

    def __call__(self, tokens, positions, key=None):
        o = self.o
        table = self.tokens.embedding
        if o.drop_table:
            table = drop(table, o.drop_embed, site(key, 0))
        table = place(table, "tensor", None)
        x = place(table[tokens].astype(o.activations), ROWS)
        if o.embed_scale:
            x = x * jnp.asarray(math.sqrt(o.width), x.dtype)
        x, entries = self.positions(x, positions, site(key, 1))
        if o.embed_norm:
            x = self.norm(x)
        if not o.drop_table:
            x = drop(x, o.drop_embed, site(key, 2))
        return x, entries


class Table(nn.Module):
    """The table of token embeddings [V,D]."""

    o: Options

    def setup(self):
        shape = (self.o.vocab, self.o.width)
        self.embedding = self.param("embedding", normal(self.o.init_std), shape, jnp.float32)


class Decoder(nn.Module):
    """A causal stack over token embeddings, with the heads that `o.head` names.

    `features` gives hidden states, `logits` the language head on them; `__call__` both and the
    pooled scores. Dropout is on iff a `dropout` key is given. The collections `maps`, `hidden` and
    `stats` are made only if asked for with `mutable`.
    """

    o: Options

    def setup(self):
        o = self.o
        self.embed = Embed(o)
        self.blocks = transformer.blocks(o)
        if o.final_norm:
            self.norm = Norm(o)
        if o.head != "classify":
            self.head = LanguageHead(o)
        if o.head != "lm":
            self.score = ScoreHead(o)

    def features(self, batch, cache=None):
        """Hidden states [B,T,D] after the final norm, and {'cache', 'router'} where they exist.

        batch: `tokens` [B,T] and optionally `mask` [B,T] (1 = real), `positions` [B,T], `segments`
        [B,T] (packed documents; 0 = padding). With a cache the T tokens are written to its next
        slots; segments and a cache together are a ValueError, as are tokens beyond the context.
        """
        o, tokens = self.o, batch["tokens"]
        self._check(batch, cache)
        real = batch.get("mask")
        if real is None:
            real = batch.get("segments", jnp.ones_like(tokens)) != 0
        positions = batch.get("positions")
        if positions is None:
            zero = jnp.zeros((tokens.shape[0],), jnp.int32)
            positions = places.default(real, zero if cache is None else cache["position"])
        key = self.make_rng("dropout") if o.dropout and self.has_rng("dropout") else None

        x, ctx = self.embed(tokens, positions, site(key, 0))
        ctx["real"] = real
        state = {"x": x}
        if cache is None:
            segments = batch.get("segments")
            valid = batch.get("mask")
            ctx["mask"] = Mask(o.causal, 0, None, valid, segments, segments)
        else:
            ctx["index"] = cache["index"]
            state.update(k=cache["k"], v=cache["v"])
            start, cache = cache["index"], caches.write(cache, real)
            ctx["mask"] = Mask(o.causal, 0, start, cache["valid"])
        for name in ("maps", "hidden", "stats"):
            if self.is_mutable_collection(name) and not self.is_initializing():
                ctx[name] = ()
        state, out = self.blocks(state, transformer.layers(o, site(key, 1)), ctx)
        self._report(x, out)
        x = self.norm(state["x"]) if o.final_norm else state["x"]
        given = {"router": out["router"]} if o.experts else {}
        if cache is not None:
            given["cache"] = {**cache, "k": state["k"], "v": state["v"]}
        return x, given

    def _check(self, batch, cache):
        time = batch["tokens"].shape[1]
        if self.o.positions == "learned" and time > self.o.context:
            raise ValueError(
                f"a sequence of {time} tokens is longer than model.context={self.o.context}, "
                "and learned positions end there"
            )
        if cache is not None and "segments" in batch:
            raise ValueError("segments are for packed training batches; a cache has one per row")

    def _report(self, x, out):
        """Puts what was asked for into its collection, stacked by layer."""
        if "maps" in out:
            self.put_variable("maps", "attn", out["maps"])
        if "hidden" in out:
            self.put_variable("hidden", "blocks", jnp.concatenate([x[None], out["hidden"]]))
        if "logits" in out.get("router", {}):
            self.put_variable("stats", "router", out["router"]["logits"])

    def logits(self, x):
        """Logits [...,V] in float32 of hidden states [...,D]."""
        return self.head(x, self.embed.tokens.embedding if self.o.tied else None)

    def __call__(self, batch, cache=None):
        """`logits` [B,T,V] and `scores` [B,C], as far as the model has the heads, and `cache`.

        `batch['read']` [B] names the slots that the pooled head reads; default the last real token.
        """
        x, given = self.features(batch, cache)
        out = {"cache": given["cache"]} if "cache" in given else {}
        if "router" in given:
            out["router"] = given["router"]
        if self.o.head != "classify":
            out["logits"] = self.logits(x)
        if self.o.head != "lm":
            read = batch.get("read")
            if read is None:
                read = last_real(batch.get("mask", jnp.ones_like(batch["tokens"])))
            key = self.make_rng("dropout") if self.o.dropout and self.has_rng("dropout") else None
            out["scores"] = self.score(x, read, key)
        return out
