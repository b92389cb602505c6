"""The report: its numbers are the summary's, it loads nothing, and a browser can step through."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from html_reader import Node, css, everything, read
from PIL import Image
from synthetic import classified, segmented, stopped

from canvit_agents.cli.main import main
from canvit_agents.judging.evaluate import Benchmark, evaluate, make_benchmark, save_results
from canvit_agents.judging.evidence import Evidence, evidence_path, save_evidence
from canvit_agents.judging.statistics import Tally, bootstrap
from canvit_agents.judging.summary import summarize
from canvit_agents.pages.report import write_report
from canvit_agents.pages.report.charts import Curve, Trade, line_chart, trade_chart
from canvit_agents.pages.report.places import centre_shares
from canvit_agents.pages.report.replay import Replay, pick_scenes, replay
from canvit_agents.pages.report.saved import load_run
from canvit_agents.pages.web.markup import Markup, element, interval, join, number, text_of
from canvit_agents.pages.web.parts import page_style, read_asset
from canvit_agents.pages.web.steps import draw_figures
from canvit_agents.policies import make_policies
from canvit_gym.envs.rendering import PANEL_PX, render_episode
from canvit_gym.envs.rollout import Rollout
from canvit_gym.geometry import Viewpoint
from canvit_gym.palette import oklab
from canvit_gym.scenes.emoji import EmojiScenes

LIMIT_BYTES = 4_000_000


def table(page: Node, caption: str) -> list[list[Node]]:
    """The rows of the table with this caption, cells each, the head first."""
    (found,) = [t for t in page.find("table") if [c.text for c in t.find("caption")] == [caption]]
    return [[cell for cell in row.children if isinstance(cell, Node)] for row in found.find("tr")]


def section(page: Node, name: str) -> Node:
    (found,) = page.find("section", id=name)
    return found


# -- runs ------------------------------------------------------------------------------------------

RNG = np.random.default_rng(3)
LEARNED = classified(RNG.random((12, 2)) < (0.3, 0.9), name="runs/mine", learned=True)
RANDOM = classified(RNG.random((12, 2)) < (0.3, 0.5), name="full_then_random")
TARGET = classified(RNG.random((12, 2)) < (0.3, 1.0), name="target")


def save(directory: Path, *evidence: Evidence, **more: Any) -> Path:
    """A run directory as `evaluate` writes it; `more` are further entries of the summary."""
    named = {e.settings["policy"]["name"]: e for e in evidence}
    for one in evidence:
        save_evidence(evidence_path(directory, one.settings), one)
    save_results(directory, named, {**summarize(named), **more})
    return directory


def report(directory: Path, **kwargs: Any) -> Node:
    kwargs.setdefault("episodes", 0)
    return read(write_report(directory, **kwargs).path)


@dataclass(frozen=True)
class Played:
    """A run with the environment that it was played in, and its report."""

    directory: Path
    benchmark: Benchmark
    evidence: dict[str, Evidence]
    path: Path


Play = Callable[..., Played]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, mini_checkpoint: str, emoji_probe: str) -> Play:
    def play(env: str, *names: str, **kwargs: Any) -> Played:
        kwargs = {"backbone": mini_checkpoint, "budget": 2, **kwargs}
        if env == "CanViT-EmojiSeg-v0":
            kwargs["probe"] = emoji_probe
        benchmark = make_benchmark(env, env_kwargs=kwargs)
        out = tmp_path_factory.mktemp("run")
        policies = make_policies(names, env_id=env, env=benchmark.env)
        evaluate(policies, benchmark=benchmark, num_scenes=5, out=out, progress=False)
        path = write_report(out).path
        return Played(out, benchmark, load_run(out).evidence, path)

    return play


@pytest.fixture(scope="module")
def named(play: Play) -> Played:
    return play("CanViT-Emoji-v0", "full_then_random", "random")


@pytest.fixture(scope="module")
def labelled(play: Play) -> Played:
    return play("CanViT-EmojiSeg-v0", "entropy_coarse_to_fine")


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "metric", "title"),
    [
        ((LEARNED, RANDOM, TARGET), "accuracy", "Accuracy"),
        (
            (
                segmented(RNG.integers(0, 9, (6, 2, 3)), np.full((6, 2, 3), 9), name="a"),
                segmented(
                    RNG.integers(0, 9, (6, 2, 3)), np.full((6, 2, 3), 9), name="full_then_random"
                ),
            ),
            "mean_iou",
            "Mean IoU",
        ),
    ],
    ids=["classification", "segmentation"],
)
def test_numbers_are_those_of_the_summary(
    evidence: tuple[Evidence, ...], metric: str, title: str, tmp_path: Path
) -> None:
    directory = save(tmp_path, *evidence)
    summary = json.loads((directory / "summary.json").read_text())
    page = report(directory)

    head, *rows = table(page, f"{title} of each policy")
    assert [cell.text for cell in head] == [
        "policy", "t0", "t1", "return t0 to t1", "t1 over full_then_random",
    ]  # fmt: skip
    assert [row[0].text.strip() for row in rows] == list(summary["policies"])
    for (name, found), row in zip(summary["policies"].items(), rows, strict=True):
        assert [cell.numbers for cell in row[1:3]] == [[value] for value in found[metric]]
        assert [cell.text for cell in row[1:3]] == [f"{value:.3f}" for value in found[metric]]
        assert row[3].numbers == [found["return_mean"]]
        paired = summary["paired"].get(f"{name} - full_then_random")
        assert row[4].numbers == ([] if paired is None else [v[-1] for v in paired.values()])

    _, *rows = table(
        page, f"Paired differences in {title[0].lower()}{title[1:]} on the same scenes, with 95% "
        "intervals",
    )  # fmt: skip
    assert {row[0].text: [cell.numbers for cell in row[1:]] for row in rows} == {
        name: [list(values) for values in zip(*found.values(), strict=True)]
        for name, found in summary["paired"].items()
    }


def test_curves_have_the_intervals_of_the_bootstrap(tmp_path: Path) -> None:
    page = report(save(tmp_path, LEARNED, RANDOM))
    _, *rows = table(page, "Accuracy with 95% intervals")
    for evidence, row in zip((LEARNED, RANDOM), rows, strict=True):
        correct = evidence.seen.outcome["correct"]
        resampled = bootstrap(Tally.of_means(correct)).resampled
        bounds = np.quantile(resampled, (0.025, 0.975), axis=0)
        for t, cell in enumerate(row[1:]):
            assert cell.numbers == pytest.approx([correct[:, t].mean(), *bounds[:, t]])
    wide, narrow = page.find("svg", role="img")[:2]
    for chart in (wide, narrow):
        assert len(chart.find("path", class_="band p0")) == 1
        titles = [title.text for title in chart.find("title")]
        assert f"full_then_random, t1: {RANDOM.seen.outcome['correct'][:, 1].mean():.3f}" in titles


def test_shares_scores_and_headroom(tmp_path: Path) -> None:
    page = report(save(tmp_path / "evaluated", LEARNED, RANDOM, TARGET))
    shares = [item.text for item in section(page, "results").find("li")]
    assert any(
        share.startswith("runs/mine from full_then_random to target: ") and "of the way" in share
        for share in shares
    )
    found = {"share": 0.5, "low": 0.25, "high": 0.75}
    score = {"runs/mine": found, "full_then_random": None}
    headroom = {"over": "runs/mine", "difference": 0.125, "low": 0.0625, "high": 0.25}
    page = report(save(tmp_path / "head", LEARNED, RANDOM, score=score, headroom=headroom))
    head, mine, base = table(page, "Accuracy of each policy")
    assert head[-1].text == "score" and mine[-1].numbers == [0.5, 0.25, 0.75]
    assert base[-1].text == "undefined"
    text = section(page, "results").text
    assert "others: +0.125 [+0.062, +0.250]; there is something to learn" in text


def test_regret_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    values = {"best_candidate": 0.5, "rank": 3.0}
    peeks = {
        name: np.tile(np.array([np.nan, value], np.float32), (12, 1))
        for name, value in values.items()
    }
    peeked = replace(
        RANDOM, settings=RANDOM.settings | {"candidates": 5}, seen=replace(RANDOM.seen, peeks=peeks)
    )
    directory = save(tmp_path, peeked)
    summary = json.loads((directory / "summary.json").read_text())
    regret = summary["policies"]["full_then_random"]["regret"]
    page = report(directory)
    (captions,) = [c for c in page.find("caption") if "best of 5 candidates" in c.text]
    _, first, second = table(page, captions.text)
    assert first[1].text == "–" and first[2].numbers == [regret["regret"][1]]
    assert second[2].numbers == [3.0]
    assert table(page, "Accuracy of each policy")[1][-1].numbers == [3.0]


def test_places_and_scanpaths(tmp_path: Path) -> None:
    directory = save(tmp_path, LEARNED, RANDOM)
    summary = json.loads((directory / "summary.json").read_text())
    page = section(report(directory), "places")
    _, *rows = table(page, "Measures of scanpaths, means over episodes")
    for (name, found), row in zip(summary["policies"].items(), rows, strict=True):
        expected = [v for key, v in found["scanpath"].items() if key != "scales"]
        assert row[0].text.strip() == name
        assert [cell.numbers[0] for cell in row[1:]] == expected
    for found, card in zip(
        summary["policies"].values(), page.find("li", class_="card"), strict=True
    ):
        (bars,) = card.find("table", class_="bars")
        assert bars.numbers == found["scanpath"]["scales"]["share"]
        assert len(card.find("rect")) == 64


def test_values_against_mean_glimpses(tmp_path: Path) -> None:
    stopping = stopped(LEARNED, [2] * 3 + [1] * 9)
    directory = save(tmp_path, stopping, RANDOM)
    summary = json.loads((directory / "summary.json").read_text())
    page = report(directory)
    assert "2 policies had up to 2 glimpses each" in page.find("header")[0].text
    head, *rows = table(page, "Accuracy of each policy")
    assert [cell.text for cell in head[-2:]] == ["mean glimpses", "GFLOPs a scene"]
    assert [cell.numbers for row in rows for cell in row[-2:]] == [[1.25], [0.0025], [2], [0.004]]

    figure = section(page, "results").find("figure")[1]
    for name, row in summary["policies"].items():
        found = row["stop_when_sure"]
        _, *rows = table(figure, f"{name}, stopped once sure")
        threshold, glimpses, gflops, accuracy = zip(
            *([cell.numbers[0] for cell in row] for row in rows), strict=True
        )
        assert list(threshold) == found["thresholds"] and list(glimpses) == found["glimpses"]
        assert list(accuracy) == found["accuracy"]
        assert list(gflops) == pytest.approx([0.002 * g for g in glimpses])
    for chart in figure.find("svg", role="img"):
        assert len(chart.find("circle", class_="ring")) == 1  # of the one that stops
        titles = [title.text for title in chart.find("title")]
        last = summary["policies"]["runs/mine"]["accuracy"][-1]
        assert f"runs/mine, 1.25: {last:.3f}" in titles and len(titles) == 4
    assert "Rings: where a policy that stops" in figure.find("figcaption")[0].text
    without = report(save(tmp_path / "without", RANDOM))
    assert "Rings" not in section(without, "results").text
    assert not without.find("circle", class_="ring")


def test_two_axes_say_the_same() -> None:
    points = np.array([[1.0, 0.2], [2.5, 0.9], [5.0, 0.6]])
    trade = Trade(name="a", marks=points, line=points[:2], ring=1)
    drawn = read(
        trade_chart(
            [trade],
            label="l",
            titles=("accuracy", "mean glimpses", "GFLOPs"),
            other_per_expense=13.8,
            width=860,
            height=400,
            class_="c",
        )
    )
    texts = drawn.find("text", text_anchor="middle")
    ticks = {(t.attributes["x"], t.attributes["y"]): t.text for t in texts if "x" in t.attributes}
    below = {x: float(text) for (x, y), text in ticks.items() if y == "378.0"}
    above = {
        x: float(text) for (x, y), text in ticks.items() if float(y) < 60 and text[0].isdigit()
    }
    assert set(below.values()) >= {1, 2, 3, 4, 5} and below.keys() == above.keys()
    assert all(above[x] == pytest.approx(13.8 * value, rel=5e-3) for x, value in below.items())
    places = [m.attributes["transform"] for m in drawn.find("path", class_="mark")]
    columns = [float(re.findall(r"[-\d.]+", place)[0]) for place in places]
    at = {value: float(x) for x, value in below.items()}
    assert columns == pytest.approx([at[1], (at[2] + at[3]) / 2, at[5]], abs=0.1)
    (ring,) = drawn.find("circle")
    assert float(ring.attributes["cx"]) == columns[1]


def test_centres_are_counted_row_downwards() -> None:
    shares = centre_shares(np.array([[[0.9, -0.9, 0.1], [0.9, -0.9, 0.1], [-1, 1, 0.1]]]))
    assert shares[7, 0] == pytest.approx(2 / 3) and shares[0, 7] == pytest.approx(1 / 3)
    assert shares.sum() == pytest.approx(1)


def test_only_glimpses_that_were_taken_are_places(tmp_path: Path) -> None:
    seen = np.array([[[0.9, -0.9, 0.1], [0, 0, 0]]])
    assert centre_shares(seen)[7, 0] == 1
    at_once = stopped(RANDOM, [1] * 12)
    page = section(report(save(tmp_path, at_once)), "places")
    (card,) = page.find("li", class_="card")
    assert "Centres: no glimpse was chosen." in card.text
    assert card.find("table", class_="bars")[0].numbers == []
    _, row = table(page, "Measures of scanpaths, means over episodes")
    assert row[1].numbers == [0] and [cell.text for cell in row[2:]] == ["–"] * 4


def test_the_first_trained_policy_is_shown(tmp_path: Path) -> None:
    assert load_run(save(tmp_path / "a", RANDOM, LEARNED, TARGET)).first_policy == "runs/mine"
    assert load_run(save(tmp_path / "b", RANDOM, TARGET)).first_policy == "full_then_random"


def test_how_it_was_made(tmp_path: Path) -> None:
    directory = save(tmp_path, LEARNED, RANDOM)
    manifest = json.loads((directory / "manifest.json").read_text())
    page = section(report(directory), "manifest")
    (shown,) = page.find("pre")
    assert json.loads(shown.text) == manifest
    assert manifest["hash"] in [code.text for code in page.find("code")]
    assert len(page.find("details")) == 1


# -- the page itself -------------------------------------------------------------------------------


def check_page(path: Path) -> Node:
    """What holds for every report."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and len(text) < LIMIT_BYTES
    page = read(text)
    (html,) = page.find("html")
    assert html.attributes["lang"] == "en" and page.find("title")[0].text.startswith("Where to")
    assert len(page.find("main")) == 1 and len(page.find("h1")) == 1

    # Nothing is loaded: no address anywhere, no file, only what is inside.
    assert not re.search(r"https?:", text)
    for name in ("link", "iframe", "object", "embed", "base", "form"):
        assert not page.find(name)
    for node in everything(page):
        for key in ("href", "src", "srcset", "xlink:href", "action", "data"):
            assert node.attributes.get(key, "#").startswith(("#", "data:image/webp;base64,"))
        assert not [key for key in node.attributes if key.startswith("on")]
    (style, *_), (script,) = page.find("style"), page.find("script")
    assert "url(" not in style.text and "@import" not in style.text
    assert "innerHTML" not in script.text
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    (policy,) = page.find("meta", http_equiv="Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy.attributes["content"]

    # Headings make an outline, names are unique, references lead somewhere.
    levels = [int(n.name[1]) for n in everything(page) if re.fullmatch("h[1-6]", n.name)]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    ids = [n.attributes["id"] for n in everything(page) if "id" in n.attributes]
    assert len(ids) == len(set(ids))
    for node in everything(page):
        if (target := node.attributes.get("href", "")).startswith("#"):
            assert target[1:] in ids
        if "aria-labelledby" in node.attributes:
            assert node.attributes["aria-labelledby"] in ids

    # Pictures and drawings are described, or hidden where text says the same.
    for picture in page.find("img"):
        assert len(picture.attributes["alt"]) > 5
        source = picture.attributes["src"].partition(",")[2]
        size = Image.open(io.BytesIO(base64.b64decode(source))).size
        assert size == (int(picture.attributes["width"]), int(picture.attributes["height"]))
    for drawing in page.find("svg"):
        is_hidden = drawing.attributes.get("aria-hidden") == "true"
        assert is_hidden != (drawing.attributes.get("role") == "img")
        assert is_hidden or drawing.attributes["aria-label"]
    for one in page.find("table"):
        assert all("scope" in cell.attributes for cell in one.find("th"))
    return page


def test_a_report_without_episodes(tmp_path: Path) -> None:
    directory = save(tmp_path, LEARNED, RANDOM, TARGET)
    page = check_page(write_report(directory, episodes=0).path)
    assert [h.text for h in page.find("h2")] == [
        "Results", "Where policies look", "How this was made",
    ]  # fmt: skip
    assert not page.find("img")
    assert [p.name for p in directory.iterdir() if "report" in p.name] == ["report.html"]


def test_reports_with_episodes(named: Played, labelled: Played) -> None:
    for played in (named, labelled):
        page = check_page(played.path)
        assert [h.text for h in page.find("h2")] == [
            "Results", "Where policies look", "Episodes", "What other choices were worth",
            "How this was made",
        ]  # fmt: skip
        episodes = page.find("article")
        assert len(episodes) == 5 and all(len(e.find("h4")) == 3 for e in episodes)
        for episode in episodes:
            assert len(episode.find("p", aria_live="polite")) == 1
            assert [b.text for b in episode.find("button")] == [
                "← Back", "t0", "t1", "t2", "Next →",
            ]  # fmt: skip
    panels = ["scene", "glimpse", "canvas (PCA)", "entropy", "decoded mask", "true mask"]
    for played, count in ((named, 3), (labelled, 6)):
        step = read(played.path).find("section", class_="step")[0]
        assert [c.text for c in step.find("figcaption")] == panels[:count]
        assert len(step.find("img")) == count


def test_the_same_run_makes_the_same_file(named: Played, tmp_path: Path) -> None:
    again = write_report(named.directory, out=tmp_path / "new" / "again.html").path
    assert again.read_bytes() == named.path.read_bytes()


def test_what_others_wrote_is_text(tmp_path: Path) -> None:
    name = """</style><script>alert("1")</script><img src=x onerror='alert(1)'>&amp;"""
    random = classified([[0, 1], [1, 1], [0, 0]], name="full_then_random")
    directory = save(tmp_path, classified([[0, 1]] * 3, name=name, learned=True), random)
    path = write_report(directory, episodes=0).path
    page = check_page(path)
    assert "<script>alert" not in path.read_text()
    assert name in [row[0].text.strip() for row in table(page, "Accuracy of each policy")]


def test_markup_escapes_what_is_not_markup() -> None:
    assert element("a", "<b>", ["&", Markup("<i>"), None], title='"', hidden=True, id=None) == (
        '<a title="&quot;" hidden>&lt;b&gt;&amp;<i></a>'
    )
    assert element("img", aria_label="x", class_="y") == '<img aria-label="x" class="y">'
    assert join("<", Markup("<")) == "&lt;<"
    assert text_of(-0.0001, "+.3f") == "+0.000" and text_of(-0.0001, ".3f") == "0.000"
    assert text_of(-0.25, "+.2f") == "-0.25" and text_of(100, ".0f") == "100"
    assert number(0.5, ".0%") == '<data value="0.5">50%</data>'
    assert number(None, ".0%") == "–"
    assert "[" not in interval(0.5, None, None, form=".1f")


@pytest.mark.parametrize(
    "values",
    [[0.2, 0.25, 0.3], [0.0, 0.5, 1.0], [-3.0, 40.0, 17.0], [0.7, 0.7, 0.7], [1e-4, 2e-4, 2e-4]],
)
def test_axes_hold_every_value(values: list[float]) -> None:
    curve = Curve(
        name="a",
        value=np.array(values),
        low=np.array([np.nan, *values[1:]]),
        high=np.array([np.nan, *values[1:]]),
    )
    drawn = read(line_chart([curve], label="l", y_title="y", width=400, height=300, class_="c"))
    ticks = [t.text for t in drawn.find("text", text_anchor="end")]
    assert 2 <= len(ticks) <= 8 and len(set(ticks)) == len(ticks)
    assert float(ticks[0]) <= min(values) and max(values) <= float(ticks[-1])
    places = [m.attributes["transform"] for m in drawn.find("path", class_="mark")]
    heights = [float(re.findall(r"[-\d.]+", place)[1]) for place in places]
    assert all(12 <= height <= 260 for height in heights)
    assert np.array_equal(np.argsort(heights), np.argsort(-np.array(values)))


def test_many_steps_keep_their_names_apart() -> None:
    curve = Curve(name="a", **{k: np.linspace(0, 1, 21) for k in ("value", "low", "high")})
    drawn = read(line_chart([curve], label="l", y_title="y", width=360, height=300, class_="c"))
    named = [t for t in drawn.find("text", text_anchor="middle") if re.fullmatch(r"t\d+", t.text)]
    assert [t.text for t in named] == [f"t{t}" for t in range(0, 21, 4)]
    assert len(drawn.find("path", class_="mark")) == 21


_BLIND = {  # Machado et al., 2009: what is left of linear RGB
    "nobody": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_are_told_apart(theme: int) -> None:
    style = page_style() + read_asset("canvit_agents.pages.report", "report.css")

    def colours(name: str) -> np.ndarray:
        found = re.findall(rf"--{name}: #(\w{{3,6}});", style)
        digits = found[theme] if len(found[theme]) == 6 else "".join(d * 2 for d in found[theme])
        return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255

    def linear(rgb: np.ndarray) -> np.ndarray:
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)

    curves = np.stack([colours(f"c{i}") for i in range(8)])
    luminance = linear(np.stack([*curves, colours("paper")])) @ [0.2126, 0.7152, 0.0722]
    for value in luminance[:-1]:
        low, high = sorted((value, luminance[-1]))
        assert (high + 0.05) / (low + 0.05) >= 2.95  # WCAG asks 3 of graphics
    for matrix in _BLIND.values():
        left = (linear(curves) @ np.transpose(matrix)).clip(0, 1)
        seen = np.where(left <= 0.0031308, left * 12.92, 1.055 * left ** (1 / 2.4) - 0.055)
        lab = oklab(seen * 255)
        assert min(np.linalg.norm(a - b) for a, b in combinations(lab, 2)) > 0.085


# -- episodes --------------------------------------------------------------------------------------


def test_scenes_are_picked_from_both_ends() -> None:
    gains = np.array([0.5, -1.0, 3.0, 0.1, 2.0, -2.0, 0.2, 0.0])
    picked = pick_scenes(gains, 6)
    assert [p for p, _ in picked[:4]] == [2, 4, 5, 1]
    assert [why for _, why in picked[::2]] == [
        "one of the best", "one of the worst", "drawn at random",
    ]  # fmt: skip
    assert {p for p, _ in picked[4:]} <= {0, 3, 6, 7}
    for count in (1, 2, 3, 4, 8, 100):
        positions = [p for p, _ in pick_scenes(gains, count)]
        assert len(positions) == len(set(positions)) == min(count, 8)
    assert pick_scenes(gains[:1], 6) == [(0, "one of the best")]


def replay_of(played: Played, policy: str, **kwargs: Any) -> Replay:
    return replay(load_run(played.directory), policy=policy, **{"count": 3, **kwargs})


@pytest.mark.parametrize(("policy", "given"), [("full_then_random", True), ("random", False)])
def test_episodes_are_those_of_the_evidence(named: Played, policy: str, given: bool) -> None:
    found, seen = replay_of(named, policy), named.evidence[policy].seen
    assert found.deviation < 1e-4 and len(found.episodes) == 3
    names = EmojiScenes.class_names
    for episode in found.episodes:
        row = seen.scenes.tolist().index(episode.scene)
        potential = seen.potentials["log_prob"][row]
        assert episode.name == seen.names[row]
        assert episode.gain == pytest.approx(potential[-1] - potential[0])
        np.testing.assert_allclose(
            [step.viewpoint for step in episode.steps], seen.viewpoints[row], atol=1e-6
        )
        assert [step.chosen for step in episode.steps] == [not given, True, True]
        assert episode.steps[0].reward is None
        for t, step in enumerate(episode.steps):
            said, correct = seen.outcome["prediction"][row, t], seen.outcome["correct"][row, t]
            assert step.belief.verdict.startswith(f"CanViT says {names[said]}, ")
            assert step.belief.verdict.endswith("right.") == bool(correct)
            assert any(line.marked for line in step.belief.lines)
            if t:
                assert step.reward == pytest.approx(potential[t] - potential[t - 1], abs=1e-5)


def test_a_stopped_episode_ends_where_it_stopped(named: Played, tmp_path: Path) -> None:
    whole = named.evidence["full_then_random"]
    directory = save(tmp_path / "some", stopped(whole, [3, 1, 2, 1, 3]))
    found = replay(load_run(directory), policy="full_then_random", count=5)
    assert found.deviation < 1e-4
    steps = {episode.scene: len(episode.steps) for episode in found.episodes}
    assert steps == {0: 3, 1: 1, 2: 2, 3: 1, 4: 3}
    for episode in found.episodes:
        assert episode.stopped == (len(episode.steps) < 3)
        potential = whole.seen.potentials["log_prob"][episode.scene, : len(episode.steps)]
        assert episode.gain == pytest.approx(potential[-1] - potential[0], abs=1e-5)
        assert episode.choices is None or len(episode.steps) > 1
    page = check_page(write_report(directory).path)
    texts = [article.text for article in page.find("article")]
    assert sum("Then the policy stopped." in text for text in texts) == 3

    at_once = save(tmp_path / "none", stopped(whole, [1] * 5))
    page = check_page(write_report(at_once).path)
    assert "In none of these episodes was a glimpse chosen." in section(page, "choices").text


def test_episodes_without_a_glimpse_are_left_out(named: Played, tmp_path: Path) -> None:
    blind = named.evidence["random"]
    directory = save(tmp_path / "some", stopped(blind, [0, 2, 0, 0, 1]))
    found = replay(load_run(directory), policy="random", count=5)
    assert sorted(episode.scene for episode in found.episodes) == [1, 4]
    without_episodes(
        save(tmp_path / "none", stopped(blind, [0] * 5)), "random took no glimpse of any scene"
    )


def test_masks_are_shared_out(labelled: Played) -> None:
    found = replay_of(labelled, "entropy_coarse_to_fine", count=1)
    (episode,) = found.episodes
    for step in episode.steps:
        assert len(step.figures) == 6 and "mean IoU" in step.belief.verdict
        for shares in zip(*(line.numbers for line in step.belief.lines), strict=True):
            assert 0 < sum(shares) <= 1 + 1e-6
        assert all(line.colour is not None for line in step.belief.lines)


@pytest.mark.parametrize("policy", ["full_then_random", "random"])
def test_what_other_choices_were_worth(named: Played, policy: str) -> None:
    (episode,) = replay_of(named, policy, count=1).episodes
    choices, seen = episode.choices, named.evidence[policy].seen
    assert choices is not None
    assert choices.scales == (0.25, 0.375, 0.5) and choices.worth.shape == (3, 8, 8)
    row, given = seen.scenes.tolist().index(episode.scene), policy == "full_then_random"
    np.testing.assert_allclose(choices.chosen, seen.viewpoints[row, int(given)], atol=1e-6)

    rollout = replace(named.benchmark.env.rollout, initial_glimpse="full_scene" if given else None)
    before = rollout.start([named.benchmark.env.scenes[episode.scene]])
    was = float(before.potentials["log_prob"][0])
    assert choices.chosen_worth == pytest.approx(
        seen.potentials["log_prob"][row, int(given)] - was, abs=1e-4
    )
    # Action (s * grid + row) * grid + col, clipped into the scene.
    for s, r, c, place in ((0, 0, 7, (-0.75, 0.75)), (2, 3, 5, (-0.125, 0.375))):
        viewpoint = Viewpoint(
            centers=torch.tensor([place]), scales=torch.tensor([choices.scales[s]])
        )
        after = rollout.look(before, viewpoint).potentials["log_prob"]
        assert choices.worth[s, r, c] == pytest.approx(float(after[0]) - was, abs=1e-4)
    best = np.unravel_index(choices.worth.argmax(), choices.worth.shape)
    assert choices.best[2] == choices.scales[best[0]]
    assert choices.rank == 1 + (choices.worth > choices.chosen_worth + 1e-5).sum()


def test_reward_maps_mark_the_choice(named: Played) -> None:
    page = section(read(named.path), "choices")
    maps = page.find("div", class_="reward-map")
    assert len(maps) == 3
    for one in maps:
        assert len(one.find("figure")) == 4 and len(one.find("table")) == 3
        drawings = one.find("svg")
        assert all(len(svg.find("rect", class_="box chosen")) <= 1 for svg in drawings)
        # Once on the scene, once on the map of the nearest scale.
        assert len(one.find("rect", class_="box chosen")) == 2
        assert len(one.find("rect", class_="box best")) == 2
        assert sum(len(svg.find("title")) for svg in drawings) == 3 * 64


def test_panels_are_those_of_the_rendered_frame(
    make_rollout: Callable[..., Rollout], make_segmentation_rollout: Callable[..., Rollout]
) -> None:
    scene = EmojiScenes(split="train")[0]
    for make, count in ((make_rollout, 3), (make_segmentation_rollout, 6)):
        rollout = make(budget=2)
        episode = rollout.start([scene])
        viewpoint = Viewpoint(centers=torch.tensor([[0.25, -0.5]]), scales=torch.tensor([0.3]))
        episode = rollout.look(episode, viewpoint)
        panels = [panel.picture for panel in draw_figures(episode, rollout=rollout)]
        assert len(panels) == count
        assert all(panel.shape == (PANEL_PX, PANEL_PX, 3) for panel in panels)
        frame = render_episode(episode, rollout=rollout)
        for panel in panels:
            assert any(  # somewhere in the frame stands the very panel
                np.array_equal(frame[top : top + PANEL_PX, left : left + PANEL_PX], panel)
                for top in (40, 336)
                for left in range(16, frame.shape[1] - PANEL_PX, PANEL_PX + 16)
            )
        # Enlarged without smoothing: every pixel of the glimpse is a block, to its very edges.
        side = PANEL_PX // rollout.glimpse.glimpse_size_px
        blocks = panels[1].reshape(32, side, 32, side, 3)
        assert (blocks == blocks[:, :1, :, :1]).all()


def test_fewer_episodes_of_another_policy(named: Played, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    page = report(named.directory, out=out, episodes=1, policy="random")
    (episode,) = page.find("article")
    assert "row" in episode.find("h4")[0].text  # t0 was chosen
    assert section(page, "episodes").find("strong")[0].text == "random"
    assert len(page.find("div", class_="reward-map")) == 1


# -- where the environment is not to be had --------------------------------------------------------


def without_episodes(directory: Path, reason: str) -> None:
    written = write_report(directory)
    assert written.left_out is not None and re.search(reason, written.left_out)
    page = check_page(written.path)
    (sentence,) = section(page, "episodes").find("p")
    assert sentence.text == written.left_out
    assert len(sentence.text.splitlines()) == 1 and not page.find("img")


def changed(played: Played, directory: Path, **settings: Any) -> Path:
    """The run as if it had been played with other settings."""
    evidence = played.evidence["full_then_random"]
    return save(directory, replace(evidence, settings=evidence.settings | settings))


def test_another_backbone_leaves_episodes_out(named: Played, tmp_path: Path) -> None:
    backbone = {"name": "mini", "sha256": "0" * 64}
    without_episodes(changed(named, tmp_path, backbone=backbone), "has other weights than the run")


def test_a_missing_folder_leaves_episodes_out(
    named: Played, imagenet_checkpoint: str, tmp_path: Path
) -> None:
    kwargs = {"scenes": str(tmp_path / "gone"), "backbone": imagenet_checkpoint}
    directory = changed(
        named, tmp_path / "run", env="CanViT-IN1k-v0", split="all", env_kwargs=kwargs
    )
    without_episodes(directory, r"cannot be made here \(.*gone")
    directory = changed(named, tmp_path / "other", env="CartPole-v1")
    without_episodes(directory, "cannot be made here")


def test_other_settings_leave_episodes_out(named: Played, tmp_path: Path) -> None:
    glimpse = {"glimpse_size_px": 64, "canvas_grid_size": 8, "min_scale": 0.25}
    without_episodes(changed(named, tmp_path, glimpse=glimpse), "differs from the run's in glimpse")


def test_other_scenes_leave_episodes_out(named: Played, tmp_path: Path) -> None:
    evidence = named.evidence["full_then_random"]
    seen = replace(evidence.seen, digests=("x",) * evidence.seen.num_scenes)
    directory = save(tmp_path / "changed", replace(evidence, seen=seen))
    without_episodes(directory, r"scene \d is another one than in the run")
    seen = replace(evidence.seen, scenes=evidence.seen.scenes + 10**6)
    directory = save(tmp_path / "gone", replace(evidence, seen=seen))
    without_episodes(directory, r"scene 100000\d is missing \(IndexError")


# -- the command -----------------------------------------------------------------------------------


def test_the_command(named: Played, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.html"
    assert main(["report", str(named.directory), "--out", str(out), "--episodes", "1"]) == 0
    assert f"The report is {out} (" in capsys.readouterr().out
    assert len(read(out).find("article")) == 1


def test_the_command_says_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, classified([[0, 1]] * 3, name="mine", env="CanViT-Nowhere-v0"))
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "left out: the environment cannot be made here" in printed.err
    assert str(tmp_path / "report.html") in printed.out


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = save(tmp_path / "run", LEARNED, RANDOM)

    def refused(*arguments: str) -> str:
        assert main(["report", *arguments]) == 2
        printed = capsys.readouterr().err.strip().splitlines()
        assert len(printed) == 1
        return printed[0]

    assert "holds no manifest.json" in refused(str(tmp_path))
    assert "no policy 'best'; choose one of runs/mine" in refused(
        str(directory), "--policy", "best"
    )
    evidence_path(directory, LEARNED.settings).unlink()
    assert "play the policy again" in refused(str(directory))
    save_evidence(evidence_path(directory, LEARNED.settings), LEARNED)
    summary = json.loads((directory / "summary.json").read_text())
    del summary["policies"]["runs/mine"]
    (directory / "summary.json").write_text(json.dumps(summary))
    assert "are of different runs" in refused(str(directory))
    summary["policies"] = {name: {} for name in ("runs/mine", "full_then_random")}
    del summary["gflops_per_glimpse"]
    (directory / "summary.json").write_text(json.dumps(summary))
    assert "summary.json is damaged: it has no 'gflops_per_glimpse'" in refused(str(directory))
    (directory / "manifest.json").write_text("{}")
    assert "manifest.json is damaged: it has no 'hash'" in refused(str(directory))
    (directory / "manifest.json").write_text("no JSON")
    assert "manifest.json is damaged" in refused(str(directory))
    for usage in (["report"], ["report", "x", "--episodes", "-1"]):
        with pytest.raises(SystemExit):
            main(usage)


# -- in a browser ----------------------------------------------------------------------------------


@pytest.mark.browser
def test_every_picture_shows(named: Played, labelled: Played, browse: Callable[..., Any]) -> None:
    for played in (named, labelled):
        widths = browse(played.path).execute_async_script(
            """const done = arguments[0], images = [...document.images];
            Promise.all(images.map((image) => image.decode())).then(
              () => done(images.map((image) => image.naturalWidth)), () => done([]));"""
        )
        assert len(widths) > 20 and set(widths) == {PANEL_PX}


@pytest.mark.browser
def test_stepping_by_button_and_by_key(named: Played, browse: Callable[..., Any]) -> None:
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    driver = browse(named.path)
    first, second = css(driver, ".episode")[:2]

    def shown(episode: Any) -> tuple[str, str]:
        (step,) = [s for s in css(episode, ".step") if s.is_displayed()]
        (pressed,) = css(episode, "[aria-pressed=true]")
        heading = css(step, "h4")[0].text
        assert heading.startswith(f"{pressed.text} of t2")
        return pressed.text, css(step, "img")[0].get_attribute("src")

    seen = [shown(first)]
    back, following = css(first, "[data-move]")
    assert back.get_attribute("aria-disabled") == "true"
    following.click()
    seen.append(shown(first))
    following.send_keys(keys.ARROW_RIGHT)  # the focus stayed on the button
    seen.append(shown(first))
    assert [name for name, _ in seen] == ["t0", "t1", "t2"]
    assert len({picture for _, picture in seen}) == 3
    assert following.get_attribute("aria-disabled") == "true"
    status = css(first, "[role=status]")[0].get_property("textContent")
    assert status.startswith("t2 of t2: row") and "CanViT says" in status

    following.click()
    assert shown(first) == seen[2]
    first.send_keys(keys.HOME)
    assert shown(first) == seen[0]
    first.send_keys(keys.ARROW_LEFT)
    assert shown(first) == seen[0]
    first.send_keys(keys.END)
    assert shown(first) == seen[2]
    css(first, "[data-step='1']")[0].click()
    assert shown(first) == seen[1]
    assert shown(second)[0] == "t0"


@pytest.mark.browser
def test_curves_can_be_hidden(named: Played, browse: Callable[..., Any]) -> None:
    driver = browse(named.path)
    curve, toggle = css(driver, ".wide g.p0")[0], css(driver, ".toggle.q0")[0]
    assert curve.is_displayed()
    toggle.click()
    assert not curve.is_displayed() and css(driver, ".wide g.p1")[0].is_displayed()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 320])
