"""Looking by hand: the page is for this machine alone, plays by the environment's rules, gives
nothing away before the end, and works in a browser by mouse and by key."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from html_reader import Node, css, everything, read

import canvit_agents.pages.play.server as play_server
from canvit_agents.cli.main import main
from canvit_agents.judging.evaluate import evaluate
from canvit_agents.judging.evidence import Evidence
from canvit_agents.pages.play import PlayServer, make_playground
from canvit_agents.pages.play import server as server_module
from canvit_agents.pages.play.game import Game, Playground, played_by
from canvit_agents.pages.play.seen import seen_so_far
from canvit_agents.pages.play.views import view
from canvit_agents.pages.report.saved import load_run
from canvit_agents.policies import Policy
from canvit_gym.envs.actions import BoxActions
from canvit_gym.envs.rollout import Choice, Episode, Rollout
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import Viewpoint
from canvit_gym.model.identity import identify
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.tasks.classification import Classification
from canvit_gym.tasks.depth import Depth
from canvit_gym.tasks.segmentation import Segmentation

ENV = "CanViT-Emoji-v0"
PLACE = [0.25, -0.5, 0.375]


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The sentence in which a request is refused."""
        sentence = self.json["error"]
        assert set(self.json) == {"error"} and len(sentence.splitlines()) == 1
        assert sentence[0].isupper() and sentence.endswith(".")
        return sentence


@dataclass
class Page:
    """What an open page does, without a browser."""

    server: PlayServer
    session: str = ""

    def send(self, method: str, path: str, body: str = "", **headers: str | None) -> Reply:
        """A request with the page's own headers; those given go over them, None leaves one out."""
        address = f"127.0.0.1:{self.server.server_port}"
        own = {"Host": address, "Content-Length": str(len(body))}
        if method == "POST":
            own |= {"Origin": f"http://{address}", "Content-Type": "application/json"}
        given = {key.replace("_", "-"): value for key, value in headers.items()}
        connection = HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for key, value in {**own, **given}.items():
            if value is not None:
                connection.putheader(key, value)
        connection.endheaders(body.encode())
        found = connection.getresponse()
        reply = Reply(found.status, dict(found.getheaders()), found.read().decode())
        connection.close()
        return reply

    def ask(self, action: str, **request: Any) -> Reply:
        return self.send("POST", f"/{action}", json.dumps({"session": self.session, **request}))

    def do(self, action: str, **request: Any) -> dict[str, Any]:
        reply = self.ask(action, **request)
        assert reply.status == 200, reply.text
        self.session = reply.json["session"]
        return reply.json


@pytest.fixture
def open_page() -> Iterator[Callable[[Playground], Page]]:
    """Serves a playground, and opens its page."""
    servers = []

    def open_page(playground: Playground) -> Page:
        server = PlayServer(playground)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        page = Page(server)
        page.do("start")
        return page

    yield open_page
    for server in servers:
        server.shutdown()
        server.server_close()


def test_many_requests_at_once_are_all_answered(
    naming: Playground, open_page: Callable[[Playground], Page]
) -> None:
    page = open_page(naming)
    with ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(lambda _: page.ask("truth", shown=True).status, range(100)))
    assert replies == [200] * 100


@pytest.mark.parametrize("sent", ["half of the head", "no body", "half of the body", "a drip"])
def test_a_request_that_never_comes_is_given_up_quietly(
    naming: Playground,
    open_page: Callable[[Playground], Page],
    sent: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    page = open_page(naming)
    monkeypatch.setattr(server_module._Handler, "reading_s", 0.5)
    address = f"127.0.0.1:{page.server.server_port}"
    head = (
        f"POST /truth HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\n"
        "Content-Type: application/json\r\nContent-Length: 40\r\n\r\n"
    ).encode()
    data = {"half of the head": head[:60], "half of the body": head + b'{"session"'}.get(sent, head)
    with socket.create_connection(("127.0.0.1", page.server.server_port), timeout=20) as connection:
        started = time.monotonic()
        if sent == "a drip":
            with suppress(OSError):
                for byte in head:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)
        else:
            connection.sendall(data)
        answer = b""
        with suppress(OSError):  # it may be reset instead of closed
            while chunk := connection.recv(4096):
                answer += chunk
    assert time.monotonic() - started < 15
    assert answer == b"" or b" 408 " in answer
    assert page.ask("truth", shown=True).status == 200  # the server goes on
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out


