"""People rank a model's answers, in a page on this machine.

    python -m scripts.label --prompts prompts.jsonl --from runs/sft --labels labels.jsonl
    python -m scripts.label --labels labels.jsonl --export rankings.jsonl
    python -m scripts.label --labels labels.jsonl --pairs pairs.jsonl

Samples `--answers` answers to each prompt once (kept beside the labels, so that a session goes on where
it stopped), serves the page on loopback, and keeps each judgement as it is made. Answers are shown
shuffled and without a name; several people may label, each under a name of their own, and their agreement
is printed with an export. The exports are what `train/reward.py` and `train/preference.py` read; ties are
dropped from pairs. Beyond loopback (`--host`) a `--token` is needed.
"""

import json
import secrets
import sys
from pathlib import Path

from scripts.label import server as label_server
from scripts.label import store as label_store
from train.core.errors import Parser, cleanly


def arguments(argv=None):
    parser = Parser(prog="python -m scripts.label", description=__doc__)
    add = parser.add_argument
    add("--labels", required=True, help="the file of judgements, appended to")
    add("--prompts", help="a table with a column `prompt`")
    add("--from", dest="source", metavar="RUN_OR_FOLDER", help="the model that answers")
    add("--answers", type=int, default=4, help="answers to a prompt, 4 to 9")
    add("--max_new_tokens", type=int, default=64)
    add("--temperature", type=float, default=1.0)
    add("--seed", type=int, default=0)
    add("--chat", action="store_true", help="prompts go through the model's own chat template")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8765)
    add("--token", default="", help="what a browser must know; made up beyond loopback")
    add("--export", metavar="FILE", help="writes rankings and stops")
    add("--pairs", metavar="FILE", help="writes pairs without ties and stops")
    return parser.parse_args(argv)


def beside(labels) -> Path:
    """Where the answers that are judged are kept."""
    return Path(f"{labels}.answers.jsonl")


def sampled(a) -> list:
    """The items to judge: those of an earlier session, or freshly sampled ones, kept on disk.

    ValueError where neither is at hand, a prompt is empty or stands there twice, or all of a prompt's
    answers are the same.
    """
    path = beside(a.labels)
    if path.is_file():
        return label_store.lines(path)
    if not a.prompts or not a.source:
        raise ValueError(f"no answers to judge at {path}; give --prompts and --from to sample some")
    if not label_store.LEAST <= a.answers <= label_store.MOST:
        raise ValueError(
            f"--answers {a.answers}: expected {label_store.LEAST} to {label_store.MOST}"
        )
    from train.data import prompts, tables

    found = prompts.read(tables.read(a.prompts), {"data": {}})
    items = []
    for prompt, texts in zip(found, _written(a, found), strict=True):
        texts = list(dict.fromkeys(text for text in texts if text.strip()))
        if len(texts) > 1:
            name = label_store.identity(prompt.words, texts)
            items.append({"id": name, "prompt": prompt.words, "answers": texts})
    if not items:
        raise ValueError("every prompt got one and the same answer; raise --temperature")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
    return items


def _written(a, found) -> list:
    """The answers' texts, `a.answers` to each prompt."""
    from models import prompts as padding
    from models import streaming
    from models.settings import Settings
    from scripts import sample
    from train.data import chat

    source = sample.load(a.source)
    talk = lambda text: [{"role": "user", "content": text}] if isinstance(text, str) else text
    encode = (
        (lambda p: source.encode_chat(talk(p.text))) if a.chat else lambda p: source.encode(p.words)
    )
    turn, stop = chat.turn_ends(source.tokenizer) if a.chat else ((), ())
    settings = Settings(
        max_new_tokens=a.max_new_tokens, temperature=a.temperature,
        eos=tuple({*source.ends, *turn}), stop=stop, pad=source.tokenizer.pad,
        suppress=source.unused, num_return_sequences=a.answers,
    )  # fmt: skip
    ids = [encode(prompt) for prompt in found]
    tokens, mask = padding.left_pad(ids, settings.fill, sample.MULTIPLE, source.model.o.context)
    seeds = sample.seeds(a.seed, len(ids))
    _, texts = streaming.generate(
        source.model, source.variables, tokens, mask, settings, source.decode, seeds
    )
    return [texts[n : n + a.answers] for n in range(0, len(texts), a.answers)]


def export(a, store):
    """Writes what was asked for, and says how far the labellers agree."""
    records = store.records()
    for path, rows in ((a.export, label_store.rankings), (a.pairs, label_store.pairs)):
        if path:
            made = rows(records)
            Path(path).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in made))
            print(f"{len(made)} rows in {path}")
    found = label_store.agreement(records)
    if found["pairs"]:
        print(
            f"labellers agree on {found['agree']} of {found['pairs']} pairs ({found['share']:.1%})"
        )
    else:
        print("no pair was ordered by two labellers, so that their agreement is not known")


def main(argv=None) -> int:
    a = arguments(argv)
    if a.export or a.pairs:
        if not Path(a.labels).is_file():
            raise FileNotFoundError(f"{a.labels} does not exist; nothing was labelled yet")
        export(a, label_store.Store(a.labels, []))
        return 0
    items = sampled(a)
    if a.host not in label_server.LOOPBACK and not a.token:
        a.token = secrets.token_urlsafe(24)
    server = label_server.serve(label_store.Store(a.labels, items), a.host, a.port, a.token)
    part = f"#{a.token}" if a.token else ""
    print(f"http://{a.host}:{server.server_address[1]}/{part}", flush=True)
    print("Ctrl-C ends the session; every judgement is on disk already", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
