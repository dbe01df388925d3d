"""For `make canary`: the project's requirements without bounds, one a line; `--versions` says what came of them."""

import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def bounded() -> dict[str, str]:
    """Each dependency and its bounds."""
    lines = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    return {name: line.removeprefix(name) for line in lines for name in [re.split("[<>=!~ ]", line, maxsplit=1)[0]]}


if __name__ == "__main__":
    if "--versions" in sys.argv:
        told = [f"{name} {version(name)} (bounds {bounds})" for name, bounds in bounded().items() if "<" in bounds]
    else:
        told = [*bounded(), "hypothesis", "pytest", "pytest-xdist"]
    sys.stdout.write("\n".join(told) + "\n")
