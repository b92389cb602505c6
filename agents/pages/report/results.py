"""Results of a run: curves, the table of policies, paired differences."""

from __future__ import annotations

import math

import numpy as np

from canvit_agents.judging.summary import BASELINE, format_share, shown_steps, stops
from canvit_agents.pages.report.charts import Curve, Trade, curve_key, line_chart, trade_chart
from canvit_agents.pages.report.saved import SavedRun
from canvit_agents.pages.web.markup import (
    Child,
    Markup,
    capital,
    element,
    folded,
    interval,
    join,
    number,
    table,
    text_of,
)


def results(run: SavedRun) -> Markup:
    last = run.num_glimpses - 1
    return join(
        _highlights(run),
        _curves(run),
        element("h3", "Policies"),
        _policies(run),
        element(
            "p",
            f"Return: how much the potential {run.manifest['potential']} grew from t0 to t{last}, "
            f"{_price(run)}mean over scenes. Intervals are of 95%, from a paired bootstrap over "
            "scenes.",
            class_="note",
        ),
        _shares(run),
        _differences(run),
        _regret(run),
    )


def _highlights(run: SavedRun) -> Markup:
    """Numbers to remember: the best policy, and the first trained one where there is one."""
    last, metric = run.num_glimpses - 1, run.title
    ends = {name: float(found.value[-1]) for name, found in run.intervals.items()}
    best = max(ends, key=lambda name: ends[name])
    learned = run.evidence[run.first_policy].settings["policy"]["learned"]
    subject = run.first_policy if learned else best
    shown = [(f"highest {metric} at t{last}", number(ends[best], ".3f"), best)]
    if subject != best:
        shown.append((f"{metric} at t{last}", number(ends[subject], ".3f"), subject))
    if found := run.summary["paired"].get(f"{subject} - {BASELINE}"):
        value, low, high = (found[key][-1] for key in ("difference", "low", "high"))
        under = subject
        if low is not None and high is not None:
            under += f", {text_of(low, '+.3f')} to {text_of(high, '+.3f')}"
        shown.append((f"over {BASELINE} at t{last}", number(value, "+.3f"), under))
    if "headroom" in run.summary:
        found = run.summary["headroom"]
        shown.append(
            ("headroom", number(found["difference"], "+.3f"), f"oracle over {found['over']}")
        )
    tiles = [
        element(
            "div",
            element("dt", what),
            element("dd", value, class_="figure"),
            element("dd", under, class_="under"),
        )
        for what, value, under in shown
    ]
    return element("dl", tiles, class_="tiles")


def _price(run: SavedRun) -> str:
    cost = run.summary["glimpse_cost"]
    return f"less {cost:g} for each glimpse after t0, " if cost else ""


def _curves(run: SavedRun) -> Markup:
    """Over t and over what it takes, with one legend that shows and hides policies in both."""
    legend = element(
        "fieldset",
        element("legend", "Shown policies"),
        [
            element(
                "label",
                element("input", type="checkbox", checked=True, class_=f"toggle q{i}"),
                curve_key(i),
                element("span", name),
            )
            for i, name in enumerate(run.evidence)
        ],
        class_="legend",
    )
    # Which curves are shown needs no script.
    hiding = "".join(
        f".curves:has(.q{i}:not(:checked)) .p{i}{{display:none}}" for i in range(len(run.evidence))
    )
    metric = capital(run.title)
    return element(
        "div",
        element("style", Markup(hiding)),
        legend,
        element("h3", f"{metric} after each glimpse"),
        _over_steps(run),
        element("h3", f"{metric} against mean glimpses"),
        _over_glimpses(run),
        class_="curves",
    )


def _over_steps(run: SavedRun) -> Markup:
    metric, steps = run.title, run.num_glimpses
    curves = [
        Curve(name=name, value=found.value, low=found.low, high=found.high)
        for name, found in run.intervals.items()
    ]
    label = f"{capital(metric)} after each glimpse, with 95% intervals; values are in the table."
    busy = " busy" if len(curves) > 4 else ""
    # Two drawings, of which the style sheet shows the one that fits.
    charts = [
        line_chart(
            curves, label=label, y_title=metric, width=width, height=height, class_=kind + busy
        )
        for kind, width, height in (("chart wide", 860, 400), ("chart narrow", 360, 330))
    ]
    rows = [
        [
            curve.name,
            *(
                interval(*(_known(x[t]) for x in (curve.value, curve.low, curve.high)), form=".3f")
                for t in range(steps)
            ),
        ]
        for curve in curves
    ]
    values = table(
        ["policy", *(f"t{t}" for t in range(steps))],
        rows,
        caption=f"{capital(metric)} with 95% intervals",
    )
    return element(
        "figure",
        charts,
        element("figcaption", "Bands are 95% intervals over scenes."),
        folded("Values as a table", values),
    )