def test_nothing_sticks_out_on_a_phone(
    named: Played, labelled: Played, browse: Callable[..., Any], width: int
) -> None:
    for played in (named, labelled):
        driver = browse(played.path, width=width)
        for folded in (True, False):
            driver.execute_script(
                "for (const d of document.querySelectorAll('details')) d.open = !arguments[0]",
                folded,
            )
            found = driver.execute_script(
                "return [document.documentElement.scrollWidth, window.innerWidth]"
            )
            assert found == [width, width]
        narrow, wide = css(driver, ".chart.narrow"), css(driver, ".chart.wide")
        assert len(narrow) == len(wide) == 2
        assert all(c.is_displayed() for c in narrow) and not any(c.is_displayed() for c in wide)


@pytest.mark.browser
def test_a_dark_theme(named: Played, browse: Callable[..., Any]) -> None:
    def colours(theme: str) -> list[int]:
        driver = browse(named.path, theme=theme)
        body = css(driver, "body")[0]
        shown = [body.value_of_css_property(k) for k in ("background-color", "color")]
        return [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in shown]

    paper, ink = colours("light")
    assert paper > 700 and ink < 150
    paper, ink = colours("dark")
    assert paper < 150 and ink > 600


@pytest.mark.browser
def test_without_scripts_every_step_shows(
    named: Played, driver: Any, browse: Callable[..., Any]
) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browse(named.path)
        steps = css(driver, ".step")
        assert len(steps) == 15
        assert all(step.rect["height"] > 100 for step in steps)
        assert all(control.rect["height"] == 0 for control in css(driver, ".controls"))
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
