#!/bin/sh
''':'
# One file for two readers. sh runs this loop and never gets beyond it; for Python it is a string.
for python in python3 python; do
    if command -v "$python" >/dev/null 2>&1; then
        exec "$python" "$0" "$@"
    fi
done
echo "start.sh: mayfly needs Python 3.10 or newer, and no python3 was found. Install it and run start.sh again." >&2
exit 1
':'''
# Set up what is missing, then become watchdog.py. Started by a person (or start.bat); uses the standard library
# alone. It owns the virtual environment and the first .env, and ends by handing its process to watchdog.py.
#
# Any Python down to 2.7 has to be able to read this file, or a person with an old one is shown a SyntaxError
# instead of a sentence: hence no f-strings, no annotations, no keyword-only arguments.

import os
import sys

NEEDED_PYTHON = (3, 10)


def newer_python():
    """Return the name of an installed Python that is new enough, or None."""
    import subprocess

    test = "import sys; sys.exit(sys.version_info < %r)" % (NEEDED_PYTHON,)
    for minor in range(20, NEEDED_PYTHON[1] - 1, -1):
        name = "python3.%d" % minor
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            path = os.path.join(folder, name)
            # Version switchers leave a file of that name that only prints an error, so it has to run.
            if os.access(path, os.X_OK):
                with open(os.devnull, "w") as nowhere:
                    if subprocess.call([path, "-c", test], stdout=nowhere, stderr=nowhere) == 0:
                        return name
    return None


if sys.version_info[:2] < NEEDED_PYTHON:
    newer = newer_python()
    advice = "Run" if newer else "Install Python 3.10 or newer, then run"
    sys.exit("start.sh: mayfly needs Python 3.10 or newer; this is %s at %s. %s: %s start.sh" % (
        ".".join(str(part) for part in sys.version_info[:3]), sys.executable, advice, newer or "python3.12"))


import contextlib  # noqa: E402
import errno  # noqa: E402
import glob  # noqa: E402
import hashlib  # noqa: E402
import importlib.util  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

PROJECT = os.path.dirname(os.path.realpath(__file__))

# What the settings are when nobody sets them. A test holds these against mayfly/settings.py, which can't be
# imported here: its packages may not be installed yet.
DEFAULTS = {
    "VENV_NAME": ".venv",
    "MODEL_PATH": "models",
    "EMBED_MODEL": "all-MiniLM-L6-v2.gguf2.f16.gguf",
    "MODEL_NAME": "mayfly-nano-demo.gguf",
    "LISTEN_IP": "127.0.0.1",
    "LISTEN_PORT": "6008",
    "API_KEYS": "",
}

USAGE = """\
usage: start.sh [--OPTION ...]       set up what is missing, then run the service (options go to watchdog.py)
       start.sh test [ARGUMENT ...]  set up, then run the tests (arguments go to pytest)
       start.sh pull NAME            set up, then fetch a completion model into MODEL_PATH
       start.sh key add NAME         make a key for callers from elsewhere; `key list`, `key remove NAME`
       start.sh doctor               tell what is in place and what is missing; changes nothing
       start.sh --help               show this

options, each of which wins over a setting in .env:
  --host ADDRESS              LISTEN_IP
  --port PORT                 LISTEN_PORT
  --model NAME                MODEL_NAME; none: embeddings alone
  --embed-model NAME          EMBED_MODEL; none: completions alone
  --api-keys KEYS|@FILE       API_KEYS; what is on a command line, every user of this machine can see (ps): name a
                              file that holds the keys, or leave them in .env
  --allowed-origins LIST      ALLOWED_ORIGINS; a LIST is separated by commas, or a JSON list of strings
  --allowed-methods LIST      ALLOWED_METHODS
  --allowed-headers LIST      ALLOWED_HEADERS
  --allow-credentials         ALLOW_CREDENTIALS
"""

# Files of ours inside the virtual environment, so that whoever removes it removes all we believe about it.
LOCK = ".mayfly-lock"
UNFINISHED = ".mayfly-unfinished"
MADE = ".mayfly-made"
STAMP = ".mayfly-installed-"


class Refused(Exception):
    """The start can't go on; the message is one line that says what to do."""


