"""Every way around the privacy accounting that is listed here is noticed by a test or at run time.

Each mutation is made in a copy of the source; a test that should notice it runs against the copy in
a process of its own and must fail, for the reason that is given. Against a copy without a mutation
all of them pass.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
COPIED = ("fedkd", "clients", "server", "scenarios", "tests", "pyproject.toml")


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One change that would break a guarantee.

    Attributes:
        file: where, below the root.
        old: the text that is taken out; it stands there once.
        new: what takes its place.
        test: a test that must fail.
        because: a pattern in what the failing test prints.
    """

    file: str
    old: str
    new: str
    test: str
    because: str


TRAINING = "clients/fedkd_clients/dp_training.py"
DP_TESTS = "tests/clients/test_dp_training.py"
BUDGET_TESTS = "tests/server/test_budget.py"
NOISE_TESTS = "tests/statistical/test_dp_noise.py"
REPLY_TESTS = "tests/clients/test_private_replies.py"

MUTATIONS = {
    "shuffled batches in place of Poisson's": Mutation(
        file=TRAINING,
        old="self._batches = iter(sampler)\n",
        new=(
            "order = torch.randperm(max(1, len(self._private)), generator=self._streams.sampling)\n"
            "        size = max(1, round(self._rate * len(order)))\n"
            "        starts = [n * size % len(order) for n in range(n_steps)]\n"
            "        self._batches = iter([order[n : n + size].tolist() for n in starts])\n"
        ),
        test=f"{NOISE_TESTS}::test_batch_sizes_are_binomial_and_examples_are_drawn_alike"
        "_and_independently",
        because=r"assert .*_binomial_p",
    ),
    "the number of examples as the weight of parameters": Mutation(
        file="clients/fedkd_clients/learner.py",
        old="weight=1.0 if private else float(",
        new="weight=float(",
        test=f"{REPLY_TESTS}::test_replies_of_clients_with_many_and_few_examples_look_alike[fedavg]",
        because=r"assert all\(header == headers\[0\]",
    ),
    "the number of examples as a metric of a reply": Mutation(
        file="clients/fedkd_clients/fleet.py",
        old="return Reply(client=request.client, upload=upload)\n",
        new=(
            "n = len(self._learner.private(request.client).train)\n"
            "            return Reply(\n"
            "                client=request.client, upload=upload, metrics={'num_examples': n}\n"
            "            )\n"
        ),
        test=f"{REPLY_TESTS}::test_replies_of_clients_with_many_and_few_examples_look_alike[fedmd]",
        because=r"assert not .*metric",
    ),
    "distillation through the private optimiser": Mutation(
        file=TRAINING,
        old=(
            "        lesson_loss(student.module, lesson, next(shared)).backward()\n"
            "        student.optimizer.step()\n"
        ),
        new=(
            "        gradients._optimizer.zero_grad(set_to_none=True)\n"
            "        gradients._hooks.enable_hooks()\n"
            "        lesson_loss(student.module, lesson, next(shared)).backward()\n"
            "        gradients._hooks.disable_hooks()\n"
            "        gradients._optimizer.step()\n"
        ),
        test=f"{DP_TESTS}::test_a_lesson_is_neither_clipped_nor_noised_nor_counted",
        because=r"Tensor-likes are not close",
    ),
    "distillation counted as private steps, in a run": Mutation(
        file=TRAINING,
        old="        lesson_loss(student.module, lesson, next(shared)).backward()\n",
        new=(
            "        lesson_loss(student.module, lesson, next(shared)).backward()\n"
            "        gradients._optimizer.step_hook(gradients._optimizer)\n"
        ),
        test=f"{BUDGET_TESTS}::test_a_run_ends_cleanly_when_no_budget_is_left_and_says_so",
        because=r"RunStopped: .*Uncharged",
    ),
    "no noise": Mutation(
        file=TRAINING,
        old="std = self.noise_multiplier * self.max_grad_norm\n",
        new="std = 0 * self.noise_multiplier * self.max_grad_norm\n",
        test=f"{NOISE_TESTS}::test_the_noise_is_normal_with_the_public_deviation_however_many"
        "_examples",
        because=r"assert .*_normal_p",
    ),
    "no clipping": Mutation(
        file=TRAINING,
        old="    def add_noise(self) -> None:\n",
        new=(
            "    def clip_and_accumulate(self) -> None:\n"
            "        for parameter in self.params:\n"
            "            total = parameter.grad_sample.sum(dim=0)\n"
            "            before = getattr(parameter, 'summed_grad', None)\n"
            "            parameter.summed_grad = total if before is None else before + total\n"
            "\n"
            "    def add_noise(self) -> None:\n"
        ),
        test=f"{DP_TESTS}::test_one_example_moves_the_update_by_no_more_than_its_share",
        because=r"assert .* <= ",
    ),
    "gradients divided by the number of examples": Mutation(
        file=TRAINING,
        old="expected_batch_size=scenario.training.batch_size,",
        new="expected_batch_size=max(1, len(private)),",
        test="tests/golden/test_dp_step.py",
        because=r"Tensor-likes are not close",
    ),
    "the same noise in every round": Mutation(
        file="clients/fedkd_clients/learner.py",
        old="return noise_stream(seed, purpose, round=self.round, client=client)",
        new="return noise_stream(seed, purpose, round=0, client=client)",
        test=f"{DP_TESTS}::test_noise_repeats_with_its_seed_alone_and_never_when_it_is_secret",
        because=r"assert .* < 0\.5",
    ),
    "one step reported for all": Mutation(
        file=TRAINING,
        old="return replace(first, count=len(self._taken))",
        new="return first",
        test=f"{BUDGET_TESTS}::test_a_run_ends_cleanly_when_no_budget_is_left_and_says_so",
        because=r"RunStopped: .*Uncharged",
    ),
    "a client that charges nothing to its own ledger": Mutation(
        file="clients/fedkd_clients/spending.py",
        old="        ledger.add(Charge(",
        new="        tuple(Charge(",
        test=f"{BUDGET_TESTS}::test_clients_remember_across_runs_what_they_spent",
        because=r"assert .*epsilon",
    ),
    "a server that charges nothing, so that nothing may be claimed": Mutation(
        file="server/fedkd_server/budget.py",
        old="self._ledger.add(charges)",
        new="pass",
        test=f"{BUDGET_TESTS}::test_a_run_ends_cleanly_when_no_budget_is_left_and_says_so",
        because=r"assert 0 == 2",
    ),
    "an accountant that forgets the first round": Mutation(
        file="fedkd/privacy/ledger.py",
        old="for charge in self.of(client, unit, channel)]",
        new="for charge in self.of(client, unit, channel)[1:]]",
        test=f"{BUDGET_TESTS}::test_the_ledger_is_charged_before_anybody_is_asked_and_stops_in"
        "_time",
        because=r"assert .*admitted|\[\[0, 1, 2\]",
    ),
    "clients that measure private accuracy for any server": Mutation(
        file="clients/fedkd_clients/fleet.py",
        old="simulated: bool = False",
        new="simulated: bool = True",
        test="tests/clients/test_measuring.py::test_a_client_measures_for_nobody_unless_it_is"
        "_told_that_it_is_simulated",
        because=r"assert \(\'\', \{",
    ),
}


