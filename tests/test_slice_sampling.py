"""Draws from priors of sections whose denoiser is exact: the prior without data, the data, stripes, and what is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from slice_priors import FIELD, SHAPE, THREE, FieldPrior, draws_of, field_volume, observed, roughness

from baselines import slice_sampling
from baselines.score import ScoreSampler
from baselines.slice_sampling import Given, Scheme, SliceReconstructor, axes_by_given, denoised, sigmas
from baselines.tpdm import TPDMSampler
from xdiff.errors import InputError, NotSupported
from xdiff.observation import observe
from xdiff.planes import AnyPlane, Plane, Projection
from xdiff.stacks import tilted_stack
from xdiff.view import View

VARIANCE = FIELD.std**2
TILTED = tilted_stack(2, 2, np.ones(SHAPE, dtype=bool), (4.0,) * 3)
SEVERAL = {"thin": THREE, "crossing": [Plane(0, 9), Plane(2, 11)], "thick": [Plane(2, 5, 2.5), Plane(2, 12, 2.5)]}
SEVERAL |= {
    "thick crossing": [Plane(2, 5, 2.5), Plane(1, 12, 2.0)],
    "tilted": TILTED,
    "all axes": [Plane(a, 7) for a in range(3)],
}


def method(sampler: ScoreSampler | TPDMSampler) -> SliceReconstructor:
    return SliceReconstructor(FieldPrior(), sampler.scheme)


def reconstruct(
    sampler: ScoreSampler | TPDMSampler, planes: list[AnyPlane], steps: int = 4, estimate: str = "sample", seed: int = 0
):
    return method(sampler).reconstruct(observed(planes), steps, estimate, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def score() -> np.ndarray:
    """Draws of one prior's sections along axis 1, given three of axis 2."""
    return draws_of(Scheme((1,)))


@pytest.fixture(scope="module", params=["dps", "project"])
def tpdm(request: pytest.FixtureRequest) -> np.ndarray:
    """Draws of two priors, along axes 1 and 0, given the same."""
    return draws_of(Scheme((1, 0), consistency=request.param))


# What is drawn ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_without_data_sections_are_draws_of_the_prior_and_know_nothing_of_each_other(axis: int) -> None:
    draws = draws_of(Scheme((axis,), weight=0.0), planes=[Plane(2, 9)], steps=100)
    unseen = np.delete(draws, 9, axis=3)
    assert unseen.var() == pytest.approx(VARIANCE, rel=0.15) and unseen.mean() == pytest.approx(FIELD.mean, abs=0.03)
    for other in {0, 1} - {axis}:
        assert roughness(draws, other) == pytest.approx(1, abs=0.2)
    across = np.diff(unseen, axis=axis + 1)
    assert (across**2).mean() == pytest.approx(2 * unseen.var(), rel=0.15)


def test_rows_of_given_sections_tell_what_is_near(score: np.ndarray, tpdm: np.ndarray) -> None:
    near = [row for plane in THREE for row in (plane.index - 1, plane.index + 1)]
    truth = field_volume()[0]
    for draws in (score, tpdm):
        errors = ((draws - truth) ** 2).mean(axis=(0, 1, 2)) / VARIANCE
        assert errors[near].mean() < 1.0  # two fields that know nothing of each other: 2
        assert (errors[[p.index for p in THREE]] == 0).all()
    assert ((tpdm - truth) ** 2).mean() < ((score - truth) ** 2).mean()


def test_sections_along_the_given_ones_axis_see_nothing() -> None:
    draws, truth = draws_of(Scheme((2,))), field_volume()[0]
    hidden = [z for z in range(SHAPE[2]) if z not in {p.index for p in THREE}]
    assert ((draws - truth)[..., hidden] ** 2).mean() > 1.5 * VARIANCE


def test_two_priors_draw_no_stripes(score: np.ndarray, tpdm: np.ndarray) -> None:
    assert roughness(score, 1) > 2.5  # from section to section
    for axis in range(3):
        assert 0.6 < roughness(tpdm, axis) < 1.4


def test_weight_is_the_share_of_the_data() -> None:
    truth, near = field_volume()[0], [p.index + 1 for p in THREE]
    errors = [((draws_of(Scheme((1,), weight=w), steps=30) - truth)[..., near] ** 2).mean() for w in (0.0, 0.1, 1.0)]
    assert errors[0] > errors[1] > errors[2]


