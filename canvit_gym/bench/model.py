"""How fast CanViT takes in a glimpse: `python -m canvit_gym.bench.model`.

The reference implementation (canvit-pytorch), our plain core and our frozen one take turns within
one run, on the same weights and glimpses; only their forward is timed. Ratios are medians over
rounds of one round's times, because a machine's speed drifts between rounds.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn

from canvit_gym.bench.machine import add_arguments, described, machine, write
from canvit_gym.geometry import MINI_GLIMPSE, OFFICIAL_GLIMPSE, GlimpseSpec, random_viewpoint
from canvit_gym.model.canvit import CanViT
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.flops import glimpse_flops
from canvit_gym.model.frozen import FrozenCanViT
from canvit_gym.training.mini import MINI_CONFIG

MODELS: dict[str, tuple[CanViTConfig, GlimpseSpec]] = {
    "CanViT-B": (CanViTConfig(), OFFICIAL_GLIMPSE),
    "mini": (MINI_CONFIG, MINI_GLIMPSE),
}
CANVAS_GRIDS = {"CanViT-B": (16, 32, 64), "mini": (8,)}
REFERENCE, PLAIN, FROZEN = "canvit-pytorch", "plain", "frozen"
COMPILED = {f"{variant} compiled": variant for variant in (REFERENCE, PLAIN)}
"""Forms that torch.compile makes of the first two."""

KINDS = {
    "linear layers": ("mkldnn::_linear_pointwise", "aten::addmm", "aten::mm"),
    "attention's products": (
        "aten::bmm", "aten::baddbmm_", "aten::addmm_",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
    ),
    "softmax": ("aten::_softmax",),
    "LayerNorms": ("aten::native_layer_norm",),
    "rotary embedding": ("aten::complex", "aten::mul_"),
    "copies": ("aten::copy_", "aten::cat"),
}  # fmt: skip
"""Operators of a frozen forward on a CPU, by what they are for."""

_MATRIX_SIDE = 2048
_HEADER = (
    f"{'model':9} {'canvas':>6} {'batch':>5}  {'variant':23} {'glimpses/s':>10} {'ratio':>6} "
    f"{'of limit':>8}  {'difference'}"
)
_ROW = (
    "{model:9} {canvas_grid:6} {batch_size:5}  {variant:23} {glimpses_per_second:10.2f} "
    "{ratio:6.2f} {share_of_limit:8.0%}  {difference:.1e}"
)


# --- What takes turns ----------------------------------------------------------------------------


def reference_version() -> str | None:
    """The version of canvit-pytorch, None where it is not installed."""
    try:
        return metadata.version("canvit-pytorch")
    except metadata.PackageNotFoundError:
        return None


def reference_config(config: CanViTConfig) -> Any:
    """The reference's configuration of the same architecture, which it may not know itself."""
    from canvit_core.backbone import BACKBONES, ViTSpec
    from canvit_pytorch import CanViTConfig as ReferenceConfig

    spec = config.backbone
    cast(dict[str, ViTSpec], BACKBONES).setdefault(  # it knows the published backbones only
        config.backbone_name,
        ViTSpec(
            embed_dim=spec.dim, num_heads=spec.num_heads, num_blocks=spec.num_blocks,
            patch_size=spec.patch_size_px, layerscale_init=spec.layerscale,
        ),
    )  # fmt: skip
    return ReferenceConfig(**asdict(config))


