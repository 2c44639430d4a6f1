"""The report on what runs wrote: scores beside copying, examples, maps, one page."""

import json
import shutil

import pytest
from ml_collections import ConfigDict

from scripts import translations
from tests.train.test_seq2seq import CONFIG
from train import seq2seq
from train.core import provenance
from train.core.config import complete

pytest.importorskip("matplotlib")


def trained(folder, **decode):
    """A run of a few steps, tested on held-out rows."""
    config = complete(ConfigDict(CONFIG))
    config.update(steps=4, average=0, length=24)
    config.data.update(test=("heldout",), heldout=(), prefix="copy: ")
    config.decode.update(decode)
    seq2seq.run(config, folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Tested on twenty rows, in batches."""
    return trained(tmp_path_factory.mktemp("runs") / "toy", test=20)


def test_the_page_has_scores_examples_and_maps(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert (
        translations.main([f"--from={run}", f"--from={run}/.", "--examples=5", f"--out={out}"]) == 0
    )
    said, page = capsys.readouterr().out, out.read_text()
    (copied,) = [line.split() for line in said.splitlines() if line.startswith("the source")]
    assert copied[3] == "100.00" and copied[-1] == "100.00"  # the prefix is not copied
    assert "mean of 2 runs" in said and "± 0.00" in said
    rows = [json.loads(line) for line in (run / seq2seq.WRITTEN).read_text().splitlines()]
    assert len(rows) == 20 and rows[0]["source"].startswith("copy: ")
    shown = translations.spread(rows, 5)
    assert page.count("<tr>") == 1 + 4 + 1 + 1 + 5 and all(
        f"<td>{r['reference']}</td>" in page for r in shown
    )
    assert 1 <= page.count("data:image/png") <= 3


def test_maps_are_of_the_mean_that_wrote_the_texts(run, tmp_path, monkeypatch):
    """A run with config.average has its mean beside it, and that is what is drawn."""
    asked = []
    monkeypatch.setattr(translations, "maps", lambda model, *rest: asked.append(model) or [])
    translations.write([run], tmp_path / "page.html", 2)
    shutil.copytree(run, mean := tmp_path / "mean")
    (mean / "averaged" / "checkpoints").mkdir(parents=True)
    record = json.loads((mean / provenance.NAME).read_text())
    record["config"]["average"] = 2
    (mean / provenance.NAME).write_text(json.dumps(record))
    translations.write([mean], tmp_path / "page.html", 2)
    assert asked == [run, mean / "averaged"]


def test_a_run_that_never_searches_wrote_nothing(tmp_path):
    with pytest.raises(ValueError, match="wrote nothing: config.decode.limit is -1"):
        translations.write([trained(tmp_path / "a", limit=-1)], tmp_path / "page.html", 5)
    assert "test/bleu" not in (tmp_path / "a" / seq2seq.RESULTS).read_text()


def test_examples_are_spread_evenly():
    assert translations.spread(range(100), 4) == [12, 37, 62, 87]
    assert translations.spread(range(3), 20) == [0, 1, 2]


def test_other_references_and_runs_without_texts_are_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no written.jsonl.*config.data.test"):
        translations.written(tmp_path)
    mine = translations.written(run)
    with pytest.raises(ValueError, match="b was tested on other references than a"):
        translations.table({"a": mine, "b": mine[::-1]})
