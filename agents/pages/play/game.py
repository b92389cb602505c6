"""A scene that a person looks at: the rules that policies have, and what policies reach in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from canvit_agents.judging.evaluate import Benchmark, make_benchmark
from canvit_agents.judging.playing import play_batch
from canvit_agents.judging.summary import BASELINE
from canvit_agents.policies import Policy, make_policies, trained_env_kwargs
from canvit_gym import Episode, Rollout, Viewpoint
from canvit_gym.registration import env_id_of

_RIVALS = (BASELINE, "coarse_to_fine")
_SAME = 1e-6  # a scale that was rounded on its way here is still the smallest one

Place = tuple[float, float, float]
"""(row, col, scale) of a viewpoint."""

Advice = Place | Literal["stop"]


@dataclass(frozen=True, kw_only=True)
class Played:
    """Where someone looked in a scene, t0 to tT, and the episode after the last glimpse."""

    name: str
    viewpoints: tuple[Place, ...]
    episode: Episode


@dataclass(frozen=True, kw_only=True)
class Game:
    """A scene as far as it was looked at; a value.

    index: of the scene. episodes: of one scene each, before the first choice and after every one.
    others: once it is over, what the rivals made of the scene.
    """

    index: int
    episodes: tuple[Episode, ...]
    others: tuple[Played, ...] = ()

    @property
    def now(self) -> Episode:
        return self.episodes[-1]


@dataclass(frozen=True, kw_only=True)
class Playground:
    """Where games are played. rivals: policies that games are compared with, by name. advisor: the
    one of them that may be asked for advice."""

    benchmark: Benchmark
    rivals: Mapping[str, Policy]
    advisor: str | None = None
    seed: int = 0

    @property
    def rollout(self) -> Rollout:
        return self.benchmark.env.rollout

    @property
    def may_stop(self) -> bool:
        """Whether a game may be ended with glimpses left, as episodes of the environment may."""
        return self.benchmark.env.actions.stop_action

    def start(self, index: int) -> Game:
        """A game in the scene of this index."""
        scene = self.benchmark.env.scenes[index]
        return Game(index=index, episodes=(self.rollout.start([scene]),))

    def look(self, game: Game, place: Sequence[Any]) -> Game:
        """The game after one more glimpse.

        Raises ValueError unless `place` is (row, col, scale) of a viewpoint inside the scene that a
        policy could choose too, and where the game is over.
        """
        self._require_going(game)
        if len(place) != 3 or not all(type(v) in (int, float) and -1 <= v <= 1 for v in place):
            raise ValueError(
                "A viewpoint is [row, col, scale], three numbers from -1 to 1; give it like that."
            )
        row, col, scale = place
        least = self.rollout.glimpse.min_scale
        if scale < least - _SAME:
            raise ValueError(
                f"The scale is {scale:g}; give one from {least:g} to 1, which policies have too."
            )
        viewpoint = Viewpoint(
            centers=torch.tensor([[row, col]], dtype=torch.float32),
            scales=torch.tensor([scale], dtype=torch.float32),
        )
        return self._after(game, self.rollout.look(game.now, viewpoint.to(self.rollout.device)))

    def stop(self, game: Game) -> Game:
        """The game, ended with what is known; raises ValueError where it may not be, or is over."""
        if not self.may_stop:
            raise ValueError(
                "Episodes of this environment use all of their glimpses; start with --env-kwargs "
                "stop_action=true to stop before."
            )
        self._require_going(game)
        everyone = torch.ones(1, dtype=torch.bool, device=self.rollout.device)
        return self._after(game, self.rollout.stop(game.now, everyone))

    def is_over(self, game: Game) -> bool:
        return bool(self.rollout.finished(game.now).all())

    def rewards(self, game: Game) -> list[float]:
        """Returns what the environment would have paid for each choice so far."""
        env = self.benchmark.env
        potentials = [float(episode.potentials[env.reward][0]) for episode in game.episodes]
        looks = [int(episode.looks[0]) for episode in game.episodes]
        gained, taken = np.diff(potentials), np.diff(looks)
        return (gained - env.glimpse_cost * taken).tolist()

    def advise(self, game: Game) -> Advice:
        """Returns what the advisor would do next; raises ValueError where there is none to ask."""
        if self.advisor is None:
            raise ValueError("No policy was given that could be asked; start with --policy.")
        self._require_going(game)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.inference_mode():
            choice = self.rivals[self.advisor].choose(game.now, [generator])
        if bool(choice.stop[0]):
            return "stop"
        row, col = choice.viewpoint.centers[0].tolist()
        return row, col, float(choice.viewpoint.scales[0])

    def _require_going(self, game: Game) -> None:
        if self.is_over(game):
            raise ValueError("This game is over; begin a new scene, or the same one again.")

    def _after(self, game: Game, episode: Episode) -> Game:
        game = replace(game, episodes=(*game.episodes, episode))
        return replace(game, others=self._play_rivals(game.index)) if self.is_over(game) else game

    def _play_rivals(self, index: int) -> tuple[Played, ...]:
        """Their episodes in a scene: those that `evaluate` judges with the same seed."""
        scenes = self.benchmark.env.scenes
        episodes = {
            name: play_batch(policy, scenes=scenes, indices=[index], name=name, seed=self.seed)
            for name, policy in self.rivals.items()
        }
        return tuple(played_by(name, found[-1]) for name, found in episodes.items())


def played_by(name: str, episode: Episode) -> Played:
    """Returns what the episode, of one scene, tells of its glimpses."""
    taken = episode.history[0, : int(episode.glimpses[0])].tolist()
    viewpoints = tuple((row, col, scale) for row, col, scale in taken)
    return Played(name=name, viewpoints=viewpoints, episode=episode)


def make_playground(
    env_id: str,
    *,
    split: str = "test",
    env_kwargs: Mapping[str, Any] | None = None,
    policy: str | None = None,
    seed: int = 0,
) -> Playground:
    """Games in an environment made by its id; with a trained `policy`, in the one that it fits.

    policy: whom to ask, as `policies.make_policy` names it. Raises what making the environment and
    the policies does.
    """
    name, env_id = env_id, env_id_of(env_id)
    asked = () if policy is None else (policy,)
    kwargs = {**trained_env_kwargs(asked, env_id=env_id), **(env_kwargs or {})}
    benchmark = make_benchmark(name, split=split, env_kwargs=kwargs)
    names = dict.fromkeys((*_RIVALS, *asked))
    rivals = make_policies(names, env_id=env_id, env=benchmark.env)
    return Playground(benchmark=benchmark, rivals=rivals, advisor=policy, seed=seed)
