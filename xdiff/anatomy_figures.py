"""The figures `anatomy` and `anatomy_vs_k`: what bodies measure beside what the real ones do, and how far off that is."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xdiff import anatomy
from xdiff.anatomy import KEYS, NAMES, TESTS_THE_CODE
from xdiff.captions import NothingToShow
from xdiff.drawing import STYLE, Look, k_axis, lines, looks, page, rows_of
from xdiff.layout import TRIVIAL, base_setting, chosen_ks, families, in_setting, row_labels, span
from xdiff.stats import ANATOMY, CONTROL, rows_among, summarise

SHOWN = ("body_volume_l", "fat_fraction", "spine_cobb_deg", "spine_kyphosis_deg", "spine_lordosis_deg", "spine_curvature_per_m")
_LINE = dict(color="black", linestyle="--", linewidth=1.0, marker="")
_CONTROL_NAME = "population mean: the control"


def _pairs(metrics: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """anatomy.pairs in the units that are printed, at the base setting of each family. Raises NothingToShow."""
    both = anatomy.pairs(metrics)
    both = both[both["metric"].isin(measures) & (both["K"] > 0)]
    if both.empty:
        raise NothingToShow("no bodies of which anatomy was measured beside the real ones")
    factor = both["metric"].map({metric: factor for metric, (_, _, factor) in NAMES.items()})
    scaled = both.assign(**{c: both[c] * factor for c in ("value", "truth", "difference")})
    return pd.concat([own[in_setting(own, base_setting(own))] for _, own in families(scaled)])


def _looks(rows: pd.DataFrame) -> Look:
    look = looks(rows)
    for key in [key for key in look if key[0] == CONTROL]:
        look[key] |= _LINE | dict(label=_CONTROL_NAME)
    return look


def _name(metric: str) -> str:
    return "{} ({})".format(*NAMES[metric])


# Error against K ------------------------------------------------------------------------------------------------------


def _errors(metrics: pd.DataFrame) -> pd.DataFrame:
    both = _pairs(metrics, ANATOMY)
    return summarise(both.assign(value=both["difference"].abs()), KEYS)


@mpl.rc_context(STYLE)
def errors_vs_k(metrics: pd.DataFrame) -> Figure:
    """Mean absolute error of every measure against the number of given slices, with the control's."""
    summary = _errors(metrics)
    look, parts = _looks(summary), list(families(summary))
    fig, blocks = page([title for title, _ in parts], [3.6] * len(parts), look)
    for block, (_, own) in zip(blocks, parts, strict=True):
        for ax, metric in zip(block.subplots(2, -(-len(ANATOMY) // 2)).flat, ANATOMY, strict=False):
            lines(ax, own[own["metric"] == metric], "K", look)
            k_axis(ax, sorted(own["K"].unique()))
            ax.set_title(_name(metric))
            ax.set_ylim(bottom=0)
        for row in block.axes[:: -(-len(ANATOMY) // 2)]:
            row.set_ylabel("mean absolute error")
    return fig


def errors_vs_k_caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure `anatomy_vs_k`."""
    summary = _errors(metrics)
    labels = row_labels(summary)
    parts = []
    for title, own in families(summary):
        k = int(own["K"].min())
        told = [_best_and_control(own[(own["K"] == k) & (own["metric"] == metric)], metric, labels) for metric in SHOWN]
        parts.append(f"{title}, K = {k}: {'; '.join(filter(None, told))}")
    return (
        "Mean absolute error of what is measured in generated bodies, against the number K of given slices. Dashed: the training "
        "subjects' mean for everybody, which knows nothing of the patient; what is not below it has not shown that it does. "
        f"Volumes without a body or a spine are left out, and counted in the tables. {TESTS_THE_CODE} Bars: 95 % bootstrap "
        f"interval over {span(summary['n'])} test patients. Best method and control: {'. '.join(parts)}."
    )


def _best_and_control(rows: pd.DataFrame, metric: str, labels: dict) -> str:
    methods, control = rows[rows["method"] != CONTROL], rows[rows["method"] == CONTROL]["mean"]
    if methods.empty:
        return ""
    best = methods.loc[methods["mean"].idxmin()]
    beside = f", control {control.iloc[0]:.2f}" if len(control) else ""
    return f"{_name(metric)} {labels[best['method'], best['estimate'], best['steps']]} {best['mean']:.2f}{beside}"


# Agreement ------------------------------------------------------------------------------------------------------------


def _agreement(metrics: pd.DataFrame) -> pd.DataFrame:
    """Pairs of one K per family, the last of chosen_ks; of trivial methods the gaussian alone, where there are others."""
    both = _pairs(metrics, SHOWN)
    both = pd.concat([own[own["K"] == chosen_ks(own)[-1]] for _, own in families(both)])
    plain = both["method"].isin([name for name in TRIVIAL if name != "gaussian"])
    return both[~plain] if (~plain & (both["method"] != CONTROL)).any() else both


@mpl.rc_context(STYLE)
def agreement(metrics: pd.DataFrame) -> Figure:
    """Every volume's measures against the real ones; below, their difference, with bias and limits of agreement at the right."""
    both = _agreement(metrics)
    patients = anatomy.by_patient(both)
    look, parts = _looks(both), list(families(both))
    half = -(-len(SHOWN) // 2)
    fig, blocks = page([f"{title}, K = {own['K'].iloc[0]}" for title, own in parts], [6.6] * len(parts), look)
    for block, (_, own) in zip(blocks, parts, strict=True):
        axes = block.subplots(4, half)
        for i, metric in enumerate(SHOWN):
            here = own[own["metric"] == metric]
            above, below = axes[2 * (i // half) : 2 * (i // half) + 2, i % half]
            if here.empty:
                above.set_visible(False)
                below.set_visible(False)
                continue
            _scatter(above, here, "value", look)
            _scatter(below, here, "difference", look)
            _limits(below, rows_among(patients, here, KEYS), look)
            above.set(title=_name(metric), ylabel="generated")
            below.set(xlabel="real", ylabel="generated - real")
    return fig


def _scatter(ax: Axes, here: pd.DataFrame, what: str, look: Look) -> None:
    """`what` of every volume against the truth; the control as the line that it is, and where it would be perfect in grey."""
    ends = np.array([here["truth"].min(), here["truth"].max()])
    ax.plot(ends, ends if what == "value" else 0 * ends, color="#bbbbbb", linewidth=0.8)
    for key, style in look.items():
        own = rows_of(here, key).sort_values("truth")
        if key[0] == CONTROL and len(own):
            ax.plot(own["truth"], own[what], **_LINE)
        elif len(own):
            ax.plot(own["truth"], own[what], **style | dict(linestyle="none", markersize=3, alpha=0.8))


def _limits(ax: Axes, here: pd.DataFrame, look: Look) -> None:
    """Bias and 95 % limits of agreement of every row, side by side to the right of the points; `here`: of anatomy.by_patient."""
    low, high = here["truth"].min(), here["truth"].max()
    step = 0.09 * ((high - low) or 1.0)
    rows = [(key, rows_of(here, key)) for key in look if key[0] != CONTROL]
    for i, (key, own) in enumerate((key, own) for key, own in rows if len(own)):
        bias = own["difference"].mean()
        lower, upper = np.nan_to_num(anatomy.limits(own), nan=bias)
        ends = [[bias - lower], [upper - bias]]
        ax.errorbar([high + (i + 1.5) * step], [bias], yerr=ends, elinewidth=0.9, **look[key] | dict(linestyle="none"))
    ax.axvline(high + 0.7 * step, color="#bbbbbb", linewidth=0.6)


def agreement_caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure `anatomy`."""
    both = _agreement(metrics)
    patients = both.groupby(["cohort", "grid"])["subject"].nunique()
    return (
        "What generated bodies measure against what the real ones do, and below, the difference (Bland and Altman's, against the "
        "truth, which is the reference; Krouwer 2008, Stat Med 27:778). Every mark is a volume. Grey: perfect. Dashed: the "
        "training subjects' mean for everybody, the control. At the right, each row's bias with its 95 % limits of agreement. "
        f"{span(patients)} test subjects. {TESTS_THE_CODE}"
    )
