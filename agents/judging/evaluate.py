"""Judge policies: the same scenes for all, metrics after each glimpse, paired differences.

A run directory holds one Parquet file for each policy (see `judging.evidence`), summary.json, which
follows from these files alone, and manifest.json, which says what was run.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

import canvit_gym  # noqa: F401  (registers the environments)
from canvit_agents.judging.evidence import Evidence, evidence_path, load_evidence, save_evidence
from canvit_agents.judging.manifest import MANIFEST, make_manifest, versions
from canvit_agents.judging.playing import Peek, play, play_batch, scene_indices
from canvit_agents.judging.summary import format_table, summarize
from canvit_agents.policies.base import Policy, num_glimpses
from canvit_agents.policies.learned import LearnedPolicy
from canvit_gym import CanViTVectorEnv, Rollout
from canvit_gym.envs.backbones import settled
from canvit_gym.envs.make import EnvFactory
from canvit_gym.files import require_writable, write_json
from canvit_gym.registration import env_id_of

__all__ = [
    "Benchmark",
    "evaluate",
    "format_table",
    "gather",
    "make_benchmark",
    "play_batch",
    "save_results",
    "scene_indices",
    "summarize",
]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """An environment to be judged in, and how it was asked for: `name` is the id, with the module
    that registers it where one was given."""

    env_id: str
    name: str
    split: str
    env_kwargs: dict[str, Any]
    env: CanViTVectorEnv


def make_benchmark(
    env_id: str, *, split: str = "test", env_kwargs: Mapping[str, Any] | None = None
) -> Benchmark:
    """Make the environment by its id, from the keyword arguments that it takes.

    Raises ValueError where there is no such id, or it makes no CanViTVectorEnv.
    """
    name, env_id = env_id, env_id_of(env_id)
    kwargs = dict(env_kwargs or {})
    if "split" in kwargs:
        raise ValueError(
            f"split is {kwargs['split']!r} among the keyword arguments; give it by --split."
        )
    _require_ours(env_id)
    kwargs = settled(env_id, kwargs)
    env = gym.make_vec(
        env_id, num_envs=1, vectorization_mode="vector_entry_point", split=split, **kwargs
    ).unwrapped
    assert isinstance(env, CanViTVectorEnv)
    return Benchmark(env_id=env_id, name=name, split=split, env_kwargs=kwargs, env=env)


def _require_ours(env_id: str) -> None:
    """Raise ValueError unless the id makes a CanViTVectorEnv."""
    entry_point: Any = gym.spec(env_id).vector_entry_point
    if isinstance(entry_point, str):
        entry_point = load_env_creator(entry_point)
    if not isinstance(getattr(entry_point, "__self__", None), EnvFactory):
        raise ValueError(
            f"{env_id} is not an environment of canvit-gym; choose one that is, or register one of "
            "your own with canvit_gym.envs.make.EnvFactory."
        )


def evaluate(
    policies: Mapping[str, Policy],
    *,
    benchmark: Benchmark,
    num_scenes: int,
    out: Path | None = None,
    seed: int = 0,
    candidates: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Play every policy on the same scenes and return the summary.

    With `out`, each policy's evidence is saved there as it finishes, to be taken from there when
    the same is asked again, and the summary and the manifest are written beside it. With
    `candidates`, every choice is compared with so many other viewpoints.
    """
    evidence = gather(
        policies,
        benchmark=benchmark,
        num_scenes=num_scenes,
        out=out,
        seed=seed,
        candidates=candidates,
        progress=progress,
    )
    summary = summarize(evidence)
    if out is not None:
        save_results(out, evidence, summary)
    return summary


def gather(
    policies: Mapping[str, Policy],
    *,
    benchmark: Benchmark,
    num_scenes: int,
    out: Path | None = None,
    seed: int = 0,
    candidates: int | None = None,
    progress: bool = True,
) -> dict[str, Evidence]:
    """Returns what each policy does, played or, where `out` has it already, loaded."""
    if out is not None:
        require_writable(out)
    env, evidence = benchmark.env, {}
    peek = None if candidates is None else Peek(num_candidates=candidates, potential=env.reward)
    for name, policy in policies.items():
        settings = settings_of(
            policy,
            name=name,
            benchmark=benchmark,
            num_scenes=num_scenes,
            seed=seed,
            candidates=candidates,
        )
        path = None if out is None else evidence_path(out, settings)
        finished = None if path is None else _finished(path, settings)
        if finished is None:
            seen = play(
                policy,
                scenes=env.scenes,
                num_scenes=num_scenes,
                name=name,
                seed=seed,
                peek=peek,
                progress=progress,
            )
            finished = Evidence(settings=settings, versions=versions(), seen=seen)
            if path is not None:
                save_evidence(path, finished)
        evidence[name] = finished
    return evidence


def save_results(out: Path, evidence: Mapping[str, Evidence], summary: Mapping[str, Any]) -> None:
    """Write summary.json and manifest.json beside the evidence."""
    files = {name: evidence_path(out, e.settings) for name, e in evidence.items()}
    write_json(out / MANIFEST, make_manifest(evidence, files=files))
    write_json(out / "summary.json", summary)


def settings_of(
    policy: Policy,
    *,
    name: str,
    benchmark: Benchmark,
    num_scenes: int,
    seed: int,
    candidates: int | None,
) -> dict[str, Any]:
    """Everything that decides what a policy does and how it is judged: JSON values."""
    env, rollout = benchmark.env, policy.rollout
    task = rollout.task
    settings: dict[str, Any] = {
        "env": benchmark.name,
        "env_kwargs": benchmark.env_kwargs,
        "split": benchmark.split,
        "num_scenes": num_scenes,
        "seed": seed,
        "budget": env.rollout.budget,
        "num_glimpses": num_glimpses(rollout),
        "potential": env.reward,
        "metric": {"name": task.metrics[0].name, **task.scoring},
        "metrics": [asdict(metric) for metric in task.metrics],
        "confidence": task.confidence,
        "candidates": candidates,
        "backbone": env.backbone.to_json(),
        "precision": rollout.precision,
        "glimpse": asdict(rollout.glimpse),
        "flops_per_glimpse": flops_per_glimpse(rollout),
        "policy": {
            "name": name,
            "learned": isinstance(policy, LearnedPolicy),
            "initial_glimpse": rollout.initial_glimpse,
            **policy.settings,
        },
    }
    if env.glimpse_cost:
        settings["glimpse_cost"] = env.glimpse_cost
    # As it comes back from a file: tuples are lists there.
    return json.loads(json.dumps(settings, sort_keys=True, default=str))


def flops_per_glimpse(rollout: Rollout) -> int:
    """FLOPs of one glimpse of one scene, and of reading the task's belief after it."""
    model, glimpse = rollout.task.model, rollout.glimpse
    look = model.glimpse_flops(
        glimpse_size_px=glimpse.glimpse_size_px, canvas_grid_size=glimpse.canvas_grid_size
    )
    return look + model.readout_flops(canvas_grid_size=glimpse.canvas_grid_size)


def _finished(path: Path, settings: dict[str, Any]) -> Evidence | None:
    """The evidence that the file holds; None where it is missing, damaged or something else."""
    try:
        found = load_evidence(path)
    except FileNotFoundError:
        return None
    except ValueError:
        warnings.warn(f"{path} is damaged, so its policy is played again.", stacklevel=3)
        return None
    return found if found.settings == settings else None
