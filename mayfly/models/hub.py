"""Models of the Hugging Face Hub, or of a mirror: which files a name means, and what the hub says of them.

    hf:OWNER/REPO/FILE.gguf     this file; of a model that is split, any part's name means all of them
    hf:OWNER/REPO:Q8_0          the repository's model of this quantisation
    hf:OWNER/REPO               the same for Q4_K_M

The hub's own library asks it. The bytes come as all others do (mayfly.models.download), because that library neither
goes on with what an earlier call has begun nor checks a sum.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mayfly.errors import ModelUnavailable
from mayfly.models import parts
from mayfly.models.download import TIMEOUT, File, NotOffered, is_plain, short
from mayfly.settings import Settings

if TYPE_CHECKING:  # loaded only when the hub is really asked
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

PREFIX = "hf:"
QUANTIZATION = "Q4_K_M"

_NAME = re.compile(r"hf:(?P<repository>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
                   r"(?:/(?P<path>[\w.+/ -]{1,300}\.gguf)|:(?P<quantization>[\w.-]{1,40}))?", re.ASCII)
# Files that stand beside models and are none: projectors of images, importance matrices.
_BESIDE = ("mmproj", "imatrix")
# So many names of a repository's files are told.
_MOST_NAMES = 20


def is_name(name: str) -> bool:
    """Tell whether a name is one of the hub's."""
    return _NAME.fullmatch(name) is not None


def files(name: str, settings: Settings) -> list[File]:
    """Ask the hub which files a name means; a model that is split has all its parts, the first one first.

    Raises:
        NotOffered: there is no such repository or file, or not for this token.
        ModelUnavailable: the hub can't be reached or refuses, or doesn't say what is needed.
    """
    meant = _NAME.fullmatch(name)
    if meant is None:
        raise NotOffered(f"{name[:100]!r} isn't a name of the hub: hf:OWNER/REPO/FILE.gguf, or hf:OWNER/REPO with "
                         f":QUANTIZATION or without ({QUANTIZATION} then)")
    info = _ask(meant["repository"], settings)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    found = []
    for path in _parts(_chosen(meant, siblings)):
        if path not in siblings:
            raise ModelUnavailable(f"{meant['repository']} lacks a part of the model: {path}")
        found.append(_file(siblings[path], info, settings))
    return found


def _ask(repository: str, settings: Settings) -> ModelInfo:
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    # Otherwise it asks the hub, even where a mirror is set, which coding agents there are, and tells it which one runs.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    api = HfApi(endpoint=settings.hf_endpoint or None, token=settings.hf_token or False, library_name="mayfly")
    other = "another token in HF_TOKEN" if settings.hf_token else "a token in HF_TOKEN"
    try:
        return api.model_info(repository, files_metadata=True, timeout=TIMEOUT[1])
    except GatedRepoError as exc:
        raise ModelUnavailable(f"{repository} is gated: its page on the hub says how to be let in, and then {other} is "
                               "needed") from exc
    except RepositoryNotFoundError as exc:
        raise NotOffered(f"the hub has no repository {repository}; if it is a private one, {other} is needed") from exc
    except HfHubHTTPError as exc:
        needed = f"; {other} may be needed" if exc.response.status_code in (401, 403) else ""
        raise ModelUnavailable(f"the hub doesn't tell of {repository}: it answers {exc.response.status_code} "
                               f"{exc.response.reason_phrase}{needed}") from exc
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
        raise ModelUnavailable(f"the hub can't be reached: {short(exc)}; set HF_ENDPOINT to a mirror that can, or put "
                               "the model's file into MODEL_PATH") from exc
    except HFValidationError as exc:
        raise NotOffered(f"{repository} can't be the name of a repository on the hub") from exc
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise ModelUnavailable(f"the hub's word on {repository} can't be read: {short(exc)}") from exc


def _first(path: str) -> str:
    """Return the path of the first part of a file's model."""
    folder, slash, name = path.rpartition("/")
    of = parts.part(name)
    return folder + slash + of.name(1) if of else path


def _parts(first: str) -> Iterator[str]:
    """Yield the paths of all parts of a model, by the first one's."""
    folder, slash, name = first.rpartition("/")
    of = parts.part(name)
    yield from (folder + slash + of.name(number) for number in range(1, of.count + 1)) if of else (first,)


def _is_model(path: str) -> bool:
    name = path.rpartition("/")[2]
    return is_plain(name) and not any(word in name.lower() for word in _BESIDE)


def _chosen(meant: re.Match[str], paths: Iterable[str]) -> str:
    """Return the path of the model's first part, which a name means of a repository's files."""
    models = sorted({_first(path) for path in paths if _is_model(path)})
    if meant["path"]:
        found = [first for first in models if first == _first(meant["path"])]
    else:
        wanted = meant["quantization"] or QUANTIZATION
        # Q4_K is no Q4_K_M, nor is Q4_K_M an IQ4_K_M.
        pattern = re.compile(rf"(?<![a-z0-9]){re.escape(wanted.lower())}(?![a-z0-9_])")
        found = [first for first in models if pattern.search(first.lower())]
    if len(found) == 1:
        return found[0]
    what = meant["path"] or f"model in {wanted}"
    named = found or models
    names = ", ".join(path[:200] for path in named[:_MOST_NAMES]) or "none at all"
    raise NotOffered(f"{meant['repository']} has {'more than one' if found else 'no'} {what}, but {names}"
                     f"{', ...' if len(named) > _MOST_NAMES else ''}: name one as hf:OWNER/REPO/FILE.gguf")


def _file(sibling: RepoSibling, info: ModelInfo, settings: Settings) -> File:
    from huggingface_hub import hf_hub_url

    path, told = sibling.rfilename, sibling.lfs
    if told is None or not isinstance(told.size, int) or not re.fullmatch("[0-9a-f]{64}", str(told.sha256)):
        raise ModelUnavailable(f"the hub doesn't tell size and SHA-256 of {path}, by which it would be checked")
    headers = {"Authorization": f"Bearer {settings.hf_token}"} if settings.hf_token else {}
    url = hf_hub_url(info.id, path, revision=info.sha, endpoint=settings.hf_endpoint.rstrip("/") or None)
    return File(path.rpartition("/")[2], url, told.size, "sha256", told.sha256, headers)
