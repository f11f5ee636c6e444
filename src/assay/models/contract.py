"""The adapter contract: what must be true of every adapter, as checks that anybody can run on theirs.

from assay.models.contract import check_adapter
check_adapter(lambda: MyModelForCausalLM(config), exceptions={"left padding": "positions are absolute"})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from assay.measures.contract import run_checks
from assay.measures.state_size import state_size_profile
from assay.models.adapters import Reading
from assay.models.trace import MixerTrace, fidelity, trace

FIDELITY_FLOAT32 = 1e-5
SAME = 1e-4  # relative, of ESS between two float32 runs of the same sequence in another batch
LENGTH = 24


@torch.no_grad()
def check_adapter(make_model: Callable[[], nn.Module], *, exceptions: Mapping[str, str] | None = None) -> None:
    """Run every check on a model; raise `AssertionError` that names the first one which fails.

    Args:
        make_model: makes a small causal language model (a few layers, a few heads) with a `config.vocab_size` of at
            least 8. It is called once; weights are drawn with a fixed seed.
        exceptions: {check: reason} for checks that cannot hold for this model. A name that is no check, or an exception
            whose check passes, is an error too, so the list stays true.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_model().eval()
        ids = torch.randint(3, model.config.vocab_size, (2, LENGTH))  # type: ignore[union-attr,arg-type]
    run_checks("adapter contract", {name: partial(check, model, ids) for name, check in CHECKS.items()}, exceptions)


def _measured(model: nn.Module, ids: Tensor) -> None:
    """Every mixer is measured."""
    mixers = trace(model, ids).mixers
    assert mixers, "no mixer was found"
    missing = [f"{mixer.mixer}: {mixer.reason}" for mixer in mixers if mixer.reading is None]
    assert not missing, "; ".join(missing)


def _fidelity(model: nn.Module, ids: Tensor) -> None:
    """T v is the mixer's own output."""
    for mixer in trace(model, ids).mixers:
        assert mixer.fidelity <= FIDELITY_FLOAT32, f"{mixer.mixer} has fidelity {mixer.fidelity:.1e} in float32"


def _a_wrong_operator_is_refused(model: nn.Module, ids: Tensor) -> None:
    """The control: with values shifted by one token the fidelity must be bad."""
    for mixer, reading in _readings(model, ids):
        wrong = replace(reading, values=reading.values.roll(1, dims=-2))
        assert fidelity(wrong) > 1e-3, f"{mixer.mixer}: the fidelity does not see a wrong operator"


def _causality(model: nn.Module, ids: Tensor) -> None:
    """Tokens from the middle on do not change the operator before it."""
    half = LENGTH // 2
    changed = ids.clone()
    changed[:, half:] = ids[:, half:].flip(1)
    for (mixer, one), (_, other) in zip(_readings(model, ids), _readings(model, changed), strict=True):
        before, after = (reading.operator.window(0, half).to_dense() for reading in (one, other))
        assert torch.allclose(before, after, atol=1e-5), f"{mixer.mixer}: the past depends on the future"


def _bounds(model: nn.Module, ids: Tensor) -> None:
    """Finite, and at most min(TSS, i, L - i)."""
    for mixer, reading in _readings(model, ids):
        profile = state_size_profile(reading.operator)
        for ess in (profile.entropy_ess, profile.tolerance_ess):
            assert torch.isfinite(ess).all(), f"{mixer.mixer}: ESS is not finite"
            assert (ess <= profile.attainable + 1e-6).all(), f"{mixer.mixer}: ESS above min(TSS, i, L - i)"


def _batch(model: nn.Module, ids: Tensor) -> None:
    """A sequence gives the same numbers alone and in a batch."""
    _compare(model, ids, ids[:1], None, 0, 0)


def _right_padding(model: nn.Module, ids: Tensor) -> None:
    """Padding behind a sequence changes nothing."""
    mask = torch.ones_like(ids)
    mask[0, LENGTH - 5 :] = 0
    _compare(model, ids, ids[:1, : LENGTH - 5], mask, 0, 0)


def _left_padding(model: nn.Module, ids: Tensor) -> None:
    """Padding before a sequence changes nothing."""
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    _compare(model, ids, ids[:1, 5:], mask, 0, 5)


def _device(model: nn.Module, ids: Tensor) -> None:
    """The same numbers on an accelerator, where there is one."""
    if not torch.cuda.is_available():
        return
    here = _ess(trace(model, ids[:1]).mixers, 0, 0, LENGTH)
    try:
        there = _ess(trace(model.cuda(), ids[:1].cuda()).mixers, 0, 0, LENGTH)
    finally:
        model.cpu()
    _same(here, there)


CHECKS: dict[str, Callable[[nn.Module, Tensor], None]] = {
    "measured": _measured,
    "fidelity": _fidelity,
    "a wrong operator is refused": _a_wrong_operator_is_refused,
    "causality": _causality,
    "bounds": _bounds,
    "batch": _batch,
    "right padding": _right_padding,
    "left padding": _left_padding,
    "device": _device,
}


def _readings(model: nn.Module, ids: Tensor) -> list[tuple[MixerTrace, Reading]]:
    return [(mixer, mixer.reading) for mixer in trace(model, ids).mixers if mixer.reading is not None]


def _compare(model: nn.Module, ids: Tensor, alone: Tensor, mask: Tensor | None, index: int, start: int) -> None:
    together = trace(model, ids, mask).mixers
    length = alone.shape[1]
    _same(_ess(together, index, start, start + length), _ess(trace(model, alone).mixers, 0, 0, length))


def _ess(mixers: list[MixerTrace], index: int, start: int, stop: int) -> list[tuple[str, Tensor]]:
    return [
        (mixer.mixer, state_size_profile(mixer.reading.sample(index, start, stop).operator).entropy_ess)
        for mixer in mixers
        if mixer.reading is not None
    ]


def _same(first: list[tuple[str, Tensor]], second: list[tuple[str, Tensor]]) -> None:
    assert first, "nothing was measured"
    for (name, one), (_, other) in zip(first, second, strict=True):
        difference = float(((one - other).abs() / other.clamp(min=1)).max())
        assert difference <= SAME, f"{name}: entropy-ESS differs by {difference:.1e}"
