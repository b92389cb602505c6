"""Imagenette: ten of ImageNet's classes, small enough to download."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from canvit_gym.files import cache_directory
from canvit_gym.preprocess import printable

NAME = "imagenette"
"""What `scenes=` takes for it."""

_TIMEOUT_S = 10.0  # of a connection; torchvision sets none and would wait for minutes

# The largest scene for which a version is good enough, its size, and the folder that it unpacks to.
_VERSIONS = (
    (160, "160px", "imagenette2-160"),
    (320, "320px", "imagenette2-320"),
    (None, "full", "imagenette2"),
)


def imagenette(*, size_px: int) -> Path:
    """The folder of Imagenette, with train and val in it, downloaded where it is not there yet.

    It lies in the user's cache folder, in the smallest version (short side 160 px, 94 MB; 320 px,
    326 MB; full, 1.5 GB) that scenes of `size_px` need no enlarging from.

    Raises FileNotFoundError, in one sentence, where it can not be downloaded.
    """
    _, version, name = next(v for v in _VERSIONS if v[0] is None or size_px <= v[0])
    cache = cache_directory()
    if cache is None:
        raise FileNotFoundError(
            "Imagenette has no place to be, because there is no home directory; set XDG_CACHE_HOME."
        )
    root = cache / NAME
    if not (root / name).is_dir():
        _download(root, version=version, name=name)
    return root / name


def _download(root: Path, *, version: str, name: str) -> None:
    from torchvision.datasets import Imagenette

    try:
        root.mkdir(parents=True, exist_ok=True)
        with _timeout(_TIMEOUT_S):
            Imagenette(root, size=version, download=True)
    except Exception as error:  # what failing downloads raise differs between versions
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise FileNotFoundError(
            f"Imagenette is not in {printable(root / name)} and can not be downloaded ({reason});"
            f" unpack {name}.tgz there, or give other scenes, such as a folder."
        ) from error


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
