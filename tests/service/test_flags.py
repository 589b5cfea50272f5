"""Command-line flags: each the twin of a setting, which it overrides."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from service import PROJECT, Service

from mayfly import flags
from mayfly.errors import SettingError
from mayfly.settings import load_settings, names


def test_every_flag_is_the_twin_of_a_setting() -> None:
    line = ["--host", "0.0.0.0", "--port", "7000", "--model", "a.gguf", "--embed-model=b.gguf", "--api-keys",
            "one-key-1,two-key-2", "--allowed-origins", '["https://a.example", "https://b.example"]',
            "--allowed-methods", "GET,POST", "--allowed-headers", "X-One", "--allow-credentials"]
    values = flags.read(line)
    assert set(values) <= set(names())
    settings = load_settings({"LISTEN_PORT": "6000", "MODEL_NAME": "c.gguf", "MAX_TEXTS": "5"}, values)
    assert (settings.listen_ip, settings.listen_port, settings.max_texts) == ("0.0.0.0", 7000, 5)
    assert (settings.model_name, settings.embed_model) == ("a.gguf", "b.gguf")
    assert settings.api_keys == ("one-key-1", "two-key-2")
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert (settings.allowed_methods, settings.allowed_headers) == (("GET", "POST"), ("X-One",))
    assert settings.allow_credentials is True
    assert flags.read([]) == {}


def test_keys_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one-key-1\nlaptop:two-key-2, three-key-3\n")
    in_it = ("one-key-1", "laptop:two-key-2", "three-key-3")
    assert load_settings({}, flags.read(["--api-keys", f"@{file}"])).api_keys == in_it
    assert load_settings({"API_KEYS": f"a-key-of-mine,@{file}"}).api_keys == ("a-key-of-mine", *in_it)
    for wrong in (f"@{tmp_path / 'absent'}", f"@{tmp_path}"):
        with pytest.raises(SettingError, match=r"API_KEYS.*can't be read: .*irectory"):
            load_settings({"API_KEYS": wrong})
    file.write_bytes(b"one-key-1\nk\xfcche:two-key-2\n")
    with pytest.raises(SettingError, match="can't be read: line 2 isn't UTF-8"):
        load_settings({"API_KEYS": f"@{file}"})


@pytest.mark.parametrize("text", ['["https://a.example"', "[5]", '["a", null]'])
def test_a_list_that_is_no_list_of_strings_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="JSON list of strings"):
        flags.read(["--allowed-origins", text])


@pytest.mark.parametrize("command", [["mayfly", "serve"], ["watchdog.py"]], ids=" ".join)
def test_the_help_names_every_flag_and_its_setting_and_warns_of_keys(command: list[str]) -> None:
    shown = subprocess.run([sys.executable, *command, "--help"], cwd=PROJECT, capture_output=True, text=True,
                           check=True).stdout
    assert shown.startswith("usage: start.sh serve ")
    assert set(re.findall(r"^  (--[a-z-]+)", shown, re.MULTILINE)) == {
        "--host", "--port", "--model", "--embed-model", "--api-keys", "--allowed-origins", "--allowed-methods",
        "--allowed-headers", "--allow-credentials", "--on", "--address"}
    assert all(name in shown for name in ("LISTEN_IP", "LISTEN_PORT", "MODEL_NAME", "EMBED_MODEL", "API_KEYS",
                                          "ALLOWED_ORIGINS", "ALLOWED_METHODS", "ALLOWED_HEADERS",
                                          "ALLOW_CREDENTIALS"))
    assert "(ps)" in shown


@pytest.mark.parametrize(("arguments", "said"), [
    (["--prot", "1"], "unrecognized arguments: --prot 1; is --port meant?"),
    (["--allow-credential"], "is --allow-credentials meant?"),
    (["--port"], "expected one argument"), (["7000"], "unrecognized"),
    (["--port", "many"], "LISTEN_PORT is 'many'; allowed"), (["--hos", "::1"], "unrecognized arguments")])
def test_a_wrong_flag_is_exit_code_2_and_one_reason(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty.env").touch()
    done = subprocess.run([sys.executable, str(PROJECT / "watchdog.py"), *arguments], capture_output=True, text=True,
                          env={"MAYFLY_ENV": str(tmp_path / "empty.env"), "RUN_FOLDER_NAME": str(tmp_path / "run")})
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


def test_flags_win_over_the_environment_in_a_running_service(start: Callable[..., Service], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("key-in-a-file-1\n", encoding="utf-8-sig")
    service = start(MODEL_NAME="absent.gguf", API_KEYS="environment-key", arguments=[
        "--model", "tiny-llama.gguf", "--host", "127.0.0.1", "--port", "0", "--api-keys", f"@{tmp_path / 'keys'}"])
    assert service.lane("completion")["model"] == "tiny-llama"
    for key, status in (("key-in-a-file-1", 200), ("environment-key", 401)):
        answer = requests.get(service.url + "/v1/models", timeout=120,
                              headers={"Authorization": f"Bearer {key}", "Via": "1.1 tunnel"})
        assert answer.status_code == status
    # The processes below get their settings over a pipe.
    for pid in service.family():
        assert b"key-in-a-file" not in Path(f"/proc/{pid}/cmdline").read_bytes()
