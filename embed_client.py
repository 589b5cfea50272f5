#!/usr/bin/env python3
"""Client for a mayfly service: a single file to copy, which needs Python 3.10 and `requests`.

In a program:

    from embed_client import complete, embed

    vectors = embed(["The cat sat on the mat.", "猫坐在垫子上。"])       # two lists of 384 floats
    text = complete("Why is the sky blue?", persona="You answer in one sentence.")
    for piece in complete("Tell me a story.", stream=True):
        print(piece, end="", flush=True)

On the command line:

    python embed_client.py "The cat sat on the mat." "A dog ran."      a table for people
    python embed_client.py --json - < texts.txt                         a JSON array of vectors; a text a line
    python embed_client.py --compare "a cat" "a kitten" "a car"         how similar each is to each
    python embed_client.py --complete "Why is the sky blue?" --persona "You answer in one sentence."

The service is looked for at MAYFLY_URL, else on this machine at the LISTEN_PORT of the `.env` file beside
this one (MAYFLY_ENV names another), else at http://127.0.0.1:6008. The key is MAYFLY_API_KEY, else the first
of API_KEYS in that `.env`. A key found in these ways is never sent unencrypted to another machine; one that
is given (`key=`, `--key`) is.
"""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import errno
import functools
import ipaddress
import json
import math
import os
import random
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timezone
from pathlib import Path
from typing import Any, Literal, overload
from urllib.parse import urlsplit

try:
    import requests
except ImportError:
    if __name__ == "__main__":
        sys.exit("embed_client.py needs the package requests: run it with the Python of mayfly's .venv, "
                 "or pip install requests")
    raise
except KeyboardInterrupt:  # the slowest of the imports, so the likeliest to be interrupted
    if __name__ == "__main__":
        os._exit(130)
    raise

DEFAULT_PORT = 6008
DEFAULT_ROUTE = "/gpt4all_api"
MAX_TEXTS = 2048  # the service's own default limit for one call
MAX_CALL_BYTES = 4 << 20  # half of the service's default limit for a body
CONNECT_SECONDS = 10.0
MOST_SECONDS = 86_400.0  # as long as the service's REQUEST_TIMEOUT may be; sockets know no end of time


