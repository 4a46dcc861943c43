"""Documents from the standard library, files and datasets: their names, their order, and what is refused."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae.config import InputError, parse_config
from sae.corpus.documents import CorpusConfig, Document, corpus_files, iter_documents
from sae.corpus.split import name_fraction


def files(*paths: object, **more: Any) -> CorpusConfig:
    return parse_config(CorpusConfig, {"source": "files", "files": {"paths": [str(p) for p in paths], **more}}, "corpus")


def dataset(folder: Path, **more: Any) -> CorpusConfig:
    section = {"dataset": str(folder), **more}
    return parse_config(CorpusConfig, {"source": "huggingface", "huggingface": section}, "corpus")


def by_name(config: CorpusConfig) -> dict[str, Any]:
    documents = list(iter_documents(config))
    assert len({d.name for d in documents}) == len(documents)
    return dict(documents)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus of text files in nested folders."""
    root = tmp_path / "corpus"
    for name in ("a.txt", "b.txt", "deep/c.txt", "deep/er/d.txt", "notes.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}")
    return root


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# The standard library


def test_standard_library_goes_by_relative_posix_paths_and_leaves_out_installed_packages() -> None:
    found = corpus_files(CorpusConfig())
    names = {file.name for file in found}
    root = Path(sysconfig.get_path("stdlib"))
    assert {"abc.py", "json/decoder.py", "email/mime/text.py"} <= names
    assert not any("site-packages" in name or "__pycache__" in name or name.startswith("/") for name in names)
    assert all(file.path == root / file.name for file in found)
    assert len(names) == len(found) > 500


def test_standard_library_comes_in_an_order_that_only_names_decide() -> None:
    names = [file.name for file in corpus_files(CorpusConfig())]
    assert names == sorted(names, key=lambda name: (name_fraction(name), name))


def test_source_is_read_by_its_declared_encoding(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"))
    (tmp_path / "wrong.py").write_bytes(b"# -*- coding: no-such-code -*-\nx = 1\n")
    documents = by_name(files(tmp_path / "*.py"))
    assert "'é'" in documents["latin.py"]
    assert documents["wrong.py"].endswith("x = 1\n")


# Files


def test_one_document_a_text_file_by_its_path_below_the_last_plain_folder(folder: Path) -> None:
    expected = {name: f"text of {name}" for name in ("a.txt", "b.txt", "deep/c.txt", "deep/er/d.txt")}
    assert by_name(files(folder / "**/*.txt")) == expected


def test_a_single_file_goes_by_its_own_name(folder: Path) -> None:
    assert by_name(files(folder / "deep/c.txt")) == {"c.txt": "text of deep/c.txt"}


def test_star_stays_in_its_folder_and_two_stars_cross_folders(folder: Path) -> None:
    assert set(by_name(files(folder / "*.txt"))) == {"a.txt", "b.txt"}
    assert set(by_name(files(folder / "*/*.txt"))) == {"deep/c.txt"}


def test_a_file_that_two_patterns_match_comes_once(folder: Path) -> None:
    assert len(list(iter_documents(files(folder / "*.txt", folder / "**/*.txt", folder / "a.txt")))) == 4


def test_names_and_order_stay_when_the_corpus_is_moved(folder: Path, tmp_path: Path) -> None:
    before = list(iter_documents(files(folder / "**/*.*")))
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert list(iter_documents(files(Path(moved) / "**/*.*"))) == before


def test_relative_paths_give_the_same_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_name(files(folder / "**/*.txt"))
    monkeypatch.chdir(folder)
    for pattern in ("**/*.txt", "./**/*.txt", "../corpus/**/*.txt"):
        assert by_name(files(pattern)) == expected
    monkeypatch.setenv("HOME", str(folder.parent))
    assert by_name(files("~/corpus/**/*.txt")) == expected


def test_order_of_files_does_not_depend_on_the_order_of_patterns(folder: Path) -> None:
    one = list(iter_documents(files(folder / "a.txt", folder / "*.md", folder / "b.txt")))
    assert one == list(iter_documents(files(folder / "b.txt", folder / "a.txt", folder / "*.md")))


def test_one_document_a_row_of_jsonl(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": f"row {i}", "id": i} for i in range(3)])
    assert list(iter_documents(files(path))) == [Document(f"rows.jsonl#{i}", f"row {i}") for i in range(3)]


def test_one_document_a_row_of_parquet_from_the_named_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["one", "two"], "text": ["x", "y"]}), tmp_path / "rows.parquet")
    assert by_name(files(tmp_path / "rows.parquet", column="body")) == {"rows.parquet#0": "one", "rows.parquet#1": "two"}


def test_rows_and_files_with_no_text_are_left_out_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}, {"text": " \n"}, {"text": None}, {"text": "d"}])
    (tmp_path / "empty.txt").write_text("")
    assert set(by_name(files(path, tmp_path / "empty.txt"))) == {"rows.jsonl#0", "rows.jsonl#3"}


def test_line_ends_are_unix_and_bytes_that_are_no_text_are_marked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo \xff")
    assert by_name(files(tmp_path / "a.txt")) == {"a.txt": "one\ntwo \ufffd"}


# What is refused


def refusal(config: CorpusConfig) -> str:
    with pytest.raises(InputError) as caught:
        list(iter_documents(config))
    return str(caught.value)


