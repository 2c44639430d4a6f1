"""`python -m eval`: the same characters for every model, each token once, and clear mistakes."""

import math

import jax
import pytest

from eval import __main__ as command
from models import families
from models.build import build, example
from models.options import Options
from scripts.sample import Source
from train.data import tokenizer as tokenizers

TEXT = "To be, or not to be, that is the question.\n" * 9


def uniform(spec):
    """A model without preferences: every logit is 0, so every token costs log2(V) bits."""
    tokens = tokenizers.named(spec, [TEXT])
    o = Options.of(
        families.row("gpt2", vocab=tokens.vocab, context=32, layers=1, width=16, heads=2)
    )
    variables = jax.tree.map(lambda w: w * 0, build(o).init(jax.random.key(0), example(o)))
    return Source(build(o), variables, tokens, ())


@pytest.mark.parametrize("spec", ["char", "bpe:300"])
def test_bits_per_character_of_a_uniform_model(spec):
    source = uniform(spec)
    tokens = len(source.tokenizer.encode(TEXT))
    found = command.score(source, TEXT, 16)
    assert found["tokens"] == tokens
    expected = tokens * math.log2(source.tokenizer.vocab) / len(TEXT)
    assert abs(found["bits_per_character"] - expected) < 1e-4


def test_a_passage_is_the_beginning_of_a_named_work():
    assert len(command.passage("shakespeare", "tempest", 100)) == 100
    with pytest.raises(ValueError, match='no work "tempist".*tempest'):
        command.passage("shakespeare", "tempist")


def test_a_path_that_is_not_there_is_no_package_to_install():
    with pytest.raises(FileNotFoundError, match="^runs/none does not exist: .* run, .* package"):
        command.main(["perplexity", "--from", "runs/none"])


@pytest.mark.parametrize("family, size", [("bert", "base"), ("t5", "small")])
def test_what_predicts_no_next_token_has_no_perplexity(family, size):
    tokens = tokenizers.named("char", [TEXT])
    small = dict(vocab=tokens.vocab, context=32, layers=1, width=16, heads=2, ff=16)
    o = Options.of(families.row(family, size, **small))
    with pytest.raises(ValueError, match=f"predict the next token; this is an {o.kind}"):
        command.score(Source(build(o), {}, tokens, ()), TEXT)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--characters=-5"], "--characters is -5; expected 0 or more"),
        (["--length=-1"], "--length is -1; expected 0 or more"),
        (["--lenght=5"], "did you mean"),
        (["--work"], "expected one argument"),
    ],
)
def test_a_mistaken_argument_costs_a_line(given, words):
    with pytest.raises(ValueError, match=words):
        command.arguments(["perplexity", "--from=runs/a", *given])