class MayflyError(Exception):
    """The service, or the way to it, failed.

    Attributes:
        status: the HTTP status, or None when there was no answer.
        code: the service's word for the error, such as "queue_full", or None.
        request_id: the id under which the service logged the request, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id

    def __str__(self) -> str:
        details = [f"HTTP {self.status}"] if self.status else []
        details += [f"request {self.request_id}"] if self.request_id else []
        return f"{self.args[0]} ({', '.join(details)})" if details else str(self.args[0])


class Client:
    """One service, over connections that are kept for the next call.

    Args:
        url: address of the service; by default as the module says.
        key: API key; by default as the module says.
        timeout: seconds without a byte from the service after which a call fails; above 0, a day at most.
        retry_seconds: seconds that one call may spend waiting between tries when the service is busy (429) or
            not ready (503). How long each wait is, the service says (`Retry-After`).
        route: path of the completion route; by default ROUTE of that `.env`, else /gpt4all_api.
        max_texts: most texts in one request; longer lists become several requests.
        sleep: what waits between tries.

    Raises:
        ValueError: such a timeout isn't allowed.
        MayflyError: the address isn't one, the key can't be one, or the `.env` file can't be read.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 300.0,
        retry_seconds: float = 30.0,
        route: str | None = None,
        max_texts: int = MAX_TEXTS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        written = _read_env_file()
        self.url = _checked_url(url or os.environ.get("MAYFLY_URL") or _local_url(written))
        self.timeout = _checked_timeout(timeout)
        self.retry_seconds = retry_seconds
        self.route = "/" + (route or written.get("ROUTE") or DEFAULT_ROUTE).lstrip("/")
        self.max_texts = max_texts
        self._sleep = sleep
        parts = urlsplit(self.url)
        self._on_this_machine = _is_loopback(parts.hostname or "")
        found = (os.environ.get("MAYFLY_API_KEY") or _readable_key(written.get("API_KEYS", ""))).strip()
        self._withheld = bool(found) and not key and not self._on_this_machine and parts.scheme == "http"
        self._session = requests.Session()
        # Proxies of the environment are for the world outside.
        self._session.trust_env = not self._on_this_machine
        self._session.auth = _bearer(key or ("" if self._withheld else found))
        self._session.headers["Content-Type"] = "application/json"
        self._session.headers["User-Agent"] = "mayfly-embed-client"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections."""
        self._session.close()

    def embed(self, texts: str | Iterable[str], *, long_text: str | None = None) -> list[list[float]]:
        """Return one vector for each text, in the order of the texts.

        Args:
            texts: the texts. A single str counts as a list of one text. No texts give no vectors.
            long_text: what to do with a text longer than the model's window: "mean" (the service's default:
                the mean of its parts' vectors) or "truncate" (its beginning).

        Returns:
            len(texts) lists of the model's dimension (384 for all-MiniLM-L6-v2), each of norm 1.

        Raises:
            MayflyError: the service refused, failed or can't be reached.
        """
        listed = [texts] if isinstance(texts, str) else texts
        encoded = [_encoded_text(text, number) for number, text in enumerate(listed)]
        ending = b"}" if long_text is None else b', "long_text": ' + json.dumps(long_text).encode() + b"}"
        vectors: list[list[float]] = []
        for batch in _batches(encoded, self.max_texts):
            response = self._post("/embed", b'{"input": [' + b", ".join(batch) + b"]" + ending)
            vectors += self._vectors(response, len(batch))
        return vectors

    @overload
    def complete(
        self, prompt: str, persona: str | None = None, *, stream: Literal[False] = False, **options: Any
    ) -> str: ...

    @overload
    def complete(
        self, prompt: str, persona: str | None = None, *, stream: Literal[True], **options: Any
    ) -> Iterator[str]: ...

    def complete(
        self, prompt: str, persona: str | None = None, *, stream: bool = False, **options: Any
    ) -> str | Iterator[str]:
        """Return the model's answer to a prompt.

        Args:
            prompt: what the user says.
            persona: who the model is to be (the system prompt).
            stream: return the answer in pieces as they are made. The request is sent at once; closing the
                iterator ends the generation.
            options: fields of the service's route: assist, model, max_tokens, temperature, top_k, top_p,
                min_p, repeat_penalty, repeat_last_n, stop. None means not given.

        Returns:
            The answer, or an iterator of its pieces, which raises MayflyError if the answer breaks off.

        Raises:
            MayflyError: the service refused, failed or can't be reached.
        """
        fields = {"prompt": prompt, "persona": persona, "stream": stream or None, **options}
        entries = [_encoded(name, "a field's name") + b": " + _encoded(value, f"the {name}")
                   for name, value in fields.items() if value is not None]
        response = self._post(self.route, b"{" + b", ".join(entries) + b"}")
        if stream:
            if "text/event-stream" not in response.headers.get("Content-Type", ""):
                raise self._not_understood(response)
            return self._pieces(response)
        answer = self._json(response)
        text = answer.get("response") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            raise self._not_understood(response)
        return text

    def _post(self, path: str, body: bytes) -> requests.Response:
        """Return the response with status 200, its body not read yet."""
        waited = 0.0
        tries = 0
        while True:
            response = self._send(path, body)
            if response.status_code == 200:
                return response
            error = self._error(response)
            pause = _pause(response, tries)
            if response.status_code not in (429, 503) or waited + pause > self.retry_seconds:
                raise error
            self._sleep(pause)
            waited += pause
            tries += 1

    def _send(self, path: str, body: bytes, again: bool = True) -> requests.Response:
        try:
            return self._session.post(
                self.url + path, data=body, stream=True, allow_redirects=False,
                timeout=(min(CONNECT_SECONDS, self.timeout), self.timeout))
        except requests.exceptions.SSLError as exc:
            raise MayflyError(f"no secure connection to {self.url}: {exc}") from exc
        except requests.exceptions.ReadTimeout as exc:
            raise self._silent() from exc
        except (requests.exceptions.ConnectTimeout, requests.exceptions.ProxyError) as exc:
            raise self._absent() from exc
        except requests.exceptions.ConnectionError as exc:
            # Only this attribute of the cause tells "never connected" from "connected, then cut".
            if hasattr(exc.args[0] if exc.args else None, "reason"):
                raise self._absent() from exc
            # A kept connection may have been closed at the other end meanwhile; asking twice does no harm.
            if again:
                return self._send(path, body, again=False)
            raise MayflyError(f"{self.url} closed the connection without an answer") from exc
        except (requests.exceptions.RequestException, ValueError) as exc:
            raise MayflyError(f"{self.url} can't be asked: {exc}") from exc

    def _vectors(self, response: requests.Response, count: int) -> list[list[float]]:
        answer = self._json(response)
        try:
            entries = sorted(answer["data"], key=lambda entry: entry["index"])
            vectors = [entry["embedding"] for entry in entries]
            if len(vectors) != count or not all(isinstance(vector, list) for vector in vectors):
                raise self._not_understood(response)
        except (KeyError, TypeError) as exc:
            raise self._not_understood(response) from exc
        return vectors

    def _pieces(self, response: requests.Response) -> Iterator[str]:
        with response:
            try:
                # One byte at a time: anything more waits for bytes that come with the next token.
                for line in response.iter_lines(chunk_size=1):
                    data = line[5:].strip() if line.startswith(b"data:") else b""
                    if data == b"[DONE]":
                        return
                    if data:
                        event = json.loads(data)
                        if "error" in event:
                            raise self._reported(event["error"], response)
                        if event["response"]:
                            yield event["response"]
            except requests.exceptions.RequestException as exc:
                raise self._broken_off(response, exc) from exc
            except (ValueError, KeyError, TypeError) as exc:
                raise self._not_understood(response, data) from exc
            raise self._broken_off(response)

    def _body(self, response: requests.Response) -> bytes:
        try:
            return response.content
        except requests.exceptions.RequestException as exc:
            raise self._broken_off(response, exc) from exc

    def _json(self, response: requests.Response) -> Any:
        try:
            return json.loads(self._body(response))
        except ValueError as exc:
            raise self._not_understood(response) from exc

    # -- what went wrong, in words ------------------------------------------------------------------------

    def _error(self, response: requests.Response) -> MayflyError:
        """Return the error that a status other than 200 stands for."""
        if response.is_redirect:
            target = _beginning(response.headers["Location"].encode())
            return self._failure(f"{self.url} redirects to {target}: is the address right?", response)
        try:
            return self._reported(self._json(response)["error"], response)
        except (KeyError, TypeError):
            return self._not_understood(response)
        except MayflyError as exc:
            return exc

    def _reported(self, error: dict[str, Any], response: requests.Response) -> MayflyError:
        message = str(error["message"])
        if response.status_code == 401 and self._withheld:
            message += ("; the key that was found was not sent, because this address is neither https nor "
                        "this machine: give it with --key (key=) to send it all the same")
        elif response.status_code == 401:
            message += "; the key comes from --key (key=), MAYFLY_API_KEY or API_KEYS in .env"
        return self._failure(message, response, error.get("code"))

    def _not_understood(self, response: requests.Response, data: bytes | None = None) -> MayflyError:
        beginning = _beginning(self._body(response) if data is None else data)
        return self._failure(f"{self.url} gave an answer that isn't mayfly's: {beginning}", response)

    def _broken_off(self, response: requests.Response, exc: Exception | None = None) -> MayflyError:
        if isinstance(exc, requests.exceptions.ConnectionError):  # so requests calls a timeout inside a body
            return self._silent()
        return self._failure(f"the answer of {self.url} broke off", response)

    def _failure(self, message: str, response: requests.Response, code: str | None = None) -> MayflyError:
        return MayflyError(message, status=response.status_code, code=code,
                           request_id=response.headers.get("X-Request-Id"))

    def _absent(self) -> MayflyError:
        start = "start it with `python3 start.sh` or `mayfly serve`"
        advice = start if self._on_this_machine else "is the address right?"
        return MayflyError(f"no mayfly service at {self.url}: {advice}")

    def _silent(self) -> MayflyError:
        return MayflyError(f"{self.url} was silent for {self.timeout:g} s")


def embed(
    texts: str | Iterable[str],
    *,
    url: str | None = None,
    key: str | None = None,
    timeout: float = 300.0,
    long_text: str | None = None,
) -> list[list[float]]:
    """Return one vector for each text: `Client.embed` with a client that is kept for the next call.

    A single str counts as a list of one text, so its vector is `embed("...")[0]`.
    """
    return _kept_client(url, key, timeout).embed(texts, long_text=long_text)


@overload
def complete(
    prompt: str, persona: str | None = None, *, url: str | None = None, key: str | None = None,
    timeout: float = 300.0, stream: Literal[False] = False, **options: Any,
) -> str: ...


@overload
def complete(
    prompt: str, persona: str | None = None, *, url: str | None = None, key: str | None = None,
    timeout: float = 300.0, stream: Literal[True], **options: Any,
) -> Iterator[str]: ...


def complete(
    prompt: str, persona: str | None = None, *, url: str | None = None, key: str | None = None,
    timeout: float = 300.0, stream: bool = False, **options: Any,
) -> str | Iterator[str]:
    """Return the model's answer, or its pieces: `Client.complete` with a client that is kept."""
    answer: str | Iterator[str] = _kept_client(url, key, timeout).complete(
        prompt, persona, stream=stream, **options)  # type: ignore[call-overload]
    return answer


