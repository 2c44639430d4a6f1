"""The reference library's generation calls, made with `models.generate`, for `tests.parity`."""

import numpy as np

from models import generate
from models.settings import Settings

# Their name: ours, for what is passed on as it is.
SAME = {
    "max_new_tokens": "max_new_tokens", "min_new_tokens": "min_new_tokens",
    "repetition_penalty": "repetition_penalty", "no_repeat_ngram_size": "no_repeat_ngram",
    "num_beams": "num_beams", "num_return_sequences": "num_return_sequences",
    "length_penalty": "length_penalty", "early_stopping": "early_stopping",
}  # fmt: skip
# What has no effect on a search without sampling.
IDLE = {
    "do_sample", "use_cache", "temperature", "top_k", "top_p", "min_p", "typical_p",
    "epsilon_cutoff", "eta_cutoff", "bos_token_id", "return_dict_in_generate", "output_scores",
    "output_logits", "num_beam_groups", "decoder_start_token_id",
}  # fmt: skip


def settings(given: dict, config: dict, prompt: int) -> Settings:
    """Ours from the reference's keyword arguments; ValueError names one that is not supported."""
    if given.get("do_sample"):
        raise ValueError("do_sample: the peer's random numbers cannot be drawn again")
    if config.get("is_encoder_decoder"):
        forced = ("forced_bos_token_id", "forced_eos_token_id")
        given = {**{name: config.get(name) for name in forced}, **given}
    made, eos = {}, given.get("eos_token_id", config.get("eos_token_id"))
    eos = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
    pad = given.get("pad_token_id", config.get("pad_token_id"))
    made.update(eos=eos, pad=-1 if pad is None else pad, scores=True, pad_bans=True)
    for name, value in given.items():
        if name in SAME and value is not None:
            made[SAME[name]] = value
        elif name == "max_length" and "max_new_tokens" not in given:
            made["max_new_tokens"] = value - prompt
        elif name == "min_length" and value:
            made["min_new_tokens"] = max(made.get("min_new_tokens", 0), value - prompt, 0)
        elif name == "bad_words_ids" and value:
            made["bad_words"] = tuple(tuple(word) for word in value)
        elif name == "suppress_tokens" and value:
            made["suppress"] = tuple(value)
        elif name == "forced_eos_token_id" and value is not None:
            made["forced_last"] = tuple(value) if isinstance(value, list) else (value,)
        elif name == "forced_bos_token_id" and value is not None and prompt == 1:
            made["forced_first"] = value
        elif name not in IDLE | {"eos_token_id", "pad_token_id", *SAME} and value:
            known = ("max_length", "min_length", "bad_words_ids", "suppress_tokens")
            if name not in (*known, "forced_eos_token_id", "forced_bos_token_id"):
                raise ValueError(f"the generation setting {name!r} is not supported")
    made.setdefault("max_new_tokens", max(20 - prompt, 1))
    return Settings(**made)


def generation(peer, inputs: dict, given: dict) -> dict:
    """sequences, step_scores, margins (of the two best) and sequences_scores of one call."""
    tokens = np.asarray(inputs["input_ids"], np.int32)
    mask = np.asarray(inputs.get("attention_mask", np.ones_like(tokens))).astype(np.int32)
    prompt = None
    if peer.o.kind == "encdec":
        start = given.get("decoder_start_token_id", peer.o.start)
        prompt = np.asarray(inputs.get("decoder_input_ids", np.full((len(tokens), 1), start)))
    s = settings(given, peer.config, (tokens if prompt is None else prompt).shape[1])
    found = generate.generate(peer.model, peer.variables, tokens, mask, s, prompt=prompt)
    out = {"sequences": found.cropped()}
    if s.num_beams > 1:
        out["sequences_scores"] = np.asarray(found.sequences_scores)
        return out
    scores = np.asarray(found.scores)[: int(found.steps)].transpose(1, 0, 2)
    best = np.sort(np.maximum(scores, -1e30), -1)  # as the cases have it where all else is banned
    out.update(step_scores=scores, margins=best[..., -1] - best[..., -2])
    return out
