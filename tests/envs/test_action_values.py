"""Any array of real numbers means what it says; everything else is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from canvit_gym.envs.vector_env import CanViTVectorEnv

MakeVector = Callable[..., CanViTVectorEnv]
BOX = np.array([[0.5, -0.25, 0.125], [0.0, 1.0, -1.0]])
LISTED = np.array([3, 17])

SAME_BOX: dict[str, Any] = {
    "float32": BOX.astype(np.float32),
    "float64": BOX,
    "float16": BOX.astype(np.float16),
    "big-endian": BOX.astype(">f4"),
    "negative strides": BOX[::-1].copy()[::-1],
    "every other column": np.repeat(BOX, 2, axis=1)[:, ::2],
    "Fortran order": np.asfortranarray(BOX),
    "read-only": np.frombuffer(BOX.tobytes()).reshape(2, 3),
    "a list": BOX.tolist(),
    "rows in a list": list(BOX),
    "a tensor": torch.from_numpy(BOX),
    "a bfloat16 tensor": torch.from_numpy(BOX).bfloat16(),
    "a tensor with gradients": torch.from_numpy(BOX).requires_grad_(),
    "tensors in a list": list(torch.from_numpy(BOX)),
}
SAME_LISTED: dict[str, Any] = {
    **{
        kind: LISTED.astype(kind)
        for kind in (
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            ">i4",
        )
    },
    "big-endian": LISTED.astype(">i4"),
    "negative strides": LISTED[::-1].copy()[::-1],
    "a list": [3, 17],
    "numbers of numpy": [np.int8(3), np.int64(17)],
    "a tensor": torch.tensor([3, 17]),
    "a uint8 tensor": torch.tensor([3, 17], dtype=torch.uint8),
    "tensors in a list": [torch.tensor(3), torch.tensor(17)],
}
REFUSED: dict[str, Any] = {
    "complex": BOX.astype(complex),
    "objects": np.array([None, object()]),
    "texts": np.array(["a", "b"]),
    "dates": np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]"),
    "a ragged list": [[0.0, 0.0, 0.0], [0.0]],
    "a dict": {"row": 0.5},
    "nothing": None,
    "an empty list": [],
    "a meta tensor": torch.zeros(2, 3, device="meta"),
    "a complex tensor": torch.zeros(2, 3, dtype=torch.complex64),
    "a sparse tensor": torch.zeros(2, 3).to_sparse(),
    "structured": np.zeros(2, dtype=[("row", float)]),
    "a huge number": np.array([2**64 - 1, 0], dtype=np.uint64),
}


def looked_at(envs: CanViTVectorEnv, actions: Any) -> np.ndarray:
    envs.reset(seed=0)
    viewpoint: np.ndarray = envs.step(actions)[4]["viewpoint"]
    return viewpoint


@pytest.mark.parametrize("name", SAME_BOX)
def test_places(make_vector: MakeVector, name: str) -> None:
    envs = make_vector(2, action="box")
    np.testing.assert_array_equal(looked_at(envs, SAME_BOX[name]), looked_at(envs, BOX))


@pytest.mark.parametrize("kind", ["cell", "tile"])
@pytest.mark.parametrize("name", SAME_LISTED)
def test_numbers(make_vector: MakeVector, name: str, kind: str) -> None:
    envs = make_vector(2, action=kind)
    np.testing.assert_array_equal(looked_at(envs, SAME_LISTED[name]), looked_at(envs, LISTED))


@pytest.mark.parametrize("kind", ["box", "cell", "tile"])
@pytest.mark.parametrize("name", REFUSED)
def test_everything_else(make_vector: MakeVector, name: str, kind: str) -> None:
    envs = make_vector(2, action=kind)
    envs.reset(seed=0)
    before = envs.episode
    with pytest.raises(ValueError) as error:
        envs.step(REFUSED[name])
    text = str(error.value)
    assert text.startswith("Action") and text.endswith(".") and "\n" not in text, text
    assert envs.episode is before


_ODDS = [0.3, 0.3, 0.1, 0.1, 0.1, 0.05, 0.05]


def test_fuzz(make_vector: MakeVector) -> None:
    """Random shapes, dtypes and values: a step, or one sentence."""
    rng = np.random.default_rng(0)
    dtypes = ["f2", "f4", ">f8", "i1", ">i4", "u8", "?", "c8", "O", "U3"]
    shapes = [(), (1,), (2,), (2, 1), (2, 3), (3, 2), (2, 4), (0,), (2, 0), (2, 3, 1)]
    envs = {kind: make_vector(2, action=kind, budget=1) for kind in ("box", "cell", "tile")}
    steps = 0
    for each in envs.values():
        each.reset(seed=0)
    for _ in range(3000):
        values = rng.choice(
            [0, 1, 2, 0.5, -1, 5, 200, np.nan, np.inf], size=shapes[rng.integers(10)]
        )
        with np.errstate(invalid="ignore"):
            actions: Any = values.astype(dtypes[rng.integers(len(dtypes))])
        if rng.integers(4) == 0 and actions.dtype.kind in "fiub":
            actions = torch.as_tensor(actions.astype(actions.dtype.newbyteorder("=")))
        try:
            envs[str(rng.choice(list(envs)))].step(actions)
            steps += 1
        except ValueError as error:
            text = str(error)
            assert text.endswith(".") and "\n" not in text and "Action" in text or "actions" in text
    assert steps > 10
