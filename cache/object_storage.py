"""Keys as objects of a bucket: ``s3://bucket/prefix``, ``gs://...``, ``az://container/prefix``, by obstore.

What must happen once relies on create-only puts alone: nothing is renamed, and no put is conditional on what is there.
So before the first of them a place is probed: a server that lets a key be created twice is refused. Credentials come
from the environment (or from the machine's own role) by obstore's usual chain; nothing of them is stored or pickled.

A put that was done although its answer was an error is recognised by its bytes.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cache.errors import MissingExtraError, SettingsError, UnreachableError, UnwritableError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

SCHEMES = ("s3", "gs", "az")
_URL = re.compile(rf"(?:{'|'.join(SCHEMES)})://[^/]+(?:/.*)?", re.DOTALL)
_SETTINGS = ("AWS_", "AZURE_", "GOOGLE_")
_ENDPOINTS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_ENDPOINT")
_PROBE = ".permafrost-probe"
_TRIES, _FIRST_PAUSE, _LONGEST_PAUSE = 7, 0.2, 8.0
_CONTACT: ClientConfig = {"connect_timeout": "3s", "timeout": "4s"}
_WORK: ClientConfig = {"connect_timeout": "5s", "timeout": "180s"}
_Settings = tuple[tuple[str, str], ...]
_probed: set[tuple[str, _Settings]] = set()
_REFUSED = re.compile("InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthenticationFailed")


@dataclass(frozen=True)
class ObjectStorage:
    """The objects whose names begin with the path of ``url``, as a :class:`cache.Storage`.

    >>> ObjectStorage("s3://bucket/shop").below("features").address("zarr.json")
    's3://bucket/shop/features/zarr.json'
    """

    url: str

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.url):
            known = ", ".join(f"{scheme}://bucket/prefix" for scheme in SCHEMES)
            raise SettingsError(f"an address in object storage is one of {known}; got {self.url!r}")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def list(self, prefix: str = "") -> list[str]:  # noqa: D102
        root, folder = self._path(), self._path(prefix.rpartition("/")[0])
        with _said_of(self.address(prefix)):
            pages = list(_obstore().list(self._client(), folder or None))
        keys = (entry["path"].removeprefix(f"{root}/") for page in pages for entry in page)
        return sorted(key for key in keys if key.startswith(prefix) and not key.rpartition("/")[2].startswith(_PROBE))

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:  # noqa: D102
        if stop is not None and stop <= start:
            self.size(key)
            return b""
        part = {"offset": start} if stop is None else (start, stop)
        span: Any = {"range": part} if start or stop else {}
        with _said_of(self.address(key)):
            try:
                content: bytes = _obstore().get(self._client(), self._path(key), options=span).bytes().to_bytes()
            except _obstore().exceptions.BaseError as error:
                if span and re.search(r"\b416\b|[Rr]ange started at", str(error)):  # it ends before
                    return b""
                raise
        return content

    def read_ranges(self, key: str, starts: Sequence[int], length: int) -> Sequence[bytes]:
        """The ``length`` bytes from each of ``starts`` on, in few requests at once."""
        spans = self._ask("get_ranges", key, starts=[*starts], lengths=[length] * len(starts))
        return [span.to_bytes() for span in spans]

    def size(self, key: str) -> int:  # noqa: D102
        return int(self._ask("head", key)["size"])

    def version(self, key: str) -> str:
        """What differs when the object is another: its ETag (and version)."""
        head = self._ask("head", key)
        return f"{head['e_tag']} {head['version'] or ''} {head['size']}".replace("  ", " ")

    def modified(self, key: str) -> datetime:
        """When the object was written, by the server's clock."""
        modified: datetime = self._ask("head", key)["last_modified"]
        return modified

    def put(self, key: str, content: bytes | memoryview) -> None:  # noqa: D102
        self._ask("put", key, content, writing=True)

    def put_soon(self, key: str, content: bytes) -> None:
        """:meth:`put` that waits for seconds at most."""
        with _said_of(self.address(key), writing=True):
            _obstore().put(_client(_bucket(self.url), -1, _settings()), self._path(key), content)

    def put_new(self, key: str, content: bytes | memoryview) -> bool:  # noqa: D102
        client = self._client(tries=0)
        _probe(_bucket(self.url), self._path(f"{_PROBE}-{secrets.token_hex(8)}"), _settings())
        return _create(client, self._path(key), content, self.address(key))

    def delete(self, key: str) -> None:  # noqa: D102
        with suppress(FileNotFoundError):
            self._ask("delete", key, writing=True)

    def map(self, key: str) -> None:
        """None: objects are not files. Raises FileNotFoundError where there is none."""
        self.size(key)

    def below(self, prefix: str) -> ObjectStorage:  # noqa: D102
        self._path(prefix)
        return ObjectStorage(f"{self.url}/{prefix}")

    def address(self, key: str = "") -> str:  # noqa: D102
        return f"{self.url}/{key}" if key else self.url

    def opened(self) -> ObjectStore:
        """The client of obstore at this address, as Zarr takes it."""
        self._client()
        return _client(self.url, 8, _settings())

    def _path(self, key: str = "") -> str:
        if key and any(part in ("", ".", "..") for part in key.split("/")):
            raise SettingsError(f"a key is a relative path like rows/3.parquet; got {key!r}")
        prefix = self.url.split("/", 3)[3:]
        return "/".join([*prefix, *([key] if key else [])])

    def _ask(self, what: str, key: str, *content: bytes | memoryview, writing: bool = False, **options: Any) -> Any:
        with _said_of(self.address(key), writing=writing):
            return getattr(_obstore(), what)(self._client(), self._path(key), *content, **options)

    def _client(self, tries: int = 8) -> ObjectStore:
        """The client of the bucket, once it is sure that the server answers and knows it and the credentials."""
        _contact(_bucket(self.url), _settings())
        return _client(_bucket(self.url), tries, _settings())


