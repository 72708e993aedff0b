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
CLIPPING_TESTS = "tests/clients/test_clipping.py"
REPLY_TESTS = "tests/clients/test_private_replies.py"

MUTATIONS = {
    "shuffled batches in place of Poisson's": Mutation(
        file=TRAINING,
        old=(
            "        drawn = torch.rand(max(1, n), generator=rng) < rate\n"
            "        yield drawn[:n].nonzero().flatten()\n"
        ),
        new="        yield torch.randperm(n, generator=rng)[: max(1, round(rate * n))]\n",
        test=f"{NOISE_TESTS}::test_batch_sizes_are_binomial_and_examples_are_drawn_alike"
        "_and_independently",
        because=r"assert .*_binomial_p",
    ),
    "the number of examples as the weight of parameters": Mutation(
        file="clients/fedkd_clients/learner.py",
        old="weight = 1.0 if private else float(",
        new="weight = float(",
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
    "distillation clipped and noised": Mutation(
        file=TRAINING,
        old=(
            "        lesson_loss(student.module, lesson, next(shared)).backward()\n"
            "        student.optimizer.step()\n"
        ),
        new=(
            "        lesson_loss(student.module, lesson, next(shared)).backward()\n"
            "        ours = gradients._clipping.parameters\n"
            "        long = torch.stack([p.grad.norm() for p in ours]).norm()\n"
            "        short = (gradients._clipping.clip_norm / long).clamp(max=1.0)\n"
            "        gradients._add_noise([p.grad * short for p in ours])\n"
            "        student.optimizer.step()\n"
        ),
        test=f"{DP_TESTS}::test_a_lesson_is_neither_clipped_nor_noised_nor_counted",
        because=r"Tensor-likes are not close",
    ),
    "distillation counted as private steps, in a run": Mutation(
        file=TRAINING,
        old="        lesson_loss(student.module, lesson, next(shared)).backward()\n",
        new=(
            "        lesson_loss(student.module, lesson, next(shared)).backward()\n"
            "        gradients._taken.append(gradients._taken[0])\n"
        ),
        test=f"{BUDGET_TESTS}::test_a_run_ends_cleanly_when_no_budget_is_left_and_says_so",
        because=r"RunStopped: .*Uncharged",
    ),
    "no noise": Mutation(
        file=TRAINING,
        old="std = multiplier * self._clipping.clip_norm\n",
        new="std = 0 * multiplier * self._clipping.clip_norm\n",
        test=f"{NOISE_TESTS}::test_the_noise_is_normal_with_the_public_deviation_however_many"
        "_examples",
        because=r"assert .*_normal_p",
    ),
    "noise that is not what the step is noted with": Mutation(
        file=TRAINING,
        old="std = multiplier * self._clipping.clip_norm\n",
        new="std = 0.9 * multiplier * self._clipping.clip_norm\n",
        test=f"{CLIPPING_TESTS}::test_a_round_is_what_opacus_own_sampler_and_optimizer_do[0-mlp]",
        because=r"Tensor-likes are not close",
    ),
    "only the last part of a batch counts": Mutation(
        file=TRAINING,
        old="total += clipped\n",
        new="total.copy_(clipped)\n",
        test=f"{DP_TESTS}::test_large_batches_are_worked_off_in_parts_without_a_difference",
        because=r"Tensor-likes are not close",
    ),
    "gradients divided by the number of examples": Mutation(
        file=TRAINING,
        old="self._divisor = scenario.training.batch_size\n",
        new="self._divisor = max(1, len(private))\n",
        test="tests/golden/test_dp_step.py",
        because=r"Tensor-likes are not close",
    ),
    "the same noise in every round": Mutation(
        file="clients/fedkd_clients/streams.py",
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
        old="        ledger.add(charges)",
        new="        pass",
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
        old="epsilon_of_counts(past.events + more, delta=delta)",
        new="epsilon_of_counts(past.events + more - Counter([*past.events][:1]), delta=delta)",
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
"""Ways around the accounting and the noise; those around the clip follow."""


def _clipped(where: str, old: str, new: str, *, test: str, because: str = "not close") -> Mutation:
    return Mutation(
        file=f"clients/fedkd_clients/{where}.py",
        old=old,
        new=new,
        test=f"{CLIPPING_TESTS}::{test}",
        because=because,
    )


EXACT = "test_every_way_gives_what_autograd_gives_for_each_example[rows0-{}]"
FINITE = "test_an_example_whose_gradient_is_not_finite_counts_as_nothing"
BOUND = "test_no_example_counts_for_more_than_the_clip_norm_however_large_its_numbers"
FACTORS = "    return (clipping.clip_norm / (norms[kept] + _TINY)).clamp(max=1.0), kept\n"
SHORT = "short = signal[kept] * factors[:, None]\n"
MAPPED = "total += (factors @ gradient[kept]).view(total.shape)\n"

MUTATIONS |= {
    "no clipping": Mutation(
        file="clients/fedkd_clients/clipping.py",
        old=FACTORS,
        new="    return torch.ones_like(norms[kept]), kept\n",
        test=f"{DP_TESTS}::test_one_example_moves_the_update_by_no_more_than_its_share",
        because=r"assert .* <= ",
    ),
    "no clipping by Opacus": _clipped(
        "opacus_clipping",
        "max_grad_norm=clipping.clip_norm,\n",
        "max_grad_norm=1e9,\n",
        test=EXACT.format("resnet8"),
    ),
    "a clip norm twice as long": _clipped(
        "clipping",
        FACTORS,
        FACTORS.replace("(clipping", "(2 * clipping"),
        test=BOUND,
        because=r"assert .* <= ",
    ),
    "short gradients stretched": _clipped(
        "clipping", FACTORS, FACTORS.replace(".clamp(max=1.0)", ""), test=EXACT.format("mlp")
    ),
    "every layer of a perceptron clipped by itself": _clipped(
        "clipping",
        SHORT,
        "alone = (_square(signal) * (_square(activation) + 1)).sqrt().to(signal.dtype)\n"
        "            short = signal[kept] * _factors(clipping, alone)[0][:, None]\n",
        test=EXACT.format("mlp"),
    ),
    "every parameter of a mapped model clipped by itself": _clipped(
        "clipping",
        MAPPED,
        "alone, kept = _factors(clipping, gradient.norm(dim=1))\n"
        "            total += (alone @ gradient[kept]).view(total.shape)\n",
        test=EXACT.format("cnn_small"),
    ),
    "a norm without the bias": _clipped(
        "clipping",
        "(_square(activation) if weight else 1.0)",
        "(_square(activation) if weight else 0.0)",
        test=EXACT.format("mlp"),
    ),
    "another example's factor, closed form": _clipped(
        "clipping", SHORT, SHORT.replace("factors", "factors.flip(0)"), test=EXACT.format("mlp")
    ),
    "another example's factor, mapped": _clipped(
        "clipping",
        MAPPED,
        MAPPED.replace("factors", "factors.flip(0)"),
        test=EXACT.format("cnn_small"),
    ),
    "what is not finite passes": _clipped(
        "clipping",
        "finite = torch.isfinite(norms)\n",
        "finite = torch.ones_like(norms, dtype=torch.bool)\n",
        test=FINITE,
    ),
    "what is not finite passes Opacus' way": _clipped(
        "opacus_clipping",
        "        _drop_what_is_not_finite(parameters)\n",
        "",
        test=FINITE,
    ),
    "numbers too large for their precision are scaled": _clipped(
        "clipping",
        "squares > torch.finfo(rows.dtype).max",
        "squares < 0",
        test=BOUND,
        because=r"assert .* <= ",
    ),
    "any module of three layers taken for a perceptron": _clipped(
        "clipping",
        "if type(module) is not nn.Sequential or kinds != form:",
        "if not isinstance(module, nn.Sequential) or nn.Linear not in kinds:",
        test="test_what_only_looks_like_a_perceptron_is_mapped",
        because=r"is <Way.MAPPED",
    ),
    "activations of another layout given to Opacus": _clipped(
        "opacus_clipping",
        "rows = [tensor.contiguous() for tensor in forward_input]\n",
        "rows = forward_input\n",
        test=EXACT.format("cnn_small").replace("rows0", "rows1"),
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
