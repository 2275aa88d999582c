"""Training volumes packed as a basis: what is estimated from them stays, and no subject's row is among them."""

from __future__ import annotations

import numpy as np
import pytest
from displaced_heads import SHAPE, head

from xdiff import compact
from xdiff.checkpoint import Tensors
from xdiff.compact import compress, expand, is_compressed, projected
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import with_mirror
from xdiff.observation import Observation, observe
from xdiff.out_of_distribution import score
from xdiff.planes import Plane
from xdiff.pose import PoseModel

COUNT = 14
PLANES = [Plane(2, 11), Plane(2, 17)]


def heads(width: int = SHAPE[0]) -> np.ndarray:
    """(COUNT, 2, X, Y, Z): X odd has sections of its own as mirror images."""
    return np.stack([head(i)[:, :width] for i in range(COUNT)])


def given(volume: np.ndarray) -> Observation:
    return observe(volume, PLANES, ("T1w", "T2w"), (2.0, 2.0, 2.0), "centred")


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Components rounded to 32 bits."""
    monkeypatch.setattr(compact, "MOST", 2**24)
    monkeypatch.setattr(compact, "KIND", np.int32)


def tensors_of(width: int = SHAPE[0]) -> Tensors:
    """The pose model's volumes are some of the method's."""
    return {"inner.rows": heads(width), "pose.rows": heads(width)[:6], "other": np.arange(3)}


@pytest.mark.parametrize("width", [SHAPE[0], SHAPE[0] - 1])
def test_with_all_components_nothing_that_is_estimated_changes(exact: None, width: int) -> None:
    tensors = tensors_of(width)
    again = expand(compress(tensors, ["inner.rows", "pose.rows"], 2 * COUNT, 1e-7))
    np.testing.assert_array_equal(again["other"], tensors["other"])
    observation = given(head(50)[:, :width])
    for name in ("inner.rows", "pose.rows"):
        assert again[name].shape == tensors[name].shape
        before, after = (PoseModel(LinearGaussian(with_mirror(t[name])), np.ones(3)) for t in (tensors, again))
        expected, found = (m.linear.estimate(observation) for m in (before, after))
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert np.abs(expected - before.linear.mean).max() > 0.05  # the sections have a say
        spread = [m.linear.rows.astype(np.float32).std(axis=0) for m in (before, after)]
        np.testing.assert_allclose(spread[1], spread[0], atol=1e-3)
        assert score(after, observation, (0, 0, 0)) == pytest.approx(score(before, observation, (0, 0, 0)), abs=1e-3)
        assert after.pose(observation).shift == before.pose(observation).shift


def psnr_of(rows: np.ndarray) -> float:
    model = LinearGaussian(with_mirror(rows))
    errors = [
        np.square(model.estimate(given(head(i))) - head(i) / given(head(i)).scale[:, None, None, None]) for i in (60, 61, 62)
    ]
    return float(-10 * np.log10(np.mean(errors)))


def test_eight_bits_cost_little() -> None:
    """These heads are estimated to 1.5 % of the intensity scale: steps are to be small beside that."""
    tensors = {"inner.rows": heads()}
    packed = compress(tensors, ["inner.rows"], 2 * COUNT, 0.002)
    assert psnr_of(expand(packed)["inner.rows"]) == pytest.approx(psnr_of(tensors["inner.rows"]), abs=0.1)
    size = sum(a.nbytes for a in packed.values())
    assert size < 0.6 * tensors["inner.rows"].astype(np.float16).nbytes


def test_fewer_components_and_coarser_steps_take_less_and_cost_more() -> None:
    tensors = {"inner.rows": heads()}
    tried = [compress(tensors, ["inner.rows"], n, step) for n, step in ((28, 0.01), (10, 0.01), (10, 0.1))]
    sizes = [sum(a.nbytes for a in packed.values()) for packed in tried]
    assert sizes == sorted(sizes, reverse=True)
    counts = [len(packed["basis.even.steps"]) + len(packed["basis.odd.steps"]) for packed in tried]
    assert counts == [27, 10, 10]  # 13 even ones: the mean takes one
    assert psnr_of(expand(tried[1])["inner.rows"]) < psnr_of(expand(tried[0])["inner.rows"]) + 0.02


def test_a_mirrored_head_is_estimated_as_the_mirror_image() -> None:
    rows = expand(compress({"inner.rows": heads()}, ["inner.rows"], 12, 0.02))["inner.rows"]
    model = LinearGaussian(with_mirror(rows))
    here, there = (model.estimate(given(v)) for v in (head(70), head(70)[:, ::-1]))
    np.testing.assert_allclose(there, here[:, ::-1], atol=1e-4)


def test_no_row_is_a_subject() -> None:
    subjects = heads().astype(np.float32)
    rows = expand(compress({"inner.rows": subjects}, ["inner.rows"], 2 * COUNT, 0.01))["inner.rows"].astype(np.float32)
    usual = np.square(subjects - subjects.mean(axis=0)).mean()
    for row in with_mirror(rows):
        assert np.square(subjects - row).mean(axis=(1, 2, 3, 4)).min() > 0.5 * usual


def test_the_components_say_more_of_those_they_were_made_of() -> None:
    packed = compress({"inner.rows": heads()}, ["inner.rows"], 2 * COUNT, 0.01)
    own, other = (np.square(projected(v, packed) - v).mean() for v in (head(3), head(80)))
    assert own < 0.1 * other


def test_the_same_seed_packs_the_same_bytes() -> None:
    one, two = (compress({"inner.rows": heads()}, ["inner.rows"], 9, 0.02) for _ in range(2))
    assert list(one) == list(two)
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])


def test_what_is_not_packed_is_left_alone() -> None:
    tensors = tensors_of()
    assert not is_compressed(tensors)
    assert expand(tensors) is tensors
