"""What is saved of a run, and whether it is the same run."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic import classified, segmented, stopped

from canvit_agents.judging.evidence import (
    Evidence,
    concatenate,
    evidence_path,
    file_sha256,
    load_evidence,
    save_evidence,
    scene_digest,
)
from canvit_agents.judging.manifest import make_manifest, versions
from canvit_agents.judging.summary import format_table, summarize
from canvit_gym.files import write_json
from canvit_gym.scenes.base import Scene

PEEKS = {
    "best_candidate": np.array([[np.nan, -1.0]] * 3, dtype=np.float32),
    "rank": np.array([[np.nan, 2]] * 3, dtype=np.float32),
}
CLASSIFIED = classified([[0, 1], [1, 1], [0, 0]])
PEEKED = replace(
    CLASSIFIED,
    settings=CLASSIFIED.settings | {"candidates": 5},
    seen=replace(CLASSIFIED.seen, peeks=PEEKS),
)
STOPPED = stopped(CLASSIFIED, [2, 1, 1])
SEGMENTED = segmented(
    np.arange(18).reshape(3, 2, 3), 20 + np.arange(18).reshape(3, 2, 3), versions={}
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype == "f4")
    return one == other


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("evidence", [CLASSIFIED, PEEKED, STOPPED, SEGMENTED])
def test_what_is_saved_comes_back(evidence: Evidence, tmp_path: Path) -> None:
    evidence = replace(evidence, versions={"torch": "2"})
    path = tmp_path / "new" / "a.parquet"
    save_evidence(path, evidence)
    loaded = load_evidence(path)
    assert (loaded.settings, loaded.versions) == (evidence.settings, evidence.versions)
    assert same(vars(loaded.seen), vars(evidence.seen))
    assert summarize({"a": loaded}) == summarize({"a": evidence})
    assert [p.name for p in path.parent.iterdir()] == ["a.parquet"]


def test_a_row_is_a_glimpse_of_a_scene(tmp_path: Path) -> None:
    save_evidence(tmp_path / "a.parquet", PEEKED)
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(rows) == 6
    assert [(row["scene"], row["t"]) for row in rows[:3]] == [(0, 0), (0, 1), (1, 0)]
    assert [row["correct"] for row in rows] == [False, True, True, True, False, False]
    row = rows[3]
    assert (row["scene_name"], row["scene_digest"], row["label"]) == ("scene/1", f"{1:016x}", 1)
    assert [row["row"], row["col"], row["scale"]] == PEEKED.seen.viewpoints[1, 1].tolist()
    assert (row["potential_log_prob"], row["best_candidate"], row["rank"]) == (-0.25, -1, 2)
    assert rows[2]["best_candidate"] is None and rows[2]["rank"] is None

    save_evidence(tmp_path / "b.parquet", SEGMENTED)
    table = pq.read_table(tmp_path / "b.parquet")
    assert str(table.schema.field("intersection").type).startswith("list<")
    assert str(table.schema.field("union").type.value_type) == "int32"
    assert table["intersection"].to_pylist()[1] == [3, 4, 5]


def test_a_glimpse_that_was_not_taken_is_nowhere(tmp_path: Path) -> None:
    save_evidence(tmp_path / "a.parquet", STOPPED)
    table = pq.read_table(tmp_path / "a.parquet")
    for axis in ("row", "col", "scale"):
        missing = [value is None for value in table[axis].to_pylist()]
        assert missing == [False, False, False, True, False, True]
    assert table["correct"].to_pylist() == [False, True, True, True, False, False]
    loaded = load_evidence(tmp_path / "a.parquet").seen
    assert loaded.taken.sum(axis=1).tolist() == [2, 1, 1]  # mean glimpses follow from the file


def test_what_is_no_evidence_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(FileNotFoundError, match=r"no .*a\.parquet; play the policy again"):
        load_evidence(path)
    save_evidence(path, CLASSIFIED)
    whole = path.read_bytes()
    for damaged in (whole[:200], b"", b"something else"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.parquet holds no evidence"):
            load_evidence(path)
    path.write_bytes(whole)
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    with pytest.raises(ValueError, match="no evidence of this version"):
        load_evidence(path)


@pytest.mark.parametrize("evidence", [CLASSIFIED, PEEKED, STOPPED, SEGMENTED])
def test_a_flipped_bit_is_never_used_as_if_true(evidence: Evidence, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    save_evidence(path, evidence)
    whole, digest, true = path.read_bytes(), file_sha256(path), load_evidence(path)
    rng = np.random.default_rng(0)
    refused = 0
    for bit in rng.choice(8 * len(whole), size=150, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="SHA-256 is not the one in the manifest"):
            load_evidence(path, sha256=digest)
        try:  # without a manifest, as `evaluate --out` does after an interruption
            found = load_evidence(path)
        except ValueError as error:
            assert "holds no evidence of this version, or is damaged" in str(error)
            refused += 1
        else:
            assert same(vars(found.seen), vars(true.seen))
            assert (found.settings, found.versions) == (true.settings, true.versions)
    assert refused > 0


@pytest.mark.parametrize("folder", ["t=3", "row=0.5", "scene=1/t=0", "a b", "{x}", "*", "%41", "~"])
def test_the_path_is_no_part_of_what_was_seen(folder: str, tmp_path: Path) -> None:
    path = tmp_path / folder / "a.parquet"
    save_evidence(path, CLASSIFIED)
    assert same(vars(load_evidence(path).seen), vars(CLASSIFIED.seen))


def test_names_that_are_no_text_come_back(tmp_path: Path) -> None:
    names = (os.fsdecode(b"caf\xe9/\xff.png"), r"a\udce9", "ä\\\\🐈")
    odd = {"policy": CLASSIFIED.settings["policy"] | {"name": os.fsdecode(b"runs/\xe9")}}
    evidence = replace(
        CLASSIFIED,
        settings=CLASSIFIED.settings | odd,
        seen=replace(CLASSIFIED.seen, names=names),
    )
    path = evidence_path(tmp_path, evidence.settings)
    save_evidence(path, evidence)
    loaded = load_evidence(path)
    assert loaded.seen.names == names and loaded.settings == evidence.settings
    name = evidence.settings["policy"]["name"]
    summary = summarize({name: loaded})
    write_json(tmp_path / "summary.json", summary)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert r"runs/\udce9" in format_table(summary).encode("utf-8").decode()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_evidence(tmp_path / "a.parquet", CLASSIFIED)

    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"b\.parquet can not be written: No space .*free some"):
        save_evidence(tmp_path / "b.parquet", PEEKED)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    assert same(vars(load_evidence(tmp_path / "a.parquet").seen), vars(CLASSIFIED.seen))


def test_other_settings_are_other_files() -> None:
    settings = CLASSIFIED.settings
    path = evidence_path(Path("out"), settings)
    assert path.parent == Path("out") and path.name.startswith("a-")
    assert evidence_path(Path("out"), dict(reversed(settings.items()))) == path
    assert evidence_path(Path("out"), settings | {"seed": 1}) != path
    odd = settings | {"policy": settings["policy"] | {"name": "../my runs/emoji"}}
    assert evidence_path(Path("out"), odd).name.startswith("my_runs_emoji-")
    long = settings | {"policy": settings["policy"] | {"name": "runs/" * 100}}
    assert len(evidence_path(Path("out"), long).name) < 200


def test_parts_make_a_whole() -> None:
    seen = concatenate([PEEKED.seen, PEEKED.seen])
    assert seen.num_scenes == 6 and seen.num_glimpses == 2
    assert seen.names[3:] == PEEKED.seen.names
    np.testing.assert_array_equal(seen.outcome["correct"][3:], PEEKED.seen.outcome["correct"])


def test_a_scene_is_known_by_its_content() -> None:
    picture, mask = np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((4, 4), dtype=np.uint8)
    scene = Scene(name="a", picture=picture, label=1, mask=mask, target=None)
    digest = scene_digest(scene)
    assert len(digest) == 16 and scene_digest(replace(scene, name="b")) == digest
    others = (
        replace(scene, label=2),
        replace(scene, picture=picture + np.uint8(1)),
        replace(scene, mask=mask + np.uint8(1)),
        replace(scene, mask=None),
    )
    assert len({digest, *map(scene_digest, others)}) == 5


# -- the manifest ----------------------------------------------------------------------------------


def manifest(*evidence: Evidence) -> dict[str, Any]:
    named = {e.settings["policy"]["name"]: e for e in evidence}
    with TemporaryDirectory() as out:
        files = {name: Path(out) / f"{name}.parquet" for name in named}
        for name, path in files.items():
            save_evidence(path, named[name])
        return make_manifest(named, files=files)


def with_settings(evidence: Evidence, **changes: Any) -> Evidence:
    return replace(evidence, settings=evidence.settings | changes)


def test_manifest_says_what_was_run() -> None:
    found = manifest(classified([[0, 1], [1, 1], [0, 0]]), classified([[0, 1]] * 3, name="b"))
    json.dumps(found, allow_nan=False)
    assert found["env"] == "CanViT-Emoji-v0" and found["backbone"]["sha256"] == "0" * 64
    assert (found["seed"], found["potential"], found["budget"]) == (0, "log_prob", 1)
    assert {k: found["scenes"][k] for k in ("count", "first", "last")} == {
        "count": 3, "first": 0, "last": 2,
    }  # fmt: skip
    assert found["policies"]["b"]["file"] == "b.parquet"
    assert found["policies"]["b"]["settings"]["name"] == "b"
    assert set(versions()) == {"python", "canvit-gym", "torch", "numpy", "gymnasium"}
    assert found["versions"] == versions()


def test_scenes_that_are_not_in_a_row_are_listed() -> None:
    apart = replace(CLASSIFIED, seen=replace(CLASSIFIED.seen, scenes=np.array([0, 4, 8])))
    assert manifest(apart)["scenes"]["indices"] == [0, 4, 8]
    assert "indices" not in manifest(CLASSIFIED)["scenes"]


def test_the_hash_is_of_what_decides_the_result() -> None:
    one = manifest(CLASSIFIED)["hash"]
    assert manifest(replace(CLASSIFIED, versions={"torch": "9"}))["hash"] == one
    backbone = {"name": "elsewhere/mini", "sha256": "0" * 64}
    assert manifest(with_settings(CLASSIFIED, backbone=backbone))["hash"] == one
    kwargs = {"scenes": "elsewhere", "device": "cuda"}
    assert manifest(with_settings(CLASSIFIED, env_kwargs=kwargs, candidates=3))["hash"] == one

    policy = CLASSIFIED.settings["policy"]
    seen = CLASSIFIED.seen
    different = [
        manifest(with_settings(CLASSIFIED, **changes))["hash"]
        for changes in (
            {"seed": 1},
            {"potential": "prob"},
            {"num_glimpses": 9},
            {"precision": "bfloat16"},
            {"backbone": backbone | {"sha256": "1" * 64}},
            {"policy": policy | {"name": "b"}},  # chance depends on it
            {"policy": policy | {"num_candidates": 2}},
        )
    ]
    others = (
        replace(seen, digests=("x", *seen.digests[1:])),
        replace(seen, scenes=seen.scenes + 1),
    )
    different += [manifest(replace(CLASSIFIED, seen=other))["hash"] for other in others]
    assert len({one, *different}) == 10


def test_a_trained_policy_is_its_weights_wherever_they_lie() -> None:
    def trained(name: str, sha256: str) -> Evidence:
        policy = {"name": name, "learned": True, "initial_glimpse": None, "sha256": sha256}
        return with_settings(CLASSIFIED, policy=policy)

    assert manifest(trained("here", "a"))["hash"] == manifest(trained("there", "a"))["hash"]
    assert manifest(trained("here", "a"))["hash"] != manifest(trained("here", "b"))["hash"]


def test_policies_have_hashes_of_their_own() -> None:
    other = classified([[0, 1]] * 3, name="b")
    alone, together = manifest(CLASSIFIED), manifest(CLASSIFIED, other)
    assert alone["hash"] != together["hash"] == manifest(other, CLASSIFIED)["hash"]
    assert alone["policies"]["a"]["hash"] == together["policies"]["a"]["hash"]
