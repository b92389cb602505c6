"""Trained policies on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from canvit_agents.policies.saved import CARD, RECORD, WEIGHTS, load_network, read_record
from canvit_gym.hub import download, split_name, under_hub_root, upload


def download_policy(name: str) -> Path:
    """The local directory of the policy "owner/name" or "owner/name@revision", which lies under
    $CANVIT_HUB_ROOT or is downloaded; `canvit_gym.hub.commit_of` tells its commit.

    Raises FileNotFoundError where it is not to be had.
    """
    repo, revision = split_name(name)
    if (local := under_hub_root(repo, revision)) is not None:
        return local
    try:
        return download(repo, revision=revision, files=(WEIGHTS, RECORD, CARD))
    except Exception as error:  # its kinds differ between versions of the hub's library
        raise FileNotFoundError(
            f"The Hugging Face hub did not give the policy {name} ({type(error).__name__}); check "
            "its name and your access, or download it and give its directory."
        ) from error


def push_policy(
    directory: str | Path, repo: str, *, private: bool = False, revision: str | None = None
) -> str:
    """Upload the trained policy in a directory with its card; returns the commit.

    Raises ValueError where the policy is damaged, before anything is uploaded.
    """
    directory = Path(directory)
    record = read_record(directory)
    load_network(directory)
    return upload(
        directory,
        repo,
        files=(WEIGHTS, RECORD, CARD),
        private=private,
        revision=revision,
        message=f"A glimpse policy for {record.env}",
    )
