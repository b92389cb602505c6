"""Judge policies: the same scenes for all, accuracy after each glimpse, paired differences.

Every policy gets the same number of glimpses, t0 to tT. For most t0 is the full scene; a policy
that starts blind (`random`) chooses t0 itself and counts from there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import crc32

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

import canvit_gym  # noqa: F401  (registers the environments)
from agents.policies.base import Policy, num_glimpses
from agents.policies.learned import LearnedPolicy
from agents.statistics import paired_difference, share_of_the_way
from canvit_gym.envs.rollout import Episode
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.scenes.base import Scenes
from canvit_gym.scenes.folder import FolderScenes

BASELINE = "full_then_random"
"""What every difference in the table is taken to: the honest random policy."""

UPPER = "target"

_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """An environment to be judged in, and how it was asked for."""

    env_id: str
    split: str
    env_kwargs: dict[str, Any]
    env: CanViTVectorEnv


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """What one policy did on N scenes, t0 to tT.

    correct: bool [N, T + 1]. potential: float32 [N, T + 1], the one that rewards are differences
    of. viewpoints: float32 [N, T + 1, 3], (row, col, scale).
    """

    correct: np.ndarray
    potential: np.ndarray
    viewpoints: np.ndarray

    @property
    def returns(self) -> np.ndarray:
        """Sum of the rewards after t0, float32 [N]."""
        return self.potential[:, -1] - self.potential[:, 0]


def make_benchmark(
    env_id: str, *, split: str = "test", env_kwargs: Mapping[str, Any] | None = None
) -> Benchmark:
    """Make the environment by its id, from the keyword arguments that it takes.

    Raises ValueError where the id is not one of this package's.
    """
    env_id = env_id.rpartition(":")[2]  # without the module in "canvit_gym:CanViT-Emoji-v0"
    kwargs = dict(env_kwargs or {})
    if not str(gym.spec(env_id).vector_entry_point).startswith("canvit_gym."):
        ours = sorted(name for name in gym.registry if name.startswith("CanViT-"))
        raise ValueError(
            f"{env_id} is not an environment of canvit-gym; choose one of {', '.join(ours)}."
        )
    env = gym.make_vec(
        env_id, num_envs=1, vectorization_mode="vector_entry_point", split=split, **kwargs
    ).unwrapped
    assert isinstance(env, CanViTVectorEnv)
    return Benchmark(env_id=env_id, split=split, env_kwargs=kwargs, env=env)


def evaluate(
    policies: Mapping[str, Policy],
    *,
    benchmark: Benchmark,
    num_scenes: int,
    out: Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Play every policy on the same scenes and return the summary.

    With `out`, each policy's trajectories are saved there as it finishes, to be taken from there
    when the same is asked again, and the summary is written to summary.json.
    """
    played = {}
    for name, policy in policies.items():
        settings = _settings(policy, name, benchmark, num_scenes=num_scenes, seed=seed)
        path = None if out is None else _path(out, name, settings)
        finished = None if path is None else _load(path)
        if finished is None:
            finished = play(
                policy,
                scenes=benchmark.env.scenes,
                num_scenes=num_scenes,
                potential=benchmark.env.reward,
                name=name,
                seed=seed,
                progress=progress,
            )
            if path is not None:
                _save(path, finished, settings)
        played[name] = finished
    learned = [name for name, policy in policies.items() if isinstance(policy, LearnedPolicy)]
    summary = summarize(played, learned=learned, benchmark=benchmark)
    if out is not None:
        _write(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def play(
    policy: Policy,
    *,
    scenes: Scenes,
    num_scenes: int,
    potential: str = "log_prob",
    name: str = "",
    seed: int = 0,
    progress: bool = False,
) -> Trajectories:
    """What a policy does on the first `num_scenes` scenes (see `scene_indices`).

    Chance depends on the seed, the policy's name and the scene alone.
    """
    indices = scene_indices(scenes, num_scenes)
    bar = tqdm(total=num_scenes, desc=name, unit="scene", disable=not progress)
    batches = []
    for batch in np.array_split(indices, range(_BATCH, num_scenes, _BATCH)):
        steps = play_batch(policy, scenes=scenes, indices=batch, name=name, seed=seed)
        batches.append(_trajectories(steps, potential=potential))
        bar.update(len(batch))
    bar.close()
    return Trajectories(
        **{
            f.name: np.concatenate([getattr(b, f.name) for b in batches])
            for f in fields(Trajectories)
        }
    )


@torch.inference_mode()
def play_batch(
    policy: Policy, *, scenes: Scenes, indices: Iterable[int], name: str, seed: int = 0
) -> list[Episode]:
    """The episodes of these scenes after each glimpse, t0 to tT."""
    indices = [int(i) for i in indices]
    generators = [_generator(seed, name, i) for i in indices]
    rollout = policy.rollout
    episode = rollout.start([scenes[i] for i in indices])
    steps = [] if rollout.initial_glimpse is None else [episode]
    while not bool(rollout.finished(episode).all()):
        episode = rollout.look(episode, policy(episode, generators))
        steps.append(episode)
    return steps


def scene_indices(scenes: Scenes, num_scenes: int) -> np.ndarray:
    """Which scenes are played: the same for every policy, int64 [num_scenes], ascending.

    Generated scenes are alike, so the first ones are taken; a folder is sorted by class, so its
    pictures are taken evenly spaced.
    """
    if not 1 <= num_scenes <= len(scenes):
        raise ValueError(
            f"{num_scenes} scenes were asked for, but there are {len(scenes)}; "
            f"give a number from 1 to {len(scenes)}."
        )
    indices = np.arange(num_scenes)
    return indices * len(scenes) // num_scenes if isinstance(scenes, FolderScenes) else indices


def _generator(seed: int, name: str, scene: int) -> torch.Generator:
    words = np.random.SeedSequence([seed, crc32(name.encode()), scene]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]))


