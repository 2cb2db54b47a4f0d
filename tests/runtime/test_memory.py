import platform
import subprocess
import sys

import pytest

_FAULTS_OF_LATER_STEPS = """
import resource, sys
from runtime.compute import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    blocks = [bytearray(64_000_000) for _ in range(3)]  # zeroed by calloc: touched below
    for block in blocks:
        for page in range(0, len(block), 4096):
            block[page] = 1
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults_of_second_step(choice: str) -> int:
    command = [sys.executable, "-c", _FAULTS_OF_LATER_STEPS, choice]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep what they like")
def test_the_next_step_finds_the_memory_of_the_one_before():
    assert faults_of_second_step("keep") < 1_000
    assert faults_of_second_step("default") > 20_000  # three blocks of 15,625 pages
