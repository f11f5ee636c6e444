"""The classes of the study of effective state-size: their formulas, token by token, and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from assay._errors import InputError
from assay.measures.state_size import entropy_ess
from assay.nn._mixer import Mixer
from assay.nn.contract import check_mixer
from assay.nn.ess_classes import GLA, GLAS6, LA, S6, SA, WLA

D, HEADS, EXPAND = 16, 2, 3
SIZE = EXPAND * D // HEADS  # N, of a head


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(mixer: type[Mixer], **options: float) -> Mixer:
    torch.manual_seed(0)
    return mixer(D, num_heads=HEADS, expand_k=EXPAND, **options).double()


def turned(x: Tensor) -> Tensor:
    """Rotary embedding of (L, H, N) by complex numbers."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x))[:, None] * 10_000 ** (-torch.arange(half, dtype=torch.float64) / half)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([z.real, z.imag], dim=-1)


def recurrence(A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """T_ij = C_i A_i .. A_{j+1} B_j: (L, H, N) each -> (H, L, L)."""
    T = torch.zeros(A.shape[1], len(A), len(A), dtype=A.dtype)
    for i in range(len(A)):
        for j in range(i + 1):
            T[:, i, j] = (C[i] * A[j + 1 : i + 1].prod(0) * B[j]).sum(-1)
    return T


def table(mixer: Mixer, u: Tensor) -> Tensor:
    """T by the paper's table, from the mixer's matrices alone: (L, d) -> (H, L, L)."""
    W = dict(mixer.named_parameters())

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, SIZE))

    B, C = split(u @ W["W_B.weight"].T), split(u @ W["W_C.weight"].T)
    match mixer:
        case LA():
            return recurrence(torch.ones_like(B), turned(B), turned(C))
        case SA():
            logits = torch.einsum("ihn,jhn->hij", turned(C), turned(B))
            return torch.where(torch.ones_like(logits).tril() > 0, logits, -torch.inf).softmax(-1)
        case WLA():
            return recurrence((W["a"].sigmoid() ** (1 / 16)).expand_as(B), B, C)
        case GLA():
            return recurrence(split(u @ W["W_A.0.weight"].T @ W["W_A.1.weight"].T).sigmoid() ** (1 / 16), B, C)
        case GLAS6():
            rate = softplus(split(u @ W["W_A.0.weight"].T @ W["W_A.1.weight"].T))
            return recurrence(torch.exp(-torch.arange(1, SIZE + 1) / 1000 * rate), B, C)
    raise AssertionError


@pytest.mark.parametrize("mixer", [LA, GLA, WLA, SA, GLAS6])
def test_the_operator_is_that_of_the_table(mixer: type[Mixer]) -> None:
    layer, u = make(mixer), draw(20, D)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.2 * torch.randn_like(p))

        assert torch.allclose(layer.operator(u[None]).to_dense()[0], table(layer, u), atol=1e-12)
        assert torch.allclose(layer.values(u[None])[0].transpose(0, 1).flatten(1), u @ layer.W_V.weight.T)
        assert not torch.allclose(layer.operator(u[None]).to_dense()[0], table(layer, u.flip(0)), atol=1e-3)


def test_s6_is_that_of_the_table() -> None:
    torch.manual_seed(0)
    layer, u = S6(D, num_heads=HEADS, expand_k=EXPAND).double(), draw(20, D)
    delta = softplus(layer.W_delta(u))  # (L, D)
    A = torch.exp(-delta[..., None] * torch.arange(1, SIZE + 1))
    B = delta[..., None] * layer.W_B(u)[:, None]
    C = layer.W_C(u)[:, None].expand_as(B)

    assert torch.allclose(layer.operator(u[None]).to_dense()[0], recurrence(A, B, C), atol=1e-12)


