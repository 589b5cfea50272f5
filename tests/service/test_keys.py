"""API keys: what an entry may be, and the commands that change the line in .env and nothing else."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import scripts
from service import PROJECT, Service

from mayfly import keys
from mayfly.errors import SettingError
from mayfly.keys.ring import add, describe, remove
from mayfly.settings import load_settings, parse
from mayfly.web.access import Access

FILE = """\
# My settings: API_KEYS is below.
MODEL_NAME=a.gguf   # a comment

API_KEYS=first-start-key  # of the first start
# the end"""


@pytest.fixture
def env(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


def run(env: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: text for name, text in os.environ.items() if name != "API_KEYS"}
    return subprocess.run([sys.executable, "-S", "-m", "mayfly", "key", *arguments], cwd=PROJECT,
                          capture_output=True, text=True, env={**clean, "MAYFLY_ENV": str(env), **environ})


def test_an_entry_is_a_key_a_named_key_or_a_named_hash() -> None:
    plain = keys.parse("some-plain-key")
    named = keys.parse("laptop:some-plain-key")
    key, entry = keys.make("convex.prod")
    hashed = keys.parse(entry)
    assert plain == keys.Key("", hashlib.sha256(b"some-plain-key").digest(), False)
    assert named == keys.Key("laptop", hashlib.sha256(b"some-plain-key").digest(), False)
    assert hashed == keys.Key("convex.prod", hashlib.sha256(key.encode()).digest(), True)
    assert key not in entry
    assert len({keys.make("a")[0] for _ in range(10)}) == 10


@pytest.mark.parametrize("entry", [
    "short", "with blank", "naïve-key-1", "", ":12345678", "a b:12345678", "label:", "name:short", "a:b:12345678",
    "sha256:" + "0" * 64 + ":x", "name:sha256:1234", "name:sha256:" + "g" * 64, ":sha256:" + "0" * 64])
def test_what_is_no_key_is_refused_without_being_shown(entry: str) -> None:
    assert keys.parse(entry) is None
    if entry:
        with pytest.raises(SettingError, match="keys of 8 to 512") as caught:
            parse({"API_KEYS": f"good-key-1,{entry}"})
        assert entry not in str(caught.value)


def test_every_form_lets_its_key_in_and_a_hash_is_no_key() -> None:
    key, entry = keys.make("phone")
    access = Access.of(parse({"API_KEYS": f"plain-key-1,laptop:named-key-1,{entry}", "REQUIRE_KEY": "always"}))

    def lets_in(sent: str) -> bool:
        from mayfly.errors import AccessDenied

        try:
            access.check({"HTTP_AUTHORIZATION": f"Bearer {sent}", "REMOTE_ADDR": "127.0.0.1"})
        except AccessDenied:
            return False
        return True

    assert all(map(lets_in, ("plain-key-1", "named-key-1", key)))
    assert not any(map(lets_in, (entry, entry.rpartition(":")[2], "laptop:named-key-1", "laptop", "phone", "")))


def test_a_key_is_added_and_taken_out_and_the_rest_of_the_file_stays(env: Path) -> None:
    made = run(env, "add", "convex")
    key = made.stdout.strip()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", key)
    assert "Start the service again" in made.stderr and key not in made.stderr
    digest = hashlib.sha256(key.encode()).hexdigest()
    line = "API_KEYS=first-start-key"
    assert env.read_text() == FILE.replace(line, f"{line},convex:sha256:{digest}")
    assert run(env, "list").stdout == "(no name)  readable in the file\nconvex  hashed\n"
    assert run(env, "remove", "convex").returncode == 0
    assert env.read_text() == FILE
    assert env.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in env.parent.iterdir()] == [".env"]


def test_a_file_keeps_its_mode_and_a_new_one_is_its_owners_alone(env: Path, tmp_path: Path) -> None:
    env.chmod(0o640)
    add(env, "one")
    assert env.stat().st_mode & 0o777 == 0o640
    fresh = tmp_path / "fresh.env"
    key = add(fresh, "one")
    assert fresh.stat().st_mode & 0o777 == 0o600
    assert parse({"API_KEYS": fresh.read_text().strip().removeprefix("API_KEYS=")})
    assert key not in fresh.read_text()


@pytest.mark.parametrize(("text", "after"), [
    ("API_KEYS=\nA=1\n", "API_KEYS=NEW\nA=1\n"),
    ("A=1", "A=1\nAPI_KEYS=NEW\n"),
    ("A=1\r\n", "A=1\r\nAPI_KEYS=NEW\r\n"),
    ("export API_KEYS = 'one-key-1, two-key-2'\n", "export API_KEYS = one-key-1,two-key-2,NEW\n"),
    ('API_KEYS="one-key-1"\r\nA=1\r\n', "API_KEYS=one-key-1,NEW\r\nA=1\r\n"),
    ("API_KEYS=old-key-1\nAPI_KEYS=one-key-1\n", "API_KEYS=old-key-1\nAPI_KEYS=one-key-1,NEW\n"),
    ("\ufeffAPI_KEYS=one-key-1\r\nA=1\r\n", "\ufeffAPI_KEYS=one-key-1,NEW\r\nA=1\r\n"),
    ("\ufeffA=1\nAPI_KEYS=one-key-1\n", "\ufeffA=1\nAPI_KEYS=one-key-1,NEW\n"),
    ("\ufeff", "\ufeff\nAPI_KEYS=NEW\n"),
    ("#API_KEYS=one-key-1\n", "#API_KEYS=one-key-1\nAPI_KEYS=NEW\n")])
