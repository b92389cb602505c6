"""Judging: the same scenes for all, honest numbers, nothing played twice."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import canvit_agents.judging.evaluate
import canvit_agents.judging.playing
from canvit_agents.judging.evaluate import (
    Benchmark,
    evaluate,
    flops_per_glimpse,
    format_table,
    make_benchmark,
    summarize,
)
from canvit_agents.judging.evidence import Trajectories, load_evidence, scene_digest
from canvit_agents.judging.playing import Peek, batch_size, play, play_batch, scene_indices
from canvit_agents.policies import POLICIES, load_policy, make_policies
from canvit_agents.policies.base import Policy
from canvit_agents.policies.oracle import Oracle
from canvit_agents.policies.random import RandomPolicy, draw_viewpoints
from canvit_gym.envs.rollout import Choice, Episode, Rollout
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import OFFICIAL_GLIMPSE, Viewpoint
from canvit_gym.model.canvit import CanViT
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.flops import glimpse_flops
from canvit_gym.model.segmentation import CanViTForSemanticSegmentation, SegmentationProbe
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.cache import CachedScenes
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.scenes.folder import FolderScenes
from canvit_gym.tasks.segmentation import Segmentation

MakeVector = Callable[..., CanViTVectorEnv]

ENV = "CanViT-Emoji-v0"
QUICK = ("random", "full_then_random", "coarse_to_fine", "target")


@pytest.fixture
def benchmark(make_vector: MakeVector) -> Benchmark:
    return Benchmark(
        env_id=ENV, name=ENV, split="train", env_kwargs={}, env=make_vector(1, budget=2)
    )


def quick(benchmark: Benchmark, names: tuple[str, ...] = QUICK) -> dict[str, Policy]:
    return make_policies(names, env_id=ENV, env=benchmark.env)


def run(policies: dict[str, Policy], benchmark: Benchmark, **kwargs: Any) -> dict[str, Any]:
    kwargs.setdefault("num_scenes", 6)
    return evaluate(policies, benchmark=benchmark, progress=False, **kwargs)


def same(one: Trajectories, other: Trajectories) -> bool:
    return (
        np.array_equal(one.scenes, other.scenes)
        and np.array_equal(one.outcome["correct"], other.outcome["correct"])
        and np.allclose(one.potentials["log_prob"], other.potentials["log_prob"], atol=1e-4)
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
    played = play(policy, scenes=benchmark.env.scenes, num_scenes=4, name="x")
    scenes = [benchmark.env.scenes[i] for i in range(4)]
    steps = play_batch(policy, scenes=benchmark.env.scenes, indices=range(4), name="x")
    assert len(steps) == 3
    for t, step in enumerate(steps):
        prediction = step.belief.argmax(dim=1).numpy()
        labels = np.array([scene.label for scene in scenes])
        np.testing.assert_array_equal(played.outcome["correct"][:, t], prediction == labels)
        np.testing.assert_array_equal(played.outcome["prediction"][:, t], prediction)
        np.testing.assert_array_equal(played.outcome["label"][:, t], labels)
        assert played.potentials.keys() == step.potentials.keys()
        for name, values in step.potentials.items():
            np.testing.assert_allclose(played.potentials[name][:, t], values.numpy())
    np.testing.assert_array_equal(played.viewpoints, steps[-1].history.numpy())
    np.testing.assert_array_equal(played.scenes, range(4))
    assert played.names == tuple(scene.name for scene in scenes)
    assert played.digests == tuple(map(scene_digest, scenes)) and not played.peeks


def test_a_blind_start_counts_from_its_first_glimpse(benchmark: Benchmark) -> None:
    policy = POLICIES["random"](benchmark.env.rollout)
    played = play(policy, scenes=benchmark.env.scenes, num_scenes=4)
    assert played.potentials["prob"].shape == (4, 3) and played.viewpoints.shape == (4, 3, 3)
    assert (played.viewpoints[..., 2] < 1).all()
    assert len(play_batch(policy, scenes=benchmark.env.scenes, indices=[0], name="x")) == 3


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
    monkeypatch.setattr(canvit_agents.judging.playing, "MAX_BATCH", 3)
    assert same(played(), whole)


def test_scenes_may_be_given_by_their_indices(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, scenes = POLICIES["random"](benchmark.env.rollout), benchmark.env.scenes
    whole = play(policy, scenes=scenes, num_scenes=6, name="random")
    first = play(policy, scenes=scenes, indices=[4, 0], name="random")
    assert first.scenes.tolist() == [4, 0]
    np.testing.assert_array_equal(first.viewpoints, whole.viewpoints[[4, 0]])
    assert first.digests == (whole.digests[4], whole.digests[0])
    for wrong in ([], [0, 0], [-1], [len(scenes)], [0.5], [[0]]):
        with pytest.raises(ValueError, match="indices must be different integers"):
            play(policy, scenes=scenes, indices=wrong)  # type: ignore[arg-type]
    for both in ({}, {"num_scenes": 1, "indices": [0]}):
        with pytest.raises(ValueError, match="either num_scenes or indices"):
            play(policy, scenes=scenes, **both)


class Sorted:
    """Somebody's own scenes, which say nothing of themselves."""

    def __len__(self) -> int:
        return 10


