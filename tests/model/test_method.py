"""X-Diffusion as the harness uses it: floor, data consistency, seeds, counting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from columns import plain_core
from conftest import Prepared, observe_test

from xdiff.checkpoint import read_weights, write_weights
from xdiff.config import MethodEntry
from xdiff.local import Core
from xdiff.model import method, sampler
from xdiff.observation import observe
from xdiff.planes import AnyPlane, Plane
from xdiff.stacks import tilted_stack
from xdiff.train import train

SECTIONS = {"gaussian-field": 20 + 24 + 18, "heads": 24 + 28 + 22}
PARAMS = {"channels": [8, 16], "trunk_channels": [8, 16], "features": 4, "steps": 0, "validate_subjects": 1}


@pytest.fixture(scope="module")
def untrained(cohort: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights after no step of training."""
    out = tmp_path_factory.mktemp("untrained") / "xdiff"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xdiff.trained.fit_core", plain_core)
        train("xdiff", MethodEntry("xdiff.model.method", PARAMS), cohort.store, cohort.split, out)
    return out


@pytest.fixture(scope="module")
def scrambled(untrained: Path) -> method.XDiffusion:
    """The same with random numbers in every layer, the zero heads too, so that everything has an influence."""
    tensors, config = read_weights(untrained)
    rng = np.random.default_rng(0)
    changed = {
        k: a + 0.05 * rng.standard_normal(a.shape).astype(np.float32) for k, a in tensors.items() if k.startswith("network.")
    }
    folder = untrained.with_name("scrambled")
    write_weights(folder, tensors | changed, config)
    return method.load(folder)


@pytest.mark.parametrize("planes", [[Plane(2, 9)], [Plane(1, 7), Plane(1, 15)], [Plane(0, 9), Plane(2, 11)]], ids=str)
def test_untrained_mean_is_the_estimate_without_a_network(cohort: Prepared, untrained: Path, planes: list[Plane]) -> None:
    observation = observe_test(cohort, planes)
    expected = Core.of(read_weights(untrained)[0]).estimate(observation)
    volume, std, evaluations = method.load(untrained).reconstruct(observation, 1, "mean", np.random.default_rng(0))
    np.testing.assert_allclose(volume, expected.corrected, atol=1e-5)
    np.testing.assert_array_equal(std, np.where(observation.known, 0, expected.std))
    assert evaluations == SECTIONS[cohort.store.cohort]


@pytest.mark.parametrize("noise", ["shared", "independent"])
@pytest.mark.parametrize("estimate", ["mean", "sample", "mean_of_2"])
def test_without_fusion_the_network_is_not_asked_and_counts_for_nothing(
    cohort: Prepared, untrained: Path, scrambled: method.XDiffusion, estimate: str, noise: str
) -> None:
    observation, silent = observe_test(cohort, [Plane(2, 9)]), method.load(untrained.with_name("scrambled"))
    silent.fusion, silent.sampler = sampler.NONE, replace(silent.sampler, fusion="none", noise=noise)
    silent.network.section = None  # would raise
    volume, std, evaluations = silent.reconstruct(observation, 3, estimate, np.random.default_rng(0))
    plain = method.load(untrained)  # whose network returns 0
    plain.sampler = replace(plain.sampler, noise=noise)
    expected, own, _ = plain.reconstruct(observation, 3, estimate, np.random.default_rng(0))
    np.testing.assert_allclose(volume, expected, atol=1e-5)
    np.testing.assert_allclose(std, own, atol=1e-5)
    assert evaluations == 0


def test_fusion_is_chosen_by_the_settings(cohort: Prepared, untrained: Path) -> None:
    tensors, config = read_weights(untrained)
    folder = untrained.with_name("alone")
    write_weights(folder, tensors, {**config, "params": {**config["params"], "sampler": {"fusion": "none"}}})
    assert method.load(folder).fusion is sampler.NONE


