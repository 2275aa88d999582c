"""What the official pipeline costs: a step against its closed form, rows, resume and budget with small networks in place of
its own, a volume's cost by hand; and, where diffusers is installed, the sizes of the networks themselves."""

from __future__ import annotations

import importlib
import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from xdiff import bench, budget, clocks, official
from xdiff.errors import InputError
from xdiff.official import BFLOAT16, COLUMNS, FLOAT32, Case, cases, measure, seconds, volume_rows
from xdiff.official_networks import build, call_of, guided_step

CPU = torch.device("cpu")
EXTRA = [name for name in ("diffusers", "transformers") if importlib.util.find_spec(name) is None]
needs_extra = pytest.mark.skipif(bool(EXTRA), reason=f"extra [official] not installed: no {', '.join(EXTRA)}")


class Small(nn.Module):
    """In place of any of the three networks: the same shapes in and out, and what it was called with."""

    library = "none"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 4, 3, 3))
        self.calls: list[tuple] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        kernel = self.weight.is_contiguous(memory_format=torch.channels_last)
        self.calls.append((*(tuple(each.shape) for each in inputs), kernel, torch.is_autocast_enabled("cpu")))
        return inputs[0][:, :4]

    encode = decode = forward


class Shelf:
    """Builds a Small for each name and remembers them in order."""

    def __init__(self) -> None:
        self.built: list[tuple[str, Small]] = []

    def __call__(self, name: str) -> Small:
        self.built.append((name, Small()))
        return self.built[-1][1]


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


# One step ----------------------------------------------------------------------------------------------------------


def test_a_step_with_the_true_noise_lands_on_the_diffusion_path() -> None:
    """x_t = sqrt(a) x_0 + sqrt(1 - a) e goes to the same x_0 and e at the next a: what DDIM with sigma 0 is."""
    clean, noise = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    latent = math.sqrt(0.3) * clean + math.sqrt(0.7) * noise

    def unet(*_: Tensor) -> Tensor:
        return torch.cat([noise, noise])

    context, t = torch.randn(3, 1, 768), torch.full((3,), 500)
    found = guided_step(unet, latent, latent, context, t, alpha=0.3, alpha_next=0.6)
    torch.testing.assert_close(found, math.sqrt(0.6) * clean + math.sqrt(0.4) * noise)


def test_guidance_is_three_times_the_difference_that_the_condition_makes() -> None:
    """One call on a doubled batch: zeros for the condition in its first half. From a = 1/2 to 1/2 of zeros nothing moves but
    by the noise: sqrt(1/2) e - sqrt(1/2) e; so the step to a = 1/4 of a zero latent is sqrt(3/4) e - sqrt(1/4) e."""
    condition, context = torch.full((1, 4, 32, 32), 5.0), torch.full((1, 1, 768), 7.0)
    seen = []

    def unet(both: Tensor, t: Tensor, contexts: Tensor) -> Tensor:
        seen.append((both[:, 4:].mean((1, 2, 3)).tolist(), t.tolist(), contexts.mean((1, 2)).tolist()))
        return torch.stack([torch.full((4, 32, 32), 1.0), torch.full((4, 32, 32), 1.5)])

    found = guided_step(unet, torch.zeros(1, 4, 32, 32), condition, context, torch.tensor([9]), alpha=0.5, alpha_next=0.25)
    assert seen == [([0.0, 5.0], [9, 9], [0.0, 7.0])]
    noise = 1.0 + 3.0 * (1.5 - 1.0)
    torch.testing.assert_close(found, torch.full_like(found, (math.sqrt(0.75) - math.sqrt(0.25)) * noise))


# Rows --------------------------------------------------------------------------------------------------------------


def test_bfloat16_and_large_batches_are_for_cuda_alone() -> None:
    assert {(case.batch, case.precision) for case in cases(CPU)} == {(1, FLOAT32), (2, FLOAT32)}
    on_cuda = {(case.batch, case.precision) for case in cases(torch.device("cuda"))}
    assert on_cuda == {(1, FLOAT32), (8, BFLOAT16), (32, BFLOAT16)}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_network_is_measured_at_every_batch_before_the_next_one(device: str) -> None:
    listed = cases(torch.device(device))
    assert len(set(listed)) == len(listed) == 4 * len({case[1:] for case in listed})
    networks = [official.NETWORK_OF[case.what] for case in listed]
    assert networks == sorted(networks, key=["clip", "vae", "unet"].index)
    for name in set(networks):  # bfloat16 changes the layout of a network for good
        precisions = [case.precision for case in listed if official.NETWORK_OF[case.what] == name]
        assert precisions == sorted(precisions, reverse=True)


