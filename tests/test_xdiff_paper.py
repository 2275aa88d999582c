"""X-Diffusion as the paper has it, trained as it says: what it counts, shares and cannot do. Learning: test_paper_learns.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from columns import plain_core
from conftest import Prepared, observe_test
from paper_weights import PAPER, XDIFF, scramble, with_assembly

from baselines import xdiff_paper
from baselines.paper_training import NoisePrediction
from xdiff.checkpoint import read_weights
from xdiff.config import MethodEntry, Sweep
from xdiff.errors import InputError, NotSupported
from xdiff.local import Core
from xdiff.model import training
from xdiff.model.training import Denoising
from xdiff.planes import Plane
from xdiff.sample import sample
from xdiff.sizes import settings_of, untrained
from xdiff.stacks import tilted_stack
from xdiff.train import train

CROSSING = [Plane(0, 9), Plane(2, 11)]


@pytest.fixture(scope="module")
def paper(heads: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scrambled weights of the paper's own training."""
    out = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xdiff.trained.fit_core", plain_core)
        train("xdiff_paper", MethodEntry("baselines.xdiff_paper", PAPER), heads.store, heads.split, out / "untrained")
    return scramble(out / "untrained", out / "scrambled")


@pytest.mark.parametrize("estimate", ["sample", "mean_of_2"])
@pytest.mark.parametrize("planes", [[Plane(2, 9)], [Plane(1, 7, 2.5)]], ids=["thin", "thick"])
def test_the_given_slice_comes_back(heads: Prepared, paper: Path, planes: list[Plane], estimate: str) -> None:
    observation = observe_test(heads, planes)
    volume, std, _ = xdiff_paper.load(paper).reconstruct(observation, 3, estimate, np.random.default_rng(0))
    assert volume.shape == (len(heads.store.contrasts), *heads.store.shape) and volume.dtype == np.float32
    np.testing.assert_allclose(planes[0].cut(volume), observation.sections[0], atol=0 if planes[0].thin else 1e-4)
    assert (std is None) == (estimate == "sample")
    assert std is None or (not std[observation.known].any() and std.max() > 1e-2)


def test_the_paper_does_not_paste(heads: Prepared, paper: Path, tmp_path: Path) -> None:
    observation = observe_test(heads, [Plane(2, 9)])
    pasted, raw = (
        with_assembly(paper, tmp_path / str(p), paste=p).reconstruct(observation, 2, "sample", np.random.default_rng(0))[0]
        for p in (True, False)
    )
    assert np.abs(raw - pasted)[observation.known].mean() > 1e-2
    np.testing.assert_array_equal(raw[~observation.known], pasted[~observation.known])


@pytest.mark.parametrize(
    ("assembly", "planes", "factor"),
    [
        ({}, [Plane(2, 9)], 1),
        ({"solver": "ddpm"}, [Plane(2, 9)], 1),
        ({"guidance": 3.0}, [Plane(2, 9)], 2),
        ({"merge": "mean"}, [Plane(2, 6), Plane(2, 13)], 2),
        ({"merge": "mean", "guidance": 7.5}, [Plane(2, 6), Plane(2, 13)], 4),
    ],
    ids=str,
)
def test_evaluations_are_sections_times_steps_slices_and_guidance(
    heads: Prepared, paper: Path, tmp_path: Path, assembly: dict, planes: list[Plane], factor: int
) -> None:
    loaded = with_assembly(paper, tmp_path / "other", **assembly)
    found = loaded.reconstruct(observe_test(heads, planes), 2, "sample", np.random.default_rng(0))[2]
    assert found == 2 * factor * heads.store.shape[2]


def test_evaluations_of_three_views_and_two_draws_are_of_all_axes_twice(heads: Prepared, paper: Path, tmp_path: Path) -> None:
    loaded = with_assembly(paper, tmp_path / "views", views=3)
    observation = observe_test(heads, [Plane(1, 9)])
    assert loaded.reconstruct(observation, 2, "sample", np.random.default_rng(0))[2] == 2 * sum(heads.store.shape)
    assert loaded.reconstruct(observation, 2, "mean_of_2", np.random.default_rng(0))[2] == 4 * sum(heads.store.shape)


def test_slices_of_two_axes_make_a_volume_each(heads: Prepared, paper: Path, tmp_path: Path) -> None:
    """The merged volume is the formula's, of the volumes that each slice leads to; the harness gets one."""
    observation, rng = observe_test(heads, CROSSING), np.random.default_rng(5)
    single = with_assembly(paper, tmp_path / "single", paste=False)
    apart = []
    for plane, section in zip(observation.planes, observation.sections, strict=True):
        apart.append(single.reconstruct(replace(observation, planes=(plane,), sections=(section,)), 2, "sample", rng)[0])
    together = single.reconstruct(observation, 2, "sample", np.random.default_rng(5))[0]
    np.testing.assert_allclose(together, np.maximum(apart[0], 0) * np.maximum(apart[1], 0), atol=1e-4)


