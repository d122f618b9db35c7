"""Mutation testing of the policy engine: `python -m bench.security_mutants --python VENV/bin/python --sample 600`.

Works on a copy in a directory of its own, never on the checkout. `--python` is an interpreter with mutmut 3 that also sees this
project's packages. Functions that remember their results are mutated without that, since mutmut leaves decorated ones alone, and
tests that need sockets are left out. Prints each mutant that no test noticed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = (
    "decision", "envoy_match", "envoy_rbac", "evaluation", "fallback", "gate", "lifting", "match", "paths",
    "peer_authentication", "rule_index", "ztunnel",
)  # fmt: skip
SETTINGS = """
[project]
name = "mutated"
version = "0"
[tool.pytest.ini_options]
testpaths = ["tests"]
addopts = "-q --deselect tests/security/test_conformance.py::test_known_bypasses_are_held"
asyncio_mode = "auto"
pythonpath = ["."]
[tool.mutmut]
source_paths = ["src"]
only_mutate = {modules}
tests_dir = ["tests/security"]
also_copy = ["tests", "docs"]
"""
PROFILE = """

settings.register_profile("mutation", derandomize=True, deadline=None, max_examples=30, database=None)
settings.load_profile("mutation")
"""


def prepare(directory: Path) -> None:
    """Copy what is mutated and what tests it."""
    for part in ("src/tulle/security", "src/tulle/xds", "tests/security"):
        shutil.copytree(
            ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__", "test_live*", "live")
        )
    for part in ("src/tulle/__init__.py", "tests/conftest.py", "docs/security.md"):
        (directory / part).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / part, directory / part)
    (directory / "tests/security/test_against_envoy.py").unlink()
    with (directory / "tests/conftest.py").open("a") as conftest:
        conftest.write(PROFILE)
    for module in (directory / "src/tulle/security").glob("*.py"):
        lines = module.read_text().splitlines(keepends=True)
        module.write_text("".join(line for line in lines if not line.startswith("@lru_cache(")))
    modules = json.dumps([f"src/tulle/security/{name}.py" for name in MODULES])
    (directory / "pyproject.toml").write_text(SETTINGS.format(modules=modules))


def outcomes(directory: Path) -> dict[str, int | None]:
    """Each mutant's exit code of its tests, None when it has not been tested."""
    found: dict[str, int | None] = {}
    for meta in sorted((directory / "mutants").rglob("*.meta")):
        found.update(json.loads(meta.read_text())["exit_code_by_key"])
    return found


def main() -> None:
    """Make the mutants, test a sample of them, print the survivors."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--python", required=True)
    arguments.add_argument("--sample", type=int, default=600, help="how many mutants; 0 for all")
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    mutmut = [options.python, "-m", "mutmut"]
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        directory = Path(name)
        prepare(directory)
        # Mutants have names only once they are made, and they are made before the names asked for are looked at.
        subprocess.run([*mutmut, "run", "none-of-them*"], cwd=directory, capture_output=True, check=False)
        names = sorted(outcomes(directory))
        random.Random(options.seed).shuffle(names)  # noqa: S311 (a repeatable sample)
        chosen = names[: options.sample or len(names)]
        subprocess.run([*mutmut, "run", "--max-children", "2", *chosen], cwd=directory, check=True)
        survivors = [mutant for mutant, code in outcomes(directory).items() if code == 0]
        for mutant in survivors:
            subprocess.run([*mutmut, "show", mutant], cwd=directory, check=True)
    print(f"{len(survivors)} of {len(chosen)} tested mutants survive ({len(names)} in all)")


if __name__ == "__main__":
    main()