def _copy(folder: Path) -> Path:
    """Copy the source and its tests, without what running them left behind."""
    for name in COPIED:
        whole, there = ROOT / name, folder / name
        if whole.is_dir():
            shutil.copytree(whole, there, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(whole, there)
    return folder


Tested = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def tested() -> Iterator[Tested]:
    """Run tests against the packages of a copy: pytest's exit code, and what it printed."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("pytest_in_copies.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as serving:
        asks, answers = serving.stdin, serving.stdout
        assert asks is not None
        assert answers is not None

        def run(copy: Path, *tests: str) -> tuple[int, str]:
            asks.write(json.dumps({"copy": str(copy), "tests": tests}) + "\n")
            asks.flush()
            return int(answers.readline()), (copy / "said.txt").read_text()

        yield run
        asks.close()


def test_without_a_mutation_all_pass(tmp_path: Path, tested: Tested) -> None:
    code, said = tested(_copy(tmp_path), *sorted({m.test for m in MUTATIONS.values()}))
    assert code == pytest.ExitCode.OK, said


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_is_noticed(tmp_path: Path, tested: Tested, name: str) -> None:
    mutation, copy = MUTATIONS[name], _copy(tmp_path)
    file = copy / mutation.file
    text = file.read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.file} changed: bring {name!r} up to date"
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    code, said = tested(copy, mutation.test)
    assert code == pytest.ExitCode.TESTS_FAILED, f"nobody noticed: {name}\n{said}"
    assert re.search(mutation.because, said), f"noticed for another reason\n{said}"