# The data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", SEVERAL.values(), ids=SEVERAL)
@pytest.mark.parametrize("estimate", ["sample", "mean_of_2"])
@pytest.mark.parametrize("sampler", [ScoreSampler(), TPDMSampler(consistency="project")], ids=["score", "tpdm"])
def test_given_sections_are_met(sampler: ScoreSampler | TPDMSampler, planes: list[AnyPlane], estimate: str) -> None:
    observation = observed(planes)
    volume, std, _ = reconstruct(sampler, planes, estimate=estimate)
    assert volume.shape == (1, *SHAPE) and volume.dtype == np.float32
    for plane, section in zip(planes, observation.sections, strict=True):
        np.testing.assert_allclose(plane.cut(volume), section, atol=1e-4)
    np.testing.assert_array_equal(volume[observation.known], observation.evidence[observation.known])
    if estimate == "sample":
        assert std is None
    else:
        assert not std[observation.known].any() and (std[~observation.known] > 0).mean() > 0.99


def test_thick_sections_are_used_on_the_way_and_not_put_in_at_the_end_alone() -> None:
    """Near a thick section the draws resemble the truth, which an average put in at the end would not do."""
    planes, truth = [Plane(2, 9, 3.0)], field_volume()[0]
    errors = [((draws_of(Scheme((1,), weight=w), planes, 30) - truth)[..., [7, 11]] ** 2).mean() for w in (0.0, 1.0)]
    assert errors[1] < 0.75 * errors[0]


def test_a_projection_is_pasted_where_it_is_known_and_the_other_contrast_drawn() -> None:
    volume = np.concatenate([field_volume(1), field_volume(0)])
    volume[0] = volume[0].mean(axis=1, keepdims=True)
    plane = Projection.of(1, SHAPE[1])
    observation = observe(volume, [plane], ("dxa", "field"), (4.0,) * 3, "centred", "none", ["dxa"])
    met = Given(View.of(observation), observation).met_under(torch.ones(2, *SHAPE), torch.zeros(2, *SHAPE))
    np.testing.assert_allclose(met[0], observation.evidence[0] + 1, atol=1e-6)
    assert not met[1].any()


# Noise levels, axes, counting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 3, 50])
def test_noise_levels_fall_to_zero_in_units_of_the_intensities(steps: int) -> None:
    levels = sigmas(steps, 0.25)
    assert len(levels) == steps + 1 and levels[-1] == 0
    assert (levels[0], levels[-2]) == pytest.approx((20.0, 0.0025))
    assert all(a > b for a, b in zip(levels[:-1], levels[1:], strict=True))


@pytest.mark.parametrize(
    ("planes", "axes"),
    [(THREE, [1, 0, 2]), ([Plane(1, 4)], [2, 0, 1]), ([Plane(0, 4)], [2, 1, 0]), (TILTED, [1, 0, 2])]
    + [([Plane(2, 3), Plane(2, 5), Plane(0, 4)], [1, 0, 2]), ([Plane(a, 7) for a in range(3)], [2, 1, 0])],
    ids=str,
)
def test_axes_along_which_least_is_given_come_first(planes: list[AnyPlane], axes: list[int]) -> None:
    assert axes_by_given(planes) == axes
    assert ScoreSampler().scheme(planes).axes == (axes[0],)
    assert ScoreSampler(sections="parallel").scheme(planes).axes == (axes[2],)
    assert TPDMSampler().scheme(planes).axes == (axes[0], axes[1])
    assert TPDMSampler(sections="parallel").scheme(planes).axes == (axes[2], axes[0])


def test_every_section_is_counted_and_the_gradient_as_one_more() -> None:
    x, y, z = SHAPE
    assert reconstruct(ScoreSampler(), THREE, 5)[2] == 5 * y
    assert reconstruct(ScoreSampler(sections="parallel"), THREE, 5)[2] == 5 * z
    assert reconstruct(TPDMSampler(consistency="project"), THREE, 5)[2] == 3 * y + 2 * x
    assert reconstruct(TPDMSampler(), THREE, 5)[2] == 2 * 3 * y + 2 * x
    assert reconstruct(TPDMSampler(every=4), THREE, 5)[2] == 2 * 4 * y + x
    assert reconstruct(TPDMSampler(), THREE, 5, "mean_of_3")[2] == 3 * (2 * 3 * y + 2 * x)