def test_foreign_scenes_are_spread_unless_they_are_exchangeable() -> None:
    foreign: Any = Sorted()
    assert scene_indices(foreign, 3).tolist() == [0, 3, 6]
    foreign.exchangeable = True
    assert scene_indices(foreign, 3).tolist() == [0, 1, 2]
    cached = CachedScenes(EmojiScenes(split="test"), max_bytes=1)
    assert scene_indices(cached, 3).tolist() == [0, 1, 2]


def test_places_that_can_not_be_written_are_found_out_first(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(canvit_agents.judging.evaluate, "play", None)  # nothing is played
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(OSError, match=f"^{out} can not be written: .*choose another place"):
            run(quick(benchmark), benchmark, out=out)


class Wrapped:
    """Scenes behind something that keeps them."""

    def __init__(self, scenes: Any) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)


def test_folders_are_sampled_across_their_classes(imagenet_folder: Path) -> None:
    folder = FolderScenes(imagenet_folder, size_px=32)
    assert scene_indices(folder, 4).tolist() == [0, 2, 4, 6]
    assert scene_indices(Wrapped(folder), 4).tolist() == [0, 2, 4, 6]  # type: ignore[arg-type]
    assert {folder.labels[i] for i in scene_indices(folder, 4)} == set(folder.labels)
    assert scene_indices(folder, 8).tolist() == list(range(8))
    assert scene_indices(EmojiScenes(split="test"), 3).tolist() == [0, 1, 2]
    for wrong in (0, 9):
        with pytest.raises(ValueError, match="there are 8; give a number from 1 to 8"):
            scene_indices(folder, wrong)


def test_batches_fit_into_memory(benchmark: Benchmark) -> None:
    assert (
        batch_size(benchmark.env.rollout, scene_size_px=128)
        == canvit_agents.judging.playing.MAX_BATCH
    )

    def canvit_b(canvas_grid_size: int, scene_size_px: int = 512) -> int:
        # Its canvas and classes, behind a small backbone, which does not matter here.
        canvit = CanViT(CanViTConfig(backbone_name="mini8"))
        probe = SegmentationProbe(embed_dim=1024, num_classes=150, dropout=0, use_ln=True)
        model = CanViTForSemanticSegmentation(canvit=canvit, probe=probe)
        task = Segmentation(model=model.eval(), class_names=("x",) * 150, label_size_px=512)
        glimpse = replace(OFFICIAL_GLIMPSE, canvas_grid_size=canvas_grid_size)
        rollout: Any = SimpleNamespace(task=task, glimpse=glimpse)
        return batch_size(rollout, scene_size_px=scene_size_px)

    assert 8 <= canvit_b(64) <= 16
    assert 32 <= canvit_b(32) <= 64
    assert canvit_b(8) == canvit_agents.judging.playing.MAX_BATCH
    assert canvit_b(256) == 1


@dataclass(frozen=True, kw_only=True)
class Watched(Policy):
    """Looks at the full scene, and counts the moments whose canvases are still in memory."""

    seen: list[Any] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)

    def __call__(self, episode: Episode, generators: Any) -> Viewpoint:
        self.seen.append(weakref.ref(episode.state.canvas))
        self.alive.append(sum(canvas() is not None for canvas in self.seen))
        return Viewpoint.full_scene(batch_size=episode.batch_size)


def test_moments_do_not_pile_up(benchmark: Benchmark) -> None:
    policy = Watched(rollout=replace(benchmark.env.rollout, budget=6))
    play(policy, scenes=benchmark.env.scenes, num_scenes=2)
    assert policy.alive == [1] * 6


@dataclass(frozen=True, kw_only=True)
class StopsAfter(Policy):
    """Scene i stops after `glimpses[i]` choices, and looks at random before."""

    glimpses: tuple[int, ...]

    def __call__(self, episode: Episode, generators: Any) -> Viewpoint:
        assert not self.rollout.finished(episode).any()  # it is asked only of those that go on
        return draw_viewpoints(generators, min_scale=0.25)

    def choose(self, episode: Episode, generators: Any) -> Choice:
        names = [int(scene.name.rpartition("/")[2]) for scene in episode.scenes]
        stop = episode.looks >= torch.tensor([self.glimpses[i] for i in names])
        return Choice(viewpoint=self(episode, generators), stop=stop)


