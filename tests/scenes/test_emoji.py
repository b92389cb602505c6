import pickle
import subprocess
import sys
import zlib
from dataclasses import replace
from functools import partial
from random import Random

import numpy as np
import pytest

from canvit_gym.scenes import sprites
from canvit_gym.scenes.base import Box, Scene
from canvit_gym.scenes.emoji import (
    ANIMAL_PX,
    FIRST_OBJECT,
    FIRST_STUFF,
    FRAGMENT,
    FROM_SMALL_TO_LARGE,
    MASK_CLASS_NAMES,
    N_OBJECTS,
    SIZE_PX,
    SPLITS,
    EmojiScenes,
    place_apart,
)


def equal(first: Scene, second: Scene) -> bool:
    bare = replace(first, picture=None, mask=None), replace(second, picture=None, mask=None)
    return (
        bare[0] == bare[1]
        and np.array_equal(first.picture, second.picture)
        and np.array_equal(first.mask, second.mask)
    )


def tight_box(pixels: np.ndarray) -> Box:
    rows, cols = np.nonzero(pixels)
    return Box(top=rows.min(), left=cols.min(), bottom=rows.max() + 1, right=cols.max() + 1)


def overlap(first: Box, second: Box) -> bool:
    return (
        first.top < second.bottom
        and second.top < first.bottom
        and first.left < second.right
        and second.left < first.right
    )


@pytest.fixture(scope="module")
def some() -> list[Scene]:
    return [EmojiScenes(split=split)[index] for split in SPLITS for index in range(40)]


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    scenes = EmojiScenes(split="train")
    return [scenes[index] for index in range(1600)]


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_are_of_the_promised_form(split):
    scenes = EmojiScenes(split=split)
    scene = scenes[3]
    assert scene.name == f"emoji/{split}/3"
    assert scene.picture.shape == (scenes.size_px, scenes.size_px, 3)
    assert scene.mask.shape == (scenes.size_px, scenes.size_px)
    assert scene.picture.dtype == scene.mask.dtype == np.uint8
    assert scene.picture.flags.writeable and scene.mask.flags.writeable
    assert len(scenes.class_names) == 16
    assert len(scenes.mask_class_names) == len(set(scenes.mask_class_names)) == 47


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_depends_on_nothing_but_split_and_index(split):
    forth = {index: EmojiScenes(split=split)[index] for index in range(8)}
    scenes = EmojiScenes(split=split)
    for index in reversed(range(8)):
        assert equal(scenes[index], forth[index])
        assert equal(scenes[np.int64(index)], forth[index])


def test_changing_a_scene_does_not_change_later_ones():
    scenes = EmojiScenes(split="train")
    before = [scenes[index] for index in range(4)]
    for index in range(4):
        spoiled = scenes[index]
        spoiled.picture[:] = 0
        spoiled.mask[:] = 0
    assert all(equal(scenes[index], before[index]) for index in range(4))


