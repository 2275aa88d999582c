"""How results are named, grouped and laid out in the tables to read: labels, families, settings, one Table each.

Works on the numbers of main.tsv and paired.tsv, so that the report page lays them out again without the raw metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from xdiff.config import BESIDE
from xdiff.markup import DASH, Cell, Table
from xdiff.stats import ROW, base_of, one_step_count, rows_among, without_ablations

TRIVIAL = ["zeros", "mean_template", "nearest", "linear", "cubic", "retrieval", "gaussian"]
METHODS = [
    *("population_mean", *TRIVIAL, "gaussian_posed", "gaussian_local", "gaussian_local_posed"),
    *("unet", "unet2d", "mednerf", "coordinate_mlp", "tpdm", "score", "flow3d", "xdiff_paper", "xdiff", "mask_linear", "truth"),
]
REGION_NOTES = {
    "unseen": "squared error over all non-given voxels per non-given foreground voxel (the headline)",
    "unseen_masked": "non-given foreground voxels only",
    "grid": "whole array, given slices and background included",
}
GAIN_OVER = {"gaussian": "the gaussian row", "gaussian_local": "gaussian_local"}  # reference in paired.tsv: its name in titles
COST_NOTES = {  # column of main.tsv: its heading, and what it is
    "seconds": ("s / volume", "s / volume: median time"),
    "evaluations": ("sections", "sections: evaluated by a network per volume, median over volumes and K"),
    "peak_mib": ("MiB", "MiB: largest memory of the process that made the volumes, libraries included, median"),
}
Columns = dict[tuple[str, str], pd.DataFrame]  # (group, name) -> the rows of a column
_WIDEST = 8  # columns of numbers that still fit a page


def method_rank(method: str) -> float:
    """Position in the canonical order; ablations come after their base, unknown methods after xdiff, before BESIDE."""
    if base_of(method):
        return method_rank(base_of(method)) + 0.25
    return METHODS.index(method) if method in METHODS else len(METHODS) - len(BESIDE) - 0.5


def is_reference(rows: pd.DataFrame) -> pd.Series:
    """True for what others are compared to: the trivial methods' mean, not samples of the gaussian row."""
    return rows["method"].isin(TRIVIAL) & (rows["estimate"] == "mean")


def row_labels(rows: pd.DataFrame) -> dict[tuple[str, str, int], str]:
    """(method, estimate, steps) -> label, in table order: `gaussian`, `xdiff (mean)`, `xdiff (sample, 8 steps)`.

    A method that only ever gives a mean in one way keeps its bare name.
    """
    found = rows[ROW].drop_duplicates()
    rank = {"mean": 0, "sample": 1}
    keys = sorted(map(tuple, found.to_numpy()), key=lambda k: (method_rank(k[0]), k[0], rank.get(k[1], 2), k[1], k[2]))
    labels = {}
    for method, estimate, steps in keys:
        own = [k for k in keys if k[0] == method]
        same_estimate = [k for k in own if k[1] == estimate]
        counted = f", {steps} step{'s' * (steps != 1)}" if steps != 1 or len(same_estimate) > 1 else ""
        bare = len(own) == 1 and estimate == "mean"
        labels[method, estimate, steps] = method if bare else f"{method} ({estimate.replace('_', ' ')}{counted})"
    return labels


def base_grid(grid: str) -> str:
    """`2mm-scanner` and `2mm` are the same grid in two frames."""
    return grid.removesuffix("-scanner")


class Setting(NamedTuple):
    """One way of asking, apart from K."""

    frame: str
    axis: str
    policy: str
    thickness_mm: float
    contrasts_given: str = "all"

    def __str__(self) -> str:
        thickness = f"{self.thickness_mm:g} mm thick" if self.thickness_mm else "thin"
        given = "" if self.contrasts_given == "all" else f", {_given(self.contrasts_given)}"
        return f"{self.axis}, {self.policy}, {self.frame}, {thickness}{given}"


