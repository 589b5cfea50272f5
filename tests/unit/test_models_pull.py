"""Downloads from the published list: only what it names, whole and with the right sum."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from models_rig import FileServer

from mayfly.errors import ModelUnavailable
from mayfly.models import pull
from mayfly.models.download import NotOffered
from mayfly.settings import parse

CONTENT = random.Random(0).randbytes(1_000_000)
NAME = "some-model.Q4_0.gguf"
ADDRESS = "/gguf/" + NAME


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer()
    server.files[ADDRESS] = CONTENT
    publish(server, entry())
    yield server
    server.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def entry(**fields: object) -> dict[str, object]:
    known = {"filename": NAME, "filesize": str(len(CONTENT)), "md5sum": hashlib.md5(CONTENT).hexdigest()}
    return known | fields


def publish(server: FileServer, *entries: object) -> None:
    server.files["/models3.json"] = json.dumps(entries).encode()


def fetch(server: FileServer, models: Path, name: str = NAME) -> Path:
    return pull.pull(name, parse({"MODEL_PATH": str(models), "MODEL_LIST": server.url + "/models3.json"}))


def there(models: Path) -> list[str]:
    """Return the names of the files in the folder, but for the kept list."""
    return sorted(path.name for path in models.iterdir() if path.name != ".list.json")


def ranges(server: FileServer) -> list[str | None]:
    return [asked for path, asked in server.requests if path == ADDRESS]


def test_a_listed_model_is_downloaded(server: FileServer, models: Path) -> None:
    assert fetch(server, models).read_bytes() == CONTENT
    assert there(models) == [NAME]


def test_the_ending_of_the_name_may_be_left_out(server: FileServer, models: Path) -> None:
    assert fetch(server, models, NAME.removesuffix(".gguf")).name == NAME


def test_an_entry_may_name_another_address(server: FileServer, models: Path) -> None:
    server.files["/elsewhere/file"] = server.files.pop(ADDRESS)
    publish(server, entry(url=server.url + "/elsewhere/file"))
    assert fetch(server, models).read_bytes() == CONTENT


def test_a_model_that_is_there_is_not_fetched_again(server: FileServer, models: Path) -> None:
    models.mkdir()
    (models / NAME).write_bytes(b"mine")
    assert fetch(server, models).read_bytes() == b"mine"
    assert server.requests == []


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server: FileServer, models: Path) -> None:
    server.cut += [ADDRESS] * 2
    assert fetch(server, models).read_bytes() == CONTENT
    first, *later = ranges(server)
    assert first is None and len(later) == 2
    begins = [int(str(asked).removeprefix("bytes=").rstrip("-")) for asked in later]
    assert 0 < begins[0] < begins[1] < len(CONTENT)


def test_a_download_left_by_an_earlier_call_is_continued(server: FileServer, models: Path) -> None:
    models.mkdir()
    (models / (NAME + ".part")).write_bytes(CONTENT[:400_000])
    assert fetch(server, models).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=400000-"]
    assert there(models) == [NAME]


def test_a_download_that_was_complete_needs_no_request(server: FileServer, models: Path) -> None:
    models.mkdir()
    (models / (NAME + ".part")).write_bytes(CONTENT)
    assert fetch(server, models).read_bytes() == CONTENT
    assert ranges(server) == []


def test_when_the_server_is_gone_the_part_stays_for_the_next_call(server: FileServer, models: Path) -> None:
    models.mkdir()
    (models / (NAME + ".part")).write_bytes(CONTENT[:400_000])
    with socket.socket() as held:  # bound but not listening: nobody else gets this port, and nobody answers
        held.bind(("127.0.0.1", 0))
        publish(server, entry(url=f"http://127.0.0.1:{held.getsockname()[1]}/nobody"))
        with pytest.raises(ModelUnavailable, match=r"400000 of 1000000 bytes .* the same command continues it"):
            fetch(server, models)
    assert there(models) == [NAME + ".part"]
    publish(server, entry())
    assert fetch(server, models).read_bytes() == CONTENT


def test_a_wrong_sum_leaves_nothing(server: FileServer, models: Path) -> None:
    publish(server, entry(md5sum="0" * 32))
    with pytest.raises(ModelUnavailable, match="MD5"):
        fetch(server, models)
    assert there(models) == []


def test_a_part_of_another_file_is_found_out_and_removed(server: FileServer, models: Path) -> None:
    models.mkdir()
    (models / (NAME + ".part")).write_bytes(b"x" * 400_000)
    with pytest.raises(ModelUnavailable, match="MD5"):
        fetch(server, models)
    assert there(models) == []


def test_a_part_longer_than_the_file_is_begun_anew(server: FileServer, models: Path) -> None:
    models.mkdir()
    (models / (NAME + ".part")).write_bytes(CONTENT + b"more")
    assert fetch(server, models).read_bytes() == CONTENT


def test_a_file_longer_than_the_list_says_is_refused(server: FileServer, models: Path) -> None:
    server.files[ADDRESS] = CONTENT + b"more"
    with pytest.raises(ModelUnavailable, match="more than 1000000 bytes"):
        fetch(server, models)
    assert there(models) == []


def test_a_file_shorter_than_the_list_says_is_never_final(server: FileServer, models: Path) -> None:
    server.files[ADDRESS] = CONTENT[:-1]
    with pytest.raises(ModelUnavailable, match="less than 1000000 bytes"):
        fetch(server, models)
    assert there(models) == []


def test_a_server_that_always_begins_anew_is_given_up(server: FileServer, models: Path) -> None:
    server.without_ranges = True
    server.cut += [ADDRESS] * 100
    with pytest.raises(ModelUnavailable, match=r"broke off after \d+ of 1000000 bytes"):
        fetch(server, models)
    assert len(ranges(server)) < 10


@pytest.mark.parametrize("name", ["../" + NAME, "/etc/passwd", "..", "x\0y", "", " ", "hf:../x"])
def test_what_can_be_no_name_is_refused_without_asking_anybody(server: FileServer, models: Path, name: str) -> None:
    with pytest.raises(NotOffered, match=r"can't be the name of a model|isn't a name of the hub"):
        fetch(server, models, name)
    assert not models.exists() and not server.requests


def test_a_list_that_cannot_be_reached_is_told_with_what_helps(models: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"set MODEL_LIST to .*MODEL_PATH"):
        pull.pull(NAME, parse({"MODEL_PATH": str(models), "MODEL_LIST": "http://127.0.0.1:9/models3.json"}))


@pytest.mark.parametrize("name", ["other", "other.gguf"])
def test_a_name_that_is_not_in_the_list_is_refused(server: FileServer, models: Path, name: str) -> None:
    with pytest.raises(ModelUnavailable, match="list has no model"):
        fetch(server, models, name)
    assert not models.exists()
    assert {path for path, _ in server.requests} == {"/models3.json"}


@pytest.mark.parametrize("filename", ["../escaped.gguf", "/escaped.gguf", "a\\b.gguf", "C:x.gguf", ".x.gguf", "x.sh"])
def test_a_list_that_names_other_places_is_not_followed(server: FileServer, models: Path, filename: str) -> None:
    publish(server, entry(filename=filename, url=server.url + ADDRESS))
    with pytest.raises(NotOffered, match=r"list has no model|can't be the name of a model"):
        fetch(server, models, filename)
    assert not models.exists()


@pytest.mark.parametrize(
    "odd", [{}, [], 5, None, {"filename": 5}, {"filename": NAME, "filesize": "many", "md5sum": "x"}]
)
def test_odd_entries_of_the_list_are_passed_over(server: FileServer, models: Path, odd: object) -> None:
    publish(server, odd, entry())
    assert fetch(server, models).read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [b"", b"<html>not found</html>", b'{"error": 1}', b"\xff\xfe"])
def test_a_list_that_is_none_is_one_clear_error(server: FileServer, models: Path, answer: bytes) -> None:
    server.files["/models3.json"] = answer
    with pytest.raises(ModelUnavailable, match="gpt4all's list"):
        fetch(server, models)


def test_a_file_the_server_does_not_have_is_one_clear_error(server: FileServer, models: Path) -> None:
    del server.files[ADDRESS]
    with pytest.raises(ModelUnavailable, match="answers 404"):
        fetch(server, models)


def test_a_model_too_large_for_the_disk_is_refused_before_it_is_downloaded(server: FileServer, models: Path) -> None:
    publish(server, entry(filesize=str(1 << 60)))
    with pytest.raises(ModelUnavailable, match="GB are free"):
        fetch(server, models)
    assert ranges(server) == []


@pytest.mark.skipif(os.name == "nt", reason="file limits of POSIX systems")
def test_a_disk_that_fills_up_gives_no_file_under_the_final_name(server: FileServer, models: Path) -> None:
    script = f"""
import resource, signal
from mayfly.errors import ModelUnavailable
from mayfly.models.pull import pull
from mayfly.settings import parse
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    pull({NAME!r}, parse({{"MODEL_PATH": {str(models)!r}, "MODEL_LIST": {server.url + "/models3.json"!r}}}))
except ModelUnavailable as exc:
    print(exc)
"""
    folder = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert "can't be written" in result.stdout and "File too large" in result.stdout
    assert result.returncode == 0
    assert not (models / NAME).exists()
