"""The rows that need no network: interpolation against scipy, templates, retrieval, and the closed-form posterior."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import CubicSpline, interp1d

from baselines import field_posterior, interpolation, trivial
from xdiff.checkpoint import write_weights
from xdiff.config import Cohort, Grid
from xdiff.data.gaussian_field import GaussianField, write_gaussian_field
from xdiff.data.preprocess import preprocess
from xdiff.data.split import Split, split_by_count
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.observation import Observation, observe
from xdiff.planes import Plane, evidence

SHAPE = (9, 10, 12)
CONTRASTS = ("a", "b")
INDICES = {"one": [5], "two": [3, 8], "five": [1, 3, 6, 7, 10]}
RNG = np.random.default_rng(0)


def volume_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 0.3, (2, *SHAPE)).astype(np.float32)


def given_by(planes: list, seed: int = 0, norm: str = "none") -> Observation:
    return observe(volume_of(seed), planes, CONTRASTS, (1.0, 1.0, 1.0), "centred", norm)


def along(axis: int, indices: list[int]) -> list[Plane]:
    return [Plane(axis, i) for i in indices]


def is_exact(volume: np.ndarray, observation: Observation) -> None:
    """Shape, type, and every given section bit for bit."""
    assert volume.shape == (len(observation.contrasts), *observation.shape)
    assert volume.dtype == np.float32
    for plane, section in zip(observation.planes, observation.sections, strict=True):
        np.testing.assert_array_equal(plane.cut(volume), section)


def mean(method, observation: Observation) -> np.ndarray:
    volume, _, evaluations = method.reconstruct(observation, 1, "mean", np.random.default_rng(0))
    assert evaluations == 0
    return volume


# Interpolation ------------------------------------------------------------------------------------------------------


def by_scipy(kind: str, axis: int, indices: list[int], volume: np.ndarray) -> np.ndarray:
    """scipy inside, the outermost given section repeated outside."""
    values = np.take(volume.astype(np.float64), indices, axis=axis + 1)
    rows = np.clip(np.arange(SHAPE[axis]), indices[0], indices[-1])
    if len(indices) == 1:
        return np.repeat(values, SHAPE[axis], axis=axis + 1)
    if kind == "cubic":
        return CubicSpline(indices, values, axis=axis + 1)(rows)
    return interp1d(indices, values, axis=axis + 1, kind=kind)(rows)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("kind", "case"),
    [("nearest", "one"), ("nearest", "two"), ("nearest", "five"), ("linear", "two"), ("linear", "five"), ("cubic", "five")],
)
def test_interpolation_equals_scipys(kind: str, case: str, axis: int) -> None:
    indices = [i for i in INDICES[case] if i < SHAPE[axis]]
    for order in (indices, indices[::-1]):
        observation = given_by(along(axis, order))
        found = mean(interpolation.Interpolation(kind), observation)
        is_exact(found, observation)
        np.testing.assert_allclose(found, by_scipy(kind, axis, indices, volume_of()), atol=2e-6)


def test_a_hand_made_line() -> None:
    """Sections 2 and 6 with values 10 and 30 on a line of 9."""
    volume = np.zeros((1, 9, 2, 2), dtype=np.float32)
    volume[:, 2], volume[:, 6] = 10, 30
    observation = observe(volume, along(0, [2, 6]), ("a",), (1, 1, 1), "centred", "none")
    linear, nearest = (mean(interpolation.Interpolation(k), observation)[0, :, 0, 0] for k in ("linear", "nearest"))
    np.testing.assert_array_equal(linear, [10, 10, 10, 15, 20, 25, 30, 30, 30])
    np.testing.assert_array_equal(nearest, [10, 10, 10, 10, 10, 30, 30, 30, 30])


def test_thick_sections_are_met_after_interpolation() -> None:
    observation = given_by([Plane(2, 3, 2.5), Plane(2, 8, 2.5)])
    found = mean(interpolation.Interpolation("linear"), observation)
    for plane, section in zip(observation.planes, observation.sections, strict=True):
        np.testing.assert_allclose(plane.cut(found), section, atol=1e-4)


@pytest.mark.parametrize(("kind", "indices", "needed"), [("linear", [3], 2), ("cubic", [2, 5, 8], 4)])
def test_too_few_sections_are_refused(kind: str, indices: list[int], needed: int) -> None:
    with pytest.raises(ValueError, match=f"{kind} interpolation of {len(indices)} sections, expected at least {needed}"):
        mean(interpolation.Interpolation(kind), given_by(along(2, indices)))


def test_sections_of_two_axes_are_refused() -> None:
    with pytest.raises(match="along the axis of the given sections"):
        mean(interpolation.Interpolation("linear"), given_by([Plane(2, 3), Plane(0, 4)]))


@pytest.mark.parametrize("kind", ["", "spline", None])
def test_unknown_kinds_are_refused(tmp_path: Path, kind: str | None) -> None:
    params = {} if kind is None else {"kind": kind}
    write_weights(tmp_path, {}, {"params": params})
    with pytest.raises(ValueError, match=rf"kind is {kind or ''!r}, expected one of \('nearest', 'linear', 'cubic'\)"):
        interpolation.load(tmp_path)
    with pytest.raises(ValueError, match=rf"kind is {kind!r}, expected one of \('zeros'"):
        trivial.load(tmp_path)


# Trivial rows -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Split]:
    """12 training fields on their own grid of 9 x 10 x 12 voxels, one contrast."""
    folder = tmp_path_factory.mktemp("field")
    subjects = write_gaussian_field(folder / "raw", n_subjects=14, seed=1, shape=SHAPE, spacing_mm=4.0)
    split = split_by_count(subjects, 0, 1, 1)
    cohort = Cohort("gaussian-field", ("field",), foreground="all", norm="none")
    preprocess(cohort, Grid(SHAPE, 4.0), ("field", "g"), folder / "raw", split, folder / "out")
    return Store(folder / "out"), split


def trained(stored: tuple[Store, Split], kind: str, folder: Path, **params) -> trivial.Trivial:
    """Trained, written and loaded again, as the harness does."""
    params = {"kind": kind, **params}
    write_weights(folder / kind, trivial.train(*stored, params, folder), {"params": params})
    return trivial.load(folder / kind)


def seen_of(stored: tuple[Store, Split], planes: list[Plane], subject: str | None = None) -> tuple[np.ndarray, Observation]:
    store, split = stored
    truth = store.volume(subject or split.side("test")[0])
    return truth, observe(truth, planes, store.contrasts, (4.0, 4.0, 4.0), "centred", "none")


PLANE_SETS = [along(2, [5]), along(0, [2, 6]), [Plane(0, 4), Plane(1, 3), Plane(2, 6)]]


def test_zeros_paint_nothing(stored, tmp_path: Path) -> None:
    _, observation = seen_of(stored, PLANE_SETS[0])
    assert trivial.train(*stored, {"kind": "zeros"}, tmp_path) == {}
    volume = mean(trained(stored, "zeros", tmp_path), observation)
    assert (volume.shape, volume.dtype, volume.any()) == ((1, *SHAPE), np.float32, np.False_)


@pytest.mark.parametrize("planes", PLANE_SETS)
def test_the_template_is_the_mean_of_training_volumes_and_mirror_images(stored, tmp_path: Path, planes: list[Plane]) -> None:
    store, split = stored
    volumes = np.stack([store.volume(s) for s in split.side("train")])
    truth, observation = seen_of(stored, planes)
    found = mean(trained(stored, "mean_template", tmp_path), observation)
    is_exact(found, observation)
    expected = (volumes.mean(0) + volumes.mean(0)[:, ::-1]) / 2
    mask = evidence(observation.sections, planes, SHAPE)[1]
    np.testing.assert_allclose(found, np.where(mask, truth, expected), atol=1e-6)


@pytest.mark.parametrize("planes", PLANE_SETS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_retrieval_finds_the_training_volume_that_was_cut(stored, tmp_path: Path, planes: list[Plane], mirrored: bool) -> None:
    store, split = stored
    method = trained(stored, "retrieval", tmp_path)
    for subject in split.side("train")[:4]:
        truth = store.volume(subject)[:, ::-1] if mirrored else store.volume(subject)
        found = mean(method, observe(truth, planes, store.contrasts, (4.0,) * 3, "centred", "none"))
        np.testing.assert_allclose(found, truth, atol=1e-3)  # kept as float16


def test_retrieval_of_a_new_volume_takes_the_nearest_sections(stored, tmp_path: Path) -> None:
    store, split = stored
    truth, observation = seen_of(stored, along(2, [3, 8]))
    found = mean(trained(stored, "retrieval", tmp_path), observation)
    is_exact(found, observation)
    candidates = [v for s in split.side("train") for v in (store.volume(s), store.volume(s)[:, ::-1])]
    nearest = min(candidates, key=lambda v: sum(((v[..., i] - truth[..., i]) ** 2).sum() for i in (3, 8)))
    np.testing.assert_allclose(found[:, ~observation.mask], nearest[:, ~observation.mask], atol=1e-3)


def test_gaussian_gives_mean_std_and_draws(stored, tmp_path: Path) -> None:
    truth, observation = seen_of(stored, along(2, [3, 8]))
    method, rng = trained(stored, "gaussian", tmp_path), np.random.default_rng(0)
    estimate, std, _ = method.reconstruct(observation, 1, "mean", rng)
    draw, beside, _ = method.reconstruct(observation, 1, "sample", rng)
    averaged, _, _ = method.reconstruct(observation, 1, "mean_of_200", np.random.default_rng(1))
    for volume in (estimate, draw, averaged):
        is_exact(volume, observation)
    np.testing.assert_array_equal(beside, std)
    assert (std[:, observation.mask] == 0).all()
    error = {name: ((v - truth) ** 2).mean() for name, v in (("mean", estimate), ("draw", draw), ("averaged", averaged))}
    assert error["mean"] < error["draw"]
    assert np.abs(averaged - estimate).max() < 6 * std.max() / np.sqrt(200)
    again, _, _ = method.reconstruct(observation, 1, "sample", np.random.default_rng(0))
    np.testing.assert_array_equal(again, draw)


@pytest.mark.parametrize("kind", ["zeros", "mean_template", "retrieval"])
def test_deterministic_rows_refuse_to_sample(stored, tmp_path: Path, kind: str) -> None:
    _, observation = seen_of(stored, PLANE_SETS[0])
    with pytest.raises(ValueError, match=f"{kind} is deterministic: estimate is 'sample', expected 'mean'"):
        trained(stored, kind, tmp_path).reconstruct(observation, 1, "sample", np.random.default_rng(0))


def test_max_volumes_limits_what_is_kept(stored, tmp_path: Path, capsys) -> None:
    assert len(trivial.train(*stored, {"kind": "retrieval", "max_volumes": 5}, tmp_path)["rows"]) == 5
    assert "5 of 12 training volumes used" in capsys.readouterr().out


# The closed-form posterior --------------------------------------------------------------------------------------------


def posterior_of(stored, folder: Path) -> field_posterior.FieldReconstructor:
    write_weights(folder / "w", field_posterior.train(*stored, {}, folder), {"params": {}})
    return field_posterior.load(folder / "w")


def test_the_field_posterior_is_the_closed_form(stored, tmp_path: Path) -> None:
    truth, observation = seen_of(stored, along(2, [3, 8]))
    method, exact = posterior_of(stored, tmp_path), GaussianField(SHAPE).posterior(observation.planes)
    volume, std, evaluations = method.reconstruct(observation, 1, "mean", np.random.default_rng(0))
    is_exact(volume, observation)
    assert evaluations == 0
    np.testing.assert_allclose(volume[0], exact.mean(truth[0].astype(np.float64)), atol=2e-5)
    np.testing.assert_allclose(std[0], exact.std(), atol=1e-6)


def test_the_field_posterior_draws_by_its_seed(stored, tmp_path: Path) -> None:
    _, observation = seen_of(stored, along(2, [3, 8]))
    method = posterior_of(stored, tmp_path)
    draws = [method.reconstruct(observation, 1, "sample", np.random.default_rng(s))[0] for s in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 0.01
    is_exact(draws[0], observation)
    several = method.reconstruct(observation, 1, "mean_of_100", np.random.default_rng(2))[0]
    best = method.reconstruct(observation, 1, "mean", np.random.default_rng(0))[0]
    std = GaussianField(SHAPE).posterior(observation.planes).std()
    assert np.abs(several - best).max() < 6 * std.max() / 10


def test_the_field_posterior_needs_the_fields_own_grid_and_parameters(stored, tmp_path: Path) -> None:
    store, split = stored
    source = Path(next(iter(store.sidecar(store.subjects[0])["sources"].values())))
    parameters = source.parents[2] / "gaussian_field.json"
    text = parameters.read_text()
    try:
        parameters.write_text(json.dumps({**json.loads(text), "shape": [12, 12, 12]}))
        with pytest.raises(InputError, match=r"found grid \(9, 10, 12\), expected \(12, 12, 12\), the field's own"):
            field_posterior.train(store, split, {}, tmp_path)
        parameters.unlink()
        with pytest.raises(InputError, match=r"gaussian_field\.json: found no such file"):
            field_posterior.train(store, split, {}, tmp_path)
    finally:
        parameters.write_text(text)
