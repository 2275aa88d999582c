"""The page: complete, offline, sortable; and the ledger of Snakemake's benchmarks."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY
from synthetic_metrics import synthetic_metrics, write_metrics, write_panel

from xdiff import figures, tables
from xdiff.errors import InputError
from xdiff.page import parts
from xdiff.page.blocks import FOLDER
from xdiff.page.overview import headlines
from xdiff.report import ledger_text, main, read_ledger
from xdiff.trust.__main__ import write_cards

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"


def write_benchmarks(folder: Path) -> Path:
    runs = {
        "train/brats/xdiff.tsv": ["1500.5\t0:25:00\t2100.5\t1\t1\t1\t1\t1\t180\t2800"],
        "train/knee/unet.tsv": ["10\t0:00:10\t300\t1\t1\t1\t1\t1\t180\t20", "20\t0:00:20\t400\t1\t1\t1\t1\t1\t180\t40"],
        "evaluate/all.tsv": ["0.02\t0:00:00\t-\t-\t-\t-\t-\t-\t-\tNA"],
        "tables.tsv": ["3.5\t0:00:03\t150\t1\t1\t1\t1\t1\t99\t3.4"],
    }
    for name, lines in runs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([HEADER, *lines]) + "\n")
    return folder


CONFIG = {
    "methods": {
        "gaussian": {"module": "baselines.trivial", "params": {"kind": "gaussian"}},
        "mine": {"module": "elsewhere.mine", "params": {}},
    },
    "run": {"cohorts": ["brats", "knee"], "methods": ["gaussian", "mine"], "shards": 1},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables/, figures/, benchmarks/ and page/index.html."""
    folder = tmp_path_factory.mktemp("report")
    path = str(write_metrics(synthetic_metrics(patients=2, cohorts=("brats", "knee")), folder / "all.tsv"))
    panel = str(write_panel(folder / "panel.npz", panels=1))
    tables.main(["--metrics", path, "--out", str(folder / "tables")])
    figures.main(["--metrics", path, "--panel", panel, "--out", str(folder / "figures")])
    write_benchmarks(folder / "benchmarks")
    write_cards(Path(path), folder / "trust", ["xdiff"])
    arguments = ["--tables", folder / "tables", "--figures", folder / "figures", "--benchmarks", folder / "benchmarks"]
    arguments += ["--cards", folder / "trust", "--config-json", json.dumps(CONFIG)]
    main([*map(str, arguments), "--out", str(folder / "page" / "index.html"), "--title", "Results <of a test>"])
    return folder


