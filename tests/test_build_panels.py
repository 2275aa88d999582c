"""The sections kept for the qualitative figure: which methods and which draws are among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Prepared

from xdiff.config import MethodEntry, Sweep
from xdiff.metrics.panel import build_panels
from xdiff.panel import Panel, read_panels
from xdiff.sample import sample
from xdiff.train import train

PROBE = MethodEntry("probe_methods", {"level": 0.5}, estimates=("mean", "sample"), stepped=True)


def panels(field: Prepared, sweeps: list[Sweep], folder: Path) -> list[Panel]:
    train("probe", PROBE, field.store, field.split, folder / "weights")
    for i, sweep in enumerate(sweeps):
        sample(PROBE, folder / "weights", field.store, field.split, sweep, folder / str(i))
    build_panels([folder / str(i) / "manifest-1-of-1.tsv" for i in range(len(sweeps))], folder / "panel.npz")
    return read_panels(folder / "panel.npz")


def test_a_sweep_over_steps_shows_its_largest_number_once(field: Prepared, tmp_path: Path) -> None:
    sweep = Sweep(K=(1,), estimate=("mean", "sample"), steps=(1, 2, 4), seed=(0, 1))
    (panel,) = panels(field, [sweep], tmp_path)
    assert panel.names == ["truth", "probe", "probe (sample, 4 steps)"]
    assert panel.K == 1 and panel.subject == min(field.split.side("test")) and panel.images.shape == (3, 3, 24, 24)


def test_a_number_of_steps_asked_at_more_points_is_shown_instead(field: Prepared, tmp_path: Path) -> None:
    sweeps = [Sweep(K=(1,), estimate=("sample",), steps=(1, 2, 4)), Sweep(K=(1, 2, 5), estimate=("sample", "mean"), steps=(2,))]
    found = panels(field, sweeps, tmp_path)
    assert [panel.names[1:] for panel in found] == [["probe (sample, 2 steps)", "probe"]] * 2
    assert [panel.K for panel in found] == [1, 5] and not np.allclose(found[0].images[1], found[1].images[1])


@pytest.mark.parametrize("k", [2, 3])
def test_other_k_have_no_panel(field: Prepared, tmp_path: Path, k: int) -> None:
    assert panels(field, [Sweep(K=(k,), estimate=("mean", "sample"), steps=(2,))], tmp_path) == []


def test_only_observations_of_all_contrasts_have_a_panel(heads: Prepared, tmp_path: Path) -> None:
    sweep = Sweep(K=(1, 5), contrasts_given=("all", "T2w"), estimate=("mean", "sample"))
    found = panels(heads, [sweep], tmp_path)
    assert [(panel.K, panel.names) for panel in found] == [(k, ["truth", "probe", "probe (sample)"]) for k in (1, 5)]
    manifest = tmp_path / "0" / "manifest-1-of-1.tsv"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[0], *(line for line in lines if "_T2w/" in line)]) + "\n")
    build_panels([manifest], tmp_path / "none.npz")
    assert read_panels(tmp_path / "none.npz") == []
