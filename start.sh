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
# Make the environment of the packages, then become mayfly's command line in it (mayfly/__main__.py). Started by a
# person (or start.bat); uses the standard library alone. What pip says is kept in logs/install.log.
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


import errno  # noqa: E402
import hashlib  # noqa: E402
import importlib.util  # noqa: E402
import itertools  # noqa: E402
import pathlib  # noqa: E402
import re  # noqa: E402
import runpy  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402

PROJECT = os.path.dirname(os.path.realpath(__file__))
MAYFLY, INSTALL_LOG = os.path.join(PROJECT, "mayfly"), os.path.join(PROJECT, "logs", "install.log")
ACTIVE = sys.prefix != sys.base_prefix  # a virtual environment, which is used as it is

USAGE = """\
usage: start.sh [--OPTION ...]    set up what is missing, then run the service; serve --help names the options
       start.sh test [ARG ...]    set up, then run the tests (arguments go to pytest)
       start.sh ensure            set up, then make the configured models ready, as a start does
       start.sh pull NAME         set up, then fetch a completion model into MODEL_PATH
       start.sh key add NAME      make a key for callers from elsewhere; key list, key remove NAME
       start.sh embed-file IN OUT    set up, then write the vectors of a file's texts, on a Ray cluster
       start.sh tune              compile llama.cpp for this processor, and use it if it is faster
       start.sh doctor            tell what is in place and what is missing; changes nothing (--version, --help)
"""

# Files of ours inside the environment: whoever removes that removes all we believe about it.
UNFINISHED, MADE, STAMP = ".mayfly-unfinished", ".mayfly-made", ".mayfly-installed-"
# As python-dotenv reads it, but for escapes in quotes.
VENV_LINE = re.compile(r"""(?m)^[ \t]*(?:export[ \t]+)?VENV_NAME[ \t]*=(?:[ \t]+\#.*|[ \t]*(?:
    (['"])(?P<quoted>[^'"\n]*)\1[ \t]*(?:\#.*)? | (?!['"])(?P<plain>.*?)(?:[ \t]+\#.*)?[ \t]* ))$""", re.VERBOSE)
# What pip and its urllib3 say without a connection, and what of faults that may follow one that was only slow.
NETWORK_FAULT = re.compile(
    "after connection broken by|Max retries exceeded|(?:NewConnection|NameResolution|ConnectTimeout|ReadTimeout|Proxy"
    "|Protocol)Error|IncompleteRead|Failed to (?:connect|resolve|establish)|Temporary failure in name resolution")
OTHER_FAULT = re.compile("No space left|subprocess-exited-with-error|Permission denied")


def open_streams():
    """Open what is closed of the standard streams (`>&-`), on nothing, here and in what this becomes: the next file
    would get the number, and what is printed would go there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one's
            os.set_inheritable(opened, True)
            setattr(sys, name, open(opened, mode))
    if sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a path with what the terminal's encoding hasn't


def put(text):
    """Print, and end the start if that can't be: in one line, or without a word if who read it has left (`| head`)."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer goes there at the end
        left = exc.errno in (errno.EPIPE, errno.EINVAL)  # EINVAL: the same on Windows
        sys.exit(141 if left else "start.sh: standard output can't be written: %s" % exc.strerror)


def say(line):
    put("start.sh: %s\n" % line)


def environment_folder():
    """Return the folder of the virtual environment: the active one, else VENV_NAME."""
    if ACTIVE:
        return sys.prefix
    name = os.environ.get("VENV_NAME", "").strip()
    file = os.environ.get("MAYFLY_ENV") or os.path.join(PROJECT, ".env")
    if not name and os.path.isfile(file):
        for line in VENV_LINE.finditer(pathlib.Path(file).read_text(encoding="utf-8-sig", errors="replace")):
            name = (line.group("quoted") or line.group("plain") or "").strip()
    return os.path.join(PROJECT, os.path.expanduser(name or ".venv"))


def environment_python(folder):
    place = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return sys.executable if ACTIVE else os.path.join(folder, *place)


def environment_version(folder):
    """Return the (major, minor) of the Python that made the environment, or None if it doesn't say."""
    file = pathlib.Path(folder, "pyvenv.cfg")
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    match = re.search(r"(?m)^version(?:_info)?\s*=\s*(\d+)\.(\d+)", text)
    return (int(match.group(1)), int(match.group(2))) if match else None


