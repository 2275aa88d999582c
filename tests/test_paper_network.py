"""The paper's estimate: pose and canvas of a section, guidance, and sections that know nothing of each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.paper_assembly import VIEWS, SliceAssembly
from baselines.paper_network import (
    PaperSettings,
    SectionEstimates,
    Slice,
    Trained,
    cut_turned,
    draw_turned,
    from_canvas,
    matrix,
    pose,
    pose_size,
    predict_noise,
    to_canvas,
)
from baselines.paper_schedule import alpha_bar
from xdiff.errors import InputError
from xdiff.planes import Plane, stack
from xdiff.rotations import CubeRotation

SHAPE, SPACING = (6, 9, 7), (4.0, 2.0, 3.0)
SETTINGS = PaperSettings(channels=(8, 16), orientations=24)
LIMITS = np.array([-50.0, 50.0], np.float32)


def given_slice(axis: int = 2, index: int = 4, contrasts: int = 1) -> Slice:
    size = [contrasts, *(n for a, n in enumerate(SHAPE) if a != axis)]
    pixels = np.random.default_rng(axis).random(size, dtype=np.float32)
    return Slice(Plane(axis, index), pixels, np.ones(contrasts, bool), SHAPE, SPACING)


class Answer(nn.Module):
    """Stands in for a network. Says `with_slice` noise where it is shown a slice, `without` in the null condition; remembers."""

    def __init__(self, with_slice: float, without: float) -> None:
        super().__init__()
        self.answers = nn.Parameter(torch.tensor([without, with_slice]))
        self.shown: list[Tensor] = []

    def section(self, slabs: Tensor, t: Tensor, maps: Tensor, context: None) -> Tensor:
        self.shown.append(maps[:, 0, 0, 0])
        return self.answers[maps[:, 0, 0, 0].long()][:, None, None, None].expand(-1, slabs.shape[1] // 2, *slabs.shape[2:])


def random_network(contrasts: int = 1) -> nn.Module:
    """Random numbers in every layer, those that begin at zero too."""
    network, rng = SETTINGS.network(contrasts).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=rng)
    return network


# Conditioning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", VIEWS, ids=lambda t: "".join(map(str, t.perm)) + "".join("-+"[not f] for f in t.flip))
def test_matrix_turns_directions_as_the_rotation_turns_volumes(turn: CubeRotation) -> None:
    for axis in range(3):
        ramp = np.broadcast_to(np.arange(5.0).reshape([-1 if a == axis else 1 for a in range(3)]), (5, 5, 5))[None]
        rise = [np.diff(turn.volume(ramp)[0], axis=a).mean() for a in range(3)]
        np.testing.assert_array_equal(matrix(turn) @ np.eye(3)[axis], rise)


def test_pose_says_which_section_of_which_view_and_how_far_from_the_given_one() -> None:
    given, rows = given_slice(2, 4), np.arange(7)
    upright = pose(given, VIEWS[0], rows)
    assert upright.shape == (7, pose_size(1)) and upright[:, 0].eq(1).all()
    np.testing.assert_allclose(upright[:, 14], (rows - 3) * 3.0 / 100, atol=1e-6)  # from the middle of the array
    np.testing.assert_allclose(upright[:, 21], (rows - 4) * 3.0 / 100, atol=1e-6)  # from the given slice
    every = torch.cat([pose(given_slice(axis), turn, np.arange(6)) for axis in range(3) for turn in VIEWS])
    assert len(every.unique(dim=0)) == len(every)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_depth_is_along_the_axis_that_the_view_shows(axis: int) -> None:
    given = given_slice(axis)
    for turn in VIEWS[:3]:
        shown = turn.perm[axis]
        ends = pose(given, turn, np.array([0, SHAPE[shown] - 1]))[:, 14]
        half = (SHAPE[shown] - 1) / 2 * SPACING[shown] / 100
        np.testing.assert_allclose(ends, [-half, half], atol=1e-6)


@pytest.mark.parametrize("size", [(6, 9), (9, 7), (9, 9), (1, 2)])
def test_canvas_stretches_nothing_and_gives_images_back(size: tuple[int, int]) -> None:
    images = torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(0))
    canvas = to_canvas(images, 9)
    assert canvas.shape == (3, 2, 9, 9)
    torch.testing.assert_close(from_canvas(canvas, size), images)
    assert (canvas == -1).sum() >= 3 * 2 * (81 - size[0] * size[1])  # the rest is air
    assert canvas.amin() >= -1 and canvas.amax() <= 1


# Estimates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guidance", "expected"), [(0.0, 0.1), (1.0, 0.3), (3.0, 0.7), (7.5, 1.6)])
def test_guidance_goes_from_the_null_estimate_through_the_conditional_one(guidance: float, expected: float) -> None:
    network = Answer(0.3, 0.1)
    settings = replace(SETTINGS, assembly=SliceAssembly(guidance=guidance))
    estimates = SectionEstimates(Trained(network, LIMITS, settings), given_slice(), VIEWS[0], 50)
    state = torch.randn(estimates.shape, generator=torch.Generator().manual_seed(0))
    alpha, sigma = np.sqrt(alpha_bar("scaled_linear")[999]), np.sqrt(1 - alpha_bar("scaled_linear")[999])
    with torch.inference_mode():
        torch.testing.assert_close(estimates(state, 0), (state - float(sigma) * expected) / float(alpha), atol=1e-3, rtol=1e-4)
    null_calls = sum(not shown.any() for shown in network.shown)
    assert null_calls == (0 if guidance == 1 else 1)  # the conditional estimate alone never asks for the other
    assert estimates.evaluations == (7 if guidance == 1 else 14)


def test_estimates_stay_between_the_intensities_of_training() -> None:
    trained = Trained(Answer(0.0, 0.0), np.array([0, 1.25], np.float32), SETTINGS)
    estimates = SectionEstimates(trained, given_slice(), VIEWS[0], 50)
    with torch.inference_mode():
        clean = estimates(torch.randn(estimates.shape, generator=torch.Generator().manual_seed(0)), 0)
    assert (clean.min(), clean.max()) == (-1, 1.5)  # of 14 times unit noise


def test_every_section_is_drawn_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other noise for one section changes that section alone: there is no state that they share."""
    network, given, changed = random_network(), given_slice(), 3

    class Noise:
        def __init__(self, other: bool) -> None:
            self.rng, self.other = np.random.default_rng(0), other

        def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
            noise = self.rng.standard_normal(shape, dtype=dtype)
            if self.other:
                noise[changed] = -noise[changed]
            return noise

    for solver in ("ddim", "ddpm"):
        trained = Trained(network, LIMITS, replace(SETTINGS, assembly=SliceAssembly(solver=solver)))
        first, second = (draw_turned(trained, given, VIEWS[0], 4, Noise(other))[0] for other in (False, True))
        moved = np.abs(first - second).max(axis=(0, 1, 2))
        assert moved[changed] > 0.1 and np.delete(moved, changed).max() < 1e-4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_turned_volume_has_the_turned_arrays_shape_and_counts_its_sections(axis: int) -> None:
    trained = Trained(random_network(), LIMITS, SETTINGS)
    for turn in VIEWS[:4]:
        volume, evaluations = draw_turned(trained, given_slice(axis), turn, 2, np.random.default_rng(0))
        assert volume.shape[1:] == tuple(SHAPE[p] for p in turn.perm) and np.isfinite(volume).all()
        assert evaluations == 2 * SHAPE[turn.perm[axis]]