@pytest.mark.parametrize("initial", ["full_scene", None])
def test_what_is_known_stays_after_stopping(benchmark: Benchmark, initial: Any) -> None:
    rollout = replace(benchmark.env.rollout, budget=3, initial_glimpse=initial)
    policy = StopsAfter(rollout=rollout, glimpses=(3, 1, 0, 2))
    free = RandomPolicy(rollout=rollout)
    kwargs: dict[str, Any] = {"scenes": benchmark.env.scenes, "num_scenes": 4, "name": "x"}
    found, whole = play(policy, **kwargs), play(free, **kwargs)
    given = int(initial is not None)
    assert found.num_glimpses == whole.num_glimpses == 3 + given
    assert found.taken.sum(axis=1).tolist() == [3 + given, 1 + given, given, 2 + given]
    for i, glimpses in enumerate(found.taken.sum(axis=1)):
        np.testing.assert_allclose(found.viewpoints[i, :glimpses], whole.viewpoints[i, :glimpses])
        assert not found.viewpoints[i, glimpses:].any()
        for name, values in found.potentials.items():
            expected = whole.potentials[name][i, :glimpses]
            np.testing.assert_allclose(values[i, :glimpses], expected, atol=1e-4)
            assert (values[i, glimpses:] == values[i, max(glimpses - 1, 0)]).all()
    steps = play_batch(policy, scenes=benchmark.env.scenes, indices=range(4), name="x")
    assert len(steps) == found.num_glimpses and steps[-1].glimpses.tolist()[0] == 3 + given


def test_everyone_may_stop_at_once(benchmark: Benchmark) -> None:
    policy = StopsAfter(rollout=benchmark.env.rollout, glimpses=(0, 0))
    found = play(policy, scenes=benchmark.env.scenes, num_scenes=2)
    assert found.viewpoints.shape == (2, 3, 3) and found.taken.sum() == 2
    summary = run({"a": policy}, benchmark, num_scenes=2)
    assert summary["policies"]["a"]["glimpses"] == [1, 1, 1]
    assert summary["policies"]["a"]["return_mean"] == 0


# -- what else could have been chosen --------------------------------------------------------------


def test_choices_are_ranked_among_candidates(benchmark: Benchmark) -> None:
    policy = POLICIES["coarse_to_fine"](benchmark.env.rollout)
    scenes, peek = benchmark.env.scenes, Peek(num_candidates=5, potential="prob")
    played = play(policy, scenes=scenes, num_scenes=3, name="x", peek=peek)
    plain = play(policy, scenes=scenes, num_scenes=3, name="x")
    assert same(played, plain)  # looking ahead changes no choice

    generators = [canvit_agents.judging.playing._generator(0, "candidates", i) for i in range(3)]
    oracle = Oracle(rollout=policy.rollout, num_candidates=5)
    steps = play_batch(policy, scenes=scenes, indices=range(3), name="x")
    for t, step in enumerate(steps[:-1]):
        tried = oracle.candidates(step, generators)
        after = torch.stack([policy.rollout.look(step, v).potentials["prob"] for v in tried])
        chosen = steps[t + 1].potentials["prob"]
        found = {name: values[:, t + 1] for name, values in played.peeks.items()}
        np.testing.assert_allclose(found["best_candidate"], after.amax(dim=0), atol=1e-5)
        expected = 1 + (after > chosen).sum(dim=0)
        np.testing.assert_array_equal(found["rank"], expected)
    assert all(np.isnan(values[:, 0]).all() for values in played.peeks.values())


def test_only_choices_are_ranked(benchmark: Benchmark) -> None:
    policy = StopsAfter(rollout=benchmark.env.rollout, glimpses=(2, 1, 0))
    peek = Peek(num_candidates=3, potential="prob")
    kwargs: dict[str, Any] = {"scenes": benchmark.env.scenes, "num_scenes": 3, "name": "x"}
    found = play(policy, **kwargs, peek=peek).peeks
    whole = play(RandomPolicy(rollout=policy.rollout), **kwargs, peek=peek).peeks
    chosen = np.array([[False, True, True], [False, True, False], [False, False, False]])
    for name in ("best_candidate", "rank"):
        assert (np.isnan(found[name]) == ~chosen).all()
        np.testing.assert_allclose(found[name][chosen], whole[name][chosen], atol=1e-4)


def test_a_blind_first_choice_is_ranked_too(benchmark: Benchmark) -> None:
    policy = POLICIES["random"](benchmark.env.rollout)
    peek = Peek(num_candidates=4, potential="log_prob")
    played = play(policy, scenes=benchmark.env.scenes, num_scenes=3, peek=peek)
    assert played.peeks["rank"].shape == (3, 3)
    assert np.isin(played.peeks["rank"], range(1, 6)).all()


