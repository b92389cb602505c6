"""The fast form of a trained CanViT for inference: the same answers from prepared weights.

`freeze(model)` gives a task model a core that takes the place of the plain one wherever nothing is
trained; without this file everything works as before, only slower. On a CPU the plain core loses
its time to temporaries of the canvas' size (fresh memory costs more than the arithmetic), to
multiplies and copies around attention, and to matrix products that lay out their weights anew in
every call. So here

- weights are laid out once, by oneDNN, with LayerScale, attention's scale and the missing key bias
  folded in, and with GELU as part of the product;
- a rotary embedding is one complex product in place: the projections that feed it put the two
  channels of a pair side by side, which dot products do not notice;
- a large canvas is worked through in pieces that stay in the cache, heads by themselves in memory,
  because products in batches want that; a write goes from the old canvas to the new in one pass.

LayerNorms stay as they are, because torch's kernel is no faster without weight and bias.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canvit_gym.geometry import Viewpoint, grid_axes
from canvit_gym.model.attention import CanvasAttention
from canvit_gym.model.backbone import Block, merge_heads
from canvit_gym.model.canvit import (
    CanViT,
    CanViTOutput,
    Core,
    RecurrentState,
    ViewpointEncoding,
)
from canvit_gym.model.rope import rotation_at

_PIECE = 2**19
"""Canvas values worked on at a time on a CPU: 2 MiB, which two cores keep in their caches, and
which malloc hands out again without asking the system for fresh pages."""

_LARGE_CANVAS = 2**17
"""Values of the smallest canvas that is worth a scene by scene loop, on a CPU."""

_SMALL_PRODUCT, _SMALL_WEIGHT = 2**22, 2**18
"""Multiply-adds below which oneDNN's slower start costs more than it saves, and the largest weight
of which both layouts are kept for that."""


class FrozenCanViT(Core):
    """A CanViT's answers without its parameters: for inference, on the device it was made on.

    Same call, same state, same output as the plain core, to float32 rounding; under autocast the
    products are in autocast's dtype and the canvas stays float32, as there. Later changes of
    `canvit` do not reach it. No gradients. One call at a time: calls share scratch memory.
    """

    def __init__(self, canvit: CanViT) -> None:
        super().__init__(canvit.config)
        self.init_canvas_registers = _fixed(canvit.init_canvas_registers)
        self.init_canvas_patch = _fixed(canvit.init_canvas_patch)
        self.init_recurrent_cls = _fixed(canvit.init_recurrent_cls)
        self.backbone_registers = _fixed(canvit.backbone_registers)
        scratch = _Scratch()
        self._embed = _Linear(*_affine(canvit.backbone.patch_embed.proj))
        self._encode = None if canvit.vpe is None else _Encoding(canvit.vpe)
        self._blocks = [_Block(block) for block in canvit.backbone.blocks]
        self._reads = dict(
            zip(self.schedule.reads, (_Read(x, scratch) for x in canvit.canvas_reads), strict=True)
        )
        self._writes = dict(
            zip(
                self.schedule.writes,
                (_Write(x, scratch) for x in canvit.canvas_writes),
                strict=True,
            )
        )
        self._canvas_turns: dict[tuple[int, torch.device], Tensor] = {}

    def _apply(self, fn: Any, recurse: bool = True) -> FrozenCanViT:
        raise RuntimeError(
            "A FrozenCanViT stays on the device and in the dtype it was made in; "
            "move or cast the plain CanViT and freeze that."
        )

    @torch.no_grad()
    def forward(
        self,
        *,
        glimpse: Tensor,
        state: RecurrentState,
        viewpoint: Viewpoint,
        consume_state: bool = False,
    ) -> CanViTOutput:
        """Take in one glimpse, as `Core.forward` says, which also tells what raises ValueError.

        With `consume_state` the new canvas takes the old one's memory: for callers who hold the
        only reference to the state and give it up.
        """
        device = glimpse.device.type
        dtype = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        )
        with torch.autocast(device, enabled=False):
            return self._forward(glimpse.to(dtype), state, viewpoint, consume_state)

    def _forward(
        self, glimpse: Tensor, state: RecurrentState, viewpoint: Viewpoint, consume_state: bool
    ) -> CanViTOutput:
        config, dtype = self.config, glimpse.dtype
        patches = self._embed(_patches(glimpse, size_px=config.backbone.patch_size_px))
        batch_size, num_patches, dim = patches.shape
        cls_index = 0 if self._encode is None else 1
        prefix = cls_index + 1 + config.num_backbone_registers
        tokens = torch.empty(batch_size, prefix + num_patches, dim, device=glimpse.device)
        if self._encode is not None:
            tokens[:, 0] = self._encode(viewpoint)
        tokens[:, cls_index] = state.recurrent_cls[:, 0]
        tokens[:, cls_index + 1 : prefix] = self.backbone_registers
        tokens[:, prefix:] = patches

        grid = {"size": math.isqrt(num_patches), "prefix": prefix}
        self_turns = _turns(viewpoint, **grid, head_dim=config.backbone.head_dim)
        glimpse_turns = (
            self_turns
            if config.canvas_head_dim == config.backbone.head_dim
            else _turns(viewpoint, **grid, head_dim=config.canvas_head_dim)
        )
        canvas_turns = self._turns_of_canvas(state)

        canvas = state.canvas
        for i, block in enumerate(self._blocks):
            block(tokens, self_turns, dtype)
            if (read := self._reads.get(i)) is not None:
                read(tokens, canvas, glimpse_turns, canvas_turns, dtype)
            if (write := self._writes.get(i)) is not None:
                new = canvas
                if canvas is state.canvas and not consume_state:
                    new = torch.empty(canvas.shape, device=canvas.device)
                write(tokens, canvas, glimpse_turns, canvas_turns, dtype, out=new)
                canvas = new
        return CanViTOutput(
            state=RecurrentState(canvas=canvas, recurrent_cls=tokens[:, cls_index : cls_index + 1]),
            glimpse_patches=tokens[:, prefix:],
            vpe=None if self._encode is None else tokens[:, 0],
        )

    def _turns_of_canvas(self, state: RecurrentState) -> Tensor:
        key = self.canvas_grid_size(state), state.canvas.device
        if key not in self._canvas_turns:
            self._canvas_turns[key] = _turns(
                Viewpoint.full_scene(batch_size=1, device=key[1]),
                size=key[0],
                prefix=self.config.num_canvas_registers,
                head_dim=self.config.canvas_head_dim,
            )
        return self._canvas_turns[key]


class _HasCore(Protocol):
    canvit: Core


_Model = TypeVar("_Model", bound=_HasCore)


def freeze(model: _Model) -> _Model:
    """The same model with its core in the fast form, on the device where it is: for inference."""
    if isinstance(model.canvit, CanViT):  # else it is frozen already
        model.canvit = FrozenCanViT(model.canvit)
    return model


def _copy(x: Tensor) -> Tensor:
    return x.detach().clone()


def _fixed(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(_copy(parameter), requires_grad=False)


def _affine(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight [out, in] and bias [out]."""
    assert isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None
    return module.weight.flatten(1), module.bias