@pytest.mark.parametrize("estimate", ["mean", "sample", "mean_of_2"])
@pytest.mark.parametrize("planes", [[Plane(2, 6), Plane(2, 13)], [Plane(0, 9), Plane(2, 11)]], ids=["axial", "crossing"])
def test_given_sections_come_back_bit_exact(
    cohort: Prepared, scrambled: method.XDiffusion, estimate: str, planes: list[Plane]
) -> None:
    observation = observe_test(cohort, planes)
    volume, _, _ = scrambled.reconstruct(observation, 2, estimate, np.random.default_rng(0))
    assert volume.shape == (len(cohort.store.contrasts), *cohort.store.shape) and volume.dtype == np.float32
    for plane, section in zip(planes, observation.sections, strict=True):
        np.testing.assert_array_equal(plane.cut(volume), section)
    gaussian = scrambled.core.estimate(observation).corrected
    assert np.abs(volume - gaussian)[:, ~observation.mask].mean() > 1e-3  # elsewhere the network had its say


def test_same_generator_same_volume_whatever_the_batch(
    cohort: Prepared, scrambled: method.XDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = observe_test(cohort, [Plane(2, 9)])

    def draw(seed: int) -> np.ndarray:
        return scrambled.reconstruct(observation, 3, "sample", np.random.default_rng(seed))[0]

    first = draw(0)
    np.testing.assert_array_equal(draw(0), first)
    assert np.abs(draw(1) - first)[:, ~observation.mask].mean() > 1e-3
    monkeypatch.setattr(sampler, "PIXELS", 2000)
    np.testing.assert_allclose(draw(0), first, atol=1e-4)


def test_steps_are_counted_in_section_evaluations(cohort: Prepared, scrambled: method.XDiffusion) -> None:
    observation, sections = observe_test(cohort, [Plane(1, 9)]), SECTIONS[cohort.store.cohort]
    for estimate, steps, expected in (("mean", 9, sections), ("sample", 3, 3 * sections), ("mean_of_2", 2, 4 * sections)):
        assert scrambled.reconstruct(observation, steps, estimate, np.random.default_rng(0))[2] == expected


def test_mean_of_n_is_the_mean_of_its_draws(cohort: Prepared, scrambled: method.XDiffusion) -> None:
    observation, rng = observe_test(cohort, [Plane(2, 9)]), np.random.default_rng(4)
    draws = [scrambled.reconstruct(observation, 2, "sample", rng)[0] for _ in range(3)]
    together, std, _ = scrambled.reconstruct(observation, 2, "mean_of_3", np.random.default_rng(4))
    np.testing.assert_allclose(together, np.mean(draws, axis=0), atol=1e-5)
    np.testing.assert_allclose(std, np.std(draws, axis=0, ddof=1), atol=1e-4)
    assert std.max() > 1e-2


@pytest.mark.parametrize("estimate", ["mean", "sample"])
def test_mean_and_sample_come_with_the_standard_deviation_of_the_core(
    cohort: Prepared, scrambled: method.XDiffusion, estimate: str
) -> None:
    observation = observe_test(cohort, [Plane(2, 9)])
    _, std, _ = scrambled.reconstruct(observation, 2, estimate, np.random.default_rng(0))
    np.testing.assert_array_equal(std, np.where(observation.known, 0, scrambled.core.estimate(observation).std))
    assert std.max() > 1e-2


SEVERAL = {
    "thick": [Plane(2, 5, 2.5), Plane(2, 12, 2.5)],
    "mixed": [Plane(2, 6), Plane(0, 9), Plane(1, 14)],
    "thick mixed": [Plane(2, 5, 2.5), Plane(1, 12, 2.0)],
    "tilted": tilted_stack(2, 2, np.ones((20, 24, 18), dtype=bool), (2.0, 2.0, 2.0)),
}


@pytest.mark.parametrize("estimate", ["mean", "sample", "mean_of_2"])
@pytest.mark.parametrize("planes", SEVERAL.values(), ids=SEVERAL)
def test_thick_mixed_and_tilted_sections_are_met(
    cohort: Prepared, scrambled: method.XDiffusion, planes: list[AnyPlane], estimate: str
) -> None:
    observation = observe_test(cohort, planes)
    volume, std, _ = scrambled.reconstruct(observation, 2, estimate, np.random.default_rng(0))
    for plane, section in zip(planes, observation.sections, strict=True):
        np.testing.assert_allclose(plane.cut(volume), section, atol=1e-4)
    assert not std[observation.known].any() and (std[~observation.known] > 0).mean() > 0.99  # of two draws a few may be alike
    corrected = scrambled.core.estimate(observation).corrected
    assert np.abs(volume - corrected)[~observation.known].mean() > 1e-3  # elsewhere the network had its say


@pytest.mark.parametrize("estimate", ["mean", "sample"])
@pytest.mark.parametrize("planes", [[Plane(2, 9)], [Plane(2, 8, 2.5)]], ids=["thin", "thick"])
def test_a_contrast_that_is_not_given_is_reconstructed_from_the_other(
    heads: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planes: list[Plane], estimate: str
) -> None:
    monkeypatch.setattr("xdiff.trained.fit_core", plain_core)
    train("xdiff", MethodEntry("xdiff.model.method", PARAMS), heads.store, heads.split, tmp_path / "xdiff")
    xdiffusion, store, subject = method.load(tmp_path / "xdiff"), heads.store, heads.split.side("test")[0]
    observation = observe(store.volume(subject), planes, store.contrasts, (2.0,) * 3, store.frame, store.norm, ["T1w"])
    volume, std, _ = xdiffusion.reconstruct(observation, 2, estimate, np.random.default_rng(0))
    inside = store.foreground(subject) & observation.mask
    assert volume[1][inside].mean() > 0.3 and (std[1] > 0).all()  # not the zeros that its sections hold
    for plane, section in zip(planes, observation.sections, strict=True):
        np.testing.assert_allclose(plane.cut(volume)[0], section[0], atol=1e-4)


@pytest.mark.parametrize("base", ["gaussian", "none"])
def test_a_method_starts_from_the_base_that_its_entry_names(cohort: Prepared, untrained: Path, tmp_path: Path, base: str) -> None:
    tensors, config = read_weights(untrained)
    write_weights(tmp_path / base, tensors, config | {"params": {**PARAMS, "base": base}})
    observation = observe_test(cohort, [Plane(2, 9)])
    volume, std, _ = method.load(tmp_path / base).reconstruct(observation, 1, "mean", np.random.default_rng(0))
    expected, core = (Core.of(tensors, b).estimate(observation) for b in (base, "core"))
    np.testing.assert_allclose(volume, expected.corrected, atol=1e-5)
    np.testing.assert_array_equal(std, np.where(observation.known, 0, expected.std))
    assert base == "gaussian" or np.abs(expected.corrected - core.corrected).mean() > 1e-3


CHOSEN = [{"noise": "independent"}, {"projection": "end"}, {"start": "warm"}, {"solver": "ddim"}]


@pytest.mark.parametrize("chosen", CHOSEN, ids=str)
def test_a_choice_of_the_sampler_changes_the_draw_and_not_the_data(
    cohort: Prepared, scrambled: method.XDiffusion, untrained: Path, tmp_path: Path, chosen: dict[str, str]
) -> None:
    tensors, config = read_weights(untrained.with_name("scrambled"))
    write_weights(tmp_path / "other", tensors, config | {"params": {**PARAMS, "sampler": chosen}})
    observation, drawn = observe_test(cohort, [Plane(2, 9)]), []
    for one in (scrambled, method.load(tmp_path / "other")):
        drawn.append(one.reconstruct(observation, 6, "sample", np.random.default_rng(0))[0])
        np.testing.assert_array_equal(drawn[-1][observation.known], observation.evidence[observation.known])
    assert np.abs(drawn[0] - drawn[1]).mean() > 1e-3
