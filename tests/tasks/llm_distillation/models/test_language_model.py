import shutil

import pytest
import torch
from pydantic import ValidationError

from orchestrator.experiment import parse_settings
from tasks.data.files import data_folder
from tasks.llm_distillation.models import gguf_files, model_files
from tasks.llm_distillation.models.gguf_files import has_weights
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.model_artifact import model_output
from tasks.llm_distillation.models.vocabulary import (
    check_length,
    check_same_tokens,
    model_facts,
    padding_id,
    vocabulary_size,
)
from tests.tasks.llm_distillation import tiny


def named(name, **settings):
    return parse_settings(LanguageModel, {"name": str(name), **settings})


def test_a_folder_is_read_without_its_weights_and_with(tiny_llama, words, capfd):
    model = named(tiny_llama)
    assert (model.vocabulary, model.config().vocab_size) == (len(words), len(words) + 8)
    assert model.config().num_hidden_layers == 2
    loaded = model.load("cpu")
    assert (loaded.dtype, loaded.training) == (torch.float32, False)
    assert torch.equal(loaded.lm_head.weight, tiny.llama(len(words) + 8).lm_head.weight)
    assert model.tokenizer()("shard").input_ids == words("shard").input_ids
    assert capfd.readouterr() == ("", "")


def test_a_short_form_and_the_data_folder(tiny_llama, monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_DATA", str(tiny_llama.parent))
    model = LanguageModel.model_validate(tiny_llama.name)
    assert model == LanguageModel(name=tiny_llama.name)
    assert (model.label, model.content_digest()) == (tiny_llama.name, named(tiny_llama).content_digest())
    monkeypatch.chdir(tiny_llama.parent)
    here = LanguageModel.model_validate(tiny_llama.name)
    monkeypatch.chdir(tmp_path)
    assert here.files().folder == tiny_llama


def test_the_digest_follows_the_content_and_the_number_format(tiny_llama, tmp_path, words):
    model = named(tiny_llama)
    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    assert named(copy).content_digest() == model.content_digest()
    assert named(copy, dtype="bf16").content_digest() != model.content_digest()
    assert named(copy, dtype="bf16").load("cpu").dtype == torch.bfloat16
    (copy / "README.md").write_text("no part of the model")
    assert named(copy).content_digest() == model.content_digest()
    other = tiny.saved(tmp_path / "other", tiny.llama(len(words) + 8, seed=1), words)
    assert named(other).content_digest() != model.content_digest()
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert named(copy).content_digest() != model.content_digest()


@pytest.mark.parametrize("revision", ["main", "v1.0", "abc123"])
def test_a_revision_is_a_commit(revision):
    with pytest.raises(ValidationError, match="expected the 40 hex digits of a commit"):
        named("owner/name", revision=revision)


def test_what_is_missing_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    for folder in ("empty", "two", "pickled"):
        (tmp_path / folder).mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "two" / name).touch()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").touch()
    for name, message in {
        "owner/name": r"model owner/name: found neither .* nor .*; expected a folder .* add its `revision`",
        "empty": "holds neither config.json nor a GGUF file",
        "two": r"holds 2 GGUF files \(a.gguf, b.gguf\); .*name one as `gguf_file`",
        "pickled": "pickled weights are not read",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            named(name).content_digest()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"there is no file c\.gguf; correct `gguf_file`"):
        named("two", gguf_file="c.gguf").content_digest()


def test_the_hub_away_is_one_clear_line(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConnectionError, match="model owner/name at 000000000000: not on this machine"
    ) as caught:
        named("owner/name", revision="0" * 40).content_digest()
    assert "\n" not in str(caught.value)


def test_what_the_hub_refuses_is_one_clear_line():
    from types import SimpleNamespace

    from huggingface_hub import errors

    answer = SimpleNamespace(headers={}, request=None)
    for error, expected in (
        (errors.GatedRepoError("gated\nread the terms", response=answer), "accept its terms"),
        (errors.RepositoryNotFoundError("none", response=answer), "no such model or revision"),
        (errors.RevisionNotFoundError("none", response=answer), "no such model or revision"),
        (errors.HFValidationError("bad name"), "expected owner/name"),
    ):

        def fetch(error=error):
            raise error

        with pytest.raises(ValueError, match=expected) as caught:
            model_files._fetched("owner/name", "0" * 40, fetch)
        assert "\n" not in str(caught.value)


def test_damaged_files_are_named(tiny_llama, tmp_path):
    for file, text, message in (
        ("config.json", "{", "cannot be read as a config"),
        ("config.json", '{"model_type": "no_such_type"}', "cannot be read as a config"),
        ("tokenizer.json", "{", "cannot be read as a tokenizer"),
    ):
        copy = shutil.copytree(tiny_llama, tmp_path / "copy", dirs_exist_ok=True)
        (copy / file).write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            named(copy).load("cpu")
        assert str(copy) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_weights_are_refused(tmp_path, words):
    folder = tiny.saved(tmp_path, tiny.llama(len(words)), words)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ValueError, match=r"lack \d+ of its weights.* such as model.layers.2"):
        named(folder).load("cpu")


