"""PEFT folders: written and read again, and read as the library itself wrote one."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import families, interop
from models.build import build, shapes
from models.interop import adapters
from models.options import Options
from train.core import forms, lora

SIZE = {"vocab": 40, "context": 16, "layers": 2, "width": 16, "heads": 2, "ff": 32}
HOW = {"rank": 3, "alpha": 6.0, "targets": r"(attn/(q|o)|mlp/up)/kernel$", "whole": r"^score/"}
GOLDEN = Path(__file__).parents[1] / "golden" / "peft_bert"


def options(family="bert", **more):
    return Options.of(
        {**families.row(family, "base"), **SIZE, "head": "classify", "labels": 2, **more}
    )


def drawn(o, seed=0):
    """Parameters of any values, without compiling what makes them."""
    rng = np.random.default_rng(seed)
    flat = {path: x.shape for path, x in forms.flat(shapes(o)).items()}
    return forms.nest({n: rng.normal(0, 0.1, x).astype(np.float32) for n, x in flat.items()})


def trained(o):
    base = drawn(o)
    made = forms.flat(lora.init(jax.random.key(1), base, HOW))
    return forms.nest({path: np.asarray(x) + 0.1 for path, x in made.items()})


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_written_and_read_again(tmp_path, family):
    o = options(family)
    made = trained(o)
    adapters.write(tmp_path, o, made, 3, 6.0, "some/base", drawn(o))
    again, rank, alpha = adapters.read(tmp_path, o)
    assert (rank, alpha) == (3, 6.0)
    before, after = forms.flat(made), forms.flat(again)
    if family == "roberta":  # whose classifier is saved whole
        before |= {name: x for name, x in forms.flat(drawn(o)).items() if name.startswith("pool/")}
    assert before.keys() == after.keys()
    for path, x in before.items():
        np.testing.assert_array_equal(x, after[path])


def test_the_names_are_the_librarys(tmp_path):
    o = options()
    adapters.write(tmp_path, o, trained(o), 3, 6.0)
    found = {name: x.shape for name, x in load_file(tmp_path / "adapter_model.safetensors").items()}
    stem = "base_model.model.bert.encoder.layer.1"
    assert found[f"{stem}.attention.self.query.lora_A.weight"] == (3, 16)
    assert found[f"{stem}.intermediate.dense.lora_B.weight"] == (32, 3)
    assert found["base_model.model.classifier.weight"] == (2, 16)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 3 and config["modules_to_save"] == ["classifier"]
    assert "bert.encoder.layer.0.attention.output.dense" in config["target_modules"]


def test_a_folder_of_the_library_gives_its_scores():
    """`golden/peft_bert`: made by peft 0.21.2 over transformers 5.24, with inputs and logits."""
    held = load_file(GOLDEN / "case.safetensors")
    loaded = interop.load(GOLDEN / "base")
    made, rank, alpha = adapters.read(GOLDEN / "adapter", loaded.options)
    how = {**HOW, "rank": rank, "alpha": alpha}
    params = lora.merge(loaded.variables["params"], made, how)
    batch = {"tokens": held["tokens"].astype(np.int32), "mask": held["mask"].astype(np.int32)}
    with jax.default_matmul_precision("highest"):
        scores = build(loaded.options).apply({"params": params}, batch)["scores"]
    np.testing.assert_allclose(scores, held["logits"], atol=2e-5)
    plain = build(loaded.options).apply(loaded.variables, batch)["scores"]
    assert np.abs(plain - held["logits"]).max() > 1e-2


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("peft_type", "IA3", "no LoRA adapter"),
        ("use_dora", True, "use_dora=True is not supported"),
        ("bias", "lora_only", "bias='lora_only' is not supported"),
        ("rank_pattern", {"query": 4}, "the rank is 4"),
        ("rank_pattern", {"(a+)+": 4}, "rank_pattern=.*expected names of modules"),
        ("alpha_pattern", {"query": True}, "alpha_pattern=.*numbers above 0"),
        ("r", 5, "the rank is 5"),
        ("lora_alpha", 0, "lora_alpha=0; expected .* above 0"),
        ("init_lora_weights", "pissa_niter_4", "belongs to a base whose kernels were changed"),
        ("init_lora_weights", "olora", "converted to plain LoRA"),
        ("alora_invocation_tokens", [3], r"alora_invocation_tokens=\[3\] is not supported"),
        ("a_field_to_come", {"x": 1}, "a_field_to_come=.* is not supported"),
    ],
)
def test_other_adapters_are_refused(tmp_path, field, value, words):
    o = options()
    adapters.write(tmp_path, o, trained(o), 3, 6.0)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match=words):
        adapters.read(tmp_path, o)


@pytest.mark.parametrize("more", [{"init_lora_weights": "orthogonal"}, {"use_dora": False}])
def test_fields_that_change_nothing_are_read(tmp_path, more):
    o = options()
    adapters.write(tmp_path, o, trained(o), 3, 6.0)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more, "arrow_config": None}))
    assert adapters.read(tmp_path, o)[1:] == (3, 6.0)


def test_every_module_has_its_own_scale(tmp_path):
    """alpha / sqrt(r) with use_rslora; ranks and alphas of modules by name, as the library finds them."""
    o, flat = options(), forms.flat(trained(options()))
    stem, rng = "blocks/{}/attn/q/kernel", np.random.default_rng(0)
    for layer, rank in ((0, 3), (1, 5)):
        path = "lora/" + stem.format(layer)
        flat[f"{path}/a"] = rng.normal(0, 1, (16, rank)).astype(np.float32)
        flat[f"{path}/b"] = rng.normal(0, 1, (rank, 16)).astype(np.float32)
    adapters.write(tmp_path, o, forms.nest(flat), 3, 6.0)
    path, base = tmp_path / "adapter_config.json", drawn(o)
    config = json.loads(path.read_text())
    patterns = {"rank_pattern": {"layer.1.attention.self.query": 5}, "alpha_pattern": {"query": 7}}
    for more, scales in (
        (patterns, {0: 7 / 3, 1: 7 / 5}),
        ({**patterns, "use_rslora": True}, {0: 7 / 3**0.5, 1: 7 / 5**0.5}),
    ):
        path.write_text(json.dumps({**config, **more}))
        made, rank, alpha = adapters.read(tmp_path, o)
        found = forms.flat(lora.merge(base, made, {"rank": rank, "alpha": alpha}))
        for layer, scale in scales.items():
            name = stem.format(layer)
            delta = scale * flat[f"lora/{name}/a"] @ flat[f"lora/{name}/b"]
            wanted = forms.flat(base)[name] + delta.reshape(16, 2, 8)
            np.testing.assert_allclose(found[name], wanted, atol=1e-5)


def test_the_reference_saves_a_classifier_whole(tmp_path):
    """RoBERTa's has two layers: the library finds neither where the folder names them apart."""
    o = options("roberta")
    with pytest.raises(
        ValueError, match=r"saves classifier.dense whole.*pool/kernel is not trained"
    ):
        adapters.write(tmp_path, o, trained(o), 3, 6.0)
    assert not list(tmp_path.iterdir())
    adapters.write(tmp_path, o, trained(o), 3, 6.0, under=drawn(o))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["classifier"]
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert all(f"base_model.model.classifier.{n}.bias" in held for n in ("dense", "out_proj"))


