"""The statistics on numbers worked out by hand, and the tables as a reader would check them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_metrics import synthetic_metrics, write_metrics

from xdiff.errors import InputError
from xdiff.layout import layout, method_rank, row_labels
from xdiff.markup import DASH, Cell, Table, latex_escape, to_html, to_markdown
from xdiff.stats import bootstrap_mean, paired_difference, patient_values, read_metrics, summarise
from xdiff.tables import main, main_numbers, paired_numbers, read_main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all.tsv, skipped.tsv and the tables made of them by the command line."""
    folder = tmp_path_factory.mktemp("tables")
    write_metrics(synthetic_metrics(patients=5), folder / "all.tsv")
    (folder / "skipped.tsv").write_text(
        "cohort\tgrid\taxis\tK\tsubject\treason\n" + "".join(f"knee\t2mm\taxial\t31\ts{i}\ttoo few unseen\n" for i in range(3))
    )
    main(["--metrics", str(folder / "all.tsv"), "--out", str(folder), "--skipped", str(folder / "skipped.tsv")])
    return folder


def small_metrics(psnr: dict[tuple[str, int, str], float], **columns: object) -> pd.DataFrame:
    """Long rows of psnr in unseen_masked from {(method, K, subject): dB}; `columns` replace the common values."""
    common = synthetic_metrics(patients=1, cohorts=("knee",)).iloc[0].to_dict() | dict(
        frame="centred", grid="2mm", trained_on="knee", region="unseen_masked", metric="psnr", x_name="", x=np.nan
    )
    rows = [common | dict(method=m, K=k, subject=s, value=v) | columns for (m, k, s), v in psnr.items()]
    return pd.DataFrame(rows)