def environment_fault(folder):
    """Return why the environment can't be used as it is, or None; end the start if it isn't ours to make anew."""
    if ACTIVE:
        return None
    if not os.path.lexists(folder) or os.path.isdir(folder) and not os.listdir(folder):
        return "there is none yet"
    if os.path.exists(os.path.join(folder, UNFINISHED)):
        return "an earlier start was interrupted while making it"
    if not os.path.exists(os.path.join(folder, "pyvenv.cfg")):  # VENV_NAME may be anything by mistake
        sys.exit("start.sh: VENV_NAME is %r, which is not a virtual environment; remove it or choose another name"
                 % folder)
    python, version = environment_python(folder), environment_version(folder)
    if not os.path.exists(python):
        fault = "its Python is gone"
    elif version and version < NEEDED_PYTHON:
        fault = "it was made with Python %d.%d" % version
    elif version != sys.version_info[:2] and os.path.realpath(python) == os.path.realpath(sys.executable):
        fault = "its Python was upgraded"  # a system upgrade moved python3 on; the packages are in the old folder
    else:
        return None
    if not os.path.exists(os.path.join(folder, MADE)):
        sys.exit("start.sh: the virtual environment %s can't be used, %s, and start.sh didn't make it; remove it or "
                 "choose another VENV_NAME" % (folder, fault))
    return fault


def make_environment(folder, why, lock):
    """Make the virtual environment anew."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        sys.exit("start.sh: this Python (%s) can't make virtual environments. On Debian or Ubuntu: apt install "
                 "python3-venv (or python%d.%d-venv), then run start.sh again" % (
                     (sys.executable,) + sys.version_info[:2]))
    say("making the virtual environment %s with Python %d.%d (%s)" % ((folder,) + sys.version_info[:2] + (why,)))
    os.makedirs(folder, exist_ok=True)
    open(os.path.join(folder, UNFINISHED), "w").close()
    for path in [os.path.join(folder, name) for name in os.listdir(folder) if name != UNFINISHED]:
        (shutil.rmtree if os.path.isdir(path) and not os.path.islink(path) else os.remove)(path)
    code, said = run([sys.executable, "-m", "venv", folder], lock)
    if code:
        sys.exit("start.sh: the virtual environment %s can't be made: %s" % (folder, (said or ["no reason given"])[-1]))
    os.replace(os.path.join(folder, UNFINISHED), os.path.join(folder, MADE))


def take_lock():
    """Return the log of the set-up, locked. Another start, or what a killed one started, may have it for minutes."""
    os.makedirs(os.path.dirname(INSTALL_LOG), exist_ok=True)
    lock = open(INSTALL_LOG, "a", 1, encoding="utf-8", errors="backslashreplace")
    for tries in itertools.count():
        try:
            if os.name == "nt":
                import msvcrt
                os.lseek(lock.fileno(), 1 << 62, os.SEEK_SET)  # what is locked there, nobody can read
                msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except (BlockingIOError, PermissionError):
            if not tries:
                say("another start.sh is setting up here; waiting for it")
            time.sleep(0.2)


def run(command, lock):
    """Run a part of the set-up, which ends with this process and takes along what it has started. If this one is killed
    it holds the lock until it ends. Return its exit code and the lines that it printed, which are in the log too."""
    lock.write("$ %s\n" % " ".join(command))
    posix = {"pass_fds": (lock.fileno(),), "start_new_session": True} if os.name != "nt" else {}
    process = subprocess.Popen(command, cwd=PROJECT, env=dict(os.environ, PIP_USER="0", PIP_PROGRESS_BAR="off"),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **posix)
    said, retrying = [], False
    try:
        for line in process.stdout:
            said.append(line.decode("utf-8", "replace").rstrip())
            lock.write(said[-1] + "\n")
            if "Retrying (Retry(" in said[-1] and not retrying:
                say("no connection to the package index yet; trying again")
                retrying = True
            elif sys.stdout.isatty() and re.match(r"\s*(Collecting|Downloading|Installing) ", said[-1]):
                put("\r%-72s\r" % said[-1].strip().split(" (from")[0][:72])
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM) if os.name != "nt" else process.terminate()
        process.wait()
        raise
    if sys.stdout.isatty():
        put("%-72s\r" % "")
    return process.wait(), said


def stamp(folder, name):
    """Return the path of the file that is there once a requirement file's present content is installed."""
    # requirements.txt can move packages that requirements-dev.txt pinned, so it counts there too.
    content = hashlib.sha256()
    for file_name in sorted({"requirements.txt", name}):
        content.update(pathlib.Path(PROJECT, file_name).read_bytes())
    version = sys.version_info[:2] if ACTIVE else environment_version(folder) or (0, 0)
    return os.path.join(folder, STAMP + "%s-python%d.%d-%s" % ((name,) + version + (content.hexdigest()[:16],)))


