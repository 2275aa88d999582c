"""The local correction: what it sees, that it leaves patients out, that it has no direction but the axis, that it helps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import core_of
from conftest import Prepared, prepare

from xdiff import local_fit
from xdiff.config import Cohort, Grid, SplitRule
from xdiff.data.gaussian_field import write_gaussian_field
from xdiff.data.split import patient_of
from xdiff.errors import InputError
from xdiff.local import LEAST_STD, Core, LocalNetwork, features, log_distance
from xdiff.local_fit import Case, CoreSettings, fit_core, train_network
from xdiff.observation import Observation, observe
from xdiff.planes import AnyPlane, Plane, cut
from xdiff.stacks import tilted_stack
from xdiff.view import View

SETTINGS = CoreSettings(cases=120, voxels=2500, steps=500, width=32)


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """48 Gaussian fields of 18 x 18 x 16 voxels at 4 mm: 36 train, 6 val, 6 test."""
    folder = tmp_path_factory.mktemp("fields")
    write_gaussian_field(folder / "raw", n_subjects=48, seed=3, shape=(18, 18, 16), spacing_mm=4.0)
    cohort = Cohort("gaussian-field", ("field",), foreground="all", norm="none", split=SplitRule(n_val=6, n_test=6))
    return prepare(cohort, Grid((18, 18, 16), 4.0), ("gaussian-field", "tiny"), folder / "raw", folder / "data")


@pytest.fixture(scope="module")
def core(field: Prepared) -> Core:
    return fit_core(field.store, field.split, SETTINGS)


def seen(cohort: Prepared, subject: str, planes: list[Plane]) -> Observation:
    store = cohort.store
    return observe(store.volume(subject), planes, store.contrasts, store.spacing_mm(subject), store.frame, store.norm)


def test_correction_lowers_the_error_on_fields_it_was_not_fitted_on(field: Prepared, core: Core) -> None:
    """Thirty-six training fields leave the ridge far from the posterior mean, in the same way everywhere."""
    ratios = []
    for planes in (
        [Plane(2, 6)],
        [Plane(2, 4), Plane(2, 11)],
        [Plane(1, 5), Plane(1, 13)],
        [Plane(0, 4), Plane(0, 10), Plane(0, 15)],
    ):
        errors = []
        for subject in field.split.side("test"):
            observation, truth = seen(field, subject, planes), field.store.volume(subject)
            known = core.estimate(observation)
            errors.append([((e - truth) ** 2).mean() for e in (known.gaussian, known.corrected)])
        before, after = np.mean(errors, axis=0)
        ratios.append(after / before)
    assert np.mean(ratios) < 0.96 and min(ratios) < 0.93 and max(ratios) < 1.04


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


SEVERAL = {
    "mixed": [Plane(2, 5), Plane(2, 11), Plane(0, 12), Plane(1, 8)],
    "thick": [Plane(2, 3, 2.0), Plane(2, 11, 3.5)],
    "thick mixed": [Plane(2, 5, 2.0), Plane(0, 12, 2.5)],
    "tilted": tilted_stack(2, 3, np.ones((18, 18, 16), dtype=bool), (4.0, 4.0, 4.0)),
}


@pytest.mark.parametrize("planes", SEVERAL.values(), ids=SEVERAL)
def test_mixed_thick_and_tilted_sections_are_corrected_too_and_met(field: Prepared, core: Core, planes: list[AnyPlane]) -> None:
    errors = []
    for subject in field.split.side("test"):
        observation, truth = seen(field, subject, planes), torch.from_numpy(field.store.volume(subject))
        view, known = core.known(observation)
        assert torch.equal(known.corrected[view.known], truth[view.known])
        for found, given in zip(cut(known.corrected.numpy(), planes), observation.sections, strict=True):
            np.testing.assert_allclose(found, given, atol=1e-4)
        hidden = ~view.known
        assert (known.corrected - known.gaussian)[hidden].abs().mean() > 1e-3
        assert (known.std > 0).all() and known.std.shape == known.corrected.shape == truth.shape
        errors.append([((e - truth)[hidden] ** 2).mean() for e in (known.gaussian, known.corrected)])
    before, after = np.mean(errors, axis=0)
    assert after / before < 1.02


def test_an_estimate_is_what_is_known_as_arrays(field: Prepared, core: Core) -> None:
    observation = seen(field, field.split.side("test")[0], [Plane(2, 5)])
    view, known = core.known(observation)
    assert view.planes == observation.planes and torch.equal(view.evidence, torch.from_numpy(observation.evidence))
    for one, other in zip(core.estimate(observation), known, strict=True):
        assert isinstance(one, np.ndarray)
        np.testing.assert_array_equal(one, other)


# What methods start from --------------------------------------------------------------------------------------------


def test_base_gaussian_leaves_the_correction_out_and_keeps_its_standard_deviation(field: Prepared, core: Core) -> None:
    observation = seen(field, field.split.side("test")[0], [Plane(2, 5), Plane(2, 11)])
    full, plain = core.estimate(observation), replace(core, base="gaussian").estimate(observation)
    np.testing.assert_array_equal(plain.corrected, full.gaussian)
    for name in ("gaussian", "spread", "std"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(full, name))
    assert not np.array_equal(full.corrected, full.gaussian)


@pytest.mark.parametrize("planes", [[Plane(2, 5), Plane(2, 11)], SEVERAL["thick"]], ids=["thin", "thick"])
def test_base_none_is_the_training_mean_with_the_sections_put_in(field: Prepared, core: Core, planes: list[Plane]) -> None:
    """At the brightness that fits the gaussian estimate best; the patient's own volumes are left out of mean and deviation."""
    subject = field.split.side("train")[2]
    observation = seen(field, subject, planes)
    found = replace(core, base="none").estimate(observation, patient_of(subject))
    row, half = core.linear.patients.index(patient_of(subject)), core.linear.n_rows // 2
    rows = np.delete(core.linear.rows, [row, row + half], axis=0).astype(np.float64)
    mean = rows.mean(axis=0)
    bright = (found.gaussian * mean).sum() / (mean**2).sum()
    where = ~(observation.known[0] if all(p.thin for p in planes) else observation.mask)
    np.testing.assert_allclose(found.corrected[:, where], bright * mean[:, where], rtol=1e-4)
    np.testing.assert_allclose(found.std, bright * rows.std(axis=0), rtol=1e-3)
    assert not found.spread.any()
    for plane, section in zip(planes, observation.sections, strict=True):
        np.testing.assert_allclose(plane.cut(found.corrected), section, atol=1e-5)


