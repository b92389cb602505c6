"""A run as one HTML file: curves, tables, where policies look, episodes, and what was missed.

The file is whole: it loads nothing, and opens from a disk as from a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from canvit_agents.pages.report.pages import page
from canvit_agents.pages.report.replay import CannotReplayError, default_episodes, replay
from canvit_agents.pages.report.saved import load_run
from canvit_gym.files import require_writable, write_text

__all__ = ["Written", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Written:
    """A report. left_out: why it shows no episodes, a sentence; None where it does."""

    path: Path
    left_out: str | None


def write_report(
    directory: Path,
    *,
    out: Path | None = None,
    episodes: int | None = None,
    policy: str | None = None,
    progress: bool = False,
) -> Written:
    """Write the report of a run directory, by default as report.html in it.

    episodes: how many are shown, 0 for none; of `policy`, by default the first trained one, else
    the first. Where the run's environment cannot be made again, there are none.

    Raises FileNotFoundError and ValueError where the directory holds no run, or not that policy.
    """
    run = load_run(directory)
    policy = run.first_policy if policy is None else policy
    if policy not in run.evidence:
        raise ValueError(
            f"The run in {directory} has no policy {policy!r}; choose one of "
            f"{', '.join(run.evidence)}."
        )
    out = directory / "report.html" if out is None else out
    require_writable(out.parent)  # before the episodes are played again
    count = default_episodes(run.num_glimpses) if episodes is None else episodes
    found, left_out = None, None
    if count:
        try:
            found = replay(run, policy=policy, count=count, progress=progress)
        except CannotReplayError as reason:
            left_out = f"Episodes and the worth of other choices are left out: {reason}."
    write_text(out, page(run, replay=found, left_out=left_out))
    return Written(path=out, left_out=left_out)
