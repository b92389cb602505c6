"""CanViT itself: the network, its heads and its checkpoints. Knows no gym and no data set."""

from canvit_gym.checkpoint_ids import (
    FLAGSHIP,
    IN1K_FINETUNED,
    IN1K_PROBE,
)
from canvit_gym.model.canvit import CanViT, CanViTOutput, RecurrentState
from canvit_gym.model.checkpoints import (
    CheckpointNotFound,
    InvalidCheckpoint,
    checkpoint_sha256,
    resolve_checkpoint,
)
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining
from canvit_gym.model.segmentation import CanViTForSemanticSegmentation, SegmentationProbe

__all__ = [
    "FLAGSHIP",
    "IN1K_FINETUNED",
    "IN1K_PROBE",
    "CanViT",
    "CanViTConfig",
    "CanViTForImageClassification",
    "CanViTForPretraining",
    "CanViTForSemanticSegmentation",
    "CanViTOutput",
    "CheckpointNotFound",
    "InvalidCheckpoint",
    "RecurrentState",
    "SegmentationProbe",
    "checkpoint_sha256",
    "resolve_checkpoint",
]
