"""Folders of encoder-decoders: what is refused, defaults, and the ways in which old files tie."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import families, interop, positions, sides
from models.interop import config, describe, hf, tensors
from models.options import Options

GOLDEN = Path(__file__).parents[1] / "golden/parity"
STACKS = ("encoder.embed_tokens", "decoder.embed_tokens")


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "t5/tied", tmp_path / "t5"))


def change(folder, edit):
    arrays = load_file(folder / "model.safetensors")
    edit(arrays)
    save_file(arrays, folder / "model.safetensors")


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def test_a_folder_that_is_written_is_read_again(tmp_path):
    for name in ("t5/gated", "t5/encoder", "bart/lm", "bart/seqcls", "original/apart"):
        first = interop.load(GOLDEN / name)
        interop.export(tmp_path / name, first.options, first.variables["params"])
        again = interop.load(tmp_path / name)
        assert same(again.variables, first.variables)
        free = dict(head_bias=first.options.head_bias, pooler=first.options.pooler)
        assert again.options.replace(**free) == first.options, name


def test_old_files_may_hold_the_token_table_several_times(folder):
    first = interop.load(folder)

    def copies(arrays):
        for name in (
            "encoder.embed_tokens.weight",
            "decoder.embed_tokens.weight",
            "lm_head.weight",
        ):
            arrays[name] = arrays["shared.weight"].copy()
        cross = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        arrays[cross] = np.zeros((8, 3), np.float32)

    change(folder, copies)
    again = interop.load(folder)
    assert again.options == first.options and same(again.variables, first.variables)
    change(folder, lambda arrays: [arrays.pop(n) for n in ("shared.weight", "lm_head.weight")])
    assert same(interop.load(folder).variables, first.variables)


def test_a_copy_that_differs_is_refused_and_a_head_that_differs_is_untied(folder):
    def other(arrays):
        arrays["lm_head.weight"] = arrays["shared.weight"] + 1

    change(folder, other)
    loaded = interop.load(folder)
    assert not loaded.options.tied and loaded.options.head_scale
    assert "kernel" in loaded.variables["params"]["head"]

    def wrong(arrays):
        arrays["encoder.embed_tokens.weight"] = arrays["shared.weight"] + 1

    change(folder, wrong)
    with pytest.raises(ValueError, match="encoder.embed_tokens.weight.*shared.weight"):
        interop.load(folder)


def test_an_untied_table_is_written_for_each_stack(tmp_path):
    """tie_word_embeddings = false leaves each stack of the reference's BART with its own table."""
    first = interop.load(GOLDEN / "bart/lm")
    o, params = first.options.replace(tied=False), first.variables["params"]
    table = params["embed"]["tokens"]["embedding"]
    params = {**params, "head": {**params.get("head", {}), "kernel": table.T + 1}}
    interop.export(tmp_path, o, params)
    arrays, names = load_file(tmp_path / "model.safetensors"), ("shared", *STACKS)
    for name in names:
        assert np.array_equal(arrays[f"model.{name}.weight"], table)
    assert not tensors.read_json(tmp_path / "config.json")["tie_word_embeddings"]
    again = interop.load(tmp_path)
    assert not again.options.tied and same(again.variables["params"], params)
    change(tmp_path, lambda arrays: [arrays.pop(f"model.{name}.weight") for name in STACKS])
    assert same(interop.load(tmp_path).variables["params"], params)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("bart", "normalize_before", True),
        ("bart", "static_position_embeddings", True),
        ("bart", "encoder_layerdrop", 0.1),
        ("bart", "activation_function", "mish"),
        ("bart", "architectures", ["BartForCausalLM"]),
        ("bart", "architectures", ["BartForTokenClassification"]),
        ("marian", "add_final_layer_norm", True),
        ("t5", "feed_forward_proj", "gated-relu-gelu"),
        ("t5", "feed_forward_proj", "double-relu"),
        ("t5", "num_heads", "8"),
        ("t5", "architectures", ["T5ForAudio"]),
    ],
)
def test_unsupported_values_are_refused_by_name(kind, field, value):
    with pytest.raises(ValueError, match=field):
        config.read({"model_type": kind, field: value})


