"""Registration: closed forms, a known warp found again, one subject in another's shape, kept, and left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from columns import plain_core
from conftest import Prepared, prepare
from scipy import ndimage

from xdiff import local_fit, registration
from xdiff.augment import Augmentation
from xdiff.config import Cohort, Grid, SplitRule
from xdiff.data.split import patient_of
from xdiff.draws import Draws, DrawSettings
from xdiff.errors import InputError
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import with_mirror
from xdiff.local import Core
from xdiff.local_fit import CoreSettings, fit_core
from xdiff.observation import intensity_scale
from xdiff.registration import Warps, WarpSettings, compose, displacement, fit_warps, folded, mirrored, warp, warped_volumes
from xdiff.resident import read
from xdiff.volumes import write_volume

SHAPE, SPACING_MM = (24, 28, 18), (4.0, 4.0, 6.0)
SETTINGS = WarpSettings(control_mm=12.0, bending=0.005)
KNOWN = {f"sub-{n:02d}": seed for n, seed in enumerate((None, 1, 2, 3, 4))}  # sub-00 is not warped


def millimetres() -> np.ndarray:
    """Of every voxel from the middle of the grid (3, X, Y, Z)."""
    index = np.indices(SHAPE)
    middle = (np.array(SHAPE)[:, None, None, None] - 1) / 2
    return (index - middle) * np.array(SPACING_MM)[:, None, None, None]


def ellipsoid(radii_mm: np.ndarray, where_mm: np.ndarray) -> np.ndarray:
    """Two contrasts (2, X, Y, Z) of a body with a shell, a core and two blobs, the same in every body but for its radii."""
    place = where_mm / np.array(radii_mm)[:, None, None, None]
    radius = np.sqrt((place**2).sum(axis=0))
    body, core = (1 / (1 + np.exp((radius - edge) / 0.06)) for edge in (1.0, 0.55))
    blobs = sum(
        np.exp(-((place - np.array(c)[:, None, None, None]) ** 2).sum(axis=0) / 0.04) for c in ([0.3, 0.3, 0.2], [0, -0.4, 0])
    )
    first, second = body * (1 - 0.4 * core + 0.5 * blobs), body * (0.4 + 0.5 * core - 0.3 * blobs)
    return np.where(body > 0.5, np.maximum([first, second], 0.02), 0)


def write(root: Path, name: str, volume: np.ndarray) -> None:
    for suffix, image in zip(("T1w", "T2w"), volume, strict=True):
        path = root / f"{name}/anat/{name}_{suffix}.nii.gz"
        write_volume(path, (900 * image).astype(np.float32), np.diag([*SPACING_MM, 1.0]))


def prepare_bodies(folder: Path, volumes: dict[str, np.ndarray], foreground: str = "nonzero") -> Prepared:
    """All but one on the training side, on a grid of their own spacing, which is not the same along all axes."""
    for name, volume in volumes.items():
        write(folder / "raw", name, volume)
    cohort = Cohort("bids", ("T1w", "T2w"), foreground=foreground, split=SplitRule(n_val=0, n_test=1), source="here (CC0)")
    return prepare(cohort, Grid(SHAPE, 4.0, native_axis="axial"), ("bodies", "4mm"), folder / "raw", folder / "data")


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Seven ellipsoids of different radii, one of them on the test side."""
    rng = np.random.default_rng(0)
    shapes = {f"sub-{n:02d}": np.array([36.0, 42.0, 40.0]) * rng.uniform(0.82, 1.12, 3) for n in range(7)}
    volumes = {name: ellipsoid(radii, millimetres()) for name, radii in shapes.items()}
    return prepare_bodies(tmp_path_factory.mktemp("bodies"), volumes)


@pytest.fixture(scope="module")
def warps(bodies: Prepared) -> Warps:
    return fit_warps(bodies.store, bodies.split.side("train"), SETTINGS, device="cpu")


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


# Exponentials and fields ------------------------------------------------------------------------------------------------


