"""Encoder-decoders: the 2017 Transformer, T5, BART, and Whisper, whose encoder reads sound.

Two stacks over tokens, joined by cross-attention in every block of the second (Vaswani et al. 2017,
section 3.1). They usually share one token table, which may be the language head as well.
"""

import flax.linen as nn
import jax.numpy as jnp

from models import sides
from models.body import Body, Table
from models.heads import LanguageHead, Pooler, Scores, last_real
from models.options import Options
from models.sound import Frames


class Tables(nn.Module):
    """The token table that both stacks read."""

    o: Options

    def setup(self):
        self.tokens = Table(self.o, self.o.vocab)


class EncoderDecoder(nn.Module):
    """An encoder of `tokens` and a decoder of `decoder_tokens`, with the head that `o.head` names.

    "lm": logits of the next token at each decoder position. "none": hidden states alone. "classify"
    [B,C] (the decoder's state at the last real token) and "spans" [B,T,2] read a decoder that is
    given the source once more (Lewis et al. 2019, section 3), shifted by one.

    A batch holds `tokens` [B,S], and optionally `mask` [B,S] (1 = real), `decoder_tokens` [B,T]
    (default: the tokens after `o.start`), `decoder_mask` [B,T], `positions` and
    `decoder_positions`. Maps and hidden states, if asked for, come by side:
    `maps/encoder/attn`, `maps/decoder/attn`, `maps/decoder/cross`, `hidden/encoder/blocks`.
    """

    o: Options

    def setup(self):
        o = self.o
        self.embed = Tables(o)
        self.encoder = Body(sides.encoder(o), shared=not o.encoder_vocab)
        self.decoder = Body(o, shared=True)
        if o.frames:
            self.frames = Frames(o)
        if o.head == "lm":
            self.head = LanguageHead(o)
        if o.pools:
            self.pool = Pooler(o)
        if o.head in ("classify", "spans"):
            self.score = Scores(o)

    def encode(self, batch):
        """The encoder's hidden states [B,S,D] of `tokens`, under `mask`, or of `frames` [B,2S,M]."""
        if "segments" in batch:
            raise ValueError("an encoder-decoder reads one document a row; the batch has segments")
        names = ("tokens", "mask", "positions")
        given = {name: batch[name] for name in names if name in batch}
        if self.o.frames:
            if "frames" not in batch:
                raise ValueError("the batch lacks `frames` [B,2S,M], which this encoder reads")
            given["embedded"] = self.frames(batch["frames"])
        batch = given
        return self.encoder.features(batch, table=self._table(self.o.encoder_vocab))[0]

    def features(self, batch, cache=None):
        """The decoder's hidden states [B,T,D], and {'cache'} if one was given.

        `encoded` [B,S,D] and `encoded_mask` [B,S] may stand for the source; with a cache that has
        read it, neither is needed.
        """
        mine = {"tokens": self.decoder_tokens(batch)}
        for name in ("mask", "positions"):
            if f"decoder_{name}" in batch:
                mine[name] = batch[f"decoder_{name}"]
        if "encoded" in batch or ("frames" if self.o.frames else "tokens") in batch:
            mine["encoded"] = batch["encoded"] if "encoded" in batch else self.encode(batch)
            mask = batch.get("encoded_mask", batch.get("mask"))
            if mask is not None:
                mine["encoded_mask"] = mask
        elif cache is None:
            raise ValueError("the batch lacks `tokens` [B,S], the source that the encoder reads")
        return self.decoder.features(mine, cache, self._table())

    def decoder_tokens(self, batch):
        """`decoder_tokens` [B,T], or the tokens moved to the right behind `o.start`."""
        if "decoder_tokens" in batch:
            return batch["decoder_tokens"]
        if self.o.head == "lm":
            raise ValueError("the batch lacks `decoder_tokens` [B,T], which the decoder reads")
        return jnp.pad(batch["tokens"][:, :-1], ((0, 0), (1, 0)), constant_values=self.o.start)

    def _table(self, own: int = 0):
        return None if own else self.embed.tokens.embedding

    def logits(self, x):
        """Logits [...,V] in float32 of the decoder's hidden states [...,D]."""
        if self.o.head != "lm":
            raise ValueError(f"a model with model.head={self.o.head!r} has no language head")
        return self.head(x, self.embed.tokens.embedding if self.o.tied else None)

    def scores(self, x, batch):
        """The outputs, float32, of a classifying head on the decoder's hidden states x [B,T,D].

        `batch['read']` [B] names the slots that "classify" reads; default the source's last real
        token, which is its end-of-sequence token.
        """
        o = self.o
        if o.head not in ("classify", "spans"):
            raise ValueError(f"a model with model.head={o.head!r} gives no scores")
        key = self.make_rng("dropout") if o.dropout and self.has_rng("dropout") else None
        if o.head == "spans":
            return self.score(x, key)
        read = batch.get("read")
        if read is None:
            read = last_real(batch.get("mask", jnp.ones_like(batch["tokens"])))
        state = jnp.take_along_axis(x, read[:, None, None], 1)[:, 0]
        return self.score(self.pool(state, key) if o.pools else state, key)

    def __call__(self, batch, cache=None):
        """`logits` or `scores`, as the head is, `features` without one, and `cache`."""
        x, given = self.features(batch, cache)
        out = {"cache": given["cache"]} if "cache" in given else {}
        if self.o.head == "lm":
            out["logits"] = self.logits(x)
        elif self.o.head == "none":
            out["features"] = x
        else:
            out["scores"] = self.scores(x, batch)
        return out
