"""Students of tiny teachers: one rank and several, killed and resumed, exported and loaded again."""

import json
import math
import re

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save_file

from orchestrator.experiment import load_experiment
from orchestrator.feasibility import Offer, problems
from orchestrator.plan import make_plan
from orchestrator.store import Store
from tasks.llm_distillation.distill_lm import DistillLm
from tasks.llm_distillation.models.model_artifact import load_artifact
from tasks.llm_distillation.token_labels import LabelTokens
from tests.tasks.gang_harness import run_gang
from tests.tasks.harness import KilledError, curve, equal, run_task
from tests.tasks.llm_distillation import tiny

CE = {"cross_entropy": 1.0}
KL = {"divergences": ({"name": "forward_kl"},)}
BOTH = {**KL, "cross_entropy": 0.5, "warmup_steps": 2}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A teacher, its two-layer student and a corpus."""
    return tiny.word_case(tmp_path_factory.mktemp("small"), objective=BOTH, steps=5)


@pytest.fixture(scope="module")
def undisturbed(given):
    return run_task(DistillLm, given)


def near(artifact, other, rel=1e-4):
    assert curve(artifact) == pytest.approx(curve(other), rel=rel)
    assert artifact.metrics == pytest.approx(other.metrics, rel=rel)


@pytest.mark.slow
def test_a_student_comes_near_its_teacher(given):
    student = {"layers": 2, "fresh": True}
    learned = run_task(DistillLm, {**given, "student": student, "objective": KL, "steps": 60})
    assert curve(learned)[-1] < 0.5 * curve(learned)[0]
    agreement = curve(learned, "held_out_agreement")
    assert agreement[-1] > 0.25  # chance is 1 / 24
    assert learned.metrics["held_out_agreement"] == agreement[-1]
    perplexity, loss = (learned.metrics[f"held_out_{name}"] for name in ("perplexity", "cross_entropy"))
    assert perplexity == pytest.approx(math.exp(loss))


def test_a_whole_copy_of_the_teacher_has_nothing_to_learn(given):
    copy = run_task(DistillLm, {**given, "student": {"layers": 4}, "objective": KL, "steps": 1, "lr": 1e-9})
    assert curve(copy)[0] == pytest.approx(0.0, abs=1e-6)
    assert copy.metrics["held_out_agreement"] == 1.0


@pytest.mark.parametrize(
    "spread",
    [
        {"zero": {"stage": 0, "teacher": True, "whole_below": 0}},
        {"zero": {"stage": 1}, "micro_batch": None},
        {"zero": {"stage": 3, "whole_below": 0}},
        {"zero": {"stage": 3, "whole_below": 0}, "activation_checkpointing": True, "micro_batch": 3},
    ],
)
def test_how_the_work_is_done_changes_nothing(given, undisturbed, spread):
    near(run_task(DistillLm, {**given, **spread}), undisturbed)


def test_how_the_work_is_done_is_in_no_key(given):
    config = DistillLm.Config(**given)
    (shard,) = DistillLm.shards(config, DistillLm.describe(config, {}))
    assert (
        {"zero", "micro_batch", "activation_checkpointing"}
        <= shard.ignores
        <= set(DistillLm.Config.model_fields)
    )


def test_killed_and_resumed_is_undisturbed(given, undisturbed):
    progress = {}
    with pytest.raises(KilledError):
        run_task(DistillLm, given, progress=progress, kill_after=2)
    assert equal(run_task(DistillLm, given, progress=progress), undisturbed)


def test_a_lone_rank_resumes_at_another_stage(given, undisturbed):
    progress = {}
    with pytest.raises(KilledError):
        run_task(
            DistillLm, {**given, "zero": {"stage": 3, "whole_below": 0}}, progress=progress, kill_after=3
        )
    resumed = run_task(DistillLm, {**given, "zero": {"stage": 1}}, progress=progress)
    assert resumed.metrics == pytest.approx(undisturbed.metrics, rel=1e-4)


@pytest.mark.slow
def test_four_ranks_with_unequal_parts_learn_as_one(given, undisturbed, tmp_path):
    split = {**given, "zero": {"stage": 3, "whole_below": 0}}
    near(run_gang(DistillLm, split, ranks=4, folder=tmp_path), undisturbed)


@pytest.mark.slow
def test_a_teacher_split_among_two_ranks_teaches_as_a_whole_one(given, undisturbed, tmp_path):
    split = {**given, "zero": {"stage": 2, "teacher": True, "whole_below": 0}}
    near(run_gang(DistillLm, split, ranks=2, folder=tmp_path), undisturbed)


@pytest.mark.slow
def test_two_ranks_are_killed_and_one_goes_on(given, undisturbed, tmp_path):
    with pytest.raises(KilledError):
        run_gang(DistillLm, given, ranks=2, folder=tmp_path, kill_after=3)
    rest = {**given, "zero": {"stage": 3, "whole_below": 0}}
    near(run_gang(DistillLm, rest, ranks=1, folder=tmp_path), undisturbed)


def test_bf16_stays_near_fp32(given, undisturbed):
    for stage in (0, 2):
        narrow = run_task(DistillLm, {**given, "precision": "bf16", "zero": {"stage": stage}})
        assert curve(narrow) == pytest.approx(curve(undisturbed), rel=0.05)
        assert {weight.dtype for weight in narrow.tensors("model").values()} == {torch.float32}


def test_the_artifact_is_a_folder_that_transformers_loads(undisturbed, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_file(undisturbed.tensors("model"), tmp_path / "model.safetensors", {"format": "pt"})
    for name in ("config", "tokenizer", "tokenizer_config"):
        (tmp_path / f"{name}.json").write_text(json.dumps(undisturbed.document(name)))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    known, _ = load_artifact(undisturbed, "cpu")
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path)("a b c d").input_ids])
    torch.testing.assert_close(loaded(ids).logits, known(ids).logits)
    assert loaded.config.num_hidden_layers == undisturbed.facts["layers"] == 2


def test_the_cards_own_lines_load_the_student(undisturbed, tmp_path, monkeypatch, capsys):
    save_file(undisturbed.tensors("model"), tmp_path / "model.safetensors", {"format": "pt"})
    for name in ("config", "tokenizer", "tokenizer_config"):
        (tmp_path / f"{name}.json").write_text(json.dumps(undisturbed.document(name)))
    card = undisturbed.document("card")
    assert card["title"] == "llama of 2 layers, learned from teacher"
    (lines,) = re.findall(r"```python\n(.*?)```", card["text"], flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(lines, names)  # the README's own lines
    assert names["written"].shape[1] > names["prompt"].shape[1]
    assert sum(weight.numel() for weight in names["model"].parameters()) == undisturbed.facts["parameters"]
    assert f"of {undisturbed.facts['parameters']:,} weights" in card["text"]


def test_a_student_teaches_the_next_one(given, undisturbed):
    config = {name: value for name, value in given.items() if name != "teacher"}
    config |= {"student": {"layers": 1}, "objective": KL}
    taught = run_task(DistillLm, config, {"teacher_artifact": undisturbed})
    assert curve(taught)[-1] < curve(taught)[0]
    assert taught.facts["layers"] == 1


def test_text_alone_needs_no_teacher(given):
    config = {**given, "student": given["teacher"], "objective": CE}
    del config["teacher"]
    plain = run_task(DistillLm, config)
    assert "held_out_agreement" not in plain.metrics
    assert curve(plain, "train_cross_entropy") == pytest.approx(curve(plain))


def test_adapters_learn_and_are_merged(given):
    lora = {"rank": 4, "targets": ("q_proj", "v_proj")}
    config = {**given, "objective": KL, "lora": lora, "lr": 0.02, "steps": 20}
    whole = run_task(DistillLm, config)
    assert curve(whole, "held_out_loss")[-1] < 0.98 * curve(whole, "held_out_loss")[0]
    start = run_task(DistillLm, {**given, "lr": 1e-12, "weight_decay": 0.0, "steps": 1})
    moved = {
        name
        for name, value in whole.tensors("model").items()
        if not torch.allclose(value, start.tensors("model")[name], atol=1e-6)
    }
    assert moved == {f"model.layers.{n}.self_attn.{part}_proj.weight" for n in (0, 1) for part in "qv"}
    progress = {}
    with pytest.raises(KilledError):
        run_task(DistillLm, config, progress=progress, kill_after=2)
    assert len(next(iter(progress.values()))[0]) < 100_000
    assert equal(run_task(DistillLm, config, progress=progress), whole)


def test_the_best_student_is_kept(given):
    rough = {**given, "objective": CE, "lr": 0.03, "steps": 8, "keep": "best", "schedule": "constant"}
    rough |= {"corpus": {"path": given["corpus"], "rows": 12}, "evaluate_every": 1, "held_out": 3}
    progress = {}
    with pytest.raises(KilledError):
        run_task(DistillLm, rough, progress=progress, kill_after=7)
    best = run_task(DistillLm, rough, progress=progress)
    losses = curve(run_task(DistillLm, rough), "held_out_loss")
    steps = losses.index(min(losses)) + 1
    assert steps < 8
    there = run_task(DistillLm, {**rough, "steps": steps, "keep": "last"})
    assert best.metrics["held_out_loss"] == there.metrics["held_out_loss"] == min(losses)
    torch.testing.assert_close(best.tensors("model"), there.tensors("model"), rtol=0, atol=0)


def test_the_best_student_by_another_metric_is_kept_whatever_is_killed(given):
    rough = {**given, "objective": BOTH, "lr": 0.03, "steps": 7, "keep": "best", "schedule": "constant"}
    rough |= {"corpus": {"path": given["corpus"], "rows": 12}, "evaluate_every": 1, "held_out": 3}
    every = curve(run_task(DistillLm, rough), "held_out_cross_entropy")
    for mode, wanted in (("max", max(every)), ("min", min(every))):
        by = {**rough, "best_by": {"metric": "held_out_cross_entropy", "mode": mode}}
        progress = {}
        with pytest.raises(KilledError):
            run_task(DistillLm, by, progress=progress, kill_after=6)
        best = run_task(DistillLm, by, progress=progress)
        steps = every.index(wanted) + 1
        there = run_task(DistillLm, {**rough, "steps": steps, "keep": "last"})
        assert best.metrics["held_out_cross_entropy"] == wanted
        torch.testing.assert_close(best.tensors("model"), there.tensors("model"), rtol=0, atol=0)


def test_a_loss_that_is_not_finite_ends_it(given):
    with pytest.raises(ValueError, match="not finite; lower lr"):
        run_task(DistillLm, {**given, "lr": 1e30, "clip": 0.0, "warmup_steps": 0})


@pytest.mark.slow
def test_the_gate_of_dac_kl_learns_at_every_stage_and_is_resumed(given):
    config = {**given, "objective": {"dac_kl": {"top": 4}, "cross_entropy": 0.1}}
    plain = run_task(DistillLm, config)
    assert 0.5 < curve(plain, "train_dac_kept_mass")[-1] <= 1.0
    split = {**config, "zero": {"stage": 3, "whole_below": 0}}
    near(run_task(DistillLm, split), plain)
    progress = {}
    with pytest.raises(KilledError):
        run_task(DistillLm, split, progress=progress, kill_after=2)
    assert any("gate" in name for name in load(next(iter(progress.values()))[0]))
    assert run_task(DistillLm, config, progress=progress).metrics == pytest.approx(plain.metrics, rel=1e-4)
    assert plain.tensors("model").keys() == run_task(DistillLm, {**given, "steps": 1}).tensors("model").keys()


def test_spans_are_learned_at_every_stage_and_of_written_text(given):
    config = {**given, "spans": {"weight": 3.0, "distance": "l1"}, "objective": KL}
    plain = run_task(DistillLm, config)
    spans, divergence, loss = (
        curve(plain, f"train_{name}") for name in ("span_correlation", "forward_kl", "loss")
    )
    assert min(spans) > 0
    assert [3 * one + other for one, other in zip(spans, divergence, strict=True)][2:] == pytest.approx(
        loss[2:]
    )
    near(run_task(DistillLm, {**config, "zero": {"stage": 3, "whole_below": 0}, "micro_batch": 3}), plain)
    writing = {"share": 1.0, "sampling": {"new_tokens": 6}, "prompt_tokens": 3}
    written = run_task(DistillLm, {**config, "on_policy": writing})
    assert min(curve(written, "written_span_correlation")) > 0


@pytest.fixture(scope="module")
def every_token(given):
    """Labels that hold the teacher's whole distribution."""
    about = {name: given[name] for name in ("teacher", "corpus", "length")}
    return run_task(LabelTokens, {**about, "labels": {"form": "full"}})