@pytest.fixture(scope="module")
def page(made: Path) -> str:
    return (made / "page" / "index.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Checks that every tag is closed in order; collects the rows of all tables and the values of src and href."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th", "b") and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_page_is_well_formed_and_refers_to_nothing_outside(page):
    links = Outline(page).links
    assert links and all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    without_images = re.sub(r"data:image/png;base64,[^\"]*", "", page)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|fetch\(", without_images)
    anchors = set(re.findall(r'id="([^"]+)"', without_images))
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    assert len(page) < 15e6


def test_page_has_every_figure_with_its_caption(page, made):
    captions = json.loads((made / "figures" / "captions.json").read_text())
    cards = page.count('<details class="card"')
    assert len(captions) == 7 and page.count("data:image/png;base64,") == len(captions) + cards
    for name, caption in captions.items():
        assert f'<figure id="{name}">' in page
        assert html.escape(caption) in page


def test_page_has_the_numbers_of_the_table(page, made):
    numbers = tables.read_main(made / "tables" / "main.tsv")
    wanted = "cohort == 'brats' and region == 'unseen' and metric == 'psnr' and policy == 'uniform' and method == 'gaussian'"
    expected = [f"{mean:.2f}" for mean in numbers.query(wanted).sort_values("K")["mean"]]
    rows = [row for row in Outline(page).rows if row and row[0] == "gaussian"]
    assert rows[0][1:7] == expected


def test_page_has_the_posterior_checks(page, made):
    checks = tables.read_posterior(made / "tables" / "posterior.tsv")
    first = checks.query("cohort == 'brats' and policy == 'uniform' and K == 1 and check == 'sample_to_mean'").iloc[0]
    rows = [row for row in Outline(page).rows if row[:3] == ["xdiff", "1", "8"]]
    assert page.count("<h4>Posterior checks") == 3 and rows[0][3] == f"{first['mean']:.2f}"


def test_page_escapes_its_title_and_states_where_numbers_come_from(page):
    assert "<h1>Results &lt;of a test&gt;</h1>" in page
    rows = [row for row in Outline(page).rows if row[:1] == ["brats"] and len(row) == 8]
    assert rows == [["brats", "brats", "2mm", "centred", "2", "3", "brat5f1d9c27", "NVIDIA H200; cpu (2 threads)"]]


def test_page_has_the_ledger(page):
    assert ["train", "2", "1,530", "2,860", "2,100"] in Outline(page).rows
    assert "In all 4 jobs, 1,534 seconds (CPU 2,863), at most 2,100 MB of memory." in page


def test_a_figure_that_captions_name_must_exist(made, tmp_path):
    (tmp_path / "captions.json").write_text('{"psnr_vs_k": "A caption."}')
    arguments = ["--tables", str(made / "tables"), "--figures", str(tmp_path), "--out", str(tmp_path / "index.html")]
    with pytest.raises(InputError, match=r"psnr_vs_k\.png: found no such file"):
        main(arguments)


def test_paths_are_demanded(capsys):
    with pytest.raises(SystemExit):
        main(["--tables", "somewhere"])
    assert "--tables, --figures and --out are needed" in capsys.readouterr().err


def test_overview_says_who_is_best_by_how_much_and_over_how_many(made):
    """xdiff is 0.4 dB and more above gaussian in synthetic_metrics, for every patient alike but for noise."""
    numbers, paired = tables.read_main(made / "tables" / "main.tsv"), tables.read_paired(made / "tables" / "paired.tsv")
    said = list(headlines(numbers, paired))
    row = numbers.query("cohort == 'brats' and region == 'unseen' and metric == 'psnr' and policy == 'uniform' and K == 5")
    best = row.loc[row["mean"].idxmax()]
    gain = paired.query("cohort == 'brats' and region == 'unseen' and policy == 'uniform' and K == 5 and reference == 'gaussian'")
    gain = gain[(gain["method"] == best["method"]) & (gain["estimate"] == best["estimate"])].iloc[0]
    (sentence,) = [text for text in said if text.startswith("brats, grid 2mm, K = 5 (axial, uniform, centred, 2 mm thick)")]
    assert f"xdiff (mean) is closest to the truth, PSNR {best['mean']:.2f} dB [{best['lo']:.2f}, {best['hi']:.2f}]" in sentence
    assert f"{gain['mean']:+.2f} dB [{gain['lo']:.2f}, {gain['hi']:.2f}] above the gaussian row" in sentence
    assert sentence.endswith("; 2 test patients.")


def test_overview_names_rows_that_print_the_same(made):
    numbers, paired = tables.read_main(made / "tables" / "main.tsv"), tables.read_paired(made / "tables" / "paired.tsv")
    best = (numbers["method"] == "xdiff") & (numbers["estimate"] == "mean")
    twin = pd.concat([numbers[numbers["method"] != "unet"], numbers[best].assign(method="unet", steps=1)])
    assert all(
        "unet (as xdiff (mean)) is closest" in text or "xdiff (mean) (as unet)" in text for text in headlines(twin, paired)
    )


def test_page_has_a_card_per_model_that_can_be_linked(page, made):
    cards = {"-".join(p.relative_to(made / "trust").with_suffix("").parts) for p in (made / "trust").rglob("*.json")}
    assert cards == {"brats-2mm-xdiff", "openneuro-ds002748-2mm-xdiff"}
    assert all(f'<details class="card" id="trust-{card}">' in page for card in cards)
    assert page.count("Research software, not a medical device") == 1


def test_page_describes_methods_without_importing_them(page):
    rows = {row[0]: row for row in Outline(page).rows if len(row) == 4}
    assert rows["gaussian"][2].startswith("Rows that need no network") and rows["gaussian"][3] == "kind: gaussian"
    assert rows["mine"][2] == "not described: its module is not part of this repository" and rows["mine"][3] == "none"


def test_every_shipped_method_says_what_it_is():
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    assert all(len(parts.about_module(entry["module"])) > 40 for entry in config["methods"].values())


def test_page_tells_commit_versions_and_configuration(page):
    rows = {row[0]: row[1] for row in Outline(page).rows if len(row) == 2}
    assert re.fullmatch("[0-9a-f]{64}", rows["sha256 of the configuration"])
    assert rows["run.methods"] == "gaussian, mine" and rows["numpy (package)"] == version("numpy")


def test_a_committed_reference_makes_a_page_with_its_own_provenance(tmp_path):
    folder = REPOSITORY / "results/reference/local-2mm"
    arguments = ["--tables", folder / "tables", "--figures", folder / "figures", "--provenance", folder / "provenance.json"]
    main([*map(str, arguments), "--out", str(tmp_path / "index.html")])
    text, about = (tmp_path / "index.html").read_text(), json.loads((folder / "provenance.json").read_text())
    rows = {row[0]: row[1] for row in Outline(text).rows if len(row) == 2}
    assert rows["commit"] == about["commit"] and rows["torch (package)"] == about["packages"]["torch"]
    assert "What it cost" in text and 'id="cards"' not in text


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_broken_provenance_is_named(made, tmp_path, text):
    (tmp_path / "provenance.json").write_text(text)
    arguments = ["--tables", made / "tables", "--figures", made / "figures", "--provenance", tmp_path / "provenance.json"]
    with pytest.raises(InputError, match=r"provenance\.json: found"):
        main([*map(str, arguments), "--out", str(tmp_path / "index.html")])


# Enough of a browser for the script to start: a page without tables.
_BROWSER = """
const document = {querySelectorAll: () => [], getElementById: () => null}, location = {hash: ""}, addEventListener = () => {};
"""


@pytest.mark.parametrize(
    ("column", "direction", "expected"),
    [
        (["9.5", "", "10.25", "-3"], -1, [2, 0, 3, 1]),
        (["9.5", "", "10.25", "-3"], 1, [3, 0, 2, 1]),
        (["1,530", "20", "\u2013"], -1, [0, 1, 2]),
        (["b", "a", "b"], 1, [1, 0, 2]),
    ],
    ids=["highest first, empty last", "lowest first, empty last", "thousands and dashes", "text, equal stay in order"],
)
def test_the_script_orders_rows(column, direction, expected):
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the page's script was not run")
    rows = json.dumps(list(range(len(column))))
    call = f"console.log(JSON.stringify(ordered({rows}, i => {json.dumps(column)}[i], {direction})));"
    script = _BROWSER + (FOLDER / "script.js").read_text().replace('"use strict";', "") + call
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


def test_ledger_sums_seconds_and_keeps_the_unknown_unknown(tmp_path):
    ledger = read_ledger(write_benchmarks(tmp_path)).set_index("rule")
    assert list(ledger.index) == ["train", "tables", "evaluate"]
    assert ledger.loc["train"].tolist() == [2, 1530.5, 2860, 2100.5]
    assert ledger.loc["evaluate", "seconds"] == 0.02 and ledger.loc["evaluate"].isna().tolist() == [False, False, True, True]


def test_ledger_prints_aligned_with_its_total(tmp_path, capsys):
    main(["--ledger", str(write_benchmarks(tmp_path))])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "rule" and len({len(line) for line in lines}) == 1
    assert lines[-1].split() == ["total", "4", "1,534", "2,863", "2,100"]
    assert ledger_text(read_ledger(tmp_path)) == "\n".join(lines)


def test_ledger_of_an_empty_folder_or_of_other_files_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no benchmark files"):
        read_ledger(tmp_path)
    (tmp_path / "rule.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match="found columns a b, expected a Snakemake benchmark"):
        read_ledger(tmp_path)
