"""bAbI, tasks 4 and 15 to 20: relations between rooms, animals, shapes, boxes, and why people do what they do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from pipeline.corpora._babi_places import WENT
from pipeline.corpora._babi_stories import ROOMS, Dice, Setting, Story

STEPS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
PLURALS = {"mouse": "mice", "sheep": "sheep", "wolf": "wolves", "cat": "cats"}
OWNERS = ("Gertrude", "Winona", "Jessica", "Emily"), ("Bernard", "Yvonne", "Walter", "Irene")
NAMES = ("Lily", "Bernhard", "Greg", "Julius", "Brian"), ("Helen", "Oscar", "Paula", "Victor", "Wendy")
ANIMALS, COLOURS = ("swan", "lion", "frog", "rhino"), ("gray", "white", "yellow", "green")
SHAPES = ("red square", "blue square", "triangle", "pink rectangle", "red sphere", "yellow square")
SIDES = {"above": (0, 1), "below": (0, -1), "to the left of": (-1, 0), "to the right of": (1, 0)}
BOXES = ("box", "suitcase", "chest", "container", "chocolate", "crate")
MOODS = {"hungry": ("kitchen", "apple"), "thirsty": ("kitchen", "milk"), "bored": ("garden", "football"),
         "tired": ("bedroom", "pajamas")}  # fmt: skip
GUESTS = ("Jason", "Yann", "Antoine", "Sumit"), ("Teresa", "Nadia", "Marco", "Peter")


def two_arguments(dice: Dice, setting: Setting) -> Story:
    """Task 4: three rooms in a line; what is on a side of the middle one, or which one is it on that side of?"""
    story, way = Story(), dice.pick(list(STEPS))
    rooms = dice.some(ROOMS, 3)  # each is on that side of the next
    lines = {}
    for place in dice.shuffled([0, 1]):
        one, other, side = rooms[place], rooms[place + 1], way
        if dice.below(2):
            one, other, side = other, one, OPPOSITE[way]
        lines[place] = story.say(f"The {one} is {side} of the {other}")
    side, is_first = dice.pick([way, OPPOSITE[way]]), dice.below(2)
    # What is on the side of the middle room, and what the middle room is on the side of, lie on opposite sides of it.
    place = 0 if (side == way) == bool(is_first) else 2
    text = f"What is {side} of the {rooms[1]}" if is_first else f"What is the {rooms[1]} {side} of"
    story.ask(text, rooms[place], lines[0 if place == 0 else 1])
    return story


def deduction(dice: Dice, setting: Setting) -> Story:
    """Task 15: animals fear animals, and persons are animals."""
    story, animals = Story(), list(PLURALS)
    fears = {animal: dice.pick([other for other in animals if other != animal]) for animal in animals}
    owners = dict(zip(OWNERS[setting.held_out_names], dice.shuffled(animals)))
    lines = {}
    for name in dice.shuffled([*animals, *owners]):
        if name in owners:
            lines[name] = story.say(f"{name} is a {owners[name]}")
        else:
            lines[name] = story.say(f"{PLURALS[name].capitalize()} are afraid of {PLURALS[fears[name]]}")
    for name in dice.shuffled(list(owners)):
        animal = owners[name]
        story.ask(f"What is {name} afraid of", fears[animal], lines[name], lines[animal])
    return story


def induction(dice: Dice, setting: Setting) -> Story:
    """Task 16: a person is an animal, another of that kind has a colour; which colour has the first?"""
    story, colours = Story(), dict(zip(ANIMALS, dice.shuffled(COLOURS)))
    names = dice.shuffled(NAMES[setting.held_out_names])
    asked, other = names[:2]
    kinds = {name: dice.pick(ANIMALS) for name in names}
    kinds[other] = kinds[asked]
    lines: dict[tuple[str, str], int] = {}
    facts = [(name, "kind") for name in names] + [(name, "colour") for name in names[1:]]
    for name, what in dice.shuffled(facts):
        said = f"is a {kinds[name]}" if what == "kind" else f"is {colours[kinds[name]]}"
        lines[name, what] = story.say(f"{name} {said}")
    # The first of its kind in the story, where there are several.
    alike = [name for name, what in lines if what == "colour" and kinds[name] == kinds[asked]]
    support = (lines[asked, "kind"], lines[alike[0], "kind"], lines[alike[0], "colour"])
    story.ask(f"What color is {asked}", colours[kinds[asked]], *support)
    return story


def position(dice: Dice, setting: Setting) -> Story:
    """Task 17: shapes that lie straight above, below or beside each other; does one lie on a side of another?"""
    story, shapes = Story(), dice.some(SHAPES, 3)
    ways = [dice.pick(list(SIDES)) for _ in range(2)]  # of the first from the second, of the second from the third
    lines = {
        place: story.say(f"The {shapes[place]} is {ways[place]} the {shapes[place + 1]}")
        for place in dice.shuffled([0, 1])
    }
    told: dict[bool, list[tuple[str, tuple[int, ...]]]] = {True: [], False: []}
    for one, other, side in product(range(3), range(3), SIDES):
        low, high = min(one, other), max(one, other)
        if low == high:
            continue
        axis = 0 if SIDES[side][0] else 1
        moves = [SIDES[ways[place]][axis] * (1 if one < other else -1) for place in range(low, high)]
        if {1, -1} <= set(moves):
            continue  # as far back as nobody knows
        answer = SIDES[side][axis] in moves
        text = f"Is the {shapes[one]} {side} the {shapes[other]}"
        told[answer].append((text, tuple(lines[place] for place in range(low, high))))
    for number in range(8):
        answer = bool(number % 2) if told[bool(number % 2)] else not number % 2
        text, support = told[answer].pop(dice.below(len(told[answer])))
        story.ask(text, "yes" if answer else "no", *support)
    story.questions = dice.shuffled(story.questions)
    return story


def size(dice: Dice, setting: Setting) -> Story:
    """Task 18: what fits into what; asked of all pairs that are two statements apart (three in longer paths)."""
    story, order = Story(), dice.shuffled(BOXES)  # from small to large
    steps = 3 if setting.longer_paths else 2
    start = dice.some(range(len(BOXES)), steps + 1)
    pairs = {*zip(sorted(start), sorted(start)[1:])}
    others = [(i, j) for j in range(len(BOXES)) for i in range(j) if (i, j) not in pairs]
    wanted = steps + 2 + dice.below(2)
    for pair in dice.shuffled(others):
        if len(pairs) < wanted and pair != (min(start), max(start)):
            pairs.add(pair)
    lines = {}
    for low, high in dice.shuffled(sorted(pairs)):
        small, large = order[low], order[high]
        said = dice.pick([f"The {small} fits inside the {large}", f"The {large} is bigger than the {small}"])
        lines[low, high] = story.say(said)
    for low, high in dice.shuffled([(i, j) for j in range(len(BOXES)) for i in range(j)]):
        found = shortest(set(lines), low, high)
        if found and len(found) == steps:
            small, large = order[low], order[high]
            text, answer = dice.pick([
                (f"Does the {small} fit in the {large}", "yes"), (f"Does the {large} fit in the {small}", "no"),
                (f"Is the {large} bigger than the {small}", "yes"), (f"Is the {small} bigger than the {large}", "no"),
            ])  # fmt: skip
            story.ask(text, answer, *(lines[pair] for pair in found))
    return story


def shortest(pairs: set[tuple[int, int]], low: int, high: int) -> list[tuple[int, int]] | None:
    """The shortest chain of pairs from one number up to another, the first in order; None where there is none."""
    chains: list[list[tuple[int, int]]] = [[]]
    while chains:
        grown = []
        for chain in chains:
            end = chain[-1][1] if chain else low
            for pair in sorted(pairs):
                if pair[0] == end:
                    if pair[1] == high:
                        return [*chain, pair]
                    grown.append([*chain, pair])
        chains = grown
    return None


def path(dice: Dice, setting: Setting) -> Story:
    """Task 19: rooms on a grid; the one shortest way from one to another."""
    steps = 3 if setting.longer_paths else 2
    while True:
        place, edges = [(0, 0)], list[tuple[tuple[int, int], str]]()  # the cells, and the steps that lead to new ones
        end = (0, 0)
        for number in range(steps + 2):
            start = end if number < steps else dice.pick(place)
            way = dice.pick(list(STEPS))
            cell = (start[0] + STEPS[way][0], start[1] + STEPS[way][1])
            if cell in place:
                break
            place.append(cell)
            edges.append((start, way))
            end = cell if number < steps else end
        if len(edges) == steps + 2 and len(list(ways(set(place), (0, 0), end, steps))) == 1:
            break
    story, rooms = Story(), dict(zip(place, dice.some(ROOMS, len(place))))
    lines = {}
    for start, way in dice.shuffled(edges):
        one, other = rooms[start[0] + STEPS[way][0], start[1] + STEPS[way][1]], rooms[start]
        said = way
        if dice.below(2):
            one, other, said = other, one, OPPOSITE[way]
        lines[start, way] = story.say(f"The {one} is {said} of the {other}")
    answer = " ".join(way[0] for _, way in edges[:steps])
    story.ask(
        f"How do you go from the {rooms[0, 0]} to the {rooms[end]}", answer, *(lines[edge] for edge in edges[:steps])
    )
    return story


def ways(cells: set[tuple[int, int]], start: tuple[int, int], end: tuple[int, int], most: int) -> Iterator[str]:
    """All ways of at most so many steps from one cell to another through neighbouring cells."""
    if start == end:
        yield ""
    elif most:
        for way, (x, y) in STEPS.items():
            cell = (start[0] + x, start[1] + y)
            if cell in cells:
                yield from (way[0] + rest for rest in ways(cells, cell, end, most - 1))


def motivation(dice: Dice, setting: Setting) -> Story:
    """Task 20: people feel something, go somewhere, and get something; where will they go, and why did they?"""
    story, feels = Story(), {name: dice.pick(list(MOODS)) for name in GUESTS[setting.held_out_names]}
    lines: dict[str, list[int]] = {name: [] for name in feels}
    while any(len(said) < 3 for said in lines.values()):
        name = dice.pick([name for name, said in lines.items() if len(said) < 3])
        room, thing = MOODS[feels[name]]
        text, question, answer = [
            (f"{name} is {feels[name]}", f"Where will {name} go", room),
            (f"{name} {dice.pick(WENT)} to the {room}", f"Why did {name} go to the {room}", feels[name]),
            (f"{name} got the {thing}", f"Why did {name} get the {thing}", feels[name]),
        ][len(lines[name])]
        lines[name].append(story.say(text))
        story.ask(question, answer, lines[name][0])
    return story