def make_core(
    variant: str,
    config: CanViTConfig,
    *,
    weights: dict[str, Tensor] | None = None,
    device: str = "cpu",
) -> Any:
    """A core network with these weights, or random ones."""
    if COMPILED.get(variant, variant) == REFERENCE:
        from canvit_pytorch import CanViT as Reference

        core: nn.Module = Reference(reference_config(config))
    else:
        core = CanViT(config)
    if weights is not None:
        core.load_state_dict(weights)
    core.eval().to(device)
    if variant in COMPILED:
        core.compile(dynamic=False)
    return FrozenCanViT(core) if isinstance(core, CanViT) and variant == FROZEN else core


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting that is timed: one of MODELS, at a canvas of `canvas_grid` cells a side."""

    model: str
    canvas_grid: int
    batch_size: int

    @property
    def config(self) -> CanViTConfig:
        return MODELS[self.model][0]

    @property
    def flops(self) -> int:
        side = MODELS[self.model][1].glimpse_size_px
        grid = side // self.config.backbone.patch_size_px
        return self.batch_size * glimpse_flops(
            self.config, glimpse_grid=grid, canvas_grid=self.canvas_grid
        )

    def forward_of(self, core: Any, *, device: str, dtype: torch.dtype) -> Callable[[], Any]:
        """A call that takes in the second glimpse of the same scenes, again and again."""
        spec = MODELS[self.model][1]
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch_size, 3, spec.glimpse_size_px, spec.glimpse_size_px)
        glimpse = torch.randn(shape, generator=generator).to(device)
        viewpoint = random_viewpoint(
            batch_size=self.batch_size, min_scale=spec.min_scale, generator=generator
        ).to(device)
        state = core.init_state(batch_size=self.batch_size, canvas_grid_size=self.canvas_grid)

        @torch.inference_mode()
        def forward() -> Any:
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                return core(glimpse=glimpse, state=state, viewpoint=viewpoint)

        state = forward().state
        return forward


# --- Measuring -----------------------------------------------------------------------------------


def take_turns(
    calls: dict[str, Callable[[], Any]],
    *,
    rounds: int,
    block_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a call, for each in each round; every round gives each one block of calls."""
    repeats = {}
    for name, call in calls.items():
        call()  # the first is slow, and compiles where there is something to compile
        started = clock()
        call()
        repeats[name] = max(1, round(block_seconds / max(clock() - started, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = clock()
            for _ in range(repeats[name]):
                call()
            seconds[name].append((clock() - started) / repeats[name])
    return seconds


def measure(
    setting: Setting,
    variants: list[str],
    *,
    device: str,
    dtype: torch.dtype,
    rounds: int,
    block_seconds: float,
    clock: Callable[[], float],
) -> list[dict[str, Any]]:
    """One record a variant. The first is what the others are compared with.

    glimpses_per_second; ratio: how much faster than the first; share_of_limit: of the rate of one
    large matrix product; difference: largest, from the first's new canvas, over its largest value.
    """
    torch.compiler.reset()  # which else would give up compiling after a few settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = make_core(variants[0], setting.config).state_dict()
    cores = {v: make_core(v, setting.config, weights=weights, device=device) for v in variants}
    calls = {v: setting.forward_of(core, device=device, dtype=dtype) for v, core in cores.items()}
    first = calls[variants[0]]().state.canvas
    differences = {v: float((call().state.canvas - first).abs().max()) for v, call in calls.items()}
    scale = float(first.abs().max())

    matrix = torch.randn(_MATRIX_SIDE, _MATRIX_SIDE, device=device, dtype=dtype)
    turns = {"limit": lambda: matrix @ matrix} | calls
    if device != "cpu":
        turns = {name: _finished(call) for name, call in turns.items()}
    seconds = take_turns(turns, rounds=rounds, block_seconds=block_seconds, clock=clock)
    rates = [2 * _MATRIX_SIDE**3 / s for s in seconds["limit"]]
    return [
        asdict(setting)
        | {
            "variant": variant,
            "glimpses_per_second": setting.batch_size / median(seconds[variant]),
            "ratio": median(
                a / b for a, b in zip(seconds[variants[0]], seconds[variant], strict=True)
            ),
            "share_of_limit": median(
                setting.flops / s / rate for s, rate in zip(seconds[variant], rates, strict=True)
            ),
            "limit_gflops": median(rates) / 1e9,
            "difference": differences[variant] / scale,
            "seconds": seconds[variant],
        }
        for variant in variants
    ]


def _finished(call: Callable[[], Any]) -> Callable[[], Any]:
    def finished() -> None:
        call()
        torch.cuda.synchronize()

    return finished


def time_by_kind(setting: Setting) -> dict[str, float]:
    """Shares of a frozen forward's time on a CPU, by what is done in it: KINDS and "rest"."""
    core = make_core(FROZEN, setting.config)
    forward = setting.forward_of(core, device="cpu", dtype=torch.float32)
    forward()
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        for _ in range(3):
            forward()
    seconds = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    whole = sum(seconds.values())
    shares = {
        kind: sum(seconds.get(name, 0) for name in names) / whole for kind, names in KINDS.items()
    }
    return {**shares, "rest": 1 - sum(shares.values())}


def peak_memory_mib(setting: Setting, variant: str) -> float:
    """Memory of this process, once it has taken in two glimpses; to be asked of a fresh process."""
    core = make_core(variant, setting.config)
    setting.forward_of(core, device="cpu", dtype=torch.float32)()
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had when it forked
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def _peak_in_fresh_process(setting: Setting, variant: str) -> float:
    code = f"from canvit_gym.bench.model import *; print(peak_memory_mib({setting!r}, {variant!r}))"
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


# --- Command line --------------------------------------------------------------------------------


def format_table(figures: dict[str, Any]) -> str:
    """One line a setting: glimpses a second of each variant, and how the frozen one compares."""
    records: dict[tuple[str, int, int], dict[str, dict[str, Any]]] = {}
    for record in figures["results"]:
        setting = record["model"], record["canvas_grid"], record["batch_size"]
        records.setdefault(setting, {})[record["variant"]] = record
    variants = list(dict.fromkeys(record["variant"] for record in figures["results"]))
    # "plain compiled" is written over two lines, of which the first may stay empty.
    heads = [variant.split(" ")[::-1] for variant in variants]
    widths = [max(8, *map(len, head)) for head in heads]

    def line(setting: Sequence[Any], cells: Sequence[str], ratio: str, share: str) -> str:
        model, canvas_grid, batch_size = setting
        columns = "  ".join(f"{c:>{width}}" for c, width in zip(cells, widths, strict=True))
        return f"{model:8}  {canvas_grid:>6}  {batch_size:>5}  {columns}  {ratio:>5}  {share:>8}"

    lines = [
        f"{described(figures)}: glimpses/s of one forward",
        f"ratio: {FROZEN} to {variants[0]}; of limit: {FROZEN}'s share of one large matrix "
        "product's rate",
        line(("", "", ""), [" ".join(head[1:]) for head in heads], "", "").rstrip(),
        line(("model", "canvas", "batch"), [head[0] for head in heads], "ratio", "of limit"),
    ]
    for setting, of in records.items():
        frozen = of[FROZEN]
        rates = [f"{of[variant]['glimpses_per_second']:.1f}" for variant in variants]
        lines.append(
            line(setting, rates, f"{frozen['ratio']:.2f}", f"{frozen['share_of_limit']:.0%}")
        )
    if figures["kinds"]:
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in figures["kinds"].items())
        lines += ["", f"a frozen forward of CanViT-B, canvas 32, batch 8: {shares}"]
    if figures["memory"]:
        peaks = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in figures["memory"].items())
        lines += ["", f"peak memory at CanViT-B, canvas 64, batch 8: {peaks}"]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.bench.model", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--canvas", nargs="+", type=int, help="cells a side, instead of the usual")
    parser.add_argument("--batch", nargs="+", type=int, help="batch sizes, instead of the usual")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="least length of a block")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: processor time, for a busy machine; with one thread only",
    )  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="compiled ones, too: minutes")
    parser.add_argument(
        "--kinds", action="store_true", help="what canvas 32, batch 8 spends its time on; CPU only"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory at canvas 64, batch 8")
    add_arguments(parser)
    args = parser.parse_args(argv)
    threads = args.threads or torch.get_num_threads()
    if args.clock == "cpu" and (args.device != "cpu" or threads > 1):
        parser.error("--clock cpu counts the waiting of threads as work; give --threads 1.")
    if args.kinds and args.device != "cpu":
        parser.error("--kinds tells apart what a CPU does; leave it out, or give --device cpu.")
    torch.set_num_threads(threads)

    figures = machine(device=args.device, precision=args.precision)
    figures["canvit-pytorch"] = reference_version()
    print(", ".join(f"{name}: {value}" for name, value in figures.items() if value is not None))
    variants = [PLAIN, FROZEN]
    if reference_version() is None:
        print(
            "canvit-pytorch is not installed, so ratios are to our plain core. To compare with it: "
            "pip install --no-deps canvit-pytorch==0.2.1 canvit-core==0.2.1"
        )
    else:
        variants = [REFERENCE, *variants]
    if args.compile:
        variants += [name for name, source in COMPILED.items() if source in variants]

    figures |= {"memory": {}, "kinds": {}, "results": []}
    if args.memory:  # first, because on Linux a process inherits its parent's peak
        setting = Setting(model="CanViT-B", canvas_grid=64, batch_size=8)
        for variant in variants:
            if variant not in COMPILED:
                peak = figures["memory"][variant] = _peak_in_fresh_process(setting, variant)
                print(f"peak memory, canvas 64, batch 8: {variant} {peak:.0f} MiB")

    if args.kinds:
        setting = Setting(model="CanViT-B", canvas_grid=32, batch_size=8)
        figures["kinds"] = time_by_kind(setting)

    print(_HEADER)
    for model in args.models:
        batches = {"CanViT-B": (1, 8 if args.device == "cpu" else 64), "mini": (1, 64)}[model]
        for canvas_grid in args.canvas or CANVAS_GRIDS[model]:
            for batch_size in args.batch or batches:
                records = measure(
                    Setting(model=model, canvas_grid=canvas_grid, batch_size=batch_size),
                    variants,
                    device=args.device,
                    dtype=getattr(torch, args.precision),
                    rounds=args.rounds,
                    block_seconds=args.seconds,
                    clock=time.process_time if args.clock == "cpu" else time.perf_counter,
                )
                for record in records:
                    print(_ROW.format(**record), flush=True)
                figures["results"] += records
    print(f"\n{format_table(figures)}")
    if args.out:
        write(figures, args.out)


if __name__ == "__main__":
    main()
