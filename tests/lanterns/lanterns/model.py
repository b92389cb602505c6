"""A model without any learning: colours of glimpses, averaged onto a grid."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from canvit_gym.geometry import grid_centers


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """Sums of colours [B, G^2, 3], and how often each cell was seen, [B, G^2, 1]."""

    colours: torch.Tensor
    seen: torch.Tensor

    def __getitem__(self, index):
        return Mosaic(colours=self.colours[index], seen=self.seen[index])


class MosaicModel(torch.nn.Module):
    map_dim = vector_dim = 4

    def __init__(self):
        super().__init__()
        self.closeness = torch.nn.Parameter(torch.ones(()))  # a closer look counts for more

    def init_state(self, *, batch_size, canvas_grid_size):
        cells = torch.zeros(batch_size, canvas_grid_size**2, 4, device=self.closeness.device)
        return Mosaic(colours=cells[..., :3], seen=cells[..., 3:])

    def take_in(self, *, glimpse, state, viewpoint, consume_state=False):
        cells = grid_centers(round(state.seen.shape[1] ** 0.5), device=glimpse.device)
        places = (cells - viewpoint.centers[:, None]) / viewpoint.scales[:, None, None]
        grid = places[:, None].flip(-1)  # torch wants (x, y)
        colours = F.grid_sample(glimpse, grid, align_corners=False)[:, :, 0].mT
        weight = (self.closeness / viewpoint.scales**4)[:, None, None]
        weight = weight * (places.abs() <= 1).all(dim=-1, keepdim=True)
        return Mosaic(colours=state.colours + weight * colours, seen=state.seen + weight)

    def feature_map(self, state):
        cells = torch.cat((self.mean(state), state.seen), dim=-1)
        return F.layer_norm(cells, cells.shape[-1:])

    def feature_vector(self, state):
        everything = torch.cat((self.mean(state), state.seen), dim=-1).mean(dim=1)
        return F.layer_norm(everything, everything.shape[-1:])

    def glimpse_flops(self, *, glimpse_size_px, canvas_grid_size):
        return 10 * canvas_grid_size**2

    def readout_flops(self, *, canvas_grid_size):
        return 4 * canvas_grid_size**2

    def mean(self, state):
        return state.colours / state.seen.clamp(min=1e-6)