def _kept_client(url: str | None, key: str | None, timeout: float) -> Client:
    # What the defaults come from may change between calls, and a fork must not share its parent's sockets.
    surroundings = tuple(os.environ.get(name) for name in ("MAYFLY_URL", "MAYFLY_API_KEY", "MAYFLY_ENV"))
    return _client(url, key, timeout, (*surroundings, os.getpid()))


@functools.lru_cache(maxsize=8)
def _client(url: str | None, key: str | None, timeout: float, surroundings: tuple[object, ...]) -> Client:
    return Client(url, key, timeout=timeout)


# ---- where the service is, and who may be told the key -----------------------------------------------------

def _read_env_file() -> dict[str, str]:
    named = os.environ.get("MAYFLY_ENV")
    path = Path(named or Path(__file__).resolve().parent / ".env")
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as exc:
        # None has to be beside this file, and another user's may be kept from this one.
        if not named and isinstance(exc, (FileNotFoundError, PermissionError)):
            return {}
        raise MayflyError(f"{'MAYFLY_ENV is ' if named else ''}{str(path)!r}, which can't be read: "
                          f"{exc.strerror or exc}") from exc
    name = r"^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*="
    value = r"""(?:[ \t]+#.*$|[ \t]*(?:'([^'\n]*)'|"([^"\n]*)"|(.*?)(?:[ \t]+#.*)?$))"""
    return {found[0]: "".join(found[1:]).strip() for found in re.findall(name + value, text, re.MULTILINE)}


