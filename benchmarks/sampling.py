"""Sampling: the cached sampler against the oracle, in one run, for each model and batch size.

    python benchmarks/sampling.py                    the table
    python benchmarks/sampling.py --figure out.png   also time against the number of pixels, 8x8 to 64x64
    python benchmarks/sampling.py --device cuda      the table on a GPU: captured steps (a CUDA graph) beside single ones

The oracle's time is that of one full forward pass of the same batch (median of several), times the number of sub-pixels: it
does exactly that, and running it to the end would take hours. `--whole` runs it to the end once, for one image of the
smallest case, and prints how far the product is off. The floor of a sample is the multiplications of the plan over the
machine's measured matrix-multiply rate.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import matmul_rate, median, timed
from raypixel.models import PixelModel, build_model, validate_model_config
from raypixel.sampling import Image, cached, image_seeds, sample
from raypixel.sampling.cached import Implementation

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
PIXELCNN = {"kind": "pixelcnn", "hidden_size": 32, "num_layers": 15}
LSTM = {"kind": "diagonal_bilstm", "hidden_size": 16, "num_layers": 4}
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int], int, tuple[int, ...]]] = {
    "pixelcnn h=32 x15": (PIXELCNN, MNIST, 2, (1, 16, 64)),
    "gated_pixelcnn p=32 x15": ({**PIXELCNN, "kind": "gated_pixelcnn"}, MNIST, 2, (1, 16, 64)),
    "row_lstm h=16 x4": ({**LSTM, "kind": "row_lstm"}, MNIST, 2, (1, 64)),
    "diagonal_bilstm h=16 x4": (LSTM, MNIST, 2, (1, 64)),
    "multiscale h=16 x4": ({"kind": "multiscale", "base": LSTM, "conditional": LSTM}, MNIST, 2, (1, 64)),
    "pixelcnn_pp 24x2, 0.5M": (
        {"kind": "pixelcnn_pp", "hidden_size": 24, "num_layers": 2}, MNIST, 2, (1, 16),
    ),
    "pixelsnail 48x2x6, 0.5M": (
        {"kind": "pixelsnail", "hidden_size": 48, "num_layers": 2, "num_blocks": 6}, MNIST, 2, (1, 16),
    ),
    "pixelcnn_pp 53M, RGB": (
        {"kind": "pixelcnn_pp", "hidden_size": 160, "num_layers": 5}, CIFAR, 256, (16,),
    ),
    "pixelsnail 46M, RGB": (
        {
            "kind": "pixelsnail", "hidden_size": 256, "num_layers": 4, "num_blocks": 12,
            "value_size": 128,
        }, CIFAR, 256, (16,),
    ),
    "pixelcnn h=128 x15, RGB": (
        {**PIXELCNN, "hidden_size": 128, "output_size": 1024}, CIFAR, 256, (1, 16),
    ),
}  # fmt: skip
IMPLEMENTATIONS: dict[str, tuple[Implementation, Implementation]] = {
    "cpu": ("compiled", "interpreter"),
    "cuda": ("cuda_graph", "interpreter"),
}


def make(
    options: dict[str, Any],
    image_shape: tuple[int, int, int],
    num_levels: int,
    device: str = "cpu",
) -> PixelModel:
    """Build an untrained model in evaluation mode."""
    torch.manual_seed(0)
    config = validate_model_config(options)
    model = build_model(config, image_shape=image_shape, num_levels=num_levels)
    return model.to(device).eval()


@torch.no_grad()
def oracle_seconds(model: PixelModel, image_shape: tuple[int, int, int], count: int) -> float:
    """Return one forward pass's time for each sub-pixel."""
    device = next(model.parameters()).device
    x = torch.zeros(count, *image_shape, dtype=torch.uint8, device=device)

    def forward() -> None:
        model(x)
        if x.is_cuda:
            torch.cuda.synchronize()

    forward()
    return median([timed(forward) for _ in range(3)]) * x[0].numel()


