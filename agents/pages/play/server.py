"""The page over HTTP, for this machine alone.

It listens on the loopback interface only. A page of another site, open in the same browser, can
still send requests there; so every request must name a loopback host (which a foreign name that was
pointed here does not), and those that do something must be JSON and come from this very page.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import sys
import traceback
import webbrowser
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread, Timer
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from canvit_agents.pages.play.game import Advice, Game, Playground
from canvit_agents.pages.play.views import view
from canvit_agents.pages.web.parts import page_style, read_asset

_HOST = "127.0.0.1"
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?", re.IGNORECASE)
_MAX_SESSIONS = 32
_MAX_BODY_BYTES = 4096
_HEADERS = {
    "Cache-Control": "no-store",
    # Nothing is loaded from elsewhere, and no script runs but the page's own.
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'self' "
    "'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _RefusedError(Exception):
    """A request that is not answered; the message is one sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(kw_only=True)
class _Session:
    """One open page. order: draws its scenes, as an environment with the same seed does."""

    order: np.random.Generator
    game: Game
    with_truth: bool = False
    advice: Advice | None = None


class PlayServer(ThreadingHTTPServer):
    """Serves games on 127.0.0.1; `port` 0 takes a free one.

    Raises OSError where the port is taken.
    """

    daemon_threads = True
    request_queue_size = 128  # connections that wait to be accepted; the usual 5 lose requests

    def __init__(self, playground: Playground, *, port: int = 0) -> None:
        try:
            super().__init__((_HOST, port), _Handler)
        except OSError as error:
            raise OSError(
                f"Port {port} can not be used ({error.strerror}); choose another with --port, or "
                "leave it out for a free one."
            ) from error
        self.playground = playground
        style = f"{page_style()}\n{read_asset(__package__, 'play.css')}"
        self.files = {
            "/": ("text/html", read_asset(__package__, "play.html")),
            "/play.css": ("text/css", style),
            "/play.js": ("text/javascript", read_asset(__package__, "play.js")),
        }
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._lock = Lock()

    @property
    def address(self) -> str:
        return f"http://{_HOST}:{self.server_port}/"

    def act(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a page asks for and say how its game stands.

        Raises ValueError and _RefusedError, whose sentences are for the person who asked.
        """
        with self._lock:  # one glimpse at a time: the model uses every core by itself
            if action == "start":
                key, session = self._open()
            else:
                key, session = self._find(request.get("session"))
                self._do(action, session, request)
            shown = view(
                session.game,
                playground=self.playground,
                with_truth=session.with_truth,
                advice=session.advice,
            )
            return {"session": key, **shown}

    def _open(self) -> tuple[str, _Session]:
        order, _ = seeding.np_random(self.playground.seed)
        session = _Session(order=order, game=self._draw(order))
        key = secrets.token_urlsafe()
        self._sessions[key] = session
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return key, session

    def _find(self, key: Any) -> tuple[str, _Session]:
        if not isinstance(key, str) or key not in self._sessions:
            raise _RefusedError(
                HTTPStatus.NOT_FOUND, "This page's game is no longer known here; reload the page."
            )
        self._sessions.move_to_end(key)
        return key, self._sessions[key]

    def _do(self, action: str, session: _Session, request: dict[str, Any]) -> None:
        match action:
            case "new":
                session.game = self._draw(session.order)
            case "again":
                session.game = self.playground.start(session.game.index)
            case "look":
                place = request.get("viewpoint")
                if not isinstance(place, list):
                    raise ValueError("The viewpoint is missing; give it as [row, col, scale].")
                session.game = self.playground.look(session.game, place)
            case "stop":
                session.game = self.playground.stop(session.game)
            case "advise":
                session.advice = self.playground.advise(session.game)
                return
            case "truth":
                if not isinstance(shown := request.get("shown"), bool):
                    raise ValueError("Whether to show the truth is missing; give shown as a bool.")
                session.with_truth = shown
                return
            case _:
                raise _RefusedError(HTTPStatus.NOT_FOUND, f"There is no action {action!r} here.")
        session.advice = None

    def _draw(self, order: np.random.Generator) -> Game:
        index = int(order.integers(len(self.playground.benchmark.env.scenes)))
        return self.playground.start(index)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exception(), ConnectionError | TimeoutError):
            return  # the page was closed meanwhile
        super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PlayServer
    server_version, sys_version = "canvit-gym", ""
    timeout = 30
    reading_s = 30.0
    """A whole request must be there within so many seconds, however it drips in."""

    def setup(self) -> None:
        super().setup()
        self._deadline = Timer(self.reading_s, self._hang_up)
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def _hang_up(self) -> None:
        with suppress(OSError):  # it is closed already
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        self._deadline.cancel()
        try:
            self._require_loopback()
            name = self._path
            if name not in self.server.files:
                raise _RefusedError(HTTPStatus.NOT_FOUND, f"There is no page {name!r} here.")
        except _RefusedError as refusal:
            self._send_error(refusal.status, str(refusal))
            return
        kind, text = self.server.files[name]
        self._send(HTTPStatus.OK, kind, text)

    def do_POST(self) -> None:
        try:
            body = self._read_body()
            self._require_loopback()
            self._require_own_page()
            reply = self.server.act(self._path.removeprefix("/"), _parse(body))
        except _RefusedError as refusal:
            self._send_error(refusal.status, str(refusal))
        except ValueError as error:
            self._send_error(HTTPStatus.BAD_REQUEST, str(error))
        except (
            Exception
        ) as error:  # a picture that is gone, a device without memory, a mistake here
            traceback.print_exc()
            self._send_error(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                f"That went wrong ({type(error).__name__}); the terminal says where.",
            )
        else:
            self._send(HTTPStatus.OK, "application/json", json.dumps(reply, allow_nan=False))

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MAX_BODY_BYTES:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The request's length is {length or 'not given'}; at most {_MAX_BODY_BYTES} bytes "
                "are read.",
            )
        try:
            body = self.rfile.read(int(length))
        except (TimeoutError, ConnectionError):
            body = b""
        self._deadline.cancel()
        if len(body) < int(length):
            raise _RefusedError(
                HTTPStatus.REQUEST_TIMEOUT, "The request's body did not come; send it again."
            )
        return body

    def _require_loopback(self) -> None:
        host = self.headers.get("Host", "")
        if not _LOOPBACK.fullmatch(host):
            raise _RefusedError(
                HTTPStatus.FORBIDDEN,
                f"Requests to {host!r} are refused; open {self.server.address} instead.",
            )

    def _require_own_page(self) -> None:
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise _RefusedError(
                HTTPStatus.FORBIDDEN,
                "Requests from other pages are refused; use the page that is served here.",
            )
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Requests must be application/json."
            )

    def _send_error(self, status: HTTPStatus, sentence: str) -> None:
        self._send(status, "application/json", json.dumps({"error": sentence}))

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each glimpse helps nobody."""


def _parse(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("The request is no JSON; give an object.") from error
    if not isinstance(request, dict):
        raise ValueError("The request is no JSON object; give one.")
    return request


def serve(playground: Playground, *, port: int = 0, browser: bool = True) -> None:
    """Serve until interrupted; print the address, and try to open it in a browser."""
    with PlayServer(playground, port=port) as server:
        print(
            f"Look by hand at {server.address} (only from this machine); Ctrl-C ends it.",
            flush=True,
        )
        if browser:  # a browser in the terminal returns only when it is left
            Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
