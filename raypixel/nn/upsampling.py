"""The deconvolution network of Multi-scale PixelRNN: a small image to maps as large as the full one.

Reference: van den Oord et al. 2016a, sec. 3.6. The paper gives neither its depth nor its widths.
"""

import itertools

from torch import Tensor, nn

from raypixel.nn.dropout import Dropout


class UpsamplingNet(nn.Module):
    """Run 3x3 convolutions with ReLU on the small image, then one transposed convolution to the full size.

    The transposed kernel covers exactly a cell of factor x factor pixels and its eight neighbours: a pixel of the
    result depends on the small image within `num_layers` cells of its own cell.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden_size: int,
        num_layers: int,
        dropout: float = 0.0,
        factor: int,
    ) -> None:
        """Make the network.

        Args:
            in_channels: Channels of the small image.
            out_channels: Channels c of the result.
            hidden_size: Maps between the layers.
            num_layers: Layers, the transposed one included.
            dropout: Probability with which training sets a feature between the layers to zero.
            factor: Pixels of the full image per pixel of the small one, in each direction.
        """
        super().__init__()
        self.num_layers = num_layers
        self.factor = factor
        widths = [in_channels] + [hidden_size] * (num_layers - 1)
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            between = nn.Sequential(nn.ReLU(), Dropout(dropout))
            layers += [nn.Conv2d(narrow, wide, 3, padding=1), between]
        layers.append(
            nn.ConvTranspose2d(widths[-1], out_channels, 3 * factor, stride=factor, padding=factor)
        )
        self.layers = nn.Sequential(*layers)

    def forward(self, small: Tensor, *, height: int, width: int) -> Tensor:
        """Map (N, C, ceil(H / factor), ceil(W / factor)) to (N, c, H, W)."""
        maps: Tensor = self.layers(small)
        return maps[..., :height, :width]


def subsample(x: Tensor, factor: int) -> Tensor:
    """Keep the pixels whose row and column are multiples of the factor, from the top left one on."""
    return x[..., ::factor, ::factor]
