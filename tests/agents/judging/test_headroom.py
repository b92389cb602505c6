"""Before any training: what is there to learn?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import canvit_agents.judging.evaluate
import canvit_agents.judging.headroom
from canvit_agents.judging.evaluate import Benchmark, summarize
from canvit_agents.judging.evidence import load_evidence
from canvit_agents.judging.headroom import (
    FixedSequence,
    find_fixed_sequence,
    format_headroom,
    headroom,
    unlearned,
)
from canvit_agents.judging.playing import play
from canvit_gym.envs.actions import tile_actions
from canvit_gym.envs.rollout import Rollout
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import MINI_GLIMPSE, Viewpoint
from canvit_gym.scenes.emoji import EmojiScenes

TRAIN, TEST = EmojiScenes(split="train"), EmojiScenes(split="test")
EVERYONE = [
    "random",
    "full_then_random",
    "coarse_to_fine",
    "fine_to_coarse",
    "repeated_full_scene",
    "fixed_sequence",
    "oracle",
]


@pytest.fixture
def benchmark(make_vector: Callable[..., CanViTVectorEnv]) -> Benchmark:
    env = make_vector(1, budget=2)
    env.scenes = TEST
    return Benchmark(
        env_id="CanViT-Emoji-v0", name="CanViT-Emoji-v0", split="test", env_kwargs={}, env=env
    )


def run(benchmark: Benchmark, out: Path | None = None, **changes: Any) -> dict[str, Any]:
    asked = {"train": TRAIN, "num_scenes": 4, "num_candidates": 3, "progress": False, **changes}
    return headroom(benchmark, out=out, **asked)


def test_headroom(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = run(benchmark, tmp_path)
    assert list(summary["policies"]) == list(summary["score"]) == EVERYONE
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    loaded = {n: load_evidence(tmp_path / p["file"]) for n, p in manifest["policies"].items()}
    said = summarize(loaded)
    assert {key: summary[key] for key in said} == said

    last = {name: row["accuracy"][-1] for name, row in summary["policies"].items()}
    way = last["oracle"] - last["full_then_random"]
    for name, score in summary["score"].items():
        if way <= 0:
            assert score is None
        else:
            expected = (last[name] - last["full_then_random"]) / way
            assert score["share"] == pytest.approx(expected)
    best = max((name for name in last if name != "oracle"), key=lambda name: last[name])
    assert last[summary["headroom"]["over"]] == last[best]
    assert summary["headroom"]["difference"] == pytest.approx(last["oracle"] - last[best])

    sequence = manifest["policies"]["fixed_sequence"]["settings"]["viewpoints"]
    assert len(sequence) == 2 and manifest["policies"]["oracle"]["settings"]["num_candidates"] == 3
    for name in ("play", "find_fixed_sequence"):  # nothing is done twice
        module = (
            canvit_agents.judging.evaluate if name == "play" else canvit_agents.judging.headroom
        )
        monkeypatch.setattr(module, name, None)
    assert run(benchmark, tmp_path) == summary


def test_entropy_guides_where_the_canvas_is_decoded() -> None:
    def names(*, of_places: bool, grid: int) -> list[str]:
        able = {"entropy_map": lambda belief: belief, "entropy_range": (0, 1)} if of_places else {}
        rollout: Any = SimpleNamespace(
            task=SimpleNamespace(**able),
            glimpse=replace(MINI_GLIMPSE, canvas_grid_size=grid),
        )
        return unlearned(rollout)

    everywhere = names(of_places=False, grid=8)
    assert everywhere == EVERYONE[:5] == names(of_places=True, grid=12)
    assert names(of_places=True, grid=8) == [*everywhere, "entropy_coarse_to_fine"]


def test_what_is_printed() -> None:
    interval = {"low": 0.1, "high": 0.3}
    row = {"accuracy": [0.1, 0.5], "return_mean": 1.0, "glimpses": [1.0, 2.0]}
    summary: dict[str, Any] = {
        "env": "E",
        "split": "test",
        "num_scenes": 9,
        "budget": 1,
        "glimpse_cost": 0.0,
        "metrics": [{"name": "accuracy", "title": "accuracy"}],
        "backbone": {"name": "mini"},
        "policies": {"full_then_random": row, "oracle": row},
        "paired": {},
        "score": {"full_then_random": None, "oracle": {"share": 1.0, **interval}},
        "headroom": {"over": "full_then_random", "difference": 0.2, **interval},
    }
    lines = format_headroom(summary).splitlines()
    assert "oracle            +1.000 [+0.100, +0.300]" in lines
    assert "full_then_random  undefined" in lines
    assert lines[-1] == (
        "oracle over full_then_random, the best without labels: +0.200 [+0.100, +0.300]; "
        "there is something to learn."
    )
    summary["headroom"]["low"] = -0.1
    assert format_headroom(summary).endswith("nothing to learn shows here.")


# -- the best fixed sequence -----------------------------------------------------------------------


def test_a_fixed_sequence_is_the_same_in_every_scene(make_rollout: Callable[..., Rollout]) -> None:
    viewpoints = ((0.5, -0.5, 0.5), (-0.25, 0.75, 0.25))
    policy = FixedSequence(rollout=make_rollout(budget=2), viewpoints=viewpoints)
    seen = play(policy, scenes=TEST, num_scenes=3)
    for taken in seen.viewpoints:
        np.testing.assert_array_equal(taken[1:], np.array(viewpoints, dtype=np.float32))
    assert policy.settings["viewpoints"] == viewpoints


def test_each_glimpse_of_the_sequence_is_the_best_after_those_before(
    make_rollout: Callable[..., Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = make_rollout(budget=2)
    tiles = tile_actions().viewpoints[:7]
    arguments: dict[str, Any] = {"scenes": TRAIN, "num_scenes": 5, "candidates": tiles}
    found = find_fixed_sequence(rollout, **arguments, potential="prob")

    listed = [tuple(v) for v in torch.cat((tiles.centers, tiles.scales[:, None]), 1).tolist()]

    def reached(*viewpoints: tuple[float, ...]) -> float:
        episode = rollout.start([TRAIN[i] for i in range(5)])
        for row, col, scale in viewpoints:
            episode = rollout.look(
                episode,
                Viewpoint(centers=torch.tensor([[row, col]] * 5), scales=torch.tensor([scale] * 5)),
            )
        return float(episode.potentials["prob"].mean())

    assert reached(found[0]) == pytest.approx(max(reached(v) for v in listed), abs=1e-5)
    assert reached(*found) == pytest.approx(max(reached(found[0], v) for v in listed), abs=1e-5)
    monkeypatch.setattr("canvit_agents.judging.playing.MAX_BATCH", 2)
    assert find_fixed_sequence(rollout, **arguments, potential="prob") == found


def test_the_sequence_is_searched_on_train_scenes_among_the_environments_actions(
    benchmark: Benchmark, make_vector: Callable[..., CanViTVectorEnv], monkeypatch: Any
) -> None:
    asked: list[dict[str, Any]] = []

    def find(rollout: Rollout, **kwargs: Any) -> tuple[tuple[float, float, float], ...]:
        asked.append(kwargs)
        return ((0.0, 0.0, 0.5),) * rollout.budget

    monkeypatch.setattr(canvit_agents.judging.headroom, "find_fixed_sequence", find)
    run(benchmark, num_scenes=2)
    cells = make_vector(1, budget=2, action="cell", reward="margin")
    cells.scenes = TEST
    summary = run(replace(benchmark, env=cells), num_scenes=2)
    assert all(call["scenes"] is TRAIN and call["num_scenes"] == 2 for call in asked)
    assert [call["candidates"].batch_size for call in asked] == [21, cells.single_action_space.n]
    assert [call["potential"] for call in asked] == ["log_prob", "margin"]
    assert summary["policies"]["fixed_sequence"]["scanpath"]["scales"]["share"][4] == 1


class Two(EmojiScenes):
    def __len__(self) -> int:
        return 2


def test_a_short_train_split_is_used_whole(benchmark: Benchmark, tmp_path: Path) -> None:
    run(benchmark, tmp_path, train=Two(split="train"), num_scenes=3)
    saved = json.loads((tmp_path / "fixed_sequence.json").read_text())
    assert saved["searched"]["num_scenes"] == 2 and len(saved["viewpoints"]) == 2
