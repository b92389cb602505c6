"""A package that is not ours, installed beside it: its scenes, model, task, policy and id go
through every command, and nothing of ours changes for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from canvit_agents.judging.evaluate import evaluate, make_benchmark
from canvit_agents.pages.play import make_playground
from canvit_agents.pages.play.views import view
from canvit_agents.policies import make_policies
from canvit_gym.registration import env_id_of

PACKAGE = Path(__file__).parent / "lanterns"

ENV = "lanterns:Lanterns-v0"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed, alone."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for path in PACKAGE.rglob("*"):  # a copy, because building writes into the source
        if path.is_file() and "__pycache__" not in path.parts:
            target = source / path.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    subprocess.run(
        [sys.executable, *install, "--target", str(folder), str(source)], check=True, cwd=source
    )
    return folder


@pytest.fixture
def importable(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture(scope="module")
def command(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    folder = tmp_path_factory.mktemp("elsewhere")
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "canvit_agents", *arguments],
            cwd=folder,
            env={**environment, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.folder = folder  # type: ignore[attr-defined]
    return run


@pytest.mark.slow
def test_it_is_trained_judged_and_reported(site: Path, command: Callable[..., str]) -> None:
    folder: Path = command.folder  # type: ignore[attr-defined]
    config = str(site / "lanterns/ppo.yaml")
    command("train", "--env", ENV, "--config", config, "--out", "mine")
    printed = command(
        "evaluate", "--env", ENV, "--policies", "full_then_random", "coarse_to_fine",
        "lanterns.policy:Unseen", "mine", "--scenes", "20", "--out", "run",
    )  # fmt: skip
    assert "cells about right after each glimpse" in printed
    summary = json.loads((folder / "run/summary.json").read_text())
    assert [metric["name"] for metric in summary["metrics"]] == ["close", "error"]
    assert list(summary["policies"])[-1] == "mine"  # which has learned next to nothing
    for row in list(summary["policies"].values())[:-1]:  # the more is seen, the more is right
        assert row["close"][-1] > row["close"][0] and row["error"][-1] < row["error"][0]
    command("headroom", "--env", ENV, "--scenes", "4", "--candidates", "3", "--out", "top")
    assert json.loads((folder / "top/summary.json").read_text())["score"]["oracle"] is not None
    command("compare", "run:lanterns.policy:Unseen", "run:full_then_random")
    command("report", "run")
    page = (folder / "run/report.html").read_text()
    assert "believed brightness" in page and "true brightness" in page
    assert "cells about right" in page and "without episodes" not in page


@pytest.mark.usefixtures("importable")
def test_gymnasium_is_content() -> None:
    env: Any = gym.make(ENV, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=False)
    observation, info = env.reset(seed=0)
    assert observation["canvas"].shape == (4, 8, 8) and info["scene"] < 500
    assert env.render().shape == (608, 1104, 3)
    before = info["potential_after"]["neg_error"]
    _, reward, *_, info = env.step(env.action_space.sample())
    assert reward == pytest.approx(info["potential_after"]["neg_error"] - before, abs=1e-6)


@pytest.mark.usefixtures("importable")
def test_it_is_played_by_hand() -> None:
    playground = make_playground(ENV, policy="lanterns.policy:Unseen")
    game = playground.start(3)
    shown = view(game, playground=playground, with_truth=False, advice=None)
    assert "tells how bright each place is" in shown["lede"] and "It is night" in shown["status"]
    assert "true brightness" not in shown["html"]["panels"]
    while not playground.is_over(game):
        game = playground.look(game, playground.advise(game))  # type: ignore[arg-type]
    shown = view(game, playground=playground, with_truth=False, advice=None)
    assert "about right" in shown["status"] and "true brightness" in shown["html"]["panels"]
    assert "cells about right" in shown["html"]["result"]


@pytest.mark.usefixtures("importable")
def test_beliefs_are_those_of_its_own_model() -> None:
    benchmark = make_benchmark(ENV)
    policies = make_policies(["lanterns.policy:Unseen"], env_id=env_id_of(ENV), env=benchmark.env)
    (row,) = evaluate(policies, benchmark=benchmark, num_scenes=6, progress=False)[
        "policies"
    ].values()
    rollout, scenes = benchmark.env.rollout, benchmark.env.scenes
    episode = rollout.start([scenes[i] for i in range(6)])
    assert row["error"][0] == pytest.approx(-float(episode.potentials["neg_error"].mean()))
    assert np.all(np.diff(row["potentials"]["seen"]) > 0)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ("panels", "The task is a Brightness, which lacks panels; give it what"),
        ("take_in", "The task's model is a MosaicModel, which lacks take_in; give it what"),
    ],
)
def test_what_lacks_a_part_is_refused_at_once(
    part: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gym.make(ENV)
    from lanterns.model import MosaicModel  # type: ignore[import-not-found]
    from lanterns.task import Brightness  # type: ignore[import-not-found]

    monkeypatch.delattr(Brightness if part == "panels" else MosaicModel, part)
    with pytest.raises(ValueError, match=complaint):
        gym.make(ENV)
