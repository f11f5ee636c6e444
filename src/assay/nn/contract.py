"""The mixer contract: what must be true of every mixer, as checks that anybody can run on theirs.

from assay.nn.contract import check_mixer
check_mixer(lambda: MyMixer(d_model=32))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from assay.measures.contract import run_checks
from assay.nn._mixer import Mixer

SAME = 1e-9  # relative, between two forms of the same mixer in float64
SAME_FLOAT32 = 1e-4
LENGTHS = (1, 2, 37, 150)  # none a multiple of a chunk


def check_mixer(make_mixer: Callable[[], Mixer], *, exceptions: Mapping[str, str] | None = None) -> None:
    """Run every check on a mixer; raise `AssertionError` that names the first one which fails.

    Args:
        make_mixer: makes a small mixer (d_model up to 64). It is called once; weights are drawn with a fixed seed.
        exceptions: {check: reason} for checks that cannot hold for this mixer. A name that is no check, or an exception
            whose check passes, is an error too, so the list stays true.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mixer = make_mixer().eval()
        x = torch.randn(2, max(LENGTHS), mixer.d_model)
    run_checks("mixer contract", {name: partial(check, mixer, x) for name, check in CHECKS.items()}, exceptions)


def _shape(mixer: Mixer, x: Tensor) -> None:
    """(B, L, d_model) -> the same, finite, for any length."""
    for length in LENGTHS:
        y = mixer.float()(x[:, :length])
        assert y.shape == x[:, :length].shape, f"output has shape {tuple(y.shape)} at length {length}"
        assert torch.isfinite(y).all(), f"output is not finite at length {length}"


def _operator(mixer: Mixer, x: Tensor) -> None:
    """`finish(T v)` is the forward."""
    for length in LENGTHS:
        _same(_through_operator(mixer.double(), x[:, :length].double()), mixer(x[:, :length].double()), SAME)
    _same(_through_operator(mixer.float(), x), mixer(x), SAME_FLOAT32)


def _a_wrong_operator_is_refused(mixer: Mixer, x: Tensor) -> None:
    """The control: values shifted by one token must not give the forward."""
    features = mixer.double().features(x.double())
    wrong = mixer.finish(mixer.to_operator(features).apply(features.values.roll(1, -2)), features)
    assert _difference(wrong, mixer(x.double())) > 1e-3, "the output does not depend on the operator"


def _dense(mixer: Mixer, x: Tensor) -> None:
    """T as a matrix does what `apply` does, and is causal."""
    features = mixer.double().features(x[:, :37].double())
    operator = mixer.to_operator(features)
    T = operator.to_dense()
    _same(T @ features.values, operator.apply(features.values), SAME)
    assert float(T.triu(1).abs().max()) <= 1e-12 * float(T.abs().max()), "T is not causal"


def _causality(mixer: Mixer, x: Tensor) -> None:
    """Tokens from the middle on do not change what comes before."""
    x = x.double()
    half = x.shape[1] // 2
    changed = torch.cat([x[:, :half], -x[:, half:]], dim=1)
    before, after = mixer.double()(x), mixer(changed)
    _same(after[:, :half], before[:, :half], SAME)
    assert _difference(after[:, half:], before[:, half:]) > 1e-3, "the output does not depend on the input"


def _step(mixer: Mixer, x: Tensor) -> None:
    """Token by token gives the same as all at once."""
    x = x[:, :70].double()
    state, outputs = None, []
    for t in range(x.shape[1]):
        y, state = mixer.double().step(x[:, t], state)
        outputs.append(y)
    _same(torch.stack(outputs, 1), mixer(x), SAME)


def _batch(mixer: Mixer, x: Tensor) -> None:
    """A sequence gives the same alone and in a batch."""
    _same(mixer.double()(x[:1].double()), mixer(x.double())[:1], SAME)


def _gradients(mixer: Mixer, x: Tensor) -> None:
    """Every parameter gets a finite gradient, and the first token influences the last."""
    x = x[:, :40].double().requires_grad_()
    mixer.double().zero_grad()
    mixer(x).square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
        assert bool(parameter.grad.any()), f"the gradient of {name} is zero"
    mixer.zero_grad(set_to_none=True)


def _device(mixer: Mixer, x: Tensor) -> None:
    """The same on an accelerator, where there is one."""
    if not torch.cuda.is_available():
        return
    here = mixer.float()(x)
    try:
        _same(mixer.to("cuda")(x.to("cuda")).cpu(), here, SAME_FLOAT32)
    finally:
        mixer.cpu()


CHECKS: dict[str, Callable[[Mixer, Tensor], None]] = {
    "shape": torch.no_grad()(_shape),
    "operator": torch.no_grad()(_operator),
    "a wrong operator is refused": torch.no_grad()(_a_wrong_operator_is_refused),
    "dense": torch.no_grad()(_dense),
    "causality": torch.no_grad()(_causality),
    "step": torch.no_grad()(_step),
    "batch": torch.no_grad()(_batch),
    "gradients": _gradients,
    "device": torch.no_grad()(_device),
}


def _through_operator(mixer: Mixer, x: Tensor) -> Tensor:
    features = mixer.features(x)
    return mixer.finish(mixer.to_operator(features).apply(features.values), features)


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp(min=1e-30))


def _same(one: Tensor, other: Tensor, tolerance: float) -> None:
    difference = _difference(one, other)
    assert difference <= tolerance, f"relative difference {difference:.1e}"
