"""A run imports what it needs and no more: every import is waited for before the first round."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"pandas", "matplotlib", "sklearn", "scipy", "ray", "opacus", "torch._dynamo"}
"""Each takes a tenth of a second or much more to import."""


@pytest.mark.parametrize("method", ["fedavg", "fedmd"])
def test_a_simulation_imports_nothing_heavy_that_it_does_not_use(method, tmp_path):
    words = ["scenario=iid", "clients=2", "rounds=1", "models=mlp", f"method={method}"]
    program = (
        "import json, sys\n"
        f"sys.argv = ['fedkd', 'simulate', *{words!r}, '--out', {str(tmp_path)!r}, '--quiet']\n"
        "from fedkd.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as done:\n"
        "    assert not done.code, done.code\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(json.loads(done.stdout.splitlines()[-1])) == set()
