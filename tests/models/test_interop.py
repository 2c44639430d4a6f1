"""Reference checkpoints in and out: identity, both spellings, hostile and incomplete files."""

import json
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import families, interop, transformer
from models.build import build, example, shapes
from models.interop import config, describe, hf, rename, tensors
from models.interop.names import TABLES
from models.options import Options
from tests.parity_cases import find

GOLDEN = Path(__file__).parents[1] / "golden" / "parity"
# A bare torch.nn.Transformer is a case for parity, but no reference folder: it names no model_type.
CASES = [
    str(path.relative_to(GOLDEN))
    for path in find(GOLDEN)
    if "model_type" in json.loads((path / "config.json").read_text())
]
SMALL = dict(vocab=31, context=16, layers=2, width=24, heads=4, ff=20)


def parameters(o):
    """Distinct random values in the shape of the options' parameters."""
    rng, tree = np.random.default_rng(0), shapes(o)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)


@pytest.fixture
def folder(tmp_path):
    """A copy of the LLaMA case that a test may damage."""
    shutil.copytree(GOLDEN / "llama/llama3_rope", tmp_path / "case")
    return tmp_path / "case"


@pytest.mark.parametrize("name", CASES)
def test_import_then_export_gives_the_same_bits_and_options(name, tmp_path):
    loaded = interop.load(GOLDEN / name)
    params, extra = loaded.variables["params"], {**loaded.variables}
    del extra["params"]
    interop.export(tmp_path, loaded.options, params, special=loaded.special, extra=extra)
    mine, theirs = (load_file(p / "model.safetensors") for p in (tmp_path, GOLDEN / name))
    assert mine.keys() == theirs.keys()
    assert all(mine[k].tobytes() == theirs[k].tobytes() for k in theirs)
    again = interop.load(tmp_path)
    assert again.options == loaded.options and again.special == loaded.special


@pytest.mark.parametrize("name", CASES)
def test_imported_trees_are_those_of_the_model(name):
    loaded = interop.load(GOLDEN / name)
    got = jax.tree.map(lambda x: (x.shape, str(x.dtype)), loaded.variables["params"])
    assert got == jax.tree.map(lambda x: (x.shape, str(x.dtype)), shapes(loaded.options))


VARIANTS = {
    "gpt1": families.row("gpt1", **SMALL | {"ff": 96}),
    "gpt1-untied": families.row("gpt1", **SMALL | {"ff": 96}, tied=False, act="silu"),
    "gpt2": families.row("gpt2", **SMALL, scale_by_layer=True, score_scale="none", act="gelu"),
    "gpt2-double": families.row(
        "gpt2", **SMALL, head="double", labels=1, score_bias=True, score_act="tanh"
    ),
    "gpt3-global": families.row("gpt3", **SMALL, pattern=("global",)),
    "gpt3-neo": families.row(
        "gpt3", **SMALL, window=3, pattern=("local", "global"), score_scale="none",
        q_bias=False, k_bias=False, v_bias=False,
    ),
    "llama": families.row("llama", **SMALL, kv_heads=2, rope_scaling="linear", rope_factor=2.0),
    "llama-bias": families.row(
        "llama", **SMALL, head_size=10, q_bias=True, k_bias=True, v_bias=True, o_bias=True,
        mlp_bias=True, tied=True,
    ),
    "mistral": families.row("llama", **SMALL, pattern=("local",), window=4, kv_heads=2),
    "moe": families.row("moe", **SMALL, experts=3, kv_heads=1),
    "llama-classify": families.row("llama", **SMALL, head="classify", labels=2),
}  # fmt: skip


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_export_then_import_gives_the_same_parameters(name, scan, tmp_path):
    o = Options.of(VARIANTS[name])
    params = parameters(o)
    given = transformer.stack(params) if scan else params
    interop.export(tmp_path, o.replace(scan=scan), given)
    loaded = interop.load(tmp_path)
    want, got = rename.flatten(params), rename.flatten(loaded.variables["params"])
    assert want.keys() == got.keys()
    assert all(np.array_equal(want[k], got[k]) for k in want)
    assert describe.write(loaded.options) == describe.write(o)


def test_what_the_reference_cannot_express_is_named(tmp_path):
    banded = Options.of(families.row("gpt3", **SMALL))
    with pytest.raises(ValueError, match=r"model\.\w*(bias|score_scale) .*gpt_neo"):
        interop.export(tmp_path / "out", banded, parameters(banded))
    wide = Options.of(families.row("gpt1", **SMALL))
    with pytest.raises(ValueError, match=r"model\.ff = 20 .*openai-gpt"):
        interop.export(tmp_path / "out", wide, parameters(wide))
    assert not (tmp_path / "out").exists()


