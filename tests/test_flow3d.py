"""3D flow matching: the gaussian row before training, its loss, its draws and their counting, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from columns import axial_planes, mean_gain_db, observation_of, plain_core, prepare_columns, scramble
from conftest import Prepared, observe_test
from torch import Tensor, nn

from baselines import flow3d
from baselines.flow3d import Flow, FlowMatching, Settings, VolumeFlow, VolumeNetwork, denoised
from xdiff.checkpoint import read_weights
from xdiff.config import MethodEntry
from xdiff.draws import Checks, Draws, importance, residual
from xdiff.errors import InputError
from xdiff.local import Core
from xdiff.model import training
from xdiff.model.diffusion import Condition, make_condition, map_channels
from xdiff.model.spectrum import BINS
from xdiff.planes import Plane
from xdiff.stacks import tilted_stack
from xdiff.train import train

SMALL = {"channels": [8, 16], "validate_k": [1, 3], "validate_subjects": 1}
WHITE = torch.ones(1, BINS)


@pytest.fixture(scope="module")
def cohort(heads: Prepared) -> Prepared:
    """Two contrasts, and no size that a power of two divides but one."""
    return heads


@pytest.fixture(scope="module")
def untrained(cohort: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights after no step of training."""
    out = tmp_path_factory.mktemp("untrained") / "flow3d"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xdiff.trained.fit_core", plain_core)
        patch.setattr(training, "SPECTRUM_DRAWS", 6)
        train("flow3d", MethodEntry("baselines.flow3d", {**SMALL, "steps": 0}), cohort.store, cohort.split, out)
    return out


@pytest.fixture(scope="module")
def scrambled(untrained: Path) -> VolumeFlow:
    """The same with random numbers in every layer, the zero head too."""
    return flow3d.load(scramble(untrained, 0.05))


# Volumes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", [[Plane(2, 9)], [Plane(1, 7), Plane(1, 15)], [Plane(0, 9), Plane(2, 11)]], ids=str)
def test_untrained_mean_is_the_estimate_without_a_network(cohort: Prepared, untrained: Path, planes: list[Plane]) -> None:
    observation = observe_test(cohort, planes)
    known = Core.of(read_weights(untrained)[0]).estimate(observation)
    volume, std, evaluations = flow3d.load(untrained).reconstruct(observation, 1, "mean", np.random.default_rng(0))
    np.testing.assert_allclose(volume, known.corrected, atol=1e-5)
    np.testing.assert_allclose(std, np.where(observation.known, 0, known.std), atol=1e-6)
    assert evaluations == cohort.store.shape[2]  # whatever the axis of the given sections


@pytest.mark.parametrize("estimate", ["mean", "sample", "mean_of_2"])
@pytest.mark.parametrize("planes", [[Plane(2, 6), Plane(2, 13)], [Plane(0, 9), Plane(2, 11)]], ids=["axial", "crossing"])
def test_given_sections_come_back_bit_exact(cohort: Prepared, scrambled: VolumeFlow, estimate: str, planes: list[Plane]) -> None:
    observation = observe_test(cohort, planes)
    volume, std, evaluations = scrambled.reconstruct(observation, 3, estimate, np.random.default_rng(0))
    assert volume.shape == std.shape == (len(cohort.store.contrasts), *cohort.store.shape) and volume.dtype == np.float32
    where = observation.mask
    np.testing.assert_array_equal(volume[:, where], observation.evidence[:, where])
    assert evaluations == {"mean": 1, "sample": 3, "mean_of_2": 6}[estimate] * cohort.store.shape[2]
    estimated = scrambled.core.estimate(observation).corrected
    assert np.abs(volume - estimated)[:, ~where].mean() > 1e-3  # elsewhere the network had its say


@pytest.mark.parametrize(("count", "estimate"), [(1, "mean"), (5, "sample")], ids=str)
def test_oblique_sections_are_met(cohort: Prepared, scrambled: VolumeFlow, count: int, estimate: str) -> None:
    store, subject = cohort.store, cohort.split.side("test")[0]
    planes = tilted_stack(2, count, store.foreground(subject), store.spacing_mm(subject))
    observation = observe_test(cohort, planes)
    volume, _, _ = scrambled.reconstruct(observation, 2, estimate, np.random.default_rng(0))
    for plane, section in zip(planes, observation.sections, strict=True):
        np.testing.assert_allclose(plane.cut(volume), section, atol=1e-3)


