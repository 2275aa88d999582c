"""Wilcoxon's signed-rank test without scipy: its import, and its permutation test of ties, took half of the tables' time."""

from __future__ import annotations

from math import erfc, sqrt

import numpy as np

MOST_EXACT = 50  # differences; with more the normal approximation is good to three digits


def signed_rank_p(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test that `differences` (n,) are symmetric about 0.

    Zeros are dropped, equal sizes share their mean rank. Exact, ties included, for up to MOST_EXACT differences: the signs alone
    are random. p is 1 where no difference is left, and at least 2^(1-n).
    Source: Hollander and Wolfe, Nonparametric Statistical Methods (1999), section 3.1.
    """
    own = differences[differences != 0]
    if len(own) == 0:
        return 1.0
    doubled = _doubled_ranks(np.abs(own))
    above = int(doubled[own > 0].sum())
    if len(own) > MOST_EXACT:
        spread = sqrt((doubled.astype(float) ** 2).sum() / 4)
        return erfc(abs(above - doubled.sum() / 2) / spread / sqrt(2))
    probabilities = _sums(doubled)
    return min(1.0, 2 * float(min(probabilities[: above + 1].sum(), probabilities[above:].sum())))


def _doubled_ranks(sizes: np.ndarray) -> np.ndarray:
    """Twice the mean ranks (n,), whole numbers whatever is tied."""
    _, which, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    return (2 * np.cumsum(counts) - counts + 1)[which]


def _sums(ranks: np.ndarray) -> np.ndarray:
    """Probability of every sum of the ranks with a positive sign, where each has one with probability 1/2."""
    found = np.zeros(int(ranks.sum()) + 1)
    found[0] = 1.0
    for rank in ranks:
        with_it = np.zeros_like(found)
        with_it[rank:] = found[:-rank]
        found = (found + with_it) / 2
    return found
