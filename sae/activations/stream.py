"""Training rows straight from the language model, with none of them on the disk.

Shapes: B tokens in a batch, S sequences of C tokens, N rows of a buffer, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sae.activations.capture import ActivationsConfig
from sae.activations.encoding import bits, decode, encode
from sae.activations.reading import Reader
from sae.activations.store import match_names
from sae.config import InputError, generator
from sae.corpus.tokens import TokenSet

Buffer = dict[str, tuple[Tensor, Tensor | None]]  # by hook point: rows as a store would keep them, and their scales


class StreamSource:
    """A language model at work as a source of training batches: every row once an epoch, for ever.

    An epoch visits the sequences in a random order. Those that give about `mix_rows` rows go through the model together;
    their rows are held in a buffer, shuffled, and served. So batch number n tells which sequences a resumed run has to read
    again: those of one buffer. Values are rounded as the config's `dtype` says, so they are what a store would give, but
    for the last bits of the model's products, which depend on which sequences stand in one forward pass.

    Args:
        model: the subject.
        tokens: the training sequences.
        config: what a capture would take.
        hook_points: which of its hook points stand side by side in an input, in this order; the first one if left out.
        target_hook_points: the same for targets; the inputs if left out.

    Raises:
        InputError: no such hook point, or no token that is not special.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: TokenSet,
        config: ActivationsConfig,
        hook_points: Sequence[str] | None = None,
        target_hook_points: Sequence[str] | None = None,
    ) -> None:
        self.config = config
        self.reader = Reader(model, tokens, config.hook_points, whole=False, autocast=config.autocast)
        first = next(iter(self.reader.widths))
        self.hook_points = self._match(hook_points or [first], "sae.hook_points")
        self.target_hook_points = self._match(target_hook_points or self.hook_points, "sae.target_hook_points")
        if not self.rows:
            raise InputError("these sequences hold none but special tokens", where="tokens")

    @property
    def widths(self) -> list[int]:
        return [self.reader.widths[name] for name in self.hook_points]

    @property
    def target_widths(self) -> list[int]:
        return [self.reader.widths[name] for name in self.target_hook_points]

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self.reader.rows

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of inputs and targets [B, D] in float32; one object where the targets are the inputs.

        A batch may begin in one buffer or epoch and end in the next, so that none is partial.
        """
        parts: list[tuple[Tensor, Tensor]] = []
        have = 0
        for buffer, order_N in self._buffers(start * batch_size, seed):
            done = 0
            while have + len(order_N) - done >= batch_size:
                chosen_N = order_N[done : done + batch_size - have]
                done += len(chosen_N)
                yield _joined([*parts, self._pair(buffer, chosen_N)])
                parts, have = [], 0
            if done < len(order_N):
                parts.append(self._pair(buffer, order_N[done:]))
                have += len(order_N) - done

    def _pair(self, buffer: Buffer, chosen_N: Tensor) -> tuple[Tensor, Tensor]:
        def side(names: Sequence[str]) -> Tensor:
            columns = []
            for name in names:
                stored_ND, scale_N = buffer[name]
                rows_ND = bits(stored_ND)[chosen_N].view(stored_ND.dtype)
                columns.append(decode(rows_ND, None if scale_N is None else scale_N[chosen_N]).float())
            return torch.cat(columns, dim=1)

        x_ND = side(self.hook_points)
        return x_ND, x_ND if self.target_hook_points == self.hook_points else side(self.target_hook_points)

    def _buffers(self, skip: int, seed: int) -> Iterator[tuple[Buffer, Tensor]]:
        """Buffers with the order in which their rows are served, from row number `skip` of the endless order on."""
        count_S = self.reader.first_row_S.diff()
        epoch, skip = divmod(skip, self.rows)
        while True:
            order_S = torch.randperm(len(count_S), generator=generator(seed, "stream", f"epoch {epoch}"))
            first_S = count_S[order_S].cumsum(0) - count_S[order_S]
            buffer_S = first_S // self.config.mix_rows
            for number in buffer_S.unique().tolist():
                sequences_S = order_S[buffer_S == number]
                rows = int(count_S[sequences_S].sum())
                if skip >= rows:
                    skip -= rows
                    continue
                stream = generator(seed, "stream", f"epoch {epoch}", f"buffer {number}")
                yield self._fill(sequences_S), torch.randperm(rows, generator=stream)[skip:]
                skip = 0
            epoch += 1

    def _fill(self, sequences_S: Tensor) -> Buffer:
        parts: dict[str, list[tuple[Tensor, Tensor | None]]] = {name: [] for name in self.reader.widths}
        for batch_S in sequences_S.split(self.config.batch_size):
            for name, x_ND in self.reader.read(batch_S).activations.items():
                parts[name].append(encode(x_ND, self.config.dtype))
        buffer: Buffer = {}
        for name, pieces in parts.items():
            stored_ND = torch.cat([bits(stored) for stored, _ in pieces]).view(pieces[0][0].dtype)
            scales = [scale for _, scale in pieces if scale is not None]
            buffer[name] = stored_ND, torch.cat(scales) if scales else None
        return buffer

    def _match(self, patterns: Sequence[str], where: str) -> list[str]:
        return match_names(patterns, self.reader.widths, where, "this hook point is not among those of activations.hook_points")


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    x_BD = torch.cat([x for x, _ in parts])
    return x_BD, x_BD if all(x is y for x, y in parts) else torch.cat([y for _, y in parts])