def install(folder, name, lock):
    """Install a requirement file with pip and leave the stamp."""
    # What a broken-off installation leaves is neither the old nor the new list.
    for old in os.listdir(folder):
        if old.startswith(STAMP + name):
            os.remove(os.path.join(folder, old))
    python = environment_python(folder)
    if subprocess.call([python, "-c", "import pip"], stderr=subprocess.DEVNULL):
        run([python, "-m", "ensurepip"], lock)  # environments that uv made, or that were broken off
    say("installing %s (the first time this takes a minute or two)" % name)
    code, said = run([python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-r", name], lock)
    if not code:
        open(stamp(folder, name), "w").close()
        return
    text = "\n".join(said)
    if NETWORK_FAULT.search(text) and not OTHER_FAULT.search(text):
        sys.exit("start.sh: no connection to the package index: installing %s needs the network once. Connect (or set "
                 "HTTPS_PROXY) and run start.sh again" % name)
    if "No matching distribution found for gpt4all" in text:
        sys.exit("start.sh: gpt4all has no package for this machine (%s, Python %d.%d): it needs 64-bit Linux on x86, "
                 "macOS or Windows" % ((sys.platform,) + sys.version_info[:2]))
    sys.stderr.write(text + "\n")
    sys.exit("start.sh: %s couldn't be installed: pip's reason is above, and in %s" % (name, INSTALL_LOG))


def set_up(folder, files):
    """Bring into place the environment and the packages of requirement files."""
    with take_lock() as lock:
        fault = environment_fault(folder)
        if fault:
            make_environment(folder, fault, lock)
        for name in files:
            if not os.path.exists(stamp(folder, name)):
                install(folder, name, lock)


def hand_over(command, replace=os.name != "nt"):
    """Become `command`; where a process can't (Windows), wait for it and end with its exit code."""
    if replace:
        os.execv(command[0], command)
    # The console sends Ctrl-C to the child as well, and the child decides how it ends.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    sys.exit(subprocess.call(command))


def main(arguments):
    action = "serve" if not arguments or arguments[0].startswith("--") else arguments[0]
    if arguments[:1] in (["--help"], ["-h"]):
        put(USAGE)
        return 0
    if action not in ("serve", "test", "ensure", "pull", "key", "embed-file", "tune", "doctor"):
        sys.stderr.write("start.sh: there is no command %r\n%s" % (action, USAGE))
        return 2
    rest = arguments[1:] if arguments[:1] == [action] else arguments
    if action == "key" or arguments[:1] == ["--version"]:
        hand_over([sys.executable, MAYFLY] + arguments)  # needs no package, and prints the key alone
    folder = environment_folder()
    on_ray = "--on=ray" in rest or ("--on", "ray") in zip(rest, rest[1:])
    files = (["requirements.txt"] + ["requirements-dev.txt"] * (action == "test")
             + ["requirements-ray.txt"] * (action == "embed-file" or action == "serve" and on_ray))
    fault = environment_fault(folder)
    if fault or not all(os.path.exists(stamp(folder, name)) for name in files):
        if action == "test" and {"--help", "-h"}.intersection(rest):
            put("usage: start.sh test [--quick] [ARG ...]\nOther arguments are pytest's, which tells of them here once "
                "it is installed: 'start.sh test' does that.\n")
            return 0
        if action != "test":  # what isn't understood shouldn't take a minute to be refused
            runpy.run_path(os.path.join(MAYFLY, "__main__.py"))["look_at"]([action] + rest)
        if action == "doctor":
            put("NO  virtual environment %s: %s\nThe next start mends it.\n" % (
                folder, fault or "its packages aren't those of requirements.txt"))
            return 1
        set_up(folder, files)
    if action == "test":
        os.chdir(PROJECT)
    pytest = ["-m", "pytest", "-n", "auto", "--dist", "worksteal"]
    hand_over([environment_python(folder)] + (pytest if action == "test" else [MAYFLY, action]) + rest)


if __name__ == "__main__":
    # Without this pip would be left running behind us.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    open_streams()
    # Paths go from process to process in UTF-8. In another encoding, as C's, Python would read them as half characters.
    os.environ["PYTHONUTF8"] = "1"
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.stderr.write("\nstart.sh: interrupted; the next start goes on from here\n")
        sys.exit(130)
    except OSError as exc:
        sys.exit("start.sh: the set-up in %s failed: %s: %s" % (PROJECT, exc.filename or "", exc.strerror or exc))