def test_sections_without_a_given_voxel_have_no_gradient() -> None:
    """Those along the given ones' axis, where the length of the misfit is zero and has no derivative."""
    view, state = View.of(observed(THREE)), torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    _, gradient = denoised(FieldPrior(), state, 0.1, 2, view)
    per_section = gradient[0].abs().sum(dim=(0, 1))
    assert set(per_section.nonzero().flatten().tolist()) == {p.index for p in THREE}
    volume, _, evaluations = reconstruct(TPDMSampler(sections="parallel"), THREE, 4)
    assert np.isfinite(volume).all() and evaluations == 2 * 2 * SHAPE[2] + 2 * SHAPE[1]


def test_what_is_counted_is_what_was_asked() -> None:
    tried = method(TPDMSampler(consistency="project"))
    _, _, evaluations = tried.reconstruct(observed(THREE), 5, "sample", np.random.default_rng(0))
    assert sum(count for _, count in tried.network.asked) == evaluations
    assert [axis for axis, _ in tried.network.asked] == [1, 0, 1, 0, 1]


def test_gradient_is_that_of_every_sections_misfit() -> None:
    """Against finite differences, in the middle of the noise levels."""
    view, state = View.of(observed(THREE)), torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    _, gradient = denoised(FieldPrior(), state, 0.1, 1, view)
    direction = torch.zeros_like(state)
    direction[:, :, 4] = torch.randn(1, *SHAPE[::2], generator=torch.Generator().manual_seed(1))

    def misfit(moved: torch.Tensor) -> float:
        clean, _ = denoised(FieldPrior(), moved, 0.1, 1)
        return float(torch.where(view.known, clean - view.evidence, 0.0)[:, :, 4].norm())

    slope = (misfit(state + 0.01 * direction) - misfit(state - 0.01 * direction)) / 0.02
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.02) and abs(slope) > 0.1


@pytest.mark.parametrize("sampler", [ScoreSampler(), TPDMSampler(), TPDMSampler(consistency="project")], ids=str)
def test_the_generator_alone_decides_whatever_the_batch(
    sampler: ScoreSampler | TPDMSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, same, other = (reconstruct(sampler, THREE, 6, seed=s)[0] for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).mean() > 0.02
    monkeypatch.setattr(slice_sampling, "PIXELS", 1000)
    np.testing.assert_allclose(reconstruct(sampler, THREE, 6)[0], first, atol=1e-4)


def test_mean_of_n_is_the_mean_of_its_draws() -> None:
    rng, tried = np.random.default_rng(4), method(ScoreSampler())
    draws = [tried.reconstruct(observed(THREE), 3, "sample", rng)[0] for _ in range(3)]
    together, std, _ = reconstruct(ScoreSampler(), THREE, 3, "mean_of_3", seed=4)
    np.testing.assert_allclose(together, np.mean(draws, axis=0), atol=1e-5)
    np.testing.assert_allclose(std, np.std(draws, axis=0, ddof=1), atol=1e-5)


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "planes", "steps", "estimate", "reason"),
    [
        (ScoreSampler(), THREE, 5, "mean", "sample and mean_of_N"),
        (TPDMSampler(), THREE, 1, "sample", "1 step from noise.*at least 2"),
        (TPDMSampler(), SEVERAL["thick"], 5, "sample", "dps is for given voxels"),
        (TPDMSampler(), TILTED, 5, "sample", "dps is for given voxels"),
    ],
    ids=["mean", "one step", "thick", "tilted"],
)
def test_what_cannot_be_done_is_said(
    sampler: ScoreSampler | TPDMSampler, planes: list[AnyPlane], steps: int, estimate: str, reason: str
) -> None:
    with pytest.raises(NotSupported, match=reason):
        reconstruct(sampler, planes, steps, estimate)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (ScoreSampler, {"sections": "across"}, "sampler.sections: found 'across'"),
        (ScoreSampler, {"weight": 1.5}, r"sampler.weight: found 1.5, expected a share in 0..1"),
        (TPDMSampler, {"consistency": "paste"}, "sampler.consistency: found 'paste'"),
        (TPDMSampler, {"every": 1}, "sampler.every: found 1"),
        (TPDMSampler, {"consistency": "project", "weight": 2.0}, "sampler.weight: found 2.0"),
        (TPDMSampler, {"weight": -1.0}, "sampler.weight: found -1.0"),
    ],
    ids=str,
)
def test_a_wrong_choice_is_named(make: type, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**settings)
