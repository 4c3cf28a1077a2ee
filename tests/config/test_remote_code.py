"""Code that lies in a folder or a repository runs only where the command line trusts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.circuits.__main__ import main as circuits_main
from pipeline.config import trust
from pipeline.hub import __main__ as hub
from pipeline.runs import __main__ as upkeep
from pipeline.runs.checkpoints import facts_of, files_of
from pipeline.runs.entry import Entry
from pipeline.runs.manifest import Manifest
from pipeline.utils.files import sha256
from tests.bases import recipe_of
from tests.hub_server import HubServer
from tests.hub_server import hub as hub_command
from tests.tiny import ROOT, run_here, run_process, write_recipe

EVIL = """
from pathlib import Path
from transformers import GPT2Config, GPT2LMHeadModel
Path(r"{proof}").touch()

class EvilConfig(GPT2Config):
    model_type = "evil"

class EvilModel(GPT2LMHeadModel):
    config_class = EvilConfig
"""
AUTO_MAP = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.EvilModel"}


def make_evil(folder: Path, proof: Path, family: str = "evil") -> None:
    """Gives a model's folder code that makes the file `proof` when it is imported."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": family, "auto_map": AUTO_MAP}))
    (folder / "modeling_evil.py").write_text(EVIL.format(proof=proof))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["modeling_evil.EvilConfig", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def sealed(run: Path) -> None:
    """Lists the files of the kept steps as they are now: all is in order, says the manifest."""
    manifest, parent = Manifest.load(run), ""
    for step, entry in manifest.chain().items():
        facts = facts_of(run / entry.path, files_of(run / entry.path))
        manifest.kept[step] = Entry(entry.path, facts, entry.metrics).after(parent)
        parent = manifest.kept[step].link
    manifest.save(run)


@pytest.fixture(scope="module")
def evil(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, whose recipe trusts the code of its base and of its steps, and the file that this code makes."""
    folder = tmp_path_factory.mktemp("evil")
    base, run, proof = folder / "base", folder / "run", folder / "proof"
    shutil.copytree(bases / "gpt2", base)
    recipe = write_recipe(
        folder, recipe_of(bases, "gpt2", "vocabulary: tokens").replace(str(bases / "gpt2"), str(base))
    )
    assert run_here(recipe, "--max_steps", "2") == 0
    told = yaml.safe_load((run / "recipe.yaml").read_text())
    told["model"]["trust_remote_code"] = True
    (run / "recipe.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    for place in (base, *(run / entry.path for entry in Manifest.load(run).kept.values())):
        make_evil(place, proof)
    sealed(run)
    return run, proof


def test_a_folder_s_own_recipe_runs_no_code(evil: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, proof = evil
    pairs = run.parent / "pairs.jsonl"
    pairs.write_text('{"clean": "the cat", "corrupted": "the song", "answer": " sees", "corrupted_answer": " finds"}\n')
    commands = (
        (upkeep.main, "verify", run),
        (upkeep.main, "verify", run, "--rebuild"),
        (circuits_main, run, "--analysis", "logit_lens"),
        (circuits_main, run, "--data", pairs, "--analysis", "logit_lens"),
        (circuits_main, run, "--model", run, "--revision", "step2", "--analysis", "logit_lens"),
        (circuits_main, "--model", run / "steps" / "step2", "--data", pairs, "--analysis", "logit_lens"),
        (hub.main, "push", run, "--repo", "user/x", "--dry-run"),
    )
    for main, *words in commands:
        assert main([str(word) for word in words]) in (0, 1, 2), words
        assert not proof.exists(), words
        told = capsys.readouterr().err
        assert "Traceback" not in told and told.count("\n") <= 1, told
    assert circuits_main([str(run), "--model", str(run), "--revision", "step2", "--analysis", "logit_lens"]) == 2
    told = capsys.readouterr().err
    assert told == (
        f"model.trust_remote_code: {run}/steps/step2 comes with code that is not of this package, modeling_evil.py; "
        "--trust-remote-code would run it\n"
    )


def test_a_pulled_run_runs_no_code(evil: tuple[Path, Path], server: HubServer, tmp_path: Path) -> None:
    run, proof = evil
    assert hub_command(server, "push", str(run), "--repo", "user/evil").returncode == 0
    assert hub_command(server, "pull", "user/evil", "--output", str(tmp_path / "pulled")).returncode == 0
    assert "trust_remote_code: true" in (tmp_path / "pulled" / "recipe.yaml").read_text()
    for words in (
        ("pipeline.circuits", "--analysis", "logit_lens"),
        ("pipeline.runs", "--rebuild"),
    ):
        module, *rest = words
        first = ["verify"] if module == "pipeline.runs" else []
        result = run_process("-m", module, *first, str(tmp_path / "pulled"), *rest)
        assert "Traceback" not in result.stderr and not proof.exists(), result.stderr


def test_a_recipe_alone_does_not_trust_and_the_command_line_does(
    bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, proof = tmp_path / "base", tmp_path / "proof"
    shutil.copytree(bases / "gpt2", base)
    make_evil(base, proof)
    text = recipe_of(bases, "gpt2", "vocabulary: tokens, trust_remote_code: true").replace(
        str(bases / "gpt2"), str(base)
    )
    recipe = write_recipe(tmp_path, text)
    assert run_here(recipe, "--max_steps", "1") == 2
    told = capsys.readouterr().err
    line = text[: text.index("trust_remote_code")].count("\n") + 1
    assert told == (
        f"{recipe}:{line}: model.trust_remote_code: only the command line can say so; add --trust-remote-code to it\n"
    )
    recipe.write_text(text.replace(", trust_remote_code: true", ""))
    assert run_here(recipe, "--max_steps", "1") == 2
    assert "comes with code that is not of this package, modeling_evil.py; --trust" in capsys.readouterr().err
    assert not proof.exists() and not (tmp_path / "run" / "steps").exists()
    shutil.copy(bases / "gpt2" / "tokenizer_config.json", base)
    assert run_here(recipe, "--max_steps", "1", "--trust-remote-code") == 0
    assert proof.exists()


@pytest.mark.parametrize("name", ["gpt2_looped", "gpt2_bare"])
def test_code_of_this_package_needs_no_trust_and_changed_code_does(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.config.registry import load
    from pipeline.models.pretrained import Pretrained

    torch.manual_seed(0)
    model = load("models", name, "model")(n_layer=1, n_embd=16, n_head=2, n_positions=8, dropout=0.0).build(24).eval()
    model.save_pretrained(tmp_path / "model")
    module = tmp_path / "model" / f"modeling_{name}.py"
    assert module.read_bytes() == (ROOT / "pipeline" / "models" / module.name).read_bytes()
    again = Pretrained(model_name_or_path=str(tmp_path / "model")).build(24).eval()
    assert type(again) is type(model)  # the package's own, which reads nothing of the folder's code
    tokens = torch.arange(6)[None]
    assert again(tokens).logits.equal(model(tokens).logits)
    # Bytes that were changed are nobody's.
    module.write_text(f"{module.read_text()}\nopen({str(tmp_path / 'proof')!r}, 'w')\n")
    with pytest.raises(trust.ParameterError, match=f"modeling_{name}.py; --trust-remote-code would run it"):
        Pretrained(model_name_or_path=str(tmp_path / "model")).build(24)
    assert not (tmp_path / "proof").exists()


def test_every_modeling_file_is_listed_as_released() -> None:
    """Add the hash of a file that was changed: steps that were kept with the one before are then still known."""
    for file in (ROOT / "pipeline" / "models").glob("modeling_*.py"):
        assert sha256(file) in trust.RELEASED.get(file.stem, ()), f"add to RELEASED: {file.stem} {sha256(file)}"
