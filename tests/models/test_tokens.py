"""models.interop.tokens: what a written tokenizer adds by itself is what our loops add."""

import json

import jax
import numpy as np
import pytest
import tokenizers

from models import families, interop
from models.build import build, example
from models.interop.tokens import ROLES
from models.options import Options
from tests.models import tiny
from tests.models.test_interop import parameters
from train.data import tokenizer as ours
from train.data.sentences import Frame

TEXT = "the cat sat on the mat and the dog lay by the door " * 8
SMALL = dict(context=16, layers=1, width=8, heads=2, ff=8)
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "</s>", "<unk>", "<pad>", "<mask>")


def trained(specials=BERT, kind="bpe"):
    by_name = dict(zip(("pad", "unk", "cls", "sep", "mask"), BERT, strict=True))
    if specials is ROBERTA:
        by_name = dict(zip(("cls", "sep", "unk", "pad", "mask"), ROBERTA, strict=True))
    if len(specials) == 1:
        return ours.train(kind, [TEXT], 300, specials)
    return ours.train(kind, [TEXT], 300, specials, **by_name)


def special(tokens):
    return {role: getattr(tokens, role) for role in ROLES}


def written(family, size, tokens, folder, **more):
    o = Options.of(families.row(family, size, vocab=tokens.vocab, **{**SMALL, **more}))
    before = tokens.raw.to_str()
    interop.export(folder, o, parameters(o), tokens.raw, special(tokens))
    assert tokens.raw.to_str() == before  # what is written is a copy
    side = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), side


@pytest.mark.parametrize("specials, family", [(BERT, "bert"), (ROBERTA, "roberta")])
def test_an_encoders_texts_stand_between_its_special_tokens(specials, family, tmp_path):
    tokens = trained(specials)
    pad = {"position_pad": tokens.pad} if family == "roberta" else {}
    raw, side = written(family, "base", tokens, tmp_path, **pad)
    frame = Frame.of(tokens)
    first, second = tokens.encode_batch(["the cat", "a dog"], special=False)
    assert raw.encode("the cat").ids == frame.join(first)[0].tolist()
    pair, (ids, types) = raw.encode("the cat", "a dog"), frame.join(first, second)
    assert pair.ids == ids.tolist() and pair.type_ids == types.tolist()
    for role in ("cls", "sep", "pad", "unk", "mask"):
        assert side[f"{role}_token"] == tokens.raw.id_to_token(getattr(tokens, role))
    named = side["model_input_names"]
    assert ("token_type_ids" in named) == (family == "bert") and "attention_mask" in named
    assert interop.load(tmp_path).special == special(tokens)


@pytest.mark.parametrize("family, size", [("t5", "small"), ("bart", "base")])
def test_an_encoder_decoders_texts_end(family, size, tmp_path):
    tokens = trained((ours.END,))
    raw, side = written(family, size, tokens, tmp_path)
    ids = tokens.encode("the cat", special=False).tolist()
    assert raw.encode("the cat").ids == [*ids, tokens.eos]
    end = dict.fromkeys(("bos", "eos", "pad"), tokens.eos)
    assert interop.load(tmp_path).special == {**end, "unk": -1}
    c = json.loads((tmp_path / "config.json").read_text())
    assert side["pad_token"] == side["eos_token"] and c["pad_token_id"] == tokens.eos
    assert "token_type_ids" not in side["model_input_names"]


def test_a_decoders_texts_get_nothing(tmp_path):
    tokens = trained((ours.END,))
    raw, side = written("gpt2", "124m", tokens, tmp_path)
    assert raw.encode("the cat").ids == tokens.encode("the cat").tolist()
    assert "pad_token" not in side


def test_a_tokenizer_with_rules_of_its_own_keeps_them(tmp_path):
    tokens = trained()
    own = tokenizers.processors.TemplateProcessing(
        single=["[SEP]", "$A"], pair=["[SEP]", "$A", "$B"], special_tokens=[("[SEP]", tokens.sep)]
    )
    tokens.raw.post_processor = own
    raw, _ = written("bert", "base", tokens, tmp_path)
    assert raw.encode("the cat").ids == tokens.raw.encode("the cat").ids
    assert raw.encode("").ids == [tokens.sep]


def test_what_a_tokenizer_does_to_texts_stays_beneath_the_frame(tmp_path):
    """Byte-level's own processor, which adds no token, is kept in front of ours."""
    tokens = trained(ROBERTA)
    tokens.raw.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    raw, _ = written("roberta", "base", tokens, tmp_path, position_pad=tokens.pad)
    made = raw.encode(" the cat")
    assert made.ids[0] == tokens.cls and made.ids[-1] == tokens.sep
    assert made.offsets[1:-1] == tokens.raw.encode(" the cat").offsets
    assert raw.post_processor.__class__.__name__ == "Sequence"


@pytest.mark.parametrize("pad, offset", [(9, 2), (9, 10), (1, 7)])
def test_positions_that_begin_elsewhere_are_moved_behind_the_padding(pad, offset, tmp_path):
    """The reference's RoBERTa finds the first position by the padding's id; ours need not."""
    more = dict(vocab=20, position_pad=pad, position_offset=offset, head="masked")
    o = Options.of(families.row("roberta", "base", **{**SMALL, **more}))
    variables = jax.jit(build(o).init)(jax.random.key(0), example(o))
    interop.export(tmp_path, o, variables["params"])
    loaded = interop.load(tmp_path)
    assert loaded.options.position_offset == pad + 1 and loaded.options.context == o.context
    batch = {"tokens": np.asarray([[11, 12, pad, 13, pad], [pad, 14, 15, 16, 17]], np.int32)}
    batch["mask"] = (batch["tokens"] != pad).astype(np.int32)
    want = np.asarray(build(o).apply(variables, batch)["logits"])
    got = np.asarray(build(loaded.options).apply(loaded.variables, batch)["logits"])
    assert tiny.close(got[batch["mask"] > 0], want[batch["mask"] > 0])
    c = json.loads((tmp_path / "config.json").read_text())
    assert c["max_position_embeddings"] == o.context + pad + 1 and c["pad_token_id"] == pad


def test_longformer_is_told_its_separator(tmp_path):
    tokens = trained(ROBERTA)
    written("longformer", "base", tokens, tmp_path, position_pad=tokens.pad, windows=(4,))
    assert json.loads((tmp_path / "config.json").read_text())["sep_token_id"] == tokens.sep
