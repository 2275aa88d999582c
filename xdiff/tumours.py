"""Is the tumour still there, and how much comes from the patient's own sections: numbers and tables, from the long table alone.

Masks are scored by xdiff/segment. Beside the methods stand `truth`, the segmenter on the real volumes: the ceiling; and
`mask_linear`, the given sections' true masks interpolated, without any image: the control.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from xdiff.config import BESIDE
from xdiff.layout import (
    Setting,
    base_setting,
    by_k,
    chosen_ks,
    difference_from,
    families,
    in_setting,
    k_name,
    method_rank,
    packed,
    row_labels,
    settings_in_order,
    span,
    table_of,
)
from xdiff.markup import Table
from xdiff.segment.regions import PARTS
from xdiff.stats import (
    POINT,
    ROW,
    is_curve,
    is_history,
    of_masks,
    one_step_count,
    paired_difference,
    paired_ratio,
    patient_values,
    summarise,
    without_ablations,
)

CEILING = "truth"
COLUMNS = [*POINT, *ROW, "region", "metric", "mean", "lo", "hi", "n", "volumes", "of_ceiling", "of_ceiling_lo", "of_ceiling_hi"]
SWAP_COLUMNS = [*POINT, *ROW, "region", "metric", "own", "swapped", "mean", "lo", "hi", "p", "n"]
SWAP = "swap"
UNSEEN = "_unseen"
LESIONS = ("lesion_seen", "lesion_unseen")
DENSE = "every_fifth"
_SHARE = {"of_ceiling": "mean", "of_ceiling_lo": "lo", "of_ceiling_hi": "hi"}


def numbers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every score of masks at every point, as COLUMNS, in the order of the tables; empty where nothing was segmented.

    Scores of whole volumes, and of single lesions (regions LESIONS) averaged over a patient's. mean, lo, hi: over n patients,
    with a 95 % bootstrap interval. of_ceiling: of `dice`, its ratio to the ceiling's, paired, with its interval.
    """
    masks = metrics[of_masks(metrics)]
    masks = masks[~is_curve(masks) | (masks["x_name"] == "lesion")]
    if masks.empty:
        return pd.DataFrame(columns=COLUMNS)
    keys = [*POINT, *ROW, "region", "metric"]
    dice = masks[masks["metric"] == "dice"]
    shares = pd.DataFrame(_shares(patient_values(dice, keys)), columns=[*keys, *_SHARE])
    found = summarise(masks, keys).merge(shares, on=keys, how="left")
    order = found["method"].map(method_rank)
    by = [*POINT[:-1], "order", *ROW, "region", "metric", "K"]
    return found.assign(order=order).sort_values(by, ignore_index=True)[COLUMNS]


def _shares(values: pd.DataFrame) -> Iterator[tuple]:
    """Keys and paired ratio to the ceiling of every row but the ceiling's own."""
    for point, here in values.groupby([*POINT, "region"]):
        ceiling = here[here["method"] == CEILING].set_index("patient")["value"]
        for row, own in here[here["method"] != CEILING].groupby(ROW) if len(ceiling) else ():
            ratio = paired_ratio(own.set_index("patient")["value"], ceiling)
            yield (*point[:-1], *row, point[-1], "dice", *ratio[:3])


