"""The run directory that training leaves behind, whichever learner it has.

A run directory holds

run.json: what decides the outcome, written before anything is learned; a resumed run must agree.
training.pt: the snapshot that a resumed run goes on from: tensors and plain values, no pickle.
policy.safetensors, policy.json, README.md: the policy as of the last snapshot.
curve.jsonl: a line of figures for each update up to the last one, and tensorboard/ with the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from canvit_agents.judging.manifest import versions
from canvit_agents.policies.networks import PolicyNetwork
from canvit_agents.policies.saved import RECORD, PolicyRecord, save_policy
from canvit_gym.files import append_line, read_json, write_json
from canvit_gym.model.identity import BackboneIdentity
from canvit_gym.training.common import (
    has_snapshot,
    load_snapshot,
    save_snapshot,
    trim_lines,
)

RUN, CURVE = "run.json", "curve.jsonl"

_HINT = "choose another --out, or repeat the training there"


class Learner(Protocol):
    """A protocol of what trains a policy on an environment, in steps that can be saved and
    continued.

    timesteps: how many glimpses it has learned from so far, without those of a warm start.
    """

    @property
    def timesteps(self) -> int: ...

    def learn(self, total: int, run: Run) -> None:
        """Learn until `total` glimpses, and tell the run after each update (`Run.report`)."""
        ...

    def network(self) -> PolicyNetwork:
        """The policy as it is now, on the CPU."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, from which `load_state_dict` goes on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(kw_only=True)
class Run:
    """A run directory. settings: what decides the outcome, JSON values: env, env_kwargs, backbone,
    algorithm, seed, hyperparameters. progress: whether bars are shown."""

    out: Path
    settings: dict[str, Any]
    progress: bool = True
    restored: dict[str, Any] | None = field(default=None, init=False)
    """The snapshot to go on from, where there is one."""

    @classmethod
    def begin(
        cls, out: Path, *, settings: dict[str, Any], resume: bool, device: str, progress: bool
    ) -> Run:
        """Make the directory ready, or continue the run in it.

        Raises FileExistsError where it holds a run and `resume` is False, ValueError where that run
        has other settings or is damaged, and OSError where its settings can not be written.
        """
        path = out / RUN
        begun = has_snapshot(out) or (out / RECORD).exists()
        if begun and not resume:
            raise FileExistsError(
                f"{out} holds a policy already, or the beginning of one; add --resume, or choose "
                "another --out."
            )
        run = cls(out=out, settings=settings, progress=progress)
        if begun and path.exists():
            run._require_same(read_json(path, hint=_HINT))
        elif begun:
            raise ValueError(
                f"{out} holds no {RUN}, which says how its policy was trained, so it can not be "
                "resumed; choose another --out."
            )
        else:
            write_json(path, settings)
        run.restored = load_snapshot(out, settings=run.settings, device=device)
        return run

    def report(self, learner: Learner, figures: dict[str, float], *, save: bool) -> None:
        """Add a line to the learning curve, and save where `save` says so."""
        append_line(self.out / CURVE, json.dumps(figures))
        if save:
            self.save(learner)

    def save(self, learner: Learner) -> None:
        """Write the snapshot, then the policy."""
        self.save_snapshot(learner=learner.state_dict())
        network = learner.network()
        record = PolicyRecord(
            env=self.settings["env"],
            env_kwargs=self.settings["env_kwargs"],
            backbone=BackboneIdentity(**self.settings["backbone"]),
            network=network.config,
            training={
                "algorithm": self.settings["algorithm"],
                "seed": self.settings["seed"],
                "timesteps": learner.timesteps,
                "versions": versions(),
            },
        )
        save_policy(self.out, network, record)

    def save_snapshot(self, **state: Any) -> None:
        """Replace the snapshot by this one, whole or not at all."""
        save_snapshot(self.out, settings=self.settings, **state)

    def trim_curve(self, timesteps: int) -> None:
        """Drop lines of the learning curve that lie after the snapshot: they come again."""
        trim_lines(self.out / CURVE, key="timesteps", last=timesteps)

    def _require_same(self, before: dict[str, Any]) -> None:
        was = before.get("hyperparameters")
        if _is_past_warm_start(self.out) and isinstance(was, dict) and "warm_start" in was:
            # How long a warm start was that is over does not matter for what comes.
            now = dict(self.settings["hyperparameters"])
            if isinstance(now.get("warm_start"), dict):
                length = was["warm_start"].get("glimpses")
                now["warm_start"] = {**now["warm_start"], "glimpses": length}
            self.settings = {**self.settings, "hyperparameters": now}
        different = [key for key in self.settings if before.get(key) != self.settings[key]]
        if different:
            raise ValueError(
                f"{self.out} was trained with another {' and '.join(different)}; repeat its "
                f"settings, which are in {RUN}, to resume it, or choose another --out."
            )


def _is_past_warm_start(out: Path) -> bool:
    """Whether a run has saved a policy, which it does once its warm start is over."""
    return (out / RECORD).exists()
