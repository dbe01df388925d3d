"""What the diagnostic promises."""

from pathlib import Path

import pytest

import my_package
from loraplug.testing import make_registry, tiny_run
from loraplug_tools.plugins.kind_checks import diagnose
from my_package.part import VARIABLE, proxy


def test_it_is_found() -> None:
    """`loraplug doctor` will call it."""
    assert [found for found, _ in make_registry(my_package).diagnostics] == [proxy]


def test_it_conforms() -> None:
    """Whatever the machine has, every finding can be shown."""
    diagnose(proxy)


@pytest.mark.parametrize(
    ("address", "severity"), [(None, "ok"), ("http://127.0.0.1:3128", "warning"), ("127.0.0.1", "error")]
)
def test_a_finding_tells_how_bad_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, severity: str
) -> None:
    """What costs something is a warning, what cannot work is an error, and both say what to do."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if address is not None:
        monkeypatch.setenv(VARIABLE, address)
    (finding,) = proxy(tiny_run(tmp_path))
    assert finding.severity == severity
    assert bool(finding.todo) == (severity != "ok")
