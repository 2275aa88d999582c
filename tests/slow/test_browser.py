"""The report page in a real browser, from the disk: it opens at once, sorts, unfolds, fits a telephone, and asks nothing of any
network. What the browser is asked, a script put into a copy of the page answers in the page's title."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from matplotlib.image import imread

from xdiff import report
from xdiff.trust.__main__ import write_cards

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REFERENCE = REPOSITORY / "results" / "reference" / "real-brains-2mm"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --v=0"
).split()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (.ci/run installs it where apt-get can)"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_cards(REFERENCE / "metrics.tsv.gz", folder / "trust")
    arguments = [
        "--tables",
        REFERENCE / "tables",
        "--figures",
        REFERENCE / "figures",
        "--provenance",
        REFERENCE / "provenance.json",
    ]
    report.main([*map(str, arguments), "--cards", str(folder / "trust"), "--out", str(folder / "index.html")])
    return folder / "index.html"


def browse(page: Path, *arguments: str, width: int = 1300, height: int = 2400) -> subprocess.CompletedProcess[str]:
    profile = page.with_name("profile")
    command = [CHROMIUM, *FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def ask(page: Path, expression: str, width: int = 1300) -> object:
    """The value of a JavaScript expression in the loaded page; its own errors would stand in the answer's place."""
    probe = page.with_name("probe.html")
    answer = f"addEventListener('load', () => {{ document.title = JSON.stringify({expression}); }});"
    probe.write_text(page.read_text().replace("</body>", f"<script>{answer}</script></body>"))
    dom = browse(probe, "--virtual-time-budget=5000", "--dump-dom", width=width).stdout
    return json.loads(dom.split("<title>", 1)[1].split("</title>", 1)[0].replace("&amp;", "&").replace("&lt;", "<"))


def test_every_picture_loads_and_the_tables_are_there(page: Path) -> None:
    """A picture that did not load has no natural width."""
    widths = ask(page, "[...document.images].map(i => i.naturalWidth)")
    assert len(widths) >= 6 and min(widths) > 300, widths
    assert ask(page, "document.querySelectorAll('table').length") >= 3


PRESSES = """(() => {
  const table = document.querySelector("#tables table"), keys = [...table.querySelectorAll("thead tr:last-child th")];
  const column = keys.findIndex(key => key.textContent === "K = 10");
  const order = () => [...table.tBodies[0].rows].map(row => parseFloat(row.cells[column].dataset.v));
  const press = () => {
    keys[column].firstChild.focus();
    document.activeElement.click();
    return [order(), keys[column].getAttribute("aria-sort")];
  };
  return [order(), press(), press(), press()];
})()"""


def test_pressing_a_heading_sorts_up_down_and_back(page: Path) -> None:
    """Whatever has the focus is pressed, as Enter and Space do: a heading that cannot be reached by keyboard would not sort."""
    first, down, up, back = ask(page, PRESSES)
    assert down == [sorted(first, reverse=True), "descending"] and up == [sorted(first), "ascending"]
    assert back == [first, None] and first not in (down[0], up[0])


def test_a_link_to_a_card_unfolds_it(page: Path) -> None:
    card = "trust-openneuro-ds002748-2mm-gaussian"
    unfolded = "(d => { const was = d.open; location.hash = '#' + d.id; unfold(); return [was, d.open]; })"
    assert ask(page, f"{unfolded}(document.getElementById('{card}'))") == [False, True]


@pytest.mark.parametrize("width", [1280, 500, 390])
def test_nothing_makes_the_page_wider_than_the_window(page: Path, width: int) -> None:
    """Wide tables and figures move inside themselves. In a frame of its own, since a window has a least width."""
    source = page.read_text().replace("&", "&amp;").replace('"', "&quot;")
    inner = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{source}"></iframe>'
    answer = "const d = document.querySelector('iframe').contentDocument.documentElement;"
    answer += "document.title = [d.scrollWidth, d.clientWidth].join();"
    frame = page.with_name("frame.html")
    frame.write_text(f"<title></title>{inner}<script>addEventListener('load', () => {{ {answer} }})</script>")
    dom = browse(frame, "--virtual-time-budget=5000", "--dump-dom", width=1400).stdout
    whole, seen = map(int, dom.split("<title>", 1)[1].split("</title>", 1)[0].split(","))
    assert seen == width and whole <= seen


def test_nothing_is_asked_of_a_network_and_nothing_is_complained_about(page: Path) -> None:
    """Resource timing lists every request of the page; embedded pictures are none. The console stands on stderr."""
    requests = ask(page, "performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))")
    assert requests == []
    console = [line for line in browse(page, "--virtual-time-budget=3000", "--dump-dom").stderr.splitlines() if "CONSOLE" in line]
    assert console == []


def test_without_its_script_the_page_has_all_its_text(page: Path) -> None:
    """Headings have no buttons then, and cards unfold all the same: the browser does it."""
    bare = page.with_name("bare.html")
    before, _, after = page.read_text().rpartition("<script>")
    bare.write_text(before + after.split("</script>", 1)[1])
    dom = browse(bare, "--dump-dom").stdout
    assert "<script" not in dom and "<button" not in dom and dom.count("<table") == page.read_text().count("<table")


def test_the_page_is_loaded_in_two_seconds_and_small(page: Path) -> None:
    """From the start of navigation to the end of loading, pictures decoded; the least of three, as the machine may be busy."""
    ends = [
        ask(page, "performance.timing.domComplete - performance.timing.navigationStart || performance.now()") for _ in range(3)
    ]
    assert min(ends) < 2000 and page.stat().st_size < 15e6


def test_the_page_is_drawn_within_seconds(page: Path) -> None:
    start = time.monotonic()
    shot = page.with_name("shot.png")
    browse(page, f"--screenshot={shot}")
    seconds = time.monotonic() - start
    picture = imread(shot)[..., :3]
    assert picture.shape[:2] == (2400, 1300)
    assert np.unique(picture.reshape(-1, 3), axis=0).shape[0] > 500, "an empty page"
    assert seconds < 30