@pytest.fixture(scope="module")
def naming(mini_checkpoint: str) -> Playground:
    return make_playground(ENV, env_kwargs={"backbone": mini_checkpoint, "budget": 2})


@pytest.fixture(scope="module")
def labelling(mini_checkpoint: str, emoji_probe: str) -> Playground:
    kwargs = {"backbone": mini_checkpoint, "probe": emoji_probe, "budget": 2}
    return make_playground("CanViT-EmojiSeg-v0", env_kwargs=kwargs)


@pytest.fixture(params=["naming", "labelling"])
def playground(request: pytest.FixtureRequest) -> Playground:
    return request.getfixturevalue(request.param)


@pytest.fixture
def page(naming: Playground, open_page: Callable[[Playground], Page]) -> Page:
    return open_page(naming)


def rows(html: str) -> list[list[Node]]:
    """The body of the only table, cells each."""
    (body,) = read(html).find("tbody")
    return [[c for c in row.children if isinstance(c, Node)] for row in body.find("tr")]


# -- the rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id", [ENV, "CanViT-EmojiSeg-v0", "CanViT-IN1k-v0", "CanViT-ADE20K-v0"]
)
def test_looking_is_the_environments_own_step(
    env_id: str, env_kwargs: dict[str, dict[str, Any]], open_page: Callable[[Playground], Page]
) -> None:
    split = "all" if env_id == "CanViT-IN1k-v0" else "test"
    kwargs = {**env_kwargs[env_id], "glimpse_cost": 0.125}
    playground = make_playground(env_id, split=split, env_kwargs=kwargs, seed=3)
    page = open_page(playground)
    shown = page.do("truth", shown=True)
    env: Any = gym.make(env_id, split=split, **kwargs).unwrapped
    _, info = env.reset(seed=3)
    assert shown["scene"] == info["scene"]

    actions = BoxActions(min_scale=playground.rollout.glimpse.min_scale)
    potential, total = env.batch.reward, 0.0
    for t, place in enumerate(([0.25, -0.5, 0.375], [-0.5, 0.25, 0.5]), 1):
        viewpoint = Viewpoint(
            centers=torch.tensor([place[:2]]), scales=torch.tensor([place[2]]).float()
        )
        _, reward, _, _, info = env.step(actions.nearest(viewpoint)[0])
        shown, total = page.do("look", viewpoint=place), total + reward
        assert shown["viewpoints"][-1] == pytest.approx(info["viewpoint"], abs=1e-6)
        assert shown["left"] == 4 - t and not shown["over"]
        *steps, last = rows(shown["html"]["rewards"])
        assert steps[-1][0].text == f"t{t}"
        assert steps[-1][2].numbers == pytest.approx([info["potential_after"][potential]], abs=1e-4)
        assert steps[-1][3].numbers == pytest.approx([reward], abs=1e-4)
        assert last[3].numbers == pytest.approx([total], abs=1e-4)
        for row in rows(shown["html"]["belief"]):
            name, share = row[0].text.removesuffix(" (label)"), row[1].numbers[0]
            assert share == pytest.approx(believed(env, name), abs=1e-4)


def believed(env: Any, name: str) -> float:
    """The probability of a class, what it fills of the decoded mask, or a quantile of depths."""
    task, episode = env.batch.rollout.task, env.episode
    if isinstance(task, Depth):
        share = {"nearest": 0.0, "median": 0.5, "farthest": 1.0}[name]
        return float(task.log_depth(episode.belief).exp().quantile(share))
    if isinstance(task, Classification):
        return float(episode.belief[0, task.class_names.index(name)].exp())
    size = episode.targets.shape[-1]
    logits = torch.nn.functional.interpolate(episode.belief, size=(size, size), mode="bilinear")
    decoded = logits[0].argmax(dim=0)
    index = 255 if name == "no class" else task.class_names.index(name)
    return float((decoded == index).float().mean())


