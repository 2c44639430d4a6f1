"""The page: what stands by hand stays, every part is a valid command, one damaged result is named."""

import json

import pytest

from scripts.bench import __main__ as bench
from scripts.bench import page, suite
from tests.scripts.test_bench_train import result

DEVICE = {"processor": "a CPU, 2 cores", "memory": 2**34, "system": "Linux x", "python": "3.11",
          "versions": {"jax": "0.10.2"}, "date": "2026-01-01"}  # fmt: skip


def test_the_page_keeps_what_is_written_by_hand(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"# Mine\nbefore\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write(path, {"train-12m": result(device=DEVICE)})
    text = path.read_text()
    assert text.startswith("# Mine\nbefore\n") and text.endswith(f"{page.END}\nafter\n")
    assert "old" not in text and "a CPU, 2 cores, 16 GiB" in text and "## train-12m" in text
    assert "| gpt2 12m | 4 x 256 | CPU-s, torch at 1 thread | 2.000 | 1.50 | 2.00 | 40 % |" in text
    page.write(path, {"train-12m": result(device=DEVICE, cores=1)})
    assert "| gpt2 12m | 4 x 256 | CPU-s, 1 core | 2.000 | 1.50 | 2.00 | 40 % |" in path.read_text()
    page.write(path, {"train-12m": result(device=DEVICE)})
    assert path.read_text() == text
    path.write_text("no markers")
    with pytest.raises(ValueError, match="needs the lines"):
        page.write(path, {})


def test_every_part_is_a_command_that_parses():
    for words in suite.PARTS.values():
        command, *rest = words.split()
        parser = bench.Parser()
        suite.MODULES[command].arguments(parser)
        assert parser.parse_args(rest)


def test_parts_are_run_kept_and_resumed(tmp_path, monkeypatch, capsys):
    ran = []

    def part(name, python):
        ran.append(name)
        return result(device=DEVICE)

    monkeypatch.setattr(suite, "part", part)
    where = ["--folder", str(tmp_path / "kept"), "--file", str(tmp_path / "page.md")]
    assert bench.main(["all", "--only", "train-12m", *where]) == 0
    assert bench.main(["all", "--missing", "--only", "train-12m", "train-124m", *where]) == 0
    assert ran == ["train-12m", "train-124m"]
    assert bench.main(["all", "--page", *where]) == 0 and len(ran) == 2
    assert (tmp_path / "page.md").read_text().count("\n## train-1") == 2
    with pytest.raises(SystemExit):
        bench.main(["all", "--only", "train-13m", *where])
    assert 'did you mean "train-1' in capsys.readouterr().err
    (tmp_path / "kept" / "decode.json").write_text("{")
    with pytest.raises(ValueError, match="decode.json is no JSON"):
        suite.results(tmp_path / "kept")


def test_the_list_names_every_part(capsys):
    assert bench.main(["all", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*suite.PARTS]


def test_results_are_json_all_through():
    made = result(device=DEVICE)
    assert json.loads(json.dumps(made)) == made
