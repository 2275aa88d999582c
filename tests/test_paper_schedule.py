"""The paper's schedules and samplers: by hand, against diffusers where it is installed, on Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from baselines.paper_schedule import (
    BETAS,
    Levels,
    alpha_bar,
    ddim_step,
    draw,
    posterior,
    straight_levels,
    timesteps,
    trained_levels,
)
from xdiff.errors import NotSupported


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_schedules_as_published() -> None:
    """The ends by hand; the last products as DDPM and Stable Diffusion are known for."""
    linear, scaled = alpha_bar("linear"), alpha_bar("scaled_linear")
    assert len(linear) == len(scaled) == 1000
    assert linear[0] == pytest.approx(0.9999) and linear[1] == pytest.approx(0.9999 * (1 - 1e-4 - 0.0199 / 999))
    assert scaled[0] == pytest.approx(0.99915)
    assert linear[-1] == pytest.approx(4.0358e-5, rel=1e-3) and scaled[-1] == pytest.approx(0.00466, rel=1e-3)


@pytest.mark.parametrize(("steps", "first", "last"), [(1000, [999, 998], 0), (50, [999, 979], 19), (1, [999], 999)])
def test_timesteps_fall_from_the_noisiest_in_equal_strides(steps: int, first: list[int], last: int) -> None:
    found = timesteps(steps).tolist()
    assert found[:2] == first and found[-1] == last and len(found) == steps


@pytest.mark.parametrize("steps", [2, 3, 7, 199, 333, 501, 667, 750, 999])
def test_any_number_of_steps_has_as_many_different_timesteps(steps: int) -> None:
    found = timesteps(steps)
    assert len(set(found.tolist())) == steps == trained_levels(steps, "linear").steps
    assert found[0] == 999 and found[-1] >= 0 and (np.diff(found) < 0).all()


@pytest.mark.parametrize("steps", [0, 1001])
def test_more_steps_than_were_trained_are_not_supported(steps: int) -> None:
    with pytest.raises(NotSupported, match=f"{steps} steps of a schedule of 1000"):
        timesteps(steps)


@pytest.mark.parametrize("levels", [trained_levels(50, "scaled_linear"), trained_levels(199, "linear"), straight_levels(9)])
def test_levels_rise_to_the_clean_image(levels: Levels) -> None:
    assert (np.diff(levels.alpha) > 0).all() and (np.diff(levels.sigma) < 0).all()
    assert (levels.alpha[-1], levels.sigma[-1]) == (1, 0)


def test_one_step_by_hand() -> None:
    state, clean, now, later = torch.tensor(1.0), torch.tensor(0.5), (0.6, 0.8), (0.8, 0.6)
    assert ddim_step(state, clean, now, later).item() == pytest.approx(0.8 * 0.5 + 0.6 * 0.875)  # noise (1 - 0.6 * 0.5) / 0.8
    mean, std = posterior(state, clean, now, later)
    # of the ratio 0.75 and the variance 0.64 - 0.75^2 * 0.36 = 0.4375 between the levels
    assert mean.item() == pytest.approx(0.75 * 0.36 / 0.64 + 0.8 * 0.4375 / 0.64 * 0.5)
    assert std == pytest.approx((0.4375 * 0.36 / 0.64) ** 0.5)


def test_ddpm_steps_are_those_of_its_equation() -> None:
    """2006.11239, eq. 7, written with betas."""
    left, t = alpha_bar("linear"), 400
    beta = 1 - left[t] / left[t - 1]
    levels = [(np.sqrt(left[i]), np.sqrt(1 - left[i])) for i in (t, t - 1)]
    mean, std = posterior(torch.tensor(0.7).double(), torch.tensor(-0.2).double(), *levels)
    expected = np.sqrt(left[t - 1]) * beta / (1 - left[t]) * -0.2 + np.sqrt(1 - beta) * (1 - left[t - 1]) / (1 - left[t]) * 0.7
    assert mean.item() == pytest.approx(expected) and std == pytest.approx(np.sqrt((1 - left[t - 1]) / (1 - left[t]) * beta))


MIDDLE, WIDE = 0.4, 0.5


@pytest.mark.parametrize("levels", ["linear", "scaled_linear", "straight"])
@pytest.mark.parametrize(("solver", "steps"), [("ddim", 199), ("ddpm", 1000)])
def test_perfect_denoiser_of_a_gaussian_draws_that_gaussian(levels: str, solver: str, steps: int) -> None:
    chosen = straight_levels(steps) if levels == "straight" else trained_levels(steps, levels)
    calls = []

    def clean(state: torch.Tensor, step: int) -> torch.Tensor:
        alpha, sigma = float(chosen.alpha[step]), float(chosen.sigma[step])
        calls.append(step)
        return MIDDLE + alpha * WIDE**2 / (alpha**2 * WIDE**2 + sigma**2) * (state - alpha * MIDDLE)

    rng = generator()
    drawn = draw(clean, torch.randn(20000, generator=rng), chosen, solver, lambda: torch.randn(20000, generator=rng))
    assert calls == list(range(steps))
    # a draw starts from N(0, 1) where the forward process would be at alpha * MIDDLE
    missing = WIDE * chosen.alpha[0] * MIDDLE if solver == "ddim" else 0.0
    assert drawn.mean().item() == pytest.approx(MIDDLE - missing, abs=0.015)
    assert drawn.std().item() == pytest.approx(WIDE, rel=0.03)


def test_ddim_needs_no_new_noise_and_ddpm_all_of_it_but_the_last() -> None:
    levels, noise = trained_levels(7, "linear"), torch.randn(5, generator=generator())
    drawn, asked = {}, {"ddim": 0, "ddpm": 0}

    def fresh(solver: str) -> torch.Tensor:
        asked[solver] += 1
        return torch.zeros(5)

    for solver in asked:
        drawn[solver] = draw(lambda state, _: 0.5 * state, noise, levels, solver, lambda s=solver: fresh(s))
    assert asked == {"ddim": 0, "ddpm": 6}
    assert not torch.allclose(drawn["ddim"], drawn["ddpm"])


@pytest.mark.parametrize("schedule", list(BETAS))
@pytest.mark.parametrize(("solver", "steps"), [("ddim", 50), ("ddim", 8), ("ddpm", 50), ("ddpm", 1000)])
def test_draws_are_those_of_diffusers(schedule: str, solver: str, steps: int) -> None:
    diffusers = pytest.importorskip("diffusers", reason="optional: pip install xdiff[official]")
    start, end = BETAS[schedule]
    common = {"beta_schedule": schedule, "beta_start": start, "beta_end": end, "clip_sample": False}
    common |= {"timestep_spacing": "trailing", "prediction_type": "sample"}
    if solver == "ddim":
        scheduler = diffusers.DDIMScheduler(**common, set_alpha_to_one=True)
    else:
        scheduler = diffusers.DDPMScheduler(**common, variance_type="fixed_small")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == timesteps(steps).tolist()
    start_noise, theirs_rng, ours_rng = torch.randn(1, 1, 8, 8, generator=generator(1)), generator(2), generator(2)
    theirs = start_noise
    for t in scheduler.timesteps:
        theirs = scheduler.step(torch.tanh(theirs), t, theirs, generator=theirs_rng).prev_sample
    levels = trained_levels(steps, schedule)
    ours = draw(
        lambda x, _: torch.tanh(x), start_noise, levels, solver, lambda: torch.randn(start_noise.shape, generator=ours_rng)
    )
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
