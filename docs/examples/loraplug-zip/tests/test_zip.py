"""What zip promises."""

import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import loraplug_zip
import pytest
from attrs import evolve
from loraplug_zip.exporter import ZipExporter

from loraplug import ExportContext, LoraplugError
from loraplug.testing import make_registry, tiny_trained
from loraplug_tools.plugins.conformance import assert_conforms


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ExportContext:
    """A tiny adapter, with a file that belongs beside it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    return evolve(tiny_trained(folder), extras={"metrics.jsonl": folder / "metrics.jsonl"})


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "zip"`."""
    assert make_registry(loraplug_zip).find("exporter", "zip") is ZipExporter


@pytest.mark.parametrize("compress", [False, True])
def test_it_conforms(tmp_path: Path, compress: bool) -> None:
    """Everything loraplug asks of an exporter: the same bytes twice, spoilt adapters refused."""
    assert_conforms(ZipExporter(compress=compress), tmp_path)


def test_it_holds_the_adapter_and_its_sums(trained: ExportContext, tmp_path: Path) -> None:
    """Every file, byte for byte; the sums are those that sha256sum takes."""
    with zipfile.ZipFile(ZipExporter().export(trained, tmp_path / "a.zip")) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "a")
    names = {path.name for path in trained.adapter.iterdir()} | {"metrics.jsonl"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names | {"SHA256SUMS"}
    lines = dict(reversed(line.split("  ")) for line in (tmp_path / "a/SHA256SUMS").read_text().splitlines())
    assert lines == {name: hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest() for name in names}
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "a", check=True)
    weights = "adapter_model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (trained.adapter / weights).read_bytes()


def test_dates_rights_and_order_on_disk_do_not_show(trained: ExportContext, tmp_path: Path) -> None:
    """A copy made later, with other rights, in another order, makes the same file."""
    first = ZipExporter().export(trained, tmp_path / "a.zip").read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in sorted(trained.adapter.iterdir(), reverse=True):
        shutil.copyfile(path, copy / path.name)
        (copy / path.name).chmod(0o600)
        os.utime(copy / path.name, (1e9, 1e9))
    assert ZipExporter().export(evolve(trained, adapter=copy), tmp_path / "b.zip").read_bytes() == first


def test_without_extras_only_the_adapter(trained: ExportContext, tmp_path: Path) -> None:
    """`extras = false` leaves the run's files out."""
    with zipfile.ZipFile(ZipExporter(extras=False).export(trained, tmp_path / "a.zip")) as archive:
        assert "metrics.jsonl" not in archive.namelist()


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    """What runs code where it is loaded is not handed on."""
    trained = tiny_trained(tmp_path)
    (trained.adapter / "optimizer.pt").write_bytes(b"\x80\x04N.")
    with pytest.raises(LoraplugError, match="is a pickle"):
        ZipExporter().export(trained, tmp_path / "a.zip")
