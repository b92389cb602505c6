"""CanViT itself: the network, its heads and its checkpoints. Knows no gym and no data set."""

from canvit_gym.model.canvit import CanViT, CanViTOutput, RecurrentState
from canvit_gym.model.checkpoints import (
    FLAGSHIP,
    IN1K_FINETUNED,
    IN1K_PROBE,
    CheckpointNotFound,
    InvalidCheckpoint,
    checkpoint_sha256,
    resolve_checkpoint,
)
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining

__all__ = [
    "FLAGSHIP",
    "IN1K_FINETUNED",
    "IN1K_PROBE",
    "CanViT",
    "CanViTConfig",
    "CanViTForImageClassification",
    "CanViTForPretraining",
    "CanViTOutput",
    "CheckpointNotFound",
    "InvalidCheckpoint",
    "RecurrentState",
    "checkpoint_sha256",
    "resolve_checkpoint",
]