def _obstore() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise MissingExtraError("obstore, which object storage is read with,", "objects") from error
    return obstore


def _bucket(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])


def _settings() -> _Settings:
    """What clients are opened with: a process whose environment changes opens others."""
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(_SETTINGS)))


@lru_cache(maxsize=64)
def _client(url: str, tries: int, settings: _Settings) -> ObjectStore:
    """The client at ``url`` that asks again ``tries`` times; the one of first contact, with short waits, for -1."""
    from obstore.store import from_url

    waits = _CONTACT if tries < 0 else _WORK
    plain = any(dict(settings).get(name, "").startswith("http://") for name in _ENDPOINTS)
    one_by_one: Any = {"disable_bulk_delete": True} if url.startswith("s3:") else {}
    opened: ObjectStore = from_url(
        url,
        client_options={**waits, "allow_http": plain},
        retry_config={
            "max_retries": abs(tries),
            "retry_timeout": timedelta(seconds=4 if tries < 0 else 60),
            "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=8), "base": 2},
        },
        **one_by_one,
    )
    return opened


@lru_cache(maxsize=64)
def _contact(bucket: str, settings: _Settings) -> None:
    obstore = _obstore()
    try:
        next(iter(obstore.list(_client(bucket, -1, settings), prefix=_PROBE)), None)
    except (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError) as error:
        if _REFUSED.search(str(error)):
            raise _unreachable(bucket, error) from error
        # What may not be listed may still be read or written: the request in hand will tell.
    except (obstore.exceptions.BaseError, OSError) as error:
        raise _unreachable(bucket, error) from error


def _probe(bucket: str, path: str, settings: _Settings) -> None:
    """Create one key twice, and refuse a bucket where that is possible, or where create-only puts are not."""
    import obstore

    if (bucket, settings) in _probed:
        return
    client, address = _client(bucket, 0, settings), f"{bucket}/{path}"
    must = (
        "Permafrost commits by create-only puts (If-None-Match: *), so that of two writers one wins. Use a server that "
        "honours them (S3, GCS, Azure, MinIO), or a local folder."
    )
    try:
        _create(client, path, b"1", address)
        if _create(client, path, b"2", address):
            raise UnreachableError(f"{bucket} let one key be created twice, the second instead of the first. {must}")
    except UnwritableError as error:
        if re.search(r"\b501\b|NotImplemented|not supported|not implemented", str(error.__cause__)):
            raise UnreachableError(f"{bucket} does not implement create-only puts. {must}") from error
        raise
    finally:
        with suppress(obstore.exceptions.BaseError, OSError):
            obstore.delete(client, path)
    _probed.add((bucket, settings))


def _create(client: ObjectStore, path: str, content: bytes | memoryview, address: str) -> bool:
    """Put what is not there yet. What is there with our bytes after a failed try counts as ours."""
    import obstore

    for attempt in range(_TRIES):
        if attempt:
            time.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1)))
        with _said_of(address, writing=True):
            try:
                obstore.put(client, path, content, mode="create", use_multipart=False)
                return True
            except obstore.exceptions.AlreadyExistsError:
                return bool(attempt) and obstore.get(client, path).bytes().to_bytes() == content
            except obstore.exceptions.GenericError as error:
                if attempt == _TRIES - 1 or re.search(r"\b501\b|NotImplemented", str(error)):
                    raise
    raise AssertionError("the last try returns or raises")


@contextmanager
def _said_of(address: str, *, writing: bool = False) -> Iterator[None]:
    exceptions = _obstore().exceptions
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
            raise _unreachable(_bucket(address), error) from error
        raise FileNotFoundError(errno.ENOENT, "No such object", address) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        refusal = PermissionError(errno.EACCES, f"the credentials do not allow it ({_first_line(error)})", address)
        if writing:
            raise UnwritableError(address, refusal) from error
        raise refusal from error
    except exceptions.NotSupportedError as error:
        raise UnwritableError(address, OSError(errno.ENOSYS, _first_line(error))) from error
    except exceptions.GenericError as error:
        if writing and re.search(r"\b501\b|NotImplemented", str(error)):
            raise UnwritableError(address, OSError(errno.ENOSYS, _first_line(error))) from error
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> UnreachableError:
    """What is wrong with the server, the bucket or the credentials, and what to do."""
    text = str(error)
    if "NoSuchBucket" in text or "ContainerNotFound" in text or isinstance(error, FileNotFoundError):
        what, remedy = "there is no such bucket", "Create it, or correct the address."
    elif "169.254.169.254" in text or "/latest/api/token" in text or "metadata.google" in text:
        what = "no credentials in the environment, and the machine has no role of its own"
        remedy = (
            "Set them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION; GOOGLE_APPLICATION_CREDENTIALS; or "
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY."
        )
    elif _REFUSED.search(text):
        what, remedy = "the credentials are refused", "Renew those in the environment."
    else:
        what, remedy = "it does not answer", "Check the network, AWS_ENDPOINT_URL and AWS_REGION, and run it again."
    return UnreachableError(
        f"{address} cannot be used: {what} ({_first_line(error)}). {remedy} What was committed is kept."
    )


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0].removeprefix("Generic S3 error: ")
    return line if len(line) < 240 else f"{line[:240]}..."