def test_stopping_is_the_environments_own(
    mini_checkpoint: str, open_page: Callable[[Playground], Page]
) -> None:
    kwargs = {"backbone": mini_checkpoint, "stop_action": True, "glimpse_cost": 0.125}
    playground = make_playground(ENV, env_kwargs=kwargs)
    page = open_page(playground)
    env: Any = gym.make(ENV, split="test", **kwargs).unwrapped
    env.reset(seed=0)
    action = env.batch.actions.nearest(
        Viewpoint(centers=torch.tensor([PLACE[:2]]), scales=torch.tensor(PLACE[2:]))
    )[0]
    rewards = [env.step(action)[1]]
    assert page.do("look", viewpoint=PLACE)["may_stop"]
    action[3] = 1
    _, reward, terminated, _, _ = env.step(action)
    rewards.append(reward)
    shown = page.do("stop")
    assert shown["over"] and terminated and shown["left"] == 3
    assert "You stopped with 3 of 4 glimpses left." in shown["status"]
    assert len(shown["viewpoints"]) == 2
    assert rows(shown["html"]["rewards"])[-1][3].numbers == pytest.approx([sum(rewards)], abs=1e-4)
    you, *others = rows(shown["html"]["result"])
    assert [row[-1].text for row in (you, *others)] == ["2", "5", "5"]
    assert "game is over" in page.ask("stop").error


def test_without_its_action_nobody_stops(page: Page) -> None:
    assert not page.do("new")["may_stop"]
    assert "stop_action=true" in page.ask("stop").error


def test_scenes_come_in_the_environments_order(page: Page, mini_checkpoint: str) -> None:
    env = gym.make(ENV, split="test", backbone=mini_checkpoint)
    order = [env.reset(seed=0 if i == 0 else None)[1]["scene"] for i in range(3)]
    found = [page.do("start")["scene"], page.do("new")["scene"], page.do("new")["scene"]]
    assert found == order and len(set(order)) == 3
    page.do("look", viewpoint=PLACE)
    again = page.do("again")
    assert again["scene"] == order[2] and again["left"] == 2 and len(again["viewpoints"]) == 1


def test_every_open_page_has_a_game_of_its_own(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play_server, "_MAX_SESSIONS", 4)
    other = Page(page.server)
    other.do("start")
    page.do("look", viewpoint=PLACE)
    assert other.do("truth", shown=False)["left"] == 2
    for _ in range(4):  # who was not seen for the longest is forgotten
        page.do("truth", shown=False)
        Page(page.server).do("start")
    reply = other.ask("new")
    assert reply.status == 404 and "reload the page" in reply.error
    assert page.do("truth", shown=False)["left"] == 1


def test_all_glimpses_may_be_chosen(open_page: Callable[[Playground], Page], naming: Any) -> None:
    rollout = replace(naming.rollout, initial_glimpse=None)
    env = CanViTVectorEnv(
        num_envs=1, scenes=naming.benchmark.env.scenes, rollout=rollout,
        backbone=naming.benchmark.env.backbone,
    )  # fmt: skip
    page = open_page(replace(naming, benchmark=replace(naming.benchmark, env=env)))
    shown = page.do("truth", shown=True)
    assert shown["viewpoints"] == [] and shown["left"] == 2
    assert "No glimpse yet" in shown["html"]["panels"]
    shown = page.do("look", viewpoint=[0, 0, 1])
    assert shown["viewpoints"] == [[0, 0, 1]]
    assert page.do("look", viewpoint=PLACE)["over"]


# -- nothing is given away -------------------------------------------------------------------------


def with_another_truth(game: Game, rollout: Rollout) -> Game:
    """The same glimpses of a scene that looks the same but shows something else."""
    changed = []
    for episode in game.episodes:
        targets = (episode.targets + 1) % 3
        verdict = rollout.task.judge(episode.belief, targets)
        changed.append(
            replace(
                episode, targets=targets, potentials=verdict.potentials, outcome=verdict.outcome
            )
        )
    return replace(game, episodes=tuple(changed))


def test_nothing_shown_depends_on_the_answer_before_the_end(playground: Playground) -> None:
    game = playground.start(5)
    game = playground.look(game, PLACE)
    other = with_another_truth(game, playground.rollout)

    def shown(game: Game, with_truth: bool) -> str:
        found = view(game, playground=playground, with_truth=with_truth, advice=None)
        return json.dumps(found)

    assert shown(game, False) == shown(other, False)
    assert shown(game, True) != shown(other, True)
    scene = game.now.scenes[0]
    assert scene.name not in shown(game, False)  # of a folder, it names the class


def test_the_answer_is_shown_when_asked(page: Page) -> None:
    hidden = page.do("look", viewpoint=PLACE)
    assert "label" not in hidden["html"]["belief"] and not read(hidden["html"]["rewards"]).numbers
    shown = page.do("truth", shown=True)
    assert "(label)" in shown["html"]["belief"] and rows(shown["html"]["rewards"])
    assert "(label)" in page.do("new")["html"]["belief"]  # until it is no longer asked for
    assert page.do("truth", shown=False)["html"]["rewards"] == hidden["html"]["rewards"]


