"""Recorded episodes looked at again: what was seen, and what other first choices were worth.

Only viewpoints are taken from the evidence, so the policies themselves are not needed, only the
environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from canvit_agents.judging.durations import say_duration
from canvit_agents.judging.evaluate import Benchmark, make_benchmark, settings_of
from canvit_agents.judging.evidence import Evidence, scene_digest
from canvit_agents.judging.playing import batch_size
from canvit_agents.judging.settings import REPLAYED
from canvit_agents.pages.report.saved import SavedRun
from canvit_agents.pages.web.steps import Step, describe_step
from canvit_agents.policies.base import starting_blind, starting_full
from canvit_agents.policies.repeated import RepeatedFullScene
from canvit_gym import Episode, Rollout, Scene, Viewpoint
from canvit_gym.drawing import PANEL_PX
from canvit_gym.envs.actions import ListedActions, cell_actions

MAPS = 3
"""How many of the episodes get a reward map: one of each kind."""

SAME = 1e-5
"""Potentials closer than this differ by rounding."""

_MAP_GRID = 8  # cells on a side at most: every one costs a glimpse for each scale


class CannotReplayError(ValueError):
    """The environment of the run is not to be had here; the message says why, without a period."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The worth of other first choices, as differences of the potential.

    picture: of the scene, uint8 [H, W, 3]. worth: of each candidate, float64 [scales, G, G].
    candidates: viewpoints (row, col, scale) in the same order, float32 [scales * G * G, 3].
    chosen: what the policy chose.
    """

    picture: np.ndarray
    scales: tuple[float, ...]
    worth: np.ndarray
    candidates: np.ndarray
    chosen: tuple[float, float, float]
    chosen_worth: float

    @property
    def best(self) -> tuple[float, float, float]:
        row, col, scale = self.candidates[int(self.worth.argmax())].tolist()
        return row, col, scale

    @property
    def rank(self) -> int:
        """The rank of the choice among the candidates: 1 where none would have been better."""
        return 1 + int((self.worth > self.chosen_worth + SAME).sum())


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """An episode; gain: the potential's at tT over that at t0. stopped: whether more glimpses might
    have been taken. choices: None where there is no map, or nothing was chosen."""

    scene: int
    name: str
    why: str
    gain: float
    stopped: bool
    steps: tuple[Step, ...]
    choices: Choices | None


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Episodes of one policy. deviation: by how much potentials differ from the recorded ones at
    most, which other machines and precisions make a little more than 0."""

    policy: str
    potential: str
    episodes: tuple[Replayed, ...]
    deviation: float


def default_episodes(num_glimpses: int) -> int:
    """How many are shown where nobody says: fewer of long ones, which take more room."""
    return 6 if num_glimpses <= 8 else 3


