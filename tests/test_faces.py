"""The two packages' faces: every name is there, documented, and imported only when it is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import canvit_agents
import canvit_gym

FACES = (canvit_gym, canvit_agents)
HEAVY = ("torch", "torchvision", "PIL", "huggingface_hub", "safetensors") + (
    "stable_baselines3", "yaml", "tensorboard", "matplotlib", "pyarrow",
)  # fmt: skip

each_face = pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
each_name = pytest.mark.parametrize(
    ("face", "name"), [(face, name) for face in FACES for name in face._HOMES]
)


def parsed(module: ModuleType) -> ast.Module:
    assert module.__file__ is not None
    return ast.parse(Path(module.__file__).read_text(encoding="utf-8"))


def home_of(face: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{face.__name__}.{face._HOMES[name]}")


def documented(tree: ast.Module) -> set[str]:
    """Classes and functions with a docstring, and constants with a string below them."""
    found = set()
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            found.add(node.name)
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if is_text and isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@each_name
def test_names_are_those_of_their_homes(face: ModuleType, name: str) -> None:
    assert getattr(face, name) is getattr(home_of(face, name), name)


@each_name
def test_names_are_documented_where_they_live(face: ModuleType, name: str) -> None:
    assert name in documented(parsed(home_of(face, name)))


@each_face
def test_type_checkers_are_told_the_same(face: ModuleType) -> None:
    (block,) = (
        node
        for node in parsed(face).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    told = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == {name: f"{face.__name__}.{home}" for name, home in face._HOMES.items()}


@each_face
def test_all_lists_every_name_once(face: ModuleType) -> None:
    eager = {"__version__", "register_environments"} if face is canvit_gym else set()
    assert sorted(face.__all__) == sorted(face._HOMES.keys() | eager)
    assert set(face.__all__) <= set(dir(face)) and dir(face) == sorted(set(dir(face)))


@each_face
def test_unknown_names_are_attribute_errors(face: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{face.__name__}' has no attribute 'nothing"):
        _ = face.nothing
    assert not hasattr(face, "__wrapped__")  # as inspect and doctest ask
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec(f"from {face.__name__} import nothing")


@each_face
def test_a_star_brings_all(face: ModuleType) -> None:
    names: dict[str, object] = {}
    exec(f"from {face.__name__} import *", names)
    assert names.keys() - {"__builtins__"} == set(face.__all__)


@each_face
@pytest.mark.parametrize("then", ["pass", "dir(face)", "face.__all__", "hasattr(face, 'nothing')"])
def test_importing_is_light(face: ModuleType, then: str) -> None:
    code = (
        f"import sys, {face.__name__} as face; {then}; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_our_agents_use_the_face() -> None:
    """They are the first users of the environment's package: what it offers, they take there."""
    folder = Path(__file__).parents[1] / "agents"
    deeper = [
        f"{path.relative_to(folder)} imports {alias.name} from {node.module}"
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module == f"canvit_gym.{canvit_gym._HOMES.get(alias.name)}"
    ]
    assert not deeper