def test_embeddings_have_names_of_their_own(tmp_path):
    o = options()
    how = {**HOW, "targets": r"embed/(tokens|types)/embedding$"}
    made = forms.flat(lora.init(jax.random.key(1), drawn(o), how))
    made = forms.nest({path: np.asarray(x) + 0.1 for path, x in made.items()})
    adapters.write(tmp_path, o, made, 3, 6.0)
    held = load_file(tmp_path / "adapter_model.safetensors")
    stem = "base_model.model.bert.embeddings.word_embeddings"
    assert held[f"{stem}.lora_embedding_A"].shape == (3, 40)
    assert held[f"{stem}.lora_embedding_B"].shape == (16, 3)
    again = forms.flat(adapters.read(tmp_path, o)[0])
    for path, x in forms.flat(made).items():
        np.testing.assert_array_equal(again[path], x)
    tied = options(head="masked", labels=0)
    with pytest.raises(ValueError, match="also the kernel of the head"):
        adapters.write(tmp_path, tied, {"lora": made["lora"]}, 3, 6.0)


def test_dropout_that_is_not_ours_is_said(tmp_path, recwarn):
    """A folder trained with dropout in front of its adapters reads the same, with a warning."""
    o = options()
    adapters.write(tmp_path, o, trained(o), 3, 6.0)
    plain = forms.flat(adapters.read(tmp_path, o)[0])
    assert not recwarn
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_dropout": 0.1}))
    with pytest.warns(UserWarning, match="trained with lora_dropout=0.1.* drops none"):
        found = forms.flat(adapters.read(tmp_path, o)[0])
    assert all((found[name] == x).all() for name, x in plain.items())


