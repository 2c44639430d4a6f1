"""The logger: one line a step, also after a resume; views that may be missing; curves."""

import errno
import json
import math
import sys
import threading
import types

import jax
import pytest
from ml_collections import ConfigDict

from train.core import config as configs
from train.core import log, plot


def logger(workdir, steps=10, **changes):
    return log.Logger(workdir, ConfigDict({**configs.DEFAULTS["log"], **changes}), steps)


def lines(workdir, name=log.METRICS):
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    with logger(tmp_path) as out:
        out.metrics(1, {"loss": 2.5, "gradient_norm": math.inf})
        (line,) = lines(tmp_path)
    assert line.pop("time") > 1e9
    assert line == {"step": 1, "loss": 2.5, "gradient_norm": "inf"}
    assert log.read(tmp_path)[0]["gradient_norm"] == math.inf


def test_a_resumed_run_has_each_step_once_and_loses_nothing(tmp_path):
    with logger(tmp_path) as out:
        for step in range(1, 7):
            out.metrics(step, {"loss": float(step)})
        out.metrics(6, {"heldout/loss": 1.0})
    with open(tmp_path / log.METRICS, "a") as file:
        file.write('{"step": 7, "lo')  # killed while writing
    with logger(tmp_path) as out:  # resumed from a checkpoint of step 4
        for step in range(5, 9):
            out.metrics(step, {"loss": step + 0.5})
    rows = log.read(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["loss"] for row in rows] == [1, 2, 3, 4, 5.5, 6.5, 7.5, 8.5]
    moved = (tmp_path / log.REPLACED).read_text().splitlines()
    assert len(moved) == 4 and moved[-1].startswith('{"step": 7')


def test_a_finished_run_that_is_evaluated_again_keeps_its_losses(tmp_path):
    for value in (1.0, 2.0):
        with logger(tmp_path) as out:
            if value == 1.0:
                out.metrics(5, {"loss": 3.0})
            out.metrics(5, {"heldout/loss": value})
            out.metrics(5, {"other/loss": value})
    kept = [{k: v for k, v in row.items() if k != "time"} for row in lines(tmp_path)]
    assert kept == [
        {"step": 5, "loss": 3.0},
        {"step": 5, "heldout/loss": 2.0},
        {"step": 5, "other/loss": 2.0},
    ]


def test_a_torn_last_line_is_left_out_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / log.METRICS
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    assert [row["step"] for row in log.read(tmp_path)] == [1]
    path.write_text('{"step": 1, "loss": 1.0}\nxx\n{"step": 2, "loss": 1.0}\n')
    with pytest.raises(ValueError, match="line 2"):
        log.read(tmp_path)


def test_only_process_zero_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with logger(tmp_path / "run") as out:
        out.metrics(1, {"loss": 1.0})
        out.say("nothing")
    assert not (tmp_path / "run").exists()


def test_plain_lines_without_a_terminal(tmp_path, capsys):
    with logger(tmp_path, steps=1000, tensorboard=False) as out:
        out.metrics(1, {"loss": 2.5})
        out.metrics(10, {"loss": 2.25, "tokens_per_second": 12345.6})
        out.metrics(1000, {"loss": 2.0, "tokens_per_second": 12345.6})
        out.metrics(1000, {"heldout/bits_per_character": 2.5})
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("step 1/1000  loss 2.5000")
    assert len(shown) == 3, "lines within two seconds are not shown, the last one is"
    assert "12,346 tokens/s" in shown[1] and "0:00 left" in shown[1]
    assert shown[2] == "step 1000  heldout/bits_per_character 2.5000"


def test_a_bar_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with logger(tmp_path, steps=100, tensorboard=False) as out:
        out.metrics(1, {"loss": 2.5})
        out.metrics(50, {"loss": 2.25, "tokens_per_second": 999.0})
        out.say("a line [with brackets]")
    shown = capsys.readouterr().err
    assert "50/100" in shown and "loss 2.2500" in shown and "999 tokens/s" in shown
    assert "a line [with brackets]" in shown


def test_tensorboard_files_hold_the_numbers(tmp_path):
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the format's other end)

    with logger(tmp_path) as out:
        out.metrics(3, {"loss": 1.5})
    (path,) = (tmp_path / "tensorboard").glob("events*")
    raw, found, at = path.read_bytes(), {}, 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 8], "little")
        event = event_pb2.Event.FromString(raw[at + 12 : at + 12 + size])
        found |= {v.tag: (event.step, v.simple_value) for v in event.summary.value}
        at += 12 + size + 4
    assert found["loss"] == (3, 1.5)


