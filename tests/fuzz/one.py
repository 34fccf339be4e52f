"""One target under atheris: `python -m tests.fuzz.one TARGET [OPTION...] [FILE or FOLDER...]`, as libFuzzer takes them."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["liveloop.weights"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until told to stop; does not return."""
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name][0])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