def test_defaults_are_the_reference_librarys():
    o = config.read({"model_type": "t5"})
    small = Options.of(families.row("t5", "small"))
    assert o.replace(encoder_layers=0, head_size=0, init_positions=0.02) == small
    o = config.read({"model_type": "bart", "architectures": ["BartForConditionalGeneration"]})
    large = Options.of(families.row("bart", "large"))
    assert o.replace(encoder_layers=0, encoder_heads=0, encoder_ff=0, ff=0) == large
    o = config.read({"model_type": "marian", "d_model": 512})
    assert (o.vocab, o.start, o.positions) == (58101, 58100, "sinusoidal_halves")


@pytest.mark.parametrize(
    ("given", "act", "gated"),
    [
        ("relu", "relu", False),
        ("gelu", "gelu", False),
        ("gated-gelu", "gelu_tanh", True),
        ("gated-silu", "silu", True),
        ("gelu_new", "gelu_tanh", False),
    ],
)
def test_t5_s_feed_forward_by_its_name_and_back(given, act, gated):
    o = config.read({"model_type": "t5", "feed_forward_proj": given})
    assert (o.act, o.gated) == (act, gated)
    written = describe.write(o)
    assert config.read(written) == o and written["feed_forward_proj"] == given


def test_the_head_is_rescaled_as_the_config_says():
    for fields, scaled in (
        ({}, True),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
    ):
        assert config.read({"model_type": "t5", **fields}).head_scale is scaled


def test_a_model_that_the_reference_lacks_is_not_written():
    o = Options.of(families.row("transformer", "base", layers=1, width=16, heads=2, vocab=20))
    with pytest.raises(ValueError, match="sinusoidal.*no such model"):
        describe.write(o)
    bart = Options.of(families.row("bart", "base"))
    with pytest.raises(ValueError, match="model.gated"):
        describe.write(bart.replace(gated=True))


def test_a_depth_that_no_file_holds_is_refused_before_it_is_traced(folder):
    given = tensors.read_json(folder / "config.json") | {"num_layers": 1500}
    with pytest.raises(ValueError, match="1,500 layers|layers"):
        hf.convert(given, tensors.open_folder(folder))
    with pytest.raises(ValueError, match="layers"):
        config.read({"model_type": "bart", "encoder_layers": 30_000})
    assert sides.encoder(config.read({"model_type": "bart"})).layers == 12


def test_positions_that_are_computed_must_be_the_sinusoid_where_a_file_holds_them(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "original/apart", tmp_path / "marian"))
    o = interop.load(folder).options
    table = np.asarray(positions.sinusoid(np.arange(o.context), o.width, True))
    name = "model.decoder.embed_positions.weight"
    change(folder, lambda arrays: arrays.update({name: table.astype(np.float16)}))
    assert interop.load(folder).options == o
    for wrong in (table + 0.01, table[:, ::-1].copy(), table[:, :-1].copy(), table * np.nan):
        change(folder, lambda arrays, wrong=wrong: arrays.update({name: wrong}))
        with pytest.raises(ValueError, match="embed_positions.weight' is not the sinusoid"):
            interop.load(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_mt5_s_head_is_never_rescaled(tied):
    """The reference writes `tie_word_embeddings` true for every mT5 since its version 5."""
    c = config.renamed({"model_type": "mt5", "vocab_size": 40, "tie_word_embeddings": tied})
    assert config.read(c).head_scale is False


@pytest.mark.parametrize(
    "kind, other, case, defaults",
    [
        ("mt5", "t5", "t5/gated", {"feed_forward_proj": "gated-gelu", "vocab_size": 250112}),
        ("xlm-roberta", "roberta", "roberta/base", {"vocab_size": 30522}),
        ("camembert", "roberta", "roberta/seqcls", {}),
    ],
)
def test_model_types_that_are_another_by_name(kind, other, case, defaults, tmp_path):
    folder = Path(shutil.copytree(GOLDEN / case, tmp_path / "model"))
    want, c = interop.load(folder), json.loads((folder / "config.json").read_text())
    assert c["model_type"] == other
    c["model_type"] = kind
    (folder / "config.json").write_text(json.dumps(c))
    got = interop.load(folder)
    assert got.options == want.options and same(got.variables, want.variables)
    assert interop.options(folder) == want.options
    stated = config.renamed({"model_type": kind, "num_layers": 3})
    assert stated["model_type"] == other and stated["num_layers"] == 3
    assert all(stated[field] == value for field, value in defaults.items())
