"""Episodes glimpse by glimpse, and what other choices would have been worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canvit_agents.pages.report.charts import box, map_table, scene_map
from canvit_agents.pages.report.replay import SAME, Choices, Replay, Replayed
from canvit_agents.pages.web.markup import (
    Markup,
    element,
    folded,
    image,
    join,
    number,
    text_of,
)
from canvit_agents.pages.web.parts import belief_table, figure
from canvit_agents.pages.web.steps import Step


def episodes(replay: Replay) -> Markup:
    agreement = f"to {replay.deviation:.1g}" if replay.deviation > SAME else "but for rounding"
    return join(
        element(
            "p",
            "What ",
            element("strong", replay.policy),
            " did in the scenes where looking gained it the most and the least of the potential ",
            f"{replay.potential}, and in others drawn at random. ",
            element(
                "span",
                "Step with the buttons, or with the arrow keys while an episode has the focus.",
                class_="scripted",
                hidden=True,
            ),
        ),
        element(
            "p",
            f"Glimpses were taken again at the recorded viewpoints; the potentials agree with the "
            f"recorded ones {agreement}.",
            class_="note",
        ),
        [_episode(i, episode) for i, episode in enumerate(replay.episodes)],
    )


def _episode(index: int, episode: Replayed) -> Markup:
    last, name = len(episode.steps) - 1, f"episode-{index}"
    title = f"Scene {episode.scene}, {episode.why}"
    choices = [
        element("button", f"t{t}", type="button", data_step=t, aria_pressed="false")
        for t in range(last + 1)
    ]
    controls = element(
        "div",
        element("button", "← Back", type="button", data_move="-1"),
        element("span", choices, class_="steps"),
        element("button", "Next →", type="button", data_move="1"),
        class_="controls scripted",
        role="group",
        aria_label=f"Glimpses of scene {episode.scene}",
        hidden=True,
    )
    steps = [_step(t, step, last=last) for t, step in enumerate(episode.steps)]
    gained = join(
        f"{episode.name}. From t0 to t{last} the potential changes by ",
        number(episode.gain, "+.3f"),
        ". Then the policy stopped." if episode.stopped else ".",
    )
    return element(
        "article",
        element("h3", title, id=name),
        element("p", gained, class_="note"),
        controls,
        element("p", class_="sr", role="status", aria_live="polite"),
        element("div", steps),
        class_="episode",
        aria_labelledby=name,
        tabindex="0",
    )


def _step(t: int, step: Step, *, last: int) -> Markup:
    where = _where(step.viewpoint) if step.chosen else "the full scene, given"
    title = f"t{t} of t{last}: {where}"
    rewarded = step.reward is not None
    return element(
        "section",
        element("h4", title),
        element(
            "p",
            step.belief.verdict,
            join(" Reward ", number(step.reward, "+.3f"), ".") if rewarded else None,
            class_="verdict",
        ),
        element(
            "div",
            [figure(drawn) for drawn in step.figures],
            belief_table(step.belief),
            class_="panels",
        ),
        class_="step",
    )


# -- what other choices were worth -----------------------------------------------------------------


def other_choices(replay: Replay) -> Markup:
    with_choices = [episode for episode in replay.episodes if episode.choices is not None]
    if not with_choices:
        return element("p", "In none of these episodes was a glimpse chosen.", class_="note")
    return join(
        element(
            "p",
            f"What looking at each place would have changed the potential {replay.potential} by, "
            f"at the first choice of ",
            element("strong", replay.policy),
            ". Each cell is the centre of a candidate, moved into the scene where its crop would "
            "leave it.",
        ),
        element(
            "ul",
            element("li", _box_key("chosen"), "the policy's choice"),
            element("li", _box_key("best"), "the best candidate"),
            class_="keys",
        ),
        [_reward_map(episode) for episode in with_choices],
    )


def _box_key(kind: str) -> Markup:
    drawn = box((0, 0, 0.8), size=1, class_=kind)
    return element("svg", drawn, viewBox="0 0 1 1", aria_hidden="true")


def _reward_map(episode: Replayed) -> Markup:
    choices = episode.choices
    assert choices is not None
    largest = _largest(choices)
    colours = element(
        "p",
        element("span", text_of(-largest, "+.2f")),
        element("span", class_="ramp", aria_hidden="true"),
        element("span", text_of(largest, "+.2f")),
        class_="colours",
    )
    said = join(
        f"The policy chose {_where(choices.chosen)}, worth ",
        number(choices.chosen_worth, "+.3f"),
        f": rank {choices.rank} beside {choices.worth.size} candidates, the best of them worth ",
        number(choices.worth.max(), "+.3f"),
        ".",
    )
    tables = [
        map_table(worth, form="+.3f", caption=f"Worth of looking at scale {scale:g}")
        for scale, worth in zip(choices.scales, choices.worth, strict=True)
    ]
    maps = [_map_of_scale(choices, i, scene=episode.scene) for i in range(len(choices.scales))]
    return element(
        "div",
        element("h3", f"Scene {episode.scene}, {episode.why}"),
        element("p", said),
        element("div", _scene_with_choices(choices, episode.scene), maps, class_="panels maps"),
        colours,
        folded("Values as tables", element("div", tables, class_="tables")),
        class_="reward-map",
    )


def _scene_with_choices(choices: Choices, scene: int) -> Markup:
    size = choices.worth.shape[1]
    boxes = [box(viewpoint, size=size, class_=kind) for kind, viewpoint in _marked(choices)]
    drawn = element("svg", boxes, viewBox=f"0 0 {size} {size}", class_="cells", aria_hidden="true")
    alt = f"Scene {scene} with the policy's choice and the best candidate"
    content = element("div", image(choices.picture, alt=alt), drawn, class_="over")
    return element("figure", content, element("figcaption", "the scene"))


def _map_of_scale(choices: Choices, index: int, *, scene: int) -> Markup:
    scale, worth = choices.scales[index], choices.worth[index]
    row, col = (int(i) for i in np.unravel_index(worth.argmax(), worth.shape))
    label = (
        f"Worth of looking at scale {scale:g}: from {text_of(worth.min(), '+.3f')} to "
        f"{text_of(worth.max(), '+.3f')}, highest in row {row}, column {col}"
    )
    boxes = [
        box(viewpoint, size=len(worth), class_=kind)
        for kind, viewpoint in _marked(choices)
        if _nearest(choices.scales, viewpoint[2]) == index
    ]
    drawn = scene_map(worth, label=label, form="+.3f", over=boxes, largest=_largest(choices))
    beneath = image(choices.picture, alt=f"Scene {scene} in grey")
    content = element("div", beneath, drawn, class_="over grey")
    return element("figure", content, element("figcaption", f"scale {scale:g}"))


def _marked(choices: Choices) -> list[tuple[str, tuple[float, float, float]]]:
    """Shapes that are drawn, the policy's choice on top."""
    return [("best", choices.best), ("chosen", choices.chosen)]


def _largest(choices: Choices) -> float:
    """The end of the scale of colours, in either direction."""
    return float(np.abs(choices.worth).max())


def _nearest(scales: Sequence[float], scale: float) -> int:
    """In which map a viewpoint of this scale is marked."""
    return int(np.abs(np.log(np.array(scales) / scale)).argmin())


def _where(viewpoint: Sequence[float]) -> str:
    row, col, scale = viewpoint
    return f"row {text_of(row, '+.2f')}, column {text_of(col, '+.2f')}, scale {scale:.2f}"
