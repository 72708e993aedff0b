"""What a process frees, it keeps."""

import platform
import subprocess
import sys

import pytest
import torch

from fedkd.heap import Lender

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


def _marked(lender: Lender, size: int, mark: int) -> torch.Tensor:
    return torch.frombuffer(lender.lend(size), dtype=torch.uint8).fill_(mark)


def test_a_lent_block_is_lent_again_when_nobody_holds_any_of_it():
    lender = Lender(kept=8192)
    block = _marked(lender, 4096, 7)
    part = block[100:110]
    del block
    other = _marked(lender, 4096, 9)  # the first one is still held
    assert part.tolist() == [7] * 10
    del part
    again = torch.frombuffer(lender.lend(4096), dtype=torch.uint8)
    assert again[100].item() == 7
    assert other[100].item() == 9
    assert again.data_ptr() % 64 == 0


def test_blocks_of_another_size_or_beyond_the_limit_are_given_back():
    lender = Lender(kept=4096)
    first, second = _marked(lender, 4096, 1), _marked(lender, 4096, 2)
    del first, second  # in this order: the second one is too much
    smaller = torch.frombuffer(lender.lend(2048), dtype=torch.uint8)
    assert smaller.sum().item() == 0
    once = torch.frombuffer(lender.lend(4096), dtype=torch.uint8)
    fresh = torch.frombuffer(lender.lend(4096), dtype=torch.uint8)
    assert once[0].item() == 1
    assert fresh[0].item() == 0
