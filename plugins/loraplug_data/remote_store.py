"""Files in buckets, by fsspec: `s3://` (s3fs) and `gs://` (gcsfs), with the logins that these libraries look for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from loraplug import InputError
from loraplug_data.remote import Broken, Changed, Remote, shown

_PIECE = 8 << 20
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs"}
_LOGIN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, of an account that may read the bucket",
    "gs": "log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file",
}
_VERSIONS = ("VersionId", "generation", "ETag", "etag", "LastModified", "mtime")


def ask_store(scheme: str, address: str) -> list[Remote]:
    """The file at an address of a bucket, or those of a pattern (`*`) or a folder, in the order of names.

    Args:
        scheme: "s3" or "gs".
        address: with the scheme in front.

    Raises:
        InputError: the library is missing, there is no such file or bucket, or it may not be read.
        Broken: the store does not answer.
    """
    library = _LIBRARIES[scheme]
    if find_spec(library) is None:
        todo = f'pip install "{library}>=2026.4"'
        raise InputError(
            f"{scheme}:// needs the library {library}, which is not installed", where=shown(address), todo=todo
        )
    path = address.split("://", 1)[1]
    with _told(scheme, address):
        system = _system(scheme)
        try:
            names = _names(system, path)
        except Exception as error:
            if not _has_no_login(error):
                raise
            system = _system(scheme, anonymous=True)  # as the buckets of public data sets are read
            names = _names(system, path)
        if not names:
            raise InputError("no such file", where=shown(address), todo="check the address")
        return [_remote(system, scheme, name) for name in names]


def _system(scheme: str, *, anonymous: bool = False) -> Any:
    import fsspec

    as_anyone: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "gs": {"token": "anon"}}
    options = as_anyone[scheme] if anonymous else {}
    system = fsspec.filesystem(scheme, **options, skip_instance_cache=True, use_listings_cache=False)
    system.invalidate_cache()
    return system


def _names(system: Any, path: str) -> list[str]:
    if any(mark in path for mark in "*?["):
        return sorted(system.glob(path))
    info = system.info(path)
    if info["type"] != "directory":
        return [path]
    files = system.ls(path, detail=True)
    return sorted(
        one["name"] for one in files
        if one["type"] == "file" and one["size"] and not one["name"].rpartition("/")[2].startswith(".")
    )  # fmt: skip


def _remote(system: Any, scheme: str, name: str) -> Remote:
    address = f"{scheme}://{name}"
    info = system.info(name)
    version = _version(info)

    def stream(start: int) -> Iterator[bytes]:
        with _told(scheme, address):
            for at in range(start, info["size"], _PIECE):
                yield system.cat_file(name, start=at, end=min(at + _PIECE, info["size"]))
            if _version(system.info(name)) != version:
                raise Changed

    return Remote(address, info["size"], version, stream)


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[key]).strip('"') for key in _VERSIONS if info.get(key)), "")


def _has_no_login(error: Exception) -> bool:
    return type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError")


@contextmanager
def _told(scheme: str, address: str) -> Iterator[None]:
    """Turn what a store's library raises into one of ours."""
    where = shown(address)
    try:
        yield
    except (InputError, Broken, Changed):
        raise
    except FileNotFoundError as error:
        what = "no such bucket" if "bucket" in str(error).lower() else "no such file or folder"
        raise InputError(what, where=where, todo="check the address") from None
    except PermissionError as error:
        raise InputError(f"no access ({_short(error)})", where=where, todo=_LOGIN[scheme]) from None
    except (OSError, ValueError) as error:  # botocore's own are no OSErrors
        raise Broken(_short(error)) from None
    except Exception as error:
        kind = type(error)
        if _has_no_login(error):
            raise InputError("no credentials were found", where=where, todo=_LOGIN[scheme]) from None
        if kind.__module__.partition(".")[0] not in ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "s3fs"):
            raise
        raise Broken(_short(error)) from None


def _short(error: BaseException) -> str:
    return shown(" ".join(str(error).split())[:200]) or type(error).__name__
