"""embed_client.py as a command: what people and scripts see, and the exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from played_service import DONE, Handler, PlayedService, as_a_service, error, event, stream, vector_of

CLIENT = Path(__file__).resolve().parents[2] / "embed_client.py"


def environment(url: str = "", **extra: str) -> dict[str, str]:
    """Return the surroundings of the command: no settings but those of the test."""
    unwanted = ("MAYFLY_", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "MAYFLY_URL": url, "MAYFLY_ENV": os.devnull, "PYTHONUTF8": "1", **extra}


class Result(NamedTuple):
    code: int
    out: str
    err: str


def run(url: str, *arguments: str, stdin: bytes = b"") -> Result:
    done = subprocess.run([sys.executable, str(CLIENT), *arguments], input=stdin, env=environment(url),
                          timeout=60, capture_output=True, check=False)
    out, err = (written.decode().replace("\r\n", "\n") for written in (done.stdout, done.stderr))
    return Result(done.returncode, out, err)


def start(url: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(CLIENT), *arguments], env=environment(url),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_texts_are_shown_in_an_aligned_table() -> None:
    with PlayedService() as service:
        result = run(service.url, "a cat", "猫", "x" * 300)
    assert result.out == (
        "text                            dimension  first numbers\n"
        "a cat                                   3   5.00000 -1.00000  1.00000\n"
        "猫                                      3   1.00000  1.00000  1.00000\n"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxx…          3  300.00000 -2.00000  1.00000\n")
    assert (result.code, result.err) == (0, "")


def test_json_is_one_array_of_one_array_a_text() -> None:
    with PlayedService() as service:
        result = run(service.url, "--json", "a", "b")
        assert json.loads(result.out) == [vector_of("a"), vector_of("b")]
        assert result.out.count("\n") == 2
        assert json.loads(run(service.url, "b", "--json", "a").out) == [vector_of("b"), vector_of("a")]


@pytest.mark.parametrize("arguments", [["--json"], ["--json", "-"], ["-", "--json"]])
def test_standard_input_is_a_text_a_line_and_blank_lines_count(arguments: list[str]) -> None:
    with PlayedService() as service:
        result = run(service.url, *arguments, stdin="\ufeffone\r\n\nthree \u2028 猫\nlast".encode())
        assert json.loads(result.out) == [vector_of(text) for text in ("one", "", "three \u2028 猫", "last")]


def test_a_final_line_break_adds_no_text() -> None:
    with PlayedService() as service:
        run(service.url, "first", "-", "last", stdin=b"caf\xc3\xa9\nb\n")
        assert service.requests[0].body == {"input": ["first", "caf\xe9", "b", "last"]}


@pytest.mark.skipif(os.name == "nt", reason="arguments are no bytes there")
@pytest.mark.parametrize(("arguments", "stdin", "what"), [
    (["a", "M\udcfcller"], b"", "text 1"), (["a", "-"], b"b\nM\xfcller\n", "text 2"),
    (["--complete", "M\udcfcller"], b"", "the prompt"), (["--complete", "-"], b"M\xfcller", "the prompt"),
    (["--complete", "a", "--persona", "M\udcfcller"], b"", "the persona")])
def test_bytes_that_are_not_utf_8_are_refused_and_not_sent(arguments: list[str], stdin: bytes, what: str) -> None:
    with PlayedService() as service:
        result = run(service.url, *arguments, stdin=stdin)
        assert (result.code, result.out) == (1, "")
        assert result.err == (f"embed_client.py: {what} holds half a character (a lone surrogate), or bytes that "
                              "aren't UTF-8: \"M\\udcfcller\"\n")
        assert service.requests == []


def test_empty_standard_input() -> None:
    with PlayedService() as service:
        assert run(service.url, "--json").out == "[]\n"
        result = run(service.url, "-")
        assert (result.code, result.err) == (1, "embed_client.py: standard input holds no text\n")
        assert service.requests == []


def test_compare_shows_a_matrix_with_wide_characters_in_line() -> None:
    with PlayedService() as service:
        result = run(service.url, "--compare", "a", "a", "猫と犬")
        assert result.out == (
            "                1       2       3\n"
            "1  a        1.000   1.000   0.853\n"
            "2  a        1.000   1.000   0.853\n"
            "3  猫と犬   0.853   0.853   1.000\n")
        cosines = json.loads(run(service.url, "--compare", "--json", "a", "猫と犬").out)
    assert cosines[0] == pytest.approx([1, 4 / 22**0.5])
    assert cosines[1][0] == cosines[0][1]


def test_control_characters_of_a_text_are_written_out() -> None:
    with PlayedService() as service:
        result = run(service.url, "red \x1b[31m \u202e", "-", stdin=b"tab\there\n")
    assert "\x1b" not in result.out
    assert r"red \x1b[31m \u202e" in result.out
    assert r"tab\there" in result.out


def test_complete_prints_the_answer() -> None:
    with PlayedService() as service:
        result = run(service.url, "--complete", "Why?", "--persona", "A poet.", "--max-tokens", "9")
        assert (result.out, result.code) == ("Because it is.\n", 0)
        run(service.url, "--complete", "-", stdin=b"Two\nlines")
        assert [request.body for request in service.requests] == [
            {"prompt": "Why?", "persona": "A poet.", "max_tokens": 9, "stream": True},
            {"prompt": "Two\nlines", "stream": True}]


def test_a_refusal_is_one_line_and_exit_code_1() -> None:
    for arguments in (["a"], ["--complete", "a"]):
        with PlayedService(error(400, "no such thing")) as service:
            result = run(service.url, *arguments)
            assert (result.code, result.out) == (1, "")
            assert result.err == "embed_client.py: no such thing (HTTP 400, request req-1)\n"


def test_no_service_is_one_line_with_the_command_that_starts_it() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        result = run("", "a", "--url", url)
    assert (result.code, result.out) == (1, "")
    assert result.err == (f"embed_client.py: no mayfly service at {url}: start it with `python3 start.sh` or "
                          "`mayfly serve`\n")


@pytest.mark.parametrize("arguments", [
    ["--complete", "a", "text"], ["--complete", "a", "--json"], ["--complete", "a", "--compare"],
    ["--persona", "p", "a"], ["--nonsense"]])
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str]) -> None:
    result = run("http://127.0.0.1:1", *arguments)
    assert result.code == 2
    assert "usage: embed_client.py" in result.err


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "1e99", "86401"])
def test_a_timeout_that_no_socket_can_wait_for_is_exit_code_2(timeout: str) -> None:
    result = run("http://127.0.0.1:1", "--timeout", timeout, "a")
    assert (result.code, result.out) == (2, "")
    assert result.err.endswith(f"error: --timeout is {float(timeout):g}; allowed: seconds above 0, at most 86400 "
                               "(a day)\n")


def test_a_wrong_address_or_key_is_one_line() -> None:
    for arguments in (["--url", "gopher://x"], ["--url", "http://127.0.0.1:1", "--key", "ä"]):
        result = run("", "a", *arguments)
        assert result.code == 1
        assert result.err.startswith("embed_client.py: ")
        assert result.err.count("\n") == 1


def test_a_copy_of_the_file_reads_the_env_file_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.copy(CLIENT, folder)
    with PlayedService() as service:
        port = service.server.server_port
        (folder / ".env").write_text(f"LISTEN_PORT={port}\nAPI_KEYS=secret-key,other\n")
        subprocess.run([sys.executable, "embed_client.py", "a"], cwd=folder, env=environment(MAYFLY_ENV=""),
                       check=True, timeout=60, stdout=subprocess.DEVNULL)
        assert service.requests[0].headers["Authorization"] == "Bearer secret-key"


@pytest.mark.parametrize("code_page", ["cp437", "cp1252", "ascii"])
@pytest.mark.parametrize("arguments", [["猫 🙂", "x" * 300], ["--compare", "猫", "b"], ["--complete", "Why?"]])
def test_a_code_page_without_the_characters_prints_marks(arguments: list[str], code_page: str) -> None:
    answer = stream(event(response="猫 🙂"), DONE) if "--complete" in arguments else as_a_service
    with PlayedService(answer) as service:
        done = subprocess.run(
            [sys.executable, str(CLIENT), *arguments], timeout=60, check=False, capture_output=True,
            env=environment(service.url, PYTHONIOENCODING=code_page))
    assert (done.returncode, done.stderr) == (0, b"")
    assert "?" in done.stdout.decode(code_page)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("arguments", [["a"], ["--complete", "a"]])
def test_control_c_ends_with_130_and_without_a_word(arguments: list[str]) -> None:
    with PlayedService(lambda handler: handler.rfile.read(1)) as service:
        command = start(service.url, *arguments)
        assert service.arrived.wait(60)
        command.send_signal(signal.SIGINT)
        assert command.communicate(timeout=60) == (b"", b"")
        assert command.returncode == 130


@pytest.mark.parametrize("arguments", [["--json", "a"], ["a"], ["--complete", "a"]])
def test_a_reader_that_leaves_causes_no_complaint(arguments: list[str]) -> None:
    closed = threading.Event()

    def answer_late(handler: Handler) -> None:
        assert closed.wait(120)
        as_a_service(handler)

    with PlayedService(answer_late) as service:
        command = start(service.url, *arguments)
        assert service.arrived.wait(60)
        assert command.stdout
        assert command.stderr
        command.stdout.close()
        closed.set()
        assert command.stderr.read() == b""
        assert command.wait(60) == 141
        command.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--json", "a"], ["a"], ["--complete", "a"], ["--help"]])
def test_output_that_cannot_be_written_is_one_line_and_exit_code_1(arguments: list[str]) -> None:
    for redirection, reason in ((">/dev/full", "can't be written: No space left on device"), (">&-", "is closed")):
        with PlayedService() as service:
            done = redirected(redirection, *arguments, url=service.url)
        assert (done.returncode, done.stderr) == (1, f"embed_client.py: standard output {reason}\n")


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_closed_input_is_one_line_and_closed_errors_leave_the_output_as_it_is() -> None:
    assert redirected("<&-", "-").stderr == "embed_client.py: standard input is closed\n"
    refused = redirected("2>&-", "a", url="gopher://x")
    assert (refused.returncode, refused.stdout) == (1, "")


def redirected(redirection: str, *arguments: str, url: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", f'exec "$0" "$@" {redirection}', sys.executable, str(CLIENT), *arguments],
                          env=environment(url), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)


def test_a_python_without_requests_is_told_what_to_do() -> None:
    done = subprocess.run([sys.executable, "-S", "-I", str(CLIENT), "a"], capture_output=True, timeout=60,
                          check=False)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("embed_client.py needs the package requests: ")
