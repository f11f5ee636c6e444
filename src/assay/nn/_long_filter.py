"""Long convolution kernels: one that a small network makes of the position, one that is a table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from assay._errors import InputError


class ImplicitFilter(nn.Module):
    """`forward(length)`: (channels, length). `h_t = mlp(features(t)) exp(-rate t / max_length)` for each channel.

    features(t): t / max_length, and cos and sin of `2 pi f t / max_length` for 16 frequencies f from 1e-4 to 15. The
    network has three hidden layers of 64 with the activation `sin(w x)`, w learned for each unit and 14 at first. Rates
    go from `ln(100) / 1.5` to `ln(100) / 0.3` over the channels: the window has fallen to 0.01 at 1.5 and at 0.3 times
    `max_length`. Positions beyond `max_length` are allowed.
    Source: Poli et al. 2023 (arXiv 2302.10866), section 3.3, with the sizes of the authors' models of the Pile;
    activation of Sitzmann et al. 2020 (arXiv 2006.09661).
    """

    bands, width = 16, 64

    def __init__(self, channels: int, *, max_length: int) -> None:
        super().__init__()
        if max_length < 1:
            raise InputError(f"max_length is {max_length}; expected at least 1")
        self.max_length = max_length
        self.mlp: nn.Module = SineMLP(2 * self.bands + 1, self.width, channels)
        self.rate: Tensor
        self.register_buffer("rate", math.log(100) / torch.linspace(1.5, 0.3, channels))

    def forward(self, length: int) -> Tensor:
        time = torch.arange(length, device=self.rate.device, dtype=self.rate.dtype)[:, None] / self.max_length
        frequency = torch.linspace(1e-4, self.bands - 1, self.bands, device=time.device, dtype=time.dtype)
        angle = 2 * math.pi * frequency * time
        with torch.autocast(time.device.type, enabled=False):  # angles of 14 and more need more than 8 bits
            h = self.mlp(torch.cat([time, angle.cos(), angle.sin()], dim=-1))
        return (h * torch.exp(-self.rate * time)).mT


class SineMLP(nn.Module):
    """Three hidden layers with one `Sine` for all of them: each weight has one name, or it could not be saved."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(size, width) for size in (inputs, width, width))
        self.sine = Sine(width)
        self.last = nn.Linear(width, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = self.sine(layer(x))
        return self.last(x)


class Sine(nn.Module):
    """`sin(w x)`, w learned for each feature."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.full((features,), 14.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


class ExplicitFilter(nn.Module):
    """`forward(length)`: (channels, length), the first entries of a table, 0 behind its end.

    Initialised to noise under an exponential window, of norm 1 for each channel; the windows fall to 1/e after 1 to
    `max_length` steps, spread evenly in the logarithm. Source of the decay: Fu et al. 2023 (arXiv 2302.06646).
    """

    def __init__(self, channels: int, *, max_length: int) -> None:
        super().__init__()
        if max_length < 1:
            raise InputError(f"max_length is {max_length}; expected at least 1")
        reach = torch.logspace(0, math.log10(max_length), channels)[:, None]
        kernel = torch.randn(channels, max_length) * torch.exp(-torch.arange(max_length) / reach)
        self.kernel = nn.Parameter(kernel / kernel.norm(dim=-1, keepdim=True))

    def forward(self, length: int) -> Tensor:
        return nn.functional.pad(self.kernel[:, :length], (0, max(0, length - self.kernel.shape[-1])))
