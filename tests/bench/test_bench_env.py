"""The environment's benchmark: parts add up to the step, and nothing but the time changes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils import performance
from PIL import Image

from canvit_gym.bench import __main__ as both
from canvit_gym.bench import env as bench
from canvit_gym.bench import model, scenes, training
from canvit_gym.bench.env import PARTS, Stopwatch, format_table, overhead_share
from canvit_gym.envs.rollout import Rollout
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.training.mini import MINI_CONFIG


def test_a_part_within_another_stops_its_time() -> None:
    now = [0.0]

    def work(seconds: float, *inner: Callable[[], Any]) -> str:
        now[0] += seconds
        for call in inner:
            call()
            now[0] += seconds
        return "done"

    stopwatch = Stopwatch(clock=lambda: now[0])
    a, b = (stopwatch.timed(name, work) for name in "ab")
    c = stopwatch.timed("c", work)
    assert a(1.0, lambda: b(10.0, lambda: c(100.0)), lambda: c(100.0)) == "done"
    assert stopwatch.seconds == {"a": 3.0, "b": 20.0, "c": 200.0}
    assert sum(stopwatch.seconds.values()) == now[0]
    with pytest.raises(ZeroDivisionError):
        a(1.0, lambda: 1 / 0)
    a(1.0)
    assert stopwatch.seconds["a"] == 5.0


def test_the_stopwatch_changes_no_result(make_vector: Callable[..., CanViTVectorEnv]) -> None:
    plain, watched = make_vector(2, budget=2), make_vector(2, budget=2)
    plain.reset(seed=0)
    watched.reset(seed=0)
    stopwatch, start = Stopwatch(), Rollout.start
    with stopwatch.around(watched) as step:
        for _ in range(5):
            actions = np.zeros((2, 3), dtype=np.float32)
            ours, theirs = plain.step(actions), step(actions)
            for key, values in ours[0].items():
                np.testing.assert_array_equal(values, theirs[0][key])
            np.testing.assert_array_equal(ours[1], theirs[1])
    assert Rollout.start is start
    assert stopwatch.seconds.keys() == PARTS.keys()
    assert all(seconds > 0 for seconds in stopwatch.seconds.values())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CanViT-B that is none, few pictures, short measurements."""
    monkeypatch.setattr(bench, "CanViTConfig", lambda: MINI_CONFIG)
    monkeypatch.setattr(bench, "_CANVAS_GRID", {"mini": 8, "CanViT-B": 4})
    monkeypatch.setattr(bench, "_WARM_EPISODES", {"mini": 1, "CanViT-B": 1})
    monkeypatch.setattr(bench, "_LEAST_EPISODES", 1)
    monkeypatch.setattr(bench, "_PICTURES", 3)
    monkeypatch.setattr(bench, "measure_first_observation", lambda repeats: 1.25)


@pytest.mark.skipif(
    not hasattr(performance, "benchmark_vector_step"), reason="needs gymnasium 1.4 or newer"
)
def test_command(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "env.json"
    bench.main(["--num-envs", "2", "--rounds", "1", "--seconds", "0.1", "--out", str(out)])
    figures = json.loads(out.read_text())
    assert figures["threads"] >= 1 and figures["cpu"] and figures["torch"]
    assert figures["draw_ahead"] == 1 and figures["precision"] == "float32"
    results = figures["results"]
    assert [(r["model"], r["canvas_grid"]) for r in results] == [("mini", 8), ("CanViT-B", 4)]
    for record in results:
        assert record["num_envs"] == 2 and record["glimpses_per_second"] == record["rounds"][0] > 0
        assert record["split_ms"].keys() == PARTS.keys()
        assert sum(record["split_ms"].values()) == pytest.approx(record["step_ms"])
        of_model = record["split_ms"]["forward"] + record["split_ms"]["readout"]
        assert record["overhead_share"] == pytest.approx(1 - of_model / record["step_ms"])
    table = format_table(figures)
    assert table in capsys.readouterr().out
    for part in PARTS:
        assert f"\n  {part} " in table
    assert f" {results[1]['glimpses_per_second']:.1f}\n" in table and "1.2 s" in table


def test_overhead_is_what_the_model_does_not_take() -> None:
    split = dict.fromkeys(PARTS, 1.0) | {"forward": 12.0, "readout": 2.0}
    assert overhead_share(split) == pytest.approx(5 / 19)


def test_pictures_are_as_large_and_detailed_as_photographs(tmp_path: Path) -> None:
    bench.write_pictures(tmp_path)
    paths = sorted(tmp_path.glob("*/*.JPEG"))
    assert len(paths) == 64 == len({path.parent for path in paths})
    for path in paths[:2]:
        with Image.open(path) as image:
            assert image.size == (500, 375)
        assert 50_000 < path.stat().st_size < 250_000  # ImageNet's mean is 110 kB


def test_all_write_to_one_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called = {}
    monkeypatch.setattr(model, "main", lambda argv: called.update(model=argv))
    monkeypatch.setattr(bench, "main", lambda argv: called.update(env=argv))
    monkeypatch.setattr(training, "main", lambda argv: called.update(training=argv))
    monkeypatch.setattr(scenes, "main", lambda argv: called.update(scenes=argv))
    both.main(["--compile", "--out", str(tmp_path)])
    assert called == {
        "model": [
            "--device",
            "cpu",
            "--compile",
            "--memory",
            "--kinds",
            "--out",
            str(tmp_path / "model.json"),
        ],
        "env": ["--device", "cpu", "--out", str(tmp_path / "env.json")],
        "training": ["--device", "cpu", "--compile", "--out", str(tmp_path / "training.json")],
        "scenes": ["--device", "cpu", "--out", str(tmp_path / "scenes.json")],
    }


@pytest.mark.slow
def test_the_first_observation_is_that_of_a_fresh_interpreter() -> None:
    """Of an interpreter that ran meanwhile, and no longer than that."""
    alone = [sys.executable, "-c", "pass"]
    started = time.perf_counter()
    subprocess.run(alone, check=True)
    least = time.perf_counter() - started
    started = time.perf_counter()
    found = bench.measure_first_observation(repeats=1)
    assert least < found <= time.perf_counter() - started  # it imports torch and more
