"use strict";
// Panels on one array of voxels, one NiiVue each, with one crosshair. Colours are stops of a linear scale, as the legends draw them.
const COLOURS = {
  gray: [[0, 0, 0], [255, 255, 255]],
  difference: [[90, 190, 255], [20, 70, 200], [0, 0, 0], [200, 30, 20], [255, 200, 90]],
  uncertainty: [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]],
  given: [[23, 190, 207], [23, 190, 207]],
};
const data = JSON.parse(document.getElementById("data").textContent);
const views = [];
const MARKED = 0.6; // opacity of the given slices where they cut a view
const SEEN = 0.2; // the same while one is looked at, so that its contrast stays
let opacity = 0;

function colormap(stops, clear) {
  const at = stops.map((_, i) => Math.round((255 * i) / (stops.length - 1)));
  const [R, G, B] = [0, 1, 2].map(channel => stops.map(stop => stop[channel]));
  return { R, G, B, A: stops.map((_, i) => (clear && i === 0 ? 0 : 255)), I: at };
}

const number = x => (x === 0 ? "0" : Math.abs(x) >= 100 ? x.toFixed(0) : x.toPrecision(3));

function element(tag, name, text, parent) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.textContent = text;
  parent.append(made);
  return made;
}

function figure(panel) {
  const box = element("figure", "", "", document.getElementById("panels"));
  const caption = element("figcaption", "", "", box);
  element("b", "", panel.label, caption);
  const value = element("span", "value", "", caption);
  element("div", "note", panel.note, caption).title = panel.note;
  const frame = element("div", "frame", "", box);
  const canvas = element("canvas", "", "", frame);
  const thirds = panel.synthetic ? [0, 1, 2] : []; // one stamp per view, so that a view cut out of a screenshot keeps it
  for (const third of thirds) element("div", "mark", "SYNTHETIC", frame).style.bottom = `calc(${(100 * third) / 3}% + 4px)`;
  const stops = COLOURS[panel.colours].map(stop => `rgb(${stop})`).join();
  element("div", "scale", "", box).style.background = `linear-gradient(to right, ${stops})`;
  const ends = element("div", "ends", "", box);
  for (const end of [panel.low, (panel.low + panel.high) / 2, panel.high]) element("span", "", number(end), ends);
  return { canvas, value };
}

async function open(panel) {
  const { canvas, value } = figure(panel);
  const nv = new niivue.Niivue({
    isRadiologicalConvention: true, sagittalNoseLeft: true, showAllOrientationMarkers: true, isSliceMM: false,
    fontColor: [1, 0.85, 0.3, 1], fontMinPx: 15, sliceType: niivue.SLICE_TYPE.MULTIPLANAR,
    multiplanarLayout: niivue.MULTIPLANAR_TYPE.COLUMN, multiplanarShowRender: niivue.SHOW_RENDER.NEVER, tileMargin: 4,
    backColor: [0, 0, 0, 1], crosshairColor: [0.2, 0.9, 0.3, 0.7], crosshairWidthUnit: "mm", loadingText: "",
    dragAndDropEnabled: false, logLevel: "error",
  });
  await nv.attachToCanvas(canvas);
  const colours = `xdiff-${panel.colours}`; // all instances share one list of names, in which the last of a name counts
  nv.addColormap(colours, colormap(COLOURS[panel.colours], false));
  nv.addColormap("xdiff-given", colormap(COLOURS.given, true));
  const image = { name: "volume.nii.gz", colormap: colours, cal_min: panel.low, cal_max: panel.high };
  nv.addVolume(await niivue.NVImage.loadFromBase64({ base64: panel.volume, ...image }));
  const { dimsRAS, pixDimsRAS } = nv.volumes[0];
  nv.opts.crosshairWidth = 0.004 * Math.max(...[1, 2, 3].map(axis => dimsRAS[axis] * pixDimsRAS[axis]));
  if (data.given) {
    const mask = { base64: data.given, name: "given.nii.gz", colormap: "xdiff-given", cal_min: 0, cal_max: 1, opacity: 0 };
    nv.addVolume(await niivue.NVImage.loadFromBase64(mask));
  }
  nv.onLocationChange = () => follow(nv);
  views.push({ nv, value });
}

// NiiVue's own broadcast is silent while a canvas has no focus, as when the wheel turns over it. All panels have the same voxels.
function follow(source) {
  for (const { nv } of views) {
    if (nv === source) continue;
    nv.scene.crosshairPos = [...source.scene.crosshairPos];
    nv.scene.pan2Dxyzmm = [...source.scene.pan2Dxyzmm];
    nv.drawScene();
  }
  tell(source);
}

// The array is stored in RAS order, so that a voxel of the crosshair is one of the array.
function tell(source) {
  const [x, y, z] = source.frac2vox(source.scene.crosshairPos);
  const mm = source.frac2mm(source.scene.crosshairPos, 0, true);
  const [r, a, s] = [mm[0], mm[1], mm[2]].map(v => Math.abs(v).toFixed(1));
  const on = data.planes.filter(plane => [x, y, z][plane.axis] === plane.index).map(plane => plane.name);
  const sides = `${mm[0] < 0 ? "L" : "R"} ${r}, ${mm[1] < 0 ? "P" : "A"} ${a}, ${mm[2] < 0 ? "I" : "S"} ${s} mm`;
  const known = !data.planes.length ? "" : on.length ? ` — on the given slice ${on.join(", ")}` : " — not on a given slice";
  document.getElementById("place").textContent = `${sides} (voxel ${x}, ${y}, ${z})${known}`;
  mark(on.length > 0);
  for (const { nv, value } of views) value.textContent = ` ${number(nv.volumes[0].getValue(x, y, z))}`;
}

function mark(seen) {
  const wanted = document.getElementById("show").checked ? (seen ? SEEN : MARKED) : 0;
  if (!data.given || wanted === opacity) return;
  opacity = wanted;
  for (const { nv } of views) nv.setOpacity(1, opacity);
}

function go(plane) {
  for (const { nv } of views) {
    nv.scene.crosshairPos[plane.axis] = (plane.index + 0.5) / nv.volumes[0].dimsRAS[plane.axis + 1];
    nv.drawScene();
  }
  tell(views[0].nv);
}

function controls() {
  const given = document.getElementById("given");
  if (data.planes.length) given.append("Given: ");
  for (const plane of data.planes) element("button", "", plane.name, given).onclick = () => go(plane);
  const show = document.getElementById("show");
  show.parentElement.hidden = !data.given;
  show.onchange = () => tell(views[0].nv);
}

async function start() {
  for (const panel of data.panels) await open(panel);
  controls();
  if (data.planes.length) go(data.planes[Math.floor(data.planes.length / 2)]);
  else tell(views[0].nv);
}

window.viewer = { views, go, ready: start() };
window.viewer.ready.catch(error => {
  const text = `The viewer could not start: ${error.message}. It needs WebGL 2.`;
  element("p", "", text, document.querySelector("header")).id = "failed";
});
