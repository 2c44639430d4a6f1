"""The command: mistakes, --print_config, --check, the cache, clusters, dispatch to a loop."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from train import __main__ as command
from train.core import check, errors, launch
from train.data import tokenizer

ROOT = Path(__file__).resolve().parents[2]


def call(capsys, *argv):
    """(exit status, stdout, stderr) of the command, in this process."""
    try:
        status = errors.cleanly(command.main)(list(argv))
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "no config"),
        (["--config"], "--config has no value"),
        (["--config=configs/gpt22.py", "--workdir=x"], "gpt22"),
        (["--config=configs/gpt2.py:125m", "--workdir=x"], "124m"),
        (["--config=configs/gpt2.py"], "--workdir"),
        (["--config=configs/gpt2.py", "config.seed=1"], "--config.seed=1"),
        (["--config=configs/gpt2.py", "--config.model.heads=3"], "model.heads=3"),
        (["--config=configs/gpt2.py", "--config.model.norm=rmss"], "model.norm"),
        (["--config=configs/gpt2.py", "--config.length=4096"], "config.model.context=128"),
        (["--config=configs/gpt2.py", "--check=maybe"], "--check=maybe"),
        (["--config=configs/gpt2.py", "--config.mesh.data=3000", "--workdir=x"], "3000 devices"),
        (
            ["--config=configs/gpt2.py", "--config.mesh.fsdp=2", "--config.mesh.data=1"]
            + ["--config.batch=7", "--workdir=x"],
            "config.batch=7",
        ),
        (["--config=configs/gpt2.py", "--config.dist.coordinator=x", "--workdir=x"], "host:port"),
    ],
)
def test_mistakes_cost_a_few_lines_and_status_2(capsys, monkeypatch, tmp_path, argv, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, *argv)
    assert status == 2 and out == ""
    assert err.startswith("error: ") and words in err
    assert 1 <= len(err.splitlines()) <= 3


def test_a_workdir_that_is_a_file(capsys, tmp_path):
    path = tmp_path / "file"
    path.touch()
    for place in (path, path / "inside"):
        status, _, err = call(capsys, "--config=configs/gpt2.py", f"--workdir={place}")
        assert status == 2 and "file" in err


def test_as_a_process_without_touching_jax(tmp_path):
    """The answer to a mistake comes before jax is imported: a broken jax must not matter."""
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "train", "--config=configs/gpt2.py", "config.seed=1"],
        capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        'error: argument "config.seed=1" is not an option; did you mean --config.seed=1?\n'
    )


def test_print_config_is_the_resolved_config(capsys):
    status, out, _ = call(
        capsys, "--config=configs/gpt2.py:124m", "--config.optim.lr=1e-5", "--print_config"
    )
    assert status == 0
    lines = out.splitlines()
    assert "config.optim.lr = 1e-05" in lines and "config.model.layers = 12" in lines
    assert "config.mesh.data = -1" in lines and "config.model.pattern = ('global',)" in lines


def test_help_names_every_option(capsys):
    status, out, _ = call(capsys, "--help")
    assert status == 0
    assert all(word in out for word in ("--config", "--workdir", "--print_config", "--check"))


@pytest.fixture
def loop(monkeypatch):
    """A loop that only notes how it was called."""
    calls = []
    module = types.SimpleNamespace(
        run=lambda config, workdir: (
            calls.append((config.seed, workdir)) or types.SimpleNamespace(stopped=False)
        )
    )
    monkeypatch.setattr(launch, "loop", lambda name: module)
    monkeypatch.setattr(launch, "prepare", lambda config: None)
    return calls


def test_it_dispatches_and_says_where_everything_is(capsys, loop, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    status, out, err = call(
        capsys, "--config=configs/gpt2.py", "--config.seed=7", "--workdir", str(tmp_path)
    )
    assert status == 0 and loop == [(7, tmp_path)]
    assert f"metrics      {tmp_path / 'metrics.jsonl'}" in out and "curves" not in out
    assert "cpu" in out


def test_another_config_in_the_same_workdir_is_said(capsys, loop, tmp_path):
    from train.core import config, provenance

    settings = config.load("configs/gpt2.py:tiny")
    provenance.write(tmp_path, provenance.record(settings))
    argv = ["--config=configs/gpt2.py", f"--workdir={tmp_path}"]
    assert "note" not in call(capsys, *argv)[1]
    out = call(capsys, *argv, "--config.optim.lr=0.5")[1]
    assert "note: config.optim.lr was 0.003 in this workdir and is 0.5" in out


def test_loops_are_found_by_name():
    assert launch.loop("lm").run and launch.loop("lm").check
    with pytest.raises(ValueError, match='did you mean "lm"'):
        launch.loop("lmm")
    with pytest.raises(ValueError, match="config.loop"):
        launch.loop("__main__")


def test_the_cache_is_the_user_s_or_where_they_say():
    assert launch.cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/formulary/xla")
    assert launch.cache_folder({}) == Path.home() / ".cache/formulary/xla"
    given = {"JAX_COMPILATION_CACHE_DIR": "/mine", "XDG_CACHE_HOME": "/c"}
    assert launch.cache_folder(given) == Path("/mine")


PATIENCE = dict(heartbeat_timeout_seconds=60, shutdown_timeout_seconds=60)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, None),  # a batch script, not under srun
        (dict(SLURM_JOB_ID="1", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_STEP_NODELIST="a",
              SLURM_NTASKS="8"), PATIENCE),
        (dict(SLURM_JOB_ID="1", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_STEP_NODELIST="a",
              SLURM_NTASKS="1"), None),
        ({"OMPI_MCA_orte_hnp_uri": "x", "OMPI_COMM_WORLD_SIZE": "2"}, PATIENCE),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, PATIENCE),
    ],
)  # fmt: skip
def test_a_cluster_is_joined_only_where_there_is_one(environ, found):
    assert launch.cluster({}, environ) == found


def test_a_named_coordinator_listens_on_its_own_address():
    dist = dict(coordinator="127.0.0.1:1234", processes=2, process=0)
    assert launch.cluster(dist, {}) == dict(
        coordinator_address="127.0.0.1:1234", num_processes=2, process_id=0,
        coordinator_bind_address="127.0.0.1:1234", **PATIENCE,
    )  # fmt: skip
    assert launch.cluster(dist | dict(process=1), {})["coordinator_bind_address"] is None
    for wrong in (dict(process=2), dict(processes=0), dict(coordinator="localhost")):
        with pytest.raises(ValueError, match="config.dist"):
            launch.cluster(dist | wrong, {})


def test_a_launcher_s_variables_say_what_the_config_may():
    told = {launch.DIST["coordinator"]: "127.0.0.1:9", launch.DIST["processes"]: "2"}
    told |= {launch.DIST["process"]: "1", launch.DIST["heartbeat"]: "7"}
    found = launch.cluster(dict(heartbeat=60), told)
    assert found["num_processes"] == 2 and found["process_id"] == 1
    assert found["heartbeat_timeout_seconds"] == 7
    with pytest.raises(ValueError, match="FORMULARY_PROCESSES is 'two'; expected a number"):
        launch.cluster({}, told | {launch.DIST["processes"]: "two"})


def test_why_one_of_several_processes_leaves():
    assert launch.leaving(ValueError("a mistake")) == ("error: a mistake", 2)
    said, status = launch.leaving(RuntimeError("FAILED: Gloo all-reduce: Connection reset by peer"))
    assert status == launch.LOST == 75 and len(said.splitlines()) == 2 and "is gone" in said
    assert launch.leaving(TypeError("a bug"))[1] == 1


def test_check_says_what_a_run_needs_without_training(capsys, monkeypatch, tmp_path):
    argv = ["--config=configs/gpt2.py:tiny", "--check", f"--workdir={tmp_path / 'run'}"]
    argv += ["--config.data.tokenizer=byte", "--config.model.layers=1", "--config.batch=8"]
    monkeypatch.setattr(launch, "prepare", lambda config: None)
    status, out, _ = call(capsys, *argv)
    assert status == 0
    assert "parameters   345,984 in 20 arrays" in out
    assert "tokens [8, 128] int32" in out and "first row begins: '" in out
    assert "params                       1.3 MiB" in out and "opt_state" in out
    assert "activations (compiled)" in out and "GiB available" in out
    assert "a checkpoint, 2 at most" in out
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(check, "memory_limit", lambda: 1 << 20)
    status, out, _ = call(capsys, *argv)
    assert status == 1 and "of 1.0 MiB available: NOT ENOUGH" in out


def test_a_first_row_with_ids_beyond_the_tokenizer_is_shown():
    """T5's sentinels and BART's mask follow the vocabulary."""
    known = tokenizer.named("byte")
    assets = lambda folder: known.save(folder / "tokenizer")
    row = np.asarray([[*b"To ", known.vocab + 99, *b" not to", known.vocab]])
    text = check.beginning({"tokens": row}, types.SimpleNamespace(assets=assets))
    assert text == f"To <{known.vocab + 99}> not to<{known.vocab}>"


def test_the_compiled_estimate_grows_with_the_batch():
    from train.core import config
    from train.lm import check as build

    sizes = []
    for batch in (8, 32):
        settings = config.load("configs/gpt2.py:tiny")
        settings.update(batch=batch, length=64)
        settings.model.update(width=64, vocab=260)
        settings.data.tokenizer, settings.model.layers = "byte", 1
        planned, rows = build(settings)
        sizes.append(check.temporaries(settings, planned, rows))
        shapes = {name: np.shape(x) for name, x in rows.items()}
        assert shapes["tokens"] == (batch, 64)
    assert sizes[1] > 2 * sizes[0] > 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(12, "12 B"), (2048, "2.0 KiB"), (3 << 30, "3.0 GiB"), (5 << 50, "5,120.0 TiB")],
)
def test_sizes_are_readable(size, text):
    assert check.human(size) == text


def test_host_memory_is_plausible():
    assert 1 << 26 < check.host_memory() < 1 << 46


class TestCleanly:
    """What an entry point answers to whom."""

    def run(self, capsys, error):
        def main():
            raise error

        with pytest.raises(SystemExit) as stop:
            errors.cleanly(main)()
        return stop.value.code, capsys.readouterr().err

    def test_messages(self, capsys):
        assert self.run(capsys, ValueError("bad\nline two")) == (2, "error: bad\nline two\n")
        assert self.run(capsys, KeyError("no field x")) == (2, "error: no field x\n")
        status, err = self.run(capsys, FileNotFoundError(2, "No such file or directory", "a/b"))
        assert (status, err) == (2, "error: 'a/b': no such file or directory\n")
        long = self.run(capsys, ValueError("\n".join(["x" * 900] * 9)))[1]
        assert len(long.splitlines()) == 3 and len(long) < 1300

    def test_bugs_keep_their_traceback(self):
        def bare_key():
            return {}["missing"]

        def library():
            return np.zeros(3).reshape(2, 2)

        def inside_jax():
            import jax.numpy as jnp

            return jnp.zeros(3).reshape(2, 2)

        def where_jax_hides_its_frames():
            import jax.numpy as jnp
            from jax.sharding import AxisType

            both = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
            alone = jax.device_put(jnp.ones((4, 4)), jax.devices()[0])
            with jax.set_mesh(both):
                jax.jit(jnp.matmul)(alone, alone)

        with pytest.raises(ValueError, match="incompatible devices"):
            errors.cleanly(where_jax_hides_its_frames)()
        with pytest.raises(KeyError):
            errors.cleanly(bare_key)()
        with pytest.raises((ValueError, TypeError)):
            errors.cleanly(inside_jax)()
        with pytest.raises(TypeError):
            errors.cleanly(lambda: len(3))()
        with pytest.raises(SystemExit):
            errors.cleanly(lambda: json.loads("{"))()  # a user's file, as far as anyone can tell

    def test_a_mistake_found_while_tracing_is_the_users(self, capsys):
        def main():
            def traced(x):
                raise ValueError(
                    f"a sequence of {x.shape[0]} tokens is too long",
                )

            jax.jit(traced)(np.zeros(3))

        with pytest.raises(SystemExit):
            errors.cleanly(main)()
        assert capsys.readouterr().err == "error: a sequence of 3 tokens is too long\n"

    def test_the_debug_variable_shows_it(self, monkeypatch):
        monkeypatch.setenv(errors.DEBUG, "1")

        def main():
            raise ValueError("x")

        with pytest.raises(ValueError, match="x"):
            errors.cleanly(main)()

    def test_interruption(self, capsys):
        def main():
            raise KeyboardInterrupt

        with pytest.raises(SystemExit) as stop:
            errors.cleanly(main)()
        assert stop.value.code == 130 and capsys.readouterr().err == "interrupted\n"

    def test_a_result_passes(self):
        assert errors.cleanly(lambda x: x + 1)(2) == 3