def test_rows_say_what_was_measured(tmp_path: Path) -> None:
    shelf, out = Shelf(), tmp_path / "new" / "official.tsv"
    assert measure(out, 3, networks=shelf, device=CPU) is True
    found = table(out)
    assert list(found.columns) == COLUMNS
    assert [name for name, _ in shelf.built] == ["clip", "vae", "unet"]
    measured = found[found["what"] != "official_volume"]
    assert [(row.what, int(row.batch), row.precision) for row in measured.itertuples()] == [tuple(c) for c in cases(CPU)]
    assert set(measured["steps"]) == {"1"} and set(measured["repeats"]) == {"3"}
    assert set(measured["threads"]) == {str(torch.get_num_threads())} and set(measured["size"]) == {"256"}
    assert measured["note"].str.startswith("0.0 M parameters, none").all()
    times = measured[["q25_s", "median_s", "q75_s"]].astype(float)
    assert (
        (times > 0).all(axis=None) and (times["q25_s"] <= times["median_s"]).all() and (times["median_s"] <= times["q75_s"]).all()
    )
    doubled = measured[measured["what"] == "official_step"]
    assert list(doubled["evaluations"]) == ["2", "4"] and list(doubled["batch"]) == ["1", "2"]


def test_each_row_calls_its_network_with_the_released_shapes(tmp_path: Path) -> None:
    shelf = Shelf()
    measure(tmp_path / "official.tsv", 2, networks=shelf, device=CPU)
    clip, vae, unet = ([call[:-2] for call in network.calls] for _, network in shelf.built)
    calls = 1 + 2  # one to warm up
    assert clip == [((1, 3, 256, 256), (1, 4))] * calls + [((2, 3, 256, 256), (2, 4))] * calls
    image, latent = ((1, 3, 256, 256),), ((1, 4, 32, 32),)
    assert vae[: 2 * calls] == [image] * calls + [latent] * calls
    assert unet == [((2, 8, 32, 32), (2,), (2, 1, 768))] * calls + [((4, 8, 32, 32), (4,), (4, 1, 768))] * calls


def test_bfloat16_rows_run_under_autocast_with_channels_last_and_float32_rows_as_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf()
    both = [Case("official_step", 1, FLOAT32), Case("official_step", 8, BFLOAT16)]
    monkeypatch.setattr(official, "cases", lambda _: both)
    measure(tmp_path / "official.tsv", 1, networks=shelf, device=CPU)
    assert [call[-2:] for call in shelf.built[0][1].calls] == [(False, False)] * 2 + [(True, True)] * 2
    assert not torch.is_autocast_enabled("cpu")


def test_all_rows_of_a_run_carry_the_commit_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = iter(["old\n", *["new\n"] * 9])
    monkeypatch.setattr(clocks.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=next(hashes)))
    official.commit.cache_clear()
    measure(tmp_path / "official.tsv", 1, networks=Shelf(), device=CPU)
    official.commit.cache_clear()
    assert set(table(tmp_path / "official.tsv")["commit"]) == {"old"}


