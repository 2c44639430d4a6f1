"""The settings of decoding, one frozen and hashable value."""

import dataclasses
import numbers

COLDEST = 1e-30  # the least temperature above 0: by less, logits are divided into infinities
RULES = ("power", "gnmt")  # of length_rule


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to decode. Hashable: a setting that changes compiles anew. ValueError names a wrong one.

    temperature 0 takes the most probable token (or, with num_beams > 1, searches); above 0, from 1e-30
    on, it draws.
    Every EOS id ends a row and counts as generated; what follows it is `pad` (-1: the first EOS, or
    0 without one). `stop` are strings, which need a `decode` function. Filters are off at their
    defaults: top_k 0, top_p 1, min_p 0, typical_p 1, epsilon 0, eta 0. `nucleus` "crossing" keeps
    the token that crosses top_p, "within" does not (Ziegler et al. 2019). `forced_first` and
    `forced_last` fix the first and the last possible token. `scores` asks for the processed scores
    of every step, `top_log_probs` for that many of the model's largest log-probabilities. `pad_bans`
    lets n-grams and bad words see the ids of the prompt's padding, as the reference does.
    A beam of n new tokens is divided by n ** length_penalty, the reference's rule "power", or by
    ((5 + n) / 6) ** length_penalty, the rule "gnmt" of Wu et al. 2016, equation 14.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    eos: tuple = ()
    pad: int = -1
    stop: tuple = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    nucleus: str = "crossing"
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon: float = 0.0
    eta: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram: int = 0
    bad_words: tuple = ()
    suppress: tuple = ()
    forced_first: int = -1
    forced_last: tuple = ()
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    length_rule: str = "power"
    early_stopping: bool | str = False
    scores: bool = False
    top_log_probs: int = 0
    pad_bans: bool = False

    def __post_init__(self):
        for name, low, high in LIMITS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} is {value!r}; expected a number")
            if not low <= value <= high:
                upper = f"between {low} and {high}" if high < LARGE else f"at least {low}"
                raise ValueError(f"{name} is {value}; expected {upper}")
            if type(getattr(type(self), name)) is int and not isinstance(value, int):
                raise ValueError(f"{name} is {value!r}; expected a whole number")
        if 0 < self.temperature < COLDEST:
            raise ValueError(
                f"temperature is {self.temperature}; expected 0, the most probable token, or at "
                f"least {COLDEST}"
            )
        for name in ("eos", "stop", "bad_words", "suppress", "forced_last"):
            value = getattr(self, name)
            if not isinstance(value, tuple):
                raise ValueError(f"{name} is {value!r}; expected a tuple")
            kind, fits = KINDS[name]
            wrong = [item for item in value if not fits(item)]
            if wrong:
                raise ValueError(f"{name} holds {wrong[0]!r:.60}; expected {kind}")
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; expected above 0")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens={self.min_new_tokens} exceeds max_new_tokens={self.max_new_tokens}"
            )
        if self.nucleus not in ("crossing", "within"):
            raise ValueError(f"nucleus is {self.nucleus!r}; expected 'crossing' or 'within'")
        if self.length_rule not in RULES:
            raise ValueError(f"length_rule is {self.length_rule!r}; expected 'power' or 'gnmt'")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ValueError(
                f"early_stopping is {self.early_stopping!r}; expected True, False or 'never'"
            )
        if any(not text for text in self.stop) or any(not word for word in self.bad_words):
            raise ValueError("a stop string or bad word is empty")
        for name, forced in (
            ("forced_first", (self.forced_first,) if self.forced_first >= 0 else ()),
            ("forced_last", self.forced_last),
        ):
            if forced and set(forced) <= set(self.suppress):
                raise ValueError(f"{name} is {getattr(self, name)}, which suppress forbids")
        self._check_rows()

    def _check_rows(self):
        n, beams = self.num_return_sequences, self.num_beams
        if beams > 1 and n > beams:
            raise ValueError(f"num_return_sequences={n} exceeds num_beams={beams}")
        if beams == 1 and n > 1 and not self.temperature:
            raise ValueError(
                f"num_return_sequences={n} without beams at temperature 0 would be {n} times the "
                "same; give a temperature above 0 or beams"
            )
        if beams > 1 and self.stop:
            raise ValueError("stop strings do not go with num_beams above 1; use EOS ids")
        if beams > 1 and self.top_log_probs:
            raise ValueError("top_log_probs do not go with num_beams above 1; ask for scores")

    @property
    def fill(self) -> int:
        """The id that follows EOS."""
        return self.pad if self.pad >= 0 else (self.eos[0] if self.eos else 0)


def unused(known: int, vocab: int) -> tuple:
    """The rows of a model's table that a tokenizer of `known` tokens has no token for: what decoding
    must `suppress`, since they stand for no text."""
    return tuple(range(known, vocab))


def _is_id(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_word(value) -> bool:
    return isinstance(value, tuple) and all(map(_is_id, value))


KINDS = {  # what the tuples hold
    **dict.fromkeys(("eos", "suppress", "forced_last"), ("ids, whole numbers", _is_id)),
    "bad_words": ("tuples of ids", _is_word),
    "stop": ("text", lambda value: isinstance(value, str)),
}
LARGE = 1 << 62
LIMITS = (
    ("max_new_tokens", 1, LARGE), ("min_new_tokens", 0, LARGE), ("pad", -1, LARGE),
    ("temperature", 0, 1e6), ("top_k", 0, LARGE), ("top_p", 0, 1), ("min_p", 0, 1),
    ("typical_p", 0, 1), ("epsilon", 0, 1), ("eta", 0, 1), ("repetition_penalty", 0, 1e6),
    ("frequency_penalty", -1e6, 1e6), ("presence_penalty", -1e6, 1e6), ("no_repeat_ngram", 0, LARGE),
    ("forced_first", -1, LARGE), ("num_beams", 1, LARGE), ("num_return_sequences", 1, LARGE),
    ("length_penalty", -1e3, 1e3), ("top_log_probs", 0, LARGE),
)  # fmt: skip
