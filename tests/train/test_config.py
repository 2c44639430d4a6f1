"""Configs: loading, overriding with types, and every mistake answered in one to three lines."""

import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from models import families
from train.core import arguments, config, errors, fields, validate
from train.data import labelled, prepare

SMALL = dict(vocab=64, context=32, layers=2, width=32, heads=4)


def make(**changes):
    given = dict(model=families.row("gpt2", **SMALL), length=32, batch=8)
    return config.complete(ConfigDict({**given, **changes}))


def set_(*given):
    settings = make()
    arguments.override(settings, given)
    return settings


def unsaid(call, *words) -> list:
    """The words that a call's refusal lacks, each with the refusal, which takes one to three lines."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        call()
    text = errors.message(error.value)
    assert 1 <= len(text.splitlines()) <= 3, text
    return [(word, text) for word in words if word not in text]


def test_shared_fields_have_defaults_and_types():
    settings = make(optim=dict(lr=1))
    assert settings.optim.lr == 1.0 and isinstance(settings.optim.lr, float)
    assert settings.optim.b1 == 0.9 and settings.mesh.data == -1
    assert settings.loop == "lm" and settings.init.checkpoint == ""
    validate.validate(settings)


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        (["--config.seed=3"], "seed", 3),
        (["--config.seed", "3"], "seed", 3),
        (["--config.steps=1e4"], "steps", 10_000),
        (["--config.steps=1_000"], "steps", 1000),
        (["--config.optim.lr=3e-4"], "optim.lr", 3e-4),
        (["--config.optim.lr=1"], "optim.lr", 1.0),
        (["--config.log.wandb"], "log.wandb", True),
        (["--config.log.wandb", "--config.seed=1"], "log.wandb", True),
        (["--config.log.tensorboard=False"], "log.tensorboard", False),
        (["--config.log.tensorboard", "no"], "log.tensorboard", False),
        (["--noconfig.log.tensorboard"], "log.tensorboard", False),
        (["--config.optim.decay="], "optim.decay", ""),
        (["--config.data.tokenizer=bpe:64"], "data.tokenizer", "bpe:64"),
        (["--config.log.profile=(2,5)"], "log.profile", (2, 5)),
        (["--config.log.profile=2,5"], "log.profile", (2, 5)),
        (["--config.phases=(10,16,4)"], "phases", ((10, 16, 4),)),
        (["--config.phases=((10,16,4),(20,32,4))"], "phases", ((10, 16, 4), (20, 32, 4))),
        (["--config.data.mixture=(('a',1),('b',0.5))"], "data.mixture", (("a", 1.0), ("b", 0.5))),
        (["--config.data.heldout=tempest,lear"], "data.heldout", ("tempest", "lear")),
        (["--config.data.heldout="], "data.heldout", ()),
        (["--config.model.pattern=global,local"], "model.pattern", ("global", "local")),
        (["--config.seed=1", "--config.seed=2"], "seed", 2),
        (["--config.mesh.data", "-1"], "mesh.data", -1),
    ],
)
def test_an_override_has_the_field_s_type(given, field, value):
    found = set_(*given)
    for part in field.split("."):
        found = found[part]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("config.seed=1", ["config.seed=1", "did you mean --config.seed=1?"]),
        ("seed=1", ["did you mean --config.seed=1?"]),
        ("-config.optim.lr=1", ["did you mean --config.optim.lr=1?"]),
        ("--seed=1", ["did you mean --config.seed=1?"]),
        ("--cofnig.seed=1", ["--config.seed"]),
        ("--workdri=x", ["--workdir"]),
        ("nonsense", ["nonsense", "--config.NAME=VALUE"]),
        ("--config.sed=1", ["no field config.sed", '"seed"']),
        ("--config.optim.learning_rte=1", ["config.optim.learning_rte"]),
        ("--config.model.num_head=1", ["config.model.num_head", '"head"']),
        ("--config.modle.heads=1", ["config.modle", '"model"']),
        ("--config.lr=1", ["config.optim.lr"]),
        ("--config.seed.x=1", ["config.seed is a value"]),
        ("--config.optim=adamw", ["config.optim is a section", "name"]),
        ("--config.seed", ["no value"]),
        ("--noconfig.seed", ["not a flag"]),
        ("--config.seed=1.5", ["config.seed", "1.5", "whole number"]),
        ("--config.seed=abc", ["abc", "whole number"]),
        ("--config.seed=True", ["whole number"]),
        ("--config.seed=1e400", ["whole number"]),
        ("--config.optim.lr=fast", ["config.optim.lr", "a number"]),
        ("--config.optim.lr=nan", ["a number"]),
        ("--config.log.wandb=maybe", ["true or false"]),
        ("--config.phases=(1,2)", ["config.phases", "(int, int, int)"]),
        ("--config.phases=((1,2,'x'),)", ["'x' (str)", "int"]),
        ("--config.phases=((1,2,3),(1,2))", ["(1, 2)", "(int, int, int)"]),
        ("--config.phases=((1,2,3.5),)", ["3.5 (float)"]),
        ("--config.phases=((1,2", ["config.phases", "tuple"]),
        ("--config.data.mixture=((1,'a'),)", ["1 (int)", "str"]),
        ("--config.log.profile=(1,'x')", ["'x' (str)", "int"]),
        ("--config.data.heldout=(1,)", ["1 (int)", "str"]),
        ("--config.optim.multipliers=__import__('os')", ["tuple"]),
    ],
)
def test_a_mistaken_argument(given, words):
    assert not unsaid(lambda: set_(given), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(loop="lmm"), ["config.loop", '"lm"']),
        (dict(optim=dict(name="adam")), ["config.optim.name", '"adamw"']),
        (dict(optim=dict(schedule="cosin")), ["config.optim.schedule", '"cosine"']),
        (dict(optim=dict(state_dtype="int8")), ["state_dtype", "bfloat16"]),
        (dict(optim=dict(b1=1.0)), ["optim.b1"]),
        (dict(optim=dict(ema=1.5)), ["optim.ema"]),
        (dict(optim=dict(lr=-1.0)), ["optim.lr"]),
        (dict(optim=dict(freeze="(")), ["optim.freeze", "regular expression"]),
        (dict(optim=dict(multipliers=(("[", 1.0),))), ["optim.multipliers", "regular"]),
        (dict(steps=0), ["config.steps is 0"]),
        (dict(steps=5, optim=dict(warmup=6)), ["warmup=6", "steps=5"]),
        (dict(steps=5, optim=dict(schedule="wsd", decay_steps=6)), ["decay_steps=6"]),
        (dict(length=33), ["config.length=33", "config.model.context=32"]),
        (dict(phases=((5, 64, 8),)), ["64", "context=32"]),
        (dict(phases=((5, 8, 8), (5, 8, 8))), ["config.phases", "rising"]),
        (dict(micro=3), ["config.micro=3", "batch=8"]),
        (dict(micro=4, phases=((5, 8, 6),)), ["config.micro=4", "batch=6"]),
        (dict(mesh=dict(data=-1, fsdp=-1)), ["config.mesh", "-1"]),
        (dict(mesh=dict(data=0)), ["config.mesh", "data"]),
        (dict(log=dict(profile=(5,))), ["config.log.profile"]),
        (dict(log=dict(profile=(5, 2))), ["config.log.profile"]),
        (dict(steps=5, log=dict(profile=(5, 8))), ["config.log.profile", "steps=5"]),
        (dict(optim=dict(lr=float("nan"))), ["optim.lr is nan", "finite"]),
        (dict(optim=dict(lr=float("inf"))), ["optim.lr is inf", "finite"]),
        (dict(watchdog=float("inf")), ["watchdog is inf"]),
        (dict(loop="ppo", kl=dict(x=((1.0, float("nan")),))), ["config.kl.x", "finite"]),
        (dict(optim=dict(multipliers=(("embed", -1.0),))), ["multipliers", '"embed"', "0 or more"]),
        (dict(seed=1 << 32), ["config.seed", "less than"]),
        (dict(steps=1 << 31), ["config.steps", "less than"]),
        (dict(best=dict(mode="maximum")), ["config.best.mode", '"max"']),
        (dict(data=dict(verify="sometimes")), ["config.data.verify", "always"]),
        (dict(init=dict(checkpoint="a", reference="b")), ["config.init", "one of them"]),
        (dict(steps=20, optim=dict(warmup=9, decay_steps=9)), ["decay_steps=9", "warmup=9"]),
        (dict(steps=9, optim=dict(schedule="wsd", warmup=5, decay_steps=5)), ["decay_steps=5"]),
    ],
)
def test_fields_that_contradict_each_other(changes, words):
    validate.validate(make())
    assert not unsaid(lambda: validate.validate(make(**changes)), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(model=families.row("gpt2") | dict(heads=5)), ["model.heads=5", "model.width=768"]),
        (dict(model=families.row("gpt2") | dict(hads=5)), ["hads", "heads"]),
        (dict(model=3), ["config.model"]),
        (dict(steps="10"), ["config.steps", "str", "int"]),
        (dict(steps=10.0), ["config.steps", "float"]),
        (dict(seed=None), ["config.seed is None", "cannot be overridden"]),
        (dict(data=dict(heldout=["a"])), ["config.data.heldout", "a tuple"]),
        (dict(loop="ppo", kl=dict(x=[1])), ["config.kl.x", "a tuple"]),
        (dict(loop="ppo", kl=dict(x=(1, "a"))), ["config.kl.x", "one type"]),
        (dict(lenth=5), ["config has no field 'lenth'", '"length"']),
        (dict(data=dict(sorce="web")), ["config.data", "sorce", '"source"']),
        (
            dict(loop="mlm", data=dict(maskin=dict(rate=0.2))),
            ["config.data", "maskin", '"masking"'],
        ),
        (dict(loop="seq2seq", smothing=0.1), ["smothing", '"smoothing"']),
        (dict(loop="vision", data=dict(labeled=0.1)), ["config.data", "labeled", '"labelled"']),
        (dict(loop="classify", data=dict(truncat=True)), ["config.data", "truncat", '"truncate"']),
        (dict(optim=dict(learning_rate=1.0)), ["config.optim", "learning_rate"]),
        (dict(optim=3), ["config.optim", "section"]),
        (dict(log=dict(evry=5)), ["config.log", "evry", '"every"']),
        (dict(eval=dict(batch=5)), ["config.eval", "batch", '"batches"']),
        (dict(init=dict(checkpont="a")), ["config.init", "checkpont", '"checkpoint"']),
        (dict(dist=dict(proceses=2)), ["config.dist", "proceses", '"processes"']),
    ],
)
def test_a_config_file_s_own_mistakes(changes, words):
    assert not unsaid(lambda: make(**changes), *words)


def test_files_and_variants(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\nVARIANTS = ('tiny', 'large')\n"
        "def get_config(variant='tiny'):\n    return ConfigDict(dict(data=dict(source=variant)))\n"
    )
    assert config.load(str(path)).data.source == "tiny"
    assert config.load(f"{path}:large").data.source == "large"
    assert not unsaid(lambda: config.load(f"{path}:larg"), "larg", '"large"', "tiny")
    assert not unsaid(lambda: config.load(str(tmp_path / "mien.py")), "mien.py", '"mine.py"')
    assert not unsaid(lambda: config.load("configs/gpt22.py"), "gpt22.py", '"gpt2.py"')
    monkeypatch.chdir(tmp_path)
    assert config.load("configs/gpt2.py:tiny").model.family == "gpt2"
    path.write_text("def get_config(:\n")
    assert not unsaid(lambda: config.load(str(path)), "mine.py, line 1")
    path.write_text("x = 1\n")
    assert not unsaid(lambda: config.load(str(path)), "get_config")
    path.write_text("def get_config(v=''):\n    return {}\n")
    assert not unsaid(lambda: config.load(str(path)), "dict", "ConfigDict")


def test_every_loop_says_what_it_reads():
    assert set(fields.OWN) == set(validate.loops())
    assert set(fields.OWN["classify"][1]) == set(labelled.FIELDS)
    files = Path(config.__file__).parents[1].glob("**/*.py")
    source = "".join(path.read_text() for path in files if path.stem != "fields")
    for loop, names in fields.OWN.items():
        for name in (*names[0], *names[1]):
            assert re.search(rf'["\.]{name}\b', source), (loop, name)


def test_phases_and_the_rest_of_the_run():
    settings = make(steps=10, phases=((4, 16, 8), (6, 32, 16)))
    assert validate.shapes(settings) == [(0, 16, 8), (4, 32, 16), (6, 32, 8)]
    assert validate.shapes(make(steps=6, phases=((6, 16, 8),))) == [(0, 16, 8)]


def test_names_without_a_near_one_list_what_there_is():
    assert errors.nearest("zzz", ["a", "b"]) == "known: a, b"
    assert errors.nearest("adam", ["adamw"]) == 'did you mean "adamw"?'
    assert "and 3 more" in errors.nearest("?", [str(i) for i in range(15)])


def test_configs_of_pictures_have_every_field_of_data_and_augment():
    settings = config.load("configs/vit.py:tiny")
    given = [
        "--config.data.max_pixels=1e6",
        "--config.augment.scale=(0.1,1)",
        "--config.augment.lighting=0.1",
    ]
    arguments.override(settings, given)
    settings = config.complete(settings)
    assert settings.data.max_pixels == 1_000_000 and settings.augment.scale == (0.1, 1.0)
    assert settings.augment.crop == "shift" and settings.data.crop_share == 1.0, (
        "as the config says"
    )
    assert prepare.Augment.of(settings.augment).lighting == 0.1
    made = config.complete(ConfigDict(dict(loop="mim")))
    assert prepare.Augment.of(made.augment) == prepare.Augment()
    assert "augment" not in make() and "max_pixels" not in make().data
    assert not unsaid(
        lambda: config.complete(ConfigDict(dict(loop="dvae", augment=dict(flip="often")))),
        "config.augment.flip is 'often' (str); expected float",
    )
