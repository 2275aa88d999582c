"""Numbers and tables of masks: worked by hand on a few patients; who may be best; what is paired with what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from synthetic_metrics import COLUMNS

from xdiff import tumours
from xdiff.markup import Table

TITLE = "tcga-lgg, grid lgg"


def row(method: str, subject: str, value: float, **change: object) -> dict:
    """One Dice of WT_unseen at K = 5, uniform."""
    head = dict(trained_on="tcga-lgg", cohort="tcga-lgg", grid="lgg", method=method, K=5, gap_mm=20.0, axis="axial", indices="")
    head |= dict(policy="uniform", contrasts_given="all", thickness_mm=0.0, steps=1, estimate="mean", seed=0, train_seed=0)
    head |= dict(subject=subject, contrast="all", region="WT_unseen", metric="dice", x_name="", x=np.nan, value=value)
    return head | dict(norm="p99.5", frame="centred", split="a", weights="", device="") | change


def long(rows: Sequence[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows)[COLUMNS]


DICE = {"truth": (0.8, 0.6), "mask_linear": (0.7, 0.7), "linear": (0.4, 0.3), "xdiff": (0.6, 0.5), "zeros": (0.0, 0.0)}


@pytest.fixture
def dice() -> list[dict]:
    return [row(m, f"sub-{i}", v) for m, both in DICE.items() for i, v in enumerate(both)]


def cells(table: Table) -> dict[str, list[str]]:
    return {label: [("*" if c.best else "") + c.text for c in cells] for label, cells in table.rows}


def made(rows: Sequence[dict]) -> dict[str, Table]:
    metrics = long(rows)
    found = tumours.tables(tumours.numbers(metrics), tumours.swap_numbers(metrics)).get(TITLE, [])
    return {table.title: table for table in found}


def test_means_and_shares_of_the_ceiling(dice: list[dict]) -> None:
    found = tumours.numbers(long(dice)).set_index("method")
    assert found.loc["xdiff", "mean"] == pytest.approx(0.55) and found.loc["xdiff", "n"] == 2
    assert found.loc["xdiff", "of_ceiling"] == pytest.approx(1.1 / 1.4)
    assert found.loc["zeros", "of_ceiling"] == 0 and np.isnan(found.loc["truth", "of_ceiling"])
    assert list(found.index) == ["zeros", "linear", "xdiff", "mask_linear", "truth"]


def test_neither_the_ceiling_nor_the_control_is_best(dice: list[dict]) -> None:
    table = made(dice)["Dice of WT_unseen"]
    expected = {"zeros": ["0.00"], "linear": ["0.35"], "xdiff": ["*0.55"], "mask_linear": ["0.70"], "truth": ["0.70"]}
    assert cells(table) == expected
    assert "2 test patients" in table.caption


def test_a_visit_more_does_not_weigh_more() -> None:
    rows = [row("xdiff", f"BraTS-GLI-0000{p}-00{v}", value) for p, v, value in ((1, 0, 0.2), (1, 1, 0.4), (2, 0, 0.9))]
    found = tumours.numbers(long(rows)).iloc[0]
    assert found["mean"] == pytest.approx((0.3 + 0.9) / 2) and found["n"] == 2 and found["volumes"] == 3


def test_lesion_by_lesion_the_lowest_distance_is_best() -> None:
    rows = []
    for method, score, far, false in (("linear", 0.5, 30.0, 2.0), ("xdiff", 0.7, 10.0, 3.0), ("truth", 0.8, 5.0, 0.0)):
        scored = {"dice": score, "lesion_dice": score, "lesion_hd95": far, "recall": 1.0, "false_lesions": false}
        rows += [row(method, "sub-0", value, region="WT", metric=metric) for metric, value in scored.items()]
    table = made(rows)["Lesion by lesion, WT"]
    assert [name for _, name in table.columns] == ["Dice", "HD95 (mm)", "recall", "false lesions"]
    assert cells(table)["linear"] == ["0.50", "30.00", "*1.00", "*2.00"]
    assert cells(table)["xdiff"] == ["*0.70", "*10.00", "*1.00", "3.00"]


def test_lesions_seen_and_unseen_are_averaged_within_a_patient_first(dice: list[dict]) -> None:
    lesions = [("sub-0", 1, 1.0), ("sub-0", 2, 0.0), ("sub-1", 1, 1.0)]
    change = dict(region="lesion_unseen", metric="found", x_name="lesion")
    rows = [row("xdiff", subject, value, x=float(n), **change) for subject, n, value in lesions]
    rows += [row("xdiff", "sub-1", 1.0, x=2.0, **(change | dict(region="lesion_seen")))]
    table = made([*dice, *rows])["Lesions seen and unseen"]
    assert dict(zip(table.columns, cells(table)["xdiff"], strict=True)) == {
        ("seen", "K = 5"): "1.00",
        ("unseen", "K = 5"): "0.75",
    }


def test_every_fifth_section_has_a_table_with_the_share_of_the_ceiling(dice: list[dict]) -> None:
    dense = [r | dict(policy="every_fifth", K=0, value=r["value"] / 2 if r["method"] == "xdiff" else r["value"]) for r in dice]
    tables = made([*dice, *dense])
    table = tables["Dice of WT_unseen, every fifth section given"]
    assert cells(table)["xdiff"] == ["0.28", "0.39"] and cells(table)["linear"] == ["*0.35", "*0.50"]
    assert cells(table)["truth"] == ["0.70", "–"]
    assert cells(tables["Dice of WT_unseen"])["xdiff"] == ["*0.55"]


def test_other_policies_stand_under_their_names(dice: list[dict]) -> None:
    others = [r | dict(policy=policy) for r in dice for policy in ("tumour", "off_tumour")]
    table = made([*dice, *others])["Dice of WT_unseen, other policies"]
    assert set(table.columns) == {("tumour", "K = 5"), ("off_tumour", "K = 5")}


def test_parts_of_a_tumour_follow_the_whole(dice: list[dict]) -> None:
    parts = [r | dict(region=region) for r in dice for region in ("ET_unseen", "TC_unseen", "WT", "TC", "ET")]
    tables = made([*dice, *parts])
    assert list(tables)[:3] == ["Dice of WT_unseen", "Dice of WT", "Dice of parts"]
    assert tables["Dice of parts"].columns == (("TC", "K = 5"), ("ET", "K = 5"))


def test_nothing_segmented_and_nothing_swapped_is_no_table() -> None:
    metrics = long([row("xdiff", "sub-0", 20.0, metric="psnr", region="unseen")])
    assert tumours.numbers(metrics).empty and tumours.swap_numbers(metrics).empty
    assert tumours.tables(tumours.numbers(metrics), tumours.swap_numbers(metrics)) == {}


# The swap ------------------------------------------------------------------------------------------------------------


def swapped(own: Sequence[float], other: Sequence[float], **change: object) -> list[dict]:
    rows = [row("xdiff", f"sub-{i}", value, **change) for i, value in enumerate(own)]
    return rows + [row("xdiff", f"sub-{i}", value, policy="swap", **change) for i, value in enumerate(other)]


def test_the_gain_of_own_sections_is_paired_by_patient() -> None:
    change = dict(metric="psnr", region="unseen")
    rows = swapped([20.0, 22.0, 21.0, 23.0, 20.0, 24.0], [18.0, 19.0, 17.0, 18.0, 14.0, 17.0], **change)
    found = tumours.swap_numbers(long(rows)).iloc[0]
    assert found["own"] == pytest.approx(130 / 6) and found["swapped"] == pytest.approx(103 / 6)
    assert found["mean"] == pytest.approx(27 / 6) and found["n"] == 6
    assert found["p"] == pytest.approx(2 / 2**6)  # all six differences of one sign: the least that six patients can give
    assert 2 < found["lo"] < found["mean"] < found["hi"] < 7 and found["policy"] == "swap"


def test_the_swap_is_told_of_the_whole_tumour_and_of_intensities() -> None:
    rows = swapped([0.6, 0.5], [0.1, 0.2]) + swapped([0.3, 0.3], [0.1, 0.1], region="TC_unseen")
    rows += swapped([20.0, 22.0], [18.0, 19.0], metric="psnr", region="unseen")
    tables = {title: table for title, table in made(rows).items() if title.startswith("How much")}
    assert [title.split(": ")[1] for title in tables] == ["Dice of WT_unseen", "PSNR in unseen (dB)"]
    first = next(iter(tables.values()))
    assert first.columns == (("swapped", "K = 5"), ("own minus swapped", "K = 5"))
    assert cells(first)["xdiff"] == ["0.15", "0.40"] and first.rows[0][1][0].lo == "" and first.rows[0][1][1].lo != ""
    assert {"WT_unseen", "TC_unseen", "unseen"} == set(tumours.swap_numbers(long(rows))["region"])


def test_the_ceiling_has_no_swap() -> None:
    rows = [r | dict(method="truth") for r in swapped([0.9], [0.9])]
    assert tumours.swap_numbers(long(rows)).empty
