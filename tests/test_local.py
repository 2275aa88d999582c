"""The local correction: what it sees, that it leaves patients out, that it has no direction but the axis, that it helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import Prepared

from xdiff import local
from xdiff.data.split import patient_of
from xdiff.local import Core, CoreSettings, fit_core, log_distance, openness
from xdiff.observation import Observation, observe
from xdiff.planes import Plane, common_axis, cube_rotations

SETTINGS = CoreSettings(cases=60)


@pytest.fixture(scope="module")
def core(field: Prepared) -> Core:
    return fit_core(field.store, field.split, SETTINGS)


def seen(cohort: Prepared, subject: str, planes: list[Plane]) -> Observation:
    store = cohort.store
    return observe(store.volume(subject), planes, store.contrasts, store.spacing_mm(subject), store.frame, store.norm)


@pytest.mark.parametrize(
    "planes", [[Plane(2, 6)], [Plane(1, 6), Plane(1, 17)], [Plane(0, 4), Plane(0, 10), Plane(0, 15)]], ids=str
)
def test_correction_lowers_the_error_on_fields_it_was_not_fitted_on(field: Prepared, core: Core, planes: list[Plane]) -> None:
    """Nine training fields leave the ridge far from the posterior mean, in the same way everywhere."""
    errors = []
    for subject in field.split.side("test") + field.split.side("val"):
        observation, truth = seen(field, subject, planes), field.store.volume(subject)
        known = core.estimate(observation)
        errors.append([((e - truth) ** 2).mean() for e in (known.gaussian, known.corrected)])
    before, after = np.mean(errors, axis=0)
    assert after < 0.96 * before


def test_given_voxels_keep_their_values_and_the_gaussian_is_the_row(field: Prepared, core: Core) -> None:
    planes = [Plane(2, 5), Plane(2, 12)]
    observation = seen(field, field.split.side("test")[0], planes)
    known = core.estimate(observation)
    np.testing.assert_array_equal(known.gaussian, core.linear.estimate(observation))
    for plane, section in zip(planes, observation.sections, strict=True):
        np.testing.assert_array_equal(plane.cut(known.corrected), section)
    assert np.abs(known.corrected - known.gaussian)[:, ~observation.mask].mean() > 1e-3


def test_spread_is_what_the_training_volumes_do_not_explain(field: Prepared, core: Core) -> None:
    observation = seen(field, field.split.side("test")[0], [Plane(2, 9)])
    known = core.estimate(observation)
    rows = core.linear.rows.reshape(core.linear.n_rows, -1)
    combined = (known.gaussian - known.spread).ravel()
    weights = np.linalg.lstsq(rows.T, combined, rcond=None)[0]
    np.testing.assert_allclose(rows.T @ weights, combined, atol=1e-4)


def test_sections_without_a_common_axis_are_not_corrected(field: Prepared, core: Core) -> None:
    observation = seen(field, field.split.side("test")[0], [Plane(2, 5), Plane(0, 12)])
    known = core.estimate(observation)
    assert common_axis(observation.planes) is None
    np.testing.assert_array_equal(known.corrected, known.gaussian)


def test_a_patient_is_left_out_of_its_own_estimate(field: Prepared, core: Core) -> None:
    """Whatever the training volume of that patient holds, its own estimate does not change; another's does."""
    first, second = field.split.side("train")[:2]
    observation = seen(field, first, [Plane(2, 9)])
    row = core.linear.patients.index(patient_of(first))
    rows = core.linear.rows.copy()
    half = len(rows) // 2
    rows[[row, row + half]] = np.random.default_rng(0).random(rows[:2].shape, dtype=np.float32)
    other = Core(replace(core.linear, rows=rows), core.weights)
    kept = core.estimate(observation, patient_of(first)).corrected
    np.testing.assert_allclose(other.estimate(observation, patient_of(first)).corrected, kept, atol=1e-5)
    assert np.abs(other.estimate(observation, patient_of(second)).corrected - kept).max() > 1e-3


def test_another_visit_of_the_patient_is_left_out_too(core: Core) -> None:
    visits = replace(core.linear, patients=("one", "one", *core.linear.patients[2:]))
    half = visits.n_rows // 2
    assert set(range(visits.n_rows)) - set(visits.without(0).tolist()) == {0, 1, half, half + 1}


@pytest.mark.parametrize("rotation", list(cube_rotations())[::3], ids=str)
def test_correction_has_no_direction_but_the_axis(rotation: object) -> None:
    """Rotating section, estimate and spread by any of the cube's rotations rotates the correction."""
    rng = np.random.default_rng(0)
    shape, plane = (8, 10, 12), Plane(1, 3)
    gaussian, spread, volume = rng.random((3, 1, *shape), dtype=np.float32)
    count = len(list(local.features(observe(volume, [plane], ("a",), (2, 2, 2), "centred"), gaussian, spread, 0, 1)))
    weights = rng.standard_normal((count, 3))

    def correction(volume: np.ndarray, plane: Plane, gaussian: np.ndarray, spread: np.ndarray) -> np.ndarray:
        observation = observe(volume, [plane], ("a",), (2.0, 2.0, 2.0), "centred")
        return local._apply(weights, observation, gaussian, spread, 0, plane.axis)

    straight = correction(volume, plane, gaussian, spread)
    turned = correction(
        np.ascontiguousarray(rotation.volume(volume)),
        rotation.plane(plane, shape),
        np.ascontiguousarray(rotation.volume(gaussian)),
        np.ascontiguousarray(rotation.volume(spread)),
    )
    np.testing.assert_allclose(turned, rotation.volume(straight[None])[0], rtol=1e-3, atol=1e-3)


def test_many_sections_side_by_side_leave_as_much_open_as_one(field: Prepared) -> None:
    subject = field.split.side("test")[0]
    gaussian = np.ones((1, *field.store.shape))
    one, beside, spread = (
        seen(field, subject, planes)
        for planes in ([Plane(2, 9)], [Plane(2, i) for i in range(7, 12)], [Plane(2, i) for i in (1, 5, 9, 13, 17)])
    )
    distances = [log_distance(o, gaussian) for o in (one, beside, spread)]
    assert distances[0] - distances[1] < 0.5 * (distances[0] - distances[2])
    assert distances[0] == pytest.approx(np.log(one.distance_mm.mean()), abs=1e-6)
    np.testing.assert_allclose(openness(one, gaussian), ((distances[0] - 2.2) / 1.2) ** np.arange(3))


def test_core_survives_saving(field: Prepared, core: Core) -> None:
    observation = seen(field, field.split.side("test")[1], [Plane(0, 7)])
    loaded = Core.of(core.tensors())
    np.testing.assert_allclose(loaded.estimate(observation).corrected, core.estimate(observation).corrected, atol=2e-3)


def test_fit_is_a_function_of_its_seed(field: Prepared, core: Core) -> None:
    again, other = fit_core(field.store, field.split, SETTINGS), fit_core(field.store, field.split, SETTINGS, seed=1)
    np.testing.assert_array_equal(again.weights, core.weights)
    assert np.abs(other.weights - core.weights).max() > 1e-3
