"""The stream of a masked-token run: rows of sentences, masked; and its held-out batches.

Reads, beside what `text.Stream` reads, `config.data.pair` ("none", "next", "order"), `short`, and
`config.data.masking` (the fields of `corruption.Masking`, and `static`: 0 draws the masks anew in
every epoch, n repeats n drawings, as BERT's dupe_factor of 10 did).
"""

import functools

from train.core import sections
from train.core.errors import nearest
from train.data import corruption, packing, sentences, text
from train.data.opening import get, open_all
from train.data.windows import fixed

HELD = 0x4EED  # the key of the held-out masks


def masking(config) -> corruption.Masking:
    """`config.data.masking` as a Masking; ValueError names a field that there is not."""
    given = dict(get(config, "data.masking", {}))
    given.pop("static", 0)
    known = list(corruption.Masking.__dataclass_fields__)
    for name in given:
        if name not in known:
            raise ValueError(
                f"config.data.masking has no field {name!r}; {nearest(name, [*known, 'static'])}"
            )
    return corruption.Masking(**given)


def packings(config) -> dict:
    """{name: a maker of windows} for `config.data.packing`, checked against `config.data.pair`."""
    pair, chosen = get(config, "data.pair", "none"), get(config, "data.packing", "")
    if pair not in ("none", *sentences.PAIRS):
        raise ValueError(f"config.data.pair is {pair!r}; expected none, next or order")
    if (chosen == "pairs") != (pair != "none"):
        raise ValueError(
            f"config.data.packing={chosen!r} and pair={pair!r} do not go together: "
            "packing=pairs needs pair=next or order, every other packing pair=none"
        )
    made = dict(sentences.PACKINGS)
    if chosen == "pairs":
        short = float(get(config, "data.short", 0.1))
        sections.share("data.short", short, one=True)
        made["pairs"] = functools.partial(sentences.Pairs, pair=pair, short=short)
    how = masking(config)
    return {name: functools.partial(make, masking=how) for name, make in made.items()}


def open_stream(config, tokenizer, split="train", process=0, processes=1) -> text.Stream:
    """The stream of a masked-token config; ValueError in one to three lines for what is wrong."""
    turns = int(get(config, "data.masking.static", 0))
    sections.within("data.masking", {"static": turns}, {"static": (0, None)})
    return text.Stream(config, tokenizer, split, process, processes, packings(config), turns)


def heldout(config, tokenizer, length, batch, process=0, processes=1, limit=0) -> dict:
    """The held-out works in rows, with masks that are always the same.

    Returns `batches`, a list of what `Stream.batch` gives with `rows` float32 [b] beside it (0 for a
    row that only fills the last batch, whose weights are 0, too), and over all processes `rows` and
    `targets`, how many are scored. `limit` takes so many batches at most.
    """
    make = packings(config)[get(config, "data.packing", "")]
    made, targets, share = [], 0, batch // processes
    windows = [
        make(corpus, held, length, tokenizer) for _, _, corpus, _, held in open_all(config, tokenizer)
        if len(held)
    ]  # fmt: skip
    if not windows:
        raise ValueError("no held-out work to evaluate on: name some in data.heldout")
    places = [(part, n) for part, window in enumerate(windows) for n in range(window.count)]
    places = places[: limit * batch] if limit else places
    keys = [packing.mix(HELD, part) for part in range(len(windows))]
    for whole in fixed(windows, keys, places, batch):
        targets += int(whole["weights"].sum())
        made.append({n: x[process * share : (process + 1) * share] for n, x in whole.items()})
    return {"batches": made, "rows": len(places), "targets": targets}