def test_an_unknown_base_is_refused(core: Core) -> None:
    with pytest.raises(InputError, match="params.base: found 'mean', expected one of"):
        replace(core, base="mean")


# Some of the contrasts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["core", "gaussian", "none"])
@pytest.mark.parametrize("planes", [[Plane(2, 9)], [Plane(2, 8, 2.5)], [Plane(2, 8), Plane(1, 12)]], ids=str)
def test_a_contrast_that_is_not_given_is_estimated_and_not_put_to_zero(heads: Prepared, base: str, planes: list[Plane]) -> None:
    """Not at the given sections either, whose pixels are zero in it."""
    core, store, subject = replace(core_of(heads), base=base), heads.store, heads.split.side("test")[0]
    volume = store.volume(subject)
    observation = observe(volume, planes, store.contrasts, (2.0, 2.0, 2.0), store.frame, store.norm, ["T1w"])
    view, known = core.known(observation)
    for plane, section in zip(planes, observation.sections, strict=True):
        found = plane.cut(known.corrected.numpy())
        np.testing.assert_allclose(found[0], section[0], atol=1e-4)
        inside = plane.cut(store.foreground(subject)[None].astype(np.float32))[0] == 1
        assert found[1][inside].mean() > 0.3  # of a head whose 99.5th percentile is 1
    assert not view.known[1].any() and not view.interpolated[1].any()


def test_what_is_not_given_shows_in_the_features_of_its_contrast(heads: Prepared) -> None:
    store, (g, s, mean, std) = heads.store, torch.rand(4, 2, 24, 28, 22, generator=torch.Generator().manual_seed(0))
    every, one = (
        View.of(observe(store.volume(store.subjects[0]), [Plane(2, 9)], store.contrasts, (2.0,) * 3, store.frame, given=given))
        for given in (None, ["T2w"])
    )
    for contrast, changed in ((0, True), (1, False)):
        pairs = zip(*(features(view, g, s, (mean, std), contrast) for view in (every, one)), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs) == changed
    assert sum(f.numel() == 1 and bool((f == 0).all()) for f in features(one, g, s, (mean, std), 0)) >= 1


