"""The benchmark of training compares equal steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from canvit_gym.bench.model import REFERENCE
from canvit_gym.bench.training import OURS, Setting, main, our_update, reference_update


def test_both_trainers_begin_with_the_same_loss() -> None:
    pytest.importorskip("canvit_pytorch")
    setting = Setting(model="mini", batch_size=2, precision="float32")
    ours = float(our_update(setting, device="cpu", compiled=False)())
    theirs = float(reference_update(setting, device="cpu")())
    # Of other weights and viewpoints, but untrained, on targets with mean 0 and variance 1.
    assert ours == pytest.approx(theirs, rel=0.1)
    assert setting.glimpses == 2 * 2 * 2


def test_the_command_prints_and_saves_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("canvit_pytorch")
    out = tmp_path / "training.json"
    main(["--models", "mini", "--batch", "2", "--rounds", "1", "--seconds", "0", "--out", str(out)])
    records = json.loads(out.read_text())["results"]
    assert [record["variant"] for record in records] == [REFERENCE, OURS]
    printed = capsys.readouterr().out
    for record in records:
        assert record["glimpses_per_second"] > 0 and record["variant"] in printed
