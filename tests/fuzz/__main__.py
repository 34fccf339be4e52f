"""`python -m tests.fuzz [SECONDS]`: atheris on every target, which share the time (ten minutes by default). Exit 1 when one falls.

What is found stays under build/fuzz, where the next run begins; `python -m tests.fuzz.one TARGET FILE` repeats one input.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS

_ROOT = Path(__file__).resolve().parents[2]
_MEMORY = 1024
"""MB in which every input must be read; torch is not among what is imported."""


def main() -> int:
    """Run them one after the other."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    fallen = [name for name in TARGETS if _fuzz(name, seconds // len(TARGETS))]
    print(f"fell: {', '.join(fallen)}" if fallen else f"{len(TARGETS)} targets stood for {seconds} s in all")
    return 1 if fallen else 0


def _fuzz(name: str, seconds: int) -> int:
    folder = _ROOT / "build" / "fuzz" / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name][1]):
        (folder / f"seed-{number}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={_MEMORY}", "-timeout=10", "-max_len=65536", f"-artifact_prefix={folder}-"]
    print(f"{name}: {seconds} s", flush=True)
    command = [sys.executable, "-m", "tests.fuzz.one", name, *limits, "-print_final_stats=1", str(folder)]
    done = subprocess.run(command, cwd=_ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print("\n".join(line for line in done.stdout.splitlines() if line.startswith("stat::number_of_executed")), flush=True)
    if done.returncode:
        print(done.stdout[-4000:])
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