def test_warm_up_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call takes 100 s, the n-th after it n: of a clock that only calls move."""
    clock = SimpleNamespace(now=0.0, calls=0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(official, "time", clock)

    def call() -> None:
        clock.now += clock.calls or 100
        clock.calls += 1

    assert seconds(call, 3, CPU) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("load", "noted"), [(0.5, False), (1000.0, True)])
def test_a_load_above_the_threads_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float, noted: bool) -> None:
    monkeypatch.setattr(official.os, "getloadavg", lambda: (load, 0.0, 0.0))
    measure(tmp_path / "official.tsv", 1, networks=Shelf(), device=CPU)
    measured = table(tmp_path / "official.tsv").query("what != 'official_volume'")
    note = f"; load {load:.1f} on {torch.get_num_threads()} threads"
    assert list(measured["note"].str.endswith(note)) == [noted] * 8


def test_less_than_one_repeat_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--repeats: found 0, expected at least 1"):
        measure(tmp_path / "official.tsv", 0, networks=Shelf(), device=CPU)


# A volume's cost ---------------------------------------------------------------------------------------------------


def rows_of(batch: int, precision: str, clip: float, encode: float, decode: float, step: float) -> list[dict[str, str]]:
    times = {"official_clip": clip, "official_encode": encode, "official_decode": decode, "official_step": step}
    same = dict.fromkeys(COLUMNS, "") | {"batch": str(batch), "precision": precision}
    return [same | {"what": what, "median_s": str(time)} for what, time in times.items()]


def test_a_volume_costs_its_sections_times_steps_and_the_rest_once() -> None:
    """By hand: a section is 0.1 + 0.2 + 0.3 and its steps of 0.05; 155 sections one by one, or five batches of 32, the last
    one with 27."""
    rows = rows_of(1, FLOAT32, 0.1, 0.2, 0.3, 0.05) + rows_of(32, BFLOAT16, 0.5, 1.0, 1.5, 0.2)
    found = {(row["batch"], row["steps"]): float(row["median_s"]) for row in volume_rows(rows)}
    one = {("1", "199"): 155 * 10.55, ("1", "50"): 155 * 3.1, ("1", "1000"): 155 * 50.6}
    assert found == pytest.approx(one | {("32", "199"): 5 * 42.8, ("32", "50"): 5 * 13.0, ("32", "1000"): 5 * 203.0})


def test_volume_rows_are_labelled_computed_and_claim_no_spread() -> None:
    row = volume_rows(rows_of(1, FLOAT32, 0.1, 0.2, 0.3, 0.05))[0]
    assert row["note"] == "computed: 155 x (199 x official_step + official_clip + official_encode + official_decode)"
    assert [row[column] for column in ("what", "method", "estimate")] == ["official_volume", "xdiff_official", "sample"]
    assert row["shape"] == "256x256x155"
    assert row["evaluations"] == str(2 * 155 * 199)
    assert [row[column] for column in ("repeats", "q25_s", "q75_s", "peak_mib")] == [""] * 4


def test_beside_the_released_batch_only_the_fastest_one_is_listed() -> None:
    released = rows_of(1, FLOAT32, 0.1, 0.1, 0.1, 0.1)
    slow, fast = rows_of(8, BFLOAT16, 0.1, 0.1, 0.1, 0.5), rows_of(32, BFLOAT16, 0.1, 0.1, 0.1, 1.0)
    assert {row["batch"] for row in volume_rows(released + slow + fast)} == {"1", "32"}
    assert {row["batch"] for row in volume_rows(released + slow)} == {"1", "8"}


def test_no_volume_is_computed_of_a_batch_that_lacks_a_network() -> None:
    rows = rows_of(1, FLOAT32, 0.1, 0.1, 0.1, 0.1)
    assert volume_rows(rows[:-1]) == []
    assert {row["batch"] for row in volume_rows(rows + rows_of(8, BFLOAT16, 0.1, 0.1, 0.1, 0.1)[1:])} == {"1"}


# Resume and budget -------------------------------------------------------------------------------------------------


def test_a_spent_budget_stops_between_rows_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, clock = tmp_path / "official.tsv", SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(budget, "time", clock)
    timed = official.seconds

    def slow(*given: object) -> list[float]:
        clock.now += 25
        return timed(*given)

    monkeypatch.setattr(official, "seconds", slow)
    assert measure(out, 2, 1.0, networks=Shelf(), device=CPU) is False  # 60 s: the third row ends past it
    first = table(out)
    assert list(first["what"]) == ["official_clip", "official_clip", "official_encode"]
    assert capsys.readouterr().out.endswith("bench: budget of 1 min spent before 'official_decode'; the same command goes on\n")
    shelf = Shelf()
    assert measure(out, 2, networks=shelf, device=CPU) is True
    assert [name for name, _ in shelf.built] == ["vae", "unet"]
    whole = table(out)
    pd.testing.assert_frame_equal(whole.head(3), first)
    assert list(whole["what"]).count("official_volume") == 6
    assert len(whole) == 8 + 6
    assert list(tmp_path.iterdir()) == [out]


def test_a_finished_file_stays_as_it_is(tmp_path: Path) -> None:
    out, shelf = tmp_path / "official.tsv", Shelf()
    measure(out, 1, networks=Shelf(), device=CPU)
    before = out.read_bytes()
    assert measure(out, 1, networks=shelf, device=CPU) is True
    assert out.read_bytes() == before and shelf.built == []


@pytest.mark.parametrize(("column", "other"), [("device", "another card"), ("threads", "99"), ("torch", "1.0"), ("repeats", "7")])
def test_rows_of_other_settings_are_never_mixed_in(tmp_path: Path, column: str, other: str) -> None:
    out = tmp_path / "official.tsv"
    measure(out, 1, networks=Shelf(), device=CPU)
    found = table(out)
    found.loc[found["what"] == "official_step", column] = other
    found.to_csv(out, sep="\t", index=False)
    with pytest.raises(InputError, match=rf"official\.tsv, {column}: found {other}, expected"):
        measure(out, 1, networks=Shelf(), device=CPU)


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "official.tsv"
    out.write_text("what\tmedian_s\nofficial_step\t1\n")
    with pytest.raises(InputError, match="columns what median_s"):
        measure(out, 1, networks=Shelf(), device=CPU)


# The command -------------------------------------------------------------------------------------------------------


def test_bench_measures_without_a_preset_and_exits_with_75_where_the_budget_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(official, "measure", lambda *given: asked.append(given) or len(asked) > 1)
    arguments = ["--official", str(tmp_path / "o.tsv"), "--repeats", "3", "--budget", "8"]
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code == 75
    bench.main(arguments)
    assert asked == [(tmp_path / "o.tsv", 3, 8.0)] * 2


def test_bench_takes_a_preset_or_official_not_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["preset.yaml", "--official", str(tmp_path / "o.tsv")])
    assert "--official measures without a preset" in capsys.readouterr().err


@pytest.mark.parametrize(("network", "library"), [("unet", "diffusers"), ("vae", "diffusers"), ("clip", "transformers")])
def test_without_the_extra_it_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, network: str, library: str) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    expected = rf"{library}: found no module {library}, expected the extra \[official\]: .*pip install .*'\.\[official\]'"
    with pytest.raises(InputError, match=expected):
        build(network)


# The networks themselves -------------------------------------------------------------------------------------------


RETURNED = [(1, 1, 768), (1, 4, 32, 32), (1, 3, 256, 256), (1, 4, 32, 32)]  # by clip, encode, decode, step


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@needs_extra
def test_the_networks_have_the_sizes_of_the_published_ones() -> None:
    """Stable Diffusion 1's UNet has 859,520,964 parameters with 4 channels in; 4 more of 3 x 3 kernels to 320 channels. Its VAE
    83,653,863. CLIP ViT-L/14: counted from the layers."""
    with torch.device("meta"):
        unet, vae, clip = (build(name) for name in ("unet", "vae", "clip"))
    assert parameters(unet) == 859_520_964 + 4 * 3 * 3 * 320
    assert parameters(vae) == 83_653_863
    width, hidden, tokens = 1024, 4096, 1 + 16 * 16
    layer = 4 * (width + 1) * width + (width + 1) * hidden + (hidden + 1) * width + 2 * 2 * width
    embedding = width + 3 * 14 * 14 * width + tokens * width
    assert parameters(clip.net) == 24 * layer + embedding + 2 * 2 * width + 768 * width
    assert parameters(clip.projection) == (768 + 4 + 1) * 768


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize(("what", "shape"), list(zip(official.NETWORK_OF, RETURNED, strict=True)))
def test_each_call_returns_what_the_next_network_takes(what: str, shape: tuple[int, ...]) -> None:
    network = build(official.NETWORK_OF[what]).eval()
    with torch.inference_mode():
        found = call_of(what, network, 1, CPU)()
    assert found.shape == shape and found.isfinite().all() and found.std() > 0
