"""One way to refuse a keyword value."""

from collections.abc import Iterable


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    accepted = tuple(choices)
    if value not in accepted:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, accepted))}.")
