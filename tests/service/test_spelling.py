"""Names that look like settings and aren't: the start names them, with what was meant, and never with a value."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import scripts
from service import PROJECT, Service

from mayfly.settings import load_settings, names
from mayfly.spelling import doubts

VALUE = "a-value-that-may-be-a-key"


@pytest.fixture
def env(tmp_path: Path) -> Path:
    return tmp_path / "my.env"


def said(env: Path, **environ: str) -> list[tuple[str, bool]]:
    """Return the messages without the file's name, and whether something is misspelt."""
    found = [(doubt.message.replace(str(env), ".env"), doubt.misspelt)
             for doubt in doubts({"MAYFLY_ENV": str(env), **environ})]
    assert VALUE not in str(found)
    return found


@pytest.mark.parametrize(("name", "meant"), [
    ("MODELNAME", "MODEL_NAME"), ("listen_ip", "LISTEN_IP"), ("Listen-Port", "LISTEN_PORT"), ("API_KEY", "API_KEYS"),
    ("LISTEN_PRT", "LISTEN_PORT"), ("EMBEDD_MODEL", "EMBED_MODEL"), ("ALLOWED_ORIGIN", "ALLOWED_ORIGINS"),
    ("REQUIREKEY", "REQUIRE_KEY"), ("NCTX", "N_CTX"), ("THREAD", "THREADS"), ("HANG_SECOND", "HANG_SECONDS")])
def test_a_misspelt_name_is_told_with_the_one_that_is_meant(name: str, meant: str, env: Path) -> None:
    env.write_text(f"{name}={VALUE}\n", encoding="utf-8")
    assert said(env) == [(f".env sets {name}, which is no setting and has no effect: is {meant} meant?", True)]
    env.write_text("", encoding="utf-8")
    assert said(env, **{name: VALUE}) == [
        (f"the environment sets {name}, which is no setting and has no effect: is {meant} meant?", True)]


def test_names_of_other_programs_are_no_fault_and_in_the_environment_nothing_at_all(env: Path) -> None:
    env.write_text(f"WANDB_TOKEN={VALUE}\nexport OPENAI_API_KEY='{VALUE}'\nTZ=UTC\n", encoding="utf-8")
    others = {"WANDB_TOKEN": VALUE, "OPENAI_API_KEY": VALUE, "HOME": "/root", "PATH": "/bin", "DEBUGINFOD_URLS": "",
              "CUDA_VISIBLE_DEVICES": "0", "VIRTUAL_ENV": "/v", "OMP_NUM_THREADS": "1", "MAYFLY_URL": "u"}
    assert said(env, **others) == [
        (".env sets what is no setting and has no effect here: WANDB_TOKEN, OPENAI_API_KEY, TZ", False)]


def test_every_setting_is_in_no_doubt(env: Path) -> None:
    env.write_text("".join(f"{name}=\n" for name in names()), encoding="utf-8")
    assert said(env, **dict.fromkeys(names(), "")) == []
    assert said(env, MAYFLY_ENV=str(PROJECT / ".env.example")) == []


def test_a_line_that_sets_nothing_is_told_by_its_number(env: Path) -> None:
    env.write_text(f"# comment\n\n\nLISTEN_PORT: {VALUE}\nMODEL_NAME\nN_CTX=512\nset DEBUG={VALUE}\n", encoding="utf-8")
    assert said(env) == [(f".env, line {line}: this isn't NAME=VALUE and has no effect", True) for line in (4, 5, 7)]
    assert load_settings({"MAYFLY_ENV": str(env)}).n_ctx == 512


def test_a_byte_order_mark_belongs_to_no_name(env: Path) -> None:
    env.write_bytes(codecs.BOM_UTF8 + b"N_CTX=512\nQUEUE_LIMIT=3\n")
    loaded = load_settings({"MAYFLY_ENV": str(env)})
    assert (loaded.n_ctx, loaded.queue_limit) == (512, 3)
    assert said(env) == []


def test_the_start_names_them_and_its_log_does(start: Callable[..., Service], env: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    model = scripts.write(folder, name="vectors", kind="embedding")
    for name in ("two\nlines", ".hidden"):
        scripts.write(folder, name=name)
    env.write_text(f"\ufeffMODELNAME={VALUE}\nWANDB_TOKEN={VALUE}\n", encoding="utf-8")
    service = start(MAYFLY_ENV=env, MODEL_PATH=folder, EMBED_MODEL=model, MODEL_NAME="none", listen_ip="0.0.0.0",
                    MODEL_ALIASES="mine=pulled-later,vec=vectors")
    service.stop()
    for text in (service.output(), (service.log_folder / "watchdog.log").read_text(encoding="utf-8")):
        assert "sets MODELNAME, which is no setting and has no effect: is MODEL_NAME meant?" in text
        assert "MODEL_ALIASES has names for models that aren't in MODEL_PATH" in text
        assert r"'two\nlines.script.json' in MODEL_PATH isn't listed: " in text and ".hidden" not in text
        assert text.count("=pulled-later") == 1 and "vec=vectors" not in text
        assert "the environment sets listen_ip" in text and "has no effect here: WANDB_TOKEN" in text
        assert VALUE not in text


@pytest.mark.parametrize("program", ["watchdog.py", "app.py"])
def test_a_start_that_is_refused_names_them_too(program: str, env: Path, tmp_path: Path) -> None:
    """The setting that is missing may be the one whose name is wrong."""
    env.write_text(f"APIKEYS={VALUE}\nLISTEN_IP=0.0.0.0\n", encoding="utf-8")
    environ = {name: text for name, text in os.environ.items() if name not in names()}
    ended = subprocess.run([sys.executable, str(PROJECT / program)], capture_output=True, text=True, timeout=60,
                           env={**environ, "MAYFLY_ENV": str(env), "RUN_FOLDER_NAME": str(tmp_path / "run")})
    first, second = ended.stderr.splitlines()
    assert ended.returncode == 2 and "is API_KEYS meant?" in first and "API_KEYS is empty" in second
    assert VALUE not in ended.stderr
