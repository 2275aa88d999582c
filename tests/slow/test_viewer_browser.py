"""The viewer in a real browser, from the disk: every panel drawn, sides where radiologists expect them, one crosshair for all,
nothing asked of a network and nothing complained about."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from lopsided import lopsided, oblique_affine, write_flipped
from test_browser import CHROMIUM, FLAGS

from xdiff.viewer.__main__ import main
from xdiff.volumes import write_volume

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (.ci/run installs it where apt-get can)"),
]
SOFTWARE = "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader".split()  # WebGL 2 without a graphics card


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reconstruction with a ball too dim, in the space of an oblique truth that is stored as LAS."""
    folder = tmp_path_factory.mktemp("viewer")
    truth, affine = lopsided(), oblique_affine()
    write_flipped(folder / "truth.nii.gz", truth, affine)
    write_volume(folder / "volume.nii.gz", np.where(truth == 700, 500, truth), affine)
    std = 5.0 + 0.1 * np.abs(np.arange(32) - 16) * truth / 25
    write_volume(folder / "std.nii.gz", std.astype(np.float32), affine)
    arguments = [folder / "volume.nii.gz", "--truth", folder / "truth.nii.gz", "--std", folder / "std.nii.gz"]
    given = ["--given", "axial:8", "axial:16", "axial:24", "--model", "gaussian"]
    main([*map(str, arguments), *given, "--no-browser"])
    return folder / "volume.html"


