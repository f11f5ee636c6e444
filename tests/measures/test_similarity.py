"""Similarities, against numbers worked out by hand and what random matrices give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from assay._errors import InputError
from assay.measures.similarity import alignment, similarity_of_errors, subspace_overlap


def test_alignment() -> None:
    a, b = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    truth = [np.corrcoef(x.ravel(), y.ravel()) for x, y in zip(a.numpy(), b.numpy(), strict=True)]

    assert alignment(a, 3 * a).tolist() == pytest.approx([1.0] * 4)
    assert alignment(a, -a).tolist() == pytest.approx([-1.0] * 4)
    centred = [t - t.mean((-2, -1), keepdim=True) for t in (a, b)]
    assert alignment(*centred).tolist() == pytest.approx([c[0, 1] for c in truth])
    assert alignment(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])).item() == pytest.approx(0.6)
    assert torch.isnan(alignment(torch.zeros(2, 2), torch.ones(2, 2)))
    with pytest.raises(InputError, match=r"\(3, 5\)"):
        alignment(torch.ones(3, 5), torch.ones(5, 3))


def test_similarity_of_errors() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    b = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, 0.0]])

    assert similarity_of_errors(a, b) == pytest.approx((2**-0.5 - 1) / 2)  # the third says nothing
    assert similarity_of_errors(a, 2 * a) == pytest.approx(1)
    assert np.isnan(similarity_of_errors(a[2:], b[2:]))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 2000, 40, generator=generator)
    assert abs(similarity_of_errors(noise[0], noise[1])) < 0.02
    with pytest.raises(InputError, match="errors_b"):
        similarity_of_errors(a, b[:2])


def test_subspace_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 3, generator=generator, dtype=torch.float64)).Q
    inside = torch.randn(50, 3, generator=generator, dtype=torch.float64) @ basis.mT
    other = torch.linalg.qr(torch.randn(16, 3, generator=generator, dtype=torch.float64)).Q

    assert subspace_overlap(inside, basis) == pytest.approx(1)
    assert subspace_overlap(
        inside, basis @ torch.randn(3, 3, generator=generator, dtype=torch.float64)
    ) == pytest.approx(1)
    angles = subspace_angles(basis.numpy(), other.numpy())
    assert subspace_overlap(inside, other) == pytest.approx(np.square(np.cos(angles)).mean())
    with pytest.raises(InputError, match="rank is 20"):
        subspace_overlap(inside, basis, rank=20)
    with pytest.raises(InputError, match="basis"):
        subspace_overlap(inside, basis.mT)
