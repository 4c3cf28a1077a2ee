"""Kept steps of every corpus and of every architecture, as others read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.registry import names
from pipeline.runs.folder import RunFolder
from tests.tiny import RECIPE, run_here, write_recipe

FACTS = "num_entities: 30, num_attributes: 2, num_values: 5, ood_fraction: 0.2"
CORPORA = {
    "group": "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}",
    "group_eos": "{name: group, group: S3, operation: '*', train_fraction: 0.5, template: eos a op b = c eos}",
    "composition": "{name: composition, num_entities: 30, num_relations: 6, out_degree: 4, ratio: 2, "
    "ood_fraction: 0.2}",
    "comparison": f"{{name: comparison, {FACTS}}}",
    "complex_reasoning": f"{{name: complex_reasoning, {FACTS}, train_fraction: 0.3}}",
    "complex_in_context": f"{{name: complex_in_context, {FACTS}, train_fraction: 0.3, chain: true}}",
    "k_hop": "{name: k_hop, num_entities: 12, num_relations: 3, trained_hops: 3, most_hops: 4, held_out_per_hop: 10}",
    "published": "{name: published, path: PUBLISHED}",
    "triples": "{name: triples}",
    "babi": "{name: babi, tasks: [15, 16], questions: 40, test_questions: 20}",
    "graph_isomorphism": "{name: graph_isomorphism, max_vertices: 6, ood_vertices: 7, pairs: 100, test_pairs: 20, "
    "notation: matrix}",
    "induction": "{name: induction, vocabulary_size: 12, length: 11, shortest: 2, longest: 5, train_rows: 200, "
    "id_rows: 50}",
    "in_context_languages": "{name: in_context_languages, symbols: 6, most_states: 5, longest: 8, length: 24, "
    "languages: 20, ood_languages: 10, train_rows: 120, test_rows: 30}",
    "pos_icl": "{name: pos_icl, vocabulary_size: 40, unseen: 6, train_rows: 400, eval_rows: 40}",
    "concept_grid": "{name: concept_grid}",
    "question_formation": "{name: question_formation, lexicon: 3, train_rows: 300, id_rows: 40, gen_rows: 40}",
    "tense_reinflection": "{name: tense_reinflection, lexicon: 3, train_rows: 300, id_rows: 40, gen_rows: 40}",
    "dyck": "{name: dyck, types: 3, depth: 4, longest: 20, train_rows: 200, id_rows: 30, gen_rows: 30}",
    "ordinals": "{name: ordinals, sets: [days, ordinals], labels: 2, rows: 300, held_out_rows: 40}",
    "bigram_backcopy": "{name: bigram_backcopy, vocabulary_size: 12, triggers: 2, length: 8, train_rows: 200, "
    "id_rows: 50}",
    "opposing_pairs": "{name: opposing_pairs, vocabulary_size: 8, length: 5, rows: 60, loud: 6, id_rows: 12}",
    "toy_programs": "{name: toy_programs, variables: 2, most_lines: 3, train_rows: 200, id_rows: 50}",
    "responses": "{name: responses}",
    "word_removal": "{name: word_removal, tasks: [remove, write], nouns: 8, unseen: 6, unwanted: 3, most_nouns: 2, "
    "longest: 3, most_removed: 2, rows: 40, test_rows: 10}",
    "grammar": "{name: grammar, things: 3, colours: 2, prepositions: 1, train_size: 60, test_size: 20}",
    "behaviours": "{name: behaviours, held_out_rows: 20, rows: 400}",
    "few_shot": "{name: few_shot, inputs: 3, labels: 3, shots: 4, rows: 200, id_rows: 50}",
    "reviews": "{name: reviews, clauses: 1, adjectives: 6, rows: 200, id_rows: 60}",
    "vector_chain": "{name: vector_chain, train_size: 300, test_size: 60}",
    "rooms_grid": "{name: rooms_grid, names: 8, max_hops: 2, more_hops: 1, beside: 1, train_rows: 200, test_rows: 30}",
    "dark_room": "{name: dark_room, size: 3, steps: 3, learning_episodes: 8, episodes: 2, histories: 60, "
    "test_histories: 20}",
    "reasoning_gym": "{name: reasoning_gym, path: QUESTIONS, harder_levels: 1}",
    "findcats": "{name: findcats, length: 20, train_size: 40, test_size: 20, words: [cat, ibis], other_words: [puma], "
    "other_lengths: [16, 23], within: 12}",
}
WITHOUT_END = (
    "group",
    "k_hop",
    "induction",
    "bigram_backcopy",
    "in_context_languages",
    "opposing_pairs",
    "toy_programs",
    "pos_icl",
    "concept_grid",
    "ordinals",
    "findcats",
    "graph_isomorphism",
    "responses",
    "vector_chain",
    "reviews",
    "few_shot",
    "behaviours",
    "grammar",
    "word_removal",
    "rooms_grid",
    "dark_room",
)  # of the answer, as a token
ARCHITECTURES = [name for name in names("models") if name != "pretrained"]
# name -> corpus and architecture
KEPT = {corpus: (corpus, "gpt2") for corpus in CORPORA} | {name: ("group", name) for name in ARCHITECTURES}


def keep(folder: Path, name: str) -> Path:
    """The folder of a step that a short run kept."""
    corpus, architecture = KEPT[name]
    words = CORPORA[corpus]
    if corpus == "published":
        from pipeline.corpora.composition import Composition
        from pipeline.corpora.published import write_published
        from pipeline.corpora.store import build

        facts = Composition(num_entities=30, num_relations=6, out_degree=4, ratio=2, ood_fraction=0.2)
        write_published(build(facts), folder / "files")
        words = words.replace("PUBLISHED", str(folder / "files"))
    if corpus == "reasoning_gym":
        from pipeline.corpora.reasoning_gym import ReasoningGym

        words = words.replace("QUESTIONS", ReasoningGym.tiny(folder).path)
    text = RECIPE.replace(CORPORA["group"], words).replace("name: gpt2,", f"name: {architecture},")
    text = text.replace("n_positions: 8", "n_positions: 64").replace("global_batch_size: 16", "global_batch_size: 8")
    path = write_recipe(folder, text, name)
    more = ("--max_steps", "4", "--max_eval_samples", "16", "--output_dir", str(folder / name))
    assert run_here(path, *more) == 0
    return folder / name / "steps" / "step4"


def examples(step: Path, most: int = 12) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers of held-out rows, as token ids."""
    stored = RunFolder(step.parent.parent).stored
    found: list[Any] = []
    for block in stored.blocks(stored.held_out[0]):
        found += zip(block.prompts.tolist(), block.answers.tolist())
    return found[:most]