def say(line):
    sys.stdout.write("start.sh: %s\n" % line)
    sys.stdout.flush()


# ---- settings ----------------------------------------------------------------------------------------------

# python-dotenv's grammar as far as one setting a line needs it (a test compares the two).
ENV_LINE = re.compile(r"""
    ^[ \t]* (?:export[ \t]+)? (?P<name>[A-Za-z_][A-Za-z0-9_]*) [ \t]* =
    (?: [ \t]+\#.*
      | [ \t]* (?: '(?P<single>(?:\\[\s\S]|[^'\\])*)' | "(?P<double>(?:\\[\s\S]|[^"\\])*)" ) [ \t]* (?:\#.*)?
      | [ \t]* (?P<plain>(?!['"]).*) )$
    """, re.VERBOSE | re.MULTILINE)
ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def read_env_file(path):
    """Return the names and values of a .env file; an absent file has none."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise Refused("%s is not UTF-8 text; save it as UTF-8 and run start.sh again" % path)
    values = {}
    for match in ENV_LINE.finditer(text):
        if match.group("single") is not None:
            value = re.sub(r"\\([\\'])", r"\1", match.group("single"))
        elif match.group("double") is not None:
            value = re.sub(r"\\([\\'\"abfnrtv])", lambda escape: ESCAPES.get(escape.group(1), escape.group(1)),
                           match.group("double"))
        else:
            value = re.sub(r"\s+#.*", "", match.group("plain") or "").strip()
        values[match.group("name")] = value
    return values


def env_file():
    return os.environ.get("MAYFLY_ENV") or os.path.join(PROJECT, ".env")


def read_settings():
    """Return the settings that the set-up needs; the environment wins, and nothing means the default."""
    written = read_env_file(env_file())
    return {name: os.environ.get(name, "").strip() or written.get(name, "").strip() or default
            for name, default in DEFAULTS.items()}


def write_first_env():
    """Copy .env.example to .env with a random key in it, unless there is a .env (or MAYFLY_ENV names another)."""
    target = os.path.join(PROJECT, ".env")
    if os.environ.get("MAYFLY_ENV") or os.path.lexists(target):
        return
    import secrets

    with open(os.path.join(PROJECT, ".env.example"), encoding="utf-8", newline="") as file:
        text = file.read()
    line = "API_KEYS=" + secrets.token_urlsafe(32)
    text, found = re.subn(r"(?m)^API_KEYS[ \t]*=[^\r\n]*", line, text, count=1)
    if not found:
        text += "\n%s\n" % line
    # mkstemp makes the file for its owner alone, before the key is in it.
    handle, draft = tempfile.mkstemp(prefix=".env.", suffix=".part", dir=PROJECT)
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        publish(draft, target)
    finally:
        if os.path.exists(draft):
            os.remove(draft)


def publish(draft, target):
    """Give the file `draft` the name `target` in one step, unless another start was first."""
    try:
        os.link(draft, target)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links; Windows' rename refuses to overwrite by itself
        if os.path.lexists(target):
            return
        os.rename(draft, target)
    say("made .env with a new API key in it")


def model_file(settings, which):
    """Return the path of the model that the setting `which` names, with or without its ".gguf"; None for `none`."""
    name = settings[which]
    if name.lower() == "none":
        return None
    if not name.endswith((".gguf", ".script.json")):
        name += ".gguf"
    path = os.path.join(PROJECT, os.path.expanduser(settings["MODEL_PATH"]), name)
    own = os.path.join(PROJECT, DEFAULTS["MODEL_PATH"], name)
    if name == DEFAULTS["MODEL_NAME"] and os.path.isfile(own) and not os.path.isfile(path):
        return own  # it comes with the project, and the service takes it from there
    if not os.path.exists(path):
        split = sorted(glob.glob(glob.escape(path[:-len(".gguf")]) + "-00001-of-[0-9][0-9][0-9][0-9][0-9].gguf"))
        return split[0] if split else path
    return path


@contextlib.contextmanager
def child(command, lock, **options):
    """Run a part of the set-up as a process that ends before we do, unless we are killed.

    In that case it goes on alone, and holds the lock of the set-up until it ends.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=PROJECT,
                               pass_fds=(lock,) if os.name != "nt" else (), **options)
    try:
        yield process
    except BaseException:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