def swap_numbers(metrics: pd.DataFrame) -> pd.DataFrame:
    """What own sections are worth: every score given the patient's sections (policy uniform) beside that given another patient's
    at the same places (policy swap), as SWAP_COLUMNS; empty where nothing was swapped.

    PSNR in unseen (dB), and Dice of the regions of a tumour in what was not given. mean, lo, hi: own minus swapped, paired over n
    patients, with a 95 % bootstrap interval; p: Wilcoxon signed rank, two-sided.
    """
    wanted = (metrics["metric"] == "psnr") & (metrics["region"] == "unseen")
    wanted |= (metrics["metric"] == "dice") & metrics["region"].str.endswith(UNSEEN)
    wanted &= ~is_curve(metrics) & metrics["policy"].isin(["uniform", SWAP]) & ~metrics["method"].isin(BESIDE)
    place = [c for c in POINT if c != "policy"]
    values = patient_values(metrics[wanted & ~is_history(metrics)], [*place, *ROW, "region", "metric", "policy"])
    rows = []
    for key, here in values.groupby([*place, *ROW, "region", "metric"]):
        own, other = (here[here["policy"] == name].set_index("patient")["value"] for name in ("uniform", SWAP))
        if len(own) and len(other):
            named = dict(zip([*place, *ROW, "region", "metric"], key, strict=True))
            difference = paired_difference(own, other)._asdict()
            rows.append({**named, "policy": SWAP, "own": own.mean(), "swapped": other.mean(), **difference})
    table = pd.DataFrame(rows, columns=SWAP_COLUMNS)
    by = [*POINT[:-1], "order", *ROW, "metric", "region", "K"]
    return table.assign(order=table["method"].map(method_rank)).sort_values(by, ignore_index=True)[SWAP_COLUMNS]


def regions_in(rows: pd.DataFrame) -> list[str]:
    """Regions of a tumour that were scored, the whole one first: WT, TC, ET, or others by name."""
    names = {name.removesuffix(UNSEEN) for name in rows.loc[rows["metric"] == "dice", "region"]}
    order = list(PARTS)
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


# --- tables to read


def tables(found: pd.DataFrame, swapped: pd.DataFrame) -> dict[str, list[Table]]:
    """Family -> its tables, from what tumours.tsv and swap.tsv hold; ablations left out, one number of steps per estimate."""
    out: dict[str, list[Table]] = {}
    if len(found):
        shown = without_ablations(one_step_count(found))
        labels = row_labels(shown)
        for title, own in families(shown):
            out[title] = _of_family(own, labels)
    if len(swapped):
        shown = without_ablations(one_step_count(swapped))
        for title, own in families(shown):
            out.setdefault(title, []).extend(swap_tables(own, row_labels(shown)))
    return out


def _of_family(own: pd.DataFrame, labels: dict) -> list[Table]:
    base = base_setting(own)
    here = own[in_setting(own, base)]
    first, *others = regions_in(own)
    made = [_dice(here, name, base, labels) for name in (first + UNSEEN, first) if (here["region"] == name).any()]
    made += _other_regions(here, others, base, labels)
    made += [_lesionwise(here, first, base, labels), _seen_and_unseen(here, base, labels)]
    return [table for table in (*made, *_policies(own, first, base, labels), *_dense(own, first, labels)) if table]


def _dice(here: pd.DataFrame, region: str, base: Setting, labels: dict) -> Table:
    rows = here[(here["region"] == region) & (here["metric"] == "dice")]
    where = "in what was not given" if region.endswith(UNSEEN) else "in the whole volume, given sections included"
    caption = (
        f"Voxel Dice of {region.removesuffix(UNSEEN)} {where}: nnU-Net, trained on real volumes of training patients, on every "
        f"method's volumes. Mean over {span(rows['n'])} test patients with the 95 % bootstrap interval; {base}. {_BESIDE}"
    )
    return table_of(f"Dice of {region}", caption, by_k(rows), labels)


_BESIDE = "truth: on the real volumes, the ceiling. mask_linear: the given sections' true masks interpolated, the control."


def _other_regions(here: pd.DataFrame, regions: Sequence[str], base: Setting, labels: dict) -> list[Table]:
    rows = here[here["metric"] == "dice"]
    groups = [by_k(rows[rows["region"] == name + UNSEEN], name) for name in regions]
    caption = f"As above, in what was not given; {base}. {_BESIDE}"
    return [table_of("Dice of parts", caption, columns, labels, interval=False) for columns in packed([g for g in groups if g])]


