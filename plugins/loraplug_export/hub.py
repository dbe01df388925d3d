"""`hub`: push to the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from attrs import field, frozen, validators

from loraplug import Doc, ExportContext, InputError, LoraplugError, Problem, Run, redact
from loraplug_export.adapter import AdapterExporter
from loraplug_export.certificate.options import ProvedExporter
from loraplug_export.merged import MergedExporter


@frozen
class HubExporter(ProvedExporter):
    """Pushes the adapter or merged model with its card to the Hugging Face Hub; private by default."""

    name = "hub"
    takes = frozenset({"adapter", "model"})
    repo: Annotated[str, Doc("owner/name on the hub; created if it does not exist")] = field(
        validator=validators.matches_re(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
    )
    what: Annotated[Literal["adapter", "merged"], Doc("what to push")] = "adapter"
    private: Annotated[bool, Doc("create a private repository, and refuse to push to a public one of that name")] = True
    branch: Annotated[str, Doc("branch to push to; created if it does not exist")] = "main"
    message: Annotated[str | None, Doc("the commit message")] = None

    def place(self, run: Run) -> Path:
        """A receipt, `outputs/hub/<run name>-<what>.json`, that records what was pushed where."""
        return run.outputs / "hub" / f"{run.name}-{self.what}.json"

    def check(self, recipe: Any) -> Iterator[Problem]:
        """Refuse to push an adapter if a whole model is trained."""
        if self.what == "adapter" and recipe.trainer.makes() == "model":
            yield Problem("exporter.what", 'the trainer makes a whole model, not an adapter; set what = "merged"')

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """Report an invalid name, a missing or wrong token, or a public repository; asks the hub."""
        from loraplug_export.hub_ask import push_problems

        yield from push_problems(self.repo, self.private)
        yield from self.proving_problems(run, recipe)

    def export(self, result: ExportContext, out: Path) -> Path:
        """Push, then write the receipt `out`. Authenticates by HF_TOKEN, or a login of the `hf` command.

        Raises:
            InputError: no token, no right to push, or a public repository of that name and `private` set; the export
                has a certificate that has not passed.
            LoraplugError: the hub cannot be reached or returns an error.
        """
        import shutil

        from loraplug_export.card import loadable_base
        from loraplug_export.pushed import pushed

        out.parent.mkdir(parents=True, exist_ok=True)
        if Path(loadable_base(result)).is_absolute() and self.what == "adapter":
            result.run.warn(
                "hub: the base model is a folder on this machine, so others will not be able to load the pushed adapter"
            )
        made = result.artefact(self.what)
        own = out.with_name(out.name + ".folder")
        try:
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir()
            if made is None or not made.is_dir():
                made = self._made(result, own / "made")
            check_certified(made)
            receipt = self._push(pushed(made, own / "pushed"), result)
        finally:
            shutil.rmtree(own, ignore_errors=True)
        out.write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
        result.run.say(f"hub: pushed to {receipt['url']} ({'private' if receipt['private'] else 'public'})")
        return out

    def _made(self, result: ExportContext, out: Path) -> Path:
        if self.what == "adapter":
            return AdapterExporter(prove=self.prove).export(result=result, out=out)
        return MergedExporter(prove=self.prove, server=self.server, server_model=self.server_model).export(result, out)

    def _push(self, folder: Path, result: ExportContext) -> dict[str, Any]:
        from httpx2 import HTTPError
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

        api, where = HfApi(), f"exporter.hub {self.repo}"
        try:
            url = api.create_repo(self.repo, private=self.private, exist_ok=True)
            public = not api.repo_info(self.repo).private
            if self.private and public:
                raise InputError("is public already", where=where, todo="set private = false to push to it, or rename")
            if self.branch != "main":
                api.create_branch(self.repo, branch=self.branch, exist_ok=True)
            commit = api.upload_folder(
                repo_id=self.repo,
                folder_path=folder,
                revision=self.branch,
                commit_message=redact(self.message or f"{self.what} of {result.run.name}"),
            )
        except LocalTokenNotFoundError:
            raise InputError("no token", where=where, todo="set HF_TOKEN, in .env or the environment") from None
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                raise InputError(
                    f"this token has no write access to it ({status})",
                    where=where,
                    todo="set HF_TOKEN to a token with write access to it",
                ) from None
            raise LoraplugError(
                f"the hub returned an error ({_line(error)})", where=where, todo="try again later"
            ) from None
        except HFValidationError as error:
            raise InputError(f"not a valid repository name ({_line(error)})", where=where) from None
        except (OSError, HTTPError) as error:
            raise LoraplugError(
                f"the hub could not be reached ({_line(error)})", where=where, todo="check the network"
            ) from None
        return {"url": str(url), "private": not public, "branch": self.branch, "commit": commit.oid, "what": self.what}


def check_certified(folder: Path) -> None:
    """Refuse to push an export whose certificate has not passed or cannot be read.

    Raises:
        InputError: it has not passed, or cannot be read.
    """
    from loraplug_export.certificate import FILE

    path = folder / FILE
    if not path.is_file():
        return
    try:
        passed = json.loads(path.read_text(encoding="utf-8"))["passed"] is True
    except (ValueError, KeyError, TypeError):
        passed = False
    if not passed:
        what = "its certificate cannot be read, or says that its answers are not those of base + adapter"
        raise InputError(what, where=path, todo="export it again")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
