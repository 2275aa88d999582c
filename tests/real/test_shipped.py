"""Shipped weights on real heads that they have not seen: above the gaussian row of the same training heads."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_reference import COHORT, REFERENCE, REPOSITORY, ROOT, configuration

from xdiff.checkpoint import read_weights
from xdiff.config import MethodEntry
from xdiff.data.preprocess import preprocess
from xdiff.data.split import make_split, read_split
from xdiff.data.store import Store
from xdiff.export import unseen_psnr
from xdiff.models import SHIPPED, find_model
from xdiff.train import load_module

SUBJECTS = 3
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(ROOT is None, reason=f"no {COHORT} (XDIFF_DATA_ROOT)"),
    pytest.mark.skipif(not (SHIPPED / "brain-t1").exists(), reason="brain-t1 is not shipped"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Some test heads of the committed split."""
    config, out = configuration("brain-t1"), tmp_path_factory.mktemp("data")
    split = read_split(REPOSITORY / config.cohorts[COHORT].split.file)
    chosen = split.side("test")[:SUBJECTS]
    some = make_split([r for r in split.table.itertuples(index=False, name=None) if r[0] in chosen])
    preprocess(config.cohorts[COHORT], config.grids["2mm"], (COHORT, "2mm"), ROOT / COHORT, some, out)
    return Store(out)


def gaussian_row(k: int, subjects: list[str]) -> float:
    """Mean PSNR in `unseen` of the committed table: the gaussian row of the same split's training side, frame centred."""
    table = pd.read_csv(REFERENCE, sep="\t", keep_default_na=False)
    wanted = {"trained_on": COHORT, "cohort": COHORT, "grid": "2mm", "method": "gaussian", "K": k, "axis": "axial"}
    wanted |= {"policy": "uniform", "estimate": "mean", "region": "unseen", "metric": "psnr", "x_name": ""}
    for column, value in wanted.items():
        table = table[table[column] == value]
    found = table[table["subject"].isin(subjects)]
    assert sorted(found["subject"]) == sorted(subjects)
    return float(found["value"].mean())


@pytest.mark.parametrize("k", [1, 5])
def test_held_out_heads_are_above_the_gaussian_row(store: Store, k: int) -> None:
    weights: Path = find_model("brain-t1")
    config = read_weights(weights)[1]
    method = load_module(MethodEntry(config["module"], config["params"])).load(weights)
    found, row = unseen_psnr(method, store, store.subjects, k), gaussian_row(k, store.subjects)
    print(f"K = {k}: {found:.2f} dB, gaussian {row:.2f} dB")
    assert found > row + 0.1
