"""The report page in a real browser: it opens from the disk, draws, and asks nothing of any network."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from matplotlib.image import imread

from xdiff import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REFERENCE = REPOSITORY / "results" / "reference" / "real-brains-2mm"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --window-size=1300,2400"
).split()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (.ci/run installs it where apt-get can)"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "index.html"
    report.main(["--tables", str(REFERENCE / "tables"), "--figures", str(REFERENCE / "figures"), "--out", str(out)])
    return out


def browse(page: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    profile = page.with_name("profile")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_every_picture_loads_and_the_tables_are_there(page: Path) -> None:
    # asks the browser itself: a picture that did not load has no natural width
    probe = page.with_name("probe.html")
    script = (
        "<script>addEventListener('load', () => document.title = [...document.images].map(i => i.naturalWidth).join())</script>"
    )
    probe.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    dom = browse(probe, "--virtual-time-budget=5000", "--dump-dom").stdout
    title = dom.split("<title>", 1)[1].split("</title>", 1)[0]
    widths = [int(width) for width in title.split(",")]
    assert len(widths) >= 4 and min(widths) > 300, title
    assert dom.count("<table") >= 3


def test_the_page_is_drawn_within_seconds(page: Path) -> None:
    start = time.monotonic()
    shot = page.with_name("shot.png")
    browse(page, f"--screenshot={shot}")
    seconds = time.monotonic() - start
    picture = imread(shot)[..., :3]
    assert picture.shape[:2] == (2400, 1300)
    assert np.unique(picture.reshape(-1, 3), axis=0).shape[0] > 500, "an empty page"
    assert seconds < 30