def test_whole_labels_teach_as_the_teacher_does(given, undisturbed, every_token):
    cached = run_task(DistillLm, given, {"labels": every_token})
    assert curve(cached) == pytest.approx(curve(undisturbed), rel=2e-3)
    agreement = "held_out_agreement"
    assert cached.metrics[agreement] == pytest.approx(undisturbed.metrics[agreement], abs=0.03)


@pytest.mark.parametrize(
    ("labels", "objective"),
    [
        ({"form": "top_k", "k": 20}, BOTH),
        ({"form": "sampled", "samples": 12}, {**KL, "cross_entropy": 0.1}),
    ],
)
def test_packed_labels_teach_and_a_killed_student_resumes(given, labels, objective):
    about = {name: given[name] for name in ("teacher", "corpus", "length")}
    kept = run_task(LabelTokens, {**about, "labels": labels, "sequences_per_shard": 7})
    config = {**given, "student": {"layers": 2, "fresh": True}, "objective": objective, "steps": 20}
    learned = run_task(DistillLm, config, {"labels": kept})
    assert curve(learned, "held_out_loss")[-1] < curve(learned, "held_out_loss")[0]
    progress = {}
    with pytest.raises(KilledError):
        run_task(DistillLm, config, {"labels": kept}, progress=progress, kill_after=3)
    assert equal(run_task(DistillLm, config, {"labels": kept}, progress=progress), learned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 12}, "length is 16, expected 12"),
        ({"objective": "uld"}, "uld needs the teacher's whole distribution"),
        ({"corpus": "other"}, "corpus_digest is"),
        ({"teacher": "other"}, "teacher_digest is"),
    ],
)
def test_labels_of_something_else_are_refused(given, every_token, change, message, tmp_path):
    made = {"other_corpus": tiny.word_texts, "other_teacher": tiny.word_folder}
    for name in change.keys() & {"corpus", "teacher"}:
        path = tmp_path / "other.jsonl" if name == "corpus" else tmp_path / "other"
        change = {name: made[f"other_{name}"](path, seed=5)}
    config = DistillLm.Config(**{**given, **change, "labels": "0" * 32})
    with pytest.raises(ValueError, match=message):
        DistillLm.describe(config, {"labels": every_token.described})


