"""Uploads and pinned downloads, against a stand-in for the hub that answers on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_stand_in import Hub, running_hub

from canvit_agents.judging.evaluate import evaluate, make_benchmark
from canvit_agents.policies import make_policies, trained_env_kwargs
from canvit_agents.policies.hub import download_policy, push_policy
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.hub import commit_of, split_name
from canvit_gym.model.checkpoints import CheckpointNotFound, resolve_checkpoint
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.model.identity import identify
from canvit_gym.model.segmentation import SegmentationProbe


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants, file_download

    with running_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.endpoint)
        template = found.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        if hasattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):  # before huggingface-hub 1
            monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
        for name in ("no_proxy", "NO_PROXY"):  # a proxy would look for this machine at its own
            monkeypatch.setenv(name, "127.0.0.1")
        monkeypatch.delenv("CANVIT_HUB_ROOT", raising=False)
        yield found


def test_a_checkpoint_comes_back_and_is_pinned(hub: Hub, mini_checkpoint: str) -> None:
    model = CanViTForImageClassification.from_pretrained(mini_checkpoint)
    commit = model.push_to_hub("someone/mini", extra_config={"training": "none"})
    files = hub.commits[commit]
    assert set(files) == {"config.json", "model.safetensors", "README.md"}
    assert b"library_name: canvit-gym" in files["README.md"]
    again = CanViTForImageClassification.from_pretrained("someone/mini")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert (
        identify("someone/mini").revision == commit == commit_of(resolve_checkpoint("someone/mini"))
    )
    # Another upload to the branch does not change what the commit names.
    with torch.no_grad():
        model.readout.proj.bias.add_(1)
    later = model.push_to_hub("someone/mini")
    assert later != commit and identify("someone/mini").revision == later
    pinned = CanViTForImageClassification.from_pretrained(f"someone/mini@{commit}")
    assert torch.equal(pinned.readout.proj.bias, again.readout.proj.bias)


def test_a_probe_comes_back(hub: Hub, emoji_probe: str) -> None:
    probe = SegmentationProbe.from_pretrained(emoji_probe)
    probe.push_to_hub("someone/probe", card="# Mine\n")
    again = SegmentationProbe.from_pretrained("someone/probe")
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in probe.state_dict().items())
    assert hub.commits[hub.branches["someone/probe", "main"]]["README.md"] == b"# Mine\n"


def test_an_environment_and_its_manifest_name_the_commit(
    hub: Hub, mini_checkpoint: str, tmp_path: Path
) -> None:
    commit = CanViTForImageClassification.from_pretrained(mini_checkpoint).push_to_hub("a/b")
    benchmark = make_benchmark("CanViT-Emoji-v0", env_kwargs={"backbone": "a/b", "budget": 1})
    policies = make_policies(["random"], env_id="CanViT-Emoji-v0", env=benchmark.env)
    evaluate(policies, benchmark=benchmark, num_scenes=2, out=tmp_path / "run", progress=False)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["backbone"]["revision"] == commit


def test_a_policy_is_pushed_and_evaluated_by_name(
    hub: Hub, make_vector: Callable[..., CanViTVectorEnv], save_untrained: Any, mini_checkpoint: str
) -> None:
    env = make_vector(1, action="cell", budget=2)
    env.backbone = identify(mini_checkpoint)
    kwargs = {"action": "cell", "budget": 2, "backbone": mini_checkpoint}
    directory = save_untrained(env, env_kwargs=kwargs)
    commit = push_policy(directory, "someone/policy")
    assert set(hub.commits[commit]) == {"policy.safetensors", "policy.json", "README.md"}
    name = "hub:someone/policy"
    found = trained_env_kwargs([name], env_id="CanViT-Emoji-v0")
    assert found == kwargs
    benchmark = make_benchmark("CanViT-Emoji-v0", env_kwargs=found)
    for asked in (name, f"{name}@{commit}"):
        policies = make_policies(
            [asked, str(directory)], env_id="CanViT-Emoji-v0", env=benchmark.env
        )
        theirs, ours = policies.values()
        assert theirs.settings["sha256"] == ours.settings["sha256"]
    assert commit_of(download_policy("someone/policy")) == commit


def test_a_damaged_policy_is_not_pushed(
    hub: Hub, make_vector: Callable[..., CanViTVectorEnv], save_untrained: Any
) -> None:
    directory = save_untrained(make_vector(1))
    (directory / "policy.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="other weights"):
        push_policy(directory, "someone/policy")
    assert not hub.asked


def test_what_is_not_there_is_one_sentence(hub: Hub) -> None:
    with pytest.raises(CheckpointNotFound, match=r"did not give nobody/nothing \("):
        resolve_checkpoint("nobody/nothing")
    with pytest.raises(FileNotFoundError, match=r"did not give the policy nobody/nothing \("):
        download_policy("nobody/nothing")
    with pytest.raises(ValueError, match="'nothing' names nothing on the hub; give owner/name"):
        download_policy("nothing")
    with pytest.raises(FileNotFoundError, match="did not give the policy"):
        trained_env_kwargs(["hub:nobody/nothing"], env_id="CanViT-Emoji-v0")


def test_names() -> None:
    assert split_name("a/b") == ("a/b", None)
    assert split_name("a/b-c.d@v1/x") == ("a/b-c.d", "v1/x")
    for bad in ("", "a", "a/b/c", "../a", "a/b@", "a b/c", "https://a/b"):
        with pytest.raises(ValueError, match="names nothing on the hub"):
            split_name(bad)
    assert commit_of(Path("x/snapshots/" + "a" * 40)) == "a" * 40
    assert commit_of(Path("x/snapshots/main")) is None


def test_policies_lie_under_the_hub_root_too(
    make_vector: Callable[..., CanViTVectorEnv],
    save_untrained: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = save_untrained(make_vector(1))
    (tmp_path / "root" / "someone").mkdir(parents=True)
    directory.rename(tmp_path / "root" / "someone" / "policy")
    monkeypatch.setenv("CANVIT_HUB_ROOT", str(tmp_path / "root"))
    assert download_policy("someone/policy") == tmp_path / "root" / "someone" / "policy"