# -- the end ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(naming: Playground, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Evidence]:
    """What `evaluate` says of the rivals on the first scenes."""
    out = tmp_path_factory.mktemp("run")
    evaluate(naming.rivals, benchmark=naming.benchmark, num_scenes=3, out=out, progress=False)
    return load_run(out).evidence


def test_others_reach_what_evaluate_says(naming: Playground, judged: dict[str, Evidence]) -> None:
    game = naming.look(naming.look(naming.start(2), PLACE), PLACE)
    assert [played.name for played in game.others] == ["full_then_random", "coarse_to_fine"]
    for played in game.others:
        seen = judged[played.name].seen
        np.testing.assert_allclose(played.viewpoints, seen.viewpoints[2], atol=1e-6)
        for name, values in seen.potentials.items():
            assert float(played.episode.potentials[name]) == pytest.approx(values[2, -1], abs=1e-4)


def test_the_end_says_what_it_was_and_what_others_reached(
    playground: Playground, open_page: Callable[[Playground], Page]
) -> None:
    page = open_page(playground)
    assert page.do("look", viewpoint=PLACE)["html"]["result"] == ""
    shown = page.do("look", viewpoint=[-0.5, 0.5, 0.5])
    assert shown["over"] and shown["left"] == 0
    found = rows(shown["html"]["result"])
    assert [row[0].text for row in found] == ["you", "full_then_random", "coarse_to_fine"]
    for row in found:
        (button,) = row[0].find("button")
        assert len(json.loads(button.attributes["data-glimpses"])) == 3
    task, potential = playground.rollout.task, playground.benchmark.env.reward
    game = playground.look(
        playground.look(playground.start(shown["scene"]), PLACE), [-0.5, 0.5, 0.5]
    )
    for row, played in zip(found, (played_by("you", game.now), *game.others), strict=True):
        assert row[2].numbers == pytest.approx([float(played.episode.potentials[potential])])
        if isinstance(task, Segmentation):
            assert row[1].numbers == pytest.approx([float(played.episode.potentials["mean_iou"])])
        else:
            said, correct = (played.episode.outcome[k].item() for k in ("prediction", "correct"))
            assert row[1].text.startswith(f"{task.class_names[said]}, ")
            assert row[1].text.endswith(", right" if correct else ", wrong")
    if isinstance(task, Classification):
        label = task.class_names[playground.benchmark.env.scenes[shown["scene"]].label]
        assert label in shown["status"] or ": right" in shown["status"]
    assert "game is over" in page.ask("look", viewpoint=PLACE).error


# -- advice ----------------------------------------------------------------------------------------


def test_following_the_advice_is_playing_the_policy(
    make_vector: Callable[..., CanViTVectorEnv],
    save_untrained: Callable[..., Path],
    mini_checkpoint: str,
    open_page: Callable[[Playground], Page],
) -> None:
    env = make_vector(1, action="cell", budget=2)
    env.backbone = identify(mini_checkpoint)
    kwargs = {"action": "cell", "budget": 2, "backbone": mini_checkpoint}
    policy = str(save_untrained(env, env_kwargs=kwargs))
    page = open_page(make_playground(ENV, policy=policy))  # in the environment that it fits
    shown = page.do("start")
    assert (shown["advisor"], shown["advice"], shown["budget"]) == (policy, None, 2)
    for _ in range(2):
        advice = page.do("advise")["advice"]
        assert page.do("truth", shown=False)["advice"] == advice
        shown = page.do("look", viewpoint=advice)
        assert shown["advice"] is None
    you, *others = rows(shown["html"]["result"])
    assert others[-1][0].text == policy
    assert you[2].numbers == pytest.approx(others[-1][2].numbers, abs=1e-5)
    assert (
        you[0].find("button")[0].attributes["data-glimpses"]
        == (others[-1][0].find("button")[0].attributes["data-glimpses"])
    )
    assert "game is over" in page.ask("advise").error


@dataclass(frozen=True, kw_only=True)
class Content(Policy):
    """Has seen enough."""

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Viewpoint:
        return Viewpoint.full_scene(batch_size=episode.batch_size)

    def choose(self, episode: Episode, generators: Sequence[torch.Generator]) -> Choice:
        everyone = torch.ones(episode.batch_size, dtype=torch.bool)
        return Choice(viewpoint=self(episode, generators), stop=everyone)


