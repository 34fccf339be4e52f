"""The browser package as npm would take it: its files, its version, and types for all that it exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from liveloop import __version__

WEB = Path(__file__).parents[2] / "web"
PACKAGE = json.loads((WEB / "package.json").read_text())


def test_the_package_exports_files_that_are_there_in_the_version_of_the_whole():
    assert PACKAGE["version"] == __version__
    shipped = {path.name for pattern in PACKAGE["files"] for path in WEB.glob(pattern)}
    assert {path.removeprefix("./") for entry in PACKAGE["exports"].values() for path in entry.values()} == shipped
    assert "dependencies" not in PACKAGE


@pytest.mark.parametrize("module", sorted(path.stem for path in WEB.glob("*.js")))
def test_the_types_name_what_the_module_exports_and_its_classes_methods(module: str):
    source, types = (WEB / f"{module}.js").read_text(), (WEB / f"{module}.d.ts").read_text()
    exported = set(re.findall(r"^export (?:async )?(?:class|function|const) (\w+)", source, re.M))
    assert exported == set(re.findall(r"^export (?:class|function|const) (\w+)", types, re.M))
    methods = set(re.findall(r"^  (?:static |async |get |set )*([a-z]\w*)\(.*\{$", source, re.M)) - {"constructor"}
    told_by_the_browser = {name for name in methods if name.endswith("Callback")}
    typed = set(re.findall(r"^  (?:static |readonly |get |set )*(\w+)[?(:]", types, re.M))
    assert methods - told_by_the_browser - typed == set()


def test_no_module_loads_anything_but_its_neighbours():
    for path in WEB.glob("*.js"):
        imported = re.findall(r"""\bfrom "([^"]+)"|import\("([^"]+)"\)""", path.read_text())
        assert {one or other for one, other in imported} <= {f"./{near.name}" for near in WEB.glob("*.js")}
