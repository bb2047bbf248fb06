"""What vLLM writes for a model is what the model itself writes; and its process is nobody's concern afterwards.

These tests run where vLLM is installed beside us, or LIMBECK_VLLM_PYTHON names the Python of an environment with it.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine import gone
from pydantic import ValidationError

from tasks.llm_distillation.distill_lm import DistillLm
from tasks.llm_distillation.evaluate_lm import EvaluateLm
from tasks.llm_distillation.generate_responses import GenerateResponses
from tasks.llm_distillation.models.model_artifact import KIND, model_output
from tasks.llm_distillation.writing.engines import engine_for
from tasks.llm_distillation.writing.generation import Sampling
from tasks.llm_distillation.writing.vllm_client import PYTHON
from tests.tasks.gang_harness import run_gang
from tests.tasks.harness import KilledError, MemoryFiles, curve, equal, run_task
from tests.tasks.llm_distillation import tiny
from tests.tasks.llm_distillation.tiny import needs_vllm

PROMPTS = [[0, 5, 9], [0, 7], [0, 3, 4, 8, 11, 2, 6], [12], [0, 9, 9, 9, 9]]
SEEDS = [11, 12, 13, 14, 15]
GREEDY = Sampling(new_tokens=12, temperature=0.0)


def sharp(seed, vocabulary=48, **sizes):
    """Logits so far apart that rounding decides nothing."""
    model = tiny.llama(vocabulary, seed, **tiny.WIDE, tie_word_embeddings=False, **sizes)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(15)
    return model


def engine(name, end=None, vocabulary=40):
    return engine_for(name, vocabulary=vocabulary, end=end, length=64, batch=5, device="cpu")


@pytest.fixture(scope="module")
def vllm():
    return engine("vllm")


@pytest.fixture(scope="module")
def model():
    return sharp(0)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A student with a buffer and corrections under ZeRO-3 that writes by vLLM."""
    own = {"share": 1.0, "sampling": {"new_tokens": 6, "engine": "vllm"}, "prompt_tokens": 3}
    return tiny.word_case(
        tmp_path_factory.mktemp("own"), objective="forward_kl", steps=4,
        student={"layers": 2, "fresh": True, "hidden_size": 64, "heads": 2, "kv_heads": 1},
        on_policy={**own, "buffer": {"capacity": 10}, "corrections": 1}, zero={"stage": 3, "whole_below": 0},
    )  # fmt: skip


def env():
    root = Path(__file__).parents[4]
    return os.environ | {"PYTHONPATH": f"{root}:{root / 'tests/support'}"}


@needs_vllm
def test_it_writes_what_each_model_writes(vllm, model):
    models = [model, sharp(1), model]
    written = [vllm.writer(one)(PROMPTS, SEEDS, GREEDY) for one in models]
    assert written == [engine("transformers").writer(one)(PROMPTS, SEEDS, GREEDY) for one in models]
    assert written[0] != written[1]


@needs_vllm
def test_a_model_of_another_shape_gets_a_process_of_its_own(model):
    own = engine("vllm")
    deep = sharp(2, num_hidden_layers=3)
    for one in (model, deep):
        expected = engine("transformers").writer(one)(PROMPTS, SEEDS, GREEDY)
        assert own.writer(one)(PROMPTS, SEEDS, GREEDY) == expected


@needs_vllm
def test_a_row_depends_on_its_seed_alone(vllm, model):
    write, sampling = vllm.writer(model), Sampling(new_tokens=12, temperature=2.0)
    together = write(PROMPTS, SEEDS, sampling)
    assert together == [write([PROMPTS[row]], [SEEDS[row]], sampling)[0] for row in range(5)]
    assert together != write(PROMPTS, [seed + 1 for seed in SEEDS], sampling)
    assert max(token for row in together for token in row) < 40  # the model has 48 logits


@needs_vllm
def test_a_row_stops_at_the_end_token(model):
    free = engine("transformers").writer(model)(PROMPTS, SEEDS, GREEDY)
    end = free[0][3]
    ending = engine("vllm", end).writer(model)
    assert ending(PROMPTS, SEEDS, GREEDY) == engine("transformers", end).writer(model)(PROMPTS, SEEDS, GREEDY)


