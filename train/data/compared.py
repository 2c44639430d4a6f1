"""Comparisons as batches of tokens: for reward models (decoders or encoders), and for policies."""

import numpy as np

from train.data import answers, endings
from train.data.sentences import Frame


def texts(found) -> list:
    """Every text of the comparisons, prompts too, once each: what a fresh tokenizer is trained on."""
    made = set()
    for item in found:
        turns = [item.prompt]
        if not isinstance(item.prompt, str):
            turns = [m["content"] for m in item.prompt if isinstance(m.get("content"), str)]
        made.update(turns, item.answers)
    return sorted(made)


def framed(found, tokenizer) -> list:
    """Rows (tokens, token types) of each comparison's answers for an encoder: [CLS] prompt answer [SEP]."""
    frame, made = Frame.of(tokenizer), []
    for item in found:
        texts = [tokenizer.encode(answer, special=False) for answer in item.answers]
        if not item.prompt:
            made.append([frame.join(text) for text in texts])
        else:
            prompt = tokenizer.encode(str(item.prompt), special=False)
            made.append([frame.join(prompt, text) for text in texts])
    return made


def written(found, dialogue) -> list:
    """Rows (tokens, trained) of each comparison's answers after its prompt, up to the end of the turn.

    An answer that did not reach its end (`item.ended`) has none; what a template writes behind a turn
    is left out, since a policy's rows stop before it.
    """
    return [
        [
            endings.row(dialogue, *dialogue.answered(item.prompt, text), end)
            for text, end in zip(
                item.answers, item.ended or [True] * len(item.answers), strict=True
            )
        ]
        for item in found
    ]


def fitting(rows, found, length: int, truncate: bool) -> tuple[list, list, int]:
    """(rows, comparisons, how many were left out): those whose answers all fit `length`.

    What is longer is an error unless `truncate`, which leaves the comparison out: cut short, an
    answer is not what was judged.
    """
    fit = [max(len(tokens) for tokens, _ in row) <= length for row in rows]
    out = len(rows) - sum(fit)
    if out and not truncate:
        most = max(len(tokens) for row in rows for tokens, _ in row)
        raise ValueError(
            f"{out} of {len(rows)} comparisons are longer than config.length={length} (the longest "
            f"has {most} tokens)\nuse a longer length, or --config.data.truncate=true to leave them out"
        )
    keep = [n for n, fine in enumerate(fit) if fine]
    return [rows[n] for n in keep], [found[n] for n in keep], out


def ranked(rows, found, length: int, fill: int, types: bool = False):
    """make(numbers) -> tokens, mask [n,K,T], better [n,K,K], agreement [n]; with `types` token_types.

    K is the most answers that a prompt has; what fills a prompt with fewer has one real slot.
    """
    most = max(len(row) for row in rows)

    def make(numbers) -> dict:
        shape = (len(numbers), most, length)
        made = {name: np.zeros(shape, np.int32) for name in ("tokens", "mask")}
        made["tokens"][:] = fill
        made["mask"][..., 0] = 1
        if types:
            made["token_types"] = np.zeros(shape, np.int32)
        made["better"] = np.zeros((len(numbers), most, most), np.float32)
        made["agreement"] = np.asarray([found[n].agreement for n in numbers], np.float32)
        for row, number in enumerate(numbers):
            for part, (tokens, other) in enumerate(rows[number]):
                made["tokens"][row, part, : len(tokens)] = tokens
                made["mask"][row, part, : len(tokens)] = 1
                if types:
                    made["token_types"][row, part, : len(tokens)] = other
            k = len(rows[number])
            made["better"][row, :k, :k] = found[number].better
        return made

    return make


def pairs(rows, found) -> list:
    """[(chosen, rejected), ...] of every comparison's pairs of rows."""
    return [
        (row[i], row[j])
        for row, item in zip(rows, found, strict=True)
        for i, j in np.argwhere(item.better > 0).tolist()
    ]


def sided(chosen, length: int, fill: int):
    """make(numbers) -> tokens, mask, weights [n,2,T] of pairs: the chosen first, then the rejected."""

    def make(numbers) -> dict:
        sides = [answers.pad([chosen[n][side] for n in numbers], length, fill) for side in (0, 1)]
        return {name: np.stack([side[name] for side in sides], 1) for name in sides[0]}

    return make


def judged(single, prompts, length: int, fill: int):
    """make(numbers) -> tokens, mask, weights [n,2,T] and good [n], for KTO.

    single: (row, prompt's number, good). The second of the two is the prompt with the answer of the
    batch's next row that answers another: a mismatched pair (the next row where there is none).
    """

    def make(numbers) -> dict:
        if len(numbers) < 2:
            raise ValueError(
                "KTO compares an answer with another prompt's; expected a batch above 1"
            )
        own = answers.pad([single[n][0] for n in numbers], length, fill)
        other = []
        for at, number in enumerate(numbers):
            ahead = [*numbers[at + 1 :], *numbers[:at]]
            own_prompt = single[number][1]
            which = next((n for n in ahead if single[n][1] != own_prompt), ahead[0])
            tokens, trained = single[which][0]
            start = prompts[own_prompt]
            answer = tokens[np.asarray(trained, bool)]
            joined = np.concatenate([start, answer])[:length]
            other.append((joined, np.arange(len(joined)) >= len(start)))
        other = answers.pad(other, length, fill)
        made = {name: np.stack([own[name], other[name]], 1) for name in own}
        return {**made, "good": np.asarray([single[n][2] for n in numbers], bool)}

    return make
