"""Settings: every one is documented, checked, and refused with its name, its value and what is allowed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from service import PROJECT

from mayfly import watchdog
from mayfly.engines import backends
from mayfly.errors import SettingError
from mayfly.settings import Settings, available_cores, load_settings, names, parse
from mayfly.wire.codec import from_wire, plain

EXAMPLE = PROJECT / ".env.example"

# Each setting's values that are refused, and what the message says is allowed. The first one also starts a watchdog.
REFUSED: dict[str, tuple[list[str], str]] = {
    "MODEL_PATH": ([str(PROJECT / "README.md"), str(PROJECT / "README.md" / "below"), "a\0b"], "the path of a folder"),
    "MODEL_NAME": (["../secret.gguf", "/etc/passwd", "a/../../b", "http://host/a.gguf", "a\0b"],
                   "a file in MODEL_PATH"),
    "EMBED_MODEL": (["../secret.gguf", "/etc/passwd"], "a file in MODEL_PATH"),
    "EMBED_ENGINE": (["onnx", "fast"], "auto, gpt4all, llamacpp, openvino"),
    "CHAT_ENGINE": (["openvino", "llama"], "auto, gpt4all, llamacpp"),
    "LLAMA_LIBRARY": (["no/such/folder"], "libllama's file"),
    "EMBED_PRECISION": (["int8", "16"], "auto, f32, bf16"),
    "MODEL_LIST": (["models3.json", "ftp://host/list.json", "https://", "https://a b/"], "https:// or http://"),
    "HF_ENDPOINT": (["hub.example", "ftp://hub.example", "https://"], "https:// or http://"),
    "HF_TOKEN": (["with blank inside", "na\u00efve"], "visible ASCII characters"),
    "MODEL_ALIASES": (["gpt-4", "=embedding", "a b=completion", "gpt-4="], "ALIAS=MODEL"),
    "MAX_MODELS": (["-1", "33", "all"], "a whole number from 0 to 32"),
    "MEMORY_LIMIT": (["0", "0%", "101%", "1KB", "half", "-1"], "none, a part of this machine's memory"),
    "PREFIX_MEMORY": (["0%", "101%", "1KB", "half", "-1"], "a part of this machine's memory"),
    "PROMPT_TEMPLATE": (["### Human:", "%2 %1", "%1 %1", "%1 %2 %2", "%10", "%1\0"], "a text with %1"),
    "SYSTEM_TEMPLATE": (["You are helpful.", "%1 %2", "%2"], "a text with %1"),
    "ROUTE": (["gpt4all_api", "/embed", "/health", "/ready", "/v1", "/v1/chat", "/", "/k", "/k/x", "/a b", "/a//b",
               "/a\nb", "/<x>", "/a?b"], "a path"),
    "LISTEN_IP": (["everywhere", "127.0.0.1:80", "300.1.1.1", "my.host", "127.1"], "an IP address of this machine"),
    "LISTEN_PORT": (["http", "-1", "65536", "80.0", "0x50", "8_0"], "a whole number from 0 to 65535"),
    "OLLAMA_COMPAT_PORT": (["ollama", "-1", "65536", "11434.0"], "a whole number from 0 to 65535"),
    "AUTHORIZED_URLS": (["http://", "a b", "ok.example,<script>", "http://[::1"], "host names or URLs"),
    "API_KEYS": (["short", "with blank inside", "long-enough,short", "naïve-key-1"], "keys of 8 to 512 printable"),
    "ALLOWED_ORIGINS": (["my.site", "https://my.site/path", "https://*", "http:", "app://a/b", "app://a b", "://a",
                         "a.site:80"], "origins separated by commas"),
    "ALLOWED_METHODS": (["GET POST", "GET;"], "names separated by commas"),
    "ALLOWED_HEADERS": (["X Header", "a:b"], "names separated by commas"),
    "ALLOW_CREDENTIALS": (["maybe", "2"], "true or false"),
    "REQUIRE_KEY": (["sometimes", "1"], "auto, always"),
    "LOG_FOLDER_NAME": (["a\0b"], "the path of a folder"),
    "LOG_KEEP": (["0", "many", "100001"], "a whole number from 1 to 100000"),
    "RUN_FOLDER_NAME": (["a\0b"], "the path of a folder"),
    "ISOLATION": (["thread", "forks"], "auto, fork, respawn, none"),
    "SERVE_ON": (["here", "rays"], "this, ray"),
    "RAY_ADDRESS": (["ray://a:1", "a b", "a:port", "a:\u0663"], "HOST or HOST:PORT"),
    "REPLICAS": (["-1", "0", "4-1", "1-1001", "some", "1-2-3"], "a whole number from 0 to 1000, or two such as 1-4"),
    "REPLICA_THREADS": (["0", "257", "auto"], "a whole number from 1 to 256"),
    "CHAT_PROCESSES": (["0", "65", "two", "1.0"], "a whole number from 1 to 64"),
    "THREADS": (["0", "-1", "all", "100000"], "auto, or a whole number from 1 to"),
    "N_CTX": (["0", "15", "1048577", "2k"], "a whole number from 16 to 1048576"),
    "DEVICE": (["c;pu", "a\nb", "x" * 129], "a device name"),
    "QUEUE_LIMIT": (["-1", "1025", "ten"], "a whole number from 0 to 1024"),
    "REQUEST_TIMEOUT": (["0", "-1", "nan", "inf", "soon", "86401"], "a number of seconds from 0.1 to 86400"),
    "RECEIVE_TIMEOUT": (["0.1", "3601", "soon"], "a number of seconds from 0.5 to 3600"),
    "CONNECTION_LIMIT": (["7", "10001"], "a whole number from 8 to 10000"),
    "HANG_SECONDS": (["0.4", "nan", "never"], "a number of seconds from 0.5 to 86400"),
    "START_SECONDS": (["0.4", "nan", "never"], "a number of seconds from 0.5 to 86400"),
    "LAME_DUCK_SECONDS": (["-1", "nan", "3601"], "a number of seconds from 0 to 3600"),
    "GRACE_SECONDS": (["-1", "inf", "86401"], "a number of seconds from 0 to 86400"),
    "MAX_BODY": (["1023", "-5", "2GB", "8 megabytes", "1e6"], "a size from 1024 to 1073741824 bytes"),
    "MAX_TEXTS": (["0", "1000001", "all"], "a whole number from 1 to 1000000"),
    "DEBUG": (["maybe", "2"], "true or false"),
}
# Any text names a folder, and start.sh, which makes it, says when it can't.
ANYTHING_GOES = {"VENV_NAME"}


def test_every_setting_has_values_that_are_refused() -> None:
    assert set(names()) == set(REFUSED) | ANYTHING_GOES


def test_the_example_has_every_setting_with_its_default_and_its_documentation() -> None:
    documented: dict[str, str] = {}
    comment: list[str] = []
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif "=" in line:
            documented[line.partition("=")[0]] = " ".join(comment)
        if not line.startswith("#"):
            comment = []
    fields = {field.name.upper(): field.metadata for field in dataclasses.fields(Settings)}
    # In another order than the code's: people read it by subject.
    assert sorted(documented) == sorted(fields)
    assert dotenv_values(EXAMPLE, interpolate=False) == {name: data["default"] for name, data in fields.items()}
    assert documented == {name: data["doc"] for name, data in fields.items()}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (values, _) in REFUSED.items()
                                             for value in values])
def test_a_value_that_is_not_allowed_is_refused_with_name_value_and_what_is_allowed(name: str, value: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse({name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} is ")
    assert REFUSED[name][1] in message.partition("; allowed: ")[2]
    assert (value in message) is False if name in ("API_KEYS", "HF_TOKEN") else repr(value.strip()) in message
    assert "\n" not in message and "\0" not in message


@pytest.mark.parametrize("number", ["1", "100", "0.5", "1-4", "100MB", "50%"])
def test_a_number_is_written_in_digits_of_ascii(number: str) -> None:
    other_digits = [number.translate({ord(digit): first + int(digit) for digit in "0123456789"})
                    for first in (0x660, 0xFF10)]  # Arabic, and full width
    found = 0
    for name in names():
        try:
            value = getattr(parse({name: number}), name.lower())
        except SettingError:
            continue
        if all(type(part) in (int, float) for part in (value if isinstance(value, tuple) else [value])):
            found += 1
            for text in (*other_digits, f"{number[0]}_{number[1:]}", "\N{KELVIN SIGN}".join(number.split("M"))):
                if text != number:
                    with pytest.raises(SettingError, match=f"{name} is "):
                        parse({name: text})
    assert found


@pytest.mark.parametrize("name", REFUSED)
def test_a_start_with_a_wrong_setting_is_one_line_and_exit_code_2(
        name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    values, allowed = REFUSED[name]
    (tmp_path / "wrong.env").write_text(f'{name}="{values[0]}"\n', encoding="utf-8")
    monkeypatch.chdir(PROJECT)  # and back: the watchdog goes where its files are
    for other in names():
        monkeypatch.delenv(other, raising=False)
    for folder in {"RUN_FOLDER_NAME", "LOG_FOLDER_NAME"} - {name}:
        monkeypatch.setenv(folder, str(tmp_path / folder))
    monkeypatch.setenv("MAYFLY_ENV", str(tmp_path / "wrong.env"))
    monkeypatch.setattr(watchdog, "_serve", lambda settings, folder: pytest.fail("it begins"))
    # Processes that end so are started below; here only what they read differs.
    assert watchdog.main() == 2
    printed, said = capfd.readouterr()
    assert printed == ""
    (line,) = said.splitlines()
    assert line.startswith(f"mayfly: {name} is ") and allowed in line
    assert list(tmp_path.iterdir()) == [tmp_path / "wrong.env"]  # nothing was begun


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7", "127.0.0.2"])
def test_an_address_for_others_without_a_key_is_refused_at_start(address: str, tmp_path: Path) -> None:
    (tmp_path / "empty.env").touch()
    ended = _watchdog(MAYFLY_ENV=tmp_path / "empty.env", LISTEN_IP=address, LISTEN_PORT=0,
                      RUN_FOLDER_NAME=tmp_path / "run")
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert "API_KEYS is empty" in line and f"'{address}'" in line and "LISTEN_IP=127.0.0.1" in line
    assert parse({"LISTEN_IP": address, "API_KEYS": "a-key-of-some-length"}).listen_ip == address


@pytest.mark.parametrize(("kind", "said"), [("absent", "doesn't exist"), ("no text", "line 3 isn't UTF-8"),
                                            ("folder", "is a folder"), ("socket", "can't be read")])
def test_an_env_file_that_is_absent_or_no_text_is_one_line_and_exit_code_2(
        kind: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    if kind == "no text":
        Path("my.env").write_bytes("N_CTX=512\r\n\r\n# f\xfcr mich\r\n".encode("latin-1"))
    elif kind == "folder":
        Path("my.env").mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("my.env")
    ended = _watchdog(MAYFLY_ENV=tmp_path / "my.env")
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("mayfly: ") and said in line and "my.env" in line


def _watchdog(**values: object) -> subprocess.CompletedProcess[str]:
    """Run the watchdog, which is expected to refuse; of the settings only these are in its environment."""
    environ = {name: value for name, value in os.environ.items() if name not in names()}
    environ.update({name: str(value) for name, value in values.items() if value is not None})
    return subprocess.run([sys.executable, str(PROJECT / "watchdog.py")], env=environ, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, encoding="utf-8", timeout=60)


def test_the_environment_wins_over_the_file_and_an_empty_variable_hides_nothing(tmp_path: Path) -> None:
    file = tmp_path / "my.env"
    file.write_text("LISTEN_PORT=7001\nN_CTX=512\nROUTE=/ask$HOME\nROUTE=/ask\n")
    loaded = load_settings({"MAYFLY_ENV": str(file), "LISTEN_PORT": "7002", "N_CTX": " ", "HOME": "/nowhere"})
    assert (loaded.listen_port, loaded.n_ctx, loaded.route) == (7002, 512, "/ask")
    assert loaded.queue_limit == parse({}).queue_limit


@pytest.mark.parametrize(("name", "text", "value"), [
    ("LISTEN_IP", "localhost", "127.0.0.1"), ("MAX_BODY", "2 mb", 2 << 20), ("MAX_BODY", "4096", 4096),
    ("MAX_BODY", "1K", 1024), ("DEBUG", "Yes", True), ("DEBUG", "off", False), ("ISOLATION", "Respawn", "respawn"),
    ("AUTHORIZED_URLS", "https://My.Ngrok.app/path, other.example:8080,", ("my.ngrok.app", "other.example")),
    ("ALLOWED_ORIGINS", "App://Obsidian.md, tauri:,null,file://,moz-extension://*,app://-",
     ("app://obsidian.md", "tauri://*", "null", "file://", "moz-extension://*", "app://-")),
    ("API_KEYS", " first-key-1 ,second-key-2", ("first-key-1", "second-key-2")), ("REQUEST_TIMEOUT", "1e2", 100.0),
    ("THREADS", "auto", available_cores()), ("THREADS", "Auto", available_cores()), ("THREADS", " ", available_cores()),
    ("MEMORY_LIMIT", "None", 0), ("PREFIX_MEMORY", "none", 0), ("PREFIX_MEMORY", "0", 0),
    ("MODEL_PATH", "some models", PROJECT / "some models"), ("MODEL_PATH", "/srv/models", Path("/srv/models")),
    ("LISTEN_PORT", " 0 ", 0), ("MODEL_NAME", "none", ""), ("MODEL_NAME", "None", ""), ("MODEL_NAME", "a", "a"),
    ("MODEL_NAME", "none.gguf", "none.gguf"), ("MODEL_NAME", " ", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ("EMBED_MODEL", "NONE", ""),
])
def test_a_value_may_be_written_in_the_ways_people_write_it(name: str, text: str, value: Any) -> None:
    assert getattr(parse({name: text}), name.lower()) == value


@pytest.mark.parametrize("line", [
    'PROMPT_TEMPLATE="### Human:\\n%1\\n\\n### Assistant:\\n"',
    "PROMPT_TEMPLATE='### Human:\\n%1\\n\\n### Assistant:\\n'",
    "PROMPT_TEMPLATE=### Human:\\n%1\\n\\n### Assistant:\\n", 'PROMPT_TEMPLATE="### Human:\n%1\n\n### Assistant:\n"',
], ids=["double quotes", "single quotes", "no quotes", "on several lines"])
def test_a_template_is_read_with_its_line_breaks_however_they_are_written(line: str, tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text(line + "\n", encoding="utf-8")
    loaded = load_settings({"MAYFLY_ENV": str(tmp_path / "my.env"), "SYSTEM_TEMPLATE": r" %1\n\n "})
    assert loaded.prompt_template == "### Human:\n%1\n\n### Assistant:\n"
    assert loaded.system_template == " %1\n\n "


def test_a_system_template_alone_is_refused() -> None:
    with pytest.raises(SettingError, match="PROMPT_TEMPLATE is empty; allowed: a PROMPT_TEMPLATE too"):
        parse({"SYSTEM_TEMPLATE": "%1"})


def test_fork_isolation_is_chosen_where_it_works_and_refused_where_it_does_not() -> None:
    linux = sys.platform.startswith("linux")
    engine = backends.serving("completion", ("gpt4all",))
    for wanted, device, found in (("auto", "cpu", "fork" if linux else "respawn"), ("auto", "gpu", "respawn"),
                                  ("respawn", "cpu", "respawn"), ("none", "cpu", "none")):
        settings = parse({"ISOLATION": wanted, "DEVICE": device})
        assert engine.isolation(settings.isolation, settings.device) == found
    with pytest.raises(SettingError, match="ISOLATION is 'fork', which works on Linux with DEVICE=cpu alone"):
        parse({"ISOLATION": "fork", "DEVICE": "gpu"})


def test_settings_travel_to_a_process_and_back() -> None:
    settings = parse({"API_KEYS": "a-key-of-some-length", "AUTHORIZED_URLS": "a.example", "MODEL_PATH": "/srv/models"})
    line = json.dumps(settings, default=plain)
    assert from_wire(json.loads(line), Settings) == settings


def test_nothing_else_reads_the_environment_or_the_env_file() -> None:
    reading = re.compile(r"os\.environ(\.get|\[[^]]+\](?! = ))|getenv|(import|from) dotenv")
    found = {path.relative_to(PROJECT).as_posix() for path in [*PROJECT.glob("mayfly/**/*.py"), *PROJECT.glob("*.py")]
             if reading.search(path.read_text(encoding="utf-8"))}
    # The client is a single file that is copied to other machines; LLAMA_LIBRARY travels from settings.py to the engine
    # in the environment of the processes. Ray takes what it is told from there, its token's path too.
    assert found == {"mayfly/settings.py", "mayfly/places.py", "embed_client.py", "mayfly/engines/backends.py",
                     "mayfly/engines/llamacpp/library.py", "mayfly/on_ray/node.py"}
