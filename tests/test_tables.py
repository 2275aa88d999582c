"""The tables as a reader would check them: dashes, bold, captions, Markdown, LaTeX, paired differences."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_metrics import small_metrics, sweep_metrics, synthetic_metrics, training_checks, write_history, write_metrics

from xdiff.layout import layout, method_rank, row_labels
from xdiff.markup import DASH, Cell, Table, latex_escape, to_html, to_markdown
from xdiff.metrics.history import history_rows
from xdiff.tables import main, main_numbers, paired_numbers, read_main, read_paired, skipped_table

WRITTEN = ("main.tsv", "paired.tsv", "posterior.tsv", "ablation.tsv", "main.md", "main.tex")


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


def table_rows(markdown: str, heading: str) -> dict[str, list[str]]:
    """{label: cells} of the first table after `heading`, and its header under ""."""
    lines = markdown[markdown.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    body = [line.strip("|").split("|") for line in lines[start : lines.index("", start)]]
    return {row[0].strip(): [c.strip() for c in row[1:]] for row in body if not row[0].startswith(":")}


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
    rows = table_rows((made / "main.md").read_text(), "## brats, grid 2mm")
    assert rows[""] == ["K = 1", "K = 2", "K = 3", "K = 5", "K = 10", "K = 31", "s / volume", "sections", "MiB"]
    wanted = "cohort == 'brats' and region == 'unseen' and metric == 'psnr' and policy == 'uniform' and method == 'unet'"
    for cell, (_, row) in zip(rows["unet"], numbers.query(wanted).sort_values("K").iterrows(), strict=False):
        assert cell == f"{row['mean']:.2f} [{row['lo']:.2f}, {row['hi']:.2f}]"
    assert rows["linear"][0] == DASH and rows["cubic"][:3] == [DASH] * 3


def test_costs_stand_beside_the_scores_where_they_were_measured(made):
    rows = table_rows((made / "main.md").read_text(), "## brats, grid 2mm")
    assert [rows[name][-2:] for name in ("unet", "xdiff (sample, 8 steps)")] == [["3", "1500"], ["24", "1500"]]
    numbers = read_main(made / "main.tsv").query("method == 'unet'")
    assert set(numbers["peak_mib"]) == {1500.0} and set(numbers["evaluations"]) == {3.0}
    without = numbers.assign(peak_mib=np.nan)
    (_, (table, *_)), *_ = layout(without, read_paired(made / "paired.tsv"))
    assert [name for _, name in table.columns][-2:] == ["s / volume", "sections"] and "MiB" not in table.caption


def test_both_frames_stand_side_by_side_at_k_1(made):
    rows = table_rows((made / "main.md").read_text(), "## openneuro-ds002748, grid 2mm")
    assert rows[""][:3] == ["K = 1, centred", "K = 1, scanner", "K = 2"]
    centred, scanner = (float(c.strip("*").split("*")[0].split(" ")[0]) for c in rows["gaussian"][:2])
    assert centred - scanner == pytest.approx(1.6, abs=0.4)


def test_captions_name_patients_split_and_devices(made):
    text = (made / "main.md").read_text()
    assert "Mean over 5 test patients (6 volumes), split brat5f1d9c27" in text
    assert "median time on NVIDIA H200 (a); cpu (2 threads) (b)" in text
    assert "## knee, grid 2mm, trained on openneuro-ds002748" in text


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


def test_the_local_correction_is_a_third_reference():
    rows = (("gaussian", 20, 0), ("gaussian_local", 20.5, 0), ("unet", 21, 0.1))
    psnr = {(m, 1, f"s{i}"): db + i + jitter * i for m, db, jitter in rows for i in range(6)}
    paired = paired_numbers(small_metrics(psnr))
    gain = paired[paired["reference"] == "gaussian_local"].set_index("method")
    assert gain["mean"].to_dict() == pytest.approx({"gaussian": -0.5, "unet": 0.75})
    assert set(gain["reference_method"]) == {"gaussian_local"}
    assert set(paired.loc[paired["method"] == "unet", "reference"]) == {"gaussian", "gaussian_local", "best_trivial"}
    # it is a row to be compared with, but no trivial one: the best of those stays gaussian
    assert set(paired.loc[paired["reference"] == "best_trivial", "reference_method"]) == {"gaussian"}


def test_gains_over_both_references_are_tables_of_what_is_not_trivial(made):
    text = (made / "main.md").read_text()
    brats = text[text.index("## brats") : text.index("## openneuro")]
    over = [set(table_rows(brats, f"**Gain over {name}**")) - {""} for name in ("the gaussian row", "gaussian\\_local")]
    assert over[0] - over[1] == {"gaussian\\_local"} and over[1] < over[0]
    assert "xdiff (mean)" in over[1] and "gaussian" not in over[0] | over[1]
    paired = read_paired(made / "paired.tsv").query("reference == 'gaussian_local' and region == 'unseen' and method == 'unet'")
    expected = paired.query("cohort == 'brats' and policy == 'uniform' and K == 1").iloc[0]
    cell = table_rows(brats, "**Gain over gaussian\\_local**")["unet"][0]
    assert cell == f"{expected['mean']:.2f} [{expected['lo']:.2f}, {expected['hi']:.2f}]"


def test_without_the_local_correction_there_is_no_table_of_it(tmp_path):
    path = write_metrics(
        small_metrics({("gaussian", 1, "s"): 20.0, ("unet", 1, "s"): 21.0}, region="unseen"), tmp_path / "all.tsv"
    )
    main(["--metrics", str(path), "--out", str(tmp_path)])
    assert (tmp_path / "main.md").read_text().count("**Gain over") == 1


def test_tables_to_read_have_one_number_of_steps_and_main_tsv_has_all(tmp_path):
    path = write_metrics(sweep_metrics(patients=3, steps=(1, 4, 16)), tmp_path / "all.tsv")
    main(["--metrics", str(path), "--out", str(tmp_path)])
    psnr = read_main(tmp_path / "main.tsv").query("metric == 'psnr' and estimate == 'sample'")
    assert sorted(psnr["steps"].unique()) == [1, 4, 16]
    assert set(read_paired(tmp_path / "paired.tsv").query("estimate == 'sample'")["steps"]) == {1, 4, 16}
    text = (tmp_path / "main.md").read_text()
    for heading in ("**PSNR in unseen**", "**Gain over the gaussian row**"):
        assert set(table_rows(text, heading)) - {"", "gaussian"} == {"xdiff (mean)", "xdiff (sample, 16 steps)"}


def test_a_number_of_steps_that_is_not_shown_is_not_the_best(tmp_path):
    rows = [("gaussian", 20.0, 1), ("unet", 20.5, 1), ("xdiff", 22.0, 1), ("xdiff", 20.2, 16)]
    estimates = {"xdiff": "sample"}
    parts = [
        small_metrics({(m, 1, s): db for s in "ab"}, region="unseen", steps=n, estimate=estimates.get(m, "mean"))
        for m, db, n in rows
    ]
    main(["--metrics", str(write_metrics(pd.concat(parts), tmp_path / "all.tsv")), "--out", str(tmp_path)])
    for heading in ("**PSNR in unseen**", "**Gain over the gaussian row**"):
        found = {label: cells[0] for label, cells in table_rows((tmp_path / "main.md").read_text(), heading).items()}
        assert found["unet"].startswith("**") and "xdiff (sample, 16 steps)" in found and len(found) <= 4


def test_samples_of_the_gaussian_row_are_compared_but_never_the_reference():
    subjects = [f"s{i}" for i in range(6)]
    mean = small_metrics({(m, 1, s): db for s in subjects for m, db in (("gaussian", 20.0), ("xdiff", 21.0))})
    sample = small_metrics({("gaussian", 1, s): 17.0 for s in subjects}, estimate="sample", steps=8)
    paired = paired_numbers(pd.concat([mean, sample])).query("reference == 'gaussian'").set_index(["method", "estimate"])
    assert paired["mean"].to_dict() == {("gaussian", "sample"): -3.0, ("xdiff", "mean"): 1.0}


def test_a_grid_named_by_a_number_survives_the_way_through_main_tsv(tmp_path):
    path = write_metrics(small_metrics({("gaussian", 1, "s"): 20.0, ("xdiff", 1, "s"): 21.0}, grid="48"), tmp_path / "all.tsv")
    main(["--metrics", str(path), "--out", str(tmp_path)])
    numbers, paired = read_main(tmp_path / "main.tsv"), read_paired(tmp_path / "paired.tsv")
    (title, found), *_ = layout(numbers, paired)
    assert title == "knee, grid 48" and (tmp_path / "main.md").read_text().count("\n| xdiff") == len(found) == 1


def test_points_left_out_without_subjects_are_listed_as_they_are(tmp_path):
    (tmp_path / "skipped.tsv").write_text("cohort\tK\treason\nknee\t31\ttoo few unseen\n")
    assert skipped_table(tmp_path / "skipped.tsv").rows == (("knee", (Cell("31"), Cell("too few unseen"))),)
    (tmp_path / "skipped.tsv").write_text("cohort\tK\treason\n")
    assert skipped_table(tmp_path / "skipped.tsv") is None


def test_tables_without_the_headline_region_or_any_trivial_row(tmp_path):
    path = write_metrics(small_metrics({("unet", 1, "s"): 12.0}, region="brain", metric="ssim"), tmp_path / "all.tsv")
    main(["--metrics", str(path), "--out", str(tmp_path)])
    assert len(read_main(tmp_path / "main.tsv")) == 1
    assert len(pd.read_csv(tmp_path / "paired.tsv", sep="\t")) == 0


def test_tables_are_the_same_whatever_the_order_of_rows(made, tmp_path):
    shuffled = write_metrics(synthetic_metrics(patients=5).sample(frac=1, random_state=1), tmp_path / "all.tsv")
    main(["--metrics", str(shuffled), "--out", str(tmp_path), "--skipped", str(made / "skipped.tsv")])
    for name in WRITTEN:
        assert (tmp_path / name).read_text() == (made / name).read_text(), name


def test_how_trainings_went_never_reaches_a_table(made, tmp_path):
    trained = history_rows(write_history(tmp_path, training_checks(n=4), "ablation"))
    path = write_metrics(pd.concat([synthetic_metrics(patients=5), trained]), tmp_path / "all.tsv")
    main(["--metrics", str(path), "--out", str(tmp_path), "--skipped", str(made / "skipped.tsv")])
    for name in WRITTEN:
        assert (tmp_path / name).read_text() == (made / name).read_text(), name


# --- markup


def test_markdown_escapes_and_marks():
    table = Table("a_b", "c|d", (("", "K = 1"),), (("x_y", (Cell("1.00", "0.90", "1.10", True),)),))
    assert "| x\\_y | **1.00** [0.90, 1.10] |" in to_markdown(table)
    assert "**a\\_b**" in to_markdown(table) and "c\\|d" in to_markdown(table)


def test_html_carries_the_number_to_sort_by():
    table = Table(
        "t", "c", (("<g>", "x"), ("<g>", "y")), (("m", (Cell("0.25 (a)"), Cell(DASH))), ("n", (Cell("<0.001"), Cell("1"))))
    )
    text = to_html(table)
    assert '<td data-v="0.001">&lt;0.001</td>' in text
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


def test_other_contrasts_given_are_another_setting():
    """Never in the main table beside those with all; named in the heading of the table of other settings; compared among
    themselves."""
    parts = [
        small_metrics({("gaussian", 1, "a"): db, ("unet", 1, "a"): db + 1, ("gaussian", 5, "a"): db + 2}, contrasts_given=given)
        for db, given in ((17.0, "all"), (13.0, "t1n"), (14.0, "t1n+t2f"))
    ]
    metrics = pd.concat([p.assign(region=r) for p in parts for r in ("unseen", "unseen_masked")])
    numbers, paired = main_numbers(metrics), paired_numbers(metrics)
    assert paired.query("region == 'unseen'").groupby("contrasts_given")["mean"].unique().str[0].to_dict() == {
        "all": 1.0,
        "t1n": 1.0,
        "t1n+t2f": 1.0,
    }
    ((_, found),) = layout(numbers, paired)
    main_table, others = found[0], found[-1]
    assert [str(cells[0].text) for _, cells in main_table.rows] == ["17.00", "18.00"]
    assert list(others.columns) == [(f"given {given} alone", f"K = {k}") for given in ("t1n", "t1n+t2f") for k in (1, 5)]
    assert [cells[0].text for _, cells in others.rows] == ["13.00", "14.00"]


def test_without_a_row_that_was_given_all_the_caption_says_so():
    metrics = small_metrics({("gaussian", 1, "a"): 13.0, ("unet", 1, "a"): 14.0}, contrasts_given="t1n")
    ((_, (table, *_)),) = layout(main_numbers(metrics), paired_numbers(metrics))
    assert "given t1n alone" in table.caption
