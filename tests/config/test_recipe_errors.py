"""Every mistake in a recipe or on the command line, and the one line that answers it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.config.test_recipe import BASE, HEAD, complaint

# Lines added to BASE, as line 4 of the recipe, and the message.
LINES = {
    "lerning_rate: 1": "r.yaml:4: lerning_rate: unknown key; did you mean learning_rate?",
    "learning-rate: 1": "r.yaml:4: learning-rate: unknown key; did you mean learning_rate?",
    "epochs: 3": "r.yaml:4: epochs: unknown key; did you mean num_train_epochs?",
    "xyzzy: 1": "r.yaml:4: xyzzy: unknown key; --help lists all",
    "1: 2": "r.yaml:4: 1: unknown key; --help lists all",
    "n_layer: 2": "r.yaml:4: n_layer: unknown key; model.n_layer is one: write it into the block model",
    "train_fraction: 0.5": "r.yaml:4: train_fraction: unknown key; corpus.train_fraction is one: write it into the block corpus",
    "corpus.seed: 1": "r.yaml:4: corpus.seed: dotted keys are for the command line; in a recipe, write a block",
    "warmup_ratio: 0.1": "r.yaml:4: warmup_ratio: current transformers has no such key; write warmup_steps, of which a number below 1 is a share of all steps",
    "push_to_hub: true": "r.yaml: hub_model_id: is missing beside push_to_hub; write user/name",
    "hub_token: x": "r.yaml:4: hub_token: is not for recipes: a secret has no place in a recipe; run hf auth login",
    "max_steps: 20": "r.yaml:4: max_steps: given twice, first at r.yaml:3",
    "learning_rate: inf": "r.yaml:4: learning_rate: 'inf' is not finite; write a number > 0",
    "learning_rate: .nan": "r.yaml:4: learning_rate: .nan is not finite; write a number > 0",
    "learning_rate:": "r.yaml:4: learning_rate: has no value; write a number > 0",
    "weight_decay: -0.1": "r.yaml:4: weight_decay: -0.1 is not a number >= 0",
    "seed: 99999999999": "r.yaml:4: seed: 99999999999 is not a whole number >= 0 and < 4294967296",
    "optim: adamw": "r.yaml:4: optim: 'adamw' is unknown; did you mean adamw_torch?",
    "optim: xyzzy": "r.yaml:4: optim: 'xyzzy' is unknown; --help optim lists all",
    "eval_strategy: step": "r.yaml:4: eval_strategy: 'step' is unknown; did you mean steps? allowed: no, steps, epoch",
    "save_strategy: best": "r.yaml:4: save_strategy: best is not for recipes: no step is the best one: all that the checkpoints block names are kept",
    "eval_steps: 10.5": "r.yaml:4: eval_steps: 10.5 is neither a whole number of steps nor a share of them below 1",
    "fp16: true\nbf16: true": "r.yaml:4: fp16: is true beside bf16: true; choose one of them",
    "lr_scheduler_type: constant\nwarmup_steps: 5": "r.yaml:5: warmup_steps: a constant rate has none; write lr_scheduler_type: constant_with_warmup",
    "lr_scheduler_kwargs: {min_lr: 0}": "r.yaml:4: lr_scheduler_kwargs: constant_with_warmup takes none; see lr_scheduler_type",
    "report_to: [none, wandb]": "r.yaml:4: report_to: none stands alone, without other trackers",
    "report_to: {a: 1}": "r.yaml:4: report_to: {a: 1} is not text, a list of text or null",
    "output_dir: ''": "r.yaml:4: output_dir: '' is not the name of a folder",
    'output_dir: "a\\0b"': "r.yaml:4: output_dir: 'a\\x00b' is not the name of a folder",
    "deepspeed: nowhere.json": "r.yaml:4: deepspeed: nowhere.json: no such file; write the path of a JSON file, or a block",
    "fsdp_config: nowhere.json": "r.yaml:4: fsdp_config: nowhere.json: no such file; write the path of a JSON file, or a block",
    "optim_args: fast": "r.yaml:4: optim_args: 'fast' is not name=value; write them as text: a=1,b=2",
    "activation_checkpointing_kwargs: {reentrant: 1}": "r.yaml:4: activation_checkpointing_kwargs: unknown key reentrant; did you mean use_reentrant? allowed: use_reentrant, preserve_rng_state, determinism_check, debug, early_stop, every_n_layers, offload",
    "global_batch_size: 0": "r.yaml:4: global_batch_size: 0 is not a whole number >= 1 or null",
    "global_batch_size: 100\nper_device_train_batch_size: 64": "r.yaml:4: global_batch_size: 100 rows do not divide by per_device_train_batch_size 64; write a multiple of 64",
    "gradient_accumulation_steps: 3": "r.yaml: global_batch_size: 512 rows do not divide by gradient_accumulation_steps 3; write a multiple of 3",
    "global_batch_size: 512\nper_device_train_batch_size: 64\ngradient_accumulation_steps: 2": "r.yaml:4: global_batch_size: 512 is not per_device_train_batch_size 64 x gradient_accumulation_steps 2; leave one of them out",
    "stop_when: groked": "r.yaml:4: stop_when: 'groked' is unknown; did you mean grokked? allowed: never, grokked",
    "decay_embeddings: 0.1": "r.yaml:4: decay_embeddings: 0.1 is not true or false",
    "checkpoints: 5": "r.yaml:4: checkpoints: 5 is not a block; write checkpoints: {key: value}",
    "checkpoints: {evry: 1}": "r.yaml:4: checkpoints.evry: checkpoints has no such key; did you mean every? allowed: initial, powers_of_two, every",
    "checkpoints: {every: [100, null]}": "r.yaml:4: checkpoints.every: [100, null] is not a list of [whole number, whole number or null]",
    "checkpoints: {every: [[0, null]]}": "r.yaml:4: checkpoints.every: [0, null] is not [every >= 1, until >= every or null]",
    "callbacks: [weight_norm]": "r.yaml:4: callbacks: ['weight_norm'] is not a block; write callbacks: {NAME: {}}",
    "callbacks: {weight_norm: true}": "r.yaml:4: callbacks.weight_norm: true is not a block; write weight_norm: {}",
    "callbacks:\n  weight_norm:\n    per_param: 1": "r.yaml:6: callbacks.weight_norm.per_param: weight_norm has no such key; did you mean per_parameter? allowed: per_parameter",
    "paper: {numbers: 5}": "r.yaml:4: paper.numbers: 5 is not a block whose values are text",
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_line_is_named(line: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, f"{BASE}{line}\n") == LINES[line]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "callbacks: {weight_nrm: {}}",
            r"r\.yaml:4: callbacks\.weight_nrm: there is no callback 'weight_nrm'; did you mean weight_norm\?",
        ),
        ("circuits: {magic: {}}", r"r\.yaml:4: circuits\.magic: there is no analysis 'magic'"),
        ("report_to: wandbb", r"r\.yaml:4: report_to: unknown tracker 'wandbb'; did you mean wandb\? allowed: none, "),
        ("report_to: flyte", r"r\.yaml:4: report_to: flyte needs the package flytekit, which is not installed"),
    ],
)
def test_a_wrong_name_is_named(line: str, message: str, tmp_path: Path) -> None:
    assert re.match(message, complaint(tmp_path, f"{BASE}{line}\n"))


BLOCKS = {
    "model: {name: gpt2}\nmax_steps: 1\n": "r.yaml: corpus: has no name; write corpus: {name: NAME}; allowed: ",
    "corpus: {name: group}\nmax_steps: 1\n": "r.yaml: model: has no name; write model: {name: NAME}; allowed: ",
    "corpus: {group: Z5}\nmodel: {name: gpt2}\nmax_steps: 1\n": "r.yaml:1: corpus: has no name; write corpus: {name: NAME}; allowed: ",
    "corpus: group\nmodel: {name: gpt2}\nmax_steps: 1\n": "r.yaml:1: corpus: 'group' is not a block; write corpus: {name: NAME}",
    "corpus: {name: grup}\nmodel: {name: gpt2}\nmax_steps: 1\n": "r.yaml:1: corpus.name: there is no corpus 'grup'; did you mean group? allowed: ",
    "corpus: {name: group}\nmodel: {name: GPT-2}\nmax_steps: 1\n": "r.yaml:2: model.name: there is no model 'GPT-2'; did you mean gpt2? allowed: ",
    "corpus: {name: [a]}\nmodel: {name: gpt2}\nmax_steps: 1\n": "r.yaml:1: corpus.name: ['a'] is not text",
    HEAD: "r.yaml: max_steps: how long to train is missing; write max_steps or num_train_epochs",
    f"{HEAD}max_steps: -1\n": "r.yaml:3: max_steps: how long to train is missing; write max_steps or num_train_epochs",
    "corpus:\n  name: composition\n  ratio: -1\nmodel: {name: gpt2}\nmax_steps: 1\n": "r.yaml:3: corpus.ratio: -1 is not a number >= 0",
    "corpus:\n  name: composition\n  num_relations: 5\nmodel: {name: gpt2}\nmax_steps: 1\n": "r.yaml:1: corpus.out_degree: 20 is more than num_relations, 5",
    "corpus:\n  name: composition\n  ood_fraction: 1\nmodel: {name: gpt2}\nmax_steps: 1\n": "r.yaml:3: corpus.ood_fraction: 1 is not a number > 0 and < 1",
    "corpus:\n  name: group\n  train_fraction: 0\nmodel: {name: gpt2}\nmax_steps: 1\n": "r.yaml:3: corpus.train_fraction: 0 is not a number > 0 and < 1",
    "corpus: {name: group}\nmodel:\n  name: gpt2\n  n_head: 5\nmax_steps: 1\n": "r.yaml:4: model.n_head: 5 does not divide n_embd, 768",
    f"corpus: {{name: group, group: Z{'9' * 5000}}}\nmodel: {{name: gpt2}}\nmax_steps: 1\n": "r.yaml:1: corpus.group: 'Z999",
}  # fmt: skip


@pytest.mark.parametrize("text", BLOCKS, ids=lambda text: repr(text[:40]))
def test_a_wrong_block_is_named(text: str, tmp_path: Path) -> None:
    message = complaint(tmp_path, text)
    assert message.startswith(BLOCKS[text]) and len(message) < 1100
    assert message == BLOCKS[text] or BLOCKS[text].endswith(("allowed: ", "'Z999"))


WORDS = {
    "--learning_rate": "command line: learning_rate: has no value; write a number > 0",
    "--seed --fp16": "command line: seed: has no value; write a whole number >= 0 and < 4294967296",
    "--run_name": "command line: run_name: has no value; write text or null",
    "--corpus.ratio 18": "command line: corpus.ratio: group has no such key; did you mean operation? allowed: group, operation, train_fraction, label_noise, template, seed",
    "--corpus group": "command line: corpus: 'group' is not a block; write corpus: {name: NAME}",
    "--corpsu.seed 1": "command line: corpsu: unknown key; did you mean corpus?",
    "--callbacks.weight_norm": "command line: callbacks.weight_norm: has no value; write weight_norm: {}",
    "--checkpoints.every [[10,100": "command line: checkpoints.every: '[[10,100' is not a list of [whole number, whole number or null]: is not YAML: a list is not closed with ]",
    "--model.n_embd=4 --model.n_head=3": "command line: model.n_head: 3 does not divide n_embd, 4",
    "--warmup-ratio 0.1": "command line: warmup_ratio: current transformers has no such key; write warmup_steps, of which a number below 1 is a share of all steps",
    "--lr_scheduler_type.x 1": "command line: lr_scheduler_type: {x: 1} is not linear, cosine, cosine_with_restarts, ",
}  # fmt: skip


@pytest.mark.parametrize("words", WORDS)
def test_a_wrong_word_is_named(words: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, BASE, *words.split()).startswith(WORDS[words])