def test_lineage_ends_at_the_corpus_and_the_teacher(given, every_token, undisturbed):
    config = DistillLm.Config(**given)
    read = [{"label": one.label, "data": one.content_digest()} for one in (config.corpus, config.teacher)]
    for made in (every_token, undisturbed):
        assert made.facts["datasets"] == read


def other_words(place):
    return tiny.word_folder(place / "other", words=list("zyxwvutsrq"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: {"student": other_words(place)}, "tokenizers: teacher .* differ"),
        (lambda place: {"length": 65}, "takes at most 64 tokens"),
        (
            lambda place: {"teacher": tiny.word_folder(place / "few", logits=20)},
            "20 logits for the 24 tokens",
        ),
        (lambda place: {"student": {"layers": 5}}, "the teacher has 4"),
        (lambda place: {"held_out": 1000}, "hold out less"),
        (lambda place: {"corpus": "nowhere.txt"}, "found neither"),
        (lambda place: {"teacher": None, "objective": CE}, "its `layers` are a teacher's"),
    ],
)
def test_bad_input_is_refused_while_planning(given, change, message, tmp_path):
    config = DistillLm.Config(**{**given, **change(tmp_path)})
    with pytest.raises(ValueError, match=message) as refused:
        DistillLm.describe(config, {})
    assert "\n" not in str(refused.value)


