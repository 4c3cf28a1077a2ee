"""A repository on the Hub: listing, uploading and reading back, tried again where the network or the Hub falters.

Uses huggingface_hub and nothing of torch. No message holds a token, since none quotes a request's headers.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipeline.utils.errors import in_one_line
from pipeline.utils.files import REFUSALS, sha256
from pipeline.utils.log import log
from pipeline.utils.network import unreachable

ATTEMPTS = 12
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds; doubled after every attempt
PASSING = (408, 409, 412, 423, 429, 500, 502, 503, 504)  # statuses that may not come again
LONGEST_NAME = 100  # characters of a path in a message
HOUSEKEEPING = ".gitattributes"  # what the Hub itself puts into a new repository

Source = Path | bytes  # a file to upload, or its bytes
T = TypeVar("T")


class HubError(Exception):
    """What went wrong with a repository, in one line."""


@dataclass(frozen=True)
class RemoteFile:
    """What the Hub lists of a file: git's SHA-1 of the blob, and the SHA-256 of the content where LFS has it."""

    size: int
    blob: str
    sha256: str | None

    def holds(self, source: Source) -> bool:
        """Whether the listing says that the content is that of a local one."""
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size != self.size:
            return False
        if self.sha256 is not None:
            return self.sha256 == digest(source)
        content = source if isinstance(source, bytes) else source.read_bytes()
        return hashlib.sha1(f"blob {size}\0".encode() + content).hexdigest() == self.blob


def digest(source: Source) -> str:
    """The SHA-256 of a file or of bytes, in hexadecimal."""
    return hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256(source)


