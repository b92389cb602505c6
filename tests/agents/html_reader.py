"""Pages as trees, to be asked what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"br", "img", "input", "link", "meta"}


@dataclass
class Node:
    name: str
    attributes: dict[str, str]
    children: list[Any] = field(default_factory=list)

    def find(self, name: str, **attributes: str) -> list[Node]:
        """Every element of this name below, in the order of the page."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                wanted = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items()}
                if child.name == name and wanted.items() <= child.attributes.items():
                    found.append(child)
                found += child.find(name, **attributes)
        return found

    @property
    def text(self) -> str:
        parts = (child.text if isinstance(child, Node) else child for child in self.children)
        return "".join(parts)

    @property
    def numbers(self) -> list[float]:
        return [float(data.attributes["value"]) for data in self.find("data")]


class Reader(HTMLParser):
    """Refuses what is not nested well."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {key: value or "" for key, value in attrs})
        assert len(attrs) == len(node.attributes)
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(text: str | Path) -> Node:
    reader = Reader()
    reader.feed(text if isinstance(text, str) else text.read_text(encoding="utf-8"))
    assert reader.open == [reader.root]
    return reader.root


def everything(node: Node) -> Iterator[Node]:
    for child in node.children:
        if isinstance(child, Node):
            yield child
            yield from everything(child)


def css(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)
