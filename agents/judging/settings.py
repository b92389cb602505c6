"""The meaning of each setting of a run for its result: the one list of them.

`evaluate.settings_of` writes the settings. A setting that is not listed here decides the result.
"""

from __future__ import annotations

# Not part of a manifest's hash: what is noted beside the result, what names the policies, and what
# keyword arguments lead to is there itself (pictures, weights, numbers of glimpses, how they are
# scored). FLOPs follow from the weights.
_NOTED_ONLY = frozenset(
    {
        "candidates", "policy", "env_kwargs", "budget", "num_scenes", "backbone",
        "flops_per_glimpse", "metrics", "confidence",
    }
)  # fmt: skip

TOLD = ("env", "split", "seed", "potential", "precision", "glimpse")
"""Settings in which runs may differ and still be compared, but which a reader must know of."""

REPLAYED = ("num_glimpses", "potential", "metric", "precision", "glimpse")
"""Settings that keyword arguments decide, and defaults that a new version may change: they must be
the same where a saved episode is played again."""


def decides(setting: str) -> bool:
    """Whether a setting is part of what a manifest's hash is taken of, as it stands."""
    return setting not in _NOTED_ONLY
