"""How trainings went, from history.jsonl into the long table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_metrics import small_metrics, training_checks, write_history

from xdiff.errors import InputError
from xdiff.metrics.__main__ import collect, main
from xdiff.metrics.evaluate import COLUMNS, KEY
from xdiff.metrics.history import history_rows
from xdiff.stats import is_history, read_metrics


def test_every_check_becomes_rows_labelled_as_its_weights(tmp_path: Path) -> None:
    checks = training_checks(n=4, ks=(1, 5))
    rows = history_rows(write_history(tmp_path, checks, method="unet", cohort="knee", grid="48"))
    assert list(rows.columns) == COLUMNS and not rows.duplicated(KEY).any()
    assert len(rows) == 4 * (1 + 2 * 2 * 2) + 1
    assert (
        set(rows["method"]) == {"unet"}
        and set(rows["grid"]) == {"48"}
        and set(rows["cohort"]) == set(rows["trained_on"]) == {"knee"}
    )
    assert set(rows["train_seed"]) == {3} and set(rows["weights"]) == {"ab12ab12ab12"} and set(rows["split"]) == {"5f1d9c275f1d"}
    found = rows.query("metric == 'history_psnr' and K == 5 and subject == 'training'").set_index("x")["value"]
    assert found.to_dict() == {c["step"]: c["training"]["5"]["psnr"] for c in checks}
    assert rows.loc[rows["metric"] == "history_loss", "value"].tolist() == [c["loss"] for c in checks]


def test_the_last_of_repeated_checks_counts_and_the_last_best_is_kept(tmp_path: Path) -> None:
    checks = training_checks(n=5, overfits=False)
    stale = [{**c, "loss": 99.0, "best": True} for c in checks[1:3]]
    verdicts = [{**c, "best": i in (0, 2)} for i, c in enumerate(checks)]
    rows = history_rows(write_history(tmp_path, [verdicts[0], *stale, *verdicts[1:]]))
    assert rows["value"].max() < 1000 and len(rows[rows["metric"] == "history_loss"]) == 5
    assert 99.0 not in set(rows.loc[rows["metric"] == "history_loss", "value"])
    best = rows[rows["metric"] == "history_best"]
    assert best["x"].item() == best["value"].item() == checks[2]["step"]


def test_a_method_that_does_not_iterate_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("")
    assert history_rows(tmp_path / "history.jsonl").empty
    with pytest.raises(InputError, match=r"other/history\.jsonl: found no such file"):
        history_rows(tmp_path / "other" / "history.jsonl")


def test_a_training_without_validation_subjects_keeps_its_loss(tmp_path: Path) -> None:
    bare = [{k: c[k] for k in ("step", "loss", "best")} for c in training_checks(n=3)]
    assert set(history_rows(write_history(tmp_path, bare))["metric"]) == {"history_loss", "history_best"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": 300, "lo', r"history\.jsonl, line 2: found broken JSON"),
        ('{"step": 300, "best": true}', r"line 2: found no key 'loss'"),
        ('{"step": 3, "loss": 1, "best": true, "training": {"5": {"psnr": 9}}}', r"no key 'training\.5\.gaussian'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write_history(tmp_path, training_checks(n=1))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=message):
        history_rows(path)


def test_a_history_needs_the_config_of_its_weights(tmp_path: Path) -> None:
    path = write_history(tmp_path, training_checks(n=1))
    path.with_name("config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: found no such file"):
        history_rows(path)


def test_collect_appends_trainings_and_the_table_is_read_again(tmp_path: Path) -> None:
    psnr = small_metrics({(m, 1, s): 20.0 for m in ("gaussian", "unet") for s in ("a", "b")}, grid="2mm")
    psnr[COLUMNS].to_csv(tmp_path / "one.tsv", sep="\t", index=False)
    iterated = write_history(tmp_path / "unet", training_checks(n=6), method="unet")
    (tmp_path / "linear").mkdir()
    (tmp_path / "linear" / "history.jsonl").write_text("")
    arguments = [
        "--inputs",
        tmp_path / "one.tsv",
        "--out",
        tmp_path / "all.tsv",
        "--history",
        iterated,
        tmp_path / "linear/history.jsonl",
    ]
    main(["collect", *map(str, arguments)])
    found = read_metrics(tmp_path / "all.tsv")
    told = found[is_history(found)]
    assert len(found) - len(told) == len(psnr) and len(told) == len(history_rows(iterated))
    best = told[told["metric"] == "history_best"]
    score = {c["step"]: np.mean([v["psnr"] - v["gaussian"] for v in c["validation"].values()]) for c in training_checks(n=6)}
    assert best["value"].item() == max(score, key=score.get)

    before = pd.read_csv(tmp_path / "one.tsv", sep="\t", dtype=str, keep_default_na=False)
    collect([tmp_path / "one.tsv"], tmp_path / "without.tsv")
    without = pd.read_csv(tmp_path / "without.tsv", sep="\t", dtype=str, keep_default_na=False)
    both = pd.read_csv(tmp_path / "all.tsv", sep="\t", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(before, without)
    pd.testing.assert_frame_equal(both.iloc[: len(before)], before)
    assert json.loads(iterated.read_text().splitlines()[0])["step"] == told["x"].min()
