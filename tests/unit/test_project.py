"""What is shipped: the wheel's names, the slim import, the pinned requirements, and what the documents point at."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCKS = {"services": ("services", "kafka", "redis"), "dev": ("dev",)}
HEAVY = ("torch", "transformers", "numpy", "kafka", "redis", "pydantic", "fastapi", "cryptography", "services")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return folder / done.stdout.split()[-1]


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    pairs = [line.split()[0].split("==") for line in lines if "==" in line and not line.startswith(("#", " "))]
    return {package.lower().replace("_", "-"): version for package, version in pairs}


def test_the_wheel_adds_liveloop_alone_typed_and_with_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"liveloop"}
    assert "liveloop/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_client_of_the_wheel_imports_nothing_heavy(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import liveloop; from liveloop import Client; Client().close();"
        f" assert liveloop.__file__.startswith({str(tmp_path)!r}); print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_is_pinned_where_it_belongs_in_a_version_that_the_project_allows(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for extra in LOCKS[lock] for line in project["optional-dependencies"][extra]]
    wanted += [Requirement(line) for line in project["dependencies"]]
    pins = pinned(lock)
    for requirement in wanted:
        name = requirement.name.lower().replace("_", "-")
        assert name in pins, f"{name} is not in requirements/{lock}.txt; run `make lock`"
        assert requirement.specifier.contains(pins[name]), f"{requirement} but {pins[name]} is pinned; run `make lock`"


def test_two_requirement_files_never_pin_one_package_differently() -> None:
    files = {path.name: pinned(path.stem) for path in (ROOT / "requirements").glob("*.txt")}
    for package in {name for pins in files.values() for name in pins}:
        assert len({pins[package] for pins in files.values() if package in pins}) == 1, package


def test_requirements_name_no_address_and_pin_every_line_by_hash() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text
        assert "index-url" not in text
        for block in text.replace("\\\n", " ").splitlines():
            assert "--hash=sha256:" in block or "==" not in block, f"{path.name}: {block}"


def test_every_file_that_the_documents_name_is_there() -> None:
    missing = []
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")):
        text = document.read_text()
        links = [document.parent / link for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)]
        paths = [ROOT / path for path in re.findall(r"`([\w.-]+/[\w./-]*\.py)`", text)]
        missing += [f"{document.relative_to(ROOT)}: {path}" for path in links + paths if not path.exists()]
    assert missing == []


def test_help_imports_neither_torch_nor_settings() -> None:
    script = "import sys; from liveloop.cli import main\nsys.argv = ['liveloop', '--help']\ntry: main()\nexcept SystemExit: pass\n"
    script += "print([name for name in ('torch', 'pydantic', 'transformers', 'fastapi') if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(command in done.stdout for command in ("up", "init", "demo", "bench", "predict", "feedback", "versions"))