def _local_url(written: dict[str, str]) -> str:
    address = written.get("LISTEN_IP") or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)
    return f"http://{host}:{written.get('LISTEN_PORT') or DEFAULT_PORT}"


def _checked_url(url: str) -> str:
    url = (url if "://" in url else "http://" + url).rstrip("/")
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or parts.query or parts.fragment:
        raise MayflyError(f"{url!r} is not the address of a service, such as http://127.0.0.1:{DEFAULT_PORT}")
    return url


def _checked_timeout(seconds: float) -> float:
    if not 0 < seconds <= MOST_SECONDS:
        raise ValueError(f"timeout is {seconds:g}; allowed: seconds above 0, at most {MOST_SECONDS:g} (a day)")
    return seconds


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _readable_key(entries: str) -> str:
    """Return the first key in API_KEYS that isn't hashed; an entry is KEY, NAME:KEY or NAME:sha256:DIGEST."""
    readable = [entry.strip() for entry in entries.split(",") if ":sha256:" not in entry]
    return readable[0].rpartition(":")[2] if readable else ""


def _bearer(key: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return what puts the key into a request.

    Set as the session's auth even when there is no key: otherwise requests takes one from ~/.netrc.
    """
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise MayflyError("the key holds what no key can: a blank, a line break or a character beyond ASCII")

    def add_key(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    return add_key


# ---- requests and answers ----------------------------------------------------------------------------------

def _encoded_text(text: str, number: int) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"text {number} is of type {type(text).__name__}, not str")
    return _encoded(text, f"text {number}")


def _encoded(value: object, what: str) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        around = ascii(exc.object[max(0, exc.start - 20):exc.start + 20])[1:-1]
        # Python reads bytes that aren't UTF-8, in arguments and names of files, as lone surrogates.
        raise MayflyError(f"{what} holds half a character (a lone surrogate), or bytes that aren't UTF-8: "
                          f"{around}") from exc


def _batches(encoded: Sequence[bytes], most: int) -> Iterator[list[bytes]]:
    """Yield the encoded texts in order, at most `most` and, if they are several, MAX_CALL_BYTES at once."""
    batch: list[bytes] = []
    size = 0
    for text in encoded:
        if batch and (len(batch) == most or size + len(text) > MAX_CALL_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def _pause(response: requests.Response, tries: int) -> float:
    """Return how many seconds to wait before the next try: what Retry-After asks for, else ever longer."""
    asked = response.headers.get("Retry-After", "").strip()
    seconds = min(8.0, 0.5 * 2.0**tries)
    if re.fullmatch(r"\d{1,9}(\.\d+)?", asked):
        seconds = float(asked)
    elif asked:
        with contextlib.suppress(ValueError, OverflowError, OSError):
            moment = email.utils.parsedate_to_datetime(asked)
            if moment.tzinfo is None:  # "-0000", which means UTC too
                moment = moment.replace(tzinfo=timezone.utc)
            seconds = max(0.0, moment.timestamp() - time.time())
    # The jitter only adds: earlier than asked is useless, and many clients must not come back at one instant.
    return seconds + random.uniform(0.05, 0.25) * (1 + min(seconds, 4.0))


def _beginning(body: bytes) -> str:
    text = body.decode(errors="replace")
    return ascii(text[:80]) + ("..." if len(text) > 80 else "")


# ---- the command line --------------------------------------------------------------------------------------

def _columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(0 if unicodedata.category(char) in ("Mn", "Me", "Cf") else
               2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _printable(text: str, keep: str = "\u200c\u200d") -> str:
    """Return the text with what would steer a terminal (control characters, direction marks) written out."""
    steering = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(ascii(char)[1:-1] if unicodedata.category(char) in steering and char not in keep else char
                   for char in text)


def _fitted(text: str, columns: int) -> str:
    """Return the text cut or padded to exactly so many columns of a terminal."""
    text = _printable(text)
    if _columns(text) > columns:
        while _columns(text) > columns - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (columns - _columns(text))


def _label_columns(texts: Sequence[str], most: int) -> int:
    return max(4, min(most, max(_columns(_printable(text)) for text in texts)))


def _vector_table(texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> Iterator[str]:
    columns = _label_columns(texts, max(20, shutil.get_terminal_size().columns - 50))
    yield f"{'text':<{columns}}  dimension  first numbers"
    for text, vector in zip(texts, vectors, strict=True):
        numbers = " ".join(f"{number:8.5f}" for number in vector[:4])
        yield f"{_fitted(text, columns)}  {len(vector):9d}  {numbers}"


def similarities(vectors: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the n x n cosines between n vectors, from -1 to 1; 0 where a vector is all zeros."""
    units = []
    for vector in vectors:
        norm = math.sqrt(sum(number * number for number in vector)) or 1.0
        units.append([number / norm for number in vector])
    return [[sum(x * y for x, y in zip(a, b, strict=True)) for b in units] for a in units]


def _similarity_table(texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> Iterator[str]:
    digits = len(str(len(texts)))
    columns = _label_columns(texts, 32)
    yield " " * (digits + 2 + columns) + "".join(f"{number:8d}" for number in range(1, len(texts) + 1))
    for number, (text, row) in enumerate(zip(texts, similarities(vectors), strict=True), 1):
        yield f"{number:>{digits}}  {_fitted(text, columns)}" + "".join(f"{cosine:8.3f}" for cosine in row)


def _stdin_text() -> str:
    if sys.stdin is None:
        raise MayflyError("standard input is closed")
    return sys.stdin.buffer.read().decode("utf-8-sig", errors="surrogateescape")  # refused as an argument's are


def _given_texts(arguments: Sequence[str]) -> list[str]:
    """Return the texts of the command line, with standard input's lines in the place of each "-"."""
    texts: list[str] = []
    for argument in arguments:
        if argument == "-":
            # Blank lines count, so that line n and vector n stay together.
            lines = _stdin_text().split("\n")
            texts += [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
        else:
            texts.append(argument)
    return texts


def _announced_sleep(seconds: float) -> None:
    if sys.stderr.isatty():
        print(f"embed_client.py: the service is busy or not ready; asking again in {seconds:.0f} s", file=sys.stderr)
    time.sleep(seconds)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="embed_client.py", description="Ask a mayfly service for embeddings or for a completion.")
    parser.add_argument("texts", nargs="*", metavar="TEXT",
                        help='text to embed; "-": a text a line from standard input')
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--compare", action="store_true",
                      help="print how similar each text is to each (cosine)")
    form.add_argument("--complete", metavar="PROMPT",
                      help='print the completion of a prompt ("-": from standard input)')
    parser.add_argument("--json", action="store_true",
                        help="print a JSON array of arrays: each text's vector (with --compare: its cosines)")
    parser.add_argument("--persona", help="with --complete: who the model is to be")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="with --complete: most tokens to make")
    parser.add_argument("--url", help="address of the service (else MAYFLY_URL)")
    parser.add_argument("--key", help="API key (else MAYFLY_API_KEY, which other users here can't see)")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS",
                        help="give up after so long without a byte (300; a day at most)")
    options = parser.parse_intermixed_args(argv)
    if options.complete is not None and (options.texts or options.json):
        parser.error("--complete goes with neither TEXT nor --json")
    if options.complete is None and (options.persona is not None or options.max_tokens is not None):
        parser.error("--persona and --max-tokens go with --complete")
    try:
        _checked_timeout(options.timeout)
    except ValueError as exc:
        parser.error(f"--{exc}")
    if options.complete is None and not options.texts:
        if sys.stdin is None or sys.stdin.isatty():
            parser.error("no text is given")
        options.texts = ["-"]
    return options


