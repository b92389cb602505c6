"""Settings of training runs: frozen dataclasses, filled from YAML presets and `KEY=VALUE`.

A preset is `presets/<command>/<name>.yaml`: the settings that differ from the dataclass's defaults,
with `base`, the name of another preset that it changes, where there is one.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

RunT = TypeVar("RunT")
Command = Literal["pretrain", "finetune", "probe"]


def preset_names(command: Command) -> list[str]:
    """Names of the presets that a command has, sorted."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder(command).iterdir()
                  if path.name.endswith(".yaml"))  # fmt: skip


def load_preset(name: str, *, command: Command) -> dict[str, Any]:
    """Settings by name, nested, of a preset or of a YAML file of one's own.

    Raises ValueError where there is none of that name, or the file holds no settings, and
    ModuleNotFoundError without PyYAML.
    """
    import yaml

    source = Path(name)
    if not name.endswith((".yaml", ".yml")):
        source = Path(str(_folder(command) / f"{name}.yaml"))
        if not source.is_file():
            raise ValueError(
                f"preset is {name!r}; choose one of {', '.join(preset_names(command))}, or give "
                "the path of a YAML file of settings."
            )
    try:
        values = yaml.safe_load(source.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{source} is no YAML: {text}; correct it.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{source} holds no settings; give names and values.")
    base = values.pop("base", None)
    return values if base is None else merged(load_preset(str(base), command=command), values)


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Settings from `KEY=VALUE` or `SECTION.KEY=VALUE`, as in YAML; ValueError for others."""
    import yaml

    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        parts = key.split(".")
        if not equals or not all(part.isidentifier() for part in parts):
            raise ValueError(f"{text!r} is neither KEY=VALUE nor SECTION.KEY=VALUE.")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"The value of {text!r} can not be read; quote it.") from error
        for part in reversed(parts):
            parsed = {part: parsed}
        found = merged(found, parsed)
    return found


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some replaced, those of a section key by key."""
    new = dict(settings)
    for key, value in changes.items():
        inner = new.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        new[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return new


def make_run(kind: type[RunT], settings: Mapping[str, Any], *, name: str = "") -> RunT:
    """A dataclass of settings; ValueError for names that it does not have, and for other types.

    name: that of the section, for the sentences.
    """
    hints = get_type_hints(kind)
    known = {field.name for field in fields(cast(Any, kind))}
    if unknown := [key for key in settings if key not in known]:
        raise ValueError(
            f"Unknown settings {', '.join(name + key for key in unknown)}; known are "
            f"{', '.join(sorted(name + key for key in known))}."
        )
    return kind(**{key: _as(hints[key], value, name + key) for key, value in settings.items()})


def _as(hint: Any, value: Any, name: str) -> Any:
    """The value as this type; numbers with an exponent are texts to YAML."""
    wrong = ValueError(f"{name} is {value!r}; give {_in_words(hint)}.")
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} is {value!r}; give its settings by name, as {name}.KEY.")
        return make_run(cast(Any, hint), value, name=f"{name}.")
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in inner:
            raise wrong
        return value
    if origin in (Union, types.UnionType):
        for kind in inner:
            if kind is type(None) and value is None:
                return None
            if kind is not type(None) and value is not None:
                return _as(kind, value, name)
        raise wrong
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise wrong
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            raise wrong
        return tuple(_as(inner[0], part, name) for part in value)
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            raise wrong from None
    if type(value) is not hint:
        raise wrong
    return value


def _in_words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a list of {count}{inner[0].__name__}"
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(kind) for kind in inner)
    return {bool: "true or false", int: "an integer", float: "a number", str: "a text"}.get(
        hint, "nothing"
    )


def _folder(command: Command) -> Any:
    return resources.files("canvit_gym") / "training" / "presets" / command
