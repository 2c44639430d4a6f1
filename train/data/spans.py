"""Questions over long texts: overlapping windows, and the slots of the answer in each.

A row is [CLS] question [SEP] window [SEP]; windows begin `length of a window - stride` tokens apart,
so that two of them share `stride` tokens (Devlin et al. 2019 used rows of 384 and a stride of 128). A
window that does not hold the whole answer has its targets at [CLS], as has a question without one.
"""

import numpy as np

from train.data import tokenizer_file
from train.data.encode import Fitting, Rows
from train.data.labelled import Examples
from train.data.sentences import Frame


def encode(examples: Examples, tokenizer, length: int, stride: int, truncate=False) -> Rows:
    """The windows of every question, in order.

    `extra`: `windows` ({example, first, offsets} of each row, see `eval.spans`), `texts` (contexts),
    `golds` (the answers' strings) and `lost`, how many answers no window holds whole. The first
    answer is the target. ValueError for a question that leaves no room for a window longer than the
    stride; `truncate` cuts the question to leave twice the stride.
    """
    frame = Frame.of(tokenizer)
    most = length - frame.around(2) - stride - 1
    if stride < 0 or most < 1:
        raise ValueError(
            f"config.data.stride={stride} does not go with config.length={length}; expected "
            f"0 <= stride < length - {frame.around(2) + 1}"
        )
    questions = tokenizer.encode_batch([text for text, _ in examples.texts], special=False)
    contexts = sorted({context for _, context in examples.texts})
    found = dict(zip(contexts, offsets(tokenizer, contexts), strict=True))
    fit = Fitting(length, truncate, examples)
    parts, targets, windows, lost = [], [], [], 0
    for number, ((_, context), question) in enumerate(zip(examples.texts, questions, strict=True)):
        if len(question) > most:
            fit.note(number, len(question) + frame.around(2))
            question = question[: max(1, most - stride)]
        ids, places = found[context]
        answer = examples.targets[number][:1]
        span = slots(places, *answer[0]) if answer else None
        rows = _windows(frame, question, ids, length, stride)
        held = 0
        for begin, tokens, types, first in rows:
            count = min(len(ids) - begin, length - frame.around(2) - len(question))
            inside = span is not None and begin <= span[0] and span[1] < begin + count
            held += inside
            parts.append([(tokens, types)])
            targets.append((span[0] - begin + first, span[1] - begin + first) if inside else (0, 0))
            own = places[begin : begin + count]
            windows.append({"example": number, "first": first, "offsets": own})
        lost += bool(answer) and not held
    cut = fit.done()
    golds = [
        [context[start:end] for start, end in spans]
        for (_, context), spans in zip(examples.texts, examples.targets, strict=True)
    ]
    extra = dict(
        windows=windows, golds=golds, texts=[context for _, context in examples.texts], lost=lost
    )
    return Rows("spans", length, frame.pad, parts, targets, cut, extra)


def _windows(frame, question, ids, length, stride):
    """(first context token, tokens, token types, its slot) of every window; at least one."""
    room = length - frame.around(2) - len(question)
    begin = 0
    while True:
        tokens, types = frame.join(question, ids[begin : begin + room])
        yield begin, tokens, types, frame.around(2) - 1 + len(question)
        if begin + room >= len(ids):
            return
        begin += room - stride


def offsets(tokenizer, texts) -> list:
    """(ids int32 [n], offsets int64 [n,2] in characters, white space left out) of each text.

    Special tokens written out in a text are text, as in every other task.
    """
    made = []
    for number, text in enumerate(texts):
        tokenizer_file.unicode(text, f"text {number}")
    every = tokenizer.plain.encode_batch(list(texts), add_special_tokens=False)
    for text, found in zip(texts, every, strict=True):
        places = np.asarray(found.offsets, np.int64).reshape(-1, 2)
        for row in places:
            while row[0] < row[1] and text[row[0]].isspace():
                row[0] += 1
        made.append((np.asarray(found.ids, np.int32), places))
    return made


def slots(places, start: int, end: int):
    """(first, last) token that covers characters start..end; None where none does."""
    hit = np.flatnonzero((places[:, 1] > start) & (places[:, 0] < end))
    return (int(hit[0]), int(hit[-1])) if len(hit) else None