def _lines(options: argparse.Namespace, client: Client) -> Iterator[str]:
    """Yield the lines to print for a call of embeddings."""
    texts = _given_texts(options.texts)
    if not texts and not options.json:
        raise MayflyError("standard input holds no text")
    vectors = client.embed(texts)
    if options.json:
        rows = similarities(vectors) if options.compare else vectors
        yield "[" + ",\n".join(json.dumps(row) for row in rows) + "]"
    elif options.compare:
        yield from _similarity_table(texts, vectors)
    else:
        yield from _vector_table(texts, vectors)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after one line about what failed."""
    options = _arguments(argv)
    try:
        with Client(options.url, options.key, timeout=options.timeout, sleep=_announced_sleep) as client:
            if options.complete is None:
                for line in _lines(options, client):
                    print(line)
            else:
                prompt = _stdin_text() if options.complete == "-" else options.complete
                chosen = {"persona": options.persona, "max_tokens": options.max_tokens}
                on_terminal = sys.stdout.isatty()
                for piece in client.complete(prompt, stream=True, **chosen):
                    print(_printable(piece, "\n\t\u200c\u200d") if on_terminal else piece, end="", flush=True)
                print()
    except MayflyError as exc:
        print(f"embed_client.py: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if sys.stderr is None:  # print would take standard output in its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        sys.exit("embed_client.py: standard output is closed")
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(errors="replace")  # type: ignore[union-attr]  # a code page without the character
    try:
        try:
            sys.exit(main())
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except OSError as exc:
        if exc.errno in (errno.EPIPE, errno.EINVAL):  # EINVAL: the same on Windows
            code = 141  # `| head` has seen enough
        else:
            print(f"embed_client.py: standard output can't be written: {exc.strerror or exc}", file=sys.stderr)
            code = 1
    # Not sys.exit: the interpreter would flush what is left, and complain once more.
    os._exit(code)
