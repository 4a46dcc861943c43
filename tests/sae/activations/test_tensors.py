import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae.activations.tensors import TensorSource, map_tensor
from sae.config import Failure, InputError


def rows(count: int = 10, width: int = 3) -> torch.Tensor:
    return torch.arange(count * width, dtype=torch.float32).reshape(count, width)


def test_an_epoch_holds_every_row_once_and_the_next_is_in_another_order() -> None:
    batches = [x_BD for x_BD, _ in itertools.islice(TensorSource(rows()).batches(5, seed=0), 4)]
    first, second = torch.cat(batches[:2]), torch.cat(batches[2:])
    assert torch.equal(first[first[:, 0].argsort()], rows())
    assert torch.equal(second[second[:, 0].argsort()], rows())
    assert not torch.equal(first, second)


@pytest.mark.parametrize("batch_size", [3, 4, 10, 25])
def test_a_batch_is_a_function_of_seed_and_number(batch_size: int) -> None:
    source = TensorSource(rows())
    in_order = [x_BD for x_BD, _ in itertools.islice(source.batches(batch_size, seed=1), 9)]
    assert all(len(x_BD) == batch_size for x_BD in in_order)
    for number in (1, 5, 8):
        assert torch.equal(next(source.batches(batch_size, seed=1, start=number))[0], in_order[number])
    assert not torch.equal(next(source.batches(batch_size, seed=2))[0], in_order[0])


def test_every_batch_size_goes_through_the_same_order() -> None:
    source = TensorSource(rows())
    threes = torch.cat([x for x, _ in itertools.islice(source.batches(3, seed=0), 10)])
    fives = torch.cat([x for x, _ in itertools.islice(source.batches(5, seed=0), 6)])
    assert torch.equal(threes, fives)


def test_targets_go_with_their_inputs() -> None:
    source = TensorSource(rows(), rows(width=4), widths=[1, 2])
    x_BD, y_BD = next(source.batches(4, seed=0))
    assert torch.equal(x_BD[:, 0] / 3, y_BD[:, 0] / 4)
    assert source.hook_points == ["rows.0", "rows.1"]
    assert source.target_hook_points == ["target.0"]
    assert source.target_widths == [4]
    alone = TensorSource(rows())
    x_BD, y_BD = next(alone.batches(4, seed=0))
    assert x_BD is y_BD
    assert alone.target_widths == alone.widths == [3]


def test_rows_of_half_precision_come_as_float32() -> None:
    x_BD, _ = next(TensorSource(rows().half()).batches(4, seed=0))
    assert x_BD.dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="widths"):
        TensorSource(rows(), widths=[2, 2])
    with pytest.raises(InputError, match="a target for every input"):
        TensorSource(rows(), rows(count=9))
    with pytest.raises(InputError, match="rows are a tensor"):
        TensorSource(torch.zeros(3))


def test_a_tensor_is_mapped_from_either_kind_of_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", rows().numpy())
    save_file({"x": rows(), "y": rows() + 1}, tmp_path / "x.safetensors")
    assert torch.equal(map_tensor(tmp_path / "x.npy"), rows())
    assert torch.equal(map_tensor(tmp_path / "x.safetensors", "y"), rows() + 1)
    with pytest.raises(InputError, match="several"):
        map_tensor(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="no such tensor"):
        map_tensor(tmp_path / "x.safetensors", "z")
    with pytest.raises(InputError, match="no such file"):
        map_tensor(tmp_path / "none.npy")
    with pytest.raises(InputError, match=r"an \.npy"):
        map_tensor(tmp_path / "x.pt")
    (tmp_path / "x.safetensors").write_bytes(b"\0\0")
    with pytest.raises(Failure, match="damaged"):
        map_tensor(tmp_path / "x.safetensors")
