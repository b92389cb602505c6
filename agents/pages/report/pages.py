"""The page: its head, its sections, and how it was made."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from canvit_agents.judging.summary import stops
from canvit_agents.pages.report.gallery import episodes, other_choices
from canvit_agents.pages.report.places import places
from canvit_agents.pages.report.replay import Replay
from canvit_agents.pages.report.results import results
from canvit_agents.pages.report.saved import SavedRun
from canvit_agents.pages.web.markup import Child, Markup, element, folded, join
from canvit_agents.pages.web.parts import page_style, read_asset


def page(run: SavedRun, *, replay: Replay | None, left_out: str | None) -> str:
    """The whole file. left_out: why there is no replay, a sentence."""
    manifest = run.manifest
    sections = [
        ("results", "Results", results(run)),
        ("places", "Where policies look", places(run)),
    ]
    if replay is not None:
        sections.append(("episodes", "Episodes", episodes(replay)))
        sections.append(("choices", "What other choices were worth", other_choices(replay)))
    elif left_out is not None:
        sections.append(("episodes", "Episodes", element("p", left_out, class_="note")))
    sections.append(("manifest", "How this was made", _manifest(manifest)))

    title = f"Where to look in {manifest['env']}"
    style = f"{page_style()}\n{read_asset(__package__, 'report.css')}"
    script = read_asset(__package__, "report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing is loaded from anywhere, and no script runs but this page's own.
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )
    nav = element(
        "nav",
        element("ul", [element("li", element("a", name, href=f"#{i}")) for i, name, _ in sections]),
        aria_label="Sections",
    )
    body = element(
        "body",
        element("a", "Skip to the results", href="#results", class_="skip"),
        element("header", element("h1", title), element("p", _lede(run), class_="lede"), nav),
        element("main", [_section(i, name, content) for i, name, content in sections]),
        element("script", Markup(script)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _section(name: str, title: str, content: Child) -> Markup:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, content, id=name, aria_labelledby=f"{name}-title")


def _lede(run: SavedRun) -> Markup:
    manifest, last = run.manifest, run.num_glimpses - 1
    stopping = any(map(stops, run.summary["policies"].values()))
    return join(
        "A scene is looked at one glimpse at a time, and a policy chooses where. Here ",
        _count(len(run.evidence), "policy", "policies"),
        f" had {'up to ' * stopping}{last + 1} glimpses each, t0 to t{last}, of the same ",
        _count(manifest["num_scenes"], "scene"),
        f" ({manifest['split']} split), with the backbone {manifest['backbone']['name']}.",
    )


def _count(value: int, one: str, many: str | None = None) -> str:
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def _manifest(manifest: dict[str, Any]) -> Markup:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    facts = {
        "hash": element("code", manifest["hash"]),
        "backbone": join(manifest["backbone"]["name"], " ", _sha(manifest["backbone"]["sha256"])),
        "scenes": join(
            f"{manifest['split']} split, {manifest['scenes']['count']}, ",
            _sha(manifest["scenes"]["sha256"]),
        ),
        "seed": str(manifest["seed"]),
        "potential": manifest["potential"],
        "versions": versions,
    }
    return join(
        element(
            "p", "The hash is of everything that decides the numbers, and of nothing that does not."
        ),
        element(
            "dl",
            [join(element("dt", name), element("dd", value)) for name, value in facts.items()],
            class_="terms",
        ),
        folded(
            "The whole manifest",
            element("pre", json.dumps(manifest, indent=2, ensure_ascii=False), tabindex="0"),
        ),
    )


def _sha(digest: str) -> Markup:
    return element("code", f"sha256 {digest[:12]}")
