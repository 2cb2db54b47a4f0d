"""The audit of installed packages: what it finds fails it, a network that is closed does not."""

import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit"
CLOSED = "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='api.osv.dev', port=443)"


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("echo No known vulnerabilities found", 0, "No known vulnerabilities found"),
        (
            f'echo "{CLOSED}" >&2; exit 1',
            0,
            "osv.dev cannot be reached; the installed packages were listed, not checked",
        ),
        ("echo Found 1 known vulnerability >&2; echo torch 1.0 CVE-1; exit 1", 1, "torch 1.0 CVE-1"),
        ("echo usage: pip-audit >&2; exit 2", 1, ""),
    ],
)
def test_what_the_audit_says_and_ends_with(tmp_path: Path, answer: str, code: int, said: str):
    fake = tmp_path / "pip-audit"
    fake.write_text(f"#!/bin/sh\n{answer}\n")
    fake.chmod(0o755)
    result = subprocess.run([AUDIT, fake, sys.executable], capture_output=True, text=True)
    assert result.returncode == code
    assert said in result.stdout
