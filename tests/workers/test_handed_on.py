"""Which environment variables reach the processes that run an environment's code."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from workers import handed_on


@pytest.fixture(autouse=True)
def forget_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handed_on, "_secrets", handed_on._Secrets())


def test_on_this_machine_all_goes_but_what_is_a_processs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MY_JUDGE_KEY", "RAY_ADDRESS", "PYTHONPATH"):
        monkeypatch.setenv(name, "as the driver has it")
    given = handed_on.select_worker_variables([], all_of_them=True)
    assert {"MY_JUDGE_KEY", "PATH"} <= given.keys()
    assert not {"RAY_ADDRESS", "PYTHONPATH"} & given.keys()
    monkeypatch.setenv("OF_WHOEVER_STARTED_RAY", "1")
    monkeypatch.setenv("RAY_ADDRESS", "as the worker has it")
    made = handed_on.process_environment(given, instead=True)
    assert made["MY_JUDGE_KEY"] == "as the driver has it"
    assert made["RAY_ADDRESS"] == "as the worker has it"
    assert "OF_WHOEVER_STARTED_RAY" not in made


def test_on_a_cluster_what_is_named_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", "as the driver has it")
    given = handed_on.select_worker_variables(["MY_JUDGE_KEY"], all_of_them=False)
    assert given == {"MY_JUDGE_KEY": SecretStr("as the driver has it")}
    monkeypatch.setenv("OF_THE_NODE", "1")
    assert handed_on.process_environment(given, instead=False)["OF_THE_NODE"] == "1"
    assert "driver" not in repr(given)


def test_secrets_are_not_written_however_they_are_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_JUDGE_TOKEN", 'sk-"quoted"-and-long')
    monkeypatch.setenv("MY_NAME", "not-a-secret-at-all")
    text = r'it said sk-"quoted"-and-long, "sk-\"quoted\"-and-long", not-a-secret-at-all'
    hidden = handed_on.hide_secrets(text)
    assert hidden == 'it said <MY_JUDGE_TOKEN>, "<MY_JUDGE_TOKEN>", not-a-secret-at-all'


@pytest.mark.parametrize("name", ["GH_PAT", "MYSQL_PWD", "DB_PASS", "MY_PASSPHRASE", "PROXY_AUTHORIZATION"])
def test_other_names_of_secrets_are_known(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/wJalrXUtnFEMI")  # base64 may begin like a path
    assert handed_on.hide_secrets("with /wJalrXUtnFEMI") == f"with <{name}>"


def test_what_only_looks_like_a_secret_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("MY_KEY_FILE", str(tmp_path)), ("PATTERN", "long-enough"), ("PWD", str(tmp_path))):
        monkeypatch.setenv(name, value)
    assert handed_on.hide_secrets(f"{tmp_path} long-enough") == f"{tmp_path} long-enough"


def test_a_password_in_a_url_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://me:s3cret-enough@db.example:5432/x")
    hidden = handed_on.hide_secrets("no route to postgres://me:s3cret-enough@db.example:5432/x")
    assert hidden == "no route to postgres://me:<DATABASE_URL>@db.example:5432/x"


def test_a_secret_of_several_lines_is_not_written_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "-----BEGIN-----\nschlüssel's\n-----END-----"
    monkeypatch.setenv("MY_PRIVATE_KEY", secret)
    in_json = [json.dumps({"said": secret}, ensure_ascii=each) for each in (True, False)]
    for text in (secret, repr(secret), *in_json, *map(json.dumps, in_json), json.dumps(repr(secret))):
        hidden = handed_on.hide_secrets(f"it said {text}")
        assert "<MY_PRIVATE_KEY>" in hidden and "END" not in hidden


def test_a_secret_that_is_set_late_is_one_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed_on.hide_secrets("something is written before")
    monkeypatch.setenv("MY_JUDGE_TOKEN", "read-from-a-file-of-keys")
    assert handed_on.hide_secrets("read-from-a-file-of-keys") == "<MY_JUDGE_TOKEN>"
    monkeypatch.delenv("MY_JUDGE_TOKEN")
    assert handed_on.hide_secrets("read-from-a-file-of-keys") == "<MY_JUDGE_TOKEN>"