def test_the_advice_may_be_to_stop(
    naming: Playground, open_page: Callable[[Playground], Page]
) -> None:
    rivals = {"content": Content(rollout=naming.rollout)}
    page = open_page(replace(naming, rivals=rivals, advisor="content"))
    assert page.do("advise")["advice"] == "stop"
    page.do("look", viewpoint=PLACE)
    _, other = rows(page.do("look", viewpoint=PLACE)["html"]["result"])
    (button,) = other[0].find("button")
    assert json.loads(button.attributes["data-glimpses"]) == [[0, 0, 1]]


def test_without_a_policy_there_is_no_advice(page: Page) -> None:
    reply = page.ask("advise")
    assert reply.status == 400 and "--policy" in reply.error


# -- what was seen ---------------------------------------------------------------------------------


def test_only_what_was_seen_is_shown(make_rollout: Callable[..., Rollout]) -> None:
    rollout = make_rollout(budget=2)
    scene = EmojiScenes(split="train")[0]
    whole = rollout.start([scene])
    close = Viewpoint(centers=torch.tensor([[-0.5, 0.25]]), scales=torch.tensor([0.25]))
    wide = Viewpoint(centers=torch.tensor([[-0.25, 0.25]]), scales=torch.tensor([0.75]))
    pictures = [
        seen_so_far(episode, rollout=rollout).astype(float)
        for episode in (whole, rollout.look(whole, close))
    ]
    blurred, sharper = pictures
    box = (slice(16, 48), slice(64, 96))  # rows, columns of the close glimpse
    outside = np.ones((128, 128), dtype=bool)
    outside[box] = False
    assert (blurred[outside] == sharper[outside]).all()
    # A glimpse at the smallest scale shows the scene pixel by pixel.
    assert np.abs(sharper[box] - scene.picture[box]).max() <= 1
    assert np.abs(blurred[box] - scene.picture[box]).mean() > 2
    # A wider glimpse afterwards does not blur what was seen closely.
    both = seen_so_far(rollout.look(rollout.look(whole, close), wide), rollout=rollout)
    assert (both[box] == sharper[box]).all() and (both[outside] != sharper[outside]).any()


def test_what_was_never_seen_is_grey(make_rollout: Callable[..., Rollout]) -> None:
    rollout = make_rollout(budget=2, initial_glimpse=None)
    episode = rollout.start([EmojiScenes(split="train")[0]])
    assert (seen_so_far(episode, rollout=rollout) == 128).all()
    corner = Viewpoint(centers=torch.tensor([[-0.5, 0.5]]), scales=torch.tensor([0.5]))
    seen = seen_so_far(rollout.look(episode, corner), rollout=rollout)
    assert (seen[64:] == 128).all() and (seen[:, :64] == 128).all()
    assert (seen[:64, 64:] != 128).any()


# -- for this machine alone ------------------------------------------------------------------------


def test_only_the_loopback_interface_is_listened_to(page: Page) -> None:
    assert page.server.socket.getsockname()[0] == "127.0.0.1"
    assert page.server.address == f"http://127.0.0.1:{page.server.server_port}/"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil", "", "["],
)
def test_other_hosts_are_refused(page: Page, host: str) -> None:
    for method, path in (("GET", "/"), ("POST", "/new")):
        origin = {"Origin": f"http://{host}"} if method == "POST" else {}
        reply = page.send(method, path, "{}", Host=host, **origin)
        assert reply.status == 403 and page.server.address in reply.error


def test_other_names_of_this_machine_are_served(page: Page) -> None:
    assert page.send("GET", "/", Host="localhost:9000").status == 200  # as through a tunnel
    reply = page.send("POST", "/start", "{}", Host="LocalHost:9000", Origin="http://LocalHost:9000")
    assert reply.status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": None}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Content_Type": None}, 415),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_other_pages_are_refused(page: Page, headers: dict[str, Any], status: int) -> None:
    body = json.dumps({"session": page.session, "viewpoint": PLACE})
    reply = page.send("POST", "/look", body, **headers)
    assert reply.status == status and reply.error
    assert page.do("truth", shown=False)["left"] == 2  # nothing was done


