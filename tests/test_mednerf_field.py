"""What the neural field is made of: where its positions and the given pixels lie, the prior of its codes, and its descent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from baselines.mednerf_field import CodePrior, ConditionalField, FieldSettings, Frame, pixels_of
from baselines.mednerf_fit import FitSettings, descend
from xdiff.observation import observe
from xdiff.planes import ObliquePlane, Plane, Projection

FRAME = Frame((9, 8, 7), (2.0, 3.0, 4.0))
CPU = torch.device("cpu")
SLOPES = torch.tensor([[0.3, -0.2], [0.5, 0.1], [-0.4, 0.7]])
TILTED = ObliquePlane((4.0, 3.5, 3.0), (1.0, 0.0, 0.2), (0.0, 0.9, 0.3), (7, 6))
ACROSS = ObliquePlane((4.0, 3.5, 3.0), (1.0, 0.0, 0.2), (0.0, 0.9, 0.3), (15, 14))  # reaches out of the array


def linear(points: torch.Tensor) -> torch.Tensor:
    """Two contrasts that change linearly with the position, which every average and interpolation keeps."""
    return 5 + points @ SLOPES


def field_of(grid_mm: tuple[float, ...] = (8.0,)) -> ConditionalField:
    settings = FieldSettings(latent=3, width=16, depth=2, grid_mm=grid_mm, grid_features=2)
    torch.manual_seed(0)
    return ConditionalField(2, FRAME, settings.grid_sizes(FRAME), 5, settings)


# Geometry -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "planes",
    [
        [Plane(0, 4)],
        [Plane(1, 0), Plane(2, 6)],
        [Plane(2, 3, 2.5)],
        [Plane(1, 0, 4.0), Plane(0, 2)],
        [TILTED],
        [TILTED, Plane(2, 3)],
    ],
    ids=["thin", "thin_of_two_axes", "thick", "thick_at_the_edge_and_thin", "oblique", "oblique_and_thin"],
)
def test_pixels_are_averages_where_the_planes_lie(planes: list) -> None:
    volume = linear(FRAME.points()).T.reshape(2, *FRAME.shape).numpy()
    pixels = pixels_of(observe(volume, planes, ("a", "b"), FRAME.spacing_mm, "centred", "none"), CPU)
    torch.testing.assert_close(pixels.weights.sum(dim=1), torch.ones(len(pixels.values)))
    found = pixels.mean(linear(pixels.points.reshape(1, -1, 3)))
    torch.testing.assert_close(found, pixels.values, atol=1e-4, rtol=0)


def test_pixels_outside_the_array_are_left_out() -> None:
    volume = linear(FRAME.points()).T.reshape(2, *FRAME.shape).numpy()
    pixels = pixels_of(observe(volume, [ACROSS], ("a", "b"), FRAME.spacing_mm, "centred", "none"), CPU)
    assert 42 < len(pixels.values) < 15 * 14
    assert (pixels.points >= 0).all() and (pixels.points <= torch.tensor(FRAME.shape) - 1).all()
    torch.testing.assert_close(pixels.mean(linear(pixels.points.reshape(1, -1, 3))), pixels.values, atol=1e-4, rtol=0)


def test_a_projection_is_read_in_one_row() -> None:
    flat = np.random.default_rng(0).random((1, 9, 1, 7)).astype(np.float32).repeat(8, axis=2)
    pixels = pixels_of(observe(flat, [Projection.of(1, 8)], ("a",), FRAME.spacing_mm, "centred", "none"), CPU)
    assert pixels.weights.shape == (63, 1)
    x, y, z = pixels.points[:, 0].long().T
    torch.testing.assert_close(torch.from_numpy(flat)[0, x, y, z], pixels.values[:, 0])


def test_grids_cover_the_array_at_their_spacing() -> None:
    assert FieldSettings(grid_mm=(8.0, 100.0)).grid_sizes(FRAME) == [(3, 4, 4), (2, 2, 2)]


def test_a_grid_is_interpolated_between_its_nodes() -> None:
    field = field_of()
    with torch.no_grad():  # a ramp along y of the array, from 0 to 3 over its 8 voxels
        field.grids[0].copy_(torch.arange(4.0)[None, None, None, :, None].expand_as(field.grids[0]))
    points = torch.tensor([[[0.0, 0, 0], [8, 7, 6], [3, 3.5, 1]]])
    np.testing.assert_allclose(field.encode(points)[0, :, -1].detach(), [0, 3, 1.5], atol=1e-5)


def test_the_code_changes_the_field_and_each_volume_has_its_own() -> None:
    field, points = field_of(), FRAME.points()[None, :50].expand(5, -1, -1)
    together = field(points, field.codes)
    assert together.shape == (5, 50, 2)
    for i in range(5):
        torch.testing.assert_close(together[i], field(points[:1], field.codes[i : i + 1])[0])
    assert (together[0] - together[1]).abs().max() > 1e-3


# The prior ----------------------------------------------------------------------------------------------------------


def test_the_prior_has_the_codes_mean_and_variances_and_half_their_covariances() -> None:
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [0.0, 0.3, 0.2]])
    codes = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) @ mixing.T + torch.tensor([1.0, -2.0, 0.5])
    prior, sample = CodePrior.of(codes), torch.cov(codes.T)
    expected = 0.5 * sample + 0.5 * torch.diag(sample.diagonal())
    torch.testing.assert_close(prior.factor.T @ prior.factor, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prior.code(torch.zeros(1, 3))[0], codes.mean(dim=0))
    drawn = prior.code(torch.randn(20000, 3, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.05, rtol=0)


def test_a_prior_of_fewer_codes_than_numbers_is_still_one() -> None:
    prior = CodePrior.of(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(prior.factor).all() and (prior.factor.diagonal() > 0).all()


# The descent --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patience", "near"), [(2, 1.0), (0, 3.0)])
def test_descent_stops_at_the_best_check(patience: int, near: float) -> None:
    """Fitted is 3, held out says 1."""
    x = torch.zeros(1, requires_grad=True)
    settings = FitSettings(patience=patience, check_every=1)
    steps = descend([x], lambda: ((x - 3) ** 2).sum(), lambda: float(((x - 1) ** 2).sum()), settings, 400, 0.1)
    assert x.item() == pytest.approx(near, abs=0.1)
    assert steps == 400 if patience == 0 else steps < 20


def test_no_iterations_change_nothing() -> None:
    x = torch.full((1,), 2.0, requires_grad=True)
    assert descend([x], lambda: (x**2).sum(), lambda: float((x**2).sum()), FitSettings(), 0, 0.1) == 0
    assert x.item() == 2