def test_the_line_is_found_in_each_of_its_forms(tmp_path: Path, text: str, after: str) -> None:
    env = tmp_path / ".env"
    env.write_bytes(text.encode())
    add(env, "new")
    written = re.sub("new:sha256:[0-9a-f]{64}", "NEW", env.read_bytes().decode())
    assert written == after


def test_after_a_byte_order_mark_no_key_is_lost(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("API_KEYS=first-start-key\nN_CTX=512\n", encoding="utf-8-sig")
    key = add(env, "second")
    assert [line.split()[0] for line in describe(env)] == ["(no", "second"]
    loaded = load_settings({"MAYFLY_ENV": str(env)})
    assert [keys.parse(entry) for entry in loaded.api_keys] == [
        keys.Key(name, keys.digest(text.encode()), name != "") for name, text in (("", "first-start-key"),
                                                                                  ("second", key))]
    remove(env, "second")
    assert env.read_text(encoding="utf-8") == "\ufeffAPI_KEYS=first-start-key\nN_CTX=512\n"


@pytest.mark.parametrize("text", ['API_KEYS="one-key-1\ntwo"\n', "API_KEYS='a\\'b-key-1'\n", b"\xff\xfe"])
def test_a_file_that_cannot_be_understood_is_left_alone(tmp_path: Path, text: str | bytes) -> None:
    env = tmp_path / ".env"
    content = text if isinstance(text, bytes) else text.encode()
    env.write_bytes(content)
    with pytest.raises(SettingError):
        add(env, "new")
    assert env.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


def test_a_name_that_is_taken_or_odd_or_unknown_is_refused(env: Path) -> None:
    add(env, "laptop")
    before = env.read_text()
    for arguments in (["add", "laptop"], ["add", "a,b"], ["add", "a:b"], ["add", ""], ["add", "x" * 65],
                      ["remove", "phone"], ["remove", ""]):
        refused = run(env, *arguments)
        assert (refused.returncode, refused.stdout) == (1, ""), arguments
        assert refused.stderr.startswith("mayfly: ") and "Traceback" not in refused.stderr
    assert env.read_text() == before
    with pytest.raises(SettingError, match="laptop"):
        remove(env, "phone")
    assert describe(env)[-1] == "laptop  hashed"


def test_commands_at_once_lose_no_key(env: Path) -> None:
    names = [f"name-{number}" for number in range(6)]
    children = [subprocess.Popen([sys.executable, "-S", "-m", "mayfly", "key", "add", name], cwd=PROJECT,
                                 env={**os.environ, "MAYFLY_ENV": str(env)}, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL) for name in names]
    assert [child.wait(60) for child in children] == [0] * 6
    assert sorted(line.split()[0] for line in describe(env)[1:]) == names


def test_it_is_said_when_the_environment_hides_the_file(env: Path) -> None:
    for command in (["add", "one"], ["list"], ["remove", "one"]):
        assert "wins over .env" not in run(env, *command).stderr
        assert "wins over .env" in run(env, *command[:1], *(["two"] if command[1:] else []), API_KEYS="other-1").stderr


def test_an_added_key_works_where_it_is_said_to_belong(env: Path, tmp_path: Path) -> None:
    kept = tmp_path / "keys"
    kept.write_text("other-key-1\n")
    for told, value in ((str(kept), f"@{kept}"), (str(kept), f"one-key-1, @{kept}"), ("API_KEYS there", "other-key-1")):
        name = f"n{len(describe(env))}"
        made = run(env, "add", name, API_KEYS=value)
        [line] = [line for line in made.stderr.splitlines() if "wins over .env" in line]
        entry, where = re.findall(r"works once (\S+) stands in (.*)\.$", line)[0]
        assert where == told
        if where == str(kept):
            kept.write_text(kept.read_text() + entry + "\n")
        else:
            value += "," + entry
        access = Access.of(parse({"API_KEYS": value, "REQUIRE_KEY": "always"}))
        access.check({"HTTP_AUTHORIZATION": f"Bearer {made.stdout.strip()}", "REMOTE_ADDR": "127.0.0.1"})


@pytest.mark.settings(EMBED_MODEL=scripts.VECTORS)
def test_an_added_key_lets_a_caller_from_elsewhere_in_and_is_written_nowhere(
        start: Callable[..., Service], env: Path) -> None:
    env.write_text("")
    key = add(env, "backend")
    service = start(MODEL_NAME="none", MAYFLY_ENV=env)
    forwarded = {"X-Forwarded-For": "203.0.113.5"}

    def status(**headers: str) -> int:
        return requests.post(service.url + "/embed", json={"input": "a"}, headers={**forwarded, **headers},
                             timeout=60).status_code

    assert status(Authorization=f"Bearer {key}") == 200
    assert status() == 401
    assert status(Authorization=f"Bearer {env.read_text().strip().rpartition(':')[2]}") == 401
    service.stop()
    for path in [*service.log_folder.iterdir()]:
        assert key not in path.read_text()
    assert key not in service.output()
