"""Shifted convolutions, the gated residual layer and causal attention against loops and plain formulas, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from raypixel.nn.attention import causal_attention
from raypixel.nn.gated_residual import GatedResidual
from raypixel.nn.shifted import ShiftedConv2d, ShiftedUpsampling, initialize


def random_layer(layer):
    generator = torch.Generator().manual_seed(0)
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    return layer


def random_map(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def plain_weight(layer) -> torch.Tensor:
    """gain * direction / |direction|, output by output."""
    return torch.stack(
        [
            gain * v / v.square().sum().sqrt()
            for gain, v in zip(layer.gain, layer.direction, strict=True)
        ]
    )


@pytest.mark.parametrize(("stride", "shift"), [(1, (0, 0)), (1, (1, 0)), (1, (0, 1)), (2, (0, 0))])
@pytest.mark.parametrize(
    ("kernel_size", "is_centered"),
    [((2, 3), True), ((1, 3), True), ((2, 2), False), ((2, 1), False), ((1, 1), False)],
)
def test_a_shifted_convolution_is_the_sum_over_its_kernel(kernel_size, is_centered, stride, shift):
    layer = random_layer(
        ShiftedConv2d(2, 3, kernel_size, is_centered=is_centered, stride=stride, shift=shift)
    )
    x, weight = random_map(1, 2, 5, 7), plain_weight(layer)
    height, width = -(-5 // stride), -(-7 // stride)
    expected = torch.zeros(1, 3, height, width, dtype=torch.float64)
    rows, columns = kernel_size
    left = columns // 2 if is_centered else columns - 1
    for i in range(height):
        for j in range(width):
            down, right = i * stride - shift[0], j * stride - shift[1]
            if down < 0 or right < 0:
                continue  # zeros come in, without a bias
            expected[0, :, i, j] = layer.bias
            for k in range(rows):
                for m in range(columns):
                    r, c = down - (rows - 1 - k), right - left + m
                    if 0 <= r < 5 and 0 <= c < 7:
                        expected[0, :, i, j] += weight[:, :, k, m] @ x[0, :, r, c]
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7), (1, 1)])
@pytest.mark.parametrize("is_centered", [True, False])
def test_an_upsampling_writes_each_cell_through_its_kernel_and_is_cut(is_centered, height, width):
    layer = random_layer(ShiftedUpsampling(3, is_centered=is_centered))
    x, weight = random_map(2, 3, -(-height // 2), -(-width // 2)), plain_weight(layer)
    expected = torch.zeros(2, 3, height, width, dtype=torch.float64)
    expected += layer.bias[:, None, None]
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            for k in range(weight.shape[2]):
                for m in range(weight.shape[3]):
                    r, c = 2 * i + k, 2 * j + m - is_centered
                    if r < height and 0 <= c < width:
                        expected[:, :, r, c] += x[:, :, i, j] @ weight[:, :, k, m].t()
    assert torch.allclose(layer(x, height=height, width=width), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("elu_width", [1, 2])
def test_a_gated_residual_layer_is_the_published_formula(elu_width):
    layer = random_layer(
        GatedResidual(4, (2, 2), elu_width=elu_width, joined_channels=6, num_classes=3)
    )
    x, joined, labels = random_map(2, 4, 3, 5), random_map(2, 6, 3, 5), torch.tensor([2, 0])

    def active(maps):
        return F.elu(torch.cat([maps, -maps], 1) if elu_width == 2 else maps)

    def convolved(convolution, maps):
        maps = F.pad(maps, (1, 0, 1, 0)) if convolution.direction.shape[2] == 2 else maps
        return F.conv2d(maps, plain_weight(convolution), convolution.bias)

    c = convolved(layer.first, active(x)) + convolved(layer.join, active(joined))
    maps = convolved(layer.second, active(c)) + layer.classes.weight[labels][:, :, None, None]
    expected = x + maps[:, :4] * torch.sigmoid(maps[:, 4:])
    assert torch.allclose(layer(x, joined, labels), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_rows", [None, 0, 1])
@pytest.mark.parametrize("num_heads", [1, 2])
def test_attention_is_the_mean_over_earlier_positions_and_zero_at_the_first(num_heads, num_rows):
    height, width = 3, 4
    query, keys, values = random_map(2, 6, 3, 4), 2 * random_map(2, 6, 3, 4), random_map(2, 8, 3, 4)
    found = causal_attention(query, keys, values, num_heads=num_heads, num_rows=num_rows)
    q, v = 6 // num_heads, 8 // num_heads
    for position in range(height * width):
        i, j = divmod(position, width)
        earlier = [divmod(other, width) for other in range(position)]
        earlier = [(r, c) for r, c in earlier if num_rows is None or i - r <= num_rows]
        for head in range(num_heads):
            asked = query[:, head * q : (head + 1) * q, i, j]
            total, mixed = 0.0, torch.zeros(2, v, dtype=torch.float64)
            for r, c in earlier:
                score = (asked * keys[:, head * q : (head + 1) * q, r, c]).sum(1) / math.sqrt(q)
                total = total + score.exp()
                mixed += score.exp()[:, None] * values[:, head * v : (head + 1) * v, r, c]
            expected = mixed / total[:, None] if earlier else mixed
            own = found[:, head * v : (head + 1) * v, i, j]
            assert torch.allclose(own, expected, rtol=0, atol=1e-12)


def test_data_initialize_untrained_layers_and_no_others():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        ShiftedConv2d(3, 5, (2, 3), is_centered=True, init_scale=0.1), ShiftedConv2d(5, 2)
    ).double()
    x = 3 * random_map(8, 3, 6, 6) + 1
    initialize(network, lambda: network(x), lambda sums: sums)
    first, second = network[0](x), network(x)
    for maps, scale in ((first, 0.1), (second, 1.0)):
        assert maps.mean((0, 2, 3)).abs().max() < 1e-9
        assert torch.allclose(
            maps.std((0, 2, 3), correction=0),
            torch.full((maps.shape[1],), scale).double(),
            rtol=1e-6,
        )
    before = [parameter.clone() for parameter in network.parameters()]
    initialize(network, lambda: network(-x), lambda sums: sums)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_shares_of_a_batch_initialize_as_the_whole_does():
    """Sums of both halves are what the whole has: halves in turn, each waiting for the other's sums."""
    torch.manual_seed(0)
    layer, x = ShiftedConv2d(3, 5).double(), random_map(8, 3, 6, 6)
    weight = layer.direction.detach().clone()
    shares: list[torch.Tensor] = []
    for part in (x[:3], x[3:]):
        half = ShiftedConv2d(3, 5).double()
        half.direction.data.copy_(weight)
        initialize(half, lambda part=part, half=half: half(part), lambda s: shares.append(s) or s)
    initialize(layer, lambda: layer(x[:3]), lambda sums: sums - sums + shares[0] + shares[1])
    whole = ShiftedConv2d(3, 5).double()
    whole.direction.data.copy_(weight)
    initialize(whole, lambda: whole(x), lambda sums: sums)
    assert torch.allclose(layer.gain, whole.gain, rtol=1e-9)
    assert torch.allclose(layer.bias, whole.bias, rtol=0, atol=1e-9)
