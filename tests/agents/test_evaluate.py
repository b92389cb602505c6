"""Judging: the same scenes for all, honest numbers, nothing played twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents.evaluate
from agents.evaluate import (
    Benchmark,
    Trajectories,
    evaluate,
    format_table,
    make_benchmark,
    pairs,
    play,
    play_batch,
    scene_indices,
    summarize,
)
from agents.policies import POLICIES, load_policy, make_policies
from agents.policies.base import Policy
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.scenes.folder import FolderScenes

MakeVector = Callable[..., CanViTVectorEnv]

ENV = "CanViT-Emoji-v0"
QUICK = ("random", "full_then_random", "coarse_to_fine", "target")


@pytest.fixture
def benchmark(make_vector: MakeVector) -> Benchmark:
    return Benchmark(env_id=ENV, split="train", env_kwargs={}, env=make_vector(1, budget=2))


def quick(benchmark: Benchmark, names: tuple[str, ...] = QUICK) -> dict[str, Policy]:
    return make_policies(names, env_id=ENV, env=benchmark.env)


def run(policies: dict[str, Policy], benchmark: Benchmark, **kwargs: Any) -> dict[str, Any]:
    kwargs.setdefault("num_scenes", 6)
    return evaluate(policies, benchmark=benchmark, progress=False, **kwargs)


def same(one: Trajectories, other: Trajectories) -> bool:
    return (
        np.array_equal(one.correct, other.correct)
        and np.allclose(one.potential, other.potential, atol=1e-4)
        and np.allclose(one.viewpoints, other.viewpoints, atol=1e-6)
    )


# -- playing ---------------------------------------------------------------------------------------


class Recording(EmojiScenes):
    """Scenes that remember which were asked for."""

    def __init__(self) -> None:
        super().__init__(split="train")
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> Scene:
        self.asked.append(index)
        return super().__getitem__(index)


def test_every_policy_plays_the_same_scenes(benchmark: Benchmark) -> None:
    for policy in quick(benchmark).values():
        scenes = Recording()
        play(policy, scenes=scenes, num_scenes=5)
        assert scenes.asked == [0, 1, 2, 3, 4]


def test_what_is_recorded_is_what_happened(benchmark: Benchmark) -> None:
    policy = POLICIES["full_then_random"](benchmark.env.rollout)
    played = play(policy, scenes=benchmark.env.scenes, num_scenes=4, potential="prob", name="x")
    rollout, scenes = benchmark.env.rollout, benchmark.env.scenes
    steps = play_batch(policy, scenes=scenes, indices=range(4), name="x")
    assert len(steps) == 3
    for t, step in enumerate(steps):
        prediction = step.belief.argmax(dim=1).numpy()
        labels = np.array([scenes[i].label for i in range(4)])
        np.testing.assert_array_equal(played.correct[:, t], prediction == labels)
        np.testing.assert_allclose(played.potential[:, t], step.potentials["prob"].numpy())
    np.testing.assert_array_equal(played.viewpoints, steps[-1].history.numpy())
    first = rollout.start([scenes[i] for i in range(4)]).potentials["prob"].numpy()
    last = steps[-1].potentials["prob"].numpy()
    np.testing.assert_allclose(played.returns, last - first)


def test_a_blind_start_counts_from_its_first_glimpse(benchmark: Benchmark) -> None:
    policy = POLICIES["random"](benchmark.env.rollout)
    played = play(policy, scenes=benchmark.env.scenes, num_scenes=4)
    assert played.correct.shape == (4, 3) and played.viewpoints.shape == (4, 3, 3)
    assert (played.viewpoints[..., 2] < 1).all()


def test_chance_depends_on_the_scene_and_not_on_its_company(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = POLICIES["random"](benchmark.env.rollout)
    scenes = benchmark.env.scenes

    def played(**kwargs: Any) -> Trajectories:
        return play(policy, scenes=scenes, **{"num_scenes": 7, "name": "random", **kwargs})

    whole = played()
    np.testing.assert_array_equal(played(num_scenes=3).viewpoints, whole.viewpoints[:3])
    assert not np.array_equal(played(seed=1).viewpoints, whole.viewpoints)
    assert not np.array_equal(played(name="other").viewpoints, whole.viewpoints)
    assert len(np.unique(whole.viewpoints[:, 0, 2])) == 7
    monkeypatch.setattr(agents.evaluate, "_BATCH", 3)
    assert same(played(), whole)


def test_folders_are_sampled_across_their_classes(imagenet_folder: Path) -> None:
    folder = FolderScenes(imagenet_folder, size_px=32)
    assert scene_indices(folder, 4).tolist() == [0, 2, 4, 6]
    assert {folder.labels[i] for i in scene_indices(folder, 4)} == set(folder.labels)
    assert scene_indices(folder, 8).tolist() == list(range(8))
    assert scene_indices(EmojiScenes(split="test"), 3).tolist() == [0, 1, 2]
    for wrong in (0, 9):
        with pytest.raises(ValueError, match="there are 8; give a number from 1 to 8"):
            scene_indices(folder, wrong)


# -- the summary -----------------------------------------------------------------------------------


def test_summary(benchmark: Benchmark, tmp_path: Path) -> None:
    summary = run(quick(benchmark), benchmark, out=tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert {k: summary[k] for k in ("env", "backbone", "split", "num_scenes", "budget")} == {
        "env": ENV,
        "backbone": {"name": "random", "sha256": "0" * 64},
        "split": "train",
        "num_scenes": 6,
        "budget": 2,
    }
    assert list(summary["policies"]) == list(QUICK)
    for row in summary["policies"].values():
        assert len(row["accuracy"]) == 3
        assert all(0 <= value <= 1 for value in row["accuracy"])
        assert isinstance(row["return_mean"], float)
    firsts = {name: row["accuracy"][0] for name, row in summary["policies"].items()}
    assert firsts["full_then_random"] == firsts["coarse_to_fine"] == firsts["target"]
    assert set(summary["paired"]) == {
        f"{name} - full_then_random" for name in QUICK if name != "full_then_random"
    }
    for name, difference in summary["paired"].items():
        first, second = (np.array(summary["policies"][n]["accuracy"]) for n in name.split(" - "))
        np.testing.assert_allclose(difference["difference"], first - second, atol=1e-12)
        assert np.all(np.array(difference["low"]) <= difference["difference"])
        assert np.all(np.array(difference["high"]) >= difference["difference"])
    assert summary["paired"]["target - full_then_random"]["high"][0] == 0  # t0 is the same


def test_trained_policies_are_compared_with_all_others(
    benchmark: Benchmark, save_untrained: Callable[..., Path]
) -> None:
    directory = save_untrained(benchmark.env, env_kwargs={"budget": 2})
    learned = load_policy(directory, env_id=ENV, env=benchmark.env)
    summary = run({"mine": learned, **quick(benchmark)}, benchmark)
    assert [name for name in summary["paired"] if name.startswith("mine")] == [
        f"mine - {name}" for name in QUICK
    ]


def test_share_of_the_way(benchmark: Benchmark) -> None:
    def played(*correct: int) -> Trajectories:
        return Trajectories(
            correct=np.array(correct, dtype=bool)[:, None],
            potential=np.zeros((len(correct), 1), dtype=np.float32),
            viewpoints=np.zeros((len(correct), 1, 3), dtype=np.float32),
        )

    low, middle, high = played(0, 0, 0, 1), played(1, 0, 0, 1), played(1, 1, 0, 1)
    summary = summarize(
        {"mine": middle, "full_then_random": low, "target": high},
        learned=["mine"],
        benchmark=benchmark,
    )
    assert summary["share_of_the_way"]["mine from full_then_random to target"]["share"] == 0.5
    json.dumps(summary, allow_nan=False)
    no_way = {"mine": middle, "full_then_random": low, "target": low}
    assert not summarize(no_way, learned=["mine"], benchmark=benchmark)["share_of_the_way"]


def test_pairs() -> None:
    names = ["a", "full_then_random", "b", "oracle"]
    assert pairs(names, learned=["a", "b"]) == [
        ("a", "full_then_random"),
        ("a", "b"),
        ("a", "oracle"),
        ("b", "full_then_random"),
        ("b", "oracle"),
        ("oracle", "full_then_random"),
    ]
    assert pairs(["oracle", "target"], learned=[]) == []


def test_table(benchmark: Benchmark) -> None:
    summary = run(quick(benchmark), benchmark)
    lines = format_table(summary).splitlines()
    assert "6 scenes" in lines[0] and lines[2].split()[:4] == ["policy", "t0", "t1", "t2"]
    for name, line in zip(QUICK, lines[3:], strict=True):
        shown = line.split()
        assert shown[0] == name
        expected = [f"{value:.3f}" for value in summary["policies"][name]["accuracy"]]
        assert shown[1:4] == expected
        assert ("[" in line) == (name != "full_then_random")


# -- taking up what is finished --------------------------------------------------------------------


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the policies that are really played."""
    names: list[str] = []

    def counted(policy: Policy, **kwargs: Any) -> Trajectories:
        names.append(kwargs["name"])
        return play(policy, **kwargs)

    monkeypatch.setattr(agents.evaluate, "play", counted)
    return names


