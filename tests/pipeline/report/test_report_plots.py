from __future__ import annotations

import io
import json
from pathlib import Path

import matplotlib.image
import pytest

from pipeline.report.config import ReportConfig
from pipeline.report.data import CURVES, EVALUATION_METRICS, read_run
from pipeline.report.plots import draw

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def pictures(run_root: Path) -> dict[str, bytes]:
    return draw(read_run(run_root), ReportConfig())


def chunks(picture: bytes) -> list[bytes]:
    found, at = [], len(PNG)
    while at < len(picture):
        length = int.from_bytes(picture[at : at + 4], "big")
        found.append(picture[at + 4 : at + 8])
        at += 12 + length
    return found


def test_pictures_are_whole_and_not_blank(pictures: dict[str, bytes]) -> None:
    assert sorted(pictures) == ["frequency.png", "l0.png", "summary.png", "training.png"]
    for picture in pictures.values():
        pixels = matplotlib.image.imread(io.BytesIO(picture), format="png")
        assert pixels.shape[0] >= 400
        assert pixels.shape[1] >= 800
        assert pixels[..., :3].std() > 0.05


def test_pictures_carry_neither_date_nor_program(pictures: dict[str, bytes]) -> None:
    for picture in pictures.values():
        assert picture.startswith(PNG)
        assert not {b"tEXt", b"iTXt", b"zTXt", b"tIME"} & set(chunks(picture))


def test_title_is_drawn_and_is_no_formula(run_root: Path, pictures: dict[str, bytes]) -> None:
    titled = draw(read_run(run_root), ReportConfig(title="costs $1, not $x^2$"))
    changed = {name for name in pictures if pictures[name] != titled[name]}
    assert changed == {"summary.png"}


def test_a_model_without_a_loss_changes_the_summary_alone(run_root: Path, pictures: dict[str, bytes]) -> None:
    metrics = json.loads((run_root / EVALUATION_METRICS).read_text()) | {"loss": None}
    (run_root / EVALUATION_METRICS).write_text(json.dumps(metrics))
    without = draw(read_run(run_root), ReportConfig())
    assert {name for name in pictures if pictures[name] != without[name]} == {"summary.png"}


def test_run_without_curves_is_drawn(run_root: Path) -> None:
    for file in (run_root / CURVES).rglob("*.tsv"):
        file.unlink()
    assert len(draw(read_run(run_root), ReportConfig())) == 4
