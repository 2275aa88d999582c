"""What methods that train a network share round the loop (loop.py): their core, a training that several entries take part in,
held-out loss, and weights as arrays and back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from xdiff import team
from xdiff.checkpoint import HISTORY, Tensors, keep_once
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.local import Core
from xdiff.local_fit import fit_core
from xdiff.loop import TrainingSettings

PREFIX = "network."
AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


class HeldOut:
    """Of a training problem (loop.Problem): fixed batches of validation subjects, none where there are none."""

    held_out: list[Any]

    def held_out_loss(self, network: nn.Module) -> float:
        """Mean loss on them, each with noise of its own that stays; nan where there are none."""
        with torch.no_grad():
            losses = [self.loss(network, b, torch.Generator().manual_seed(i)).item() for i, b in enumerate(self.held_out)]
        return float(np.mean(losses)) if losses else float("nan")


def start_of(store: Store, split: Split, settings: TrainingSettings, folder: Path) -> tuple[Split, Core]:
    """The patients that the settings ask for, and the core fitted to them (kept in `folder`) with the base they name."""
    split = split.with_training(settings.patients)
    return split, replace(fit_core(store, split, settings.core, folder), base=settings.base)


def shared_training(name: str, workdir: Path, make: Callable[[Path], Tensors], together: bool = True) -> Tensors:
    """What `make` trains in a folder of checkpoints, kept as `name` beside the weights: whichever entry comes first trains, the
    others take what is there, its history too. together: see keep_once."""
    folder = workdir.parents[1]
    checkpoints = folder / f"{name}.checkpoints"

    def made() -> Tensors:
        checkpoints.mkdir(parents=True, exist_ok=True)
        return make(checkpoints)

    tensors = keep_once(folder / name, made, together)
    if team.is_first() and (checkpoints / HISTORY).exists():
        shutil.copyfile(checkpoints / HISTORY, workdir / HISTORY)
    return tensors


def network_tensors(weights: Mapping[str, Tensor]) -> Tensors:
    """Weights of a network as arrays to keep."""
    return {f"{PREFIX}{name}": value.cpu().numpy() for name, value in weights.items()}


def restored(network: AnyNetwork, tensors: Tensors) -> AnyNetwork:
    """The network with the weights that `network_tensors` kept, ready to use."""
    network.load_state_dict({n.removeprefix(PREFIX): torch.from_numpy(a) for n, a in tensors.items() if n.startswith(PREFIX)})
    return network.eval()
