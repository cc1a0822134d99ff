"""Keys derived by purpose, signed text, and the secret of the data folder."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from ferrule.errors import ConfigurationError
from ferrule.security.secrets import Secrets, load_or_create_secret

OLD, NEW = "an old key of forty characters, or about", "a new key of forty characters, or about."
secrets = Secrets([SecretStr(NEW), OLD])


def test_each_purpose_has_its_own_keys() -> None:
    keys = secrets.verifying_keys("cursor")
    assert secrets.signing_key("cursor") == keys[0]
    assert len(keys) == 2
    assert all(len(key) == 32 for key in keys)
    assert not set(keys) & set(secrets.verifying_keys("cursors"))


@pytest.mark.parametrize("data", [b"", b"x", b'["a", 1]', bytes(range(256))])
def test_signed_text_comes_back(data: bytes) -> None:
    text = secrets.sign("cursor", data)
    assert text.isascii()
    assert "=" not in text
    assert secrets.unsign("cursor", text) == data
    assert secrets.unsign("another", text) is None
    assert Secrets([OLD]).unsign("cursor", text) is None


def test_k2_the_older_key_still_verifies() -> None:
    assert secrets.unsign("cursor", Secrets([OLD]).sign("cursor", b"x")) == b"x"


GOOD = secrets.sign("cursor", b"offset 7")


@pytest.mark.parametrize(
    "text",
    ["", "A", "AAAAA", "é", "\ud800", "\x00", GOOD + "=", GOOD[:-4], "A" + GOOD[1:], "A" * 10**6],
)
def test_everything_else_is_not_signed(text: str) -> None:
    assert secrets.unsign("cursor", text) is None


def test_no_key_is_a_configuration_error() -> None:
    for keys in ([], [""], [NEW, ""]):
        with pytest.raises(ConfigurationError):
            Secrets(keys)


def test_k2_keys_are_not_shown() -> None:
    assert NEW not in repr(secrets)


def test_the_secret_of_a_folder_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    secret = load_or_create_secret(folder)
    assert len(secret) >= 32
    assert load_or_create_secret(folder) == secret
    assert [file.name for file in folder.iterdir()] == ["secret"]
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600


RACER = """
import pathlib, sys, time
from ferrule.security.secrets import load_or_create_secret
folder = pathlib.Path(sys.argv[1])
(folder / f"ready{sys.argv[2]}").touch()
while not (folder / "go").exists():
    time.sleep(0.0005)
print(load_or_create_secret(folder / "data"))
"""


def test_the_secret_of_a_folder_is_the_same_for_processes_that_start_at_once(
    tmp_path: Path,
) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    while len(list(tmp_path.glob("ready*"))) < 4:
        assert all(racer.poll() is None for racer in racers)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    made = {racer.communicate(timeout=30)[0] for racer in racers}
    assert len(made) == 1
    assert len(made.pop()) > 32
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["secret"]


def test_a_secret_that_others_can_read_is_closed(tmp_path: Path) -> None:
    load_or_create_secret(tmp_path)
    (tmp_path / "secret").chmod(0o644)
    load_or_create_secret(tmp_path)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 64])
def test_a_damaged_secret_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigurationError):
        load_or_create_secret(tmp_path)
    assert (tmp_path / "secret").read_bytes() == content


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="FERRULE_SECRET_KEY") as refused:
        load_or_create_secret(tmp_path / "file")
    assert os.fspath(tmp_path) not in str(refused.value)
