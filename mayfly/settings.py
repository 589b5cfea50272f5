"""Every setting, and the only reader of `.env` and the environment.

A setting is one field of `Settings`; its environment name is the field's name in capitals. The environment
wins over `.env`. `.env` is looked for in mayfly's home (`mayfly.places`); the variable MAYFLY_ENV names another file.
A value that isn't allowed raises SettingError with the setting's name, the value and what is allowed.

A supervised process doesn't read settings itself: the watchdog hands it its own (`mayfly.wire.spec`), so
that an edit of `.env` can't leave half of the processes on other settings than the rest.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mayfly import forms, places
from mayfly.compat.cores import core_limit
from mayfly.compat.files import open_utf8
from mayfly.engines import backends
from mayfly.errors import SettingError

# In ALLOWED_ORIGINS, ALLOWED_METHODS and ALLOWED_HEADERS: whatever comes.
ANY = "*"
# The Origin that browsers send for pages that have none: those of files, and sandboxed frames of any site.
NO_ORIGIN = "null"


def _folder(text: str) -> Path:
    if not text or "\0" in text:
        raise forms.Refused("the path of a folder")
    return places.home() / Path(text).expanduser()


def _models(text: str) -> Path:
    folder = _folder(text)
    # The other folders tell of such by themselves: the run folder when it is taken, and the logs are done without.
    if any(os.path.lexists(path) and not os.path.isdir(path) for path in (folder, *folder.parents)):
        raise forms.Refused("the path of a folder, and there is something else in its place")
    return folder


def _library(text: str) -> str:
    if not text:
        return ""
    path = places.home() / Path(text.replace("\0", "")).expanduser()
    if not path.exists():
        raise forms.Refused("the path of libllama's file, or of the folder that it is in")
    return str(path)


def _threads(text: str) -> int:
    # More threads than cores is never right: gpt4all's threads spin while they wait for one another.
    cores = available_cores()
    if text.lower() == "auto":
        return cores
    try:
        return forms.integer(1, cores)(text)
    except forms.Refused as exc:
        raise forms.Refused(f"auto, or {exc}") from None


def _setting(default: str, parse: Callable[[str], Any], doc: str, *, verbatim: bool = False, secret: bool = False
             ) -> Any:
    # The blanks and line breaks around a verbatim setting belong to it. A secret one is never shown.
    return field(repr=not secret,
                 metadata={"default": default, "parse": parse, "doc": doc, "verbatim": verbatim, "secret": secret})


def available_cores() -> int:
    """Return how many cores this process may use: those that it is bound to, and no more than its container has."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(bound, core_limit())))


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Paths are absolute, sizes in bytes, times in seconds; a model that is `none` is ""."""

    model_path: Path = _setting("models", _models, "Folder of the model files.")
    model_list: str = _setting(
        "https://gpt4all.io/models/models3.json", forms.web_address,
        "gpt4all's list of the models that can be pulled, or a copy of it.")
    hf_endpoint: str = _setting(
        "", forms.web_address_or_none,
        "Mirror of the Hugging Face Hub, from which hf:OWNER/REPO/FILE.gguf is pulled. Empty: the hub itself.")
    hf_token: str = _setting(
        "", forms.secret,
        "Token of the hub, for models that it shows to some alone. Sent to the hub or its mirror only.", secret=True)
    model_name: str = _setting(
        "SmolLM2-135M-Instruct.Q4_1.gguf", forms.model_name,
        "Completion model: the name of a GGUF file in MODEL_PATH, or none: the service embeds only. The default one, "
        "which is small, is fetched at the first start.")
    embed_model: str = _setting(
        "all-MiniLM-L6-v2.gguf2.f16.gguf", forms.model_name,
        "Embedding model: the name of a GGUF file in MODEL_PATH, or none: the service completes only. The default one "
        "is made at the first start.")
    embed_engine: str = _setting(
        "auto", forms.one_of(backends.AUTO, *sorted(backends.names("embedding"))),
        "What computes embeddings. openvino: faster, for models of the architecture bert. llamacpp: of newer ones too. "
        "gpt4all: everywhere. auto: the first of these that works. The vectors are the same.")
    chat_engine: str = _setting(
        "auto", forms.one_of(backends.AUTO, *sorted(backends.names("completion"))),
        "What computes completions. llamacpp: models of all architectures that llama.cpp knows. gpt4all: those up to "
        "2024, everywhere. auto: llamacpp where it is installed and loads the file, else gpt4all.")
    llama_library: str = _setting(
        "", _library,
        "A build of llama.cpp for llamacpp, for this processor or a graphics card: libllama's file, or its folder. "
        "Empty: the one that 'start.sh tune' has compiled, else the one in the package xllamacpp.")
    embed_precision: str = _setting(
        "auto", forms.one_of("auto", "f32", "bf16"),
        "What openvino multiplies in. auto: bf16 where the processor has instructions for it, else f32.")
    max_models: int = _setting(
        "2", forms.integer(0, 32),
        "How many other models of MODEL_PATH may be loaded besides these two, when callers ask for them. The least "
        "recently used one leaves for the next.")
    memory_limit: int = _setting(
        "80%", forms.share_of_memory,
        "What all loaded models together may take: a part of this machine's memory, a size, or none. Estimated from "
        "the files' sizes and N_CTX.")
    prefix_memory: int = _setting(
        "5%", forms.share_of_memory_or_nothing,
        "What each completion model may keep of prompts that it has evaluated, so that a persona or the turns of a "
        "conversation aren't evaluated again: a part of this machine's memory, a size, or none. Beside MEMORY_LIMIT. "
        "llamacpp's alone, and not in respawn isolation.")
    model_aliases: Mapping[str, str] = _setting(
        "text-embedding-ada-002=embedding,text-embedding-3-small=embedding,text-embedding-3-large=embedding,"
        "all-minilm=all-MiniLM-L6-v2,all-minilm:l6-v2=all-MiniLM-L6-v2,"
        "sentence-transformers/all-MiniLM-L6-v2=all-MiniLM-L6-v2,mxbai-embed-large=embedding,"
        "nomic-embed-text=embedding,gpt-3.5-turbo=completion,gpt-4o-mini=completion,llama3=completion,"
        "llama3.2=completion",
        forms.aliases,
        "Other names of models. The words embedding and completion mean EMBED_MODEL and MODEL_NAME; any other word is "
        "a model's name.")
    prompt_template: str = _setting(
        "", forms.template(("%1",), ("%1", "%2")),
        "How MODEL_NAME's model is prompted, in gpt4all's form: %1 is the prompt, %2 (if given) the answer, \\n a line "
        "break; for example \"### Human:\\n%1\\n\\n### Assistant:\\n\", in quotes. Empty: as the model's file says.",
        verbatim=True)
    system_template: str = _setting(
        "", forms.template(("%1",)),
        "With PROMPT_TEMPLATE: how a persona is written, %1 being its text. Empty: the text and a blank line.",
        verbatim=True)
    route: str = _setting("/gpt4all_api", forms.route, "Path of the native completion route.")
    listen_ip: str = _setting(
        "127.0.0.1", forms.address,
        "Address to listen on. 127.0.0.1: this machine alone, by ::1 too. 0.0.0.0: every network (keys needed). :: is "
        "the same by IPv6 and IPv4.")
    listen_port: int = _setting(
        "6008", forms.integer(0, 65535), "Port to listen on. 0: any free one, printed at the start.")
    ollama_compat_port: int = _setting(
        "0", forms.integer(0, 65535),
        "A second port that answers the same, for programs that look for Ollama at its own: 11434. 0: none.")
    authorized_urls: tuple[str, ...] = _setting(
        "", forms.hosts,
        "Host names (or URLs) besides localhost under which this machine's own programs may call without a key.")
    api_keys: tuple[str, ...] = _setting(
        "", forms.api_keys,
        "Keys for callers from elsewhere, separated by commas. The first start writes a random one; the command 'key "
        "add NAME' makes more, of which it keeps only the hash. @PATH is a file that holds some, such as a secret of a "
        "container.", secret=True)
    require_key: str = _setting(
        "auto", forms.one_of("auto", "always"),
        "auto: direct calls from this machine need no key. always: every call does (raw TCP tunnels).")
    allowed_origins: tuple[str, ...] = _setting(
        "", forms.origins,
        "Web pages (their origins: scheme, host and port) and apps made of them (app://obsidian.md; vscode-webview://* "
        "is every origin of a scheme) that may call this service. * is every page, null every one without an origin "
        "(of a file, or in a sandboxed frame of any site): these need a key. Empty: none.")
    allowed_methods: tuple[str, ...] = _setting("*", forms.tokens, "HTTP methods that those pages may use.")
    allowed_headers: tuple[str, ...] = _setting("*", forms.tokens, "Headers that those pages may send.")
    allow_credentials: bool = _setting(
        "false", forms.truth, "Whether browsers may send their cookies and stored logins along.")
    venv_name: str = _setting(
        ".venv", str, "Folder of the virtual environment that start.sh makes.")
    log_folder_name: Path = _setting("logs", _folder, "Folder of the logs and failure reports.")
    log_keep: int = _setting("50", forms.integer(1, 100_000), "How many failure reports are kept.")
    run_folder_name: Path = _setting(
        "run", _folder, "Folder of sentinels, sockets and the lock while the service runs.")
    isolation: str = _setting(
        "auto", forms.one_of("auto", "fork", "respawn", "none"),
        "How each completion gets its fresh process. fork: milliseconds, Linux with DEVICE=cpu. respawn: a new "
        "process loads the model. none: one process serves all. auto: fork where it works, else respawn.")
    serve_on: str = _setting(
        "this", forms.one_of("this", "ray"),
        "Where the models are. this: processes on this machine. ray: replicas on a Ray cluster, which scales each "
        "model by itself (docs/scale.md; needs requirements-ray.txt).")
    ray_address: str = _setting(
        "", forms.ray_address,
        "With SERVE_ON=ray: the cluster's head, HOST or HOST:PORT; a node of it has to run on this machine. Empty: a "
        "cluster of this machine alone is started.")
    replicas: tuple[int, ...] = _setting(
        "1-4", forms.span(0, 1000),
        "With SERVE_ON=ray: how many replicas each model has, at least and at most (or just so many): as many as the "
        "calls that wait need. A model that isn't configured has none while nobody asks for it.")
    replica_threads: int = _setting(
        "1", forms.integer(1, 256),
        "With SERVE_ON=ray: compute threads of a replica, which takes so many cores of its node.")
    chat_processes: int = _setting("1", forms.integer(1, 64), "How many completions run at once.")
    threads: int = _setting(
        "auto", _threads, "Compute threads that embeddings and completions share. auto: all cores, or those that a "
        "container has.")
    n_ctx: int = _setting(
        "8192", forms.integer(16, 1_048_576),
        "Context window for completions, in tokens at most: a model's own may be smaller, and it is where MEMORY_LIMIT "
        "has no room for it. /v1/models tells each model's.")
    device: str = _setting(
        "cpu", forms.device, "Where completions are computed: cpu, gpu, cuda, kompute, or a device name.")
    queue_limit: int = _setting(
        "64", forms.integer(0, 1024), "Calls that may wait on each model before the answer is 429.")
    request_timeout: float = _setting("300", forms.seconds(0.1, 86_400), "Deadline of a request, in seconds.")
    receive_timeout: float = _setting(
        "20", forms.seconds(0.5, 3600), "Seconds within which a request must have arrived whole.")
    connection_limit: int = _setting(
        "500", forms.integer(8, 10_000),
        "Connections at once. Beyond it the one that has kept the service waiting longest is closed.")
    hang_seconds: float = _setting(
        "60", forms.seconds(0.5, 86_400), "A process whose heartbeat is older than this is killed and replaced.")
    start_seconds: float = _setting("300", forms.seconds(0.5, 86_400), "Seconds within which a process must be ready.")
    lame_duck_seconds: float = _setting(
        "0", forms.seconds(0, 3600),
        "Seconds for which a service that is told to stop still serves new requests, while /ready is 503 already: what "
        "a balancer needs to ask others.")
    grace_seconds: float = _setting(
        "10", forms.seconds(0, 86_400), "Seconds that requests in flight then have to finish.")
    max_body: int = _setting("8MB", forms.size(1024, 1 << 30), "Largest request body.")
    max_texts: int = _setting("2048", forms.integer(1, 1_000_000), "Most texts in one embedding request.")
    debug: bool = _setting(
        "false", forms.truth, "Also print what the worker processes write, and let crashed processes leave core dumps, "
        "which may hold keys and prompts.")

    @property
    def windows(self) -> int:
        """How many processes keep keys and values of a completion model: a template, or a standby, besides those of the
        completions that run at once."""
        return 1 if self.isolation == "none" else self.chat_processes + 1


def names() -> list[str]:
    """Return the environment name of every setting, in the order of `.env.example`."""
    return [entry.name.upper() for entry in dataclasses.fields(Settings)]


def parse(values: Mapping[str, str]) -> Settings:
    """Check raw values (environment name -> text) and return the settings.

    Raises:
        SettingError: a value isn't allowed; the message has a line for each that isn't.
    """
    parsed, wrong = _parsed(values, dataclasses.fields(Settings))
    if not wrong:
        settings = Settings(**parsed)
        wrong.extend(_conflicts(settings))
    if wrong:
        raise SettingError("\n".join(wrong))
    return settings


def refuse_early(flags: Mapping[str, str]) -> None:
    """Check what the environment sets, as far as that can be done before there are packages to read `.env` with: each
    value by itself, but for those that flags stand instead of, and secrets, which may be files' names.

    Raises:
        SettingError: as `parse`.
    """
    of_themselves = [entry for entry in dataclasses.fields(Settings) if in_environment(entry.name.upper())
                     and entry.name.upper() not in flags and not entry.metadata["secret"]]
    _, wrong = _parsed(os.environ, of_themselves)
    if wrong:
        raise SettingError("\n".join(wrong))


def _parsed(values: Mapping[str, str], entries: Iterable[dataclasses.Field[Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return the checked values of some settings by their fields' names, and a line for each that isn't allowed."""
    parsed: dict[str, Any] = {}
    wrong: list[str] = []
    for entry in entries:
        name = entry.name.upper()
        text = values.get(name, "")
        text = (text if entry.metadata["verbatim"] else text.strip()) if text.strip() else entry.metadata["default"]
        try:
            parsed[entry.name] = entry.metadata["parse"](text)
        except forms.Refused as exc:
            shown = "(not shown)" if entry.metadata["secret"] else repr(text)
            wrong.append(f"{name} is {shown}; allowed: {exc}")
    return parsed, wrong


