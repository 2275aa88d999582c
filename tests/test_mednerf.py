"""The neural field: it learns heads and finds an unseen one from its sections, which come back exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Prepared, observe_test, prepare

from baselines import mednerf
from baselines.mednerf import AutoDecoding, FieldReconstructor, Settings
from baselines.trivial import Trivial
from xdiff.config import Cohort, Grid, MethodEntry, SplitRule
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import training_rows
from xdiff.metrics.core import by_region, regions
from xdiff.observation import Observation, observe
from xdiff.planes import ObliquePlane, Plane
from xdiff.train import train
from xdiff.volumes import write_volume

SHAPE = (13, 16, 11)
SMALL = {"latent": 4, "width": 32, "depth": 2, "grid_mm": [16, 8], "grid_features": 4}
LOOP = {"steps": 400, "learning_rate": 0.01, "validate_every": 400, "ema": 0.95, "validate_subjects": 0}
PARAMS = {"network": SMALL, "volumes": 24, "voxels": 96, **LOOP}
ALONE = {
    "prior": False,
    "network": {"width": 48, "grid_mm": []},
    "fit": {"weights_iterations": 120, "weights_learning_rate": 5e-3},
}
OBLIQUE = ObliquePlane((11.0, 13.0, 10.0), (1.0, 0.0, 0.1), (0.0, 1.0, 0.2), (19, 23))


@pytest.fixture(scope="module")
def ellipsoids(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """18 ellipsoids of 13 x 16 x 11 voxels at 4 mm: how large one is, it is along all axes, and one is the brighter in its middle
    the smaller it is; 12 train, 2 val, 4 test."""
    folder = tmp_path_factory.mktemp("ellipsoids")
    lines = (np.linspace(-1.3, 1.3, n) for n in SHAPE)
    square = sum(line**2 for line in np.meshgrid(*lines, indexing="ij"))
    for i in range(18):
        size = 0.7 + 0.5 * ((7 * i) % 18) / 17
        image = np.where(square < size, 500 * (1 - (square / size) / (1 + size)), 0)
        path = folder / f"raw/sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz"
        write_volume(path, image.astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    cohort = Cohort("bids", ("T1w",), split=SplitRule(n_val=2, n_test=4), source="here (CC0)")
    return prepare(cohort, Grid(SHAPE, 4.0), ("ellipsoids", "4mm"), folder / "raw", folder / "data")


def made(cohort: Prepared, params: dict, out: Path) -> FieldReconstructor:
    """Trained, written and loaded again by the harness."""
    train("mednerf", MethodEntry("baselines.mednerf", params), cohort.store, cohort.split, out)
    return mednerf.load(out)


@pytest.fixture(scope="module")
def trained(ellipsoids: Prepared, tmp_path_factory: pytest.TempPathFactory) -> FieldReconstructor:
    return made(ellipsoids, PARAMS, tmp_path_factory.mktemp("trained") / "mednerf")


@pytest.fixture(scope="module")
def untrained(cohort: Prepared, tmp_path_factory: pytest.TempPathFactory) -> FieldReconstructor:
    """A field of `heads` or of Gaussian fields after no step of training."""
    params = {"network": SMALL, "steps": 0, "validate_subjects": 0}
    return made(cohort, params, tmp_path_factory.mktemp("untrained") / "mednerf")


def volume_of(method: FieldReconstructor | Trivial, observation: Observation, seed: int = 0) -> np.ndarray:
    volume, std, evaluations = method.reconstruct(observation, 1, "mean", np.random.default_rng(seed))
    assert std is None and evaluations == 0
    return volume


def unseen_db(cohort: Prepared, method: FieldReconstructor | Trivial, planes: list[Plane]) -> float:
    """Mean PSNR (region unseen) over the test side."""
    store, found = cohort.store, []
    for subject in cohort.split.side("test"):
        truth = store.volume(subject)
        observation = observe(truth, planes, store.contrasts, store.spacing_mm(subject), store.frame, store.norm)
        where = {"unseen": regions(store.foreground(subject), observation.mask, None)["unseen"]}
        volume = volume_of(method, observation) * observation.scale[:, None, None, None]
        found.append(by_region(truth[0], volume[0], where)[0][2])
    return float(np.mean(found))


# Learning -----------------------------------------------------------------------------------------------------------


def test_a_trained_field_beats_what_knows_less(ellipsoids: Prepared, trained: FieldReconstructor, tmp_path: Path) -> None:
    """From one section: an empty volume, the mean of the training volumes, itself before training, a field without a prior."""
    store, split = ellipsoids.store, ellipsoids.split
    mean = np.mean([store.volume(s) for s in split.side("train")], axis=0)
    less = {
        "zeros": Trivial("zeros", {}),
        "mean_template": Trivial("mean_template", {"mean": mean}),
        "untrained": made(ellipsoids, {**PARAMS, "steps": 0}, tmp_path / "untrained"),
        "alone": made(ellipsoids, ALONE, tmp_path / "alone"),
    }
    planes = [Plane(2, 5)]
    ours, scores = unseen_db(ellipsoids, trained, planes), {name: unseen_db(ellipsoids, m, planes) for name, m in less.items()}
    assert all(ours > score + 2 for score in scores.values()), (ours, scores)


def plain_fit(store: Store, split: Split, max_volumes: int) -> LinearGaussian:
    """In place of gaussian_fit.fit, which takes seconds: without cross-validation."""
    return LinearGaussian(training_rows(store, split.side("train"), max_volumes)[0])


def test_history_has_the_gaussian_row_beside_it(ellipsoids: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mednerf.gaussian_fit, "fit", plain_fit)
    made(ellipsoids, {**PARAMS, "steps": 20, "validate_every": 20, "validate_k": [1, 3], "validate_subjects": 1}, tmp_path / "m")
    first, last = (json.loads(line) for line in (tmp_path / "m/history.jsonl").read_text().splitlines())
    assert set(first["validation"]) == {"1", "3"} and last["loss"] < first["loss"]
    gains = [k["psnr"] - k["gaussian"] for k in last["validation"].values()]
    assert last["score"] == pytest.approx(np.mean(gains), abs=1e-3)


def test_no_test_subject_is_read_in_training(ellipsoids: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mednerf.gaussian_fit, "fit", plain_fit)
    read, own = [], type(ellipsoids.store).volume
    monkeypatch.setattr(type(ellipsoids.store), "volume", lambda store, subject: read.append(subject) or own(store, subject))
    mednerf.train(ellipsoids.store, ellipsoids.split, {**PARAMS, "steps": 0, "copies": 1, "validate_subjects": 2}, tmp_path)
    assert set(read) == {*ellipsoids.split.side("train"), *ellipsoids.split.side("val")}


def problem_of(cohort: Prepared, **changes: object) -> AutoDecoding:
    settings = Settings.of({**PARAMS, **changes})
    volumes = mednerf.training_volumes(cohort.store, cohort.split, settings)
    frame = mednerf.Frame(cohort.store.shape, mednerf.spacing_of(cohort.store.info))
    gain = mednerf.measured_gain(cohort.store, cohort.split.side("train"), torch.device("cpu"))
    return AutoDecoding(volumes, frame, gain, [], settings)


def test_a_batch_holds_values_at_its_points_and_is_a_function_of_the_step(heads: Prepared) -> None:
    problem = problem_of(heads, volumes=4, voxels=50)
    volumes = mednerf.training_volumes(heads.store, heads.split, problem.settings)
    chosen, points, values = problem.batch(3)
    assert (chosen.shape, points.shape, values.shape) == ((4,), (4, 50, 3), (4, 50, 2))
    x, y, z = points.long().unbind(-1)
    assert torch.equal(values, volumes[chosen[:, None], :, x, y, z].float())
    assert all(torch.equal(a, b) for a, b in zip(problem.batch(3), (chosen, points, values), strict=True))
    assert not torch.equal(problem.batch(4)[1], points)
    assert (values == 0).all(dim=2).float().mean() > 0.05  # the background is to be learned, too


def test_copies_come_with_codes_of_their_own(heads: Prepared) -> None:
    problem = problem_of(heads, copies=2)
    training = len(heads.split.side("train"))
    assert len(problem.values) == len(problem.network.codes) == 4 * training
    volumes = mednerf.training_volumes(heads.store, heads.split, problem.settings)
    assert torch.equal(volumes[training], volumes[0].flip(1))
    nearest = [(volumes[: 2 * training] - copy).abs().float().mean(dim=(1, 2, 3, 4)).min() for copy in volumes[2 * training :]]
    assert min(nearest) > 1e-4


def test_the_gain_is_what_sections_are_brighter_than_their_volume(heads: Prepared, field: Prepared) -> None:
    gain = problem_of(heads).gain
    assert gain.mean.shape == gain.std.shape == (2,) and (gain.std > 0).all() and gain.mean.abs().max() < 0.2
    raw = problem_of(field).gain  # intensities are not scaled there
    assert not raw.mean.any() and not raw.std.any()


# Given sections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", [[Plane(2, 6), Plane(2, 13)], [Plane(0, 9), Plane(2, 11)]], ids=str)
def test_given_sections_come_back_bit_exact(cohort: Prepared, untrained: FieldReconstructor, planes: list[Plane]) -> None:
    observation = observe_test(cohort, planes)
    volume = volume_of(untrained, observation)
    assert volume.shape == (len(cohort.store.contrasts), *cohort.store.shape) and volume.dtype == np.float32
    np.testing.assert_array_equal(volume[:, observation.mask], observation.evidence[:, observation.mask])


@pytest.mark.parametrize("planes", [[Plane(2, 5, 2.5), Plane(2, 12, 2.5)], [OBLIQUE]], ids=["thick", "oblique"])
def test_averages_are_met(cohort: Prepared, untrained: FieldReconstructor, planes: list) -> None:
    observation = observe_test(cohort, planes)
    volume = volume_of(untrained, observation)
    for plane, section in zip(planes, observation.sections, strict=True):
        np.testing.assert_allclose(plane.cut(volume), section, atol=2e-3)


def test_a_contrast_that_is_not_given_is_predicted_from_the_other(heads: Prepared, tmp_path: Path) -> None:
    method = made(heads, PARAMS, tmp_path / "m")
    store, subject, planes = heads.store, heads.split.side("test")[0], [Plane(2, 11)]
    observation = observe(store.volume(subject), planes, store.contrasts, store.spacing_mm(subject), "centred", given=["T2w"])
    volume, truth = volume_of(method, observation), store.volume(subject)
    np.testing.assert_array_equal(volume[1, :, :, 11], observation.sections[0][1])
    assert ((volume[0] - truth[0]) ** 2).mean() < 0.2 * (truth[0] ** 2).mean()  # in units of its own scale


def test_the_generator_decides(ellipsoids: Prepared, trained: FieldReconstructor) -> None:
    observation = observe_test(ellipsoids, [Plane(2, 5)])
    first, again, other = (volume_of(trained, observation, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 0 < np.abs(first - other).mean() < 0.05


def test_reconstruction_leaves_the_learned_field_as_it_is(ellipsoids: Prepared, trained: FieldReconstructor) -> None:
    before = {name: value.clone() for name, value in trained.network.state_dict().items()}
    volume_of(trained, observe_test(ellipsoids, [Plane(2, 4), Plane(2, 7)]))
    assert all(torch.equal(value, before[name]) for name, value in trained.network.state_dict().items())


def test_stopping_early_keeps_noise_out(ellipsoids: Prepared, tmp_path: Path) -> None:
    """Of a flat image with noise, a field that can fit every pixel stays nearer to the flat one, stopped on held-out pixels."""
    settings = made(ellipsoids, ALONE, tmp_path / "m").settings
    noisy = 0.5 + 0.2 * np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
    observation = observe(noisy, [Plane(2, 5)], ("T1w",), (4.0, 4.0, 4.0), "centred", "none")
    errors, steps = {}, {}
    for patience in (3, 0):
        fit = replace(settings.fit, patience=patience, weights_iterations=300, held_out=0.3)
        method = FieldReconstructor(replace(settings, fit=fit), torch.device("cpu"))
        fitted = method.fit(observation, np.random.default_rng(0))
        errors[patience], steps[patience] = float(np.std(fitted.volume()[0, :, :, 5] - 0.5)), fitted.steps
    assert steps[0] == 300 and steps[3] < 150
    assert errors[3] < 0.7 * errors[0]


# Without a prior ----------------------------------------------------------------------------------------------------


def test_without_a_prior_nothing_is_learned_and_near_sections_are_interpolated(ellipsoids: Prepared, tmp_path: Path) -> None:
    assert mednerf.train(ellipsoids.store, ellipsoids.split, ALONE, tmp_path) == {}
    method = made(ellipsoids, ALONE, tmp_path / "m")
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n) for n in SHAPE), indexing="ij")
    truth = (0.2 + 0.3 * np.sin(3 * x) * y + 0.6 * z)[None].astype(np.float32)
    observation = observe(truth, [Plane(2, 4), Plane(2, 6)], ("T1w",), (4.0, 4.0, 4.0), "centred", "none")
    volume = volume_of(method, observation)
    between = np.abs(volume - truth)[..., 5].mean()
    assert between < 0.4 * np.abs(truth[..., 4] - truth[..., 5]).mean()  # what repeating a section would miss it by
    np.testing.assert_array_equal(volume[..., [4, 6]], truth[..., [4, 6]])


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"latents": 4}, "methods.*.params: found unknown key 'latents'"),
        ({"network": {"latent": 0}}, "methods.*.params.network.latent: found 0, expected more than 0"),
        ({"network": {"grid_mm": [8, -1]}}, "grid_mm (8.0, -1.0), expected 0 or more, spacings > 0"),
        ({"fit": {"held_out": 1.0}}, "methods.*.params.fit.held_out: found 1.0"),
        ({"fit": {"weights": ["grids", "code"]}}, "methods.*.params.fit.weights: found 'code', expected one of"),
        ({"fit": {"patience": -1}}, "methods.*.params.fit.patience: found -1, expected at least 0"),
        ({"copies": -1}, "methods.*.params.copies: found -1, expected at least 0"),
    ],
)
def test_bad_parameters_are_named(params: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        Settings.of(params)
    assert message in str(error.value)


def test_a_sample_is_refused(ellipsoids: Prepared, trained: FieldReconstructor) -> None:
    with pytest.raises(ValueError, match="estimate is 'sample', expected 'mean'"):
        trained.reconstruct(observe_test(ellipsoids, [Plane(2, 5)]), 1, "sample", np.random.default_rng(0))
