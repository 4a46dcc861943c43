"""Which Prefect server a run talks to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import server
from sae.config import InputError


@pytest.mark.parametrize(
    ("given", "api"),
    [
        ("http://127.0.0.1:4200", "http://127.0.0.1:4200/api"),
        ("http://127.0.0.1:4200/", "http://127.0.0.1:4200/api"),
        ("http://127.0.0.1:4200/api", "http://127.0.0.1:4200/api"),
        ("https://api.prefect.cloud/api/accounts/a/workspaces/w/", "https://api.prefect.cloud/api/accounts/a/workspaces/w"),
    ],
)
def test_a_servers_address_may_be_given_without_api(given: str, api: str) -> None:
    assert server.api_url(given) == api


@pytest.mark.parametrize("given", ["localhost:4200", "4200", "ftp://there", "http://", "http://host:port"])
def test_what_is_no_address_is_a_mistake(given: str) -> None:
    with pytest.raises(InputError, match="not the address of a Prefect server"):
        server.api_url(given)


def test_nothing_of_the_users_own_prefect_reaches_a_temporary_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "environ", {"PREFECT_PROFILE": "cloud", "PREFECT_API_KEY": "secret", "HOME": "/home", "NO_PROXY": "intranet"}
    )
    server._isolate(tmp_path, 1234)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:1234/api"
    assert os.environ["PREFECT_HOME"] == str(tmp_path)
    assert not {"PREFECT_PROFILE", "PREFECT_API_KEY"} & set(os.environ)
    assert os.environ["NO_PROXY"] == "intranet,127.0.0.1"