def test_short_forms_of_the_objective(given):
    def learns(objective):
        return DistillLm.Config(**{**given, "objective": objective}).objective

    assert learns("sft") == learns(CE)
    assert learns("forward_kl") == learns(KL)
    whole = {"divergences": ({"name": "jsd", "beta": 0.1},), "cross_entropy": 0.5}
    assert learns({"name": "jsd", "beta": 0.1, "cross_entropy": 0.5}) == learns(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"micro_batch": 4}, "micro_batch 4 does not divide batch 6"),
        ({"epochs": 1.0}, "either `epochs` or `steps`"),
        ({"held_out": 0}, "nothing is held out"),
        ({"best_by": "held_out_loss"}, "the last student is kept"),
        ({"keep": "best", "best_by": "held_out_agrement"}, "did you mean 'held_out_agreement'"),
        ({"keep": "best", "best_by": "held_out_jsd"}, "are not judged by 'held_out_jsd'"),
        ({"teacher": None}, "its divergences need a teacher"),
        ({"spans": {}, "objective": CE}, "need a teacher that reads along"),
        ({"on_policy": {"corrections": 1}, "zero": {"teacher": True}}, "leave out `on_policy.corrections`"),
        ({"on_policy": {}, "objective": CE}, "give the objective a divergence"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given, change, message):
    with pytest.raises(ValidationError, match=message):
        DistillLm.Config(**{**given, **change})


