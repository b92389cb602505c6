"""Playing: what a policy does on scenes, recorded glimpse by glimpse.

Every policy may take the same number of glimpses, t0 to tT. For most t0 is the full scene; a policy
that starts blind (`random`) chooses t0 itself and counts from there. Where one stops early, what it
knew stays as it was until tT.

The same scenes in the same batches give the same bits. In batches of another size, matrix products
add up in another order: then numbers agree as float32 does (about 1e-5 in canvases and potentials),
and where two choices are equally good to that precision, a policy may take the other one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from canvit_agents.judging.durations import say_duration
from canvit_agents.judging.evidence import Trajectories, concatenate, printable, scene_digest
from canvit_agents.policies.base import Policy
from canvit_agents.policies.oracle import Oracle
from canvit_gym import Episode, Rollout, Scenes
from canvit_gym.model.recurrent import state_bytes

MAX_BATCH = 128
"""Scenes side by side at most: more are no faster."""

BATCH_BYTES = 2 * 2**30
"""Bytes that the scenes of a batch may take, by the estimate of `batch_size`; the model comes on
top."""

_STATES, _BELIEFS = 8, 4  # copies alive while a glimpse is taken and judged, rounded up


@dataclass(frozen=True, kw_only=True)
class Peek:
    """Before each choice, what `num_candidates` viewpoints would have led to, in this potential."""

    num_candidates: int
    potential: str


def play(
    policy: Policy,
    *,
    scenes: Scenes,
    num_scenes: int | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    name: str = "",
    seed: int = 0,
    peek: Peek | None = None,
    progress: bool = False,
) -> Trajectories:
    """Plays a policy on scenes and returns what it did, in the order of the indices.

    Give either `num_scenes`, for as many scenes as `scene_indices` picks, or the `indices`
    themselves, each in 0 .. len(scenes) - 1. Chance depends on the seed, the policy's name and the
    scene alone, so parts played apart make the whole, but for rounding (see the module). The
    progress bar counts steps: of each scene, its start and each choice of the budget.

    Raises ValueError where both or neither are given, or indices are none, repeated or beyond.
    """
    if (num_scenes is None) == (indices is None):
        raise ValueError("play takes either num_scenes or indices; give one of them.")
    if num_scenes is not None:
        chosen = scene_indices(scenes, num_scenes)
    else:
        chosen = _checked_indices(indices, count=len(scenes))
    size = batch_size(policy.rollout, scene_size_px=scenes.size_px)
    total = len(chosen) * (1 + policy.rollout.budget)
    parts = []
    if progress:
        tries = policy.num_candidates if isinstance(policy, Oracle) else 0
        tries += 0 if peek is None else peek.num_candidates
        say_duration(
            f"Playing {printable(name)}",
            rollout=policy.rollout,
            scene=scenes[int(chosen[0])],
            glimpses=total + len(chosen) * policy.rollout.budget * tries,
        )
    with tqdm(total=total, desc=printable(name), unit="step", disable=not progress) as bar:
        for batch in np.array_split(chosen, range(size, len(chosen), size)):
            record = _Record(peek=peek, indices=batch, seed=seed)
            for episode in steps(policy, scenes=scenes, indices=batch, name=name, seed=seed):
                record.add(episode, rollout=policy.rollout)
                bar.update(len(batch))
            parts.append(record.trajectories())
    return concatenate(parts)


def play_batch(
    policy: Policy, *, scenes: Scenes, indices: Iterable[int], name: str, seed: int = 0
) -> list[Episode]:
    """The episodes of these scenes after each glimpse, t0 to tT: for few scenes, because all of
    them are kept."""
    every = list(steps(policy, scenes=scenes, indices=indices, name=name, seed=seed))
    return every[int(policy.rollout.initial_glimpse is None) :]


def steps(
    policy: Policy, *, scenes: Scenes, indices: Iterable[int], name: str, seed: int = 0
) -> Iterator[Episode]:
    """The episodes of these scenes before the first choice, and after each of the budget's, one at
    a time."""
    indices = [int(i) for i in indices]
    generators = [_generator(seed, name, i) for i in indices]
    episode = policy.rollout.start([scenes[i] for i in indices])
    yield episode
    for _ in range(policy.rollout.budget):
        episode = _after_choice(policy, episode, generators)
        yield episode


def _after_choice(
    policy: Policy, episode: Episode, generators: Sequence[torch.Generator]
) -> Episode:
    """Those that have not ended go on."""
    going = _going(policy.rollout, episode)
    if not going:
        return episode
    some = episode.select(going)
    with torch.inference_mode():
        choice = policy.choose(some, [generators[i] for i in going])
    return episode.put(going, policy.rollout.act(some, choice))


def _going(rollout: Rollout, episode: Episode) -> list[int]:
    """Which of the episodes have not ended."""
    return (~rollout.finished(episode)).nonzero()[:, 0].tolist()


def scene_indices(scenes: Scenes, num_scenes: int) -> np.ndarray:
    """Which scenes are played: the same for every policy, int64 [num_scenes], ascending.

    Scenes that say `exchangeable = True`, such as generated ones, are alike wherever one looks, so
    the first ones are taken. All others may be sorted, by class or by origin, so they are taken
    evenly spaced.
    """
    if not 1 <= num_scenes <= len(scenes):
        raise ValueError(
            f"{num_scenes} scenes were asked for, but there are {len(scenes)}; "
            f"give a number from 1 to {len(scenes)}."
        )
    indices = np.arange(num_scenes)
    exchangeable = getattr(scenes, "exchangeable", False) is True
    return indices if exchangeable else indices * len(scenes) // num_scenes


def _checked_indices(indices: Sequence[int] | np.ndarray | None, *, count: int) -> np.ndarray:
    given = np.asarray(indices)
    whole = given.ndim == 1 and given.size > 0 and np.issubdtype(given.dtype, np.integer)
    if not whole or len(np.unique(given)) < len(given) or given.min() < 0 or given.max() >= count:
        raise ValueError(
            f"indices must be different integers from 0 to {count - 1}, at least one; give which "
            "of the scenes to play."
        )
    return given.astype(np.int64)


def batch_size(rollout: Rollout, *, scene_size_px: int) -> int:
    """How many scenes are played side by side: as BATCH_BYTES hold, from 1 to MAX_BATCH.

    A scene takes its picture (as bytes and floats), states and beliefs; what beliefs take that are
    enlarged to be judged, the task limits.
    """
    state, belief = _bytes(rollout)
    picture = (3 + 1 + 4 * 3) * scene_size_px**2
    one = picture + _STATES * state + _BELIEFS * belief
    return max(1, min(MAX_BATCH, BATCH_BYTES // one))


@torch.inference_mode()
def _bytes(rollout: Rollout) -> tuple[int, int]:
    """Bytes of a state and of a belief about it, of one scene."""
    model = rollout.task.model
    state = model.init_state(batch_size=1, canvas_grid_size=rollout.glimpse.canvas_grid_size)
    return state_bytes(state), rollout.task.belief(state).nbytes


def _generator(seed: int, name: str, scene: int) -> torch.Generator:
    words = np.random.SeedSequence(
        [seed, crc32(name.encode("utf-8", "surrogateescape")), scene]
    ).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]))


# -- recording -------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Record:
    """Keeps what is needed of a batch's episodes, so that they themselves need not be."""

    peek: Peek | None
    indices: np.ndarray
    seed: int
    rows: list[dict[str, dict[str, np.ndarray]]] = field(default_factory=list)
    last: Episode | None = None
    candidates: Tensor | None = None
    generators: Sequence[torch.Generator] = ()

    def add(self, episode: Episode, *, rollout: Rollout) -> None:
        """The episodes before the first choice or after one."""
        blind = self.last is None and rollout.initial_glimpse is None
        if not blind:
            peeks = {} if self.peek is None else self._judge_choice(episode, self.peek)
            self.rows.append(
                {
                    "potentials": _to_numpy(episode.potentials),
                    "outcome": _to_numpy(episode.outcome),
                    "peeks": peeks,
                }
            )
        self.last = episode
        if self.peek is not None:
            self.candidates = self._look_ahead(episode, self.peek, rollout)

    def trajectories(self) -> Trajectories:
        assert self.last is not None
        scenes = self.last.scenes
        return Trajectories(
            scenes=np.array(self.indices, dtype=np.int64),
            names=tuple(scene.name for scene in scenes),
            digests=tuple(scene_digest(scene) for scene in scenes),
            viewpoints=self.last.history[:, : len(self.rows)].cpu().numpy(),
            potentials=self._over_steps("potentials"),
            outcome=self._over_steps("outcome"),
            peeks=self._over_steps("peeks"),
        )

    def _over_steps(self, kind: str) -> dict[str, np.ndarray]:
        names = self.rows[0][kind]
        return {name: np.stack([row[kind][name] for row in self.rows], axis=1) for name in names}

    def _look_ahead(self, episode: Episode, peek: Peek, rollout: Rollout) -> Tensor:
        """The potential after each candidate: float32 [candidates, B], 0 for ended episodes. The
        candidates of a scene at each t are the same for all policies that start alike."""
        if not self.generators:
            self.generators = [_generator(self.seed, "candidates", int(i)) for i in self.indices]
        oracle = Oracle(rollout=rollout, num_candidates=peek.num_candidates)
        found = torch.zeros(peek.num_candidates, episode.batch_size, device=episode.device)
        if going := _going(rollout, episode):
            some = episode.select(going)
            tried = oracle.candidates(some, [self.generators[i] for i in going])
            after = [rollout.look(some, v).potentials[peek.potential] for v in tried]
            found[:, going] = torch.stack(after)
        return found

    def _judge_choice(self, episode: Episode, peek: Peek) -> dict[str, np.ndarray]:
        if self.candidates is None or self.last is None:  # the glimpse was given
            unknown = np.full(episode.batch_size, np.nan, dtype=np.float32)
            return {"best_candidate": unknown, "rank": unknown}
        better = self.candidates > episode.potentials[peek.potential]
        ranks = {"best_candidate": self.candidates.amax(dim=0), "rank": 1 + better.sum(dim=0)}
        chosen = episode.glimpses > self.last.glimpses
        return {
            name: values.float().where(chosen, torch.nan).cpu().numpy()
            for name, values in ranks.items()
        }


def _to_numpy(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """With integers as int32, which hold every class and every count of pixels."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    return {
        name: x.astype(np.int32) if np.issubdtype(x.dtype, np.integer) else x
        for name, x in arrays.items()
    }