def test_a_draw_is_a_function_of_its_generator_and_the_mean_of_n_their_mean(cohort: Prepared, scrambled: VolumeFlow) -> None:
    observation = observe_test(cohort, [Plane(2, 9)])
    generator = np.random.default_rng(0)
    first, second = (scrambled.reconstruct(observation, 3, "sample", generator)[0] for _ in range(2))
    again = scrambled.reconstruct(observation, 3, "sample", np.random.default_rng(0))[0]
    np.testing.assert_array_equal(first, again)
    mean, std, _ = scrambled.reconstruct(observation, 3, "mean_of_2", np.random.default_rng(0))
    np.testing.assert_allclose(mean, (first + second) / 2, atol=1e-5)
    np.testing.assert_allclose(std, np.abs(first - second) / np.sqrt(2), atol=1e-4)
    assert np.abs(first - second)[:, ~observation.mask].mean() > 1e-3
    means = [scrambled.reconstruct(observation, 3, "mean", np.random.default_rng(s))[0] for s in (0, 1)]
    np.testing.assert_array_equal(*means)


def test_before_training_draws_are_as_wide_as_their_spectrum_says(cohort: Prepared, untrained: Path) -> None:
    method, observation = flow3d.load(untrained), observe_test(cohort, [Plane(2, 9)])
    view, known = method.core.known(observation)
    power = np.full((1, BINS), 0.25, np.float32).repeat(len(known.std), axis=0)  # white: half a unit wide
    nothing = torch.zeros_like(view.known)
    flow = Flow(method.network, torch.from_numpy(power), Condition(make_condition(view, known).maps, nothing))
    drawn = flow3d.draw(flow, 20, np.random.default_rng(0))
    assert drawn.std().item() == pytest.approx(0.5, rel=0.05) and abs(drawn.mean().item()) < 0.02


