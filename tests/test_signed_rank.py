"""Wilcoxon's test: what scipy finds, and what no approximation is needed for."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import wilcoxon

from xdiff.signed_rank import signed_rank_p


@pytest.mark.parametrize("n", [1, 2, 6, 12, 50, 51, 200])
def test_p_is_that_of_scipy_without_ties(n: int) -> None:
    for seed in range(5):
        drawn = np.random.default_rng(seed).normal(0.3, 1, n)
        assert signed_rank_p(drawn) == pytest.approx(wilcoxon(drawn, correction=False).pvalue, abs=1e-12)


def test_ties_and_zeros_are_exact_over_all_signs() -> None:
    drawn = np.array([0.0, 1.0, -1.0, 2.0, 2.0, 2.0, -3.0, 4.0])
    ranks = np.array([1.5, 1.5, 4, 4, 4, 6, 7])
    sums = np.array([ranks[np.array(signs)].sum() for signs in product([False, True], repeat=7)])
    found = ranks[drawn[1:] > 0].sum()
    expected = 2 * min((sums <= found).mean(), (sums >= found).mean())
    assert signed_rank_p(drawn) == pytest.approx(expected)


def test_many_ties_are_those_of_scipy() -> None:
    drawn = np.random.default_rng(1).integers(-3, 6, 120).astype(float)
    assert signed_rank_p(drawn) == pytest.approx(wilcoxon(drawn, correction=False, method="asymptotic").pvalue)


def test_no_difference_is_no_evidence_and_six_patients_are_the_least() -> None:
    assert signed_rank_p(np.zeros(8)) == 1.0
    assert signed_rank_p(np.arange(1.0, 6)) == 2**-4 > 0.05 > signed_rank_p(np.arange(1.0, 7)) == 2**-5