def difference_from(setting: Setting, base: Setting) -> str:
    """What sets one setting apart from the base, in words; "" where nothing does."""
    words = {"thickness_mm": "{:g} mm thick".format, "contrasts_given": _given}
    own, other = setting._asdict(), base._asdict()
    return ", ".join(words.get(name, str)(value) for name, value in own.items() if value != other[name])


def _given(contrasts: str) -> str:
    return "all contrasts given" if contrasts == "all" else f"given {contrasts} alone"


def settings_in_order(rows: pd.DataFrame, base: Setting) -> list[Setting]:
    """Every setting of `rows`: the base, then other axes, policies, frames, thicknesses, given contrasts."""
    found = {Setting(*key) for key in rows[list(Setting._fields)].itertuples(index=False, name=None)}
    apart = ("contrasts_given", "thickness_mm", "frame", "policy", "axis")  # what differs rarest comes last
    return sorted(found, key=lambda s: ([getattr(s, name) != getattr(base, name) for name in apart], s))


def base_setting(rows: pd.DataFrame) -> Setting:
    """The setting of the main table: all contrasts given, centred, axial, uniform, thin, or the first present of each in this
    order."""

    def prefer(column: str, value: str, among: pd.DataFrame) -> str:
        present = sorted(among[column].unique())
        return value if value in present else present[0]

    given = prefer("contrasts_given", "all", rows)
    rows = rows[rows["contrasts_given"] == given]
    frame = prefer("frame", "centred", rows)
    rows = rows[rows["frame"] == frame]
    policy = prefer("policy", "uniform", rows)
    rows = rows[rows["policy"] == policy]
    axis = prefer("axis", "axial", rows)
    return Setting(frame, axis, policy, float(rows.loc[rows["axis"] == axis, "thickness_mm"].min()), given)


def in_setting(rows: pd.DataFrame, setting: Setting) -> pd.Series:
    """True for the rows of that setting, any K."""
    mask = rows["thickness_mm"] == setting.thickness_mm
    for name in ("frame", "axis", "policy", "contrasts_given"):
        mask &= rows[name] == getattr(setting, name)
    return mask


