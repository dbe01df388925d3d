"""A loraplug plugin: the exporter `zip`."""

from collections.abc import Sequence

from loraplug import Exporter, hookimpl
from loraplug_zip.exporter import ZipExporter


@hookimpl
def loraplug_exporters() -> Sequence[type[Exporter]]:
    """Bring `zip`."""
    return [ZipExporter]
