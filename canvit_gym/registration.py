"""Every environment id. Imports nothing heavy: entry points are strings."""

from importlib import import_module

from gymnasium.envs.registration import register, registry

from canvit_gym.checkpoint_ids import AUTO, FLAGSHIP

_IDS: dict[str, dict[str, object]] = {
    # Find and name the animal among clutter. Embedded: no download.
    "CanViT-Emoji-v0": {
        "entry_point": "canvit_gym.envs.make:emoji",
        "vector_entry_point": "canvit_gym.envs.make:emoji_vector",
    },
    # Label every cell of the same scenes: animals, objects, grounds, fragments. Embedded.
    "CanViT-EmojiSeg-v0": {
        "entry_point": "canvit_gym.envs.make:emoji_seg",
        "vector_entry_point": "canvit_gym.envs.make:emoji_seg_vector",
    },
    # Tell how far away every cell of the same scenes is. Embedded.
    "CanViT-EmojiDepth-v0": {
        "entry_point": "canvit_gym.envs.make:emoji_depth",
        "vector_entry_point": "canvit_gym.envs.make:emoji_depth_vector",
    },
    # Name an ImageNet-1k picture with the published fine-tuned CanViT-B; without it, with the
    # embedded mini. Without pictures of one's own, those of the embedded album.
    "CanViT-IN1k-v0": {
        "entry_point": "canvit_gym.envs.make:imagenet",
        "vector_entry_point": "canvit_gym.envs.make:imagenet_vector",
        "kwargs": {"backbone": AUTO},
    },
    # Label every pixel of an ADE20K picture with the published CanViT-B and its canvas probe.
    "CanViT-ADE20K-v0": {
        "entry_point": "canvit_gym.envs.make:ade20k",
        "vector_entry_point": "canvit_gym.envs.make:ade20k_vector",
        "kwargs": {"backbone": FLAGSHIP},
    },
}


def env_id_of(name: str) -> str:
    """The id that a name stands for: "CanViT-Emoji-v0", or "module:MyEnv-v0", whose module is
    imported so that it registers the id.

    Raises ValueError where there is no such module, or no such id.
    """
    module, _, env_id = name.rpartition(":")
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise ValueError(
                f"The module {module!r} of {name!r} can not be imported ({error}); give module:id "
                "of a module that Python finds and that registers the id."
            ) from error
    if env_id not in registry:
        ours = ", ".join(sorted(key for key in registry if key.startswith("CanViT-")))
        raise ValueError(
            f"There is no environment {env_id!r}; choose one of {ours}, or give module:id of your "
            "own."
        )
    return env_id


def register_environments() -> None:
    """Register every id; harmless when called again."""
    for env_id, spec in _IDS.items():
        if env_id not in registry:
            register(id=env_id, **spec)  # type: ignore[arg-type]
