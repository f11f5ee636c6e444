"""The matrix-free form: the local linearisation of a module, known only by what it does to vectors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.operators._operator import SequenceOperator, check_finite, check_positions
from assay.operators._products import Products
from assay.operators._range_finder import randomised_singular_values
from assay.operators._spectrum import in_parallel, singular_values

WHOLE = 2048  # up to this L * max(D, E), J is formed once for all positions
ENTRIES = 2**20  # of inputs or outputs that go through the module at a time


class JacobianOperator(SequenceOperator):
    """`J = d f(x) / d x` for a causal f from (B, L, D) to (B, L, E): what f does to small changes of x.

    Nothing but products is ever asked of f: `J v` by forward mode (where an operation has no forward derivative, by two
    reverse ones), `J^T w` by reverse mode. To go through many vectors at a time, x is repeated along the batch, so f
    sees other batch sizes than that of x. For a linear f, J is f. D and E are channels that J mixes with each other.

    Args:
        module: f. Of a tuple (`nn.LSTM`, layers of transformers) the first entry counts. It is used as it is, with its
            parameters untouched: call `eval()` before, since f must be the same at each call.
        x: (..., L, D), where f is linearised; leading dimensions are samples, which f must not mix.
        rank: singular values of a block are exact where its smaller side is at most this; otherwise at most this many
            are sought.
        tolerance: the search ends when no singular value is off by more than this, relative to the largest.
        seed: of the random directions.

    `D = E = 1` is an operator like any other; with more channels it cannot be added, composed or realised: linearise
    `nn.Sequential(f, g)` instead of composing. Memory: O(rank L max(D, E)) besides what f takes.
    Raises `InputError` for shapes that disagree, entries that are not finite, an f that gives different outputs for
    the same input, mixes samples, or is not causal: its derivatives are probed with random vectors at 8 positions.

    >>> f = lambda x: x.cumsum(-2)
    >>> JacobianOperator(f, torch.zeros(3, 1)).to_dense()
    tensor([[1., 0., 0.],
            [1., 1., 0.],
            [1., 1., 1.]])
    """

    def __init__(
        self,
        module: Callable[[Tensor], Any],
        x: Tensor,
        *,
        rank: int = 512,
        tolerance: float = 1e-3,
        seed: int = 0,
    ) -> None:
        if x.ndim < 2 or x.numel() == 0 or not x.is_floating_point():
            raise InputError(f"x has shape {tuple(x.shape)} and dtype {x.dtype}; expected (..., L, D), floating")
        if rank < 1:
            raise InputError(f"rank is {rank}; expected 1 or more")
        if not tolerance > 0:
            raise InputError(f"tolerance is {tolerance}; expected a number above 0, such as 1e-3")
        check_finite(x=x)
        self.x = x.detach()
        self._products = Products(module)
        self.rank, self.tolerance, self.seed = rank, tolerance, seed
        self._start, self._stop = 0, x.shape[-2]
        output = self._check_output()
        self._width = output.shape[-1]
        self._check_derivatives(output)

    @property
    def batch_shape(self) -> torch.Size:
        return self.x.shape[:-2]

    @property
    def length(self) -> int:
        return self._stop - self._start

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def inputs(self) -> int:
        """D."""
        return self.x.shape[-1]

    @property
    def outputs(self) -> int:
        """E."""
        return self._width

    @property
    def channels(self) -> int:
        """max(D, E)."""
        return max(self.inputs, self.outputs)

    def apply(self, values: Tensor) -> Tensor:
        """`J v`: (..., L, D) -> (..., L, E). Where D = E = 1, (..., L, C) -> (..., L, C). One forward product."""
        if self.channels == 1:  # each of the C channels is a vector of its own
            columns = self._over_samples(values, values.shape[-1]).movedim(-1, 0)[..., None]
            found = self._push(columns)[..., 0].movedim(0, -1)
        else:
            found = self._push(self._over_samples(values, self.inputs)[None])[0]
        return self._as_given(found, values)

    def apply_transpose(self, values: Tensor) -> Tensor:
        """`J^T w`: (..., L, E) -> (..., L, D). One reverse product."""
        return self._as_given(self._pull(self._over_samples(values, self.outputs)[None])[0], values)

    def _over_samples(self, values: Tensor, channels: int) -> Tensor:
        """(..., L, channels) with one batch dimension, in the dtype of x."""
        shape = (*self.batch_shape, self.length, channels)
        try:
            return values.expand(shape).reshape(-1, self.length, channels).to(self.dtype)
        except RuntimeError:
            raise InputError(f"values has shape {tuple(values.shape)}; expected {shape}") from None

    def _as_given(self, found: Tensor, values: Tensor) -> Tensor:
        found = found.reshape(*self.batch_shape, *found.shape[1:])
        return found.to(torch.promote_types(self.dtype, values.dtype))

    def to_dense(self) -> Tensor:
        """J itself, (..., L E, L D), channels within positions; T, (..., L, L), where D = E = 1.

        L min(D, E) products; only sensible when it is small.
        """
        if self.outputs <= self.inputs:
            J = self._of_units(self._pull, self.outputs, 0, self.length * self.outputs).movedim(0, -2)
        else:
            J = self._of_units(self._push, self.inputs, 0, self.length * self.inputs).movedim(0, -1)
        return J.reshape(*self.batch_shape, *J.shape[1:])

    def state_size(self, positions: Sequence[int]) -> Tensor:
        """i D: all inputs before i, kept."""
        return torch.tensor(check_positions(positions, self.length)) * self.inputs

    def hankel_singular_values(self, positions: Sequence[int]) -> Tensor:
        """Those of `J[i E:, :i D]`, from products in the module's precision; see `hankel_spectrum`.

        Warns where `tolerance` was not reached with `rank` singular values.
        """
        sigma, error = self.hankel_spectrum(positions)
        if bool((error > self.tolerance * sigma[..., 0]).any()):
            worst = float((error / sigma[..., 0].clamp(min=1e-300)).max())
            warnings.warn(
                f"{self.rank} singular values leave an error of {worst:.2g} of the largest, not {self.tolerance:.2g}; "
                "raise rank or tolerance of the JacobianOperator",
                stacklevel=2,
            )
        return sigma

    @torch.no_grad()
    def hankel_spectrum(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Singular values of `J[i E:, :i D]`, (..., P, r), and their error, (..., P), float64.

        None of the true ones lies below the one given or above it by more than the error, those left out included.
        Exact (error 0) where L max(D, E) <= 2048, with L min(D, E) products for all positions, and where the block's
        smaller side is at most `rank`, with as many products for each. Otherwise a random range finder widens until
        its error is small enough: about 4 k + 64 products for k singular values; the error is then an estimate
        (too small once in a million searches or so): see `randomised_singular_values`.
        Source: Halko, Martinsson & Tropp 2011.
        """
        positions = check_positions(positions, self.length)
        found = [pair for x in self._samples().split(1) for pair in self._like(x=x)._spectra(positions)]
        size = max((len(sigma) for sigma, _ in found), default=1)
        padded = [torch.nn.functional.pad(sigma, (0, size - len(sigma))) for sigma, _ in found]
        sigma = torch.stack(padded) if found else self.x.new_zeros(0, size, dtype=torch.float64)
        error = torch.tensor([error for _, error in found], dtype=torch.float64, device=sigma.device)
        shape = (*self.batch_shape, len(positions))
        return sigma.reshape(*shape, size), error.reshape(shape)

    def _spectra(self, positions: list[int]) -> list[tuple[Tensor, float]]:
        """For one sample."""
        if self.length * self.channels > WHOLE:
            return [self._spectrum(i) for i in positions]
        J = self.to_dense()[0]
        blocks = [J[i * self.outputs :, : i * self.inputs] for i in positions]
        return [(sigma, 0.0) for sigma in in_parallel(singular_values, blocks, device=J.device)]

    def _spectrum(self, i: int) -> tuple[Tensor, float]:
        first_output, last_input = i * self.outputs, i * self.inputs
        if min(last_input, self.length * self.outputs - first_output) <= self.rank:
            if last_input <= self.length * self.outputs - first_output:
                H = self._of_units(self._push, self.inputs, 0, last_input)[:, 0, first_output:]
            else:
                H = self._of_units(self._pull, self.outputs, first_output, self.length * self.outputs)
                H = H[:, 0, :last_input]
            return singular_values(H), 0.0

        def push(v: Tensor) -> Tensor:
            v = nn.functional.pad(v, (0, self.length * self.inputs - last_input))
            return self._push(self._vectors(v, self.inputs)).flatten(1)[:, first_output:].double()

        def pull(w: Tensor) -> Tensor:
            w = nn.functional.pad(w, (first_output, 0))
            return self._pull(self._vectors(w, self.outputs)).flatten(1)[:, :last_input].double()

        generator = torch.Generator().manual_seed(self.seed + i)
        return randomised_singular_values(
            push, pull, last_input, rank=self.rank, tolerance=self.tolerance, generator=generator
        )

    def _vectors(self, rows: Tensor, width: int) -> Tensor:
        """(K, L * width) -> (K, 1, L, width), for one sample."""
        return rows.to(self.x).reshape(len(rows), 1, self.length, width)

    def window(self, start: int, stop: int) -> JacobianOperator:
        """What outputs between start and stop owe to inputs there, the inputs before still being what they are in x."""
        if not 0 <= start < stop <= self.length:
            raise InputError(f"window is {start} to {stop}; expected it to lie within 0 to {self.length}")
        return self._like(_start=self._start + start, _stop=self._start + stop)

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> JacobianOperator:
        return self._like(x=self.x[index])

    def double(self) -> JacobianOperator:
        """A float64 copy of the module, linearised at the same x. A plain function is given float64 as it is."""
        module = self._products.module
        with torch.inference_mode(False):  # which would leave the copy without derivatives
            if isinstance(module, nn.Module):
                module = copy.deepcopy(module).double()
            x = self.x.double()
            operator = JacobianOperator(module, x, rank=self.rank, tolerance=self.tolerance, seed=self.seed)
        return operator.window(self._start, self._stop)

    def _like(self, **changes: Any) -> JacobianOperator:
        operator = copy.copy(self)  # a part of what was checked already
        operator.__dict__.update(changes)
        return operator

    # Products with K vectors at a time: (K, B, l, D) and (K, B, l, E), B samples, l the length of the window.

    def _push(self, tangents: Tensor) -> Tensor:
        return self._in_chunks(self._products.forward, tangents)

    def _pull(self, cotangents: Tensor) -> Tensor:
        return self._in_chunks(self._products.reverse, cotangents)

    def _in_chunks(self, product: Callable[[Tensor, Tensor], Tensor], vectors: Tensor) -> Tensor:
        parts = []
        for part in vectors.split(self._copies()):
            whole = nn.functional.pad(part, (0, 0, self._start, self.x.shape[-2] - self._stop)).flatten(0, 1)
            found = product(self._samples().repeat(len(part), 1, 1), whole)
            parts.append(found[:, self._start : self._stop].unflatten(0, part.shape[:2]))
        return torch.cat(parts)

    def _copies(self) -> int:
        """Of x that go through the module together."""
        return max(1, ENTRIES // (self.x.numel() // self.inputs * self.channels))

    def _samples(self) -> Tensor:
        return self.x.reshape(-1, *self.x.shape[-2:])

    def _of_units(self, product: Callable[[Tensor], Tensor], width: int, start: int, stop: int) -> Tensor:
        """Products with the unit vectors start .. stop - 1 among the l * width: (stop - start, B, l * other width)."""
        parts = []
        for index in torch.arange(start, stop, device=self.x.device).split(self._copies()):
            units = self.x.new_zeros(len(index), self.length * width).scatter_(1, index[:, None], 1)
            units = units.reshape(-1, 1, self.length, width)
            parts.append(product(units.expand(-1, len(self._samples()), -1, -1)).flatten(2))
        return torch.cat(parts)

    def _check_output(self) -> Tensor:
        x = self._samples()
        output = self._products.output(x)
        if not isinstance(output, Tensor) or output.ndim != 3 or output.shape[:2] != x.shape[:2]:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(f"module made {shape} of x {tuple(x.shape)}; expected {tuple(x.shape[:2])} and E channels")
        if not torch.isfinite(output).all():
            raise InputError("module gave NaN or infinite outputs; expected finite numbers")
        return output

    def _check_derivatives(self, output: Tensor) -> None:
        """Random cotangents on outputs before i, and on some of the samples, must not reach the other inputs."""
        generator = torch.Generator().manual_seed(self.seed)
        (samples, length), eps = output.shape[:2], torch.finfo(self.dtype).eps
        again = self._products.output(self._samples())
        if (again - output).norm() > min(1e-2, 1e4 * eps) * output.norm():
            raise InputError("module gives different outputs for the same input; call module.eval() first")
        where = torch.randperm(length - 1, generator=generator)[:8] + 1
        later = torch.arange(length) >= where[:, None]
        odd = (torch.arange(samples) % 2 == 1)[:, None].expand(-1, length)
        unseen = torch.cat([later[:, None].expand(-1, samples, -1), odd[None], ~odd[None]]).to(output.device)
        norms = []
        for hidden in unseen[..., None].split(self._copies()):
            w = torch.randn(len(hidden), *output.shape, generator=generator).to(output)
            gradient = self._pull(w.masked_fill(hidden, 0)).double()
            norms.append(torch.stack([(gradient * part).flatten(1).norm(dim=-1) for part in (hidden, ~hidden)]))
        leak, size = torch.cat(norms, dim=-1)
        if not torch.isfinite(leak + size).all():
            raise InputError("module has NaN or infinite derivatives at x; expected finite numbers")
        # an FFT leaves rounding as large as all outputs have it, so the limit is that of the largest gradient
        wrong = (leak > min(1e-2, 1e3 * eps) * size.max()).tolist()
        if any(wrong[-2:]):
            raise InputError("module mixes the samples of a batch; expected each to be computed on its own")
        if any(wrong):
            i = int(where[wrong.index(True)])
            raise InputError(f"module is not causal: outputs before position {i} depend on inputs from there on")