def families(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(title, rows) of every (trained_on, cohort, grid in either frame), those trained on their own cohort first."""
    keyed = rows.assign(base=rows["grid"].map(base_grid), foreign=rows["trained_on"] != rows["cohort"])
    for (foreign, trained_on, cohort, base), own in keyed.groupby(["foreign", "trained_on", "cohort", "base"]):
        title = f"{cohort}, grid {base}" + (f", trained on {trained_on}" if foreign else "")
        yield title, own.drop(columns=["base", "foreign"])


# --- layout


def layout(numbers: pd.DataFrame, paired: pd.DataFrame) -> list[tuple[str, list[Table]]]:
    """The tables to read, by family: PSNR against K in three regions, gains over two references, the other settings.

    `numbers` and `paired`: as in main.tsv and paired.tsv, of which every estimate keeps one number of steps; ablations are left
    out.
    Returns [(title of the family, its tables)].
    """
    numbers = without_ablations(one_step_count(numbers))
    labels = row_labels(numbers)
    psnr = numbers[numbers["metric"] == "psnr"]
    pairs = dict(families(rows_among(paired, numbers, ["trained_on", "cohort", "grid", *ROW])))
    out = []
    for title, family in families(psnr):
        base = base_setting(family)
        present = [region for region in REGION_NOTES if region in set(family["region"])]
        tables = [main_table(family, region, base, labels) for region in present]
        gains = [gain_table(pairs[title], base, labels, name) for name in GAIN_OVER] if title in pairs else []
        out.append((title, [*tables, *filter(None, gains), *setting_tables(family, base, labels)]))
    return out


def k_name(k: int) -> str:
    """Heading of a number of given sections; 0 where the policy gives as many as there is room for."""
    return f"K = {k}" if k else "any K"


def table_of(
    title: str,
    caption: str,
    columns: Columns,
    labels: dict,
    interval: bool = True,
    lowest: Sequence[str] = (),
    ranked: bool = True,
) -> Table:
    """Methods x `columns`, (group, name) -> rows with ROW, mean, lo and hi; a method without any row is left out.

    lowest: names of columns whose lowest number is the best; ranked: whether there is a best at all.
    """
    used = pd.concat(columns.values())
    present = [key for key in labels if key in set(map(tuple, used[ROW].to_numpy()))]
    cells = [_column(part, present, 2, interval, key[1] in lowest) for key, part in columns.items()]
    cells = cells if ranked else [[cell._replace(best=False) for cell in column] for column in cells]
    rows = zip(present, zip(*cells, strict=True), strict=True)
    return Table(title, caption, tuple(columns), tuple((labels[key], row) for key, row in rows))


def chosen_ks(curves: pd.DataFrame) -> list[int]:
    """K = 1 and 5 where there are such rows, else the first two K."""
    present = sorted(int(k) for k in curves["K"].unique())
    return [k for k in (1, 5) if k in present] or present[:2]


def by_k(rows: pd.DataFrame, group: str = "") -> Columns:
    """The columns of a table: one per K of `rows`, under the heading `group`."""
    return {(group, k_name(k)): rows[rows["K"] == k] for k in sorted(rows["K"].unique())}


def main_table(family: pd.DataFrame, region: str, base: Setting, labels: dict) -> Table:
    """Methods x K of the PSNR in one region; at K = 1 the other frame stands beside the base frame where it exists."""
    rows = family[(family["region"] == region)]
    here = rows[in_setting(rows, base)]
    columns = by_k(here)
    first = ("", "K = 1")
    for frame in sorted(set(rows["frame"]) - {base.frame}):
        other = rows[in_setting(rows, base._replace(frame=frame)) & (rows["K"] == 1)]
        if len(other) and first in columns:
            rest = {k: v for k, v in columns.items() if k != first}
            columns = {("", f"K = 1, {base.frame}"): columns[first], ("", f"K = 1, {frame}"): other} | rest
    present = [key for key in labels if key in set(map(tuple, here[ROW].to_numpy()))]
    numbers = [_column(part, present, 2, interval=True) for part in columns.values()]
    times, devices = seconds_cells(here, present)
    used = {name: cost_cells(here, present, name) for name in ("evaluations", "peak_mib")}
    used = {name: column for name, column in used.items() if any(cell.text != DASH for cell in column)}
    cells = zip(*numbers, times, *used.values(), strict=True)
    told = "".join(f" {COST_NOTES[name][1]}." for name in used)
    caption = (
        f"PSNR (dB), {REGION_NOTES[region]}. Mean over {span(here['n'])} test patients ({span(here['volumes'])} "
        f"volumes), split {_splits(here['split'])}, with the 95 % bootstrap interval over patients; {base}. Best of "
        f"each column in bold; {DASH}: not defined for this K, or too few sections left unseen. s / volume: median "
        f"time on {devices}.{told}"
    )
    body = tuple((labels[k], c) for k, c in zip(present, cells, strict=True))
    return Table(f"PSNR in {region}", caption, (*columns, *(("", COST_NOTES[name][0]) for name in ("seconds", *used))), body)


def gain_table(paired: pd.DataFrame, base: Setting, labels: dict, reference: str = "gaussian") -> Table | None:
    """What every method that is not trivial gains on a reference in `unseen`; None where there is no such pair.

    `paired`: the rows of paired.tsv of one family; `reference`: one of GAIN_OVER.
    """
    wanted = (paired["reference"] == reference) & (paired["region"] == "unseen") & ~paired["method"].isin(TRIVIAL)
    here = paired[wanted & in_setting(paired, base)]
    if here.empty:
        return None
    caption = (
        f"PSNR in unseen minus that of {GAIN_OVER[reference]} (dB), paired over {span(here['n'])} test patients, with the "
        f"95 % bootstrap interval; {base}. Wilcoxon p values are in paired.tsv."
    )
    return table_of(f"Gain over {GAIN_OVER[reference]}", caption, by_k(here), labels)


def setting_tables(family: pd.DataFrame, base: Setting, labels: dict) -> list[Table]:
    """Every other axis, policy, frame, thickness or choice of contrasts, mean PSNR in unseen_masked; cut to fit a page."""
    rows = family[family["region"] == "unseen_masked"]
    groups = []
    for setting in [s for s in settings_in_order(rows, base) if s != base]:
        part = rows[in_setting(rows, setting)]
        groups.append(by_k(part, difference_from(setting, base)))
    out = []
    for columns in packed(groups):
        used = pd.concat(columns.values())
        caption = (
            f"Mean PSNR (dB) in unseen_masked over {span(used['n'])} test patients; as the main table ({base}) but for "
            "what the heading says. Best of each column in bold."
        )
        out.append(table_of("Other axes, policies and frames", caption, columns, labels, interval=False))
    return out


def packed(groups: list[Columns]) -> Iterator[Columns]:
    """Merge groups of columns, in order, into as few tables of at most _WIDEST columns as can be."""
    page: Columns = {}
    for group in groups:
        if page and len(page) + len(group) > _WIDEST:
            yield page
            page = {}
        page = page | group
    if page:
        yield page


def _column(part: pd.DataFrame, keys: Sequence[tuple], decimals: int, interval: bool, lowest: bool = False) -> list[Cell]:
    """The cells of one column, a dash where a row is missing; every row that prints as the maximum (minimum) is best."""
    found = {tuple(r[:3]): r[3:] for r in part[[*ROW, "mean", "lo", "hi"]].itertuples(index=False, name=None)}
    if len(found) != len(part):
        raise ValueError(f"{len(part)} numbers for {len(found)} rows, expected one each: {part.iloc[0].to_dict()}")
    rivals = [mean for key, (mean, _, _) in found.items() if key[0] not in BESIDE and np.isfinite(mean)]
    top = f"{(min if lowest else max)(rivals):.{decimals}f}" if len(rivals) > 1 else None
    cells = []
    for key in keys:
        if key not in found:
            cells.append(Cell(DASH))
            continue
        text, lo, hi = (f"{round(v, decimals) + 0.0:.{decimals}f}" for v in found[key])  # + 0.0: no "-0.00"
        ends = (lo, hi) if interval and lo != "nan" else ("", "")  # no interval from one patient
        cells.append(Cell(text, *ends, best=key[0] not in BESIDE and text == top))
    return cells


def seconds_cells(here: pd.DataFrame, keys: Sequence[tuple]) -> tuple[list[Cell], str]:
    """The column of times, and the devices they were taken on; letters tell them apart where there are several.

    `here`: rows with the columns ROW, seconds and device.
    """
    devices = sorted(set(here["device"]) - {""})
    letters = {d: f" ({chr(ord('a') + i)})" if len(devices) > 1 else "" for i, d in enumerate(devices)}
    cells = []
    for key in keys:
        own = here[(here[ROW] == list(key)).all(axis=1)]
        seconds, device = own["seconds"].median(), sorted(set(own["device"]))
        known = np.isfinite(seconds) and len(device) == 1 and device[0] in letters
        cells.append(Cell(_duration(seconds) + letters[device[0]]) if known else Cell(DASH))
    return cells, "; ".join(f"{d}{letters[d]}" for d in devices) or "an unnamed device"


def cost_cells(here: pd.DataFrame, keys: Sequence[tuple], name: str) -> list[Cell]:
    """The column of one cost that is not a time, whole numbers; a dash where a row has none."""
    costs = [here.loc[(here[ROW] == list(key)).all(axis=1), name].median() for key in keys]
    return [Cell(f"{cost:.0f}") if np.isfinite(cost) else Cell(DASH) for cost in costs]


def _duration(seconds: float) -> str:
    return "<0.001" if seconds < 0.001 else f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"


def span(counts: pd.Series) -> str:
    """`12`, or `11 to 12` where not all are equal."""
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def _splits(splits: pd.Series) -> str:
    """The first twelve digits of every split hash: enough to find it, short enough to print."""
    return ", ".join(sorted({part[:12] for joined in splits for part in joined.split(" + ")}))