class Disk:
    """A raw file on a disk that takes `room` bytes and no more."""

    def __init__(self, room):
        self.room, self.held = room, b""

    def write(self, data):
        taken = min(len(data), self.room)
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= taken
        self.held += bytes(data[:taken])
        return taken

    def flush(self):
        pass

    def close(self):
        pass


def test_on_a_full_disk_lines_wait_and_none_is_torn(tmp_path, capsys):
    with logger(tmp_path) as out:
        out.metrics(1, {"loss": 1.0})
        out._file, out._board._file = Disk(10), Disk(10)
        for step in range(2, 300):
            out.metrics(step, {"loss": float(step)})
        assert out._file.held == b'{"step": 2'
        assert capsys.readouterr().err.count("cannot be written") == 1
        out._file.room = 10**6
        out.metrics(300, {"loss": 300.0})
        rows = [json.loads(line) for line in out._file.held.splitlines()]
        assert [row["step"] for row in rows] == list(range(2, 301))
        out._file.room = 0
        out.metrics(301, {"loss": 301.0})
    shown = capsys.readouterr().err
    assert shown.count("cannot be written") == 1, "said again, since there was room between"
    assert "1 lines of metrics.jsonl found no room" in shown


def test_a_view_without_room_costs_the_view_alone(tmp_path, capsys):
    before = threading.active_count()
    with logger(tmp_path) as out:
        out.metrics(1, {"loss": 1.0})
        out._board._file = Disk(0)
        out.metrics(2, {"loss": 2.0})
        assert out._board is None
        out.metrics(3, {"loss": 3.0})
        assert out._board
        assert threading.active_count() == before, "nothing that could die in the background"
    assert [row["step"] for row in log.read(tmp_path)] == [1, 2, 3]
    assert capsys.readouterr().err.count("cannot be written") == 1


def fake_wandb(modes, fails=()):
    def init(mode, **options):
        modes.append(mode)
        if mode in fails:
            raise RuntimeError("no network\nlong story")
        module.options = options
        return module.run

    module = types.ModuleType("wandb")
    module.logged = []
    module.run = types.SimpleNamespace(
        log=lambda row, step: module.logged.append((step, row)), finish=lambda: None
    )
    module.init, module.Settings = init, lambda **_: None
    return module


@pytest.fixture
def no_wandb_account(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def test_wandb_may_be_missing(tmp_path, monkeypatch, capsys, no_wandb_account):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with logger(tmp_path, wandb=True, tensorboard=False) as out:
        out.metrics(1, {"loss": 1.0})
    assert "wandb is not installed" in capsys.readouterr().err
    assert len(log.read(tmp_path)) == 1


@pytest.mark.parametrize("key", [False, True])
def test_wandb_goes_offline_without_key_or_network(
    tmp_path, monkeypatch, capsys, no_wandb_account, key
):
    modes = []
    module = fake_wandb(modes, fails=("online",))
    monkeypatch.setitem(sys.modules, "wandb", module)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", "k")
    (tmp_path / "run.json").write_text('{"config": {"seed": 3}}')
    with logger(tmp_path, wandb=True, tensorboard=False) as out:
        out.metrics(1, {"loss": 1.0})
    assert modes == (["online", "offline"] if key else ["offline"])
    assert module.logged == [(1, {"loss": 1.0})] and module.options["config"] == {"seed": 3}
    assert "wandb is offline" in capsys.readouterr().err


def test_curves(tmp_path):
    with logger(tmp_path, steps=300, tensorboard=False) as out:
        for step in range(1, 301):
            out.metrics(step, {"loss": 1 + 3 / step, "learning_rate": 1e-3 * (1 - step / 300)})
            if step % 100 == 0:
                out.metrics(step, {"heldout/loss": 1.5, "heldout/bits_per_character": math.nan})
    path = plot.curves(tmp_path)
    assert path.name == "curves.png" and path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000
    assert plot.series(log.read(tmp_path), "heldout/bits_per_character").shape == (0, 2)


def test_curves_without_matplotlib_or_losses_say_so(tmp_path, monkeypatch):
    (tmp_path / log.METRICS).write_text('{"step": 1, "other": 1.0}\n')
    with pytest.raises(ValueError, match="no losses"):
        plot.curves(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ValueError, match="plots"):
        plot.curves(tmp_path)


def test_smoothing_keeps_a_line_and_its_length():
    values = plot.np.linspace(0, 1, 501)
    plot.np.testing.assert_allclose(plot.smooth(values), values, atol=1e-12)
    assert len(plot.smooth(plot.np.ones(3))) == 3
