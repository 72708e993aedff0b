"""What a process frees, it keeps."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from fedkd.heap import keep_freed_memory

def faults():
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):  # as the activations of a step: all at once, then gone
        held = [torch.zeros(1_000_000 + n) for n in range(20)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told")
def test_blocks_of_megabytes_are_not_made_of_fresh_pages_again_and_again():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20_000  # a few blocks are; about 60,000 where all are given back