def table_rows(markdown: str, heading: str) -> dict[str, list[str]]:
    """{label: cells} of the first table after `heading`, and its header under ""."""
    lines = markdown[markdown.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    body = [line.strip("|").split("|") for line in lines[start : lines.index("", start)]]
    return {row[0].strip(): [c.strip() for c in row[1:]] for row in body if not row[0].startswith(":")}


# --- statistics


def test_bootstrap_of_two_patients_spans_both():
    # The mean of a resample of {0, 1} is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_mean(pd.Series([0.0, 1.0], index=["a", "b"])) == (0.5, 0.0, 1.0)


def test_bootstrap_agrees_with_the_normal_interval_for_many_patients():
    values = pd.Series(np.random.default_rng(1).normal(20, 2, size=400))
    mean, lo, hi = bootstrap_mean(values, n_boot=4000)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (mean - lo, hi - mean) == pytest.approx((half, half), rel=0.08)


def test_bootstrap_averages_visits_first_and_ignores_the_order_of_rows():
    visits = pd.Series([1.0, 3.0, 5.0, 10.0], index=["p1", "p1", "p2", "p3"])
    patients = pd.Series([10.0, 2.0, 5.0], index=["p3", "p1", "p2"])
    assert bootstrap_mean(visits) == pytest.approx(bootstrap_mean(patients), abs=1e-12)
    assert bootstrap_mean(visits)[0] == pytest.approx(17 / 3)


def test_bootstrap_of_one_patient_has_no_interval():
    mean, lo, hi = bootstrap_mean(pd.Series([7.0], index=["p"]))
    assert mean == 7 and np.isnan(lo) and np.isnan(hi)


@pytest.mark.parametrize("values", [[], [1.0, np.nan]])
def test_bootstrap_refuses_nothing_and_nan(values):
    with pytest.raises(ValueError, match="NaN among"):
        bootstrap_mean(pd.Series(values, dtype=float))


def test_paired_difference_of_six_patients_all_better():
    names = list("abcdef")
    a = pd.Series([11.0, 12, 13, 14, 15, 16], index=names)
    b = pd.Series([10.0] * 6 + [99.0], index=[*names, "only in b"])
    result = paired_difference(a, b)
    assert (result.mean, result.n) == (3.5, 6)
    assert result.p == pytest.approx(2 / 2**6)  # all six signs alike: the two extremes of 64 sign patterns
    assert 2.0 < result.lo < 3.5 < result.hi < 5.0


def test_paired_difference_without_a_difference_or_a_common_patient():
    same = pd.Series([1.0, 2.0], index=["a", "b"])
    assert paired_difference(same, same) == (0, 0, 0, 1.0, 2)
    with pytest.raises(ValueError, match="no patient in both"):
        paired_difference(same, same.rename(index=str.upper))


def test_contrasts_then_visits_then_patients_are_averaged():
    base = {("gaussian", 1, "BraTS-GLI-00500-000"): 10.0, ("gaussian", 1, "BraTS-GLI-00501-000"): 31.0}
    other = {("gaussian", 1, "BraTS-GLI-00500-000"): 14.0}
    visit = {("gaussian", 1, "BraTS-GLI-00500-001"): 20.0}
    metrics = pd.concat(
        [small_metrics(base, contrast="t1n"), small_metrics(other, contrast="t2w"), small_metrics(visit, contrast="t1n")]
    )
    values = patient_values(metrics, ["method", "K"]).set_index("patient")
    assert values.loc["BraTS-GLI-00500", "value"] == 16.0  # (mean(10, 14) + 20) / 2: the visits weigh the same
    assert values.loc["BraTS-GLI-00500", "volumes"] == 2
    summary = summarise(metrics, ["method", "K"]).iloc[0]
    assert (summary["mean"], summary["n"], summary["volumes"]) == (23.5, 2, 3)


def test_summarise_agrees_with_bootstrap_mean_group_by_group():
    rng = np.random.default_rng(0)
    sizes = {1: 3, 2: 7, 5: 7}
    psnr = {("gaussian", k, f"sub-{s:02d}"): rng.normal(20, 3) for k, n in sizes.items() for s in range(n)}
    metrics = small_metrics(psnr).sample(frac=1, random_state=0)
    for row in summarise(metrics, ["K"]).itertuples():
        own = metrics[metrics["K"] == row.K].set_index("subject")["value"]
        assert (row.mean, row.lo, row.hi) == pytest.approx(bootstrap_mean(own))
        assert row.n == sizes[row.K]


# --- reading


def test_missing_columns_are_named_with_the_file(tmp_path):
    path = write_metrics(small_metrics({("linear", 2, "s"): 1.0}).drop(columns=["frame", "split"]), tmp_path / "all.tsv")
    with pytest.raises(InputError, match=r"all\.tsv: found no column frame, split, expected the columns trained_on"):
        read_metrics(path)


def test_duplicates_are_an_error_that_shows_one(tmp_path):
    one = small_metrics({("linear", 2, "sub-01"): 1.0})
    path = write_metrics(pd.concat([one, one.assign(value=2.0)]), tmp_path / "all.tsv")
    with pytest.raises(InputError, match="1 duplicated rows, first method=linear .*subject=sub-01"):
        read_metrics(path)


def test_mixed_norms_in_one_row_are_an_error(tmp_path):
    mixed = pd.concat([small_metrics({("linear", 2, f"s{i}"): 1.0}, norm=norm) for i, norm in enumerate("xy")])
    with pytest.raises(InputError, match=r"norms \['x', 'y'\] for linear K=2"):
        read_metrics(write_metrics(mixed, tmp_path / "all.tsv"))


def test_undefined_values_are_dropped_and_counted_aloud(tmp_path, capsys):
    table = small_metrics({("linear", 2, "s1"): 1.0, ("linear", 2, "s2"): np.nan})
    kept = read_metrics(write_metrics(table, tmp_path / "all.tsv"))
    assert list(kept["subject"]) == ["s1"]
    assert "1 undefined values left out (psnr in unseen_masked: 1)" in capsys.readouterr().err


def test_an_empty_table_is_an_error(tmp_path):
    path = write_metrics(small_metrics({("linear", 2, "s"): 1.0}).iloc[:0], tmp_path / "all.tsv")
    with pytest.raises(InputError, match="no rows"):
        read_metrics(path)


# --- names


def test_labels_follow_the_canonical_order_and_tell_estimates_apart():
    rows = [("truth", "mean", 0), ("ablation_x", "mean", 1), ("xdiff", "sample", 8), ("xdiff", "mean", 1)]
    rows += [("xdiff", "mean_of_16", 8), ("gaussian", "mean", 0), ("unet", "mean", 1), ("unet", "mean", 2)]
    labels = row_labels(pd.DataFrame(rows, columns=["method", "estimate", "steps"]))
    assert list(labels.values()) == [
        "gaussian",
        "unet (mean, 1 step)",
        "unet (mean, 2 steps)",
        "xdiff (mean)",
        "xdiff (sample, 8 steps)",
        "xdiff (mean of 16, 8 steps)",
        "ablation_x",
        "truth",
    ]
    assert method_rank("xdiff") < method_rank("ablation_x") < method_rank("truth")


# --- tables


def test_a_missing_k_is_a_dash_and_the_best_is_bold():
    psnr = {("nearest", 1, "s1"): 10.0, ("nearest", 2, "s1"): 15.0, ("linear", 2, "s1"): 14.0, ("truth", 1, "s1"): np.inf}
    psnr |= {("xdiff", 1, "s1"): 12.0, ("xdiff", 2, "s1"): 15.001}
    numbers = main_numbers(small_metrics(psnr))
    (_, (table, *_)), *_ = layout(numbers, paired_numbers(small_metrics(psnr)))
    cells = {label: [(c.text, c.best) for c in row] for label, row in table.rows}
    assert cells["linear"][:2] == [(DASH, False), ("14.00", False)]
    assert cells["nearest"][:2] == [("10.00", False), ("15.00", True)]  # equal as printed: both best
    assert cells["xdiff"][:2] == [("12.00", True), ("15.00", True)]
    assert cells["truth"][:2] == [("inf", False), (DASH, False)]


def test_numbers_of_main_md_are_those_of_main_tsv(made):
    numbers = read_main(made / "main.tsv")
    rows = table_rows((made / "main.md").read_text(), "## brats, 2mm")
    assert rows[""] == ["K = 1", "K = 2", "K = 3", "K = 5", "K = 10", "K = 31", "s / volume"]
    wanted = "cohort == 'brats' and region == 'unseen' and metric == 'psnr' and policy == 'uniform' and method == 'unet'"
    for cell, (_, row) in zip(rows["unet"], numbers.query(wanted).sort_values("K").iterrows(), strict=False):
        assert cell == f"{row['mean']:.2f} [{row['lo']:.2f}, {row['hi']:.2f}]"
    assert rows["linear"][0] == DASH and rows["cubic"][:3] == [DASH] * 3


def test_both_frames_stand_side_by_side_at_k_1(made):
    rows = table_rows((made / "main.md").read_text(), "## openneuro-ds002748, 2mm")
    assert rows[""][:3] == ["K = 1, centred", "K = 1, scanner", "K = 2"]
    centred, scanner = (float(c.strip("*").split("*")[0].split(" ")[0]) for c in rows["gaussian"][:2])
    assert centred - scanner == pytest.approx(1.6, abs=0.4)


def test_captions_name_patients_split_and_devices(made):
    text = (made / "main.md").read_text()
    assert "Mean over 5 test patients (6 volumes), split brat5f1d9c27" in text
    assert "median time on NVIDIA H200 (a); cpu (2 threads) (b)" in text
    assert "## knee, 2mm, trained on openneuro-ds002748" in text


def test_other_settings_are_one_compact_table(made):
    text = (made / "main.md").read_text()
    openneuro = text[text.index("## openneuro") : text.index("## knee")]
    header = table_rows(openneuro, "**Other axes")[""]
    assert header[:2] == ["coronal K = 1", "coronal K = 5"] and "random K = 1" in header and len(header) == 8
    assert all("[" not in c for c in table_rows(openneuro, "**Other axes")["gaussian"])


def test_points_left_out_are_listed_with_their_count(made):
    rows = table_rows((made / "main.md").read_text(), "## Left out")
    assert rows["knee"] == ["2mm", "axial", "31", "too few unseen", "3"]


def test_times_on_two_devices_are_not_averaged():
    both = [small_metrics({("unet", 1, s): t}, metric="seconds", region="grid", device=s) for s, t in (("a", 1.0), ("b", 9.0))]
    psnr = small_metrics({("unet", 1, "a"): 10.0, ("unet", 1, "b"): 10.0})
    numbers = main_numbers(pd.concat([psnr, *both]))
    assert numbers["seconds"].isna().all() and set(numbers["device"]) == {"a + b"}
    (_, (table, *_)), *_ = layout(numbers, paired_numbers(psnr))
    assert table.rows[0][1][-1] == Cell(DASH)


def test_paired_rows_against_gaussian_and_the_best_trivial_row():
    psnr = {
        (m, 31, f"s{i}"): db + i + jitter * i
        for m, db, jitter in (("gaussian", 20, 0), ("cubic", 22, 0), ("xdiff", 23, 0.1))
        for i in range(6)
    }
    paired = paired_numbers(small_metrics(psnr)).set_index(["method", "reference"])
    assert paired.loc[("xdiff", "gaussian"), "mean"] == pytest.approx(3.25)
    assert paired.loc[("xdiff", "best_trivial"), "mean"] == pytest.approx(1.25)
    assert paired.loc[("xdiff", "best_trivial"), "reference_method"] == "cubic"
    assert paired.loc[("xdiff", "gaussian"), "p"] == pytest.approx(2 / 64)
    assert set(paired.index) == {
        ("xdiff", "gaussian"),
        ("xdiff", "best_trivial"),
        ("cubic", "gaussian"),
        ("gaussian", "best_trivial"),
    }


def test_tables_without_the_headline_region_or_any_trivial_row(tmp_path):
    path = write_metrics(small_metrics({("unet", 1, "s"): 12.0}, region="brain", metric="ssim"), tmp_path / "all.tsv")
    main(["--metrics", str(path), "--out", str(tmp_path)])
    assert len(read_main(tmp_path / "main.tsv")) == 1
    assert len(pd.read_csv(tmp_path / "paired.tsv", sep="\t")) == 0


def test_tables_are_the_same_whatever_the_order_of_rows(made, tmp_path):
    shuffled = write_metrics(synthetic_metrics(patients=5).sample(frac=1, random_state=1), tmp_path / "all.tsv")
    main(["--metrics", str(shuffled), "--out", str(tmp_path), "--skipped", str(made / "skipped.tsv")])
    for name in ("main.tsv", "paired.tsv", "main.md", "main.tex"):
        assert (tmp_path / name).read_text() == (made / name).read_text(), name


# --- markup


def test_markdown_escapes_and_marks():
    table = Table("a_b", "c|d", (("", "K = 1"),), (("x_y", (Cell("1.00", "0.90", "1.10", True),)),))
    assert "| x\\_y | **1.00** [0.90, 1.10] |" in to_markdown(table)
    assert "**a\\_b**" in to_markdown(table) and "c\\|d" in to_markdown(table)


def test_html_carries_the_number_to_sort_by():
    table = Table("t", "c", (("<g>", "x"), ("<g>", "y")), (("m", (Cell("0.25 (a)"), Cell(DASH))),))
    text = to_html(table)
    assert 'data-v="0.25"' in text and 'data-v=""' in text and '<th colspan="2">&lt;g&gt;</th>' in text


def test_a_row_of_the_wrong_length_is_an_error():
    with pytest.raises(ValueError, match="t, row m: 1 cells, expected 2"):
        Table("t", "c", (("", "x"), ("", "y")), (("m", (Cell("1"),)),))


def test_latex_braces_environments_and_columns_balance(made):
    text = re.sub(r"^%.*$", "", (made / "main.tex").read_text(), flags=re.M)
    assert text.isascii()
    plain = re.sub(r"\\[\\{}%_&#$]", "", text)
    assert plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0
    assert re.findall(r"\\begin\{(\w+)\}", text).count("tabular") == text.count(r"\end{tabular}") > 8
    assert not re.search(r"[%#]", plain) and "_" not in re.sub(r"\$[^$]*\$", "", plain)
    for body in re.findall(r"\\begin\{tabular\}\{l(r+)\}(.*?)\\end\{tabular\}", text, flags=re.S):
        columns, lines = len(body[0]) + 1, body[1].split(r"\midrule")[1].strip().splitlines()
        assert {line.replace(r"\&", "").count("&") + 1 for line in lines if "&" in line} == {columns}


def test_latex_compiles(made, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: the tables were checked for balance only")
    body = (made / "main.tex").read_text()
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
        + body.replace("\\begin{table}", "\\clearpage\\begin{table}")
        + "\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_escape_makes_every_special_character_printable():
    assert latex_escape(r"50%_a\b{c}~^&#$") == r"50\%\_a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\&\#\$"


# --- imports


@pytest.mark.parametrize("module", ["stats", "tables", "figures", "report"])
def test_import_is_quick_and_without_torch(module):
    code = (
        f"import sys, time, xdiff.{module}\n"
        "heavy = {'torch', 'monai', 'nibabel', 'skimage'} & set(sys.modules)\n"
        "assert not heavy, heavy\nprint(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3  # CPU seconds: the wall clock of a shared machine proves nothing