def _over_glimpses(run: SavedRun) -> Markup:
    """Shows what fewer glimpses would have been worth, and where policies that stop end up."""
    metric, policies = run.metric, run.summary["policies"]
    gflops = run.gflops_per_glimpse
    trades = [
        Trade(
            name=name,
            marks=np.stack((row["glimpses"], row[metric]), axis=1),
            line=np.stack((row["stop_when_sure"]["glimpses"], row["stop_when_sure"][metric]), 1),
            ring=run.num_glimpses - 1 if stops(row) else None,
        )
        for name, row in policies.items()
    ]
    titles = (run.title, "mean glimpses", "GFLOPs a scene")
    label = f"{capital(titles[0])} against mean glimpses; values are in the tables."
    charts = [
        trade_chart(
            trades,
            label=label,
            titles=titles,
            other_per_expense=gflops,
            width=width,
            height=height,
            class_=kind,
        )
        for kind, width, height in (("chart wide", 860, 420), ("chart narrow", 360, 360))
    ]
    confidence = next(iter(policies.values()))["stop_when_sure"]["potential"]
    caption = (
        "Marks: all episodes cut off after the same number of glimpses, where they had not stopped "
        f"before. Lines: each stopped once the potential {confidence} of its belief reached a "
        "threshold, for low to high ones. Both follow from the same episodes."
    )
    if any(trade.ring is not None for trade in trades):
        caption += " Rings: where a policy that stops by itself ends up."
    tables = [
        table(
            ["threshold", "mean glimpses", "GFLOPs", run.title],
            [
                [
                    number(threshold, ".3f"),
                    number(glimpses, ".2f"),
                    number(glimpses * gflops, ".3g"),
                    number(value, ".3f"),
                ]
                for threshold, glimpses, value in zip(
                    *(row["stop_when_sure"][key] for key in ("thresholds", "glimpses", metric)),
                    strict=True,
                )
            ],
            caption=f"{name}, stopped once sure",
        )
        for name, row in policies.items()
    ]
    return element(
        "figure",
        charts,
        element("figcaption", caption),
        folded("Values as tables", element("div", tables, class_="tables")),
    )


def _policies(run: SavedRun) -> Markup:
    summary, metric, last = run.summary, run.metric, run.num_glimpses - 1
    steps = shown_steps(run.num_glimpses)
    scores = summary.get("score", {})
    ranked = any("regret" in row for row in summary["policies"].values())
    stopping = any(map(stops, summary["policies"].values()))
    head: list[Child] = ["policy", *(f"t{t}" for t in steps), f"return t0 to t{last}"]
    head.append(f"t{last} over {BASELINE}")
    head += ["mean glimpses", "GFLOPs a scene"] * stopping
    head += ["mean rank of choices"] * ranked + ["score"] * bool(scores)
    rows = []
    for i, (name, row) in enumerate(summary["policies"].items()):
        cells: list[Child] = [element("span", curve_key(i), " ", name, class_="named")]
        cells += [number(row[metric][t], ".3f") for t in steps]
        cells.append(number(row["return_mean"], "+.3f"))
        found = summary["paired"].get(f"{name} - {BASELINE}")
        cells.append(None if found is None else _last(found, "difference"))
        if stopping:
            glimpses = row["glimpses"][-1]
            gflops = glimpses * run.gflops_per_glimpse
            cells += [number(glimpses, ".2f"), number(gflops, ".3g")]
        if ranked:
            ranks = [r for r in row.get("regret", {}).get("rank", []) if r is not None]
            cells.append(number(float(np.mean(ranks)) if ranks else None, ".1f"))
        if scores:
            score = scores[name]
            cells.append("undefined" if score is None else interval(*score.values(), form=".0%"))
        rows.append(cells)
    return table(head, rows, caption=f"{capital(run.title)} of each policy")


def _last(found: dict[str, list[float | None]], key: str) -> Markup:
    return interval(*(found[k][-1] for k in (key, "low", "high")), form="+.3f")


def _differences(run: SavedRun) -> Markup | None:
    paired = run.summary["paired"]
    if not paired:
        return None
    rows = [
        [
            names,
            *(interval(*values, form="+.3f") for values in zip(*found.values(), strict=True)),
        ]
        for names, found in paired.items()
    ]
    head = ["difference", *(f"t{t}" for t in range(run.num_glimpses))]
    caption = f"Paired differences in {run.title} on the same scenes, with 95% intervals"
    return folded("Paired differences after each glimpse", table(head, rows, caption=caption))


def _shares(run: SavedRun) -> Markup:
    """How far policies get to an upper bound."""
    items = [
        element("li", f"{name}: {format_share(found)}")
        for name, found in run.summary.get("share_of_the_way", {}).items()
    ]
    sentences: list[Child] = []
    if run.summary.get("score"):
        sentences.append(
            f"Score: share of the way from {BASELINE} to oracle at t{run.num_glimpses - 1}, "
            "undefined where oracle is not above."
        )
    if "headroom" in run.summary:
        found = run.summary["headroom"]
        sure = found["low"] is not None and found["low"] > 0
        sentences.append(
            join(
                f" The oracle minus {found['over']}, the best of the others: ",
                interval(*(found[key] for key in ("difference", "low", "high")), form="+.3f"),
                "; there is something to learn." if sure else "; nothing to learn shows here.",
            )
        )
    return join(
        element("p", sentences) if sentences else None,
        element("ul", items) if items else None,
    )


def _regret(run: SavedRun) -> Markup | None:
    peeked = {n: row["regret"] for n, row in run.summary["policies"].items() if "regret" in row}
    if not peeked:
        return None
    rows = [
        [f"{name}: {kind}", *(number(v, form) for v in found[kind])]
        for name, found in peeked.items()
        for kind, form in (("regret", "+.3f"), ("rank", ".1f"))
    ]
    count = next(iter(peeked.values()))["candidates"]
    caption = (
        f"How much more {run.manifest['potential']} the best of {count} candidates would have led "
        "to, and the choice's rank among them (1: none was better)"
    )
    head = ["policy", *(f"t{t}" for t in range(run.num_glimpses))]
    return folded("Regret of each choice", table(head, rows, caption=caption))


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