# Whose volumes it knows ---------------------------------------------------------------------------------------------


def test_a_patient_is_left_out_of_its_own_estimate(field: Prepared, core: Core) -> None:
    """Whatever the training volume of that patient holds, its own estimate does not change; another's does."""
    first, second = field.split.side("train")[:2]
    observation = seen(field, first, [Plane(2, 9)])
    row = core.linear.patients.index(patient_of(first))
    rows = core.linear.rows.copy()
    half = len(rows) // 2
    rows[[row, row + half]] = np.random.default_rng(0).random(rows[:2].shape, dtype=np.float32)
    other = Core(replace(core.linear, rows=rows), core.network)
    kept = core.estimate(observation, patient_of(first)).corrected
    np.testing.assert_allclose(other.estimate(observation, patient_of(first)).corrected, kept, atol=1e-5)
    assert np.abs(other.estimate(observation, patient_of(second)).corrected - kept).max() > 1e-3


def test_another_visit_of_the_patient_is_left_out_too(core: Core) -> None:
    visits = replace(core.linear, patients=("one", "one", *core.linear.patients[2:]))
    half = visits.n_rows // 2
    assert set(range(visits.n_rows)) - set(visits.without(0).tolist()) == {0, 1, half, half + 1}


def test_features_do_not_know_left_from_right(field: Prepared, core: Core) -> None:
    """Of a mirrored section they are the mirror image. (Front and back, up and down they know.)"""
    subject = field.split.side("test")[0]
    volume, store = field.store.volume(subject), field.store

    def of(volume: np.ndarray, maps: list[np.ndarray]) -> list[np.ndarray]:
        planes = [Plane(2, 5), Plane(2, 11)]
        observation = observe(volume, planes, store.contrasts, (4.0, 4.0, 4.0), store.frame, store.norm)
        gaussian, spread, mean, std = (torch.from_numpy(np.ascontiguousarray(m)) for m in maps)
        found = features(View.of(observation), gaussian, spread, (mean, std), 0)
        return [f.expand(store.shape).numpy() for f in found]

    maps = list(np.random.default_rng(0).random((4, *volume.shape), dtype=np.float32))
    straight, mirrored = of(volume, maps), of(volume[:, ::-1], [m[:, ::-1] for m in maps])
    assert len(straight) == core.network.middle.numel()
    for one, other in zip(straight, mirrored, strict=True):
        np.testing.assert_allclose(other[::-1], one, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nearest_sections_are_found_on_either_side(field: Prepared, axis: int) -> None:
    """Distance, what was missed and what is shown, at the full scale; nothing beyond the outermost sections."""
    store, (low, high) = field.store, (4, 11)
    observation = seen(field, field.split.side("test")[0], [Plane(axis, high), Plane(axis, low)])
    g, s, mean, std = (np.random.default_rng(i).random((1, *store.shape), dtype=np.float32) for i in range(4))
    tensors = [torch.from_numpy(a) for a in (g, s, mean, std)]
    columns = features(View.of(observation), *tensors[:2], tuple(tensors[2:]), 0)
    found = [np.moveaxis(f.expand(store.shape).numpy(), axis, 0) for f in columns]
    g, s = np.moveaxis(g[0], axis, 0), np.moveaxis(s[0], axis, 0)

    def holds(distance: float, section: int | None, row: int) -> bool:
        blank = np.zeros_like(g[0])
        missed, shown = (blank, blank) if section is None else (s[section], g[section])
        return any(
            np.allclose(d[row], distance) and np.array_equal(e[row], missed) and np.array_equal(v[row], shown)
            for d, e, v in zip(found, found[1:], found[5:], strict=False)
        )

    assert holds(12 / 40, low, 7) and holds(16 / 40, high, 7)
    assert holds(8 / 40, low, 2) and holds(1.5, None, 2)
    assert holds(8 / 40, high, 13) and holds(1.5, None, 13)


def test_many_sections_side_by_side_leave_as_much_open_as_one(field: Prepared) -> None:
    subject = field.split.side("test")[0]
    gaussian = torch.ones(1, *field.store.shape)
    one, beside, spread = (
        seen(field, subject, planes)
        for planes in ([Plane(2, 9)], [Plane(2, i) for i in range(7, 12)], [Plane(2, i) for i in (1, 4, 8, 11, 14)])
    )
    distances = [log_distance(View.of(o), gaussian) for o in (one, beside, spread)]
    assert distances[0] - distances[1] < 0.5 * (distances[0] - distances[2])
    assert distances[0] == pytest.approx(np.log(one.distance_mm.mean()), abs=1e-6)


def test_core_survives_saving(field: Prepared, core: Core) -> None:
    observation = seen(field, field.split.side("test")[1], [Plane(0, 7)])
    loaded = Core.of(core.tensors())
    np.testing.assert_allclose(loaded.estimate(observation).corrected, core.estimate(observation).corrected, atol=2e-3)


@pytest.mark.slow
def test_fit_is_a_function_of_its_seed(field: Prepared, core: Core) -> None:
    again, other = fit_core(field.store, field.split, SETTINGS), fit_core(field.store, field.split, SETTINGS, seed=1)
    for name, value in core.tensors().items():
        np.testing.assert_array_equal(again.tensors()[name], value)
    assert np.abs(other.tensors()["local.body.0.weight"] - core.tensors()["local.body.0.weight"]).max() > 1e-3


@pytest.mark.slow
def test_a_training_that_resumes_takes_the_core_that_it_began_with(
    field: Prepared, core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And knows whose volumes it holds: they are left out by name."""
    first = fit_core(field.store, field.split, SETTINGS, tmp_path)
    monkeypatch.setattr(local_fit, "fit", lambda *_, **__: pytest.fail("fitted again"))
    second = fit_core(field.store, field.split, SETTINGS, tmp_path)
    assert second.linear.patients == first.linear.patients == core.linear.patients
    subject = field.split.side("train")[0]
    observation = seen(field, subject, [Plane(2, 9)])
    ours, theirs = (c.estimate(observation, patient_of(subject)).corrected for c in (first, second))
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert np.abs(second.estimate(observation).corrected - theirs).max() > 1e-2


def test_standard_deviation_is_that_of_the_error(field: Prepared, core: Core) -> None:
    """On fields that neither correction nor standard deviation was fitted on, near the given section and far from it."""
    near, far, least = [], [], []
    for subject in field.split.side("test"):
        observation, truth = seen(field, subject, [Plane(2, 8)]), field.store.volume(subject)
        known = core.estimate(observation)
        z = ((truth - known.corrected) / known.std)[0]
        near.append((z[..., [7, 9]] ** 2).mean())
        far.append((z[..., [0, 1, 14, 15]] ** 2).mean())
        least.append(known.std.min() / np.sqrt((known.std**2).mean()))
        assert known.std[0, ..., [7, 9]].mean() < 0.8 * known.std[0, ..., [0, 15]].mean()
    assert np.sqrt(np.mean(near)) == pytest.approx(1, abs=0.25)
    assert np.sqrt(np.mean(far)) == pytest.approx(1, abs=0.25)
    assert min(least) >= 0.99 * LEAST_STD


def test_network_finds_mean_and_standard_deviation_of_a_known_law() -> None:
    """Residual 0.3 x^2 with noise of 0.05 e^y, from features x and y; a case a hundred times as loud counts the same."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(40):
        x, y = rng.standard_normal((2, 1, 400)).astype(np.float32)
        loud = 1.0 if number % 2 else 100.0
        z = np.full_like(x, loud == 1)
        wanted = loud * (0.3 * x * x + 0.05 * np.exp(y) * rng.standard_normal(x.shape)).astype(np.float32)
        cases.append(Case(np.stack([x, y, z], axis=-1), wanted, float((wanted**2).mean())))
    network = train_network(cases, CoreSettings(steps=1500, width=32), 0)
    x, y = np.meshgrid([-1.5, 0.0, 1.0], [-1.0, 0.5], indexing="ij")
    columns = torch.from_numpy(np.stack([x.ravel(), y.ravel(), np.ones(6)], axis=1).astype(np.float32))
    mean, log_std = network.unit * network(columns).detach().T[0], network(columns).detach().T[1]
    np.testing.assert_allclose(mean, 0.3 * x.ravel() ** 2, atol=0.15)
    assert isinstance(network, LocalNetwork) and (log_std[1::2] > log_std[::2]).all()