def test_what_the_paper_cannot_do_is_said(heads: Prepared, paper: Path) -> None:
    loaded = xdiff_paper.load(paper)
    with pytest.raises(NotSupported, match="no estimate of the mean"):
        loaded.reconstruct(observe_test(heads, [Plane(2, 9)]), 1, "mean", np.random.default_rng(0))
    tilted = tilted_stack(2, 1, np.ones(heads.store.shape, bool), (2.0, 2.0, 2.0))
    with pytest.raises(NotSupported, match="array's axes"):
        loaded.reconstruct(observe_test(heads, tilted), 2, "sample", np.random.default_rng(0))
    with pytest.raises(NotSupported, match="1001 steps"):
        loaded.reconstruct(observe_test(heads, [Plane(2, 9)]), 1001, "sample", np.random.default_rng(0))
    crossing = observe_test(heads, CROSSING)
    below = replace(crossing, sections=tuple(section - 1 for section in crossing.sections))
    with pytest.raises(NotSupported, match="multiplicative of intensities below 0"):
        loaded.reconstruct(below, 2, "sample", np.random.default_rng(0))


def test_the_harness_draws_counts_and_lists_what_it_cannot(heads: Prepared, paper: Path, tmp_path: Path) -> None:
    entry = MethodEntry("baselines.xdiff_paper", PAPER, estimates=("mean", "sample"), stepped=True)
    sweep = Sweep(K=(1, 2), steps=(2,), estimate=("mean", "sample"))
    sample(entry, paper, heads.store, heads.split, sweep, tmp_path)
    rows, skipped = (pd.read_csv(tmp_path / f"{name}-1-of-1.tsv", sep="\t") for name in ("manifest", "skipped"))
    assert set(rows["estimate"]) == {"sample"} and len(rows) == 2 * len(heads.split.side("test"))
    assert rows.groupby("K")["evaluations"].unique().map(list).to_dict() == {1: [44], 2: [88]}
    assert skipped["K"].tolist() == [1, 2] and skipped["reason"].str.contains("in one call").all()


@pytest.mark.parametrize(("params", "kind"), [(PAPER, NoisePrediction), ({**XDIFF, "trained_as": "xdiff"}, Denoising)], ids=str)
def test_unit_costs_can_be_measured_of_both_kinds(
    heads: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: dict, kind: type
) -> None:
    """As xdiff/timing.py does: the settings of an entry, its untrained weights, a core and a problem from them."""
    monkeypatch.setattr(training, "SPECTRUM_DRAWS", 3)
    entry = untrained(MethodEntry("baselines.xdiff_paper", params))
    settings, core = settings_of(entry), plain_core(heads.store, heads.split)
    assert isinstance(xdiff_paper.make_problem(heads.store, heads.split, core, settings, tmp_path), kind)
    assert settings.trained_as == params.get("trained_as", "paper")


def test_the_core_lies_beside_the_network(heads: Prepared, paper: Path) -> None:
    core = Core.of(read_weights(paper)[0], "none")
    assert core.linear.n_rows == plain_core(heads.store, heads.split).linear.n_rows


def test_entries_that_differ_in_assembly_alone_share_a_training(
    field: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xdiff.trained.fit_core", plain_core)
    trained, real = [], xdiff_paper.fit_paper
    monkeypatch.setattr(xdiff_paper, "fit_paper", lambda *a: trained.append(1) or real(*a))
    for name, extra in (("a", {}), ("b", {"assembly": {"views": 3}}), ("c", {"drop": 0.2})):
        train(name, MethodEntry("baselines.xdiff_paper", {**PAPER, **extra}), field.store, field.split, tmp_path / name)
        assert (tmp_path / name / "history.jsonl").read_text()
    assert len(trained) == 2
    first, second = (read_weights(tmp_path / name)[0] for name in "ab")
    assert set(first) == set(second) and all(np.array_equal(first[k], second[k]) for k in first)


def test_same_generator_same_volume(heads: Prepared, paper: Path) -> None:
    observation, loaded = observe_test(heads, [Plane(2, 9)]), xdiff_paper.load(paper)
    draws = [loaded.reconstruct(observation, 2, "sample", np.random.default_rng(seed))[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).mean() > 1e-3


def test_mean_of_n_is_the_mean_of_its_draws(heads: Prepared, paper: Path) -> None:
    observation, loaded, rng = observe_test(heads, [Plane(2, 9)]), xdiff_paper.load(paper), np.random.default_rng(4)
    draws = [loaded.reconstruct(observation, 2, "sample", rng)[0] for _ in range(3)]
    together, std, _ = loaded.reconstruct(observation, 2, "mean_of_3", np.random.default_rng(4))
    np.testing.assert_allclose(together, np.mean(draws, axis=0), atol=1e-4)
    np.testing.assert_allclose(std, np.std(draws, axis=0, ddof=1), atol=1e-3)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"trained_as": "official"}, "trained_as.*official"),
        ({"trained_as": "xdiff", "assembly": {"guidance": 3.0}}, "assembly.*guidance"),
        ({"trained_as": "xdiff", "sampler": {"start": "warm"}}, "sampler"),
        ({"assembly": {"apart": 2}}, "assembly.*apart"),
    ],
    ids=str,
)
def test_a_parameter_of_the_other_kind_is_named(params: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        xdiff_paper.Settings.of(params)