def test_nothing_is_played_twice(benchmark: Benchmark, plays: list[str], tmp_path: Path) -> None:
    policies = quick(benchmark, ("random", "target"))
    first = run({"random": policies["random"]}, benchmark, out=tmp_path, num_scenes=3)
    both = run(policies, benchmark, out=tmp_path, num_scenes=3)
    assert plays == ["random", "target"]
    assert both["policies"]["random"] == first["policies"]["random"]
    assert run(policies, benchmark, out=tmp_path, num_scenes=3) == both
    assert plays == ["random", "target"]


def test_other_settings_are_played_anew(
    benchmark: Benchmark, plays: list[str], tmp_path: Path, make_vector: MakeVector
) -> None:
    policies = quick(benchmark, ("oracle",))
    oracle = replace(policies["oracle"], num_candidates=1)  # type: ignore[call-arg]

    def again(policy: Policy = oracle, benchmark: Benchmark = benchmark, **kwargs: Any) -> int:
        run({"oracle": policy}, benchmark, out=tmp_path, **{"num_scenes": 2, **kwargs})
        return len(plays)

    assert again() == 1
    assert again() == 1
    assert again(num_scenes=3) == 2
    assert again(seed=1) == 3
    assert again(replace(oracle, num_candidates=2)) == 4  # type: ignore[call-arg]
    assert again(benchmark=replace(benchmark, split="test")) == 5
    longer = replace(benchmark, env=make_vector(1, budget=1))
    assert again(replace(oracle, rollout=longer.env.rollout), longer) == 6
    assert again(benchmark=replace(benchmark, env_kwargs={"scenes": "elsewhere"})) == 7
    assert again(benchmark=replace(benchmark, env=make_vector(1, budget=2, reward="prob"))) == 8


