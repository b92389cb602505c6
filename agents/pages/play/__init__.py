"""Looking by hand: a page, served to this machine alone, on which a person chooses the glimpses."""

from canvit_agents.pages.play.game import make_playground
from canvit_agents.pages.play.server import PlayServer, serve

__all__ = ["PlayServer", "make_playground", "serve"]
