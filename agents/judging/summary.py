"""Summaries of results: metrics after each glimpse, paired differences, scanpaths, and a table of
them.

A summary follows from the evidence to the bit. Evidence itself is equal to the bit only where the
same machine plays the same batches; see `judging.playing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from canvit_agents.judging.anytime import glimpses_after, stop_when_sure
from canvit_agents.judging.evidence import Evidence, Trajectories, printable
from canvit_agents.judging.metrics import compared, metrics_of, tallies
from canvit_agents.judging.statistics import (
    Bootstrap,
    Estimate,
    bootstrap,
    paired_difference,
    share_of_the_way,
)
from canvit_gym.scanpaths import mean_measures

BASELINE = "full_then_random"
"""The policy that every difference in the table is taken to: the honest random policy."""

UPPERS = ("target", "oracle")
"""The policy that a share of the way leads to: the first of these that was played."""

_MANY_STEPS = 8  # a table of more shows the first five, the middle one and the last


def summarize(
    evidence: Mapping[str, Evidence], *, sampled: Mapping[str, Bootstrap] | None = None
) -> dict[str, Any]:
    """The content of summary.json, by policy name: JSON values only.

    sampled: what `bootstraps` says of the same evidence, where it is known already. Raises
    ValueError where policies were played on different scenes.
    """
    _require_same_scenes(evidence)
    if sampled is None:
        sampled = bootstraps(evidence)
    learned = [name for name, e in evidence.items() if e.settings["policy"]["learned"]]
    first = next(iter(evidence.values()))
    return {
        **{key: first.settings[key] for key in ("env", "backbone", "split")},
        "num_scenes": first.seen.num_scenes,
        "budget": first.settings["budget"],
        "glimpse_cost": first.settings.get("glimpse_cost", 0.0),
        "metrics": [{"name": m.name, "title": m.title} for m in metrics_of(first)],
        "gflops_per_glimpse": first.settings["flops_per_glimpse"] / 1e9,
        "policies": {name: _row(e) for name, e in evidence.items()},
        "paired": {
            f"{a} - {b}": difference(sampled[a], sampled[b])
            for a, b in pairs(list(evidence), learned=learned)
        },
        "share_of_the_way": _shares(sampled, learned=learned),
    }


def bootstraps(evidence: Mapping[str, Evidence]) -> dict[str, Bootstrap]:
    """The metric that policies are compared by, resampled, for each policy."""
    return {name: bootstrap(compared(e)) for name, e in evidence.items()}


def pairs(names: list[str], *, learned: list[str]) -> list[tuple[str, str]]:
    """Which policies are compared: each trained one with every other that is not trained, or
    comes after it; and each of the rest with BASELINE."""
    compared = [
        (a, b)
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if a in learned and (b not in learned or i < j)
    ]
    if BASELINE in names:
        compared += [(a, BASELINE) for a in names if a not in (*learned, BASELINE)]
    return compared


def difference(first: Bootstrap, second: Bootstrap) -> dict[str, list[float | None]]:
    """first - second at t0 .. tT, with 95 % intervals."""
    return _as_json("difference", paired_difference(first, second))


def share(
    sampled: Mapping[str, Bootstrap], name: str, *, upper: str
) -> dict[str, float | None] | None:
    """How far a policy gets from BASELINE to `upper` at tT, with its interval; None where `upper`
    is not above BASELINE there."""
    value, base, top = (sampled[key].at(-1) for key in (name, BASELINE, upper))
    estimate = share_of_the_way(value, base=base, upper=top)
    return None if np.isnan(estimate.value) else _as_json("share", estimate)


def _shares(
    sampled: Mapping[str, Bootstrap], *, learned: list[str]
) -> dict[str, dict[str, float | None]]:
    """Shares of the way of each trained policy, where one of UPPERS was played and is above
    BASELINE."""
    upper = next((name for name in UPPERS if name in sampled), None)
    if upper is None or BASELINE not in sampled:
        return {}
    found = {
        f"{name} from {BASELINE} to {upper}": share(sampled, name, upper=upper) for name in learned
    }
    return {name: value for name, value in found.items() if value is not None}


def _row(evidence: Evidence) -> dict[str, Any]:
    """Returns what summary.json says of one policy."""
    seen, settings = evidence.seen, evidence.settings
    potential = seen.potentials[settings["potential"]].astype(np.float64)
    metrics = tallies(evidence)
    row: dict[str, Any] = {name: tally.value.tolist() for name, tally in metrics.items()}
    row["potentials"] = {
        name: values.mean(axis=0, dtype=np.float64).tolist()
        for name, values in seen.potentials.items()
    }
    taken = glimpses_after(seen)
    price = settings.get("glimpse_cost", 0.0) * (taken[:, -1] - taken[:, 0])  # t0 is free
    row["return_mean"] = float((potential[:, -1] - potential[:, 0] - price).mean())
    row["glimpses"] = taken.mean(axis=0).tolist()
    metric, tally = next(iter(metrics.items()))
    row["stop_when_sure"] = stop_when_sure(evidence, metric=metric, tally=tally)
    given = settings["policy"]["initial_glimpse"] is not None
    row["scanpath"] = mean_measures(seen.viewpoints, initial_glimpse=given)
    if seen.peeks:
        row["regret"] = _regret(seen, potential=potential, candidates=settings["candidates"])
    return row


def _regret(seen: Trajectories, *, potential: np.ndarray, candidates: int) -> dict[str, Any]:
    """How much higher the best candidate would have led, and the chosen viewpoint's rank among the
    candidates (1 where none was better): means at t0 .. tT over the scenes where one was chosen,
    None where there is none."""
    chosen = ~np.isnan(seen.peeks["rank"])

    def mean(values: np.ndarray) -> Any:
        totals = values.sum(axis=0, dtype=np.float64, where=chosen)
        count = chosen.sum(axis=0)
        return _json_numbers(totals / np.where(count > 0, count, np.nan))

    return {
        "candidates": candidates,
        "regret": mean(seen.peeks["best_candidate"] - potential),
        "rank": mean(seen.peeks["rank"]),
    }


def _as_json(value: str, estimate: Estimate) -> dict[str, Any]:
    parts = {value: estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: _json_numbers(part) for name, part in parts.items()}


def _json_numbers(values: np.ndarray) -> Any:
    """Floats, nested as the array is; JSON has no NaN, so that is None."""
    numbers = np.asarray(values).astype(object)
    numbers[np.isnan(values)] = None
    return numbers.tolist()


def _require_same_scenes(evidence: Mapping[str, Evidence]) -> None:
    (first_name, first), *others = evidence.items()
    for name, other in others:
        if (first.seen.digests, *first.seen.scenes) != (other.seen.digests, *other.seen.scenes):
            raise ValueError(
                f"{first_name!r} and {name!r} were played on different scenes, perhaps because the "
                "pictures changed in between; play them again with another --out."
            )


# -- for people ------------------------------------------------------------------------------------


def metric_of(summary: Mapping[str, Any]) -> str:
    """The name of the metric that policies are compared by."""
    name: str = summary["metrics"][0]["name"]
    return name


def title_of(summary: Mapping[str, Any]) -> str:
    """The title of the metric that policies are compared by."""
    title: str = summary["metrics"][0]["title"]
    return title


def format_table(summary: Mapping[str, Any]) -> str:
    """The summary for people."""
    policies, paired, metric = summary["policies"], summary["paired"], metric_of(summary)
    shown = shown_steps(len(next(iter(policies.values()))[metric]))
    width = max(len("policy"), *(len(name) for name in policies))
    ranked = any("regret" in row for row in policies.values())
    stopping = any(map(stops, policies.values()))
    cost = summary["glimpse_cost"]
    price = f"; the return is less {cost:g} for each after t0" if cost else ""
    lines = [
        f"{summary['env']}, {summary['split']} split, {summary['num_scenes']} scenes, "
        f"backbone {summary['backbone']['name']}: {title_of(summary)} after each glimpse" + price,
        "",
        f"{'policy':{width}}  "
        + "  ".join(f"{f't{t}':>5}" for t in shown)
        + f"  {'return':>7}"
        + ("   rank" if ranked else "")
        + ("  glimpses  GFLOPs" if stopping else "")
        + f"  t{shown[-1]} over {BASELINE}",
    ]
    for name, row in policies.items():
        line = f"{name:{width}}  " + "  ".join(f"{row[metric][t]:5.3f}" for t in shown)
        line += f"  {row['return_mean']:+7.3f}"
        if ranked:
            line += f"  {np.mean([r for r in row['regret']['rank'] if r is not None]):5.1f}"
        if stopping:
            glimpses = row["glimpses"][-1]
            line += f"  {glimpses:8.2f}  {glimpses * summary['gflops_per_glimpse']:6.3g}"
        if found := paired.get(f"{name} - {BASELINE}"):
            line += "  " + format_interval({key: found[key][-1] for key in found})
        lines.append(line)
    for name, found in summary.get("share_of_the_way", {}).items():
        lines += ["", f"{name}: {format_share(found)}"]
    return printable("\n".join(lines))


def stops(row: Mapping[str, Any]) -> bool:
    """Whether a policy of a summary stopped before tT in any scene."""
    glimpses = row["glimpses"]
    return bool(glimpses[-1] < len(glimpses))


def shown_steps(count: int) -> list[int]:
    """Which of the steps t0 .. t(count - 1) a table has room for."""
    if count <= _MANY_STEPS:
        return list(range(count))
    return [0, 1, 2, 3, 4, (count - 1) // 2, count - 1]


def format_interval(found: Mapping[str, float | None]) -> str:
    value, low, high = found.values()
    return f"{value:+.3f}" if low is None else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def format_share(found: Mapping[str, float | None]) -> str:
    value, low, high = found.values()
    interval = "" if low is None else f" [{low:.0%}, {high:.0%}]"
    return f"{value:.0%} of the way{interval}"
