"""Sequences go through the subject; the rows that are worth keeping come out.

Shapes: S sequences of C tokens, n rows, D dimensions of an activation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sae.activations.hook_points import find_hook_points
from sae.activations.layout import Numbers
from sae.activations.model import input_device, read_activations
from sae.config import Failure
from sae.corpus.tokens import TokenSet

FILTER_SEQUENCES = 64  # that the median norm is taken from


class Rows(NamedTuple):
    """Rows of some sequences.

    Attributes:
        numbers: of the rows within the split.
        activations: [n, D] by hook point, where the model left them.
        origin: `document`, `position` and `token`, [n] each.
    """

    numbers: Numbers
    activations: dict[str, Tensor]
    origin: dict[str, Tensor]


class Reader:
    """Reads the activations of one split, a batch of sequences at a time.

    Args:
        model: the subject.
        tokens: the split's sequences.
        hook_points: names and patterns.
        whole: keep every position, so that rows are whole sequences; else special tokens are left out.
        autocast: run the model in this type where torch thinks that it is safe.
        outlier_norm: leave out rows whose norm at any hook point is more than so many times the median.
        batch_size: sequences in one forward pass, where this class chooses them.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: TokenSet,
        hook_points: Sequence[str],
        *,
        whole: bool,
        autocast: Literal["bfloat16", "float16"] | None = None,
        outlier_norm: float | None = None,
        batch_size: int = 32,
    ) -> None:
        self.model, self.tokens, self.autocast, self.batch_size = model, tokens, autocast, batch_size
        self.points = find_hook_points(model, hook_points)
        self.device = input_device(model)
        self.whole = whole
        # Nothing of the size of the split is made here, but one number a sequence: the tokens stay in their file.
        counts = [self.kept(sequences_S).sum(1) for sequences_S in torch.arange(len(tokens.tokens_SC)).split(4096)]
        self.first_row_S = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)])
        self.widths = {name: x_SCD.shape[-1] for name, x_SCD in self._forward(torch.arange(1)).items()}
        self.limits: dict[str, float] = {}
        if outlier_norm is not None:
            self.limits = self._limits(outlier_norm)

    @property
    def rows(self) -> int:
        """Rows of the split, those that the filter will drop included."""
        return int(self.first_row_S[-1])

    def kept(self, sequences_S: Tensor) -> Tensor:
        """Which positions [S, C] of these sequences become rows."""
        document_SC = self.tokens.document_SC[sequences_S]
        return torch.ones_like(document_SC, dtype=torch.bool) if self.whole else document_SC >= 0

    def read(self, sequences_S: Tensor) -> Rows:
        """The rows of these sequences, by number, in order."""
        kept_SC = self.kept(sequences_S)
        activations = {name: x_SCD[kept_SC.to(x_SCD.device)] for name, x_SCD in self._forward(sequences_S).items()}
        here = self.tokens
        columns = {"document": here.document_SC, "position": here.position_SC, "token": here.tokens_SC}
        origin = {name: column_SC[sequences_S][kept_SC] for name, column_SC in columns.items()}
        first, stop = self.first_row_S[sequences_S], self.first_row_S[sequences_S + 1]
        numbers = torch.cat([torch.arange(int(a), int(b)) for a, b in zip(first, stop, strict=True)])
        if self.limits:
            inside = torch.ones(len(numbers), dtype=torch.bool)
            for name, limit in self.limits.items():
                inside &= (torch.linalg.vector_norm(activations[name].float(), dim=-1) <= limit).cpu()
            numbers = numbers[inside]
            activations = {name: x[inside.to(x.device)] for name, x in activations.items()}
            origin = {name: column[inside] for name, column in origin.items()}
        return Rows(numbers.numpy(), activations, origin)

    def _forward(self, sequences_S: Tensor) -> dict[str, Tensor]:
        context = (
            contextlib.nullcontext()
            if self.autocast is None
            else torch.autocast(self.device.type, dtype=getattr(torch, self.autocast))
        )
        with memory_errors("activations.batch_size", len(sequences_S)), context:
            tokens_SC, lengths_S = self.tokens.tokens_SC[sequences_S].to(self.device), self.tokens.lengths_S
            attention_SC = None
            if lengths_S is not None:
                attention_SC = (torch.arange(tokens_SC.shape[1]) < lengths_S[sequences_S, None]).to(self.device)
            seen = read_activations(self.model, self.points, tokens_SC, attention_SC)
        return {point.name: seen[point.name] for point in self.points}  # in their order, not in that of the model

    def _limits(self, multiple: float) -> dict[str, float]:
        """The largest norm that is kept at each hook point, from the first sequences, so the same for every worker."""
        norms: dict[str, list[Tensor]] = {point.name: [] for point in self.points}
        count = min(len(self.tokens.tokens_SC), FILTER_SEQUENCES)
        for sequences_S in torch.arange(count).split(self.batch_size):
            for name, x in self.read(sequences_S).activations.items():
                norms[name].append(torch.linalg.vector_norm(x.float(), dim=-1).cpu())
        return {name: multiple * float(torch.cat(parts).median()) for name, parts in norms.items()}


@contextlib.contextmanager
def memory_errors(field: str, value: int) -> Iterator[None]:
    """Inside the block, running out of memory ends with the setting to lower.

    Raises:
        Failure: naming it.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        first = str(error).splitlines()[0].partition(". ")[0]
        raise Failure(f"out of memory: {first}", where=field, found=value, expected="a smaller one") from error