# ---- the virtual environment -------------------------------------------------------------------------------

def environment_folder(settings):
    """Return the folder of the virtual environment: the active one, else VENV_NAME."""
    if sys.prefix != sys.base_prefix:
        return sys.prefix
    return os.path.join(PROJECT, os.path.expanduser(settings["VENV_NAME"]))


def environment_python(folder):
    if sys.prefix != sys.base_prefix:
        return sys.executable
    return os.path.join(folder, *(["Scripts", "python.exe"] if os.name == "nt" else ["bin", "python"]))


def environment_version(folder):
    """Return the (major, minor) of the Python that made the environment, or None if it doesn't say."""
    try:
        with open(os.path.join(folder, "pyvenv.cfg"), encoding="utf-8") as file:
            match = re.search(r"(?m)^version(?:_info)?\s*=\s*(\d+)\.(\d+)", file.read())
    except OSError:
        return None
    return (int(match.group(1)), int(match.group(2))) if match else None


def environment_fault(folder):
    """Return why the environment can't be used as it is, or None.

    Raises:
        Refused: it can't, and it isn't ours to make anew.
    """
    if sys.prefix != sys.base_prefix:
        return None
    if not os.path.isdir(folder) or not set(os.listdir(folder)) - {LOCK}:
        return "there is none yet"
    if os.path.exists(os.path.join(folder, UNFINISHED)):
        return "an earlier start was interrupted while making it"
    if not os.path.exists(os.path.join(folder, "pyvenv.cfg")):
        # Making it anew empties it, and VENV_NAME may be anybody's folder by mistake.
        raise Refused("VENV_NAME is %r, a folder that is not a virtual environment; remove it or choose another name"
                      % folder)
    python = environment_python(folder)
    version = environment_version(folder)
    if not os.path.exists(python):
        fault = "its Python is gone"
    elif version and version < NEEDED_PYTHON:
        fault = "it was made with Python %d.%d" % version
    elif version != sys.version_info[:2] and os.path.realpath(python) == os.path.realpath(sys.executable):
        fault = "its Python was upgraded"  # a system upgrade moved python3 on; the packages are in the old folder
    else:
        return None
    if not os.path.exists(os.path.join(folder, MADE)):
        raise Refused("the virtual environment %s can't be used, %s, and start.sh didn't make it; remove it or choose "
                      "another VENV_NAME" % (folder, fault))
    return fault


def make_environment(folder, why, lock):
    """Make the virtual environment anew in `folder`."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise Refused("this Python (%s) can't make virtual environments. On Debian or Ubuntu: apt install python3-venv "
                      "(or python%d.%d-venv), then run start.sh again" % ((sys.executable,) + sys.version_info[:2]))
    say("making the virtual environment %s with Python %d.%d (%s)" % ((folder,) + sys.version_info[:2] + (why,)))
    open(os.path.join(folder, UNFINISHED), "w").close()
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name in (LOCK, UNFINISHED):
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.remove(path)
    with child([sys.executable, "-m", "venv", folder], lock, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as made:
        said = made.communicate()[0]
    if made.returncode:
        last = (said.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise Refused("the virtual environment %s can't be made: %s" % (folder, last))
    os.replace(os.path.join(folder, UNFINISHED), os.path.join(folder, MADE))


@contextlib.contextmanager
def set_up_lock(folder):
    """Hold the lock of the set-up, which another start may hold for minutes.

    Yields:
        Its descriptor, which the processes of the set-up inherit.
    """
    os.makedirs(folder, exist_ok=True)
    lock = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not lock_now(lock):
            say("another start.sh is setting up here; waiting for it")
            while not lock_now(lock):
                time.sleep(0.2)
        yield lock
    finally:
        os.close(lock)


def lock_now(lock):
    """Take the lock if it is free; tell whether that worked."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


# ---- packages ----------------------------------------------------------------------------------------------

# Words of pip and its urllib3 for "no connection", of several versions; and those of faults that may follow a
# connection that was only slow at first.
NETWORK_FAULT = re.compile(
    "after connection broken by|Max retries exceeded|(?:NewConnection|NameResolution|ConnectTimeout|ReadTimeout|Proxy"
    "|Protocol)Error|IncompleteRead|Failed to (?:connect|resolve|establish)|Temporary failure in name resolution")