def test_a_fresh_process_draws_the_same_scene():
    # its caches are empty, and it asks for another scene first
    code = (
        "from zlib import crc32; from canvit_gym.scenes.emoji import EmojiScenes;"
        "s = EmojiScenes(split='test'); s[99]; print(crc32(s[7].picture), crc32(s[7].mask))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    scene = EmojiScenes(split="test")[7]
    assert out.stdout.split() == [str(zlib.crc32(scene.picture)), str(zlib.crc32(scene.mask))]


def test_scenes_are_the_same_on_every_machine():
    """Fails also where the generator is changed: then the mini was trained on other scenes."""
    sums = {split: zlib.crc32(EmojiScenes(split=split)[0].picture) for split in SPLITS}
    assert sums == {
        "backbone": 2112010807,
        "train": 677775512,
        "test": 1095169869,
        "test_style": 2461810427,
    }


def test_splits_and_indices_differ(some):
    assert len({scene.picture.tobytes() for scene in some}) == len(some)
    assert len({scene.name for scene in some}) == len(some)


@pytest.mark.parametrize("split", SPLITS)
def test_only_test_style_shows_the_held_out_style(split, monkeypatch):
    styles_of_scene: list[set[str]] = []

    def recording(original, **arguments):
        styles_of_scene[-1].add(arguments["style"])
        return original(**arguments)

    for function in ("sprite", "clutter"):
        monkeypatch.setattr(sprites, function, partial(recording, getattr(sprites, function)))
    scenes = EmojiScenes(split=split)
    for index in range(20):
        styles_of_scene.append(set())
        scenes[index]
    assert all(len(styles) == 1 for styles in styles_of_scene)
    seen = set.union(*styles_of_scene)
    assert seen == ({"noto"} if split == "test_style" else {"fluent", "twemoji"})


def test_there_is_one_animal_and_the_mask_shows_exactly_it(some):
    for scene in some:
        assert np.unique(scene.mask[scene.mask < FIRST_OBJECT]).tolist() == [scene.label]
        assert tight_box(scene.mask == scene.label) == scene.target
        animals = [thing for thing in scene.objects if thing.class_id < FIRST_OBJECT]
        assert [(animal.class_id, animal.box) for animal in animals] == [
            (scene.label, scene.target)
        ]


def test_objects_are_whole_apart_and_all_in_the_mask(some):
    for scene in some:
        assert len(scene.objects) == N_OBJECTS + 1
        covered = np.zeros((SIZE_PX, SIZE_PX), dtype=bool)
        for position, thing in enumerate(scene.objects):
            assert not any(overlap(thing.box, other.box) for other in scene.objects[:position])
            assert 0 <= thing.box.top < thing.box.bottom <= SIZE_PX
            assert 0 <= thing.box.left < thing.box.right <= SIZE_PX
            window = np.zeros_like(covered)
            window[thing.box.top : thing.box.bottom, thing.box.left : thing.box.right] = True
            assert tight_box(window & (scene.mask == thing.class_id)) == thing.box
            covered |= window
        assert (scene.mask[~covered] >= FIRST_STUFF).all()


def test_the_mask_tells_sprites_from_what_lies_beneath(some):
    """Along a sprite's outline the picture changes more than inside of the ground."""
    at_outline, on_ground = [], []
    for scene in some:
        step = np.abs(np.diff(scene.picture.astype(int), axis=1)).mean(axis=-1)
        left, right = scene.mask[:, :-1], scene.mask[:, 1:]
        at_outline.append(step[(left < FIRST_STUFF) != (right < FIRST_STUFF)].mean())
        on_ground.append(step[(left == right) & (left >= FIRST_STUFF) & (left < FRAGMENT)].mean())
    assert np.mean(at_outline) > 2 * np.mean(on_ground)


def test_every_scene_has_three_kinds_of_ground_and_fragments(some):
    for scene in some:
        values, counts = np.unique(scene.mask, return_counts=True)
        assert ((values >= FIRST_STUFF) & (values < FRAGMENT)).sum() == 3
        assert 300 < counts[values == FRAGMENT].sum() < 3000


def test_mask_values_keep_their_meaning():
    names = EmojiScenes(split="train").mask_class_names
    assert (names[0], names[15], names[16], names[39]) == ("dog", "wolf", "apple", "gift")
    assert (names[40], names[45], names[46]) == ("grass", "cloud", "fragment")


def test_every_animal_is_equally_likely(many):
    counts = np.bincount([scene.label for scene in many], minlength=16)
    assert counts.min() > 60 and counts.max() < 140  # 100 expected


def test_the_animal_may_be_anywhere(many):
    twice_centers = np.array(
        [
            (scene.target.top + scene.target.bottom, scene.target.left + scene.target.right)
            for scene in many
        ]
    )
    margin = max(ANIMAL_PX)
    cells = np.clip((twice_centers - margin) / (2 * SIZE_PX - 2 * margin) * 4, 0, 3.99).astype(int)
    counts = np.bincount(cells @ [4, 1], minlength=16)
    assert counts.min() > 50 and counts.max() < 165  # 100 expected


def test_neither_place_nor_turn_tells_the_animal_apart(many):
    def eccentricity(box: Box) -> float:
        return abs(box.top + box.bottom - SIZE_PX) + abs(box.left + box.right - SIZE_PX)

    animals = [eccentricity(scene.target) for scene in many]
    others = [
        eccentricity(thing.box)
        for scene in many
        for thing in scene.objects
        if thing.box != scene.target
    ]
    assert np.mean(animals) == pytest.approx(np.mean(others), rel=0.05)
    turns = [[thing.box for thing in scene.objects].index(scene.target) for scene in many]
    counts = np.bincount(turns, minlength=N_OBJECTS + 1)
    assert counts.min() > 140 and counts.max() < 260  # 200 expected


def test_placing_starts_again_where_nothing_fits():
    half = (SIZE_PX // 2, SIZE_PX // 2 - 8)
    for seed in range(20):
        first, second = place_apart(rng=Random(seed), sizes=[half, half], tries=1)
        assert abs(first[0] - second[0]) >= half[0] or abs(first[1] - second[1]) >= half[1]


def test_sprites_come_in_the_size_asked_for():
    for style in sprites.STYLES:
        for class_id in range(len(sprites.CODEPOINTS)):
            drawn = sprites.sprite(
                style=style, class_id=class_id, size_px=24, flipped=False, variant=0
            )
            assert max(drawn.layer.size) == 24
            assert drawn.layer.shape.mean() > 0.15  # a thing, not a smudge


def test_flipping_mirrors_a_sprite():
    bird = sprites.ANIMALS.index("bird")  # seen from the side
    plain, flipped = (
        sprites.sprite(style="fluent", class_id=bird, size_px=24, flipped=flip, variant=0)
        for flip in (False, True)
    )
    assert not np.array_equal(plain.layer.shape, flipped.layer.shape)
    assert np.abs(plain.layer.color[:, ::-1] - flipped.layer.color).max() <= 2


def test_scenes_survive_pickling():
    scenes = EmojiScenes(split="test_style")
    scenes[0]
    copy = pickle.loads(pickle.dumps(scenes))
    assert len(pickle.dumps(scenes)) < 1000  # no caches inside
    assert len(copy) == len(scenes) == 100_000
    assert equal(copy[5], scenes[5])


def test_training_scenes_do_not_run_out():
    scenes = EmojiScenes(split="train")
    assert len(scenes) > 2_000_000_000
    assert scenes[len(scenes) - 1].picture.any()


def test_a_wrong_split_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'val'.*backbone, train, test, test_style"):
        EmojiScenes(split="val")


@pytest.mark.parametrize("index", [-1, 100_000])
def test_an_index_out_of_range_is_named_with_the_range(index):
    with pytest.raises(IndexError, match=rf"{index}.*'test'.*0 \.\. 99999"):
        EmojiScenes(split="test")[index]


def test_depth_changes_nothing_else() -> None:
    for split in SPLITS:
        plain, deep = EmojiScenes(split=split), EmojiScenes(split=split, depth=True)
        for index in range(5):
            a, b = plain[index], deep[index]
            assert a.depth is None and b.depth is not None
            assert (a.picture == b.picture).all() and (a.mask == b.mask).all()
            assert (a.name, a.label, a.target, a.objects) == (b.name, b.label, b.target, b.objects)


def test_depth_is_of_a_plane_and_of_objects_before_it_by_their_size() -> None:
    assert sorted(FROM_SMALL_TO_LARGE) == sorted(MASK_CLASS_NAMES[:FIRST_STUFF])
    for index in range(20):
        scene = EmojiScenes(split="train", depth=True)[index]
        depth, mask = scene.depth, scene.mask
        assert depth is not None and mask is not None
        assert depth.dtype == np.float32 and depth.shape == mask.shape
        lies = mask >= FIRST_STUFF
        plane = np.array([np.unique(row[flat]) for row, flat in zip(depth, lies, strict=True)])
        assert plane.shape == (len(depth), 1) and (np.diff(plane[:, 0]) < 0).all()
        np.testing.assert_allclose(plane[[0, -1], 0], [10, 5])
        # The inverse of a plane's depth is linear in the row.
        np.testing.assert_allclose(np.diff(1 / plane[:, 0]), 0.1 / (len(depth) - 1), rtol=1e-3)
        for thing in scene.objects:
            box = slice(thing.box.top, thing.box.bottom), slice(thing.box.left, thing.box.right)
            own = mask[box] == thing.class_id
            rank = FROM_SMALL_TO_LARGE.index(MASK_CLASS_NAMES[thing.class_id])
            expected = 3 ** (rank / 39) * 16 / max(own.shape)
            np.testing.assert_allclose(np.unique(depth[box][own]), expected, rtol=1e-6)
        assert depth[~lies].max() < 5  # before all of the ground