def test_regret_is_reported_and_kept(benchmark: Benchmark, tmp_path: Path) -> None:
    policies = quick(benchmark, ("target",))
    summary = run(policies, benchmark, out=tmp_path, num_scenes=3, candidates=3)
    found = summary["policies"]["target"]["regret"]
    assert found["candidates"] == 3 and found["rank"][0] is None
    assert 1 <= found["rank"][1] <= 4
    again = run(policies, benchmark, out=tmp_path, num_scenes=3, candidates=3)
    assert again == summary
    assert "regret" not in run(policies, benchmark, num_scenes=3)["policies"]["target"]


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
        assert row["accuracy"] == pytest.approx(row["potentials"]["correct"])
        expected = row["potentials"]["log_prob"][-1] - row["potentials"]["log_prob"][0]
        assert row["return_mean"] == pytest.approx(expected)
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


def test_the_summary_follows_from_the_files_alone(benchmark: Benchmark, tmp_path: Path) -> None:
    summary = run(quick(benchmark), benchmark, out=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    loaded = {
        name: load_evidence(tmp_path / policy["file"])
        for name, policy in manifest["policies"].items()
    }
    assert summarize(loaded) == summary
    assert manifest["scenes"]["count"] == 6 and manifest["backbone"]["sha256"] == "0" * 64


def test_trained_policies_are_compared_with_all_others(
    benchmark: Benchmark, save_untrained: Callable[..., Path], tmp_path: Path
) -> None:
    directory = save_untrained(benchmark.env, env_kwargs={"budget": 2})
    learned = load_policy(directory, env_id=ENV, env=benchmark.env)
    policies = {"mine": learned, **quick(benchmark)}
    summary = run(policies, benchmark, out=tmp_path / "out", num_scenes=3)
    assert [name for name in summary["paired"] if name.startswith("mine")] == [
        f"mine - {name}" for name in QUICK
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["policies"]["mine"]["settings"]["sha256"] == learned.sha256


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

    monkeypatch.setattr(canvit_agents.judging.evaluate, "play", counted)
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
    assert again(candidates=2) == 9


def test_a_damaged_file_is_played_anew(
    benchmark: Benchmark, plays: list[str], tmp_path: Path
) -> None:
    policies = quick(benchmark, ("target",))
    before = run(policies, benchmark, out=tmp_path, num_scenes=2)
    (saved,) = tmp_path.glob("*.parquet")
    saved.write_bytes(saved.read_bytes()[:100])
    with pytest.warns(UserWarning, match="is damaged, so its policy is played again"):
        assert run(policies, benchmark, out=tmp_path, num_scenes=2) == before
    assert plays == ["target", "target"]


def test_the_price_of_a_glimpse_is_part_of_what_was_run(
    benchmark: Benchmark, make_vector: MakeVector
) -> None:
    def settings(**kwargs: Any) -> dict[str, Any]:
        env = make_vector(1, budget=2, **kwargs)
        found = replace(benchmark, env=env)
        policy = quick(found, ("target",))["target"]
        return canvit_agents.judging.evaluate.settings_of(
            policy, name="a", benchmark=found, num_scenes=1, seed=0, candidates=None
        )

    assert settings(glimpse_cost=0.5)["glimpse_cost"] == 0.5
    assert settings(stop_action=True) == settings()  # baselines never stop
    assert "glimpse_cost" not in settings()  # so that hashes of earlier runs hold


def test_flops_of_a_glimpse_are_those_of_the_model(
    make_vector: MakeVector, make_segmentation_rollout: Callable[..., Rollout]
) -> None:
    rollout = make_vector(1).rollout
    config = rollout.task.model.canvit.config
    glimpse = glimpse_flops(config, glimpse_grid=4, canvas_grid=8)
    assert flops_per_glimpse(rollout) == glimpse + 2 * config.backbone.dim * 16
    expected = glimpse + 2 * 64 * config.canvas_dim * 47
    assert flops_per_glimpse(make_segmentation_rollout()) == expected


# -- environments ----------------------------------------------------------------------------------


def test_benchmarks_are_made_by_id(env_kwargs: dict[str, dict[str, Any]]) -> None:
    kwargs = {**env_kwargs[ENV], "budget": 2}
    benchmark = make_benchmark(f"canvit_gym:{ENV}", split="test_style", env_kwargs=kwargs)
    assert (benchmark.env_id, benchmark.split) == (ENV, "test_style")
    assert benchmark.env.rollout.budget == 2
    assert benchmark.env.scenes[0].name == "emoji/test_style/0"


def test_pictures(benchmark: Benchmark, tmp_path: Path) -> None:
    from PIL import Image

    from canvit_agents.pages.filmstrips import draw_filmstrips

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