OTHER_FAULT = re.compile("No space left|subprocess-exited-with-error|Permission denied")


def requirements(action):
    """Return the requirement files of an action, in the order of their installation."""
    files = ["requirements.txt"]
    if action == "test" and os.path.exists(os.path.join(PROJECT, "requirements-dev.txt")):
        files.append("requirements-dev.txt")
    return files


def fingerprint(folder, name):
    """Return what the stamp of a requirement file says once its present content is installed."""
    # requirements.txt can move packages that requirements-dev.txt pinned, so it counts there too.
    content = hashlib.sha256()
    for file_name in sorted({"requirements.txt", name}):
        with open(os.path.join(PROJECT, file_name), "rb") as file:
            content.update(file.read())
    version = sys.version_info[:2] if sys.prefix != sys.base_prefix else environment_version(folder)
    return "%s python%d.%d\n" % ((content.hexdigest(),) + (version or (0, 0)))


def installed(folder, name):
    """Tell whether the present content of a requirement file was installed to its end."""
    try:
        with open(os.path.join(folder, STAMP + name)) as file:
            return file.read() == fingerprint(folder, name)
    except FileNotFoundError:
        return False


def install(folder, name, lock):
    """Install a requirement file with pip and leave the stamp."""
    stamp = os.path.join(folder, STAMP + name)
    wanted = fingerprint(folder, name)
    # What a broken-off installation leaves is neither the old nor the new list.
    with contextlib.suppress(FileNotFoundError):
        os.remove(stamp)
    python = environment_python(folder)
    environment = dict(os.environ, PIP_USER="0")
    if subprocess.call([python, "-c", "import pip"], stderr=subprocess.DEVNULL):
        subprocess.call([python, "-m", "ensurepip"], stdout=subprocess.DEVNULL)  # environments that uv made
    say("installing %s (the first time this takes a minute or two)" % name)
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-r", name]
    complaints = []
    retrying = False
    with child(command, lock, stderr=subprocess.PIPE, env=environment) as pip:
        for line in pip.stderr:
            complaints.append(line.decode(errors="replace").rstrip())
            if "Retrying (Retry(" in complaints[-1] and not retrying:
                say("no connection to the package index yet; trying again")
                retrying = True
    if pip.wait():
        raise Refused(install_fault(name, complaints))
    with open(stamp + ".part", "w") as file:
        file.write(wanted)
    os.replace(stamp + ".part", stamp)


def install_fault(name, complaints):
    """Return the line that explains what pip complained about; what only pip can explain is shown first."""
    said = "\n".join(complaints)
    if NETWORK_FAULT.search(said) and not OTHER_FAULT.search(said):
        return ("no connection to the package index: installing %s needs the network once. Connect (or set "
                "HTTPS_PROXY) and run start.sh again" % name)
    if "No matching distribution found for gpt4all" in said:
        return "gpt4all has no package for this machine (%s, Python %d.%d): it needs 64-bit Linux on x86, macOS or " \
               "Windows" % ((sys.platform,) + sys.version_info[:2])
    sys.stderr.write(said + "\n")
    return "%s couldn't be installed: pip's reason is above" % name


# ---- actions -----------------------------------------------------------------------------------------------

def set_up(action):
    """Bring into place what an action needs and return the environment's Python."""
    write_first_env()
    settings = read_settings()
    folder = environment_folder(settings)
    python = environment_python(folder)
    files = requirements(action)

    def model_is_ready():
        # Looking here saves an interpreter's start each time; the worker checks the file's content.
        path = model_file(settings, "EMBED_MODEL")
        return action == "pull" or path is None or os.path.isfile(path)

    if not environment_fault(folder) and all(installed(folder, name) for name in files) and model_is_ready():
        return python
    with set_up_lock(folder) as lock:
        fault = environment_fault(folder)
        if fault:
            make_environment(folder, fault, lock)
        for name in files:
            if not installed(folder, name):
                install(folder, name, lock)
        if not model_is_ready():
            # It says itself what is wrong, and a service without its embedding model isn't what was asked for.
            with child([python, "-m", "mayfly.models", "ensure"], lock) as models:
                models.wait()
            if models.returncode:
                sys.exit(models.returncode)
    return python


