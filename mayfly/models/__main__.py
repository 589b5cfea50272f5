"""The models' command line.

    python -m mayfly.models ensure       make the configured embedding model ready, if it isn't
    python -m mayfly.models pull NAME    download a model from gpt4all's list into MODEL_PATH

Exit code 0: the model is there. 1: it isn't; one line on stderr says why. 130, 143: interrupted, terminated.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from mayfly.engines.backends import GGUF
from mayfly.errors import ModelUnavailable, SettingError
from mayfly.models import store


def ensure(model_path: Path, embed_model: str, *, list_url: str | None = None) -> Path:
    """Return the embedding model's file; if it isn't there, build or download it.

    Only the default model can be built. A file that is there is only looked at: nothing is fetched then.
    `list_url` is where gpt4all's list is looked for, if not at its own address.

    Raises:
        ModelUnavailable: neither way succeeded; the message holds the reason of each.
    """
    try:
        return _checked(store.find(model_path, embed_model))
    except store.ModelAbsent:
        if not store.file_name(embed_model).endswith(GGUF):
            raise
    from mayfly.models import minilm, pull

    reasons = []
    if minilm.FILE_NAME in (embed_model, embed_model + GGUF):
        try:
            return minilm.build(model_path)
        except ModelUnavailable as exc:
            print(f"mayfly: {exc}; trying gpt4all's own download instead", file=sys.stderr)
            reasons.append(str(exc))
    try:
        return pull.pull(embed_model, model_path, list_url=list_url or pull.LIST_URL)
    except ModelUnavailable as exc:
        reasons.append(str(exc))
    raise ModelUnavailable(
        f"the embedding model isn't ready: {'; '.join(reasons)}; start again with a network, "
        f"or put the file {embed_model} into {model_path}"
    )


def _checked(path: Path) -> Path:
    if path.name.endswith(GGUF):
        from mayfly.models.header import read_header

        try:
            read_header(path)
        except ModelUnavailable as exc:
            raise ModelUnavailable(f"{exc}; remove {path} and start again") from exc
    return path


def _terminated(signum: int, frame: object) -> None:
    # As an exception, so that temporary files are removed on the way out.
    raise SystemExit(128 + signum)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mayfly.models", description="Make model files ready.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ensure", help="make the configured embedding model ready")
    pulling = commands.add_parser("pull", help="download a model from gpt4all's list into MODEL_PATH")
    pulling.add_argument("name")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        from mayfly.settings import load_settings

        settings = load_settings()
        if chosen.command == "pull":
            from mayfly.models import pull

            print(pull.pull(chosen.name, settings.model_path, list_url=settings.model_list, keep_list=True))
        elif settings.embed_model:
            ensure(settings.model_path, settings.embed_model, list_url=settings.model_list)
    except (ModelUnavailable, SettingError) as exc:
        print(f"mayfly: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mayfly: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