def test_missing_column_names_file_and_nearest(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"txt": "a", "id": 1}])
    message = refusal(files(path))
    assert message.startswith(f"corpus.files.column: {path} has no such column")
    assert "expected one of txt, id" in message
    assert message.endswith("did you mean 'txt'?")


def test_column_of_another_type_is_refused(tmp_path: Path) -> None:
    for value, found in (
        (3, "int"),
        ([1, "a"], "list of int, str"),
        ([True], "list of bool"),
        ([{"role": "user"}], "list of dict"),
    ):
        path = write_jsonl(tmp_path / "rows.jsonl", [{"text": value}])
        assert f"corpus.files.column: this column of {path} holds no documents (found {found}, expected text" in refusal(
            files(path)
        )


def test_kinds_are_told_by_the_value_and_may_change_from_row_to_row(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    values = ["w1 w2", [1, 2, 3], chat, [], None]
    (tmp_path / "mine").mkdir()
    path = write_jsonl(tmp_path / "mine/train.jsonl", [{"text": value} for value in values])
    expected = dict(enumerate([*values[:3]]))
    assert by_name(files(path)) == {f"train.jsonl#{i}": value for i, value in expected.items()}
    assert by_name(dataset(tmp_path / "mine")) == {f"mine/train#{i}": value for i, value in expected.items()}


def test_keys_that_a_message_lacks_are_absent_though_a_parquet_file_holds_nulls_for_them(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a", "name": "me"}, {"role": "assistant", "content": None}]
    pq.write_table(pa.table({"chat": [chat], "ids": [[1, 2]]}), tmp_path / "rows.parquet")
    assert by_name(files(tmp_path / "rows.parquet", column="chat")) == {"rows.parquet#0": chat}
    assert by_name(files(tmp_path / "rows.parquet", column="ids")) == {"rows.parquet#0": [1, 2]}


def test_pattern_that_matches_nothing_names_the_nearest(folder: Path) -> None:
    message = refusal(files(folder / "a.txt", folder.parent / "corpsu/*.txt"))
    assert message.startswith("corpus.files.paths: this path matches no file")
    assert message.endswith(f"did you mean {str(folder)!r}?")


def test_a_folder_is_no_file_and_the_pattern_for_its_files_is_shown(folder: Path) -> None:
    message = refusal(files(folder))
    assert message.startswith("corpus.files.paths: ")
    assert message.endswith(f"did you mean '{folder}/**/*'?")


def test_no_paths_are_refused() -> None:
    assert refusal(files()).startswith("corpus.files.paths: no path is given")


def test_damaged_rows_name_their_file(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 is not enough")
    assert refusal(files(tmp_path / "rows.parquet")).startswith(
        f"{tmp_path / 'rows.parquet'}: this file can't be read as parquet"
    )


def test_source_and_share_are_checked() -> None:
    with pytest.raises(InputError, match="did you mean 'python-stdlib'"):
        parse_config(CorpusConfig, {"source": "python-stdlb"}, "corpus")
    for share in (0, 1, -0.1):
        with pytest.raises(InputError, match=r"corpus\.held_out"):
            parse_config(CorpusConfig, {"held_out": share}, "corpus")


# Datasets


@pytest.mark.parametrize("streaming", [True, False])
def test_dataset_in_a_folder_gives_a_document_a_row(streaming: bool, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_jsonl(tmp_path / "mine/train.jsonl", [{"text": "a"}, {"text": "b"}])
    assert by_name(dataset(tmp_path / "mine", streaming=streaming)) == {"mine/train#0": "a", "mine/train#1": "b"}


def test_documents_of_a_dataset_keep_their_names_when_its_folder_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here/mine").mkdir(parents=True)
    write_jsonl(tmp_path / "here/mine/train.jsonl", [{"text": "a"}, {"text": "b"}])
    before = by_name(dataset(tmp_path / "here/mine"))
    monkeypatch.chdir(tmp_path / "here")
    assert by_name(dataset(Path("mine"))) == by_name(dataset(Path("./mine/"))) == before
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert by_name(dataset(tmp_path / "there/mine")) == before


def test_dataset_without_the_column_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_jsonl(tmp_path / "mine/train.jsonl", [{"texts": "a"}])
    message = refusal(dataset(tmp_path / "mine"))
    assert message.startswith("corpus.huggingface.column: ")
    assert message.endswith("did you mean 'texts'?")


def test_dataset_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    assert refusal(CorpusConfig(source="huggingface")).startswith("corpus.huggingface.dataset: no dataset is given")
    (tmp_path / "mine").mkdir()
    write_jsonl(tmp_path / "mine/train.jsonl", [{"text": "a"}])
    message = refusal(dataset(tmp_path / "mine", split="tset"))
    assert message.startswith("corpus.huggingface.dataset: this dataset can't be read")


def test_damaged_dataset_names_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.jsonl").write_text('{"text": "a"}\n{"text": ')
    message = refusal(dataset(tmp_path / "mine"))
    assert message.startswith("corpus.huggingface.dataset: ")
    assert str(tmp_path / "mine") in message


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "b.txt.gz").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0")
    files = {"paths": [str(tmp_path / "*")]}
    message = refusal(parse_config(CorpusConfig, {"source": "files", "files": files}))
    assert message.startswith(f"{tmp_path}/b.txt.gz: this file is no text")