def hand_over(command, replace=os.name != "nt"):
    """Become `command`; where a process can't (Windows), wait for it and end with its exit code."""
    sys.stdout.flush()
    if replace:
        os.execv(command[0], command)
    child = subprocess.Popen(command)
    while True:
        try:
            sys.exit(child.wait())
        except KeyboardInterrupt:
            continue  # the console sends Ctrl-C to the child as well, and the child decides how it ends


def test_command(python, arguments):
    chosen = [one for one in arguments if not one.startswith("-") and os.path.exists(one.split("::")[0])]
    return [python, "-m", "pytest"] + ([] if chosen else ["tests"]) + arguments


def doctor():
    """Print one line for each thing that a start needs; return the exit code."""
    settings = read_settings()
    faults = []

    def tell(right, what, otherwise=""):
        if not right:
            faults.append(what)
        sys.stdout.write("%-4s%s\n" % ("ok" if right else "NO", what if right else otherwise))

    tell(True, "Python %d.%d.%d at %s" % (sys.version_info[:3] + (sys.executable,)))
    folder = environment_folder(settings)
    try:
        fault = environment_fault(folder)
    except Refused as exc:
        fault = str(exc)
    tell(not fault, "virtual environment %s" % folder, "virtual environment %s: %s" % (folder, fault))
    complete = not fault and installed(folder, "requirements.txt")
    reason = "not installed as requirements.txt says"
    if complete:
        check = subprocess.run([environment_python(folder), "-m", "pip", "check", "--disable-pip-version-check"],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        complete = check.returncode == 0
        reason = check.stdout.decode(errors="replace").strip().replace("\n", "; ")
    tell(complete, "packages of requirements.txt", "packages: " + reason)
    keys = "" if settings["API_KEYS"] else " (API_KEYS is empty: callers on this machine alone)"
    tell(os.path.exists(env_file()), "settings in %s%s" % (env_file(), keys), "settings: no file %s yet" % env_file())
    if complete:
        check = subprocess.run([environment_python(folder), "-c", CHECK_SETTINGS], cwd=PROJECT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
        tell(check.returncode == 0, "every setting has an allowed value", check.stderr.decode(errors="replace").strip())
        for line in check.stdout.decode(errors="replace").splitlines():
            mark, message = line.split(" ", 1)
            tell(mark == "ok", message, message)
    path = model_file(settings, "EMBED_MODEL")
    if path:
        tell(os.path.isfile(path), "embedding model %s" % path, "embedding model: no file %s yet" % path)
    else:
        tell(True, "no embedding model is configured (EMBED_MODEL=none): the service completes only")
    path = model_file(settings, "MODEL_NAME")
    if not path:
        tell(True, "no completion model is configured (MODEL_NAME=none): the service embeds only")
    elif settings["MODEL_NAME"] in (DEFAULTS["MODEL_NAME"], DEFAULTS["MODEL_NAME"][:-len(".gguf")]):
        tell(os.path.isfile(path), "completion model %s, a demonstration; set MODEL_NAME in .env for a real one" % path,
             "completion model: no file %s, which comes with mayfly; run git checkout models/%s, or set MODEL_NAME in "
             ".env" % (path, DEFAULTS["MODEL_NAME"]))
    else:
        tell(os.path.isfile(path), "completion model %s" % path, "completion model: no file %s; run start.sh pull %s"
             % (path, settings["MODEL_NAME"]))
    tell(*port_state(settings["LISTEN_IP"], settings["LISTEN_PORT"]))
    if faults:
        sys.stdout.write("The next start makes what is missing where it can.\n")
    return 1 if faults else 0


CHECK_SETTINGS = """\
import sys
from mayfly.errors import SettingError
from mayfly.settings import load_settings
from mayfly.spelling import doubts
try:
    for doubt in doubts():
        print("NO" if doubt.misspelt else "ok", doubt.message)
    load_settings()
except SettingError as exc:
    sys.exit(str(exc))
"""


# What the service listens on together, as mayfly/listening.py has it.
TOGETHER = {"127.0.0.1": ("127.0.0.1", "::1"), "0.0.0.0": ("0.0.0.0", "::1"), "::": ("::", "0.0.0.0")}


def bind_fault(address, port):
    """Return the OSError that keeps the service from listening on an address, or None."""
    import socket

    target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    try:
        with socket.socket(*target[:3]) as trial:
            if os.name != "nt":  # as the service does: a port whose last connections linger is free
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if target[0] == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            trial.bind(target[4])
    except OSError as exc:
        return exc
    return None


def port_state(address, port):
    """Return whether the service can listen there (or already does), and a line for each case."""
    import http.client
    import json
    import socket

    where = "%s port %s" % (address, port)
    together = TOGETHER.get(address, (address,))
    try:
        faults = [(one, bind_fault(one, int(port))) for one in together]
    except (ValueError, OverflowError, socket.gaierror) as exc:
        return False, "", "%s: not an address and a port (%s)" % (where, exc)
    # Of several addresses the service leaves those out that the machine hasn't.
    absent = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    faults = [(one, fault) for one, fault in faults if fault and (len(together) == 1 or fault.errno not in absent)]
    if not faults:
        return True, where + " is free", ""
    taken, fault = faults[0]
    where = "%s port %s" % (taken, port)
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(taken, taken)
    connection = http.client.HTTPConnection(reached, int(port), timeout=5)
    try:
        connection.request("GET", "/health", headers={"Host": "localhost"})
        answer = connection.getresponse()
        if answer.status != 200 or "version" not in json.loads(answer.read()):
            raise ValueError("some other service")
        return True, where + ": a mayfly service is running there", ""
    except (OSError, ValueError, http.client.HTTPException):
        return False, "", "%s: %s. Set LISTEN_PORT in .env, or end the other program" % (where, fault.strerror)
    finally:
        connection.close()


def main(arguments):
    action = "run" if not arguments or arguments[0].startswith("--") else arguments[0]
    if arguments[:1] in (["--help"], ["-h"]):
        sys.stdout.write(USAGE)
        return 0
    rest = arguments if action == "run" else arguments[1:]
    right = {"run": True, "test": True, "doctor": not rest, "pull": len(rest) == 1,
             "key": rest == ["list"] or (len(rest) == 2 and rest[0] in ("add", "remove"))}
    if not right.get(action, False):
        sys.stderr.write(USAGE)
        return 2
    if os.environ.get("MAYFLY_ENV"):
        os.environ["MAYFLY_ENV"] = os.path.abspath(os.environ["MAYFLY_ENV"])
    # What the set-up and the service both have to know; files are named from where the person is.
    for number, argument in enumerate(rest if action == "run" else ()):
        name, equals, value = argument.partition("=")
        value = value if equals else "".join(rest[number + 1:number + 2])
        if name == "--embed-model":
            os.environ["EMBED_MODEL"] = value
        elif name == "--api-keys" and value.startswith("@"):
            rest[number:number + (1 if equals else 2)] = ["--api-keys=@" + os.path.abspath(value[1:])]
    os.chdir(PROJECT)
    if action == "doctor":
        return doctor()
    if action == "key":
        with contextlib.redirect_stdout(sys.stderr):  # to stdout goes the key alone
            write_first_env()
        hand_over([sys.executable, "-m", "mayfly.keys"] + rest)
    python = set_up(action)
    if action == "test":
        command = test_command(python, rest)
    elif action == "pull":
        command = [python, "-m", "mayfly.models", "pull", rest[0]]
    else:
        command = [python, os.path.join(PROJECT, "watchdog.py")] + rest
    hand_over(command)


def stop_at_once(number, frame):
    sys.exit(128 + number)


if __name__ == "__main__":
    # Without this a SIGTERM would leave pip running behind us.
    signal.signal(signal.SIGTERM, stop_at_once)
    try:
        sys.exit(main(sys.argv[1:]))
    except Refused as exc:
        sys.exit("start.sh: %s" % exc)
    except KeyboardInterrupt:
        sys.stderr.write("\nstart.sh: interrupted; the next start goes on from here\n")
        sys.exit(130)
    except OSError as exc:
        sys.exit("start.sh: the set-up in %s failed: %s: %s" % (PROJECT, exc.filename or "", exc.strerror or exc))