def test_targets_are_cut_as_drawn_sections_are_put_back() -> None:
    volume = np.random.default_rng(0).random((1, *SHAPE), dtype=np.float32)
    for axis in range(3):
        given = given_slice(axis)
        for turn in VIEWS:
            turned = turn.volume(volume)
            canvases = cut_turned(volume, given, turn, np.arange(turned.shape[axis + 1]))
            sections = stack(turned, axis)
            np.testing.assert_allclose(from_canvas(canvases, sections.shape[2:]), sections, atol=1e-6)


def test_slice_pose_and_time_all_have_a_say() -> None:
    network, given = random_network(), given_slice()
    rng = torch.Generator().manual_seed(0)
    state, slices = torch.randn(1, 1, 9, 9, generator=rng), to_canvas(torch.from_numpy(given.pixels)[None], 9)
    poses = pose(given, VIEWS[0], np.array([1]))
    t = torch.tensor([500.0])
    changed = ((t, -slices, poses), (t, slices, -poses), (t / 2, slices, poses))
    with torch.inference_mode():
        base = predict_noise(network, state, t, slices, poses)
        others = [predict_noise(network, state, *shown) for shown in changed]
    assert all((base - other).abs().mean() > 1e-3 for other in others)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"base": "core"}, "base"),
        ({"schedule": "cosine"}, "schedule"),
        ({"orientations": 0}, "orientations"),
        ({"assembly": {"views": 6}}, "views: found 6, expected at most the 3"),
        ({"drop": 1.0}, "drop"),
        ({"drop": 0.0, "assembly": {"guidance": 3.0}}, "guidance: found 3.0, expected 1 with drop 0"),
        ({"trunk_channels": [8, 16]}, "trunk_channels"),
    ],
)
def test_parameters_that_the_paper_does_not_have_are_named(params: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        PaperSettings.of(params)
