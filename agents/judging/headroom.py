"""Is there anything to learn? What policies reach without learning, and what a greedy oracle does.

A score is (policy - full_then_random) / (oracle - full_then_random) in the metric at tT: 0 for
looking anywhere, 1 for trying candidates with the label in hand. What a learned policy can add lies
between the best of the others and the oracle.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from canvit_agents.judging.evaluate import Benchmark, gather, save_results
from canvit_agents.judging.evidence import hash_of
from canvit_agents.judging.playing import batch_size, scene_indices
from canvit_agents.judging.summary import (
    BASELINE,
    bootstraps,
    difference,
    format_interval,
    format_table,
    share,
    summarize,
)
from canvit_agents.policies import POLICIES
from canvit_agents.policies.base import Policy, starting_full
from canvit_agents.policies.oracle import Oracle
from canvit_agents.policies.quadtree import tiles_keep_cells_whole
from canvit_gym import Episode, Rollout, Scenes, Viewpoint
from canvit_gym.envs.actions import ListedActions, tile_actions
from canvit_gym.files import read_json, require_writable, write_json
from canvit_gym.tasks.base import HasEntropyMap

UPPER = "oracle"
FIXED = "fixed_sequence"

_UNLEARNED = ("random", BASELINE, "coarse_to_fine", "fine_to_coarse", "repeated_full_scene")
_GUIDED = "entropy_coarse_to_fine"
_FIXED_FILE = "fixed_sequence.json"


@dataclass(frozen=True, kw_only=True)
class FixedSequence(Policy):
    """The same viewpoints (row, col, scale) in every scene: what is known of all scenes together,
    and of none."""

    viewpoints: tuple[tuple[float, float, float], ...]

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        sequence = torch.tensor(self.viewpoints, device=episode.device)
        chosen = sequence[episode.looks]
        return Viewpoint(centers=chosen[:, :2], scales=chosen[:, 2])


def headroom(
    benchmark: Benchmark,
    *,
    train: Scenes,
    num_scenes: int,
    num_candidates: int = 24,
    out: Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Play what needs no learning and the oracle on the same scenes; return the summary.

    To that of `evaluate` it adds: score, for each policy at tT, None where the oracle reaches no
    more than BASELINE; and headroom, the oracle's difference at tT to the best of the others.
    `train`: scenes on which the best fixed sequence is found, as many as are judged on where there
    are so many. Files are written to `out` as `evaluate` does.
    """
    if out is not None:
        require_writable(out)
    env = benchmark.env
    rollout = starting_full(env.rollout)
    policies: dict[str, Policy] = {name: POLICIES[name](rollout) for name in unlearned(rollout)}
    policies[FIXED] = _fixed_sequence(
        benchmark, rollout, train=train, num_scenes=num_scenes, out=out, progress=progress
    )
    policies[UPPER] = Oracle(rollout=rollout, num_candidates=num_candidates, potential=env.reward)
    evidence = gather(
        policies,
        benchmark=benchmark,
        num_scenes=num_scenes,
        out=out,
        seed=seed,
        progress=progress,
    )
    sampled = bootstraps(evidence)
    best = max((name for name in sampled if name != UPPER), key=lambda n: sampled[n].value[-1])
    found = difference(sampled[UPPER].at(-1), sampled[best].at(-1))
    summary = {
        **summarize(evidence, sampled=sampled),
        "score": {name: share(sampled, name, upper=UPPER) for name in policies},
        "headroom": {"over": best, **found},
    }
    if out is not None:
        save_results(out, evidence, summary)
    return summary


def unlearned(rollout: Rollout) -> list[str]:
    """The names of the policies that know neither labels nor other scenes, as far as they can be
    played here: entropy needs a map of it whose cells no tile cuts."""
    size = rollout.glimpse.canvas_grid_size
    guided = isinstance(rollout.task, HasEntropyMap) and tiles_keep_cells_whole(size)
    return [*_UNLEARNED, *([_GUIDED] if guided else [])]


