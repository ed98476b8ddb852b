"""The Hugging Face hub: downloads to its cache, and one plain message for whatever goes wrong there."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from knots.errors import KnotsError

Kind = Literal["model", "dataset"]

# The HTTP library below `huggingface_hub` is another one from version to version.
CLIENTS = frozenset({"huggingface_hub", "hf_xet", "datasets", "httpx", "httpx2", "httpcore", "httpcore2"})
# These wrap the clients' errors in their own; an error without a client's behind it is theirs to tell.
READERS = frozenset({"transformers", "peft"})

DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
UNREACHABLE = frozenset({"LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ConnectionError"})
BROKEN_OFF = frozenset({"TransportError", "TimeoutError", "RequestException", "ClientError"})

LOG_IN = "log in with `hf auth login` (or set HF_TOKEN)"
FAILED = "downloading {repo!r} from {hub} failed"
AGAIN = "try again, files that are complete are kept"
MESSAGES = {
    "bad_id": "{repo!r} is neither a folder nor a hub id (owner/name): {line}",
    "bad_token": "{hub} refuses the token that was sent for {repo!r}: it is wrong or expired; "
    "set HF_TOKEN to a valid one, or log in anew with `hf auth login`",
    "gated": "hub repository {repo!r} is gated: accept its terms at {page} and " + LOG_IN,
    "no_revision": "hub repository {repo!r} has no revision {revision!r}; see {page}",
    "unknown": "{no_copy} no such repository on {hub}; check the spelling, or "
    + LOG_IN
    + " if it is private",
    "disabled": "hub repository {repo!r} has been disabled; use another copy of it",
    "forbidden": "{hub} forbids access to {repo!r}: " + LOG_IN + " with a token that may read it",
    "limited": FAILED + ": HTTP {status}, too many requests; wait and " + AGAIN,
    "busy": FAILED + ": HTTP {status}, a fault of the hub; wait and " + AGAIN,
    "incomplete": "the local copy of {repo!r} is incomplete ({lack}), and {hub} cannot be reached{offline}; "
    "try again with a network",
    "unreachable": "{no_copy} {hub} cannot be reached{offline} nor is all of it in the local cache; "
    "check the network or {a_copy}",
    "broken_off": FAILED + ": {line}; " + AGAIN,
    "no_file": "hub repository {repo!r} has no file {file!r}; see {page}",
    "script": "data set {repo!r} is a script, which is no longer run; use a copy with data files, or "
    "revision='refs/convert/parquet'",
    "unreadable": "reading {repo!r} from {hub} failed: {line}; see {page}",
}
"""What is said of each fault."""


def snapshot(
    repo: str,
    files: Sequence[str],
    *,
    one_of: Sequence[str] = (),
    kind: Kind = "model",
    revision: str | None = None,
) -> Path:
    """Download files of a repository; returns the folder that holds them, in the hub's cache.

    What is in the cache already is not downloaded again, and serves where the hub cannot be reached. A file
    of `files` that the repository does not have is left out without an error.

    Args:
        repo: the hub id, `owner/name`.
        files: names and glob patterns; `*` crosses folders.
        one_of: names of which only the first that the repository has is downloaded, say a safer format first.
        kind: of repository.
        revision: branch, tag or commit.

    Raises:
        KnotsError: no such repository or revision, no access, no network, or none of `one_of` is there.
    """
    folder = _download(repo, [*files, *one_of[:1]], kind, revision)
    for name in one_of:
        if not _holds(folder, name):
            folder = _download(repo, [*files, name], kind, commit(folder))
        if _holds(folder, name):
            return folder
    if one_of:
        raise KnotsError(_without(repo, one_of, kind, folder))
    return folder


def looks_like_id(text: str) -> bool:
    """Whether a text can be a hub id, `owner/name`: one slash, no leading dot, drive letter or backslash."""
    local = text.startswith((".", "/", "~")) or text.endswith("/") or "\\" in text
    return text.count("/") == 1 and not local


def commit(folder: Path) -> str:
    """The commit of a folder that `snapshot` returned."""
    return folder.name


@contextmanager
def asking(repo: str, *, kind: Kind = "model", revision: str | None = None) -> Iterator[None]:
    """Turn errors of the hub's clients in the block into one line that names the repository and a way out.

    Faults of the local disk (full, read-only, no permission) stay the `OSError`s that they are, also where a
    client wrapped them. Errors of other origin pass unchanged.

    Args:
        repo: the hub id that the block asks for.
        kind: of repository.
        revision: that the block asks for.

    Raises:
        KnotsError: any other error of `huggingface_hub`, `datasets` or the HTTP library below them.
    """
    before = sys.exception()
    try:
        yield
    except Exception as error:
        chain = _from_clients(_chain(error, before))
        if not chain:
            raise
        fault = next((link for link in chain if _of_the_disk(link)), None)
        if fault is error:
            raise
        if fault is not None:
            raise fault from None
        raise KnotsError(_explain(chain, repo, kind, revision)) from error


def _download(repo: str, files: Sequence[str], kind: Kind, revision: str | None) -> Path:
    import huggingface_hub

    with asking(repo, kind=kind, revision=revision), _bars():
        path = huggingface_hub.snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=list(files)
        )
    if not Path(path).exists():  # the repository has none of the files
        Path(path).mkdir(parents=True)
    return Path(path)


@contextmanager
def _bars() -> Iterator[None]:
    """Progress bars on a terminal only: the client draws some of them into log files too."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    chosen = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled()
    if chosen or sys.stderr.isatty():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _holds(folder: Path, pattern: str) -> bool:
    """Whether a file fits the pattern, as the hub's client reads patterns."""
    return any(
        path.is_file() and fnmatchcase(path.relative_to(folder).as_posix(), pattern)
        for path in folder.rglob("*")
    )


