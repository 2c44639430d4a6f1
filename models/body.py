"""What every stack over tokens shares: embeddings, blocks, masks and caches."""

import math

import flax.linen as nn
import jax.numpy as jnp

from models import cache as caches
from models import positions as places
from models import sparing, transformer
from models.dropout import drop, site
from models.initial import deviation
from models.layers import Norm, Projection, normal
from models.masks import Globals, Mask
from models.options import Options
from models.placement import ROWS, alone, place


class Table(nn.Module):
    """A table of embeddings [rows, U]; the tokens' may serve the head as well."""

    o: Options
    rows: int

    def setup(self):
        std, shape = deviation(self.o, "tokens"), (self.rows, self.o.thin)
        self.embedding = self.param("embedding", normal(std), shape, jnp.float32)


class Embed(nn.Module):
    """Tokens, positions and types [B,T] to (x [B,T,D], what attention needs to know of positions).

    Token, segment and position embeddings are added, normed and dropped (Devlin et al. 2018, section
    3), as far as the options have them; tables of another width U than the blocks' are followed by a
    matrix [U,D] (Lan et al. 2019, section 3.1). With `shared` the token table is another module's.
    """

    o: Options
    shared: bool = False

    def setup(self):
        o = self.o
        if not self.shared:
            self.tokens = Table(o, o.vocab)
        if o.token_types:
            self.types = Table(o, o.token_types)
        self.positions = places.Positions(o)
        if o.embed_norm:
            self.norm = Norm(o)
        if o.embed_width:
            shape = (o.thin, o.width)
            self.project = Projection("btu,ud->btd", shape, 1, deviation(o, "project"), o.dtype)

    def __call__(self, tokens, positions, key=None, types=None, table=None, embedded=None):
        o = self.o
        if embedded is None:
            table = self.tokens.embedding if table is None else table
            if o.drop_table:
                table = drop(table, o.drop_embed, site(key, 0))
            table = place(table, "tensor", None)
            x = place(table[tokens].astype(o.activations), ROWS)
            if o.embed_scale:
                x = x * jnp.asarray(math.sqrt(o.width), x.dtype)
        else:
            x = place(embedded.astype(o.activations), ROWS)
        if o.token_types:
            types = jnp.zeros_like(tokens) if types is None else types
            x = x + _rows(self.types.embedding, types).astype(x.dtype)
        x, entries = self.positions(x, positions, site(key, 1))
        if o.embed_norm:
            x = self.norm(x)
        if not o.drop_table:
            x = drop(x, o.drop_embed, site(key, 2))
        return (self.project(x) if o.embed_width else x), entries


def _rows(table, index):
    """table[index] of a table with few rows: sums of products, whose gradient is no scatter."""
    if table.shape[0] == 1:
        return jnp.broadcast_to(table[0], (*index.shape, table.shape[1]))
    if table.shape[0] == 2:
        share = index[..., None].astype(table.dtype)
        return table[0] * (1 - share) + table[1] * share
    return place(table, None, None)[index]


