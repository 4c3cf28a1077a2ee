"""What others do with a folder that a run kept: prompts typed as text, scores of answers, libraries that explain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open

from pipeline.config.registry import load, names
from pipeline.corpora.group import Group
from pipeline.corpora.store import StoredCorpus, build
from pipeline.data.tokenizer import unknown_words
from pipeline.utils.errors import ParameterError
from tests.bases import END, make_tokenizer

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 8, "dropout": 0.0}


@pytest.fixture(scope="module")
def stored() -> StoredCorpus:
    return build(Group(group="Z11", template="a b = c"))


@pytest.fixture(params=[name for name in names("models") if name != "pretrained"])
def folder(request: pytest.FixtureRequest, stored: StoredCorpus, tmp_path: Path) -> Path:
    """A model and its tokenizer, as keep_step writes them."""
    architecture = load("models", request.param, "model")(**SIZES)
    torch.manual_seed(0)
    architecture.for_corpus(stored).save_pretrained(tmp_path)
    architecture.tokenizer(stored).save_pretrained(tmp_path)
    return tmp_path


def test_a_prompt_typed_as_text_is_answered(folder: Path, stored: StoredCorpus) -> None:
    write = transformers.pipeline("text-generation", model=str(folder), trust_remote_code=True)
    written = write("3 7 =", max_new_tokens=1, do_sample=False, return_full_text=False)[0]["generated_text"]
    tokens = torch.tensor([[stored.tokens.index(word) for word in ("3", "7", "=")]])
    expected = stored.tokens[int(write.model(tokens).logits[0, -1].argmax())]
    # Padding and the end of an answer are left out of what is shown.
    assert written.strip() == ("" if expected in write.tokenizer.all_special_tokens else expected)


def test_an_answer_is_scored_as_evaluation_harnesses_do(folder: Path) -> None:
    # The way of lm-evaluation-harness: context and continuation as text, by what lies in one folder.
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    context, continuation = "3 7 =", " 10"
    whole = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(context, add_special_tokens=False)["input_ids"])
    assert len(whole) == start + 1 and tokenizer.decode(whole[start:]).strip() == "10"
    with torch.no_grad():
        logits = model(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
    assert -20 < float(logits[start - 1, whole[start]]) < 0


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_stored_once_and_come_back_tied(folder: Path, tied: bool, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    name = {"gpt_neox": "pythia"}.get(model.config.model_type, model.config.model_type)
    kind = load("models", name, "model")
    if tied and "tie_word_embeddings" in kind.unused:
        with pytest.raises(ParameterError, match="tie_word_embeddings: True would change nothing"):
            kind(**SIZES, tie_word_embeddings=True)
        return
    torch.manual_seed(0)
    fresh = kind(**SIZES, tie_word_embeddings=tied).build(24)
    fresh.save_pretrained(tmp_path / "again")
    with safe_open(tmp_path / "again" / "model.safetensors", "pt") as file:
        names = list(file.keys())
        heads = [name for name in names if name.startswith(("lm_head", "embed_out"))]
    assert bool(heads) != tied
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == tied
    assert all(weight.equal(again.state_dict()[key]) for key, weight in fresh.state_dict().items())


@pytest.mark.parametrize("name", ["gpt2", "pythia"])
def test_transformer_lens_reads_it(name: str, stored: StoredCorpus, tmp_path: Path) -> None:
    lens = pytest.importorskip("transformer_lens.model_bridge", reason="the extra lens is not installed")
    architecture = load("models", name, "model")(**SIZES)
    torch.manual_seed(0)
    model = architecture.for_corpus(stored).eval()
    model.save_pretrained(tmp_path)
    architecture.tokenizer(stored).save_pretrained(tmp_path)
    bridge = lens.TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    tokens = bridge.to_tokens("3 7 =", prepend_bos=False)
    assert tokens.tolist() == [[stored.tokens.index(word) for word in ("3", "7", "=")]]
    logits, cache = bridge.run_with_cache(tokens)
    assert torch.allclose(logits, model(tokens).logits, atol=1e-5)
    states = model(tokens, output_hidden_states=True).hidden_states
    assert torch.allclose(cache["blocks.0.hook_resid_post"], states[1], atol=1e-5)
    typed = bridge.generate("3 7 =", max_new_tokens=1, do_sample=False, prepend_bos=False, verbose=False)
    assert typed.split()[:3] == ["3", "7", "="] and len(typed.split()) == 4, typed


def test_what_a_vocabulary_lacks_is_padding_and_is_named(stored: StoredCorpus) -> None:
    tokenizer = load("models", "gpt2", "model")(**SIZES).tokenizer(stored)
    ids = tokenizer("3 cats =")["input_ids"]
    assert ids == [stored.tokens.index(word) for word in ("3", "<pad>", "=")]
    assert unknown_words(tokenizer, "3 cats = 99", ids) == ["cats", "99"]
    assert unknown_words(tokenizer, "3 7 =", tokenizer("3 7 =")["input_ids"]) == []


def test_the_end_of_text_of_a_tokenizer_such_as_gpt2_s_is_no_unknown_word() -> None:
    tokenizer = make_tokenizer()
    tokenizer.unk_token = END
    text = f"the old cat {END}"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id in ids and unknown_words(tokenizer, text, ids) == []
