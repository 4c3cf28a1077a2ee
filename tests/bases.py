"""Small base models as a user's folder would hold them: a trained BPE tokenizer, and weights that know a little."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerFast,
)

from pipeline.runs.metrics import read_history
from tests.tiny import COMPOSITION

NOUNS = ("cat", "river", "house", "teacher", "garden", "letter", "mountain", "song", "train", "window")
VERBS = ("sees", "finds", "follows", "remembers", "paints", "leaves")
WORDS = ("old", "red", "quiet", "small", "bright", "cold")
END = "<|endoftext|>"
TEXT = "templates: {default: 'the {p1} of {p0} is {answer}', '*inferred*': 'the {p2} of the {p1} of {p0} is {answer}'}"


def sentences(count: int, seed: int = 0) -> str:
    """Lines of a little language with subject, verb and object."""
    draw = random.Random(seed).choice
    return "\n".join(
        f"the {draw(WORDS)} {draw(NOUNS)} {draw(VERBS)} the {draw(NOUNS)} near a {draw(WORDS)} {draw(NOUNS)} ."
        for _ in range(count)
    )


def make_texts(folder: Path) -> tuple[Path, Path]:
    """Text to replay and text that is held out, as files."""
    paths = folder / "replay.txt", folder / "held_out.txt"
    for seed, (path, count) in enumerate(zip(paths, (400, 60))):
        path.write_text(sentences(count, seed) + "\n")
    return paths


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 400 tokens, as GPT-2's and Pythia's are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([sentences(400)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def make_base(folder: Path, family: str, steps: int = 60) -> Path:
    """A GPT-2 or GPT-NeoX of two blocks, trained a little on the language above."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    common = {"bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        config = GPT2Config(vocab_size=len(tokenizer), n_layer=2, n_embd=32, n_head=4, n_positions=64, **common)
        model: torch.nn.Module = GPT2LMHeadModel(config)
    else:
        # As Pythia's: more rows than tokens, and two matrices.
        neox = GPTNeoXConfig(
            vocab_size=len(tokenizer) + 8, num_hidden_layers=2, hidden_size=32, num_attention_heads=4,
            intermediate_size=128, max_position_embeddings=64, **common,
        )  # fmt: skip
        model = GPTNeoXForCausalLM(neox)
    tokens = torch.tensor(tokenizer(sentences(400))["input_ids"])
    rows = tokens[: len(tokens) // 32 * 32].view(-1, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        batch = rows[torch.randint(len(rows), (32,), generator=torch.Generator().manual_seed(step))]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recipe_of(bases: Path, family: str, model: str = f"vocabulary: text, {TEXT}", more: str = "") -> str:
    """A recipe that continues a base on two-hop facts, and watches its perplexity."""
    text = COMPOSITION.replace(
        "{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}",
        f"{{model_name_or_path: {bases / family}, {model}}}",
    )
    watch = f"base_perplexity: {{source: {bases / 'held_out.txt'}, length: 32}}, adapter_drift: {{}}"
    return text.replace("callbacks: {", f"callbacks: {{{watch}, ").replace("style: plain", "style: 'off'") + more


def logged(run: Path, key: str) -> dict[int, float]:
    return {line["step"]: line[key] for line in read_history(run) if key in line}
