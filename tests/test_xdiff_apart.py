"""The network of xdiff drawn the paper's way: the same weights, one axis at a time, nothing projected while drawing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from columns import plain_core
from conftest import Prepared, observe_test
from paper_weights import XDIFF, scramble, with_assembly

from baselines import xdiff_paper
from xdiff.checkpoint import read_weights
from xdiff.config import MethodEntry
from xdiff.local import log_distance
from xdiff.model import training
from xdiff.model.diffusion import make_condition
from xdiff.model.sampler import Denoiser, axis_estimates
from xdiff.planes import Plane
from xdiff.train import train


@pytest.fixture(scope="module")
def shared(field: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scrambled weights of xdiff's network, as an entry of the paper's module trains it."""
    out = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xdiff.trained.fit_core", plain_core)
        params = {**XDIFF, "trained_as": "xdiff", "assembly": {"views": 3}}
        train("apart", MethodEntry("baselines.xdiff_paper", params), field.store, field.split, out / "untrained")
    return scramble(out / "untrained", out / "scrambled", assembly={})


def test_it_takes_the_very_training_of_xdiff(field: Prepared, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xdiff.trained.fit_core", plain_core)
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained again"))
    train("xdiff", MethodEntry("xdiff.model.method", XDIFF), field.store, field.split, shared.with_name("xdiff"))
    first, second = (read_weights(shared.with_name(name))[0] for name in ("xdiff", "untrained"))
    assert set(first) == set(second) and all(np.array_equal(first[k], second[k]) for k in first)


def test_another_network_is_another_training(field: Prepared, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xdiff.trained.fit_core", plain_core)
    trained: list[Path] = []
    monkeypatch.setattr(training, "_train", lambda *args: trained.append(args[-1]) or {})
    entry = MethodEntry("baselines.xdiff_paper", {**XDIFF, "trained_as": "xdiff", "slab": 0})
    train("other", entry, field.store, field.split, shared.with_name("other"))
    assert len(trained) == 1


def test_mean_is_the_network_at_pure_noise_along_the_given_axis(field: Prepared, shared: Path) -> None:
    apart, observation = xdiff_paper.load(shared), observe_test(field, [Plane(1, 9)])
    volume, std, evaluations = apart.reconstruct(observation, 7, "mean", np.random.default_rng(0))
    view, known = apart.core.known(observation)
    spectrum = torch.from_numpy(apart.spectra.at(log_distance(view, known.gaussian)))
    denoiser = Denoiser(apart.network, spectrum, make_condition(view, known, torch.float16), 1)
    _, added = axis_estimates(denoiser, torch.zeros(denoiser.shape), 1.0, (1,))
    expected = (known.corrected + known.std * added[0]).numpy()
    np.testing.assert_allclose(volume[~observation.known], expected[~observation.known], atol=1e-5)
    np.testing.assert_array_equal(std, np.where(observation.known, 0, known.std))
    assert evaluations == field.store.shape[1]


@pytest.mark.parametrize(
    ("assembly", "axes", "factor"),
    [({}, [1], 1), ({"views": 3}, [0, 1, 2], 1), ({"solver": "ddpm", "views": 2}, [1, 2], 1), ({"apart": 2}, [1], 2)],
    ids=str,
)
def test_views_are_axes_and_are_counted(
    field: Prepared, shared: Path, tmp_path: Path, assembly: dict, axes: list[int], factor: int
) -> None:
    apart, observation = with_assembly(shared, tmp_path / "other", **assembly), observe_test(field, [Plane(1, 9)])
    volume, _, evaluations = apart.reconstruct(observation, 3, "sample", np.random.default_rng(0))
    assert evaluations == factor * 3 * sum(field.store.shape[a] for a in axes)
    np.testing.assert_array_equal(volume[observation.known], observation.evidence[observation.known])


def test_given_voxels_are_drawn_like_the_others_until_they_are_pasted(field: Prepared, shared: Path, tmp_path: Path) -> None:
    """X-Diffusion projects at every step and has them exactly; here the draw itself does not meet them."""
    observation = observe_test(field, [Plane(2, 9)])
    raw = with_assembly(shared, tmp_path / "raw", paste=False)
    volume, std, _ = raw.reconstruct(observation, 4, "sample", np.random.default_rng(0))
    assert np.abs(volume - observation.evidence)[observation.known].mean() > 1e-3 and (std > 0).all()


def test_neighbours_of_different_stacks_are_less_alike(field: Prepared, shared: Path, tmp_path: Path) -> None:
    observation, steps = observe_test(field, [Plane(2, 9)]), {}
    for apart in (1, 2):
        drawn = with_assembly(shared, tmp_path / str(apart), apart=apart)
        volume, _, _ = drawn.reconstruct(observation, 6, "sample", np.random.default_rng(0))
        detail = volume - drawn.reconstruct(observation, 6, "mean", np.random.default_rng(0))[0]
        steps[apart] = float(np.abs(np.diff(detail[..., 11:], axis=3)).mean())
    assert steps[2] > 1.1 * steps[1]


def test_same_generator_same_volume(field: Prepared, shared: Path) -> None:
    observation, loaded = observe_test(field, [Plane(2, 9)]), xdiff_paper.load(shared)
    draws = [loaded.reconstruct(observation, 2, "sample", np.random.default_rng(seed))[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).mean() > 1e-3


def test_mean_of_n_is_the_mean_of_its_draws(field: Prepared, shared: Path) -> None:
    observation, loaded, rng = observe_test(field, [Plane(2, 9)]), xdiff_paper.load(shared), np.random.default_rng(4)
    draws = [loaded.reconstruct(observation, 2, "sample", rng)[0] for _ in range(3)]
    together, std, _ = loaded.reconstruct(observation, 2, "mean_of_3", np.random.default_rng(4))
    np.testing.assert_allclose(together, np.mean(draws, axis=0), atol=1e-4)
    np.testing.assert_allclose(std, np.std(draws, axis=0, ddof=1), atol=1e-3)