def _conflicts(settings: Settings) -> Iterator[str]:
    """Yield what is wrong that depends on more than one setting."""
    if settings.isolation == "fork" and not any(engine.may_fork(settings.device) for engine in backends.BACKENDS):
        yield (f"ISOLATION is 'fork', which works on Linux with DEVICE=cpu alone (DEVICE is "
               f"{settings.device!r}); allowed here: auto, respawn, none")
    if settings.system_template and not settings.prompt_template:
        yield (f"SYSTEM_TEMPLATE is {settings.system_template!r}, but PROMPT_TEMPLATE is empty; allowed: a "
               "PROMPT_TEMPLATE too (both stand instead of the template in the model's file), or neither")
    if settings.ollama_compat_port and settings.ollama_compat_port == settings.listen_port:
        yield (f"OLLAMA_COMPAT_PORT is {settings.ollama_compat_port}, which LISTEN_PORT is too; allowed: "
               "another port, or 0 (LISTEN_PORT answers Ollama's clients as well)")
    if settings.allow_credentials and ANY in settings.allowed_origins:
        yield ("ALLOW_CREDENTIALS is true, but ALLOWED_ORIGINS has *; allowed: origins by name (browsers "
               "refuse the two together), or ALLOW_CREDENTIALS=false")
    if settings.listen_ip not in ("127.0.0.1", "::1") and not settings.api_keys:
        yield (f"API_KEYS is empty, but LISTEN_IP is {settings.listen_ip!r}; allowed: a key in API_KEYS "
               "(callers from other machines need one), or LISTEN_IP=127.0.0.1")