def cached_seconds(
    model: PixelModel, count: int, implementation: Implementation | None, *, rounds: int
) -> float:
    """Return the time of a batch; compilation and the plan are made before."""
    images = [Image(seed) for seed in image_seeds(0, count)]
    cached.draw(model, images[:1], implementation=implementation)
    return median(
        [
            timed(lambda: cached.draw(model, images, implementation=implementation))
            for _ in range(rounds)
        ]
    )


def floor_seconds(model: PixelModel, rate: float) -> float:
    """Return the time that an image's multiplications take at the machine's matrix-multiply rate."""
    products = sum(
        stage.plan.num_products() * stage.height * stage.plan.width for stage in model.stages()
    )
    return 2 * products / rate


def table(rounds: int, device: str) -> None:
    """Print seconds and ratios."""
    rate = matmul_rate(torch.float32, device=device)
    fast, plain = IMPLEMENTATIONS[device]
    where = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"{where}, matrix products {rate / 1e9:.0f} GFLOP/s")
    print(
        f"{'model':26} {'n':>3} {'oracle':>9} {fast:>11} {plain:>11} {'ratio':>6} {'of floor':>8}"
    )
    for name, (options, image_shape, num_levels, counts) in CASES.items():
        model = make(options, image_shape, num_levels, device)
        for count in counts:
            oracle = oracle_seconds(model, image_shape, count)
            first, second = (
                cached_seconds(model, count, each, rounds=rounds) for each in (fast, plain)
            )
            floor = floor_seconds(model, rate) * count
            print(
                f"{name:26} {count:3} {oracle:8.1f}s {first:10.3f}s {second:10.3f}s "
                f"{oracle / first:6.0f} {first / floor:7.1f}x",
                flush=True,
            )


def whole() -> None:
    """Run the oracle to the end once and compare it with the product."""
    model = make({**PIXELCNN, "num_layers": 4}, (1, 16, 16), 2)
    expected = oracle_seconds(model, (1, 16, 16), 1)
    started = time.perf_counter()
    x = sample(model, image_seeds(0, 1), sampler="oracle")
    found = time.perf_counter() - started
    same = torch.equal(x, sample(model, image_seeds(0, 1)))
    print(
        f"oracle to the end {found:.2f} s, forward pass x sub-pixels {expected:.2f} s, same image: {same}"
    )


def figure(path: Path) -> None:
    """Draw the time of one image against its number of pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sides = (8, 16, 32, 64)
    picture = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(picture)
    axis = picture.subplots()
    for color, (name, (options, _, _, _)) in enumerate(list(CASES.items())[:5]):
        fast, oracle = [], []
        for side in sides:
            model = make(options, (1, side, side), 2)
            fast.append(cached_seconds(model, 1, None, rounds=3))
            oracle.append(oracle_seconds(model, (1, side, side), 1))
            pixels = side * side
            print(
                f"{name:26} {side:2}x{side:<2} cached {fast[-1]:7.3f} s "
                f"({1e6 * fast[-1] / pixels:5.1f} us a pixel), oracle {oracle[-1]:8.1f} s",
                flush=True,
            )
        pixels_of = [side * side for side in sides]
        axis.loglog(pixels_of, fast, f"C{color}o-", label=f"{name}, cached")
        axis.loglog(pixels_of, oracle, f"C{color}s--", label=f"{name}, oracle")
    axis.set(xlabel="pixels", ylabel="seconds for one image", xticks=[s * s for s in sides])
    axis.set_xticklabels([f"{side}x{side}" for side in sides])
    axis.minorticks_off()
    axis.legend(fontsize=7)
    picture.savefig(path, dpi=120)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=list(IMPLEMENTATIONS), default="cpu")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    table(arguments.rounds, arguments.device)
    if arguments.whole:
        whole()
    if arguments.figure:
        figure(arguments.figure)


if __name__ == "__main__":
    main()
