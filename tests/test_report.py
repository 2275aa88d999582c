"""The page: complete, offline, sortable; and the ledger of Snakemake's benchmarks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_metrics import synthetic_metrics, write_metrics, write_panel

from xdiff import figures, report, tables
from xdiff.errors import InputError
from xdiff.report import ledger_text, main, read_ledger

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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables/, figures/, benchmarks/ and page/index.html."""
    folder = tmp_path_factory.mktemp("report")
    path = str(write_metrics(synthetic_metrics(patients=2, cohorts=("brats", "knee")), folder / "all.tsv"))
    panel = str(write_panel(folder / "panel.npz", panels=1))
    tables.main(["--metrics", path, "--out", str(folder / "tables")])
    figures.main(["--metrics", path, "--panel", panel, "--out", str(folder / "figures")])
    write_benchmarks(folder / "benchmarks")
    arguments = ["--tables", folder / "tables", "--figures", folder / "figures", "--benchmarks", folder / "benchmarks"]
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
        if self.open and self.open[-1] in ("td", "th", "b"):
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
    assert len(captions) == 5 and page.count("data:image/png;base64,") == 5
    for name, caption in captions.items():
        assert f'<figure id="{name}">' in page
        assert report.html.escape(caption) in page


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
    rows = [row for row in Outline(page).rows if row[:1] == ["brats"]]
    assert rows == [["brats", "brats", "2mm", "centred", "2", "3", "brat5f1d9c27", "NVIDIA H200; cpu (2 threads)"]]


def test_page_has_the_ledger(page):
    assert ["train", "2", "1,530", "2,860", "2,100"] in Outline(page).rows


def test_a_figure_that_captions_name_must_exist(made, tmp_path):
    (tmp_path / "captions.json").write_text('{"psnr_vs_k": "A caption."}')
    arguments = ["--tables", str(made / "tables"), "--figures", str(tmp_path), "--out", str(tmp_path / "index.html")]
    with pytest.raises(InputError, match=r"psnr_vs_k\.png: found no such file"):
        main(arguments)


def test_paths_are_demanded(capsys):
    with pytest.raises(SystemExit):
        main(["--tables", "somewhere"])
    assert "--tables, --figures and --out are needed" in capsys.readouterr().err


# A document object model of one table, just enough for the page's script: two columns (method, number), four rows.
_DOM = """
const click = [];
const row = (name, v) => ({name, cells: [{dataset: {}}, {dataset: {v}}]});
const body = {rows: [row("a", "9.5"), row("b", ""), row("c", "10.25"), row("d", "-3")]};
body.appendChild = r => { body.rows = body.rows.filter(x => x !== r).concat([r]); };
const strings = () => new Proxy({}, {set: (target, key, value) => { target[key] = String(value); return true; }});
const keys = [0, 1].map(i => ({dataset: strings(), addEventListener: (_, f) => { click[i] = f; }}));
const table = {querySelectorAll: () => keys, tBodies: [body]};
const document = {querySelectorAll: () => [table]};
const order = () => body.rows.map(r => r.name).join("");
"""


def test_the_script_sorts_numbers_with_dashes_last():
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the page's script was not run")
    clicks = "const seen = []; for (const i of [1, 1, 0, 0]) { click[i](); seen.push(order()); } console.log(seen.join());"
    done = subprocess.run(["node", "-e", _DOM + report._SCRIPT + clicks], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # By number down, up; by method: the order of the table, then the reverse.
    assert done.stdout.strip() == "cadb,dacb,abcd,dcba"


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