def _trajectories(steps: list[Episode], *, potential: str) -> Trajectories:
    def over_steps(name: str) -> np.ndarray:
        return torch.stack([step.potentials[name] for step in steps], dim=1).cpu().numpy()

    return Trajectories(
        correct=over_steps("correct") > 0.5,
        potential=over_steps(potential),
        viewpoints=steps[-1].history[:, : len(steps)].cpu().numpy(),
    )


# -- what came out ---------------------------------------------------------------------------------


def summarize(
    played: Mapping[str, Trajectories], *, learned: list[str], benchmark: Benchmark
) -> dict[str, Any]:
    """The content of summary.json: JSON values only."""
    env = benchmark.env
    return {
        "env": benchmark.env_id,
        "backbone": asdict(env.backbone),
        "split": benchmark.split,
        "num_scenes": len(next(iter(played.values())).correct),
        "budget": env.rollout.budget,
        "policies": {
            name: {
                "accuracy": p.correct.mean(axis=0).tolist(),
                "return_mean": float(p.returns.mean(dtype=np.float64)),
            }
            for name, p in played.items()
        },
        "paired": paired_differences(played, learned=learned),
        "share_of_the_way": shares(played, learned=learned),
    }


def pairs(names: list[str], *, learned: list[str]) -> list[tuple[str, str]]:
    """Which policies are compared: each trained one with every other that is not trained, or
    comes after it; and each of the rest with BASELINE."""
    compared = [
        (a, b)
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if a in learned and (b not in learned or i < j)
    ]
    if BASELINE in names:
        compared += [(a, BASELINE) for a in names if a not in (*learned, BASELINE)]
    return compared