def test_a_damaged_file_is_played_anew(
    benchmark: Benchmark, plays: list[str], tmp_path: Path
) -> None:
    policies = quick(benchmark, ("target",))
    before = run(policies, benchmark, out=tmp_path, num_scenes=2)
    (saved,) = tmp_path.glob("*.npz")
    saved.write_bytes(saved.read_bytes()[:100])
    assert run(policies, benchmark, out=tmp_path, num_scenes=2) == before
    assert plays == ["target", "target"]


# -- environments ----------------------------------------------------------------------------------


def test_benchmarks_are_made_by_id(env_kwargs: dict[str, dict[str, Any]]) -> None:
    kwargs = {**env_kwargs[ENV], "budget": 2}
    benchmark = make_benchmark(f"canvit_gym:{ENV}", split="test_style", env_kwargs=kwargs)
    assert (benchmark.env_id, benchmark.split) == (ENV, "test_style")
    assert benchmark.env.rollout.budget == 2
    assert benchmark.env.scenes[0].name == "emoji/test_style/0"


def test_pictures(benchmark: Benchmark, tmp_path: Path) -> None:
    from PIL import Image

    from agents.pictures import draw_filmstrips

    paths = draw_filmstrips(
        quick(benchmark, ("target",)),
        scenes=benchmark.env.scenes,
        indices=[3, 5],
        directory=tmp_path / "pictures",
    )
    assert [path.name for path in paths] == ["000003-target.png", "000005-target.png"]
    one, other = (np.array(Image.open(path)) for path in paths)
    assert one.shape == other.shape and not np.array_equal(one, other)
    frames = np.split(one, 3)  # t0 at the top, then two glimpses
    assert not np.array_equal(frames[0], frames[1])