def test_the_state_is_projected_at_every_step(cohort: Prepared, scrambled: VolumeFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    view, known = scrambled.core.known(observe_test(cohort, [Plane(2, 9)]))
    flow = Flow(scrambled.network, WHITE.repeat(len(known.std), 1), make_condition(view, known))
    seen: list[tuple[float, Tensor]] = []
    monkeypatch.setattr(flow3d, "denoised", lambda *call: seen.append((call[2], denoised(*call))) or seen[-1][1])
    flow3d.draw(flow, 4, np.random.default_rng(0))
    assert [t for t, _ in seen][0] == 1 and len(seen) == 4
    assert all(not clean[view.known].any() and clean[~view.known].any() for _, clean in seen)


def test_at_the_end_the_state_is_not_looked_at(cohort: Prepared, scrambled: VolumeFlow) -> None:
    view, known = scrambled.core.known(observe_test(cohort, [Plane(2, 9)]))
    flow = Flow(scrambled.network, WHITE.repeat(len(known.std), 1), make_condition(view, known))
    states = [torch.randn(known.std.shape, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    first, second = (denoised(flow, state, 1.0) for state in states)
    assert torch.equal(first, second) and torch.equal(first, flow3d.mean_residual(flow))
    first, second = (denoised(flow, state, 0.9) for state in states)
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("shape", [(16, 8, 24), (13, 9, 18), (5, 7, 30)], ids=str)
def test_any_size_is_padded_at_its_ends_and_cut_back(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = VolumeNetwork(2, (8, 16, 16)).eval()
    torch.nn.init.normal_(network.body.out[-1].conv.weight, std=0.1)
    maps, shown = (torch.randn(2, n, *shape, generator=torch.Generator().manual_seed(n)) for n in (map_channels(2), 4))
    t = torch.tensor([1.0, 0.3])
    larger = [[0, -s % 8] for s in reversed(shape)]
    padding = [p for pair in larger for p in pair]
    with torch.no_grad():
        out = network(shown, t, maps)
        whole = network(*(v if v is t else nn.functional.pad(v, padding) for v in (shown, t, maps)))
    assert out.shape == (2, 2, *shape) and out.std() > 0.1
    torch.testing.assert_close(out, whole[:, :, : shape[0], : shape[1], : shape[2]])


def test_unknown_parameter_is_named() -> None:
    with pytest.raises(InputError, match="methods.*.params: found unknown key 'slab'"):
        Settings.of({"slab": 1})


# Training -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem(heads: Prepared) -> FlowMatching:
    settings = Settings.of({**SMALL, "steps": 10, "seed": 4})
    draws = Draws(heads.store, heads.split.side("train"), plain_core(heads.store, heads.split), settings.draws)
    checks = Checks(draws, heads.split, settings.validate_k, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "SPECTRUM_DRAWS", 6)
        return FlowMatching(draws, checks, heads.split.side("val")[:1], settings)


def test_batch_holds_what_its_draws_say(problem: FlowMatching) -> None:
    first, other, again = (problem.batch(step) for step in (0, 2, 0))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)) and not torch.equal(first[0], other[0])
    for i, draw in enumerate(problem.draws.of_step(4, 2, 2)):
        wanted, weight, spectrum, maps = (part[i] for part in other)
        assert torch.equal(wanted, residual(draw)) and torch.equal(weight, importance(draw.known))
        assert torch.equal(spectrum, problem.spectrum(draw)) and torch.equal(maps, make_condition(draw.view, draw.known).maps)


class Oracle(nn.Module):
    """Answers with the target, which it computes from the first map."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, shown: Tensor, t: Tensor, maps: Tensor) -> Tensor:
        unit = (t / torch.sqrt((1 - t) ** 2 + t**2))[:, None, None, None, None]
        return (maps[:, :1] - shown[:, 1:]) / unit + self.nothing


def white_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wanted = torch.randn(4, 1, 16, 18, 14, generator=torch.Generator().manual_seed(0))
    return wanted, torch.ones_like(wanted), WHITE.expand(4, 1, BINS), wanted.expand(-1, map_channels(1), -1, -1, -1)


def test_loss_of_a_perfect_answer_is_zero_and_of_none_one(problem: FlowMatching) -> None:
    values = [problem.loss(n, white_batch(), torch.Generator()).item() for n in (Oracle(), VolumeNetwork(1, (8, 16)))]
    assert values[0] < 1e-8 and values[1] == pytest.approx(1, abs=0.05)


def test_loss_counts_errors_by_their_weight(problem: FlowMatching) -> None:
    wanted, weight, *rest = white_batch()
    network, halves = VolumeNetwork(1, (8, 16)), []
    for front, back in ((1, 1), (1, 0), (0, 1)):
        weight = weight.clone()
        weight[..., :7], weight[..., 7:] = front, back
        halves.append(problem.loss(network, (wanted, weight, *rest), torch.Generator().manual_seed(0)).item())
    assert halves[0] == pytest.approx(halves[1] + halves[2], rel=1e-4) and min(halves) > 0.3


def test_checks_score_the_mean_that_the_method_gives(problem: FlowMatching, heads: Prepared) -> None:
    network = problem.network.eval()
    score, scores = problem.validate(network)
    assert score == pytest.approx(0, abs=1e-3) and set(scores["validation"]) == {1, 3}
    changed = Settings.of({**SMALL, "seed": 4}).network(2).eval()
    nn.init.normal_(changed.body.out[-1].conv.weight, std=0.1)
    draw = problem.checks.cases[0][2]
    method = VolumeFlow(changed, problem.draws.core, problem.spectra)
    observation = observation_of(draw, heads.store)
    found = draw.known.corrected + draw.known.std * problem.mean(changed, draw)
    # a validation subject is in no core: the estimate is the same without it
    volume, _, _ = method.reconstruct(observation, 1, "mean", np.random.default_rng(0))
    np.testing.assert_allclose(found.numpy(), volume, atol=1e-3)
    assert (found - draw.known.corrected).abs().mean() > 1e-3


def test_training_beats_the_gaussian_row_on_volumes_that_nothing_was_chosen_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Draws, "_planes", axial_planes)
    monkeypatch.setattr("xdiff.trained.fit_core", plain_core)
    monkeypatch.setattr(training, "SPECTRUM_DRAWS", 12)
    monkeypatch.setattr(training, "HELD_OUT", 3)
    columns = prepare_columns(tmp_path)
    params = {"channels": [16, 32], "steps": 50, "learning_rate": 4e-3, "ema": 0.95, "validate_every": 25, "validate_k": [1, 3]}
    params |= {"draws": {"augment": {"warp": 0.0}}, "seed": 1}
    train("flow3d", MethodEntry("baselines.flow3d", params), columns.store, columns.split, tmp_path / "flow3d")
    history = [json.loads(line) for line in (tmp_path / "flow3d/history.jsonl").read_text().splitlines()]
    assert [r["step"] for r in history] == [0, 25, 50] and history[2]["loss"] < 0.8 * history[1]["loss"]
    method = flow3d.load(tmp_path / "flow3d")
    assert mean_gain_db(columns, method) > 3
    store, subject = columns.store, columns.split.side("test")[0]
    observation = observe_test(columns, [Plane(2, 5)])
    drawn, _, _ = method.reconstruct(observation, 8, "sample", np.random.default_rng(0))
    truth, base = store.volume(subject), method.core.estimate(observation).gaussian
    far = np.s_[:, :, :, 9:]  # where the gaussian row has faded: a draw, too, has learned that volumes are columns
    assert np.square(drawn - truth)[far].mean() < 0.7 * np.square(base - truth)[far].mean()
