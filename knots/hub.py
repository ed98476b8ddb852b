"""The Hugging Face hub: downloads to its cache, and one plain message for whatever goes wrong there."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
BUSY = frozenset({408, 429})
UNREACHABLE = frozenset({"LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ConnectionError"})
BROKEN_OFF = frozenset({"TransportError", "TimeoutError", "RequestException", "ClientError"})


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
        raise KnotsError(_Question(repo, kind, revision).explain(chain)) from error


def _download(repo: str, files: Sequence[str], kind: Kind, revision: str | None) -> Path:
    import huggingface_hub

    with asking(repo, kind=kind, revision=revision):
        path = huggingface_hub.snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=list(files)
        )
    if not Path(path).exists():  # the repository has none of the files
        Path(path).mkdir(parents=True)
    return Path(path)


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
        return _incomplete(repo, f"{lack} is there")
    return f"hub repository {repo!r} has {lack}; check that it is the right one"


def _incomplete(repo: str, lack: str) -> str:
    return (
        f"the local copy of {repo!r} is incomplete ({lack}), and the hub ({_endpoint()}) cannot be "
        f"reached{_offline()}; try again with a network"
    )


@dataclass(frozen=True)
class _Question:
    """What was asked of the hub, and how to tell that it failed."""

    repo: str
    kind: Kind
    revision: str | None

    def explain(self, chain: Sequence[BaseException]) -> str:
        """One line for an error and what led to it, `chain[0]` being what was raised."""
        names = {base.__name__ for error in chain for base in type(error).__mro__}
        status, sent_token = _answer(chain)
        text = str(chain[0])
        if "HFValidationError" in names:
            return f"{self.repo!r} is neither a folder nor a hub id (owner/name): {_line(chain[0])}"
        if status == 401 and sent_token:
            return self._bad_token()
        # `datasets` cuts the cause off its errors: the difference is only in their text.
        if "GatedRepoError" in names or ("DatasetNotFoundError" in names and "gated" in text):
            return self._gated()
        if "RevisionNotFoundError" in names:
            return (
                f"hub repository {self.repo!r} has no revision {self.revision!r}; check its branches and tags"
            )
        if names & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
            return self._unknown()
        if "DisabledRepoError" in names:
            return f"hub repository {self.repo!r} has been disabled; use another copy of it"
        if status in (401, 403):
            return self._forbidden()
        if status is not None and (status in BUSY or status >= 500):
            return self._busy(status)
        if "IncompleteSnapshotError" in names:
            return self._incomplete(text)
        if names & UNREACHABLE:
            return self._unreachable()
        if names & BROKEN_OFF or "Consistency check failed" in text:
            return self._failed(f"{_line(chain[0])}; try again, files that are complete are kept")
        if type(chain[0]).__name__ == "RemoteEntryNotFoundError":
            return f"hub repository {self.repo!r} has no file {_asked_file(chain[0])!r}; see {self._page()}"
        return self._failed(_deepest(chain)) if self.kind == "model" else self._unreadable(chain)

    def _page(self) -> str:
        return f"{_endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    def _no_copy(self) -> str:
        """How a message starts where a model's id might also have been meant as a folder."""
        return f"no folder {self.repo!r}, and" if self.kind == "model" else f"data set {self.repo!r}:"

    def _bad_token(self) -> str:
        return (
            f"the hub ({_endpoint()}) refuses the token that was sent for {self.repo!r}: it is wrong "
            "or expired; set HF_TOKEN to a valid one, or log in anew with `hf auth login`"
        )

    def _gated(self) -> str:
        return (
            f"hub repository {self.repo!r} is gated: accept its terms at {self._page()} and log in with "
            "`hf auth login` (or set HF_TOKEN)"
        )

    def _unknown(self) -> str:
        return (
            f"{self._no_copy()} no such repository on the hub ({_endpoint()}); check the spelling, or "
            "log in with `hf auth login` (or set HF_TOKEN) if it is private"
        )

    def _forbidden(self) -> str:
        return (
            f"the hub ({_endpoint()}) forbids access to {self.repo!r}: log in with `hf auth login` (or set "
            "HF_TOKEN) with a token that may read it"
        )

    def _busy(self, status: int) -> str:
        reason = "too many requests" if status == 429 else "the hub has a fault"
        return self._failed(f"HTTP {status}, {reason}; wait and try again, files that are complete are kept")

    def _incomplete(self, text: str) -> str:
        missing = re.search(r"missing \((.*?)\)\.", text)
        return _incomplete(self.repo, f"{missing[1] if missing else 'a file'} is missing")

    def _unreachable(self) -> str:
        copy = "give the folder of a local copy" if self.kind == "model" else "fill the cache with one"
        return (
            f"{self._no_copy()} the hub ({_endpoint()}) cannot be reached{_offline()} nor is all of it in "
            f"the local cache; check the network or {copy}"
        )

    def _failed(self, reason: str) -> str:
        return f"downloading {self.repo!r} from the hub ({_endpoint()}) failed: {reason}"

    def _unreadable(self, chain: Sequence[BaseException]) -> str:
        if "Dataset scripts are no longer supported" in str(chain[0]):
            return (
                f"data set {self.repo!r} is a script, which is no longer run; use a copy with data files, or "
                "revision='refs/convert/parquet'"
            )
        return f"data set {self.repo!r} cannot be read: {_deepest(chain)}; check its page {self._page()}"


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
    return chain[first:] if _origin(link) in CLIENTS or _classes(link) & CLIENTS else []


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
    url = str(error.response.url)  # type: ignore[attr-defined]
    return url.partition("/resolve/")[2].partition("/")[2] or url


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _offline() -> str:
    from huggingface_hub import constants

    return " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""


def _deepest(chain: Sequence[BaseException]) -> str:
    """What was raised, and what caused it where that says more."""
    cause = chain[0].__cause__
    return _line(chain[0]) + (f" ({_line(cause)})" if cause is not None else "")


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
