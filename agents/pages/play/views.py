"""The view of a game on the page: facts that its script draws with, and pieces of HTML."""

from __future__ import annotations

from typing import Any

from canvit_agents.pages.play.game import Advice, Game, Played, Playground, played_by
from canvit_agents.pages.play.seen import seen_so_far
from canvit_agents.pages.web.markup import (
    Child,
    Markup,
    data_uri,
    element,
    join,
    number,
    table,
    text_of,
)
from canvit_agents.pages.web.parts import belief_table, figure
from canvit_agents.pages.web.steps import draw_figures


def view(
    game: Game, *, playground: Playground, with_truth: bool, advice: Advice | None
) -> dict[str, Any]:
    """JSON values. Before the last glimpse, and unless `with_truth`, none of them depends on what
    the scene really shows."""
    rollout, episode = playground.rollout, game.now
    over = playground.is_over(game)
    with_truth = with_truth or over
    belief = rollout.task.describe(episode, with_truth=with_truth)
    drawn = draw_figures(episode, rollout=rollout, with_truth=with_truth)[1:]  # not the scene
    return {
        "lede": _lede(playground),
        "env": playground.benchmark.env_id,
        "split": playground.benchmark.split,
        "scene": game.index,
        "picture": data_uri(episode.scenes[0].picture),
        "seen": data_uri(seen_so_far(episode, rollout=rollout)),
        "viewpoints": played_by("you", episode).viewpoints,
        "budget": rollout.budget,
        "left": rollout.budget - int(episode.looks[0]),
        "over": over,
        "may_stop": playground.may_stop,
        "min_scale": rollout.glimpse.min_scale,
        "advisor": playground.advisor,
        "advice": advice,
        "status": f"{belief.verdict} {_left(game, playground)}",
        "html": {
            "belief": belief_table(belief),
            "panels": join([figure(each) for each in drawn]),
            "rewards": _rewards(game, playground) if with_truth else _hidden(),
            "result": _result(game, playground) if over else "",
        },
    }


def _lede(playground: Playground) -> str:
    rollout = playground.rollout
    size, count = rollout.glimpse.glimpse_size_px, rollout.budget
    return (
        f"CanViT sees a scene through glimpses of {size} x {size} pixels and remembers them on its "
        f"canvas. You choose {count} of them, and it {rollout.task.goal}."
    )


def _left(game: Game, playground: Playground) -> str:
    left = playground.rollout.budget - int(game.now.looks[0])
    if left == 0:
        return "That was the last glimpse."
    if playground.is_over(game):
        return f"You stopped with {left} of {playground.rollout.budget} glimpses left."
    return f"{left} {'glimpse is' if left == 1 else 'glimpses are'} left."


def _hidden() -> Markup:
    return element("p", "They follow from the answer, so they are shown with it.", class_="note")


def _rewards(game: Game, playground: Playground) -> Markup:
    """A table of what each glimpse was worth: the rewards of the environment."""
    name, cost = playground.benchmark.env.reward, playground.benchmark.env.glimpse_cost
    potentials = [float(episode.potentials[name][0]) for episode in game.episodes]
    rewards = playground.rewards(game)
    viewpoints = played_by("you", game.now).viewpoints
    given = len(viewpoints) - int(game.now.looks[0])
    rows: list[list[Child]] = []
    for t, (row, col, scale) in enumerate(viewpoints):
        i = t + 1 - given  # among the episodes, the first of which stands before any choice
        place = f"{text_of(row, '+.2f')}, {text_of(col, '+.2f')}, {scale:.2f}"
        rows.append(
            [
                f"t{t}",
                place if i else "full scene",
                number(potentials[i], ".3f"),
                number(rewards[i - 1] if i else None, "+.3f"),
            ]
        )
    rows.append(["sum", None, None, element("strong", number(sum(rewards), "+.3f"))])
    price = f", less {cost:g} a glimpse," if cost else ""
    caption = f"The potential {name} after each glimpse; its growth{price} is the reward"
    return table(["", "row, col, scale", name, "reward"], rows, caption=caption)


def _result(game: Game, playground: Playground) -> Markup:
    """Shows what the game came to, and what others reached; the script draws the glimpses of
    whoever's name is pressed."""
    task, potential = playground.rollout.task, playground.benchmark.env.reward
    head = ["", task.answer_title]
    if says_more := potential != task.headline:
        head.append(potential)
    if playground.may_stop:
        head.append("glimpses")
    rows: list[list[Child]] = []
    for i, played in enumerate((played_by("you", game.now), *game.others)):
        name = element(
            "button",
            played.name,
            type="button",
            aria_pressed="true" if i == 0 else "false",
            data_glimpses=[list(place) for place in played.viewpoints],
        )
        row: list[Child] = [name, _outcome(played, playground)]
        if says_more:
            row.append(number(float(played.episode.potentials[potential][0]), ".3f"))
        if playground.may_stop:
            row.append(str(len(played.viewpoints)))
        rows.append(row)
    caption = "The same scene by the same rules, one try each; press a name to see where"
    return table(head, rows, caption=caption)


def _outcome(played: Played, playground: Playground) -> Markup:
    """How an episode ended, in a few words."""
    task, episode = playground.rollout.task, played.episode
    belief = task.describe(episode, with_truth=True)
    if belief.is_right is None:
        return number(float(episode.potentials[task.headline][0]), ".3f")
    kind = "right" if belief.is_right else "wrong"
    return join(belief.answer, ", ", element("span", kind, class_=kind))