class Remote:
    """A model, dataset or static Space, `user/name`; every method raises HubError."""

    def __init__(self, name: str, kind: Literal["model", "dataset", "space"] = "model"):
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import disable_progress_bars, validate_repo_id
        from huggingface_hub.utils.logging import set_verbosity_error

        disable_progress_bars()
        set_verbosity_error()
        warnings.filterwarnings("ignore", "Not enough free disk space")  # which is said once, when it is full
        if name.count("/") != 1:
            raise HubError(f"repository {name!r}: write it as user/name")
        try:
            validate_repo_id(name)
        except ValueError as error:
            raise HubError(f"repository {name!r}: {in_one_line(error)}") from None
        if constants.is_offline_mode():
            raise HubError(f"{name}: HF_HUB_OFFLINE is set, so the Hub is not asked; unset it")
        if reason := unreachable(HfApi().endpoint):
            raise HubError(f"{name}: the Hub cannot be reached ({reason})")
        self.name, self.kind = name, kind
        self.retries = 0  # requests that were made again
        self._api = HfApi()
        self._at: dict[str, Any] = {"repo_id": name, "repo_type": kind}

    def create(self, private: bool | None) -> None:
        """The repository, made where there is none yet; `private` is for a new one."""
        sdk = "static" if self.kind == "space" else None
        self._try(lambda: self._api.create_repo(**self._at, space_sdk=sdk, private=private, exist_ok=True))

    def is_new(self) -> bool:
        """Whether nobody has put anything there since the Hub made it."""
        return len(self._try(lambda: self._api.list_repo_commits(**self._at))) == 1

    def first_commit(self, replace: bool = False) -> str:
        """The empty commit with which the repository begins, from which branches start.

        replace: it may hold a card or other files that are no weights.

        A branch that started from `main` would show the final weights under an early step's name until its own were
        there.
        """
        first = self._try(lambda: self._api.list_repo_commits(**self._at))[-1].commit_id
        held = sorted((self.listing(first) or {}).keys() - {HOUSEKEEPING})
        held = [path for path in held if not replace or path.endswith((".safetensors", ".bin", ".pt", ".gguf"))]
        if held:
            raise HubError(f"{self.name}: its first commit already holds {printable(held[0])}; choose a new repository")
        return first

    def branches(self) -> list[str]:
        return [branch.name for branch in self._try(lambda: self._api.list_repo_refs(**self._at)).branches]

    def branch(self, name: str, start: str) -> None:
        self._try(lambda: self._api.create_branch(**self._at, branch=name, revision=start, exist_ok=True))

    def listing(self, revision: str) -> dict[str, RemoteFile] | None:
        """The files of a revision by path; None where there is no such revision."""
        from huggingface_hub.errors import RevisionNotFoundError
        from huggingface_hub.hf_api import RepoFile

        def list_files() -> dict[str, RemoteFile]:
            items = self._api.list_repo_tree(**self._at, revision=revision, recursive=True)
            return {
                item.path: RemoteFile(item.size, item.blob_id, item.lfs.sha256 if item.lfs else None)
                for item in items
                if isinstance(item, RepoFile)
            }

        try:
            return self._try(list_files)
        except RevisionNotFoundError:
            return None

    def upload(
        self, revision: str, files: Mapping[str, Source], message: str, owns: Callable[[str], bool]
    ) -> list[str]:
        """Makes a revision hold these files and no others, in one commit; returns the paths that were not there.

        owns: whether a path that is there and not in `files` may be deleted.

        Raises:
            HubError: when another path is there.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        sent: dict[str, None] = {}

        def commit() -> None:
            # Looked at again at every attempt, as the one before may have been carried out, or another push.
            at = str(self._api.repo_info(**self._at, revision=revision).sha)
            there = self.listing(at) or {}
            new = [path for path, source in files.items() if path not in there or not there[path].holds(source)]
            old = [path for path in there if path not in files and path != HOUSEKEEPING]
            self.refuse(revision, [path for path in old if not owns(path)])
            if not (new or old):
                return
            sent.update(dict.fromkeys(new))
            adds = [CommitOperationAdd(path, _payload(files[path])) for path in new]
            deletes = [CommitOperationDelete(path) for path in old]
            self._api.create_commit(
                **self._at,
                operations=[*adds, *deletes],
                commit_message=message,
                revision=revision,
                parent_commit=at,
                num_threads=1,
            )

        self._try(commit)
        return list(sent)

    def refuse(self, revision: str, foreign: Sequence[str]) -> None:
        """Raises a HubError where a revision holds files that are not ours to delete."""
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise HubError(
                f"{self.name}: {revision} holds {printable(foreign[0])}{more}, which no push from here has put there; "
                f"choose another repository, or write --replace {self.name} to have what it holds replaced"
            )

    def content(self, revision: str, path: str) -> bytes:
        """The bytes of a file, read anew."""
        with tempfile.TemporaryDirectory() as folder:
            return self.download(revision, path, Path(folder)).read_bytes()

    def download(self, revision: str, path: str, folder: Path) -> Path:
        """Downloads a file anew, to its path in a folder."""
        return Path(
            self._try(
                lambda: self._api.hf_hub_download(
                    **self._at, filename=path, revision=revision, local_dir=folder, force_download=True
                )
            )
        )

    def damage(
        self, revision: str, files: Mapping[str, Source], read_back: bool, drawn: Sequence[str] = ()
    ) -> list[str]:
        """What of a revision is not as it is here: by the hashes that the Hub lists, and by its bytes, read back.

        drawn: files that may be others, or missing.
        """
        there = self.listing(revision)
        if there is None:
            return ["there is no such revision"]
        found = []
        for path, source in files.items():
            if path in drawn:
                continue
            if path not in there:
                found.append(f"{path} is missing")
            elif not there[path].holds(source):
                found.append(f"{path} is another file than here")
            elif read_back:
                with tempfile.TemporaryDirectory() as folder:
                    if digest(self.download(revision, path, Path(folder))) != digest(source):
                        found.append(f"{path} comes back corrupted: its sha256 is not that of the file here")
        extra = sorted(there.keys() - files.keys() - {HOUSEKEEPING})
        return [*found, *(f"{printable(path)} does not belong to it" for path in extra)]

    def _try(self, action: Callable[[], T]) -> T:
        """Does it, again after a while where the reason may pass."""
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

        for attempt in range(1, ATTEMPTS + 1):
            try:
                return action()
            except (RevisionNotFoundError, HubError):
                raise
            except Exception as raised:  # the network's have no class in common; what is not its goes on as it came
                error, cause = raised, raised.__cause__
                if isinstance(raised, ValueError) and isinstance(cause, Exception):
                    error = cause  # of a download, which itself says only that it has failed
                response = error.response if isinstance(error, HfHubHTTPError) else None
                status = None if response is None else response.status_code
                if isinstance(error, OSError) and error.errno in REFUSALS:  # of the disk here, not of the network
                    raise
                network = isinstance(error, (OSError, LocalEntryNotFoundError)) or "httpx" in type(error).__module__
                if status is None and not network and not _is_answer(error):
                    if not isinstance(error, (ValueError, RuntimeError)):  # of its checks, and of Xet; others are bugs
                        raise
                    raise HubError(f"{self.name}: {in_one_line(error)}") from None
                if attempt == ATTEMPTS or (status is not None and status not in PASSING):
                    raise HubError(f"{self.name}: {_reason(status, error, attempt)}") from None
                if not self.retries:  # said once, and counted
                    log.warning(f"{self.name}: {_reason(status, error, attempt)}; trying again")
                self.retries += 1
                time.sleep(_wait(attempt, error))
        raise AssertionError  # the last attempt returns or raises


def _is_answer(error: Exception) -> bool:
    """Whether the client has failed at what the Hub answered, such as a 409 of `create_repo` that names no address."""
    if not isinstance(error, (LookupError, TypeError, AttributeError)):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("huggingface_hub")


def printable(path: str) -> str:
    """Returns a path that somebody else chose, as it may stand in a message."""
    text = path if path.isprintable() else repr(path)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def _payload(source: Source) -> str | bytes:
    return source if isinstance(source, bytes) else str(source)


def _wait(attempt: int, error: Exception) -> float:
    """Seconds until the next attempt: what the Hub asks for, or twice as long each time, spread at random."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    if asked.isdigit():
        return min(float(asked), 5 * LONGEST_WAIT)
    return min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.75, 1.25)


def _reason(status: int | None, error: Exception, attempts: int) -> str:
    from huggingface_hub.errors import GatedRepoError

    if isinstance(error, GatedRepoError):
        return "is gated; ask for access on its page, and log in with hf auth login"
    tried = f", also after {attempts} attempts" if attempts > 1 else ""
    reasons = {
        401: "there is no such repository, or it is private; log in with hf auth login",
        403: "the Hub forbids it (403); the token needs the right to write there, see hf auth login",
        404: "there is no such repository",
        429: f"the Hub is asked too often (429){tried}",
    }
    if _is_answer(error):
        return f"the Hub answers what its client does not expect ({error!r}){tried}"
    if status is None:
        return f"the Hub does not answer ({type(error).__name__}){tried}"
    return reasons.get(status, f"the Hub answers {status}{tried}")