def test_a_tree_that_is_not_of_the_options_is_refused(tmp_path):
    o = Options.of(VARIANTS["llama"])
    params = parameters(o)
    del params["blocks"]["1"]["mlp"]["gate"]
    with pytest.raises(ValueError, match="blocks/1/mlp/gate/kernel"):
        interop.export(tmp_path, o, params)
    with pytest.raises(ValueError, match="head/kernel"):
        interop.export(tmp_path, o.replace(tied=True), parameters(o))


def test_legacy_and_present_spellings_agree_and_differ_from_no_scaling(folder):
    legacy = tensors.read_json(folder / "config_legacy.json")
    present = tensors.read_json(folder / "config.json")
    assert config.read(legacy) == config.read(present)
    assert config.read(present).rope_scaling == "llama3"
    assert config.read({**present, "rope_parameters": None}) != config.read(present)
    legacy["rope_scaling"]["type"] = legacy["rope_scaling"].pop("rope_type")
    assert config.read(legacy) == config.read(present)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_scaling", {"rope_type": "yarn", "factor": 2.0}),
        ("rope_scaling", {"type": "dynamic", "factor": 2.0}),
        ("hidden_act", "mish"),
        ("quantization_config", {"bits": 4}),
        ("model_type", "gemma"),
        ("architectures", ["LlamaForTokenClassification"]),
        ("num_hidden_layers", "3"),
        ("num_attention_heads", 5.5),
        ("partial_rotary_factor", 0.5),
    ],
)
def test_unsupported_values_are_refused_by_name(folder, field, value):
    given = tensors.read_json(folder / "config.json") | {field: value}
    with pytest.raises(ValueError, match=r"rope_type|" + field):
        config.read(given)


def test_cross_attention_is_refused():
    with pytest.raises(ValueError, match="add_cross_attention"):
        config.read({"model_type": "gpt2", "add_cross_attention": True})


def test_defaults_are_the_reference_librarys():
    o = config.read({"model_type": "gpt2"})
    assert (o.vocab, o.context, o.width, o.layers, o.heads) == (50257, 1024, 768, 12, 12)
    o = config.read({"model_type": "mixtral"})
    assert (o.groups, o.rope_theta, o.experts, o.hidden, o.window) == (8, 1e6, 8, 14336, 0)
    assert config.read({"model_type": "mistral"}).window == 4096


def change(folder, edit):
    arrays = load_file(folder / "model.safetensors")
    edit(arrays)
    save_file(arrays, folder / "model.safetensors")


def test_missing_left_over_and_misshapen_tensors_are_named(folder):
    name = "model.layers.1.mlp.up_proj.weight"
    original = load_file(folder / "model.safetensors")
    change(folder, lambda a: a.pop(name))
    with pytest.raises(ValueError, match=f"lacks '{name}'"):
        interop.load(folder)
    change(folder, lambda a: a.update({name: original[name], "model.extra": np.zeros(2)}))
    with pytest.raises(ValueError, match=r"'model\.extra'"):
        interop.load(folder)
    change(folder, lambda a: (a.pop("model.extra"), a.update({name: original[name].T.copy()})))
    with pytest.raises(ValueError, match=f"'{name}' has shape"):
        interop.load(folder)


def test_buffers_prefixes_shards_and_half_precision(folder, tmp_path):
    want = rename.flatten(interop.load(folder).variables["params"])
    arrays = load_file(folder / "model.safetensors")
    arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    bare = {name.removeprefix("model."): array for name, array in arrays.items()}
    save_file(bare, folder / "model.safetensors")
    got = rename.flatten(interop.load(folder).variables["params"])
    assert all(np.array_equal(want[k], got[k]) for k in want)

    (folder / "model.safetensors").unlink()
    names, where = sorted(arrays), {}
    for i, part in enumerate((names[:7], names[7:])):
        half = {k: arrays[k].astype(ml_dtypes.bfloat16) for k in part}
        save_file(half, folder / f"model-{i}.safetensors")
        where.update(dict.fromkeys(part, f"model-{i}.safetensors"))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    got = rename.flatten(interop.load(folder).variables["params"])
    assert all(got[k].dtype == np.float32 for k in got)
    assert all(
        np.array_equal(want[k].astype(ml_dtypes.bfloat16).astype(np.float32), got[k]) for k in want
    )

    index.write_text(json.dumps({"weight_map": where | {names[0]: "../model-0.safetensors"}}))
    with pytest.raises(ValueError, match=r"\.\./model-0"):
        interop.load(folder)
    index.write_text(json.dumps({"weight_map": where | {"more": "model-1.safetensors"}}))
    with pytest.raises(ValueError, match="'more'"):
        interop.load(folder)

    save_file(arrays, folder / "model.safetensors")  # the reference looks for this one first
    got = rename.flatten(interop.load(folder).variables["params"])
    assert all(np.array_equal(want[k], got[k]) for k in want)


