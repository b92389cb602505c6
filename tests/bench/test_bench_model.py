"""The benchmark says what it should about each variant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from canvit_gym.bench import model as bench
from canvit_gym.bench.model import FROZEN, PLAIN, REFERENCE, take_turns
from canvit_gym.model.canvit import CanViT


def test_turns_alternate() -> None:
    now, order = [0.0], []

    def work(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    seconds = take_turns(
        {"slow": lambda: work("slow", 2.0), "fast": lambda: work("fast", 1.0)},
        rounds=2,
        block_seconds=2.0,
        clock=lambda: now[0],
    )
    assert seconds == {"slow": [2.0, 2.0], "fast": [1.0, 1.0]}
    warm_up, block = ["slow", "slow", "fast", "fast"], ["slow", "fast", "fast"]
    assert order == warm_up + block + block


@pytest.fixture(autouse=True)
def small_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_MATRIX_SIDE", 64)


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "bench.json"
    bench.main(
        ["--models", "mini", "--canvas", "3", "--batch", "2", "--rounds", "3", "--seconds", "0",
         "--out", str(out), *arguments]
    )  # fmt: skip
    return json.loads(out.read_text())


def test_command_compares_with_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("canvit_pytorch")
    figures = run(tmp_path)
    assert figures["threads"] >= 1 and figures["cpu"] and figures["torch"]
    assert [record["variant"] for record in figures["results"]] == [REFERENCE, PLAIN, FROZEN]
    printed = capsys.readouterr().out
    for record in figures["results"]:
        assert (record["model"], record["canvas_grid"], record["batch_size"]) == ("mini", 3, 2)
        assert record["glimpses_per_second"] > 0 and record["share_of_limit"] > 0
        assert record["difference"] < 1e-5
        assert len(record["seconds"]) == 3
        assert f"{record['glimpses_per_second']:.2f}" in printed
    assert figures["results"][0]["ratio"] == 1


def test_command_without_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "reference_version", lambda: None)
    figures = run(tmp_path, "--precision", "bfloat16")
    assert [record["variant"] for record in figures["results"]] == [PLAIN, FROZEN]
    assert "ratios are to our plain core" in capsys.readouterr().out


def test_compiled_variants_join_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[type] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **kwargs: compiled.append(type(self))
    )
    monkeypatch.setattr(bench, "reference_version", lambda: None)
    figures = run(tmp_path, "--compile")
    variants = [record["variant"] for record in figures["results"]]
    assert variants == [PLAIN, FROZEN, "plain compiled"] and compiled == [CanViT]


def test_the_table_has_a_line_for_each_setting() -> None:
    def record(batch_size: int, variant: str, rate: float) -> dict[str, Any]:
        setting = {"model": "mini", "canvas_grid": 8, "batch_size": batch_size}
        comparison = {"ratio": rate / 100, "share_of_limit": rate / 1000}
        return setting | {"variant": variant, "glimpses_per_second": rate} | comparison

    rates = {REFERENCE: 100, "canvit-pytorch compiled": 110, PLAIN: 90, FROZEN: 150}
    figures = {
        "cpu": "a CPU", "gpu": None, "threads": 2, "precision": "float32", "torch": "2.9",
        "memory": {PLAIN: 300.4, FROZEN: 200.6}, "kinds": {"softmax": 0.25, "rest": 0.754},
        "results": [record(b, v, b * rate) for b in (1, 3) for v, rate in rates.items()],
    }  # fmt: skip
    assert bench.format_table(figures).splitlines() == [
        "a CPU, 2 threads, float32, torch 2.9: glimpses/s of one forward",
        "ratio: frozen to canvit-pytorch; of limit: frozen's share of one large matrix product's "
        "rate",
        "                                         canvit-pytorch",
        "model     canvas  batch  canvit-pytorch        compiled     plain    frozen  ratio  "
        "of limit",
        "mini           8      1           100.0           110.0      90.0     150.0   1.50  "
        "     15%",
        "mini           8      3           300.0           330.0     270.0     450.0   4.50  "
        "     45%",
        "",
        "a frozen forward of CanViT-B, canvas 32, batch 8: softmax 25%, rest 75%",
        "",
        "peak memory at CanViT-B, canvas 64, batch 8: plain 300 MiB, frozen 201 MiB",
    ]


def test_processor_time_needs_one_thread(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--clock", "cpu", "--threads", "2"])
    assert "give --threads 1" in capsys.readouterr().err


def test_time_is_told_apart_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    shares = bench.time_by_kind(bench.Setting(model="mini", canvas_grid=8, batch_size=16))
    assert sum(shares.values()) == pytest.approx(1) and shares.keys() == {*bench.KINDS, "rest"}
    # How large each is depends on the machine; torch may fuse a kind into another.
    assert all(share >= 0 for share in shares.values()) and shares["rest"] < 1
    assert shares["linear layers"] > 0 and shares["LayerNorms"] > 0
    with pytest.raises(SystemExit):
        bench.main(["--kinds", "--device", "cuda"])
    assert "give --device cpu" in capsys.readouterr().err


@pytest.mark.slow
def test_peak_memory_is_that_of_a_fresh_process() -> None:
    """It grows by a canvas at least, and what other processes held does not count."""
    small = bench.Setting(model="mini", canvas_grid=3, batch_size=2)
    large = bench.Setting(model="mini", canvas_grid=64, batch_size=32)
    canvas_mib = 4 * small.config.canvas_dim * (32 * 64**2 - 2 * 3**2) / 2**20
    first = bench._peak_in_fresh_process(small, FROZEN)
    grown = bench._peak_in_fresh_process(large, FROZEN) - first
    assert grown > canvas_mib > 50
    assert abs(bench._peak_in_fresh_process(small, FROZEN) - first) < canvas_mib  # nothing is left