def env_file(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the settings are written: `.env`, or the file that MAYFLY_ENV names."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("MAYFLY_ENV") or places.home() / ".env")


def in_environment(name: str) -> str:
    """Return what the environment sets a setting to, by its environment name; "" if it doesn't."""
    return os.environ.get(name, "").strip()


def written(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the names and raw values in `.env` (or the file that MAYFLY_ENV names), settings' and others.

    Raises:
        SettingError: it can't be read, or MAYFLY_ENV names none.
    """
    from dotenv import dotenv_values

    environ = os.environ if environ is None else environ
    file = env_file(environ)
    named = f"MAYFLY_ENV is {str(file)!r}, which" if environ.get("MAYFLY_ENV") else f"the settings' file {file}"
    # spelling.py names what dotenv would warn of.
    logging.getLogger("dotenv.main").setLevel(logging.ERROR)
    try:
        # It is opened here, since dotenv takes what is no file for an empty one.
        lines = dotenv_values(stream=open_utf8(file), interpolate=False)
    except (FileNotFoundError, NotADirectoryError):
        if not environ.get("MAYFLY_ENV"):
            return {}
        raise SettingError(f"{named} doesn't exist; allowed: the path of a .env file") from None
    except (OSError, ValueError) as exc:
        # Docker makes a folder where a file that it is to mount is missing.
        why = "is a folder" if file.is_dir() else f"can't be read: {getattr(exc, 'strerror', None) or exc}"
        raise SettingError(f"{named} {why}; allowed: a file of NAME=VALUE lines, in UTF-8") from exc
    return {key: text for key, text in lines.items() if text is not None}


def lines_without_value(environ: Mapping[str, str] | None = None) -> list[int]:
    """Return the numbers of the lines in `.env` that set nothing: neither blank, nor comments, nor NAME=VALUE."""
    from dotenv.parser import parse_stream

    file = env_file(environ)
    if not file.exists():
        return []
    return [binding.original.line + _blank_lines(binding.original.string) for binding in parse_stream(open_utf8(file))
            if binding.error or (binding.key is not None and binding.value is None)]


def _blank_lines(text: str) -> int:
    # They belong to what follows them.
    return text.count("\n", 0, len(text) - len(text.lstrip()))


def load_settings(environ: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None) -> Settings:
    """Read `.env` (or the file that MAYFLY_ENV names) and the environment; the environment wins.

    Args:
        flags: what the command line says, by the settings' environment names; it wins over both.

    Raises:
        SettingError: a value isn't allowed, or `.env` can't be read.
    """
    environ = os.environ if environ is None else environ
    values = written(environ)
    # A variable that is set to nothing doesn't hide the line in `.env`.
    values.update({name: environ[name] for name in names() if environ.get(name, "").strip()})
    values.update(flags or {})
    settings = parse(values)
    if settings.llama_library and environ is os.environ:
        # The engine finds it there, in this process and in those that it starts.
        os.environ["LLAMA_LIBRARY"] = settings.llama_library
    return settings


def log_folder() -> Path:
    """Return LOG_FOLDER_NAME of this machine, whose other settings are no matter: a replica's are those of a service.

    Raises:
        SettingError: `.env` can't be read, or it is no path.
    """
    name = "LOG_FOLDER_NAME"
    return parse({name: in_environment(name) or written().get(name, "")}).log_folder_name