def test_tied_tables_saved_twice_under_the_other_name_or_with_other_values(tmp_path):
    shutil.copytree(GOLDEN / "gpt2/lm", tmp_path / "case")
    case, name = tmp_path / "case", "transformer.wte.weight"
    want = interop.load(case)
    change(case, lambda a: a.update({"lm_head.weight": a[name].copy()}))
    assert interop.load(case).options == want.options
    change(case, lambda a: a.pop(name))
    moved = interop.load(case)
    table = lambda loaded: loaded.variables["params"]["embed"]["tokens"]["embedding"]  # noqa: E731
    assert moved.options.tied and np.array_equal(table(moved), table(want))
    change(case, lambda a: a.update({name: a["lm_head.weight"] + 1}))
    apart = interop.load(case)
    assert not apart.options.tied
    assert np.array_equal(table(apart), table(want) + 1)
    assert np.array_equal(apart.variables["params"]["head"]["kernel"].T, table(want))


def header(entries, data=b""):
    text = json.dumps(entries).encode() if isinstance(entries, dict) else entries
    return len(text).to_bytes(8, "little") + text + data


def entry(start, end, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": shape or [(end - start) // 4], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ((2**63).to_bytes(8, "little") + b"{}", "header"),
        ((2**24 + 1).to_bytes(8, "little") + bytes(2**24 + 9), "header"),
        (b"abc", "header"),
        (header(b"[1, 2]"), "expected an object"),
        (header(b'{"a": {}, "a": {}}'), "twice"),
        (header({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "'b' overlaps"),
        (header({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "'b' leaves a gap"),
        (header({"a": entry(0, 8)}, bytes(4)), "truncated"),
        (header({"a": entry(0, 4)}, bytes(8)), "truncated or altered"),
        (header({"a": entry(0, 8, [2**40, 2**40])}, bytes(8)), "'a'"),
        (header({"a": entry(0, 8, [-2, -1])}, bytes(8)), "'a'"),
        (header({"a": entry(0, 8, [2], "Q99")}, bytes(8)), "'a'"),
        (header({f"t{i}": entry(0, 0) for i in range(tensors.TENSORS + 1)}), "more than 20,000"),
    ],
)  # fmt: skip
def test_hostile_safetensors_are_refused(folder, content, fault):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=fault):
        interop.load(folder)


def test_names_are_never_paths(folder):
    change(folder, lambda a: a.update({"../../evil": np.zeros(1, np.float32)}))
    with pytest.raises(ValueError, match="evil"):
        interop.load(folder)
    assert not list(folder.parent.glob("**/evil*"))


def test_files_that_can_run_code_are_refused_with_a_hint(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"(?s)pytorch_model\.bin.*safetensors"):
        interop.load(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="safetensors"):
        interop.load(folder)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        interop.load(folder / "absent")


def test_tokenizer_special_ids_and_template_travel(tmp_path):
    from tokenizers import Tokenizer, models

    o = Options.of(VARIANTS["llama"])
    vocab = {f"t{i}": i for i in range(31)}
    raw, special = Tokenizer(models.WordLevel(vocab, "t3")), dict(bos=1, eos=2, pad=-1, unk=3)
    interop.export(tmp_path, o, parameters(o), raw, special, "{{ messages }}")
    loaded = interop.load(tmp_path)
    assert loaded.tokenizer.get_vocab() == vocab
    assert loaded.special == special and loaded.chat_template == "{{ messages }}"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        interop.load(tmp_path)


def test_exports_compute_the_same_logits(tmp_path):
    o = Options.of(VARIANTS["mistral"])
    params, batch = parameters(o), example(o, 2, 9)
    interop.export(tmp_path, o, params)
    loaded = interop.load(tmp_path)
    mine = build(o).apply({"params": params}, batch)["logits"]
    theirs = build(loaded.options).apply(loaded.variables, batch)["logits"]
    assert np.array_equal(mine, theirs)


def test_every_table_covers_its_family_exactly():
    """Every parameter of every family's smallest size has exactly one name, and back."""
    for family in families.FAMILIES:
        size = {"efficientnet": "b0"}.get(family, "")  # Lite0 has timm's spelling alone
        o = Options.of(families.row(family, size))
        o = o if o.depths else o.replace(layers=2)
        if family == "gpt3":
            o = o.replace(q_bias=False, k_bias=False, v_bias=False, score_scale="none")
        lines = rename.lines(TABLES[describe.kind(o)], o)
        ours = [path for line in lines if line.collection == "params" for path in line.ours]
        assert len(ours) == len(set(ours))
        assert set(ours) == set(rename.flatten(shapes(o))), family
        assert hf.describe.kind(o)


def test_a_feed_forward_layer_in_chunks_is_the_same_model():
    whole = config.read({"model_type": "bert"})
    assert config.read({"model_type": "bert", "chunk_size_feed_forward": 4}) == whole
