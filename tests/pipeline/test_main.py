"""The command line: a mistake in it gets one line that names the nearest right thing."""

from __future__ import annotations

import pytest

from pipeline.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum"], "no such command (found rum, expected one of "),
        (["rum"], "did you mean 'run'?"),
        (["run", "--stage", "train"], "unknown argument (found --stage); did you mean '--stages'?"),
        (["run", "extra"], "unknown argument (found extra)"),
        (["run", "--root"], "--root: expected one argument"),
        ([], "name a command: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "Run the stages of dvc.yaml" in capsys.readouterr().out