def test_a_constant_velocity_is_a_shift_in_voxels_of_every_axis() -> None:
    velocity = torch.tensor([8.0, -2.0, 3.0])[None, :, None, None, None].expand(1, 3, 5, 6, 4)
    found = displacement(velocity, SHAPE, SPACING_MM)
    expected = torch.tensor([2.0, -0.5, 0.5])[None, :, None, None, None].expand(1, 3, *SHAPE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_linear_velocity_grows_exponentially() -> None:
    """dx/dt = a x ends at x exp(a)."""
    rate = torch.tensor([-0.2, 0.1, -0.3])
    place = tensor(millimetres())
    points = torch.nn.functional.interpolate(place[None], (13, 15, 10), mode="trilinear", align_corners=True)
    found = displacement(points * rate[None, :, None, None, None], SHAPE, SPACING_MM)[0]
    expected = place * (torch.exp(rate) - 1)[:, None, None, None] / torch.tensor(SPACING_MM)[:, None, None, None]
    inner = (slice(None), *[slice(4, -4)] * 3)  # the growing axis leaves the grid at its ends
    torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=0.02)
    assert expected[inner].abs().max() > 0.5


def test_sampling_and_composing_shifts() -> None:
    volume = torch.rand(1, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    one, other = (torch.zeros(1, 3, *SHAPE) for _ in range(2))
    one[:, 0], other[:, 2] = 2.0, -3.0
    moved = warp(volume, compose(one, other))
    torch.testing.assert_close(moved[:, :, :-2, :, 3:], volume[:, :, 2:, :, :-3], rtol=0, atol=1e-5)


def test_folded_counts_voxels_whose_neighbours_change_sides() -> None:
    place = tensor(np.indices(SHAPE))
    assert folded(torch.zeros(3, *SHAPE)) == folded(0.5 * place) == folded(-0.5 * place) == 0
    inside_out = torch.zeros(3, *SHAPE)
    inside_out[0] = -2 * place[0]
    assert folded(inside_out) == 1
    inside_out[0, SHAPE[0] // 2 :] = inside_out[0, SHAPE[0] // 2]
    assert folded(inside_out) == pytest.approx(0.5, abs=0.05)


def test_the_mirror_image_of_a_warp_warps_the_mirror_image() -> None:
    rng = np.random.default_rng(0)
    volume, field = tensor(rng.random((1, 1, *SHAPE))), tensor(rng.normal(size=(1, 3, *SHAPE)))
    torch.testing.assert_close(warp(volume.flip(2), mirrored(field)), warp(volume, field).flip(2), rtol=0, atol=1e-5)


# What is found -------------------------------------------------------------------------------------------------------


def known_warp(seed: int | None) -> np.ndarray:
    """A smooth displacement (3, X, Y, Z) of about 4 mm, in mm."""
    if seed is None:
        return np.zeros((3, *SHAPE))
    noise = np.random.default_rng(seed).standard_normal((3, *SHAPE))
    smooth = np.stack([ndimage.gaussian_filter(n, 24 / np.array(SPACING_MM)) for n in noise])
    return 4 * smooth / np.sqrt((smooth**2).mean())


def textured(where_mm: np.ndarray) -> np.ndarray:
    """The mean body with texture, without which nobody could say where its inside went; symmetric, as the template is."""
    x, y, z = where_mm
    waves = (np.cos(x / 6) * np.sin(y / 7), np.sin(y / 8 + 2) * np.sin(z / 7))
    return ellipsoid(np.array([36.0, 42.0, 40.0]), where_mm) * (1 + 0.4 * np.array(waves))


def test_known_warps_are_found_again(tmp_path: Path) -> None:
    """One body warped in four known ways: from it to each of them is that way."""
    volumes = {name: textured(millimetres() + known_warp(seed)) for name, seed in {**KNOWN, "sub-05": 99}.items()}
    cohort = prepare_bodies(tmp_path, volumes, "all")  # so that none is moved to the middle
    found = fit_warps(cohort.store, list(KNOWN), SETTINGS, device="cpu")
    for name, seed in list(KNOWN.items())[1:]:
        inside, true = ndimage.binary_erosion((volumes[name] > 0).all(axis=0), iterations=2), known_warp(seed)
        error = found.between("sub-00", name).numpy() * np.array(SPACING_MM)[:, None, None, None] - true
        missed, size = (np.sqrt((mm[:, inside] ** 2).sum(axis=0).mean()) for mm in (error, true))
        assert missed < 0.5 * size


def test_in_the_shape_of_another_a_subject_is_closer_to_it(bodies: Prepared, warps: Warps) -> None:
    store, gains = bodies.store, []
    for i in warps.subjects:
        for j in warps.subjects:
            if i == j:
                continue
            field = warps.between(i, j)[None]
            target, own = tensor(store.volume(j)), tensor(store.volume(i))
            before, after = ((v - target).square().mean().item() for v in (own, warp(own[None], field)[0]))
            inside = warp(tensor(store.foreground(i))[None, None], field)[0, 0].numpy() > 0.5
            overlap = [
                2 * (f & store.foreground(j)).sum() / (f.sum() + store.foreground(j).sum()) for f in (store.foreground(i), inside)
            ]
            gains.append((after / before, *overlap))
            assert after < before and overlap[1] > 0.94
    assert np.median([g[0] for g in gains]) < 0.2
    assert np.mean([g[2] for g in gains]) > np.mean([g[1] for g in gains]) + 0.05


def test_hardly_a_voxel_is_folded_and_a_subject_keeps_its_own_shape(bodies: Prepared, warps: Warps) -> None:
    for i in warps.subjects:
        own = warps.between(i, i).norm(dim=0)[tensor(bodies.store.foreground(i)) > 0]
        assert own.mean() < 0.02 and own.max() < 0.15  # voxels
        assert all(folded(warps.between(i, j)) < 1e-3 for j in warps.subjects)


def test_amount_goes_from_no_warp_to_all_of_it(warps: Warps) -> None:
    i, j = warps.subjects[:2]
    none, half, full = (warps.between(i, j, amount) for amount in (0.0, 0.5, 1.0))
    torch.testing.assert_close(none, warps.between(i, i))
    assert none.abs().mean() < 0.02 < 0.3 < full.abs().mean()
    assert (half - full / 2).abs().mean() < 0.1 * full.abs().mean()


# How it is kept -----------------------------------------------------------------------------------------------------


def test_the_same_every_time_and_whoever_is_registered_beside_it(
    bodies: Prepared, warps: Warps, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = fit_warps(bodies.store, bodies.split.side("train")[::-1], SETTINGS, device="cpu")
    assert again.subjects == warps.subjects
    torch.testing.assert_close(again.velocities, warps.velocities, rtol=0, atol=0)
    monkeypatch.setattr(registration, "BATCH", 2)
    apart = fit_warps(bodies.store, bodies.split.side("train"), SETTINGS, device="cpu")
    assert (apart.velocities - warps.velocities).abs().float().mean() < 0.02  # mm


def test_what_was_registered_once_is_taken_from_the_folder(
    bodies: Prepared, warps: Warps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[list[str]] = []
    monkeypatch.setattr(registration, "_fit", lambda store, subjects, *_: (fitted.append(subjects), warps)[1])
    subjects = bodies.split.side("train")
    for _ in range(2):
        found = fit_warps(bodies.store, subjects, SETTINGS, tmp_path, device="cpu")
        assert (found.subjects, found.shape, found.spacing_mm) == (warps.subjects, warps.shape, warps.spacing_mm)
        torch.testing.assert_close(found.velocities, warps.velocities, rtol=0, atol=0)
    assert len(fitted) == 1
    fit_warps(bodies.store, subjects, replace(SETTINGS, steps=7), tmp_path, device="cpu")
    fit_warps(bodies.store, subjects[:-1], SETTINGS, tmp_path, device="cpu")
    assert len(fitted) == 3 and len(list(tmp_path.glob("warps-*/weights.safetensors"))) == 3
    size = next(tmp_path.glob("warps-*/weights.safetensors")).stat().st_size
    assert size < 2 * warps.velocities.numel() + 2000  # two bytes for every number


def test_what_cannot_be_is_said(bodies: Prepared, warps: Warps) -> None:
    with pytest.raises(InputError, match="sub-99"):
        warps.between(warps.subjects[0], "sub-99")
    with pytest.raises(InputError, match="two or more"):
        fit_warps(bodies.store, bodies.split.side("train")[:1], SETTINGS)
    for wrong in ({"donors": 1.5}, {"donors": 0.5, "augment": Augmentation(symmetric=True)}):
        with pytest.raises(InputError, match="donors"):
            DrawSettings(**wrong)
    core = plain_core(bodies.store, bodies.split)
    for subjects, given in ((bodies.split.side("train"), None), (bodies.split.side("train")[:2], warps)):
        with pytest.raises(InputError, match="donors"):
            Draws(bodies.store, subjects, core, DrawSettings(donors=1.0), warps=given)


# In training ----------------------------------------------------------------------------------------------------------

ALL_DONORS = DrawSettings(donors=1.0, augment=Augmentation(warp=0.0))


def test_a_row_goes_with_either_of_its_patients() -> None:
    volumes = np.random.default_rng(0).random((5, 1, 3, 4, 3), dtype=np.float32)
    model = LinearGaussian(with_mirror(volumes), patients=("a", "b", "c", ("a", "b"), ("b", "c")))
    assert model.without_patient("a").tolist() == [1, 2, 4, 6, 7, 9]
    assert model.without_patient(("a", "c")).tolist() == [1, 6]
    assert model.without(3).tolist() == [2, 7]  # its own and all that hold either patient
    assert model.without_patient("d") is model.without_patient(()) is model.without_patient(None) is None
    assert model.without_patient(("d", "a")).tolist() == model.without(0).tolist()


def overwritten(core: Core, row: int) -> Core:
    volumes = core.linear.rows[: core.linear.n_rows // 2].copy()
    volumes[row] = 1 - volumes[row]
    return replace(core, linear=replace(core.linear, rows=with_mirror(volumes)))


def test_a_warped_draw_knows_neither_of_its_patients(bodies: Prepared, warps: Warps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overwriting the subject's or the donor's rows changes nothing; overwriting any other's does."""
    store, core, subjects = bodies.store, plain_core(bodies.store, bodies.split), bodies.split.side("train")
    asked, between = [], Warps.between
    monkeypatch.setattr(Warps, "between", lambda self, i, j, amount: (asked.append((i, j)), between(self, i, j, amount))[1])
    for seed in range(3):
        shown = Draws(store, subjects, core, ALL_DONORS, warps=warps).one(np.random.default_rng(seed))
        pair = {patient_of(subject) for subject in asked[-1]}
        assert len(pair) == 2
        for row, patient in enumerate(core.linear.patients):
            draws = Draws(store, subjects, overwritten(core, row), ALL_DONORS, warps=warps)
            other = draws.one(np.random.default_rng(seed)).known.gaussian
            assert np.allclose(other, shown.known.gaussian, rtol=1e-4, atol=1e-5) == (patient in pair)


def test_a_draw_shows_the_subject_part_of_the_way_to_its_donor(bodies: Prepared, warps: Warps) -> None:
    """Volume and foreground, or their mirror images, are what torch samples here, linearly and not with cubic splines."""
    store, core = bodies.store, plain_core(bodies.store, bodies.split)
    asked, between, errors = [], warps.between, []
    warps = replace(warps)
    warps.between = lambda i, j, amount: (asked.append((i, j, amount)), between(i, j, amount))[1]  # type: ignore[method-assign]
    draws = Draws(store, bodies.split.side("train"), core, ALL_DONORS, warps=warps)
    for seed in range(8):
        draw = draws.one(np.random.default_rng(seed))
        i, j, amount = asked[-1]
        # in the store's units again, in which the brightest voxels of every contrast are 1
        truth = draw.truth.numpy() / intensity_scale(draw.truth.numpy())[:, None, None, None]
        shown = (truth, truth[:, ::-1])
        volume, inside = (
            warp(tensor(a)[None], between(i, j, amount)[None])[0].numpy() for a in (store.volume(i), store.foreground(i)[None])
        )
        errors.append([np.abs(one - other).mean() for other in (volume, store.volume(i)) for one in shown])
        found = draw.foreground.numpy()
        foreground = (found, found[::-1])[int(np.argmin(errors[-1][:2]))]
        assert (foreground == (inside[0] > 0.5)).mean() > 0.99
    plain, mirrored_, *unwarped = np.array(errors).T
    assert 0 < (plain < mirrored_).sum() < 8
    assert np.minimum(plain, mirrored_).mean() < 0.3 * np.minimum(*unwarped).mean()
    assert 0.1 < np.std([a for _, _, a in asked]) < 0.5


def test_the_share_of_donors_is_the_setting_and_without_it_nothing_changes(bodies: Prepared, warps: Warps) -> None:
    store, core, subjects = bodies.store, plain_core(bodies.store, bodies.split), bodies.split.side("train")
    some = Draws(store, subjects, core, replace(ALL_DONORS, donors=0.3), warps=warps)
    rng = np.random.default_rng(0)
    share = np.mean([some._donor(subjects[0], rng)[0] is not None for _ in range(200)])
    assert 0.2 < share < 0.4
    plain = replace(ALL_DONORS, donors=0.0)
    one, other = (Draws(store, subjects, core, plain, warps=w).one(np.random.default_rng(3)) for w in (None, warps))
    np.testing.assert_array_equal(one.truth, other.truth)


def test_a_displacement_of_whole_voxels_is_exact_and_comes_before_the_augmentation(bodies: Prepared) -> None:
    store, subject = bodies.store, bodies.split.side("train")[0]
    (volume, foreground), spacing = read(store, subject), store.spacing_mm(subject)
    shift = torch.zeros(3, *SHAPE)
    shift[1] = 1
    moved, inside = Augmentation(warp=0.0)(volume, foreground, spacing, np.random.default_rng(0), shift)
    np.testing.assert_array_equal(inside[:, :-1], foreground[:, 1:])
    body = ndimage.binary_erosion(inside.numpy())[None].repeat(2, axis=0)
    np.testing.assert_allclose(moved[:, :, :-1][body[:, :, :-1]], volume[:, :, 1:][body[:, :, :-1]], atol=1e-4)
    first, second = Augmentation(warp=1.0), np.random.default_rng(5)
    both, _ = first(volume, foreground, spacing, second, shift)
    after, _ = first(volume.roll(-1, 2), foreground.roll(-1, 1), spacing, np.random.default_rng(5))
    np.testing.assert_allclose(both, after, atol=2e-3)


def test_a_training_registers_only_where_donors_are_asked_for(bodies: Prepared, tmp_path: Path) -> None:
    core = plain_core(bodies.store, bodies.split)
    for donors, kept in ((0.0, 0), (0.5, 1)):
        draws = Draws.of_training(bodies.store, bodies.split, core, replace(ALL_DONORS, donors=donors), tmp_path)
        assert len(list(tmp_path.glob("warps-*/weights.safetensors"))) == kept
        assert draws.subjects == bodies.split.side("train") and (draws.warps is None) == (not kept)


# Rows of the linear-Gaussian estimate ------------------------------------------------------------------------------------


def test_warped_volumes_are_of_two_patients_and_between_their_shapes(bodies: Prepared, warps: Warps) -> None:
    store = bodies.store
    volumes, patients = warped_volumes(store, warps, copies=3)
    assert volumes.shape == (18, 2, *SHAPE) and volumes.min() >= 0
    np.testing.assert_array_equal(volumes, volumes.astype(np.float16))  # so that the weights keep them in two bytes
    assert [pair[0] for pair in patients] == [s for s in warps.subjects for _ in range(3)]
    assert all(len(set(pair)) == 2 for pair in patients) and len(set(patients)) == 18
    to_own, to_donor = (
        np.array([np.abs(v - store.volume(pair[side])).mean() for v, pair in zip(volumes, patients, strict=True)])
        for side in (0, 1)
    )
    apart = np.array([np.abs(store.volume(i) - store.volume(j)).mean() for i, j in patients])
    assert (to_own > 0).all() and np.mean((to_own + to_donor) / apart) < 1.4 and np.mean(to_donor / apart) < 0.8
    again, other = warped_volumes(store, warps, 3), warped_volumes(store, warps, 3, seed=1)
    np.testing.assert_array_equal(again[0], volumes)
    assert other[1] != patients


def test_a_core_with_warped_rows_leaves_them_out_with_either_patient(bodies: Prepared, tmp_path: Path) -> None:
    settings = CoreSettings(cases=12, voxels=100, steps=3, width=4, warped_rows=2)
    core, kept = (fit_core(bodies.store, bodies.split, settings, tmp_path) for _ in range(2))
    assert core.linear.n_rows == 2 * 6 * 3
    assert kept.linear.patients == core.linear.patients
    left = []
    for subject in bodies.split.side("train"):
        names = [kept.linear.patients[row % 18] for row in kept.linear.without_patient(subject)]
        assert subject not in names and not any(subject in name for name in names if isinstance(name, tuple))
        left.append(sum(isinstance(name, tuple) for name in names))
    # of 24 warped rows 4 are the subject's; the other 24 places of a donor are spread over the six
    assert sum(left) == 6 * (24 - 4) - 24


@pytest.mark.parametrize(("most", "rows"), [(17, 12), (11, 6), (4, 4)])
def test_warped_rows_stop_at_max_volumes(
    bodies: Prepared, warps: Warps, monkeypatch: pytest.MonkeyPatch, most: int, rows: int
) -> None:
    monkeypatch.setattr(local_fit, "fit_warps", lambda *_: warps)
    settings = CoreSettings(max_volumes=most, cases=3, voxels=50, steps=1, width=2, warped_rows=3)
    assert fit_core(bodies.store, bodies.split, settings).linear.n_rows == 2 * rows
