"""Fitting the pose model: a view of centred training volumes, and a posterior that is as sure as it may be."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Prepared
from displaced_heads import SHAPE, displaced, head

from xdiff.data.centred import CentredStore
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.observation import observe
from xdiff.planes import Plane, shifted
from xdiff.pose import PoseModel
from xdiff.pose_fit import LEAST_STD, NOISES, _cases, fit_pose, from_tensors, prior_std, to_tensors

SHIFTS = np.random.default_rng(9).integers([-2, -2, -4], [3, 3, 5], (16, 3))
NAMES = ["sub-00_ses-1", "sub-00_ses-2", *(f"sub-{i:02d}" for i in range(1, 15))]


@pytest.fixture(scope="module")
def scanner(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """16 heads of 15 patients in frame scanner: 11 patients train, 2 validation, 2 test; one patient came twice."""
    return displaced(tmp_path_factory.mktemp("heads"), dict(zip(NAMES, SHIFTS.tolist(), strict=True)))


@pytest.fixture(scope="module")
def centred(scanner: Prepared) -> CentredStore:
    return CentredStore(scanner.store, scanner.split.side("train") + scanner.split.side("val"))


@pytest.fixture(scope="module")
def fitted(scanner: Prepared, centred: CentredStore) -> PoseModel:
    return fit_pose(centred, scanner.split.side("train"), 60)


# The view -------------------------------------------------------------------------------------------------------------


def test_every_head_of_the_view_is_in_the_middle_untouched(scanner: Prepared, centred: CentredStore) -> None:
    store = scanner.store
    for subject in centred.subjects:
        by = centred.moved_by(subject)
        np.testing.assert_array_equal(centred.volume(subject), shifted(store.volume(subject), by))
        foreground = centred.foreground(subject)
        assert foreground.sum() == store.foreground(subject).sum()
        voxels = np.argwhere(foreground)
        assert np.abs((voxels.min(axis=0) + voxels.max(axis=0)) / 2 - (np.array(SHAPE) - 1) / 2).max() <= 0.5


def test_the_view_keeps_voxels_where_they_are_in_the_world(scanner: Prepared, centred: CentredStore) -> None:
    for subject in centred.subjects[:3]:
        voxel = np.argwhere(scanner.store.foreground(subject))[7]
        there = scanner.store.affine(subject) @ [*voxel, 1]
        np.testing.assert_allclose(centred.affine(subject) @ [*(voxel + centred.moved_by(subject)), 1], there)


def test_test_subjects_cannot_be_read_through_the_view(scanner: Prepared, centred: CentredStore) -> None:
    subject = scanner.split.side("test")[0]
    assert subject not in centred.subjects
    for read in (centred.volume, centred.foreground, centred.labels, centred.affine, centred.place):
        with pytest.raises(InputError, match=f"{subject} asked for"):
            read(subject)


def test_the_view_has_a_fingerprint_of_its_own(scanner: Prepared, centred: CentredStore) -> None:
    train = CentredStore(scanner.store, scanner.split.side("train"))
    assert len({scanner.store.fingerprint, centred.fingerprint, train.fingerprint}) == 3
    assert CentredStore(Store(scanner.store.folder), centred.subjects).fingerprint == centred.fingerprint
    assert (centred.frame, centred.info["frame"], scanner.store.info["frame"]) == ("centred", "centred", "scanner")


# The fit --------------------------------------------------------------------------------------------------------------


def test_the_prior_is_as_wide_as_training_heads_are_spread() -> None:
    places = [np.array([3.0, 0.5, 0]), np.array([-3.0, 0.5, 4])]
    np.testing.assert_allclose(prior_std(places), [3, LEAST_STD, 8**0.5])


def test_a_fit_reads_training_volumes_alone(scanner: Prepared, fitted: PoseModel) -> None:
    train = scanner.split.side("train")
    again = fit_pose(CentredStore(scanner.store, train), train, 60)
    for name, array in to_tensors(fitted).items():
        np.testing.assert_array_equal(array, to_tensors(again)[name])


def test_both_visits_of_a_patient_are_left_out(scanner: Prepared, centred: CentredStore) -> None:
    names = ["sub-00_ses-1", "sub-00_ses-2", "sub-03", "sub-05"]
    view = CentredStore(scanner.store, names)
    model = fit_pose(view, names, 60)
    cases = list(_cases(model, view, names, range(4), 2, 1))
    assert [keep.tolist() for _, keep in cases] == [[2, 3, 6, 7]] * 2 + [[0, 1, 3, 4, 5, 7], [0, 1, 2, 4, 5, 6]]


def test_noise_is_inside_what_was_tried_and_temperatures_are_no_less_than_one(fitted: PoseModel) -> None:
    assert (fitted.noise > NOISES[0]).all()
    assert (fitted.noise < NOISES[-1]).all()
    assert (fitted.temperature >= 1).all()
    assert (fitted.temperature < 1e4).all()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_new_heads_are_found_within_the_stated_deviation(fitted: PoseModel, axis: int, count: int) -> None:
    """20 heads that no fit has seen, anywhere: errors in units of the stated standard deviation are about 1."""
    errors = []
    for number in range(20):
        shift = np.random.default_rng([7, number]).integers([-2, -2, -4], [3, 3, 5])
        planes = [Plane(axis, SHAPE[axis] // 2 + int(shift[axis]) + i) for i in ([2] if count == 1 else [-4, 1, 5])]
        observation = observe(head(300 + number, shift), planes, ("T1w", "T2w"), (2.0, 2.0, 2.0), "scanner")
        pose = fitted.pose(observation)
        errors.append(2.0 * (np.array(pose.shift) - shift) / pose.std_mm)
    assert 0 <= np.sqrt(np.mean(np.square(errors))) < 1.5


def test_saving_and_loading_keep_the_model(fitted: PoseModel) -> None:
    again = from_tensors(fitted.linear.rows[: fitted.linear.n_rows // 2], to_tensors(fitted))
    np.testing.assert_array_equal(again.linear.rows, fitted.linear.rows)
    observation = observe(head(1, (1, 0, 2)), [Plane(2, 15)], ("T1w", "T2w"), (2.0, 2.0, 2.0), "scanner")
    np.testing.assert_array_equal(again.pose(observation).probability, fitted.pose(observation).probability)