class Body(nn.Module):
    """A stack of blocks over token embeddings; the models add their heads.

    Dropout is on iff a `dropout` key is given. The collections `maps`, `hidden` and `stats` are made
    only if asked for with `mutable`. With `shared` the token table is given to `features`.
    """

    o: Options
    shared: bool = False

    def setup(self):
        o = self.o
        self.embed = Embed(o, self.shared)
        self.blocks = transformer.blocks(o)
        if o.positions == "relative":
            self.relative = places.Relative(o)
        if o.final_norm:
            self.norm = Norm(o)

    def features(self, batch, cache=None, table=None, last=0, slots=None):
        """Hidden states [B,T,D] after the final norm, and {'cache', 'router'} where they exist.

        batch: `tokens` [B,T] and optionally `mask` [B,T] (1 = real), `positions` [B,T], `segments`
        [B,T] (packed documents; 0 = padding), `token_types` [B,T]; `global_mask` [B,T] for models
        with windows; `encoded` [B,S,D] and `encoded_mask` [B,S] for those with cross-attention,
        which a cache keeps from its first call on. With a cache the T tokens are written to its next
        slots; segments and a cache together are a ValueError, as are tokens beyond the context.
        `table` [V,U] is the token table of a body that has none of its own. In place of `tokens`
        there may be `embedded` [B,T,D], what the table would have given. `last` > 0 asks for the states
        of so many slots at the end alone, [B,last,D], `slots` [B,n] of those; the last block is spared others.
        """
        o, embedded = self.o, batch.get("embedded")
        if embedded is not None:
            batch = {**batch, "tokens": jnp.zeros(embedded.shape[:2], jnp.int32)}
        tokens = batch["tokens"]
        self._check(batch, cache)
        segments, real, positions = (batch.get(n) for n in ("segments", "mask", "positions"))
        if real is None:
            real = jnp.ones_like(tokens) != 0 if segments is None else segments != 0
        if positions is None:
            positions = places.count(o, tokens, real, segments, cache)
        key = self._key()

        x, ctx = self.embed(
            tokens, positions, site(key, 0), batch.get("token_types"), table, embedded
        )
        ctx["real"] = real
        state = {"x": x}
        if cache is None:
            ctx["mask"] = Mask(o.causal, 0, None, batch.get("mask"), segments, segments)
        else:
            ctx["index"] = cache["index"]
            state.update({k: cache[k] for k in transformer.MEMORY if k in cache})
            start, cache = cache["index"], caches.write(cache, real, batch.get("encoded_mask"))
            ctx["mask"] = Mask(o.causal, 0, start, cache["valid"])
        if o.positions == "relative":
            keys = tokens.shape[1] if cache is None else cache["valid"].shape[1]
            ctx["bias"] = self.relative(tokens.shape[1], keys, ctx["mask"].start)
        if o.cross:
            self._cross(batch, cache, ctx)
        if o.windows and ("global_mask" in batch or self.is_initializing()):
            ctx["globals"] = Globals.of(
                batch.get("global_mask", jnp.zeros_like(tokens)), real, o.global_slots
            )
        ctx.update(asked(self))
        only = sparing.asked(last, slots, tokens.shape[1])
        if only and self._spares(only, cache, key, ctx):
            ctx["only"] = only
        state, out = self.blocks(state, transformer.layers(o, site(key, 1)), ctx)
        report(self, x, out)
        x = only.of(state["x"]) if only and "only" not in ctx else state["x"]
        x = self.norm(x) if o.final_norm else x
        x = drop(x, o.drop_final, site(key, 2))
        given = {"router": out["router"]} if o.experts else {}
        if cache is not None:
            given["cache"] = {**cache, **{k: v for k, v in state.items() if k != "x"}}
        return x, given

    def _spares(self, only, cache, key, ctx) -> bool:
        """Whether the last block can leave slots out: none of its parts is asked for or needs them all.

        Slots at the end are spared no dropout, which draws for all; of others, attention must not tell
        where they are.
        """
        o, wanted = self.o, {"maps", "hidden", "stats"} & ctx.keys()
        if cache is not None or o.scan or o.experts or o.windows or o.cross or wanted:
            return False
        if isinstance(only, sparing.Last):
            return alone() and key is None
        return not (o.causal or {"bias", "rotary"} & ctx.keys())

    def _key(self):
        """A dropout key, or None."""
        return self.make_rng("dropout") if self.o.dropout and self.has_rng("dropout") else None

    def _cross(self, batch, cache, ctx):
        """What cross-attention reads: `encoded`, unless the cache has its keys and values."""
        encoded, valid = batch.get("encoded"), batch.get("encoded_mask")
        if encoded is not None:
            ctx["encoded"] = encoded.astype(self.o.activations)
        elif cache is None:
            raise ValueError("the batch lacks `encoded` [B,S,D], which cross-attention reads")
        else:
            valid = cache["cross_valid"]
        ctx["encoded_mask"] = Mask(False, 0, None, valid)

    def _check(self, batch, cache):
        o, time = self.o, batch["tokens"].shape[1]
        if o.positions == "learned" and time > o.context:
            raise ValueError(
                f"a sequence of {time} tokens is longer than model.context={o.context}, "
                "and learned positions end there"
            )
        if cache is not None and "segments" in batch:
            raise ValueError("segments are for packed training batches; a cache has one per row")
        if cache is not None and not o.causal:
            raise ValueError(
                "a cache needs model.causal=True: later tokens would change the earlier"
            )
        for name, option in (
            ("token_types", "token_types"),
            ("global_mask", "windows"),
            ("encoded", "cross"),
        ):
            if name in batch and not getattr(o, option):
                raise ValueError(f"the batch has {name}, the model no model.{option}")


def asked(module: nn.Module) -> dict:
    """The entries of `ctx` that ask the layers for what is collected: those of mutable collections."""
    names = ("maps", "hidden", "stats")
    wanted = [name for name in names if module.is_mutable_collection(name)]
    return {} if module.is_initializing() else dict.fromkeys(wanted, ())


def report(module: nn.Module, x, out):
    """Puts what was asked for into its collection, stacked by layer; x is what the first one read."""
    if "maps" in out and module.is_mutable_collection("maps"):
        module.put_variable("maps", "attn", out["maps"])
    if "cross_maps" in out:
        module.put_variable("maps", "cross", out["cross_maps"])
    if "hidden" in out and module.is_mutable_collection("hidden"):
        module.put_variable("hidden", "blocks", jnp.concatenate([x[None], out["hidden"]]))
    if "logits" in out.get("router", {}):
        module.put_variable("stats", "router", out["router"]["logits"])