def test_no_reply_may_be_framed_read_or_kept_by_others(page: Page) -> None:
    for reply in (page.send("GET", "/"), page.ask("new"), page.send("GET", "/nowhere")):
        policy = reply.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "script-src 'self'" in policy
        assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in reply.headers
        assert reply.headers["Cache-Control"] == "no-store"


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("viewpoint", "complaint"),
    [
        ([0.9, 0, 0.5], "leaves the scene"),
        ([0, 0, 0.1], "give one from 0.25 to 1"),
        ([0, 0, 0], "give one from 0.25 to 1"),
        ([0, 0], "[row, col, scale]"),
        ([0, 0, 0.5, 0], "[row, col, scale]"),
        ([0, 0, 1.5], "from -1 to 1"),
        ([0, 0, True], "three numbers"),
        ([0, None, 0.5], "three numbers"),
        (["0", "0", "0.5"], "three numbers"),
        ([float("nan"), 0, 0.5], "from -1 to 1"),
        ([10**400, 0, 0.5], "from -1 to 1"),
        ("here", "missing"),
        (None, "missing"),
    ],
)
def test_a_bad_viewpoint_is_refused(page: Page, viewpoint: Any, complaint: str) -> None:
    reply = page.ask("look", viewpoint=viewpoint)
    assert reply.status == 400 and complaint in reply.error
    assert page.do("truth", shown=False)["left"] == 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/new", "{", 400),
        ("/new", "", 400),
        ("/new", "[]", 400),
        ("/new", "[" * 4000, 400),
        ("/new", "{}", 404),
        ("/new", '{"session": ["x"]}', 404),
        ("/new", '{"session": "x"}', 404),
        ("/new", " " * 5000, 413),
    ],
)
def test_a_bad_request_is_refused(page: Page, path: str, body: str, status: int) -> None:
    reply = page.send("POST", path, body)
    assert reply.status == status and reply.error


def test_other_bad_requests_are_refused(page: Page) -> None:
    assert page.ask("fly").status == 404 and "'fly'" in page.ask("fly").error
    assert page.ask("truth", shown="yes").status == 400
    assert page.send("POST", "/new", Content_Length="many").status == 413
    assert page.send("GET", "/../pyproject.toml").status == 404
    assert page.send("GET", "/play.py").status == 404


def test_a_broken_server_says_so(
    page: Page, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Playground, "look", broken)
    reply = page.ask("look", viewpoint=PLACE)
    assert reply.status == 500 and "RuntimeError" in reply.error
    assert "out of memory" in capfd.readouterr().err


# -- the page --------------------------------------------------------------------------------------


def test_the_page_is_whole(page: Page) -> None:
    found = {path: page.send("GET", path) for path in ("/", "/play.css", "/play.js")}
    kinds = [reply.headers["Content-Type"] for reply in found.values()]
    assert kinds == [f"text/{k}; charset=utf-8" for k in ("html", "css", "javascript")]
    assert found["/"].text == page.send("GET", "/?x=1").text
    tree = read(found["/"].text)
    ids = [n.attributes["id"] for n in everything(tree) if "id" in n.attributes]
    assert len(ids) == len(set(ids)) and len(tree.find("h1")) == 1
    script = found["/play.js"].text
    used = set(re.findall(r'at\("([\w-]+)"\)', script)) | set(page.do("new")["html"])
    assert used <= set(ids)
    assert not re.search(r"https?:", found["/"].text + found["/play.css"].text)
    assert all(img.attributes["alt"] for img in tree.find("img"))
    for control in tree.find("input"):
        named = "aria-label" in control.attributes
        assert named or any(control in label.find("input") for label in tree.find("label"))