def browse(page: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    flags = [flag for flag in FLAGS if flag != "--disable-gpu"]
    command = [CHROMIUM, *flags, *SOFTWARE, "--window-size=1400,1000", f"--user-data-dir={page.with_name('profile')}"]
    return subprocess.run([*command, *arguments, page.as_uri()], capture_output=True, text=True, timeout=150)


HELPERS = """
const pixels = nv => {
  nv.drawScene();
  const gl = nv.gl, [w, h] = [gl.drawingBufferWidth, gl.drawingBufferHeight], all = new Uint8Array(4 * w * h);
  gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, all);
  return { w, h, all };
};
const colours = nv => new Set(new Uint32Array(pixels(nv).all.buffer)).size;
const brightest = (nv, view) => {  // where in that view the brightest grey lies, from its left and its top, 0 to 1
  const { w, h, all } = pixels(nv);
  const [left, top, width, height] = nv.screenSlices.find(s => s.axCorSag === view).leftTopWidthHeight;
  let most = -1, sum = [0, 0, 0];
  for (let y = Math.ceil(top) + 2; y < top + height - 2; y++) for (let x = Math.ceil(left) + 2; x < left + width - 2; x++) {
    const at = 4 * ((h - 1 - y) * w + x), value = Math.min(all[at], all[at + 1], all[at + 2]);
    if (Math.max(all[at], all[at + 1], all[at + 2]) - value > 8) continue;  // crosshair and marks are coloured
    if (value > most + 8) { most = value; sum = [0, 0, 0]; }
    if (value > most - 8) sum = [sum[0] + x, sum[1] + y, sum[2] + 1];
  }
  return [(sum[0] / sum[2] - left) / width, (sum[1] / sum[2] - top) / height];
};
const at = (nv, x, y, z) => { nv.scene.crosshairPos = [(x + .5) / 36, (y + .5) / 44, (z + .5) / 32]; nv.drawScene(); };
const tick = on => { const box = document.querySelector("#show"); box.checked = on; box.onchange(); };
const wheel = nv => {  // over the middle of its axial view, which has no focus
  const [left, top, width, height] = nv.screenSlices.find(s => s.axCorSag === 0).leftTopWidthHeight;
  const box = nv.canvas.getBoundingClientRect(), dpr = nv.canvas.width / box.width;
  const [clientX, clientY] = [box.left + (left + width / 2) / dpr, box.top + (top + height / 2) / dpr];
  nv.canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 100, clientX, clientY, bubbles: true, cancelable: true }));
};
const nvs = () => viewer.views.map(v => v.nv);
"""
ANSWERS = """{
  failed: document.querySelector("#failed")?.textContent ?? "",
  colours: nvs().map(colours),
  right: (tick(false), at(nvs()[0], 27, 14, 16), brightest(nvs()[0], 0)),
  front: (at(nvs()[0], 18, 36, 16), brightest(nvs()[0], 2)),
  top: (at(nvs()[0], 18, 22, 26), brightest(nvs()[0], 1)),
  given: (viewer.go({axis: 2, index: 16}), document.querySelector("#place").textContent),
  between: (at(nvs()[0], 18, 36, 14), nvs()[0].createOnLocationChange(), document.querySelector("#place").textContent),
  linked: nvs().map(nv => [...nv.frac2vox(nv.scene.crosshairPos)]),
  read: viewer.views.map(v => parseFloat(v.value.textContent)),
  wheeled: (wheel(nvs()[1]), nvs().map(nv => [...nv.frac2vox(nv.scene.crosshairPos)])),
  marked: [true, false].map(on => {
    tick(on);
    const { all } = pixels(nvs()[0]);
    return all.reduce((n, _, i) => n + (i % 4 === 0 && all[i + 2] - all[i] > 25), 0);
  }),
  coloured: nvs().map(nv => {
    const { all } = pixels(nv);
    let count = 0;
    for (let i = 0; i < all.length; i += 4) {
      const rgb = all.subarray(i, i + 3);
      count += Math.max(...rgb) - Math.min(...rgb) > 8;
    }
    return count / (all.length / 4);
  }),
  requests: performance.getEntriesByType("resource").map(e => e.name).filter(n => !/^(data|blob):/.test(n)),
  labels: [...document.querySelectorAll("figcaption b")].map(b => b.textContent),
  stamped: [...document.querySelectorAll("figure")].map(f => f.querySelectorAll(".mark").length),
}"""


@pytest.fixture(scope="module")
def answers(page: Path) -> dict:
    probe = page.with_name("probe.html")
    put = f"{HELPERS} viewer.ready.finally(() => {{ document.title = JSON.stringify({ANSWERS}); }});"
    text = page.read_text(encoding="utf-8").rpartition("</body>")[0]
    probe.write_text(f"{text}<script>{put}</script></body></html>", encoding="utf-8")
    result = browse(probe, "--virtual-time-budget=20000", "--dump-dom")
    title = result.stdout.split("<title>", 1)[1].split("</title>", 1)[0]
    assert title.startswith("{"), [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(title.replace("&amp;", "&").replace("&lt;", "<")), "console": console}


def test_four_panels_are_drawn_and_only_the_acquired_one_is_not_stamped(answers: dict) -> None:
    assert answers["failed"] == "" and answers["labels"] == ["Truth", "Reconstruction", "Difference", "Uncertainty"]
    assert answers["stamped"] == [0, 3, 3, 3]  # in each view
    assert min(answers["colours"]) > 20, answers["colours"]


def test_marks_off_truth_and_reconstruction_are_grey_but_for_crosshair_and_letters(answers: dict) -> None:
    """After marks were redrawn too: a scale of another panel once took their place."""
    truth, reconstruction, _, uncertainty = answers["coloured"]
    assert max(truth, reconstruction) < 0.05 and uncertainty > 0.3


def test_the_patients_right_is_on_the_left_front_and_top_where_they_belong(answers: dict) -> None:
    """Of an oblique volume that is stored as LAS. Axial: right on the left. Sagittal: front on the left. Coronal: top up."""
    assert answers["right"] == pytest.approx([1 - 27.5 / 36, 1 - 14.5 / 44], abs=0.06)
    assert answers["front"][0] == pytest.approx(1 - 36.5 / 44, abs=0.06)
    assert answers["top"][1] == pytest.approx(1 - 26.5 / 32, abs=0.06)


def test_the_crosshair_and_the_values_are_those_of_all_panels(answers: dict) -> None:
    assert answers["linked"] == [[18, 36, 14]] * 4
    first = answers["wheeled"][0]
    assert answers["wheeled"] == [first] * 4 and first[:2] == [18, 36] and first[2] != 14
    assert answers["read"] == pytest.approx([700, 500, -200, 10.6], abs=0.1)


def test_given_slices_are_named_and_marked_until_switched_off(answers: dict) -> None:
    assert "on the given slice axial 16" in answers["given"] and "not on a given slice" in answers["between"]
    shown, hidden = answers["marked"]
    assert shown > 500 and hidden < shown / 10


def test_nothing_is_asked_of_a_network_and_nothing_is_complained_about(answers: dict) -> None:
    assert answers["requests"] == [] and answers["console"] == []
