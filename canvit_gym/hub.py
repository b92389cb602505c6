"""The Hugging Face hub: downloads that are pinned to a commit, and uploads with a card."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

HUB_ROOT = "CANVIT_HUB_ROOT"
"""Environment variable: a folder of checkpoint directories, or an organisation on the hub."""

_ANSWER_S = 3.0  # the time that the hub has to answer at all, some of it more than once
_SILENCE_S = 30.0  # before a hub that did not answer is asked again

_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def split_name(name: str) -> tuple[str, str | None]:
    """Repository and revision of "owner/name" or "owner/name@revision"; raises ValueError for
    anything else."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name!r} names nothing on the hub; give owner/name, or owner/name@revision."
        )
    return match["repo"], match["revision"]


def under_hub_root(repo: str, revision: str | None) -> Path | None:
    """The directory of a repository below $CANVIT_HUB_ROOT; None where there is none."""
    if not (root := os.environ.get(HUB_ROOT)):
        return None
    path = Path(root).expanduser() / (f"{repo}@{revision}" if revision else repo)
    return path if path.is_dir() else None


def download(repo: str, *, revision: str | None, files: Sequence[str]) -> Path:
    """The local directory with these files of a repository, at a commit that `commit_of` tells.

    Whatever the hub's library raises passes through: its kinds differ between versions.
    """
    from huggingface_hub import snapshot_download  # here, because most programs never need it

    # Not hf_hub_download, which would retry for half a minute where there is no network.
    return Path(
        snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(files),
            local_files_only=not _hub_answers(repo, revision),
        )
    )


_silent_until: dict[str, float] = {}
"""When each hub that did not answer, by its address, is asked again, on the monotonic clock."""


def _hub_answers(repo: str, revision: str | None) -> bool:
    """Whether the hub says anything of a repository, be it no, within seconds.

    The library itself waits without end for a hub that is reached and silent, as behind some
    firewalls.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    if time.monotonic() < _silent_until.get(api.endpoint, 0.0):
        return False
    try:
        api.model_info(repo, revision=revision or "main", timeout=_ANSWER_S)
    except HfHubHTTPError:
        return True  # the download says why
    except Exception:  # no connection, no answer in time, or the library is told to stay offline
        _silent_until[api.endpoint] = time.monotonic() + _SILENCE_S
        return False
    return True


def commit_of(directory: Path) -> str | None:
    """The commit that a downloaded directory holds; None for any other directory."""
    is_snapshot = directory.parent.name == "snapshots" and _COMMIT.fullmatch(directory.name)
    return directory.name if is_snapshot else None


def upload(
    directory: Path,
    repo: str,
    *,
    files: Sequence[str],
    private: bool = False,
    revision: str | None = None,
    message: str,
) -> str:
    """Upload these files of a directory in one commit, making the repository where there is none.

    Returns the commit. Needs a token of the hub (`hf auth login`, or $HF_TOKEN).
    Raises FileNotFoundError where one of the files is missing; nothing is uploaded then.
    """
    from huggingface_hub import HfApi

    split_name(repo)
    if missing := [name for name in files if not (directory / name).is_file()]:
        raise FileNotFoundError(f"{directory} holds no {', '.join(missing)}; write it first.")
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo, branch=revision, exist_ok=True)
    info = api.upload_folder(
        repo_id=repo,
        folder_path=directory,
        allow_patterns=list(files),
        revision=revision,
        commit_message=message,
    )
    return str(info.oid)
