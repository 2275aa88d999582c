"""Kinds of given sections: each as often as its share says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from xdiff.kinds import THICK_MM, Kinds

NAMES = ("T1w", "T2w", "FLAIR")


def drawn(kinds: Kinds, count: int = 6000) -> list[tuple[str, float]]:
    rng = np.random.default_rng(0)
    return [kinds.policy(rng) for _ in range(count)]


def test_policies_are_drawn_by_their_shares() -> None:
    found = Counter(policy for policy, _ in drawn(Kinds(uniform=0.25, orthogonal=0.3, tilted=0.1)))
    shares = {policy: count / 6000 for policy, count in found.items()}
    assert shares == pytest.approx({"orthogonal": 0.3, "tilted": 0.1, "uniform": 0.15, "random": 0.45}, abs=0.02)


def test_slices_are_thick_whatever_the_policy_but_never_tilted() -> None:
    by_policy: dict[str, list[float]] = {}
    for policy, thickness_mm in drawn(Kinds(thick=0.4, tilted=0.2, orthogonal=0.3)):
        by_policy.setdefault(policy, []).append(thickness_mm)
    assert not any(by_policy.pop("tilted"))
    for values in by_policy.values():
        thick = [v for v in values if v > 0]
        assert len(thick) / len(values) == pytest.approx(0.4, abs=0.05)
        assert THICK_MM[0] <= min(thick) < THICK_MM[0] + 0.1 and THICK_MM[1] - 0.1 < max(thick) <= THICK_MM[1]


def test_any_number_of_contrasts_is_given_and_each_as_often_as_another() -> None:
    rng = np.random.default_rng(0)
    given = [Kinds(fewer=0.5).contrasts(NAMES, rng) for _ in range(3000)]
    some = [names for names in given if names is not None]
    assert len(some) / 3000 == pytest.approx(0.5, abs=0.04)
    assert all(type(name) is str for names in some for name in names)
    assert all(len(set(names)) == len(names) for names in some)
    sizes, names = Counter(map(len, some)), Counter(name for names in some for name in names)
    assert set(sizes) == {1, 2} and sizes[1] / len(some) == pytest.approx(0.5, abs=0.05)
    assert [names[name] / sum(names.values()) for name in NAMES] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_single_contrast_is_always_given() -> None:
    assert Kinds(fewer=1.0).contrasts(("T1w",), np.random.default_rng(0)) is None
