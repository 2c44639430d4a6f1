"""The parity runner on the committed cases, and that it fails where it must."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import parity
from tests.parity_cases import Case, compare, compare_gradient, find

GOLDEN = Path(__file__).parent / "golden" / "parity"
CASES = [str(path.relative_to(GOLDEN)) for path in find(GOLDEN)]


@pytest.mark.parametrize("name", CASES)
def test_every_line_of_a_committed_case_is_ok(name):
    lines = list(parity.check(GOLDEN / name))
    arrays = 0
    for call in (case := Case(GOLDEN / name)).calls:
        arrays += len(case.outputs(call)) + len(case.grads(call))
    legacy = (GOLDEN / name / "config_legacy.json").exists()
    assert len(lines) == arrays + 1 + legacy
    assert not [str(line) for line in lines if not line.ok]


def test_the_committed_cases_cover_what_we_claim():
    names, calls = set(CASES), {call for name in CASES for call in Case(GOLDEN / name).calls}
    decoders, encoders = {"gpt1", "gpt2", "gpt3", "llama", "moe"}, {"bert", "roberta", "albert"}
    both = {"original", "t5", "bart"}
    pictures = {"vit", "deit", "beit", "swin", "resnet", "efficientnet", "timm"}
    families = decoders | encoders | both | pictures | {"longformer"}
    assert {name.split("/")[0] for name in names} == families
    assert {"greedy", "beam", "beam_late", "leftpad", "nomask", "offset"} <= calls
    assert sum(bool(list((GOLDEN / name).glob("grads.*"))) for name in names) >= 3


@pytest.fixture
def copied(tmp_path):
    """Copies a case, changed by `change(folder)`, under another root; returns the root."""

    def copy(name, change=lambda folder: None):
        folder = tmp_path / "root" / name
        shutil.copytree(GOLDEN / name, folder)
        change(folder)
        return tmp_path / "root"

    return copy


def run(root, *more, capsys):
    code = parity.main([str(root), *more])
    return code, capsys.readouterr().out.splitlines()


def edit(file, **fields):
    def change(folder):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def test_a_wrong_epsilon_fails_and_the_exit_status_says_so(copied, capsys):
    root = copied("gpt1/lm", edit("config.json", layer_norm_epsilon=1e-5))
    code, lines = run(root, capsys=capsys)
    assert code == 1
    assert [line for line in lines if line.startswith("FAIL gpt1/lm main logits")]
    assert "1 cases" in lines[-1] and " 0 failed" not in lines[-1]


def test_a_family_that_we_lack_is_a_failure_for_every_array(copied, capsys):
    root = copied("gpt2/lm", edit("config.json", model_type="switch"))
    code, lines = run(root, capsys=capsys)
    case = Case(root / "gpt2/lm")
    wanted = sum(len(case.outputs(c)) + len(case.grads(c)) for c in case.calls)
    assert code == 1
    assert sum(line.startswith("FAIL") for line in lines) == wanted
    assert "no family for model_type 'switch'" in lines[0]


def test_a_broken_case_does_not_stop_the_others(copied, capsys):
    copied("gpt1/lm")
    root = copied("llama/seqcls", lambda folder: (folder / "model.safetensors").write_bytes(b"x"))
    code, lines = run(root, capsys=capsys)
    assert code == 1
    assert [line for line in lines if line.startswith("ok   gpt1/lm main logits")]
    assert [line for line in lines if line.startswith("FAIL llama/seqcls main logits")]


def test_an_output_that_we_do_not_produce_fails(copied, capsys):
    def change(folder):
        arrays = dict(np.load(folder / "outputs.npz"))
        np.savez(folder / "outputs.npz", **arrays, **{"main/extra": np.zeros(3, np.float32)})

    code, lines = run(copied("gpt1/lm", change), capsys=capsys)
    failed = [line for line in lines if line.startswith("FAIL")]
    assert code == 1 and len(failed) == 1 and "main extra" in failed[0]
    assert "not produced" in failed[0]


def test_tensors_in_half_precision_are_exported_as_they_were_imported(copied, capsys):
    def halve(folder):
        file = folder / "model.safetensors"
        save_file({k: v.astype(ml_dtypes.bfloat16) for k, v in load_file(file).items()}, file)

    _, lines = run(copied("gpt1/lm", halve), capsys=capsys)
    assert [line for line in lines if "export" in line][0].startswith("ok")


def test_only_and_skip_choose_cases_and_the_last_line_tells(copied, capsys):
    copied("gpt1/lm")
    root = copied("llama/seqcls")
    code, lines = run(root, "--only", "gpt1", capsys=capsys)
    assert code == 0 and "1 cases" in lines[-1] and "skipped: none" in lines[-1]
    code, lines = run(root, "--skip", "gpt1/lm", capsys=capsys)
    assert code == 0 and "skipped: gpt1/lm" in lines[-1]
    assert not [line for line in lines[:-1] if "gpt1" in line]
    code, lines = run(root, "--only", "lama", capsys=capsys)
    assert code == 1 and "not found: lama" in lines[-1]


def test_nothing_run_is_not_success(tmp_path, capsys):
    assert run(tmp_path, capsys=capsys)[0] == 1
    assert run(tmp_path / "absent", capsys=capsys)[0] == 2


def test_the_comparison_masks_and_tolerates_as_the_kit_says():
    case = Case(GOLDEN / "gpt1/lm")
    inputs, want = case.inputs("main"), case.outputs("main")["logits"]
    padded = np.argwhere(inputs["attention_mask"] == 0)[0]
    real = np.argwhere(inputs["attention_mask"] == 1)[0]
    moved = want.copy()
    moved[tuple(padded)] += 1.0
    assert compare(case, "main", "logits", want, moved, inputs).ok
    line = compare(case, "main", "logits", want, want, inputs)
    shift = np.zeros_like(want)
    shift[tuple(real)] = 1.2 * line.tolerance
    assert not compare(case, "main", "logits", want, want + shift, inputs).ok
    assert compare(case, "main", "logits", want, want + 0.7 * shift, inputs).ok
    moved[tuple(real)] = np.inf
    assert not compare(case, "main", "logits", want, moved, inputs).ok
    assert not compare(case, "main", "logits", want, want[:, :-1], inputs).ok


def test_integers_must_be_equal():
    case = Case(GOLDEN / "gpt2/lm")
    want = case.outputs("greedy")["sequences"]
    other = want.copy()
    other[0, -1] += 1
    assert compare(case, "greedy", "sequences", want, want, {}).ok
    assert not compare(case, "greedy", "sequences", want, other, {}).ok


def test_small_gradients_are_not_let_pass_unseen():
    case = Case(GOLDEN / "gpt2/lm")
    small = np.full((4, 4), 1e-3)
    assert not compare_gradient(case, "main", "w", small, small * 1.05).ok
    assert compare_gradient(case, "main", "w", small, small * 1.0001).ok
