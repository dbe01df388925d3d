"""GGUF: what llama.cpp and Ollama run. Made by llama.cpp's own converter and quantizer."""

from loraplug import Exporter, hookimpl
from loraplug_gguf.adapter import GgufAdapterExporter
from loraplug_gguf.exporter import GgufExporter
from loraplug_gguf.ollama import OllamaExporter


@hookimpl
def loraplug_exporters() -> list[type[Exporter]]:
    """`gguf`, `gguf-adapter` and `ollama`."""
    return [GgufExporter, GgufAdapterExporter, OllamaExporter]
