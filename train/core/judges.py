"""Reward models that judge what a policy writes: by its tokens, or by its texts in tokens of their own.

A decoder that has the policy's tokenizer reads the rows as they were written, its prompt's padding on
the left. Any other, such as a BERT with WordPieces, reads rows that are made on the host between the
writing and the scoring, in the one place that is `Reader`, just as `train.reward` made its
comparisons: an encoder's [CLS] prompt [SEP] answer [SEP], a decoder's prompt and answer by its own
template. `config.reward.reads` says of which text:

    pair     the prompt and the answer, as in comparisons that have prompts
    joined   the prompt followed by the answer, as one text without a prompt (VADER's have none)
    answer   the answer alone

A text is never a special token here, whatever it spells. The end that a judge's rows have stands also
behind an answer that did not end; `reward.missing_eos` is for those.
"""

import dataclasses

import numpy as np

from models.options import Options
from train.core import checkpoint, origin, rewards
from train.data import compared, instructions, preferences
from train.data import task as tasks

READS = ("pair", "joined", "answer")


@dataclasses.dataclass(frozen=True)
class Judge:
    """A reward model's options, without dropout; `reader` None where it has the policy's tokens."""

    o: Options
    reader: "Reader | None"


class Reader:
    """Rows that a reward model reads, from prompts and the texts of answers.

    length: how long its training's rows were at most. A longer row loses what stands before its
    last token.
    """

    def __init__(self, o: Options, tokenizer, length: int, reads: str = "pair"):
        self.length, self.reads = length, reads
        self.fill, self.tokenizer = max(tokenizer.pad, 0), tokenizer
        self.encoder = o.kind == "encoder"
        if not self.encoder:
            self.dialogue = instructions.Dialogue(tokenizer, tokenizer.chat_template)

    def __call__(self, asked, texts) -> tuple[dict, np.ndarray]:
        """(tokens, mask and, for an encoder, token types int32 [N,T]; which rows were cut, bool [N]).

        asked: the prompt of each answer (`train.data.prompts.Prompt`). ValueError where messages
        would have to be joined to an answer.
        """
        found = [self._found(prompt.text, text) for prompt, text in zip(asked, texts, strict=True)]
        if self.encoder:
            rows = compared.framed(found, self.tokenizer)
        else:
            rows = compared.written(found, self.dialogue)
        shape = (len(rows), self.length)
        made = {name: np.zeros(shape, np.int32) for name in ("tokens", "mask", "token_types")}
        made["tokens"][:] = self.fill
        cut = np.zeros(len(rows), bool)
        for number, [(tokens, types)] in enumerate(rows):
            cut[number] = len(tokens) > self.length
            kept = [
                np.append(x[: self.length - 1], x[-1]) if cut[number] else x
                for x in (tokens, types)
            ]
            made["tokens"][number, : len(kept[0])] = kept[0]
            made["token_types"][number, : len(kept[0])] = kept[1]
            made["mask"][number, : len(kept[0])] = 1
        if not self.encoder:
            del made["token_types"]
        return made, cut

    def _found(self, prompt, text: str) -> preferences.Comparison:
        """An answer as a comparison of one, which is what the rows of training are made from."""
        if self.reads == "joined" and not isinstance(prompt, str):
            raise ValueError(
                "config.reward.reads='joined' puts a prompt's text before the answer, but a prompt is "
                "messages; use pair or answer"
            )
        before = {"pair": prompt, "joined": "", "answer": ""}[self.reads]
        said = prompt + text if self.reads == "joined" else text
        return preferences.Comparison(before, [said], np.zeros((1, 1), np.float32))


def opened(reward: dict, tokenizer) -> Judge | None:
    """The reward model of the section config.reward; None for a plain function.

    tokenizer: the policy's. ValueError where none is named, or what is named gives no single score.
    """
    if reward["kind"] != "model":
        return None
    if not reward["checkpoint"]:
        raise ValueError(
            "config.reward.kind is 'model', config.reward.checkpoint names none; give a run of "
            f"train.reward, or a plain reward: {', '.join(rewards.PLAIN)}"
        )
    o = origin.quiet(origin.named(reward))
    origin.check_score(o, "config.reward.checkpoint's model")
    own = tasks.of_model(reward, checkpoint.find)
    if o.kind == "decoder" and own.hash == tokenizer.hash:
        return Judge(o, None)
    length = checkpoint.read_config(checkpoint.find(reward["checkpoint"]))["length"]
    return Judge(o, Reader(o, own, length, reward["reads"]))