def _patches(glimpse: Tensor, *, size_px: int) -> Tensor:
    """[B, 3, g * size, g * size] -> [B, g^2, 3 * size^2], each patch in the order of a kernel."""
    if glimpse.shape[-2] != glimpse.shape[-1] or glimpse.shape[-1] % size_px:
        raise ValueError(
            f"The glimpse has shape {list(glimpse.shape)}; give [batch, 3, side, side] with a "
            f"side in multiples of {size_px} px."
        )
    tiles = glimpse.unflatten(3, (-1, size_px)).unflatten(2, (-1, size_px))  # B, 3, g, p, g, p
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


# --- Rotary embedding ----------------------------------------------------------------------------


def _turns(viewpoint: Viewpoint, *, size: int, prefix: int, head_dim: int) -> Tensor:
    """Factors e^(i angle) of a grid's channel pairs: complex64 [B, prefix + size^2, 1, head_dim/2].

    1 for the prefix, which has no position.
    """
    axes = grid_axes(viewpoint, size)
    sin, cos = (x[:, 0, :, : head_dim // 2] for x in rotation_at(axes, head_dim=head_dim))
    rows, cols = torch.complex(cos, sin).chunk(2, dim=-1)  # [B, size, head_dim / 4] each
    turns = rows.new_ones(len(rows), prefix + size**2, 2, head_dim // 4)
    grid = turns[:, prefix:].unflatten(1, (size, size))
    grid[..., 0, :] = rows[:, :, None]
    grid[..., 1, :] = cols[:, None]
    return turns.flatten(-2)[:, :, None]


def _pair(weight: Tensor, *, num_heads: int) -> Tensor:
    """Rows [heads * d, ...] such that channels k and k + d/2 of a head, a pair, come together."""
    return weight.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _turn(x: Tensor, turns: Tensor, *, num_heads: int) -> Tensor:
    """Rotate the first heads of x [..., N, heads * d], channels paired; in place in float32."""
    turned = x.float()
    pairs = torch.view_as_complex(turned.view(*x.shape[:-1], -1, turns.shape[-1], 2))
    pairs[..., :num_heads, :].mul_(turns)
    return turned.to(x.dtype)


# --- Prepared parts ------------------------------------------------------------------------------


class _Linear:
    """An affine map [..., in] -> [..., out] in its input's dtype."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._bias, self._packed = _copy(bias), _pack(weight.detach())
        keep = self._packed is None or weight.numel() <= _SMALL_WEIGHT
        self._dense = _copy(weight) if keep else None
        self._cast: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        small = self._dense is not None and x.numel() * len(self._bias) < _SMALL_PRODUCT
        if self._packed is not None and x.dtype == torch.float32 and not small:
            after = "gelu" if gelu else "none"
            return torch.ops.mkldnn._linear_pointwise(
                x, self._packed, self._bias, after, [], "none"
            )
        y = F.linear(x, *self._in(x.dtype))
        return F.gelu(y) if gelu else y

    def __reduce__(self) -> tuple[Any, ...]:
        # Because oneDNN's layout can be neither copied nor pickled.
        return _Linear, (self._weight(), self._bias)

    def _weight(self) -> Tensor:
        weight = self._packed if self._dense is None else self._dense
        assert weight is not None
        return weight.to_dense()

    def _in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if dtype not in self._cast:
            self._cast[dtype] = self._weight().to(dtype), self._bias.to(dtype)
        return self._cast[dtype]


def _pack(weight: Tensor) -> Tensor | None:
    """The weight in oneDNN's own layout, as torch.compile's freezing has it; None without it."""
    if weight.device.type != "cpu" or not _can_pack():
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


@cache
def _can_pack() -> bool:
    """Whether this torch has the operators, which are private to it, and they do what is meant."""
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.linspace(-1, 1, 64, device="cpu", dtype=torch.float32).view(4, 16)
    bias = torch.linspace(-1, 1, 4, device="cpu", dtype=torch.float32)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(x)
        for after, expected in (
            ("none", F.linear(x, x, bias)),
            ("gelu", F.gelu(F.linear(x, x, bias))),
        ):
            y = torch.ops.mkldnn._linear_pointwise(x, packed, bias, after, [], "none")
            if not torch.allclose(y, expected, atol=1e-4):
                return False
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


class _Norm:
    """LayerNorm in float32, then in `dtype`."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self._weight, self._bias, self._eps = _copy(norm.weight), _copy(norm.bias), norm.eps

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps).to(dtype)


class _Encoding:
    """`ViewpointEncoding`."""

    def __init__(self, vpe: ViewpointEncoding) -> None:
        self._frequencies, self._norm = _copy(vpe.frequencies.T), _Norm(vpe.norm)

    def __call__(self, viewpoint: Viewpoint) -> Tensor:
        scales = viewpoint.scales[:, None]
        phases = torch.cat((viewpoint.centers / scales, scales.log()), dim=1) @ self._frequencies
        return self._norm(torch.cat((phases.cos(), phases.sin()), dim=1), torch.float32)


class _Block:
    def __init__(self, block: nn.Module) -> None:
        assert isinstance(block, Block)
        attn, mlp = block.attn, block.mlp
        self._num_heads = attn.num_heads
        self._norm1, self._norm2 = _Norm(block.norm1), _Norm(block.norm2)

        def paired(x: Tensor) -> Tensor:
            query, key, value = x.chunk(3)
            query, key = (_pair(part, num_heads=attn.num_heads) for part in (query, key))
            return torch.cat((query, key, value))

        self._qkv = _Linear(paired(attn.qkv.weight), paired(attn.qkv_bias))
        self._proj = _scaled(attn.proj, block.ls1.gamma)
        self._fc1 = _Linear(mlp.fc1.weight, mlp.fc1.bias)
        self._fc2 = _scaled(mlp.fc2, block.ls2.gamma)

    def __call__(self, x: Tensor, turns: Tensor, dtype: torch.dtype) -> None:
        """Change tokens x [B, N, D], in place."""
        qkv = _turn(self._qkv(self._norm1(x, dtype)), turns, num_heads=2 * self._num_heads)
        heads = qkv.view(*x.shape[:2], 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind()
        x += self._proj(merge_heads(F.scaled_dot_product_attention(query, key, value)))
        x += self._fc2(self._fc1(self._norm2(x, dtype), gelu=True))


def _scaled(linear: nn.Linear, gamma: Tensor) -> _Linear:
    return _Linear(gamma[:, None] * linear.weight, gamma * linear.bias)


class _Scratch:
    """Memory for what does not outlive a call, kept between calls."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Scratch, ()

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Uninitialised float32 memory on the CPU, the same for the same name."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            with torch.inference_mode(False):  # written in any mode
                self._buffers[name] = torch.empty(size)
        return self._buffers[name][:size].view(shape)


# --- Canvas attention ----------------------------------------------------------------------------
#
# Small canvases, reduced precision and GPUs go through torch's attention, a group of scenes at a
# time. On a CPU a large canvas is handled by itself, with plain matrix products: they are faster
# there than torch's attention, and take the canvas in pieces.


class _CanvasAttention:
    """The base of reads and writes. The maps of the glimpse's tokens carry attention's scale."""

    def __init__(self, attention: CanvasAttention, scratch: _Scratch) -> None:
        self._num_heads, self._scratch = attention.num_heads, scratch

    def _paired(self, linear: nn.Module, *, scaled: bool = False) -> tuple[Tensor, Tensor]:
        """Weight and bias of a map to rotary channels; with attention's scale."""
        weight, bias = _affine(linear)
        scale = (len(bias) // self._num_heads) ** -0.5 if scaled else 1.0
        weight, bias = (scale * _pair(x, num_heads=self._num_heads) for x in (weight, bias))
        return weight, bias

    def _heads(self, x: Tensor) -> Tensor:
        """[..., N, C] -> [..., heads, N, d]."""
        return x.unflatten(-1, (self._num_heads, -1)).transpose(-3, -2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends from tokens [B, N, C] to tokens [B, M, C], with the scale in the maps."""
        query, key, value = (self._heads(x) for x in (query, key, value))
        return merge_heads(F.scaled_dot_product_attention(query, key, value, scale=1.0))

    def _turned_canvas(self, normed: Tensor, turns: Tensor) -> Tensor:
        """Normalised canvas tokens [..., M, C], which no projection has paired: paired, rotated."""
        low, high = normed.unflatten(-1, (self._num_heads, 2, -1)).unbind(-2)
        return torch.view_as_real(torch.complex(low, high).mul_(turns)).flatten(-3)


def _is_large(canvas: Tensor, dtype: torch.dtype) -> bool:
    on_cpu = canvas.device.type == "cpu"
    return on_cpu and dtype == torch.float32 and canvas[0].numel() >= _LARGE_CANVAS


def _pieces(x: Tensor) -> list[slice]:
    """Ranges of x's first axis with about as many values each as fit the cache."""
    count = max(1, round(x.numel() / _PIECE)) if x.device.type == "cpu" else 1
    step = math.ceil(len(x) / count)
    return [slice(start, start + step) for start in range(0, len(x), step)]


class _Read(_CanvasAttention):
    def __init__(self, read: nn.Module, scratch: _Scratch) -> None:
        assert isinstance(read, CanvasAttention)
        super().__init__(read, scratch)
        self._norm_tokens, self._norm_canvas = _Norm(read.ln_q), _Norm(read.ln_kv)
        self._query = _Linear(*self._paired(read.q_map, scaled=True))
        self._key_value = (
            _stacked(self._paired(read.k_map), _affine(read.v_map))
            if isinstance(read.k_map, nn.Linear)
            else None
        )
        self._output = _Linear(*_affine(read.o_map))

    def __call__(
        self,
        tokens: Tensor,
        canvas: Tensor,
        turns: Tensor,
        canvas_turns: Tensor,
        dtype: torch.dtype,
    ) -> None:
        """Add to tokens [B, N, D], in place, what they find on the canvas [B, M, C]."""
        query = self._query(self._norm_tokens(tokens, dtype))
        query = _turn(query, turns, num_heads=self._num_heads)
        if _is_large(canvas, dtype):
            heads = torch.empty_like(self._heads(query), memory_format=torch.contiguous_format)
            for i in range(len(canvas)):
                self._read_large(query[i], canvas[i], canvas_turns[0], out=heads[i])
            found = merge_heads(heads)
        else:
            found = torch.empty_like(query)
            for group in _pieces(canvas):
                key, value = self._keys_values(canvas[group], canvas_turns, dtype)
                found[group] = self._attend(query[group], key, value)
        tokens += self._output(found)

    def _keys_values(
        self, canvas: Tensor, turns: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        normed = self._norm_canvas(canvas, torch.float32)
        if self._key_value is None:
            return self._turned_canvas(normed, turns).to(dtype), normed.to(dtype)
        key_value = self._key_value(normed.to(dtype))
        key, value = _turn(key_value, turns, num_heads=self._num_heads).chunk(2, dim=-1)
        return key, value

    def _read_large(self, query: Tensor, canvas: Tensor, turns: Tensor, *, out: Tensor) -> None:
        """For one scene: query [N, C], canvas [M, C] -> out [heads, N, d]."""
        weights = self._scratch("weights", self._num_heads, len(query), len(canvas))
        queries, pieces, values = self._heads(query), _pieces(canvas), []
        for piece in pieces:
            key, value = self._keys_values(canvas[piece], turns[piece], torch.float32)
            torch.bmm(queries, self._heads(key).mT, out=weights[:, :, piece])
            values.append(self._heads(value))
        torch.softmax(weights, dim=-1, out=weights)
        out.zero_()
        for piece, value in zip(pieces, values, strict=True):
            out.baddbmm_(weights[:, :, piece], value)


class _Write(_CanvasAttention):
    def __init__(self, write: nn.Module, scratch: _Scratch) -> None:
        assert isinstance(write, CanvasAttention)
        super().__init__(write, scratch)
        self._norm_tokens, self._norm_canvas = _Norm(write.ln_kv), _Norm(write.ln_q)
        self._key_value = _stacked(self._paired(write.k_map, scaled=True), _affine(write.v_map))
        self._query = self._output = None
        if isinstance(write.q_map, nn.Linear):
            self._query = _Linear(*self._paired(write.q_map))
            self._output = _Linear(*_affine(write.o_map))

    def __call__(
        self,
        tokens: Tensor,
        canvas: Tensor,
        turns: Tensor,
        canvas_turns: Tensor,
        dtype: torch.dtype,
        *,
        out: Tensor,
    ) -> None:
        """out [B, M, C]: the canvas with what it finds in the tokens; may be the canvas itself."""
        key_value = self._key_value(self._norm_tokens(tokens, dtype))
        key, value = _turn(key_value, turns, num_heads=self._num_heads).chunk(2, dim=-1)
        if _is_large(canvas, dtype):
            for i in range(len(canvas)):
                self._write_large(canvas[i], key[i], value[i], canvas_turns[0], out=out[i])
        else:
            for group in _pieces(canvas):
                query = self._queries(canvas[group], canvas_turns, dtype)
                attended = self._attend(query, key[group], value[group])
                if self._output is not None:
                    attended = self._output(attended)
                torch.add(canvas[group], attended, out=out[group])

    def _queries(self, canvas: Tensor, turns: Tensor, dtype: torch.dtype) -> Tensor:
        normed = self._norm_canvas(canvas, torch.float32)
        if self._query is None:
            return self._turned_canvas(normed, turns).to(dtype)
        return _turn(self._query(normed.to(dtype)), turns, num_heads=self._num_heads)

    def _write_large(
        self, canvas: Tensor, key: Tensor, value: Tensor, turns: Tensor, *, out: Tensor
    ) -> None:
        """For one scene: canvas [M, C], key and value [N, C] -> out [M, C]."""
        keys, values = self._heads(key), self._heads(value)
        for piece in _pieces(canvas):
            query = self._queries(canvas[piece], turns[piece], torch.float32)
            weights = self._scratch("weights", self._num_heads, len(key), len(query))
            torch.bmm(keys, self._heads(query).mT, out=weights)
            torch.softmax(weights, dim=1, out=weights)
            attended = self._scratch("attended", self._num_heads, len(query), values.shape[-1])
            torch.bmm(weights.mT, values, out=attended)
            if self._output is None:
                torch.add(self._heads(canvas[piece]), attended, out=self._heads(out[piece]))
            else:
                found = self._output(attended.transpose(0, 1).flatten(1))
                torch.add(canvas[piece], found, out=out[piece])


def _stacked(*maps: tuple[Tensor, Tensor]) -> _Linear:
    """Maps of the same input, one above the other."""
    weights, biases = zip(*maps, strict=True)
    return _Linear(torch.cat(weights), torch.cat(biases))
