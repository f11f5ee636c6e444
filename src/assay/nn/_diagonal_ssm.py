"""Time-invariant diagonal state spaces, one for each channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.nn._scan import at_least_float32


class DiagonalStateSpace(nn.Module):
    """`h' = A h + u, y = Re(C h) + D u` sampled with step dt (zero-order hold): a state of N real numbers a channel.

    - `init="lin"`: N / 2 conjugate pairs, `A_n = -1/2 + i pi n` (S4D-Lin); C of a pair is drawn from N(0, 1), complex.
    - `init="real"`: N real modes, `A_n = -(n + 1)` (S4D-Real).

    dt is log-uniform in [0.001, 0.1]; D is drawn from N(0, 1). All of them learn; Re A = -exp(.) stays negative.
    Source: Gu et al. 2022 (arXiv 2206.11893), sections 3 and 4 and appendix A.
    """

    def __init__(self, channels: int, *, state_size: int, init: str) -> None:
        super().__init__()
        if init not in ("lin", "real"):
            raise InputError(f'init is {init!r}; expected "lin" or "real"')
        if state_size < 1 or (init == "lin" and state_size % 2):
            raise InputError(f"state_size is {state_size}; expected at least 1, and even for conjugate pairs")
        modes = state_size // 2 if init == "lin" else state_size
        n = torch.arange(modes)
        self.log_dt = nn.Parameter(torch.empty(channels).uniform_(math.log(1e-3), math.log(1e-1)))
        rate = torch.full((modes,), 0.5) if init == "lin" else n + 1.0
        self.log_rate = nn.Parameter(rate.log().repeat(channels, 1))
        self.frequency = nn.Parameter(math.pi * n.repeat(channels, 1)) if init == "lin" else None
        self.C = nn.Parameter(
            torch.randn(channels, modes, 2) / math.sqrt(2) if init == "lin" else torch.randn(channels, modes)
        )
        self.D = nn.Parameter(torch.randn(channels))

    def modes(self) -> tuple[Tensor, Tensor]:
        """z and c with `h_t = exp(z) h_{t-1} + u_t, y_t = Re(sum c h_t) + D u_t`: (channels, modes) each, complex for
        pairs (then c has the factor 2 of the conjugate mode)."""
        dt, rate = at_least_float32(self.log_dt).exp()[:, None], -at_least_float32(self.log_rate).exp()
        C = at_least_float32(self.C)
        if self.frequency is None:
            z = rate * dt
            return z, C * torch.expm1(z) / rate  # zero-order hold: (exp(dt A) - 1) / A
        frequency = at_least_float32(self.frequency)
        A = torch.complex(rate, frequency)
        a, b = rate * dt, frequency * dt
        hold = torch.complex(torch.expm1(a) * b.cos() - 2 * torch.sin(b / 2).square(), a.exp() * b.sin())
        return torch.complex(a, b), 2 * torch.view_as_complex(C) * hold / A

    def kernel(self, length: int) -> Tensor:
        """`h_t = Re(sum_n c_n exp(z_n t))`, (channels, length), and D at 0.

        t = g s + r, so that two small Vandermonde matrices and a product make it: O(sqrt(L)) exponentials a mode and no
        (channels, modes, L) tensor.
        """
        z, c = self.modes()
        stride = math.isqrt(length - 1) + 1
        small = torch.exp(z[..., None] * torch.arange(stride, device=z.device))
        large = torch.exp(z[..., None] * torch.arange(0, length, stride, device=z.device))
        kernel = ((c[..., None] * large).mT @ small).flatten(1)[:, :length]
        kernel = kernel if self.frequency is None else kernel.real
        return torch.cat([kernel[:, :1] + self.D[:, None], kernel[:, 1:]], dim=-1)

    def realisation(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, B, C without complex numbers: (channels, K, 2, 2) for pairs, else (channels, N); (channels, N) twice."""
        z, c = self.modes()
        if self.frequency is None:
            return z.exp(), torch.ones_like(z), c
        a = z.exp()
        A = torch.stack([torch.stack([a.real, -a.imag], -1), torch.stack([a.imag, a.real], -1)], -2)
        B = torch.stack([torch.ones_like(a.real), torch.zeros_like(a.real)], -1)
        return A, B.flatten(1), torch.stack([c.real, -c.imag], -1).flatten(1)

    def step(self, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, channels) and the modes' states (B, channels, modes) -> the output and the new states."""
        z, c = self.modes()
        state = u[..., None] + (0 if state is None else z.exp() * state)
        y = (c * state).sum(-1)
        return (y if self.frequency is None else y.real) + self.D * u, state
