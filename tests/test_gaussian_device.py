"""The estimate made on a device is the one of gaussian.py, whatever is given; cases drawn there are those drawn elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from columns import plain_core
from conftest import Prepared

from xdiff.draws import Draws, DrawSettings
from xdiff.gaussian_device import DeviceGaussian, supports
from xdiff.local import Core
from xdiff.observation import Observation, observe
from xdiff.planes import AnyPlane, Plane
from xdiff.resident import observe_on
from xdiff.stacks import tilted_stack

GIVEN = {
    "one": [Plane(2, 9)],
    "several, out of order": [Plane(1, 14), Plane(1, 5), Plane(1, 9)],
    "crossing": [Plane(2, 9), Plane(0, 7), Plane(1, 12)],
    "thick": [Plane(2, 5, 2.5), Plane(2, 12, 3.0)],
    "thick and thin": [Plane(0, 5, 2.5), Plane(0, 12)],
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def core(cohort: Prepared) -> Core:
    return plain_core(cohort.store, cohort.split)


def both(cohort: Prepared, planes: list[AnyPlane], given: list[str] | None) -> tuple[Observation, tuple]:
    """A test subject observed on the CPU, and on a device."""
    store, subject = cohort.store, cohort.split.side("test")[0]
    volume, spacing = store.volume(subject), store.spacing_mm(subject)
    carried = torch.tensor([given is None or name in given for name in store.contrasts])
    there = observe_on(torch.from_numpy(volume), planes, spacing, store.norm, carried)
    return observe(volume, planes, store.contrasts, spacing, store.frame, store.norm, given), there


@pytest.mark.parametrize("fewer", [False, True], ids=["all contrasts", "the last one"])
@pytest.mark.parametrize("planes", GIVEN.values(), ids=GIVEN)
def test_observation_and_estimate_are_those_of_the_cpu(cohort: Prepared, core: Core, planes: list[AnyPlane], fewer: bool) -> None:
    observation, (view, sections, scale) = both(cohort, planes, [cohort.store.contrasts[-1]] if fewer else None)
    np.testing.assert_allclose(scale, observation.scale, rtol=1e-5)
    for name in ("evidence", "mask", "known", "distance_mm"):
        np.testing.assert_allclose(getattr(view, name), getattr(observation, name), atol=1e-5, err_msg=name)
    for one, other in zip(sections, observation.sections, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    keep = core.linear.without(0)
    expected = core.linear.estimate_parts(observation, keep)
    for one, other in zip(DeviceGaussian(core.linear, CPU).estimate_parts(view, sections, keep), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-4)


def test_oblique_sections_and_thick_ones_of_several_axes_are_left_to_the_cpu() -> None:
    tilted = tilted_stack(2, 2, np.ones((20, 24, 18), bool), (4.0, 4.0, 4.0))
    assert not supports(tilted) and not supports([Plane(2, 9, 2.0), Plane(0, 5, 2.0)])
    assert all(supports(planes) for planes in GIVEN.values())


def test_a_case_drawn_on_the_device_is_the_one_drawn_elsewhere(cohort: Prepared, core: Core) -> None:
    """To the rounding of resident volumes to 8 bits; of all kinds of given sections."""
    settings = replace(DrawSettings(), orthogonal=0.3, tilted=0.2, thick=0.3)
    train = cohort.split.side("train")
    here, there = (Draws(cohort.store, train, core, settings, resident) for resident in (False, True))
    kinds = set()
    for seed in range(16):
        one, other = (draws.one(np.random.default_rng(seed)) for draws in (here, there))
        assert one.view.planes == other.view.planes and torch.equal(one.view.given, other.view.given)
        assert torch.equal(one.foreground, other.foreground)
        level = np.ptp(cohort.store.volume(train[0])) / 255 / float(one.truth.std())
        for a, b in zip((one.truth, *one.known[:3]), (other.truth, *other.known[:3]), strict=True):
            assert float((a - b).square().mean().sqrt()) < level * float(one.truth.std())
        kinds.add((supports(one.view.planes), one.view.exact, len(one.view.sides)))
    assert {k[0] for k in kinds} == {True, False} and {k[1] for k in kinds} == {True, False} and len({k[2] for k in kinds}) > 1