def find_fixed_sequence(
    rollout: Rollout,
    *,
    scenes: Scenes,
    num_scenes: int,
    candidates: Viewpoint,
    potential: str,
    progress: bool = False,
) -> tuple[tuple[float, float, float], ...]:
    """Greedily, glimpse by glimpse, the candidate after which the potential's mean over the scenes
    is highest; one may come again. Costs budget x candidates glimpses of each scene."""
    listed = candidates.rows.tolist()
    indices = scene_indices(scenes, num_scenes)
    size = batch_size(rollout, scene_size_px=scenes.size_px)
    batches = np.array_split(indices, range(size, num_scenes, size))
    chosen: list[int] = []
    total = rollout.budget * num_scenes * len(listed)
    with tqdm(total=total, desc=FIXED, unit="glimpse", disable=not progress) as bar:
        for _ in range(rollout.budget):
            totals = torch.zeros(len(listed), dtype=torch.float64)
            for batch in batches:
                # Played anew for every glimpse: so only one batch is in memory at a time.
                episode = rollout.start([scenes[int(i)] for i in batch])
                for choice in chosen:
                    episode = rollout.look(episode, _for_all(candidates, choice, episode))
                for i in range(len(listed)):
                    after = rollout.look(episode, _for_all(candidates, i, episode))
                    totals[i] += after.potentials[potential].double().sum().cpu()
                    bar.update(len(batch))
            chosen.append(int(totals.argmax()))
    return tuple((row, col, scale) for row, col, scale in (listed[i] for i in chosen))


def format_headroom(summary: Mapping[str, Any]) -> str:
    """The summary for people, and its answer."""
    last = summary["budget"]
    width = max(len(name) for name in summary["score"])
    lines = [
        format_table(summary),
        "",
        f"score: share of the way from {BASELINE} to {UPPER} at t{last}",
        "",
    ]
    for name, found in summary["score"].items():
        shown = "undefined" if found is None else format_interval(found)
        lines.append(f"{name:{width}}  {shown}")
    if any(found is None or found["low"] is None for found in summary["score"].values()):
        lines += ["", f"No interval where it is unsure that {UPPER} is above {BASELINE} at all."]
    found = {key: value for key, value in summary["headroom"].items() if key != "over"}
    something = found["low"] is not None and found["low"] > 0
    lines += [
        "",
        f"{UPPER} over {summary['headroom']['over']}, the best without labels: "
        f"{format_interval(found)}; "
        + ("there is something to learn." if something else "nothing to learn shows here."),
    ]
    return "\n".join(lines)


def _fixed_sequence(
    benchmark: Benchmark,
    rollout: Rollout,
    *,
    train: Scenes,
    num_scenes: int,
    out: Path | None,
    progress: bool,
) -> FixedSequence:
    """The best one; searched once for a run directory, which keeps it."""
    env = benchmark.env
    listed = env.actions if isinstance(env.actions, ListedActions) else tile_actions()
    count = min(num_scenes, len(train))
    searched = {
        "env": benchmark.env_id,
        "env_kwargs": benchmark.env_kwargs,
        "budget": rollout.budget,
        "potential": env.reward,
        "backbone": env.backbone.sha256,
        "precision": rollout.precision,
        "glimpse": asdict(rollout.glimpse),
        "num_scenes": count,
        "num_candidates": listed.viewpoints.batch_size,
    }
    searched = json.loads(json.dumps(searched, sort_keys=True, default=str))
    path = None if out is None else out / _FIXED_FILE
    if path is not None and (found := _saved_sequence(path, searched=searched)) is not None:
        return FixedSequence(rollout=rollout, viewpoints=found)
    viewpoints = find_fixed_sequence(
        rollout,
        scenes=train,
        num_scenes=count,
        candidates=listed.viewpoints,
        potential=env.reward,
        progress=progress,
    )
    if path is not None:
        content = {"searched": searched, "viewpoints": viewpoints}
        write_json(path, {**content, "sha256": hash_of(content)})
    return FixedSequence(rollout=rollout, viewpoints=viewpoints)


def _saved_sequence(
    path: Path, *, searched: dict[str, Any]
) -> tuple[tuple[float, float, float], ...] | None:
    """Returns what an earlier search in the same setting found; None where there was none, or where
    its file is damaged, which is said."""
    if not path.exists():
        return None
    fields = {"searched": dict, "viewpoints": list, "sha256": str}
    try:
        saved = read_json(path, fields=fields, hint="it is searched again")
        if saved.pop("sha256") != hash_of(saved):
            raise ValueError(f"{path} is damaged: its content changed; it is searched again.")
    except (OSError, ValueError) as error:
        warnings.warn(str(error), stacklevel=3)
        return None
    if saved["searched"] != searched:
        return None
    return tuple((row, col, scale) for row, col, scale in saved["viewpoints"])


def _for_all(candidates: Viewpoint, index: int, episode: Episode) -> Viewpoint:
    """One of the candidates for every scene."""
    return candidates[torch.full((episode.batch_size,), index)].to(episode.device)