def paired_differences(
    played: Mapping[str, Trajectories], *, learned: list[str]
) -> dict[str, dict[str, list[float]]]:
    """Accuracy of A minus accuracy of B at t0 .. tT, with 95 % intervals, by "A - B"."""
    compared = pairs(list(played), learned=learned)
    if not compared:
        return {}
    estimate = paired_difference(
        np.stack([played[a].correct for a, _ in compared], axis=1),
        np.stack([played[b].correct for _, b in compared], axis=1),
    )
    return {
        f"{a} - {b}": {
            "difference": estimate.value[i].tolist(),
            "low": estimate.low[i].tolist(),
            "high": estimate.high[i].tolist(),
        }
        for i, (a, b) in enumerate(compared)
    }


def shares(
    played: Mapping[str, Trajectories], *, learned: list[str]
) -> dict[str, dict[str, float]]:
    """How far each trained policy gets from BASELINE to UPPER in accuracy at tT, where these were
    played and differ."""
    if not {BASELINE, UPPER} <= set(played):
        return {}
    last = {name: p.correct[:, -1] for name, p in played.items()}
    result = {}
    for name in learned:
        estimate = share_of_the_way(last[name], base=last[BASELINE], upper=last[UPPER])
        if np.isnan(estimate.value):
            continue
        result[f"{name} from {BASELINE} to {UPPER}"] = {
            "share": float(estimate.value),
            "low": float(estimate.low),
            "high": float(estimate.high),
        }
    return result


def format_table(summary: Mapping[str, Any]) -> str:
    """The summary for people."""
    policies, paired = summary["policies"], summary["paired"]
    last = summary["budget"]
    width = max(len("policy"), *(len(name) for name in policies))
    steps = [f"t{t}" for t in range(len(next(iter(policies.values()))["accuracy"]))]
    lines = [
        f"{summary['env']}, {summary['split']} split, {summary['num_scenes']} scenes, "
        f"backbone {summary['backbone']['name']}: accuracy after each glimpse",
        "",
        f"{'policy':{width}}  "
        + "  ".join(f"{step:>5}" for step in steps)
        + f"  {'return':>7}  t{last} over {BASELINE}",
    ]
    for name, row in policies.items():
        line = f"{name:{width}}  " + "  ".join(f"{a:5.3f}" for a in row["accuracy"])
        line += f"  {row['return_mean']:+7.3f}"
        if difference := paired.get(f"{name} - {BASELINE}"):
            value, low, high = (difference[key][-1] for key in ("difference", "low", "high"))
            line += f"  {value:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(line)
    for name, share in summary.get("share_of_the_way", {}).items():
        lines += [
            "",
            f"{name}: {share['share']:.0%} of the way [{share['low']:.0%}, {share['high']:.0%}]",
        ]
    return "\n".join(lines)


# -- files -----------------------------------------------------------------------------------------


def _settings(
    policy: Policy, name: str, benchmark: Benchmark, *, num_scenes: int, seed: int
) -> str:
    """Everything that decides a policy's trajectories, as JSON."""
    rollout = policy.rollout
    settings = {
        "policy": {"name": name, **policy.settings},
        "env": benchmark.env_id,
        "env_kwargs": benchmark.env_kwargs,
        "split": benchmark.split,
        "backbone": benchmark.env.backbone.sha256,
        "reward": benchmark.env.reward,
        "num_glimpses": num_glimpses(rollout),
        "initial_glimpse": rollout.initial_glimpse,
        "precision": rollout.precision,
        "glimpse": asdict(rollout.glimpse),
        "num_scenes": num_scenes,
        "seed": seed,
    }
    return json.dumps(settings, sort_keys=True, default=str)


def _path(out: Path, name: str, settings: str) -> Path:
    digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
    return out / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name).strip('_.')}-{digest}.npz"


def _save(path: Path, trajectories: Trajectories, settings: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, settings=np.array(settings), **vars(trajectories))
    partial.replace(path)  # an interruption never leaves half a file


def _load(path: Path) -> Trajectories | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as saved:
            return Trajectories(**{f.name: saved[f.name] for f in fields(Trajectories)})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None  # damaged: play it again


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
