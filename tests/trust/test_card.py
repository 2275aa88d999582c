"""Whole cards: every sentence has its numbers, files are the same from the same table, and bad input is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import REPOSITORY
from synthetic_metrics import sweep_metrics, synthetic_metrics, write_metrics
from trust_rows import BETTER, against, card, long, rows_of, trial, trials

from xdiff.config import BESIDE
from xdiff.errors import InputError
from xdiff.layout import TRIVIAL
from xdiff.posterior_checks import CLOSED_FORM
from xdiff.stats import CONTROL
from xdiff.trust import WITHOUT_CARD
from xdiff.trust.__main__ import main, write_cards
from xdiff.trust.card import DISCLAIMER, make_card, markdown, read, write
from xdiff.trust.picture import draw
from xdiff.trust.wording import BAD, MISSING, VERDICTS

WITHOUT_INTERVAL = ("Given slices come back", "Tested on enough", "The same when it is trained again", "Works where")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = synthetic_metrics(patients=3, cohorts=("openneuro-ds002748", "knee"))
    return write_metrics(
        table[table["method"].isin(["mean_template", "linear", "gaussian", "xdiff"])], tmp_path_factory.mktemp("m") / "all.tsv"
    )


@pytest.fixture(scope="module")
def written(metrics: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_cards(metrics, tmp_path_factory.mktemp("cards"))


def test_a_card_per_model_whatever_the_frame_or_cohort(written: list[Path]) -> None:
    assert [p.parts[-3:] for p in written] == [("openneuro-ds002748", "2mm", name) for name in ("gaussian.md", "xdiff.md")]
    assert all(p.with_suffix(suffix).stat().st_size > 1000 for p in written for suffix in (".md", ".json", ".png", ".pdf"))


def test_every_sentence_has_its_n_its_interval_and_its_condition(written: list[Path]) -> None:
    said = [s for p in written for _, own in read(p.with_suffix(".json")).sections for s in own if s.verdict != MISSING]
    assert len(said) > 30
    for statement in said:
        assert re.search(r"n = \d", statement.text), statement
        assert statement.topic.startswith(WITHOUT_INTERVAL) or re.search(r"\[-?[\d.]+, -?[\d.]+\]", statement.text), statement
        assert re.search("openneuro-ds002748|knee", statement.text), statement


def test_no_card_promises_a_diagnosis(written: list[Path]) -> None:
    for path in written:
        text = path.read_text()
        assert text.count(DISCLAIMER) == 1 and not re.search("diagnos", text.replace(DISCLAIMER, ""), re.I)


def test_the_same_table_gives_the_same_bytes(metrics: Path, written: list[Path], tmp_path: Path) -> None:
    (again,) = write_cards(metrics, tmp_path, ["xdiff"])
    (first,) = [p for p in written if p.stem == "xdiff"]
    for suffix in (".md", ".json", ".png", ".pdf"):
        assert again.with_suffix(suffix).read_bytes() == first.with_suffix(suffix).read_bytes(), suffix


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    made = make_card(trials(BETTER, tmp_path))
    write(made, tmp_path / "out" / "xdiff")
    assert read(tmp_path / "out" / "xdiff.json") == made


def test_in_short_names_where_it_is_closer_than_all_and_what_speaks_against_it(tmp_path: Path) -> None:
    rows = (
        against("gaussian", {1: [1.0] * 3, 5: [1.0] * 3})
        + rows_of("mean_template", 1, [1.0] * 3)
        + rows_of("mean_template", 5, [99.0] * 3)
    )
    short = make_card(trials(rows, tmp_path)).short
    assert short[0].startswith("Shown to be closer to the truth than gaussian, mean_template at K = 1 (n = 3 patients")
    assert short[1].startswith("Not shown to be closer than all of gaussian, mean_template at K = 5")
    assert any(line.startswith("Not so: ") and "Tested on enough real patients" in line for line in short)


def test_a_model_of_no_tested_home_says_so(tmp_path: Path) -> None:
    made = make_card(trials([r | {"cohort": "knee"} for r in BETTER], tmp_path))
    assert made.short[0] == "Not tested on the cohort it was trained on: this card is about knee."


def test_counts_add_up(tmp_path: Path) -> None:
    made = make_card(trials(BETTER, tmp_path))
    statements = [s for _, own in made.sections for s in own]
    assert {s.verdict for s in statements} <= set(VERDICTS)
    counts = [int(n) for n in re.findall(r"(\d+) (?:shown|not so|undecided|not measured)", made.short[-1])]
    assert sum(counts) == len(statements) and made.short[-1].startswith(f"Of {len(statements)} claims")


def test_names_with_underscores_are_no_emphasis_in_markdown(tmp_path: Path) -> None:
    text = markdown(make_card(trials(against("mean_template", {1: [1.0, 1.0]}), tmp_path)), "xdiff.png")
    assert "(mean_template)" not in re.sub(r"\*\*.*?\*\*|!\[.*\)", "", text.split("## What it keeps")[1])


def test_a_table_of_samples_alone_is_judged_by_its_samples(tmp_path: Path) -> None:
    table = sweep_metrics(patients=3, steps=(8,), ks=(1,))
    made = card(table[table["estimate"] != "mean"], tmp_path)
    assert "Fine detail is there (sample, 8 steps)" in [s.topic for s in made.sections[1][1]]


def test_the_figure_has_four_panels_and_says_what_was_not_measured(tmp_path: Path) -> None:
    axes = draw(trial(BETTER, tmp_path)).axes
    texts = [[t.get_text() for t in ax.texts] for ax in axes]
    assert len(axes) == 4 and texts[0] == [] and all("not measured" in own for own in texts[1:])


def test_rows_without_a_card_are_what_the_tables_call_trivial_or_beside() -> None:
    assert set(WITHOUT_CARD) == {*TRIVIAL, *BESIDE, CONTROL, CLOSED_FORM} - {"gaussian"}


def test_a_table_without_a_model_is_an_error(tmp_path: Path) -> None:
    path = write_metrics(long(rows_of("linear", 1, [1.0, 2.0])), tmp_path / "all.tsv")
    with pytest.raises(InputError, match=r"all\.tsv: found no PSNR of any method but the trivial ones"):
        main(["--metrics", str(path), "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="found no PSNR of xdiff"):
        main(["--metrics", str(path), "--out", str(tmp_path / "out"), "--methods", "xdiff"])


def test_a_table_without_the_headline_is_an_error(tmp_path: Path) -> None:
    path = write_metrics(long(rows_of("xdiff", 1, [1.0, 2.0], region="grid")), tmp_path / "all.tsv")
    with pytest.raises(InputError, match="no PSNR in unseen of xdiff"):
        write_cards(path, tmp_path / "out")


@pytest.mark.parametrize("text", ["", "{}", '{"model": {"who": "me"}, "table": {"rows": []}}', '{"table": 3}'])
def test_a_broken_card_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "xdiff.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"xdiff\.json: found .* expected a trust card"):
        read(path)


def test_the_committed_generalisation_run_does_not_recommend_brains_for_knees(tmp_path: Path) -> None:
    """README: up to K = 5 it is worse than a mean knee that sees nothing."""
    metrics = REPOSITORY / "results/reference/generalisation/metrics.tsv.gz"
    paths = write_cards(metrics, tmp_path, ["xdiff"], ["brain-t1n"])
    (brain,) = [read(p.with_suffix(".json")) for p in paths if p.parts[-3] == "brain-t1n"]
    (knee,) = [s for s in brain.sections[2][1] if s.topic.endswith("phantom-knee itself")]
    assert knee.verdict == BAD and "K = 1: -" in knee.text and "K = 10: +" in knee.text