FACTORIES: dict[str, Callable[[], Mixer]] = {
    "LA": partial(LA, 16),
    "GLA": partial(GLA, 16, beta=4.0),
    "WLA": partial(WLA, 16, expand_k=2),
    "SA": partial(SA, 16, expand_k=2),
    "GLAS6": partial(GLAS6, 16, alpha=16.0),
    "S6": partial(S6, 16),
    "S6, many states": partial(S6, 16, expand_k=8, delta_range=None),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_contract(name: str) -> None:
    check_mixer(FACTORIES[name])


@pytest.mark.parametrize(
    ("mixer", "own"),
    [
        (LA, {}),
        (SA, {}),
        (WLA, {"a": (HEADS, SIZE)}),
        (GLA, {"W_A.0.weight": (16, D), "W_A.1.weight": (HEADS * SIZE, 16)}),
        (GLAS6, {"W_A.0.weight": (16, D), "W_A.1.weight": (HEADS * SIZE, 16)}),
    ],
)
def test_the_parameters_are_those_of_the_table(mixer: type[Mixer], own: dict[str, tuple[int, ...]]) -> None:
    keys, square = (HEADS * SIZE, D), (D, D)
    shared = {"W_B.weight": keys, "W_C.weight": keys, "W_V.weight": square, "W_O.weight": square}

    found = {name: tuple(p.shape) for name, p in make(mixer).named_parameters()}

    assert found == shared | own


def test_the_parameters_start_as_published() -> None:
    """U(-1/sqrt(in), 1/sqrt(in)) throughout, a at 0, the steps of S6 as in Mamba or as its other matrices."""
    torch.manual_seed(0)
    layer = GLA(64)
    mamba, plain = S6(256), S6(256, delta_range=None)
    steps, plain_steps = (softplus(s.W_delta.bias.detach()) for s in (mamba, plain))

    for name, p in layer.named_parameters():
        bound = p.shape[1] ** -0.5
        assert 0.9 * bound < float(p.detach().abs().max()) <= bound, name
        assert abs(float(p.detach().std()) - bound / 3**0.5) < 0.1 * bound, name
    assert not WLA(64).a.any()
    assert 1e-3 <= float(steps.min()) < 2e-3 < 5e-2 < float(steps.max()) <= 1e-1
    assert float(plain_steps.min()) > 0.5


def mean_ess(mixer: Mixer, length: int = 256) -> float:
    """Mean entropy-ESS of Gaussian noise at the start of training, every 16 positions."""
    x = torch.randn(1, length, mixer.d_model, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        operator = mixer.operator(x)[:, :4]
        return float(entropy_ess(operator.hankel_singular_values(range(16, length, 16))).mean())


@pytest.mark.parametrize(
    ("mixer", "options", "published"),
    [
        (LA, {}, 14.4),
        (GLA, {}, 12.4),
        (GLAS6, {"alpha": 1.0}, 1.4),
        (GLAS6, {"alpha": 16.0}, 4.7),
        (S6, {"delta_range": None}, 1.4),
        (S6, {}, 7.8),
    ],
)
def test_ess_at_the_start_is_the_known_one(mixer: type[Mixer], options: dict[str, float], published: float) -> None:
    """n = 16, d = 128, L = 256; the numbers come from an independent implementation with other random draws."""
    torch.manual_seed(0)

    assert mean_ess(mixer(128, num_heads=8, **options)) == pytest.approx(
        published, rel=0.15 if mixer is not S6 else 0.3
    )


def test_more_alpha_is_more_state() -> None:
    """The factor 1..n closes the gates of GLAS6; alpha opens them again. The control: gates that are open anyway."""

    class Open(GLAS6):
        def log_decay(self, x: Tensor) -> Tensor:
            return torch.zeros_like(super().log_decay(x))

    def sizes(mixer: type[GLAS6]) -> list[float]:
        torch.manual_seed(0)
        return [mean_ess(mixer(128, num_heads=4, alpha=alpha)) for alpha in (1.0, 16.0, 1024.0)]

    def grows(found: list[float]) -> bool:
        return found[0] * 2 < found[1] < found[2] / 2

    assert grows(sizes(GLAS6))
    assert not grows(sizes(Open))


@pytest.mark.parametrize(
    ("make_mixer", "message"),
    [
        (lambda: LA(12, num_heads=4), "d_model is 12; expected an even number for each of num_heads = 4"),
        (lambda: GLA(10, num_heads=4), "d_model is 10; expected a positive multiple of num_heads = 4"),
        (lambda: GLA(16, beta=0.0), "beta is 0.0; expected a number above 0"),
        (lambda: GLAS6(16, alpha=float("nan")), "alpha is nan; expected a number above 0"),
        (lambda: SA(16, expand_k=0), r"expand_k \* d_model is 0; expected a positive multiple"),
        (lambda: S6(18), "d_model is 18; expected a positive multiple of num_heads = 4"),
        (lambda: S6(16, delta_range=(0.1, 0.01)), r"delta_range is \(0.1, 0.01\); expected 0 < low <= high, or None"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make_mixer: Callable[[], Mixer], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_mixer()
