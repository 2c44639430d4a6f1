"""Whether an answer reached its end, and where its row ends: what a reward model and a policy share.

A policy's row stops with the token that ends its turn, or where its length was up. The rows that
comparisons are made into do the same, whatever a template writes behind a turn; a score that is read
at the last token is so read where it was learnt.
"""

import numpy as np

from train.data import chat
from train.data.tables import Table


def read(table: Table, prompts, rows) -> dict:
    """{(prompt, answer): whether it reached its end} by the column `ended` [true or false for each answer].

    prompts: each row's, as text; rows: [(its answers, ...)], of a pair the chosen and the rejected. Rows
    without `ended` say nothing, and their answers pass for ended. ValueError names a row whose value is
    another, or that contradicts one before.
    """
    found, seen = {}, {}
    for number, (prompt, (answers, *_)) in enumerate(zip(prompts, rows, strict=True)):
        said = table.rows[number].get("ended")
        if said is None:
            continue
        if not isinstance(said, list) or [type(x) for x in said] != [bool] * len(answers):
            raise ValueError(
                f"{table.where(number)}: ended is {str(said)[:40]!r}; expected true or false for each of "
                f"{len(answers)} answers"
            )
        for answer, end in zip(answers, said, strict=True):
            if found.setdefault((prompt, answer), end) != end:
                raise ValueError(
                    f"{table.where(number)} contradicts {seen[prompt, answer]} about whether the answer "
                    f"{answer[:40]!r} reached its end"
                )
            seen.setdefault((prompt, answer), table.where(number))
    return found


def row(dialogue, tokens, trained, ended: bool = True) -> tuple:
    """(tokens, trained) of a prompt with an answer up to the end of its turn, which stays if `ended`.

    dialogue: the `train.data.instructions.Dialogue` that wrote them. ValueError where an answer was cut
    off and its end cannot be told from the text.
    """
    if not np.any(trained):
        return tokens, trained
    start = int(np.argmax(trained))
    at, size = _end(dialogue, tokens[start:].tolist())
    if at < 0 and not ended:
        raise ValueError(
            "an answer did not reach its end, and the chat template does not show what ends a turn"
        )
    if at < 0:
        return tokens, trained
    stop = start + at + size * ended
    return tokens[:stop], trained[:stop]


def _end(dialogue, answer: list) -> tuple[int, int]:
    """(where an answer's turn ends, in how many tokens); (-1, 0) where nothing shows it."""
    text = chat.turn_end(dialogue.template, dialogue.bos, dialogue.eos) if dialogue.template else ""
    ids = dialogue.tokenizer.encode(text).tolist() if text else []
    if len(ids) > 1:
        places = range(len(answer) - len(ids), -1, -1)
        return next(((at, len(ids)) for at in places if answer[at : at + len(ids)] == ids), (-1, 0))
    ends = {dialogue.tokenizer.eos, *ids}
    return next(((at, 1) for at, token in enumerate(answer) if token in ends), (-1, 0))