@needs_vllm
def test_draws_follow_the_distribution(vllm):
    flat = tiny.llama(40, 3, **tiny.WIDE, tie_word_embeddings=False)
    with torch.no_grad():
        flat.get_output_embeddings().weight.mul_(4)
        expected = (flat(torch.tensor([[0, 5]])).logits[0, -1] / 1.5).softmax(-1)
    count, sampling = 6000, Sampling(new_tokens=1, temperature=1.5)
    drawn = vllm.writer(flat)([[0, 5]] * count, range(count), sampling)
    found = torch.tensor(drawn).flatten().bincount(minlength=40) / count
    distance = (count * (found - expected).square() / expected).sum()
    assert distance < 39 + 5 * (2 * 39) ** 0.5  # chi-squared of 39 degrees of freedom


@needs_vllm
def test_its_end_is_told_with_what_it_said_last(model):
    own = engine("vllm")
    write = own.writer(model)
    with pytest.raises(RuntimeError, match=r"vLLM ended with code \d+: .*(length|longer|max)"):
        write([[0] * 80], [1], GREEDY)


@needs_vllm
def test_a_killed_one_is_taken_for_out_of_memory(model):
    own = engine("vllm")
    write = own.writer(model)
    os.kill(own._process._process.pid, signal.SIGKILL)
    with pytest.raises(MemoryError, match="vLLM's process was killed"):
        write(PROMPTS, SEEDS, GREEDY)
    assert own.writer(model)(PROMPTS, SEEDS, GREEDY)


@needs_vllm
def test_a_text_ends_at_the_length(vllm, model):
    prompts = [[0] * 60, [0, 5]]  # of 64 tokens
    first, second = vllm.writer(model)(prompts, [1, 2], GREEDY)
    expected = engine("transformers").writer(model)(prompts, [1, 2], GREEDY)
    assert (first, second) == (expected[0][:4], expected[1])


@needs_vllm
def test_no_process_outlives_who_asked(tmp_path):
    script = (
        "import os, sys, time\n"
        "from tests.tasks.llm_distillation.writing.test_engines import engine, sharp\n"
        "own = engine('vllm')\n"
        "own.writer(sharp(0))\n"
        "print(own._process._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    asking = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env())
    try:
        child = int(asking.stdout.readline())
    finally:
        asking.kill()
        asking.communicate()
    assert gone([child])


@needs_vllm
def test_answers_are_those_of_the_model_itself(tmp_path, words):
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(f'{{"prompt": "say {n}", "response": "{n}"}}' for n in range(5)))
    output = model_output(sharp(4, len(words) + 8), words)
    made = MemoryFiles(output, kind=KIND, described=output.facts)
    told = {}
    for name in ("transformers", "vllm"):
        sampling = {"new_tokens": 6, "temperature": 0.0, "engine": name}
        settings = {"corpus": {"path": str(path)}, "length": 32, "batch": 2, "sampling": sampling}
        responses = run_task(GenerateResponses, {**settings, "unended": True}, {"model_artifact": made})
        judged = run_task(EvaluateLm, {**settings, "prompts": 5, "sampling_seeds": 1}, {"student": made})
        assert ("vllm" in responses.facts) == (name == "vllm")
        told[name] = [responses.table("responses"), judged.table("samples"), judged.metrics]
    assert told["vllm"][:2] == told["transformers"][:2]
    assert told["vllm"][2] == pytest.approx(told["transformers"][2])


@needs_vllm
def test_a_student_writes_by_it_and_is_resumed(given):
    whole = run_task(DistillLm, given)
    assert curve(whole, "written_loss")
    progress = {}
    with pytest.raises(KilledError):
        run_task(DistillLm, given, progress=progress, kill_after=2)
    assert equal(run_task(DistillLm, given, progress=progress), whole)


@needs_vllm
def test_two_ranks_write_what_one_writes(given, tmp_path):
    alone = run_task(DistillLm, given)
    pair = run_gang(DistillLm, given, {}, ranks=2, folder=tmp_path)
    assert curve(pair, "written_loss") == pytest.approx(curve(alone, "written_loss"), rel=1e-3)


def test_where_it_is_not_installed_one_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv(PYTHON, str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=f"{PYTHON}=.*nowhere: is no program; expected the Python of"):
        engine("vllm")
    monkeypatch.delenv(PYTHON)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match=f"vLLM is not installed here; .* {PYTHON}, on every node, or"):
        engine("vllm")


def test_adapters_are_refused(tmp_path):
    own = {"sampling": {"engine": "vllm"}}
    given = tiny.word_case(tmp_path, objective="forward_kl", steps=1)
    with pytest.raises(ValidationError, match="vLLM is sent plain weights; leave out `lora`"):
        DistillLm.Config(**{**given, "on_policy": own, "lora": {}})
