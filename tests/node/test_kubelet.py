"""The whole node against a real API server, with real crun and the real kubectl (see `scenario`)."""

import subprocess
import sys
from pathlib import Path

from tests.node import scenario

ROOT = Path(__file__).parents[2]


def test_kubectl_sees_a_kubelet(tmp_path: Path) -> None:
    command = [
        "unshare",
        "--mount",
        "--net",
        "--propagation=private",
        sys.executable,
        "-m",
        "tests.node.scenario",
        str(tmp_path),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    passed = [line.partition(":")[0] for line in result.stdout.splitlines() if ": passed" in line]
    assert passed == [check.__name__ for check in scenario.CHECKS], result.stdout[-3000:] + result.stderr[-6000:]
    assert result.returncode == 0