def test_a_plan_says_what_memory_a_student_takes(given, tmp_path):
    stage = {**{name: given[name] for name in ("teacher", "corpus", "length", "steps")}, "task": "distill_lm"}
    stage |= {"objective": "forward_kl", "resources": {"ranks": 2}}
    offer = Offer(where="this machine", cpus=4, gpus=0, memory_gb=64, disk_gb=None)

    def planned(**settings):
        file = tmp_path / "memory.yaml"
        file.write_text(json.dumps({"name": "memory", "stages": {"fit": {**stage, **settings}}}))
        (made,) = make_plan(load_experiment(file), Store.open(str(tmp_path / "store")), offer).stages
        return made

    small, huge = planned(student={"layers": 2}), {"layers": 1, "fresh": True, "hidden_size": 32768}
    assert problems([small], offer) == []
    assert small.needs.memory_gb == DistillLm.needs.memory_gb
    (line,) = problems([planned(student=huge)], offer)
    assert re.match(
        r"stages\.fit: not enough memory: each of 2 ranks takes about \d+ GB \(weights 4\d\.?\d*, ", line
    )
    knows = planned(student=huge, resources={"ranks": 2, "memory_gb": 30.0})
    assert problems([knows], offer) == []


def test_too_little_memory_is_refused(given):
    from tasks.llm_distillation.training.lm_memory import check_memory

    class OneRank:
        device, world_size = "cpu", 1

    config = DistillLm.Config(**given)
    facts = DistillLm.describe(config, {})
    check_memory(config, facts, OneRank())
    with pytest.raises(ValueError, match=r"not enough memory: .* raise zero\.stage"):
        check_memory(config, {**facts, "parameters": 10**13}, OneRank())