def test_what_has_no_place_is_named(tmp_path):
    adapters.write(tmp_path, options(layers=3), trained(options(layers=3)), 3, 6.0)
    with pytest.raises(ValueError, match=r"layer\.2\..*no place"):
        adapters.read(tmp_path, options())


def golden(tmp_path, **changes):
    """The library's adapter folder, copied, with other fields in its config."""
    folder = tmp_path / "adapter"
    shutil.copytree(GOLDEN / "adapter", folder)
    path = folder / adapters.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize("place", ["here", "beside"])
def test_a_folder_is_loaded_with_its_base(tmp_path, place):
    """By its path from here or from the folder, which gives what the library computed."""
    shutil.copytree(GOLDEN / "base", tmp_path / "base")
    name = str(tmp_path / "base") if place == "here" else "../base"
    folder = golden(tmp_path, base_model_name_or_path=name)
    loaded = interop.load(folder)
    assert loaded.options == interop.options(folder) and loaded.options.labels == 3
    held = load_file(GOLDEN / "case.safetensors")
    batch = {"tokens": held["tokens"].astype(np.int32), "mask": held["mask"].astype(np.int32)}
    with jax.default_matmul_precision("highest"):
        scores = build(loaded.options).apply(loaded.variables, batch)["scores"]
    np.testing.assert_allclose(scores, held["logits"], atol=2e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_another_head_comes_from_the_folder(tmp_path, family):
    """The base is a language model; the scores and their pooler are the folder's."""
    o = Options.of(
        {**families.row(family, "124m" if family == "gpt2" else "base"), **SIZE, "head": "classify",
         "labels": 5, "score_bias": False}
    )  # fmt: skip
    how = {**HOW, "targets": r"mlp/up/kernel$", "whole": r"^(score|pool)/"}
    under = o.replace(head="lm" if family == "gpt2" else "masked", labels=0)
    params = drawn(under)
    interop.export(tmp_path / "base", under, params)
    whole = drawn(o, 2)
    fresh = {name: x for name, x in whole.items() if name in ("score", "pool")}
    base = {**params, **fresh}
    made = forms.flat(lora.init(jax.random.key(1), base, how))
    made = forms.nest({path: np.asarray(x) + 0.1 for path, x in made.items()})
    adapters.write(tmp_path / "adapter", o, made, 3, 6.0, str(tmp_path / "base"))
    loaded = interop.load(tmp_path / "adapter")
    assert loaded.options.head == "classify" and loaded.options.labels == 5
    wanted = forms.flat(lora.merge({k: base[k] for k in whole}, made, how))
    found = forms.flat(loaded.variables["params"])
    assert found.keys() == wanted.keys()
    for path, x in wanted.items():
        np.testing.assert_allclose(found[path], x, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        (None, ValueError, "base_model_name_or_path=None; expected the folder"),
        ("bert-base-uncased", FileNotFoundError, "adapts 'bert-base-uncased', which is not here"),
        (".", ValueError, "adapts itself"),
    ],
)
def test_a_base_that_is_not_there_is_named(tmp_path, name, kind, words):
    folder = golden(tmp_path, base_model_name_or_path=str(tmp_path / "adapter") if name == "." else name)  # fmt: skip
    with pytest.raises(kind, match=words):
        interop.load(folder)


def test_what_neither_of_them_has_is_named(tmp_path):
    o = options(head="classify", labels=3, vocab=40)
    under = o.replace(head="masked", labels=0)
    params = drawn(under)
    interop.export(tmp_path / "base", under, params)
    folder = golden(tmp_path, base_model_name_or_path="../base")
    with pytest.raises(ValueError, match="neither .* holds 'pool/kernel'"):
        interop.load(folder)


def test_half_an_adapter_and_other_shapes_are_refused(tmp_path):
    o = options()
    adapters.write(tmp_path, o, trained(o), 3, 6.0)
    file = tmp_path / "adapter_model.safetensors"
    held = load_file(file)
    name = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_B.weight"
    save_file({k: x for k, x in held.items() if k != name}, file)
    with pytest.raises(ValueError, match=r"lora_A.weight' without '.*query.lora_B.weight'"):
        adapters.read(tmp_path, o)
    save_file({**held, name: np.zeros((8, 3), np.float32)}, file)
    with pytest.raises(ValueError, match=r"shape \(8, 3\); expected \(16, 3\)"):
        adapters.read(tmp_path, o)
