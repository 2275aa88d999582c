"""Training volumes on a device: what is kept there is what was read, and what is cut there is what observe cuts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import THIN, core_of, make_draws
from conftest import Prepared

from xdiff import resident as module
from xdiff.data.split import rank
from xdiff.observation import observe
from xdiff.planes import Plane
from xdiff.resident import Volumes, observe_on, read
from xdiff.view import View

CPU = torch.device("cpu")
PLANES = {
    "one": [Plane(2, 9)],
    "uneven": [Plane(1, 4), Plane(1, 6), Plane(1, 15)],
    "crossing": [Plane(2, 9), Plane(0, 8), Plane(1, 12)],
    "thick": [Plane(2, 5, 2.5), Plane(2, 12, 3.0)],
    "thick beside thin": [Plane(0, 6), Plane(0, 12, 4.0)],
}
of_all = pytest.mark.parametrize("planes", PLANES.values(), ids=PLANES)


def test_kept_volumes_are_those_that_were_read_to_eight_bits(cohort: Prepared) -> None:
    store, subjects = cohort.store, cohort.split.side("train")[:3]
    kept, plain = (Volumes(store, subjects, CPU, resident) for resident in (True, False))
    for subject in subjects:
        (volume, foreground), (expected, inside) = kept(subject), plain(subject)
        assert volume.dtype == expected.dtype == torch.float32 and foreground.dtype == torch.bool
        for channel, true in zip(volume, expected, strict=True):
            assert (channel - true).abs().max() <= (true.max() - min(true.min(), 0)) / 510 * 1.001
        assert torch.equal(foreground, inside)
        assert not volume[expected == 0].any()  # background stays zero


def test_a_volume_that_is_not_kept_is_read(heads: Prepared) -> None:
    first, other = heads.split.side("train")[:2]
    volumes = Volumes(heads.store, [first], CPU, resident=True)
    assert torch.equal(volumes(other)[0], read(heads.store, other)[0])
    assert not torch.equal(volumes(first)[0], read(heads.store, first)[0])


def test_no_more_is_kept_than_the_device_is_asked_for(heads: Prepared, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Room for two volumes and a half: the two of the lowest ranks, whatever the order of subjects."""
    subjects, store = heads.split.side("train"), heads.store
    one_mib = 3 * np.prod(store.shape) / 2**20  # two contrasts and the foreground
    monkeypatch.setattr(module, "RESIDENT_MIB", 2.5 * one_mib)
    volumes = Volumes(store, subjects[::-1], CPU, resident=True)
    exact = {s for s in subjects if torch.equal(volumes(s)[0], read(store, s)[0])}
    assert exact == set(sorted(subjects, key=lambda s: rank(0, s))[2:]) and len(exact) == 3
    assert "resident: 2 of 5 volumes" in capsys.readouterr().out


def test_negative_values_are_kept_too() -> None:
    volume = np.random.default_rng(0).normal(-1, 2, (2, 6, 5, 4)).astype(np.float32)
    volume[1] = 3.0  # a contrast without any range of its own
    store = SimpleNamespace(volume=lambda _: volume, foreground=lambda _: np.ones(volume.shape[1:], dtype=bool))
    kept = Volumes(store, ["sub"], CPU, resident=True)("sub")[0].numpy()
    assert np.abs(kept[0] - volume[0]).max() <= np.ptp(volume[0]) / 510 * 1.001
    assert kept[0].min() == pytest.approx(volume[0].min(), abs=1e-5) and kept[0].min() < 0
    np.testing.assert_allclose(kept[1], 3.0, rtol=1e-6)


@of_all
@pytest.mark.parametrize("given", [None, ["T2w"]], ids=["all", "T2w"])
@pytest.mark.parametrize("norm", ["p99.5", "none"])
def test_what_is_cut_on_a_device_is_what_observe_cuts(
    heads: Prepared, planes: list[Plane], given: list[str] | None, norm: str
) -> None:
    store = heads.store
    volume, spacing = store.volume(heads.split.side("test")[0]), (2.0, 3.0, 1.5)
    observation = observe(volume, planes, store.contrasts, spacing, store.frame, norm, given)
    carried = torch.tensor([given is None or name in given for name in store.contrasts])
    found, sections, scale = observe_on(torch.from_numpy(volume), planes, spacing, norm, carried)
    expected = View.of(observation)
    np.testing.assert_allclose(scale, observation.scale, rtol=1e-5)
    for one, other in zip(sections, observation.sections, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert (found.planes, found.spacing_mm, found.shape) == (expected.planes, expected.spacing_mm, expected.shape)
    for name in ("mask", "known", "given", "distance_mm"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    torch.testing.assert_close(found.evidence, expected.evidence, rtol=1e-5, atol=1e-6)


@of_all
@pytest.mark.parametrize("given", [None, ["T1w"]], ids=["all", "T1w"])
def test_a_draw_made_on_a_device_is_the_draw_that_is_made_elsewhere(
    heads: Prepared, planes: list[Plane], given: list[str] | None
) -> None:
    case, subject = (heads, core_of(heads)), heads.split.side("train")[0]
    volume, foreground = read(heads.store, subject)
    one, other = (make_draws(case, resident=r).case(subject, volume, foreground, planes, given) for r in (True, False))
    torch.testing.assert_close(one.truth, other.truth, rtol=1e-5, atol=1e-6)
    for name in ("gaussian", "spread", "corrected", "std"):
        torch.testing.assert_close(getattr(one.known, name), getattr(other.known, name), rtol=2e-3, atol=2e-3)
    for name in ("gaussian", "corrected"):
        assert torch.equal(getattr(one.known, name)[one.view.known], one.truth[one.view.known])


def test_random_draws_of_kept_volumes_are_those_of_read_ones_to_eight_bits(field: Prepared) -> None:
    case = field, core_of(field)
    for seed in range(4):
        one, other = (make_draws(case, THIN, resident=r).one(np.random.default_rng(seed)) for r in (True, False))
        assert one.view.planes == other.view.planes
        assert 0 < (one.truth - other.truth).abs().max() < 0.01