def _lesionwise(here: pd.DataFrame, region: str, base: Setting, labels: dict) -> Table | None:
    rows = here[here["region"] == region]
    wanted = {"lesion_dice": "Dice", "lesion_hd95": "HD95 (mm)", "recall": "recall", "false_lesions": "false lesions"}
    columns = {(k_name(k), name): _at(rows, metric, k) for k in chosen_ks(rows) for metric, name in wanted.items()}
    if all(part.empty for part in columns.values()):
        return None
    caption = (
        f"Lesions of {region} by the definition of BraTS 2023: mean Dice and HD95 over lesions, missed and false ones counted as "
        f"0 and 374 mm; share of the lesions found at all; false lesions per volume; {base}. {_BESIDE}"
    )
    lowest = [wanted[metric] for metric in ("lesion_hd95", "false_lesions")]
    return table_of(f"Lesion by lesion, {region}", caption, columns, labels, interval=False, lowest=lowest)


def _at(rows: pd.DataFrame, metric: str, k: int) -> pd.DataFrame:
    return rows[(rows["metric"] == metric) & (rows["K"] == k)]


def _seen_and_unseen(here: pd.DataFrame, base: Setting, labels: dict) -> Table | None:
    rows = here[here["metric"] == "found"]
    seen, unseen = (by_k(rows[rows["region"] == name], name.removeprefix("lesion_")) for name in LESIONS)
    columns = seen | unseen
    if not columns:
        return None
    caption = (
        f"Share of the lesions that are found at all: those that a given section crosses, and those that none does (patients who "
        f"have such lesions alone); {base}. {_BESIDE}"
    )
    return table_of("Lesions seen and unseen", caption, columns, labels, interval=False)


def _policies(own: pd.DataFrame, region: str, base: Setting, labels: dict) -> list[Table]:
    rows = own[(own["region"] == region + UNSEEN) & (own["metric"] == "dice") & ~own["policy"].isin([DENSE, SWAP])]
    others = [s for s in settings_in_order(rows, base) if s != base] if len(rows) else []
    groups = [by_k(rows[in_setting(rows, setting)], difference_from(setting, base)) for setting in others]
    caption = (
        f"Mean Dice of {region} in what was not given; as the table of {region}{UNSEEN} ({base}) but for what the heading says."
    )
    title = f"Dice of {region}{UNSEEN}, other policies"
    return [table_of(title, caption, columns, labels, interval=False) for columns in packed(groups)]


def _dense(own: pd.DataFrame, region: str, labels: dict) -> list[Table]:
    """Every fifth section given: the setting in which most of the tumour is seen."""
    rows = own[(own["region"] == region + UNSEEN) & (own["metric"] == "dice") & (own["policy"] == DENSE)]
    if rows.empty:
        return []
    shares = rows.drop(columns=["mean", "lo", "hi"]).rename(columns=_SHARE).dropna(subset=["mean"])
    caption = (
        f"Every fifth section of the foreground given: Dice of {region} in the other four, and its share of the ceiling's, "
        f"paired, with 95 % bootstrap intervals over {span(rows['n'])} test patients. {_BESIDE}"
    )
    columns = {("", "Dice"): rows, ("", "of the ceiling"): shares}
    return [table_of(f"Dice of {region}{UNSEEN}, every fifth section given", caption, columns, labels)]


def swap_tables(own: pd.DataFrame, labels: dict) -> list[Table]:
    """What a method gains from the patient's own sections over another patient's, by metric."""
    out = []
    for (metric, region), rows in own.groupby(["metric", "region"], sort=False):
        if metric == "dice" and region != regions_in(own)[0] + UNSEEN:
            continue
        name = "PSNR in unseen (dB)" if metric == "psnr" else f"Dice of {region}"
        gained = by_k(rows, "own minus swapped")
        columns = by_k(rows.assign(mean=rows["swapped"], lo=float("nan"), hi=float("nan")), "swapped") | gained
        worst = ", ".join(f"{k}: {part['p'].min():.2g} to {part['p'].max():.2g}" for (_, k), part in gained.items())
        caption = (
            f"{name} given another test patient's sections at the same places, and what the patient's own add: paired over "
            f"{span(rows['n'])} patients, with the 95 % bootstrap interval. Wilcoxon p, two-sided, {worst}; each is in swap.tsv."
        )
        out.append(table_of(f"How much comes from the patient's own sections: {name}", caption, columns, labels))
    return out
