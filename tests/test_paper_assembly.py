"""Views and merging as the paper has them: rotations turned back exactly, products that darken."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.paper_assembly import VIEWS, Assembly, SliceAssembly, StackAssembly, average_views, merge_slices
from xdiff.errors import InputError
from xdiff.rotations import CubeRotation


def test_first_view_turns_nothing_and_three_show_every_axis_along_every_other() -> None:
    assert VIEWS[0] == CubeRotation((0, 1, 2), (False, False, False)) and len(set(VIEWS)) == 24
    for axis in range(3):
        assert {turn.perm[axis] for turn in VIEWS[:3]} == {0, 1, 2} and VIEWS[0].perm[axis] == axis


@pytest.mark.parametrize("views", [1, 2, 3, 10, 24])
def test_views_of_something_that_turns_with_its_frame_average_to_the_same(views: int) -> None:
    volume = np.random.default_rng(0).standard_normal((2, 5, 6, 7))
    found, evaluations = average_views(lambda turn: (turn.volume(volume), 3), views)
    np.testing.assert_allclose(found, volume, atol=1e-12)
    assert evaluations == 3 * views


def test_errors_of_views_that_are_independent_average_out() -> None:
    """An eighth of the variance with eight: what averaging is for."""
    rng, shape = np.random.default_rng(0), (1, 12, 14, 16)
    found, _ = average_views(lambda turn: (rng.standard_normal(turn.volume(np.zeros(shape)).shape), 0), 8)
    assert found.var() == pytest.approx(1 / 8, rel=0.1)


def test_merge_is_the_papers_formula() -> None:
    a, b, c = (np.full((1, 1, 1, 1), value) for value in (0.5, 0.8, 0.25))
    assert merge_slices([a, b, c], "multiplicative").item() == pytest.approx((0.5 * 0.8 + 0.8 * 0.25) / 2)
    assert merge_slices([a, b], "multiplicative").item() == pytest.approx(0.4)
    assert merge_slices([a, b, c], "mean").item() == pytest.approx((0.5 + 0.8 + 0.25) / 3)
    for how in ("multiplicative", "mean"):
        assert merge_slices([a], how) is a  # of one slice there is nothing to multiply with


def test_products_of_volumes_that_agree_darken_and_means_do_not() -> None:
    """All that is right in a volume of 0 to 1 is squared: 0.5 becomes 0.25, and the error of a perfect estimate is 0.25."""
    truth = np.linspace(0, 1, 11).reshape(1, 11, 1, 1)
    product, mean = (merge_slices([truth, truth, truth], how) for how in ("multiplicative", "mean"))
    np.testing.assert_allclose(product, truth**2)
    np.testing.assert_allclose(mean, truth)
    assert np.abs(product - truth).max() == pytest.approx(0.25)
    assert product[0, -1].item() == 1 and product[0, 0].item() == 0  # the ends of the range stay where they are


def test_two_values_below_zero_do_not_make_a_bright_one() -> None:
    assert merge_slices([np.full((1, 1, 1, 1), -0.5)] * 2, "multiplicative").item() == 0


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        (Assembly, {"solver": "euler"}, "assembly.solver.*euler"),
        (Assembly, {"views": 0}, "assembly.views.*found 0"),
        (Assembly, {"views": 25}, "assembly.views.*found 25"),
        (SliceAssembly, {"merge": "sum"}, "assembly.merge.*sum"),
        (SliceAssembly, {"guidance": -1.0}, "assembly.guidance.*-1"),
        (StackAssembly, {"views": 4}, "assembly.views.*found 4.*three axes"),
        (StackAssembly, {"apart": 0}, "assembly.apart.*found 0"),
    ],
)
def test_what_cannot_be_put_together_is_named(kind: type, values: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        kind(**values)
