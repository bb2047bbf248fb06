"""What a student is, for those who get its folder without the store."""

from orchestrator.task import Facts, Json
from tasks.llm_distillation.distill_config import DistillConfig

LOADING = """To load it, in its folder:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
prompt = tokenizer("Once upon a time", return_tensors="pt").input_ids
written = model.generate(prompt, max_new_tokens=20, do_sample=False)
print(tokenizer.decode(written[0], skip_special_tokens=True))
```

It can teach others: `teacher: FOLDER` of the tasks `distill_lm` and `token_labels`."""


def student_card(config: DistillConfig, facts: Facts, parameters: int) -> Json:
    """Title and text, in Markdown. What every artifact's card says (settings, metrics, inputs, commit) is left to the
    export."""
    origin = "text alone" if not config.objective.needs_teacher else _teacher(config)
    return {
        "title": f"{facts['architecture']} of {facts['layers']} layers, learned from {origin}",
        "text": "\n\n".join([_what(config, facts, parameters), LOADING]),
    }


def _what(config: DistillConfig, facts: Facts, parameters: int) -> str:
    objective = config.objective
    divergences = ", ".join(f"`{term.name}`" for term in objective.divergences) or "no divergence"
    told = [
        f"A causal language model of {parameters:,} weights, hidden size {facts['hidden_size']}, for a tokenizer of "
        f"{facts['tokenizer']['size']:,} tokens, in fp32.",
        f"It learned from {facts['counts']['tokens']:,} tokens of {config.corpus.label}, in sequences of "
        f"{config.length}, by {divergences} and cross-entropy of weight {objective.cross_entropy:g}.",
    ]
    if config.keep == "best":
        told.append(
            f"Of several judgements on {config.held_out} held-out sequences it is the best by "
            f"`{config.best_by.metric}`, so that metric is a little too good."
        )
    return " ".join(told)


def _teacher(config: DistillConfig) -> str:
    name = "a teacher of an earlier stage" if config.teacher is None else config.teacher.label
    if config.labels is None:
        return name
    return f"the labels of {name}" if config.on_policy is None else f"{name} and its labels"
