"""The frozen rows that every SAE of the comparison learns from, and the one way in which all of them are measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sae.activations.synthetic import SyntheticConfig, SyntheticSource
from sae.codes import DenseCodes
from sae.evaluation.recovery import Recovery

WORLD = SyntheticConfig()  # its defaults are this benchmark's world; the results name every number of it
ROWS, HELD_OUT = 1_000_000, 50_000
_PIECE = 4000


class Frozen:
    """The files of the benchmark, made once.

    Args:
        folder: where they lie or will lie.
        rows: how many to train on.
        held_out: how many to measure on.
        world: what they are made of.
    """

    def __init__(self, folder: Path, rows: int = ROWS, held_out: int = HELD_OUT, world: SyntheticConfig = WORLD) -> None:
        self.folder, self.rows_count, self.world = folder, rows, world
        self.source = SyntheticSource(world)
        self.rows, self.held_out = folder / "rows.safetensors", folder / "held_out.safetensors"
        wanted = {"world": world.model_dump(), "rows": rows, "held_out": held_out}
        about = folder / "about.json"
        known = json.loads(about.read_text()) if about.exists() else {}
        if {name: known.get(name) for name in wanted} != wanted:
            folder.mkdir(parents=True, exist_ok=True)
            about.unlink(missing_ok=True)
            x_ND = torch.empty(rows, self.d_in)
            for number, piece_ND in enumerate(x_ND.split(_PIECE)):
                piece_ND.copy_(self.source.sample(len(piece_ND), 0, f"frozen {number}").x_BD)
            save_file({"x": x_ND}, self.rows)
            truth = self.source.sample(held_out, 0, "held out")
            save_file({"x": truth.x_BD, "magnitude": truth.magnitude_BG}, self.held_out)
            known = wanted | {"sha256": hashlib.sha256(x_ND.numpy().data).hexdigest()}
            about.write_text(json.dumps(known, indent=1))  # last: without it the files count as unfinished
        self.sha256: str = known["sha256"]

    @property
    def d_in(self) -> int:
        return sum(self.world.widths)

    def measure(self, out: Path) -> dict[str, Any]:
        """Figures of the codes [N, F], reconstruction [N, D] and decoder [F, D] in `out`, over the held-out rows."""
        made, truth = load_file(out), load_file(self.held_out)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in made.values()):
            return {"diverged": True}
        recovery = Recovery(self.source.dictionary_GD, made["decoder"], self.source.bias_D)
        recovery.update(DenseCodes(made["codes"]), truth["magnitude"], truth["x"], made["reconstruction"])
        return recovery.figures()