def pick_scenes(gains: np.ndarray, count: int) -> list[tuple[int, str]]:
    """Positions of the best, the worst and some other scenes, a third each, and which they are."""
    order = np.argsort(-gains, kind="stable")
    count = min(count, len(order))
    num_best = -(-count // 3)
    num_worst = -(-(count - num_best) // 2)
    rest = order[num_best : len(order) - num_worst]
    drawn = np.random.default_rng(0).permutation(rest)[: count - num_best - num_worst]
    picked = [(int(i), "one of the best") for i in order[:num_best]]
    picked += [(int(i), "one of the worst") for i in order[::-1][:num_worst]]
    return picked + [(int(i), "drawn at random") for i in drawn]


def replay(run: SavedRun, *, policy: str, count: int, progress: bool = False) -> Replay:
    """Look again where the policy looked, on `count` scenes.

    Raises CannotReplayError where the environment cannot be made, or is not the same.
    """
    evidence = run.evidence[policy]
    benchmark = _same_benchmark(evidence)
    potential = evidence.settings["potential"]
    recorded = evidence.seen.potentials[potential].astype(np.float64)
    looked = np.flatnonzero(evidence.seen.taken[:, 0])
    if not len(looked):
        raise CannotReplayError(f"{policy} took no glimpse of any scene")
    gains = recorded[looked, -1] - recorded[looked, 0]
    picked = [(int(looked[i]), why) for i, why in pick_scenes(gains, count)]
    scenes = [_same_scene(benchmark, evidence, position) for position, _ in picked]
    with_maps = _with_maps([why for _, why in picked])
    if progress:
        cells = min(_MAP_GRID, benchmark.env.rollout.glimpse.canvas_grid_size) ** 2
        say_duration(
            "Looking again at episodes",
            rollout=benchmark.env.rollout,
            scene=scenes[0],
            # A frame computes the first glimpse anew, for its colours.
            glimpses=2 * count * evidence.seen.num_glimpses
            + len(with_maps) * cells * len(_cell_scales(benchmark)),
        )
    replayed, deviation = [], 0.0
    for i, (position, why) in enumerate(tqdm(picked, desc="report", disable=not progress)):
        episode, potentials = _replay_one(
            evidence,
            benchmark,
            scenes[i],
            position=position,
            why=why,
            with_choices=i in with_maps,
        )
        replayed.append(episode)
        deviations = np.abs(potentials - recorded[position, : len(potentials)])
        deviation = max(deviation, float(deviations.max()))
    return Replay(policy=policy, potential=potential, episodes=tuple(replayed), deviation=deviation)


def _replay_one(
    evidence: Evidence,
    benchmark: Benchmark,
    scene: Scene,
    *,
    position: int,
    why: str,
    with_choices: bool,
) -> tuple[Replayed, np.ndarray]:
    """The episode at this position of the evidence, and its potential after each glimpse."""
    seen, potential = evidence.seen, evidence.settings["potential"]
    given = evidence.settings["policy"]["initial_glimpse"] is not None
    rollout = (starting_full if given else starting_blind)(benchmark.env.rollout)
    episode = before_choice = rollout.start([scene])
    episodes = [episode] if given else []
    taken = seen.viewpoints[position, seen.taken[position]]
    for row, col, scale in torch.from_numpy(taken[int(given) :]):
        viewpoint = Viewpoint(centers=torch.stack((row, col))[None], scales=scale[None])
        episode = rollout.look(episode, viewpoint.to(rollout.device))
        episodes.append(episode)
    recorded = seen.potentials[potential][position].astype(np.float64)
    steps = (
        describe_step(
            after,
            rollout=rollout,
            chosen=t > 0 or not given,
            reward=float(recorded[t] - recorded[t - 1]) if t else None,
        )
        for t, after in enumerate(episodes)
    )
    choices = None
    if with_choices and len(taken) > given:
        choices = _choices(
            before_choice,
            episodes[int(given)],
            rollout=rollout,
            scales=_cell_scales(benchmark),
            potential=potential,
        )
    replayed = Replayed(
        scene=int(seen.scenes[position]),
        name=seen.names[position],
        why=why,
        gain=float(recorded[-1] - recorded[0]),
        stopped=len(taken) < seen.num_glimpses,
        steps=tuple(steps),
        choices=choices,
    )
    return replayed, np.array([float(after.potentials[potential][0]) for after in episodes])


def _with_maps(whys: Sequence[str]) -> set[int]:
    """Picks the episodes that get maps: the first of each kind, then others until there are
    MAPS."""
    firsts = list(dict.fromkeys(whys.index(why) for why in whys))
    return set([*firsts, *range(len(whys))][:MAPS])


# -- the same environment --------------------------------------------------------------------------


def _same_benchmark(evidence: Evidence) -> Benchmark:
    settings = evidence.settings
    kwargs = dict(settings["env_kwargs"])
    if str(kwargs.get("device", "cpu")) != "cpu" and not torch.cuda.is_available():
        kwargs["device"] = "cpu"  # it decides how long this takes, not what comes out
    try:
        benchmark = make_benchmark(settings["env"], split=settings["split"], env_kwargs=kwargs)
    except Exception as error:  # folders, weights and devices fail in ways of their own
        raise CannotReplayError(
            f"the environment cannot be made here ({_in_one_line(error)})"
        ) from error
    if benchmark.env.backbone.sha256 != settings["backbone"]["sha256"]:
        raise CannotReplayError(
            f"the backbone here, {benchmark.env.backbone.name}, has other weights than the run's"
        )
    here = settings_of(
        RepeatedFullScene(rollout=benchmark.env.rollout),
        name="",
        benchmark=benchmark,
        num_scenes=settings["num_scenes"],
        seed=settings["seed"],
        candidates=None,
    )
    if differing := [key for key in REPLAYED if here[key] != settings[key]]:
        raise CannotReplayError(
            f"the environment differs from the run's in {' and '.join(differing)}"
        )
    return benchmark


def _same_scene(benchmark: Benchmark, evidence: Evidence, position: int) -> Scene:
    seen = evidence.seen
    index, digest = int(seen.scenes[position]), seen.digests[position]
    try:
        scene = benchmark.env.scenes[index]
    except (OSError, ValueError, IndexError) as error:
        raise CannotReplayError(f"scene {index} is missing ({_in_one_line(error)})") from error
    if scene_digest(scene) != digest:
        raise CannotReplayError(f"scene {index} is another one than in the run")
    return scene


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(". ")


def _cell_scales(benchmark: Benchmark) -> Sequence[float]:
    """Those at which the environment's actions name viewpoints."""
    env = benchmark.env
    if isinstance(env.actions, ListedActions):
        return [scale for scale in env.actions.scales if scale < 1]
    chosen = {**gym.spec(benchmark.env_id).kwargs, **benchmark.env_kwargs}
    return chosen.get("cell_scales") or env.rollout.glimpse.cell_scales


# -- what else was to be seen ----------------------------------------------------------------------


def _choices(
    before: Episode,
    after: Episode,
    *,
    rollout: Rollout,
    scales: Sequence[float],
    potential: str,
) -> Choices:
    """Compares the choices of one scene, before and after the policy's choice."""
    size = min(_MAP_GRID, rollout.glimpse.canvas_grid_size)
    candidates = cell_actions(grid_size=size, scales=scales).viewpoints
    at_once = batch_size(rollout, scene_size_px=before.pictures.shape[-1])
    worth = []
    for start in range(0, candidates.batch_size, at_once):
        tried = candidates[start : start + at_once].to(rollout.device)
        episodes = before.select([0] * tried.batch_size)
        worth.append(rollout.look(episodes, tried).potentials[potential])
    was, now = float(before.potentials[potential][0]), float(after.potentials[potential][0])
    row, col, scale = after.history[0, int(after.glimpses[0]) - 1].tolist()
    return Choices(
        picture=np.asarray(Image.fromarray(before.scenes[0].picture).resize((PANEL_PX, PANEL_PX))),
        scales=tuple(float(scale) for scale in scales),
        worth=(torch.cat(worth).double().cpu().numpy() - was).reshape(-1, size, size),
        candidates=candidates.rows.numpy(),
        chosen=(row, col, scale),
        chosen_worth=now - was,
    )