def _without(repo: str, one_of: Sequence[str], kind: Kind, folder: Path) -> str:
    """What to say where none of the choices is there: only the hub knows whether it ever was."""
    import huggingface_hub

    lack = ("neither " if len(one_of) > 1 else "not ") + " nor ".join(one_of)
    try:
        huggingface_hub.HfApi().repo_info(repo, repo_type=kind, revision=commit(folder), timeout=10)
    except Exception:
        return _say(MESSAGES["incomplete"], repo, kind, lack=f"{lack} is there")
    return f"hub repository {repo!r} has {lack}; check that it is the right one"


def _explain(chain: Sequence[BaseException], repo: str, kind: Kind, revision: str | None) -> str:
    """One line for an error and what led to it, `chain[0]` being the client's."""
    error = chain[0]
    missing = re.search(r"missing \((.*?)\)\.", str(error))
    return _say(
        MESSAGES[_fault(chain)],
        repo,
        kind,
        revision=revision,
        status=_answer(chain)[0],
        line=_line(error) + (f" ({_line(error.__cause__)})" if error.__cause__ else ""),
        lack=f"{missing[1] if missing else 'a file'} is missing",
        file=_asked_file(error),
    )


def _say(message: str, repo: str, kind: Kind, **details: object) -> str:
    from huggingface_hub import constants

    model = kind == "model"
    return message.format(
        repo=repo,
        hub=f"the hub ({constants.ENDPOINT})",
        page=f"{constants.ENDPOINT}/{'' if model else 'datasets/'}{repo}",
        offline=" (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else "",
        no_copy=f"no folder {repo!r}, and" if model else f"data set {repo!r}:",
        a_copy="give the folder of a local copy" if model else "fill the cache with one",
        **details,
    )


def _fault(chain: Sequence[BaseException]) -> str:
    """Which of `MESSAGES` an error and what led to it call for, the plainest sign first."""
    names = {base.__name__ for error in chain for base in type(error).__mro__}
    status, sent_token = _answer(chain)
    text = str(chain[0])
    unknown = bool(names & {"RepositoryNotFoundError", "DatasetNotFoundError"})
    signs = {
        "bad_id": "HFValidationError" in names,
        "bad_token": status == 401 and sent_token,
        # `datasets` cuts the cause off its error: the difference is only in the text.
        "gated": "GatedRepoError" in names or (unknown and "is a gated dataset" in text),
        "no_revision": "RevisionNotFoundError" in names,
        "unknown": unknown,
        "disabled": "DisabledRepoError" in names,
        "forbidden": status in (401, 403),
        "limited": status == 429,
        "busy": status is not None and (status == 408 or status >= 500),
        "incomplete": "IncompleteSnapshotError" in names,
        "unreachable": bool(names & UNREACHABLE),
        "broken_off": bool(names & BROKEN_OFF) or "Consistency check failed" in text,
        "no_file": type(chain[0]).__name__ == "RemoteEntryNotFoundError",
        "script": "Dataset scripts are no longer supported" in text,
    }
    return next((fault for fault, seen in signs.items() if seen), "unreadable")


def _chain(error: BaseException, before: BaseException | None) -> list[BaseException]:
    """The error and what led to it, up to what was being handled before the block."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link is not before and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _from_clients(chain: list[BaseException]) -> list[BaseException]:
    """The chain from the first error of a client on; empty if that is not what the block ended with."""
    if isinstance(chain[0], KnotsError | MemoryError):
        return []
    first = 0
    while first < len(chain) - 1 and _origin(chain[first]) in READERS:
        first += 1
    link = chain[first]
    known = _origin(link) in CLIENTS or _classes(link) & CLIENTS or _of_the_disk(link)
    return chain[first:] if known else []


def _of_the_disk(error: BaseException) -> bool:
    """Whether a local file is at fault; a forbidden one has a name, as a forbidden connection has not."""
    if not isinstance(error, OSError):
        return False
    return error.errno in DISK_FAULTS or (isinstance(error, PermissionError) and error.filename is not None)


def _classes(error: BaseException) -> set[str]:
    """The packages that define the error's class and its bases."""
    return {base.__module__.partition(".")[0] for base in type(error).__mro__}


def _origin(error: BaseException) -> str:
    """The package whose code raised the error, the standard library aside."""
    origin, trace = "", error.__traceback__
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        origin = origin if package in sys.stdlib_module_names else package
        trace = trace.tb_next
    return origin


def _answer(chain: Sequence[BaseException]) -> tuple[int | None, bool]:
    """The HTTP status behind the error, if any, and whether a token had been sent."""
    for error in chain:
        response = getattr(error, "response", None)
        if isinstance(status := getattr(response, "status_code", None), int):
            return status, "authorization" in response.request.headers  # type: ignore[union-attr]
    return None, False


def _asked_file(error: BaseException) -> str:
    """The path in its repository of the file that an HTTP error is about."""
    url = str(getattr(getattr(error, "response", None), "url", ""))
    return url.partition("/resolve/")[2].partition("/")[2] or url


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
