"""CanViT with a segmentation probe: class logits for every cell of the canvas."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from canvit_gym.geometry import Viewpoint
from canvit_gym.model.canvas_probe import CanvasProbe, CanViTWithProbe
from canvit_gym.model.canvit import RecurrentState


class SegmentationProbe(CanvasProbe):
    """A probe that says which of `num_classes` classes each place shows.

    State-dict keys are the published ones, the same in 0.1 and 0.2. Raises ValueError where an
    argument is of another type or out of range.
    """

    config_fields = ("embed_dim", "num_classes", "dropout", "use_ln")

    def __init__(self, *, embed_dim: int, num_classes: int, dropout: float, use_ln: bool) -> None:
        if type(num_classes) is not int or num_classes < 1:
            raise ValueError(f"num_classes is {num_classes!r}; give a positive integer.")
        super().__init__(embed_dim=embed_dim, outputs=num_classes, dropout=dropout, use_ln=use_ln)
        self.num_classes = num_classes


class CanViTForSemanticSegmentation(CanViTWithProbe[SegmentationProbe]):
    """A core and a segmentation probe of its canvas."""

    probe_class = SegmentationProbe

    @property
    def num_classes(self) -> int:
        return self.probe.num_classes

    def logits(self, state: RecurrentState) -> Tensor:
        """Class logits of every canvas cell, float32 [B, num_classes, G, G]."""
        return self.read_canvas(state)

    def forward(
        self, *, glimpse: Tensor, state: RecurrentState, viewpoint: Viewpoint
    ) -> tuple[Tensor, RecurrentState]:
        """(logits float32 [B, num_classes, G, G], the state after the glimpse)."""
        state = self.canvit(glimpse=glimpse, state=state, viewpoint=viewpoint).state
        return self.logits(state), state

    def predict(
        self,
        *,
        glimpse: Tensor,
        state: RecurrentState,
        viewpoint: Viewpoint,
        target_size: tuple[int, int],
    ) -> tuple[Tensor, RecurrentState]:
        """`forward` with the logits upsampled bilinearly to target_size = (height, width)."""
        logits, state = self(glimpse=glimpse, state=state, viewpoint=viewpoint)
        upsampled = F.interpolate(logits, size=target_size, mode="bilinear", align_corners=False)
        return upsampled, state
