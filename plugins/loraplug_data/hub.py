"""The source `hub`: whole data sets, or their first rows, which are streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any

from attrs import frozen

from loraplug import Doc, InputError, Run, atomic_output
from loraplug_data.shaped import Shaped

if TYPE_CHECKING:
    from datasets import Dataset

_SECONDS = 30


def first_rows(id: str, config: str | None, split: str, revision: str | None, limit: int, run: Run) -> Dataset:  # noqa: A002
    """The first `limit` rows of a split, kept in the cache by the commit that the revision stands for.

    Raises what `datasets` and `huggingface_hub` raise.
    """
    import shutil

    from datasets import Dataset, load_dataset, load_from_disk
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(id, revision=revision, timeout=_SECONDS).sha
    name = sha256(json.dumps([id, config, split, commit, limit]).encode()).hexdigest()[:24]
    place = run.cache / "hub" / name
    if not place.is_dir():
        stream = load_dataset(id, config, split=split, revision=commit, streaming=True).take(limit)

        def rows() -> Iterator[dict[str, Any]]:
            with run.progress(f"reading {id}", limit) as bar:
                for row in stream:
                    yield row
                    bar.advance()

        with atomic_output(place) as fresh:
            work = fresh / "work"
            made = Dataset.from_generator(rows, stream.features, cache_dir=str(work), fingerprint=name)
            made.save_to_disk(str(fresh))
            del made
            shutil.rmtree(work)
    run.say(f"dataset: {id}: only the first rows, at most {limit:,}, of the commit {str(commit)[:12]}")
    return load_from_disk(str(place))


_TERMS = "check the id; for a private or gated data set accept the terms on its page and set HF_TOKEN"
_SAVED = "check the network, or save the data set with save_to_disk on another machine and use the source `disk`"


@frozen
class HubSource(Shaped):
    """A data set of the Hugging Face hub; private and gated ones with HF_TOKEN. With limit, only the first rows are
    downloaded.
    """

    name = "hub"
    id: Annotated[str, Doc("owner/name of the data set")]
    split: Annotated[str, Doc("the split; slices such as `train[:1000]` are supported")] = "train"
    config: Annotated[str | None, Doc("the configuration, if the data set has several", aka=("subset",))] = None
    revision: Annotated[str | None, Doc("a commit, tag or branch; a commit always gives the same rows")] = None

    def load(self, run: Run) -> Dataset:
        """The split's rows.

        Raises:
            InputError: no such data set, split or configuration, no access, or no network.
        """
        from datasets import disable_progress_bars, load_dataset
        from datasets.exceptions import DatasetNotFoundError
        from httpx2 import HTTPError
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
        from huggingface_hub.utils import logging

        disable_progress_bars()
        logging.set_verbosity_error()  # every retry would be told, with the address
        run.say(f"dataset: loading {self.id} from the hub")
        try:
            if self.limit is not None and "[" not in self.split and "+" not in self.split:  # which streams cannot cut
                rows = first_rows(self.id, self.config, self.split, self.revision, self.limit, run)
            else:
                rows = load_dataset(self.id, self.config, split=self.split, revision=self.revision)
        except (DatasetNotFoundError, HFValidationError, OfflineModeIsEnabled, HTTPError, OSError) as error:
            refused = isinstance(error, DatasetNotFoundError | HFValidationError) or (
                isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)
            )
            why = " ".join(str(error).split())
            what, todo = f"the hub could not be reached ({why})", _SAVED
            if refused:
                what, todo = f"cannot be loaded: {why}", _TERMS
            raise InputError(what, where=f"dataset.id {self.id}", todo=todo) from None
        except ValueError as error:  # unknown split or configuration; the message lists those there are
            raise InputError(" ".join(str(error).split()), where=f"dataset.id {self.id}") from None
        return self.shaped(rows, self.id)