def test_a_model_smaller_than_its_tokenizer_is_refused(tmp_path, words):
    folder = tiny.saved(tmp_path, tiny.llama(len(words) - 1), words)
    with pytest.raises(ValueError, match=rf"has {len(words) - 1} logits for the {len(words)} tokens"):
        named(folder).load("cpu")


def test_tokenizers_are_told_apart(words):
    config = tiny.llama(len(words)).config
    own = model_facts(config, words)
    assert own["tokenizer"] == {**own["tokenizer"], "size": len(words), "bos": 0, "eos": 1, "pad": None}
    check_same_tokens(own, model_facts(config, tiny.tokenizer()), ("teacher", "student"))
    with pytest.raises(ValueError, match=r"tokenizers: teacher \(300 tokens.*and student \(290 tokens"):
        check_same_tokens(own, model_facts(config, tiny.tokenizer(290)), ("teacher", "student"))


def test_what_fills_a_sequence(words, chatty):
    assert (padding_id(words), padding_id(chatty)) == (words.eos_token_id, chatty.pad_token_id)


def test_added_tokens_count():
    made = tiny.tokenizer()
    made.add_tokens(["<extra>"])
    assert vocabulary_size(made) == made.convert_tokens_to_ids("<extra>") + 1 == 301


def test_a_sequence_longer_than_the_model_is_refused():
    check_length("tiny", 128, 128)
    check_length("tiny", 10**9, None)
    with pytest.raises(ValueError, match="length 129: model tiny takes at most 128 tokens; lower `length`"):
        check_length("tiny", 129, 128)


@tiny.needs("lm_stories260k")
def test_a_real_model_speaks():
    model = LanguageModel.model_validate("lm_stories260k")
    ids = torch.tensor([model.tokenizer()("Once upon a time").input_ids])
    with torch.no_grad():
        told = model.load("cpu").generate(ids, max_new_tokens=12, do_sample=False)
    assert (
        model.tokenizer()
        .decode(told[0], skip_special_tokens=True)
        .startswith("Once upon a time, there was a")
    )


@tiny.needs("smollm2_135m_instruct")
@pytest.mark.slow
def test_a_gguf_folder_and_its_file_are_the_same_model():
    folder = data_folder("smollm2_135m_instruct", None)
    model, file = named(folder), named(next(folder.glob("*.gguf")))
    assert model.content_digest() == file.content_digest()
    assert (model.vocabulary, model.config().num_hidden_layers) == (49152, 30)
    assert "im_start" in file.tokenizer().chat_template
    first = model.tokenizer()("A shard, made once.").input_ids
    assert model.tokenizer().decode(first) == "A shard, made once."


@tiny.needs("smollm2_135m_instruct")
@pytest.mark.slow
def test_weights_of_a_small_gguf_file_are_unpacked_once(tmp_path, monkeypatch):
    import gguf

    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path))
    name = data_folder("smollm2_135m_instruct", None)
    (file,) = name.glob("*.gguf")
    narrow = named(name, dtype="bf16").load("cpu")
    (folder,) = (tmp_path / "gguf").iterdir()

    def never():
        raise AssertionError("unpacked twice")

    assert has_weights(folder, file, never)
    wide = named(name).load("cpu")
    packed = {one.name: one for one in gguf.GGUFReader(file).tensors}
    for theirs, ours in (("token_embd", "embed_tokens"), ("blk.7.ffn_down", "layers.7.mlp.down_proj")):
        one = packed[f"{theirs}.weight"]
        weight = torch.from_numpy(gguf.dequantize(one.data, one.tensor_type).copy())
        assert torch.equal(wide.get_parameter(f"model.{ours}.weight"), weight)
        assert torch.equal(narrow.get_parameter(f"model.{ours}.weight"), weight.bfloat16())
    assert wide.lm_head.weight is wide.model.embed_tokens.weight


@tiny.needs("smollm2_135m_instruct")
@pytest.mark.slow
def test_a_model_of_a_large_gguf_file_is_a_plain_one(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path))
    model = named(data_folder("smollm2_135m_instruct", None))
    small = model.load("cpu")
    (kept,) = (tmp_path / "gguf").glob("*/model.safetensors")
    kept.unlink()
    monkeypatch.setattr(gguf_files, "SMALL_MB", 0)
    large = model.load("cpu")
    configs = [model_output(one, model.tokenizer()).documents["config"] for one in (small, large)]
    assert configs[0] == configs[1]
    assert {type(part) for part in large.modules()} == {type(part) for part in small.modules()}
    for name, value in small.state_dict().items():
        assert torch.equal(large.state_dict()[name], value), name


def test_weights_of_a_large_gguf_file_are_not_kept(tmp_path, tiny_llama, monkeypatch):
    monkeypatch.setattr(gguf_files, "SMALL_MB", 0)
    file = tmp_path / "large.gguf"
    file.write_bytes(b"GGUF")
    assert not has_weights(tmp_path, file, lambda: named(tiny_llama).load("cpu"))
    assert not (tmp_path / "model.safetensors").exists()


def test_weights_that_cannot_be_kept_are_told(tmp_path, tiny_llama, caplog):
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF")
    assert not has_weights(tmp_path / "gone" / "folder", file, lambda: named(tiny_llama).load("cpu"))
    assert "they are unpacked each time" in caplog.text
