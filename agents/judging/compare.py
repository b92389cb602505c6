"""Two policies of saved runs, compared scene by scene from their evidence alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canvit_agents.judging.evidence import Evidence, printable
from canvit_agents.judging.manifest import describe_scenes, load_policy_evidence, read_manifest
from canvit_agents.judging.metrics import compared, metrics_of
from canvit_agents.judging.settings import TOLD
from canvit_agents.judging.statistics import bootstrap
from canvit_agents.judging.summary import difference, format_interval, shown_steps


@dataclass(frozen=True, kw_only=True)
class Run:
    """A saved policy, and how it was asked for."""

    name: str
    evidence: Evidence


def find_run(name: str) -> Run:
    """The run that DIR:POLICY stands for, or DIR where it holds one policy.

    Raises FileNotFoundError where there is no such directory or file, and ValueError where the
    policy is unknown or not said.
    """
    directory, policy = _split(name)
    manifest = read_manifest(directory)
    policies = manifest["policies"]
    if policy is None and len(policies) == 1:
        (policy,) = policies
    if policy is None or policy not in policies:
        what = "does not say which policy" if policy is None else f"has no policy {policy!r}"
        raise ValueError(f"{name!r} {what}; give {directory}: and one of {', '.join(policies)}.")
    evidence = load_policy_evidence(directory, manifest=manifest, name=policy)
    return Run(name=name, evidence=evidence)


def compare(first: Run, second: Run) -> dict[str, Any]:
    """The paired comparison as JSON values; difference is that of the first minus the second.

    Raises ValueError where the runs differ in scenes, budget, metric or backbone.
    """
    one, other = first.evidence, second.evidence
    conditions, against = _conditions(one), _conditions(other)
    if differing := [key for key in conditions if conditions[key] != against[key]]:
        raise ValueError(
            f"{first.name} and {second.name} differ in {' and '.join(differing)}, so they say "
            "nothing about each other; play both in the same setting."
        )
    metric, tally, other_tally = metrics_of(one)[0], compared(one), compared(other)
    return {
        "first": first.name,
        "second": second.name,
        "num_scenes": one.seen.num_scenes,
        "metric": {"name": metric.name, "title": metric.title},
        "values": [tally.value.tolist(), other_tally.value.tolist()],
        "glimpses": [float(e.seen.taken.sum(axis=1).mean()) for e in (one, other)],
        "paired": difference(bootstrap(tally), bootstrap(other_tally)),
        "differ_in": [key for key in TOLD if one.settings[key] != other.settings[key]],
    }


def format_comparison(result: Mapping[str, Any]) -> str:
    """The comparison for people: a line for each step."""
    names = (result["first"], result["second"])
    lines = [
        f"{result['metric']['title']} after each glimpse, {result['num_scenes']} scenes, paired",
        f"A  {names[0]}",
        f"B  {names[1]}",
    ]
    if result["differ_in"]:
        lines.append(f"They differ in {', '.join(result['differ_in'])} too.")
    if any(count < len(result["values"][0]) for count in result["glimpses"]):
        lines.append("Mean glimpses: A {:.2f}, B {:.2f}.".format(*result["glimpses"]))
    lines += ["", f"{'':4}{'A':>6}{'B':>7}  A - B"]
    for t in shown_steps(len(result["values"][0])):
        found = {key: values[t] for key, values in result["paired"].items()}
        a, b = (values[t] for values in result["values"])
        lines.append(f"{f't{t}':4}{a:6.3f}{b:7.3f}  {format_interval(found)}")
    return printable("\n".join(lines))


def _conditions(evidence: Evidence) -> dict[str, Any]:
    settings = evidence.settings
    return {
        "scenes": describe_scenes(evidence.seen)["sha256"],
        "budget": settings["num_glimpses"],
        "metric": settings["metric"],
        "backbone": settings["backbone"]["sha256"],
    }


def _split(name: str) -> tuple[Path, str | None]:
    """Directory and policy; either may hold a colon, so the shortest directory that exists wins."""
    parts = name.split(":")
    for i in range(1, len(parts)):
        directory = Path(":".join(parts[:i])).expanduser()
        if directory.is_dir():
            return directory, ":".join(parts[i:])
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory, None
    raise FileNotFoundError(f"There is no run directory {name}; give DIR:POLICY, or DIR.")