def test_pieces_of_the_page_are_described(playground: Playground) -> None:
    game = playground.start(1)
    while True:
        shown = view(game, playground=playground, with_truth=True, advice=None)
        for piece in shown["html"].values():
            for node in everything(read(piece)):
                if node.name == "img":
                    assert len(node.attributes["alt"]) > 5
                if node.name == "th":
                    assert "scope" in node.attributes
        if shown["over"]:
            break
        game = playground.look(game, PLACE)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_interrupted(
    mini_checkpoint: str,
    env_kwargs: dict[str, dict[str, Any]],
    imagenet_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[str] = []

    def interrupted(server: PlayServer) -> None:
        page = Page(server)
        Thread(target=server.handle_request).start()
        assert "Where would you look?" in page.send("GET", "/").text
        while expected and not opened:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(PlayServer, "serve_forever", interrupted)
    monkeypatch.setattr("webbrowser.open", opened.append)
    settings = {k: v for k, v in env_kwargs["CanViT-IN1k-v0"].items() if k != "scenes"}
    for expected, arguments in (
        (True, ["--env", ENV, "--env-kwargs", f"backbone={mini_checkpoint}"]),
        (
            False,
            ["--env", "CanViT-IN1k-v0", "--scenes-root", str(imagenet_folder), "--split", "all"]
            + ["--no-browser", "--env-kwargs", *(f"{k}={v}" for k, v in settings.items())],
        ),
    ):
        opened.clear()
        assert main(["play", *arguments]) == 0
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", capsys.readouterr().out)
        assert opened == [address] * expected


def test_mistakes_are_one_sentence(
    mini_checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        kwargs = ["--env-kwargs", f"backbone={mini_checkpoint}"]
        assert main(["play", "--env", ENV, *arguments, "--no-browser", *kwargs]) == 2
        printed = capsys.readouterr().err.strip().splitlines()
        assert len(printed) == 1
        return printed[0]

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"Port {port} can not be used" in refused("--port", port)
    assert "no policy 'best'" in refused("--policy", "best")
    assert "holidays" in refused("--split", "holidays")
    for usage in (["play"], ["play", "--env", ENV, "--port", "70000"]):
        with pytest.raises(SystemExit):
            main(usage)


# -- in a browser ----------------------------------------------------------------------------------


@pytest.fixture
def visit(page: Page, browse: Callable[..., Any]) -> Callable[..., Any]:
    """Opens the page in a window and waits until it shows a scene."""

    def visit(**kwargs: Any) -> Any:
        driver = browse(page.server.address, **kwargs)
        settle(driver)
        return driver

    return visit


def settle(driver: Any) -> None:
    """Wait until the page has shown what it asked for."""
    deadline = time.monotonic() + 20
    while css(driver, "#game")[0].get_attribute("aria-busy") == "true":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def aim(driver: Any) -> list[float]:
    """The box of the next glimpse: (row, col, scale)."""
    (box,) = css(driver, "rect.box.aim")
    x, y, side = (float(box.get_attribute(name)) for name in ("x", "y", "width"))
    return [y + side / 2, x + side / 2, side / 2]


def belief(driver: Any) -> list[float]:
    cells = css(driver, "#belief data")
    return [float(cell.get_attribute("value")) for cell in cells]


def pictures_show(driver: Any) -> int:
    widths = driver.execute_async_script(
        """const done = arguments[0], images = [...document.images];
        Promise.all(images.map((image) => image.decode())).then(
          () => done(images.map((image) => image.naturalWidth)), () => done([]));"""
    )
    assert widths and min(widths) > 0
    return len(widths)


@pytest.mark.browser
def test_a_game_by_mouse(visit: Callable[..., Any]) -> None:
    chains = pytest.importorskip("selenium.webdriver").ActionChains
    driver = visit()
    assert pictures_show(driver) == 3
    (stage,) = css(driver, "#stage")
    side = stage.size["width"]

    def over(row: float, col: float) -> Any:
        x, y = round(col * side / 2), round(row * side / 2)
        return chains(driver).move_to_element_with_offset(stage, x, y)

    over(0.25, -0.3).perform()
    assert aim(driver) == pytest.approx([0.25, -0.3, 0.5], abs=0.01)
    over(0.9, -0.9).perform()  # the box stays in the scene
    assert aim(driver) == pytest.approx([0.5, -0.5, 0.5], abs=0.01)

    origin = pytest.importorskip("selenium.webdriver.common.actions.wheel_input").ScrollOrigin
    scroll = origin.from_element(stage)
    chains(driver).scroll_from_origin(scroll, 0, -100).perform()
    assert aim(driver)[2] == pytest.approx(0.25**0.625)
    chains(driver).scroll_from_origin(scroll, 0, 100).scroll_from_origin(scroll, 0, 100).perform()
    assert aim(driver)[2] == pytest.approx(0.25**0.375)
    assert driver.execute_script("return window.scrollY") == 0

    before, status = belief(driver), css(driver, "#status")[0].text
    over(-0.2, 0.2).click().perform()
    settle(driver)
    assert belief(driver) != before and css(driver, "#status")[0].text != status
    assert len(css(driver, "rect.box.you")) == 2 and pictures_show(driver) == 3
    over(0.1, 0.2).click().perform()
    settle(driver)
    assert not css(driver, "rect.aim") and "last glimpse" in css(driver, "#status")[0].text

    you, others = css(driver, "#result button")[:2]
    assert you.get_attribute("aria-pressed") == "true"
    others.click()
    assert len(css(driver, "rect.box.other")) == 3 and not css(driver, "rect.box.you")
    you.click()
    assert len(css(driver, "rect.box.you")) == 3 and not css(driver, "rect.box.other")
    css(driver, "#new")[0].click()
    settle(driver)
    assert not css(driver, "#result button") and len(css(driver, "rect.box.aim")) == 1


@pytest.mark.browser
def test_a_game_by_key(visit: Callable[..., Any]) -> None:
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    driver = visit()
    stage = driver.switch_to.active_element
    assert stage.get_attribute("id") == "stage"
    stage.send_keys("+", keys.ARROW_UP, keys.ARROW_RIGHT)
    scale = 0.25**0.625
    assert aim(driver) == pytest.approx([-scale / 2, scale / 2, scale])
    said = css(driver, "#place")[0].get_property("textContent")
    assert said == f"row {-scale / 2:+.2f}, column {scale / 2:+.2f}, scale {scale:.2f}"
    stage.send_keys(keys.SHIFT, keys.ARROW_DOWN)
    assert aim(driver)[0] == pytest.approx(-0.4 * scale)
    stage.send_keys(keys.NULL, *["-"] * 9)
    assert aim(driver) == pytest.approx([0, 0, 1])
    before = belief(driver)
    stage.send_keys(*["+"] * 9, keys.ENTER)
    settle(driver)
    assert belief(driver) != before
    assert driver.switch_to.active_element == stage  # so that the next glimpse follows
    assert aim(driver)[2] == 0.25


@pytest.mark.browser
def test_switches_and_errors(page: Page, visit: Callable[..., Any]) -> None:
    driver = visit()
    (scene,) = css(driver, "#scene")
    whole = scene.get_attribute("src")
    css(driver, "#fog")[0].click()
    assert scene.get_attribute("src") != whole and "as far as" in scene.get_attribute("alt")
    css(driver, "#fog")[0].click()
    assert scene.get_attribute("src") == whole

    assert not css(driver, "#rewards table") and not css(driver, "#belief .label")
    css(driver, "#truth")[0].click()
    settle(driver)
    assert css(driver, "#rewards table") and css(driver, "#belief .label")
    assert not css(driver, "#advise")[0].is_displayed()

    page.server._sessions.clear()
    css(driver, "#again")[0].click()
    settle(driver)
    (problem,) = css(driver, "#problem")
    assert problem.is_displayed() and "reload the page" in problem.text
    (logged,) = driver.get_log("browser")  # the browser's own line about the reply
    assert "404" in logged["message"]


@pytest.mark.browser
def test_stopping_and_advice(
    naming: Playground,
    mini_checkpoint: str,
    open_page: Callable[[Playground], Page],
    browse: Callable[..., Any],
) -> None:
    kwargs = {"backbone": mini_checkpoint, "stop_action": True}
    playground = make_playground(ENV, env_kwargs=kwargs, policy="coarse_to_fine")
    driver = browse(open_page(playground).server.address)
    settle(driver)
    css(driver, "#advise")[0].click()
    settle(driver)
    (box,) = css(driver, "rect.box.advice")
    assert float(box.get_attribute("width")) == 1  # a quarter of the scene
    assert "The policy would look at row" in css(driver, "#status")[0].text
    css(driver, "#stop")[0].click()
    settle(driver)
    assert "You stopped with 4 of 4" in css(driver, "#status")[0].text
    assert not css(driver, "rect.advice") and css(driver, "#result button")


@pytest.mark.browser
@pytest.mark.parametrize("name", ["naming", "labelling"])
@pytest.mark.parametrize("width", [390, 320])
def test_nothing_sticks_out_on_a_phone(
    name: str,
    width: int,
    request: pytest.FixtureRequest,
    open_page: Callable[[Playground], Page],
    browse: Callable[..., Any],
) -> None:
    page = open_page(request.getfixturevalue(name))
    driver = browse(page.server.address, width=width)
    for _ in range(2):
        settle(driver)
        found = driver.execute_script(
            "return [document.documentElement.scrollWidth, window.innerWidth]"
        )
        assert found == [width, width]
        css(driver, "#look")[0].click()
    settle(driver)
    assert css(driver, "#result button") and pictures_show(driver) >= 3
