"""Answers to bAbI's questions, worked out from the sentences alone: what every world that fits them has in common."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

ROOMS = ("bedroom", "kitchen", "garden", "hallway", "bathroom", "office")
MOVE = r"(?:went|journeyed|travelled|moved) to the (\w+)"
GET = r"(\w+) (?:got|took|grabbed|picked up) the (\w+)"
DROP = r"(\w+) (?:dropped|put down|discarded|left) the (\w+)"
GIVE = r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)"
SIDES = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0), "above": (0, 1), "below": (0, -1),
         "to the left of": (-1, 0), "to the right of": (1, 0)}  # fmt: skip


def solve(task: int, sentences: Sequence[str], question: str) -> set[str]:
    """The answers that fit; sentences are without signs at their ends."""
    solver = {
        1: rooms, 2: things, 3: things, 4: beside, 5: gifts, 6: rooms, 7: holdings, 8: holdings, 9: rooms, 10: rooms,
        11: rooms, 12: rooms, 13: rooms, 14: times, 15: fears, 16: colours, 17: shapes, 18: boxes, 19: paths, 20: moods,
    }[task]  # fmt: skip
    return solver(sentences, question)


def rooms(sentences: Sequence[str], question: str) -> set[str]:
    """Persons as sets of rooms, and pronouns as whom the sentence before is about."""
    possible: dict[str, set[str]] = {}
    about: list[str] = []
    for sentence in sentences:
        names = re.match(r"([A-Z]\w+)(?: and ([A-Z]\w+))? (?!he |she |they |that )", sentence)
        if re.search(r"\b(he|she|they)\b", sentence):
            assert (" they " in sentence) == (len(about) == 2)
        else:
            assert names
            about = [name for name in names.groups() if name]
        for name in about:
            if found := re.search(MOVE, sentence):
                possible[name] = {found[1]}
            elif found := re.search(r"either in the (\w+) or the (\w+)", sentence):
                possible[name] = {found[1], found[2]}
            elif found := re.search(r"no longer in the (\w+)", sentence):
                possible[name] = set(ROOMS) - {found[1]}
            elif found := re.search(r"not in the (\w+)", sentence):
                possible[name] = possible.get(name, set(ROOMS)) - {found[1]}
            elif found := re.search(r"is in the (\w+)", sentence):
                possible[name] = {found[1]}
    if found := re.fullmatch(r"Where is (\w+)", question):
        return possible[found[1]]
    found = re.fullmatch(r"Is (\w+) in the (\w+)", question)
    assert found
    answers = {("yes" if room == found[2] else "no") for room in possible.get(found[1], set(ROOMS))}
    return answers if len(answers) == 1 else {"maybe"}


def things(sentences: Sequence[str], question: str) -> set[str]:
    """Places as unknowns that are set equal: somebody who gets an object is where it is."""
    parent: dict[object, object] = {}

    def root(place: object) -> object:
        while parent.get(place, place) != place:
            place = parent[place]
        return place

    place: dict[str, object] = {}  # of persons, and of objects that nobody holds
    holder: dict[str, str] = {}
    names = {"apple", "football", "milk"}
    path: dict[str, list[object]] = {name: [f"first {name}"] for name in names}
    for number, sentence in enumerate(sentences):
        if found := re.fullmatch(rf"(\w+) {MOVE}", sentence):
            place[found[1]] = found[2]
            for name, person in holder.items():
                if person == found[1]:
                    path[name].append(found[2])
        elif found := re.fullmatch(GET, sentence):
            person, name = found.groups()
            here = root(place.setdefault(person, f"{person} at {number}"))
            there = root(path[name][-1])
            known, unknown = (here, there) if here in ROOMS else (there, here)
            assert not (known in ROOMS and unknown in ROOMS and known != unknown)
            parent[unknown] = known
            holder[name] = person
        elif found := re.fullmatch(DROP, sentence):
            del holder[found[2]]
    known = {name: [root(step) for step in steps] for name, steps in path.items()}
    if found := re.fullmatch(r"Where is the (\w+)", question):
        return {str(known[found[1]][-1])}
    found = re.fullmatch(r"Where was the (\w+) before the (\w+)", question)
    assert found
    steps = [step for step, _ in itertools.groupby(known[found[1]])]
    return {str(a) for a, b in itertools.pairwise(steps) if b == found[2] and a in ROOMS}


def gifts(sentences: Sequence[str], question: str) -> set[str]:
    given = [found.groups() for sentence in sentences if (found := re.fullmatch(GIVE, sentence))]
    for pattern, place in {
        r"What did (?P<a>\w+) give to (?P<c>\w+) last": 1, r"Who received the (?P<b>\w+) last": 2,
        r"Who gave the (?P<b>\w+) last": 0, r"Who did (?P<a>\w+) give the (?P<b>\w+) to last": 2,
        r"Who gave the (?P<b>\w+) to (?P<c>\w+) last": 0,
    }.items():  # fmt: skip
        if found := re.fullmatch(pattern, question):
            wanted = {"abc".index(key): value for key, value in found.groupdict().items()}
            return {[gift for gift in given if all(gift[i] == word for i, word in wanted.items())][-1][place]}
    raise AssertionError(question)


def holdings(sentences: Sequence[str], question: str) -> set[str]:
    held: dict[str, list[str]] = {}
    for sentence in sentences:
        if found := re.fullmatch(GET, sentence):
            held.setdefault(found[1], []).append(found[2])
        elif found := re.fullmatch(DROP, sentence):
            held[found[1]].remove(found[2])
        elif found := re.fullmatch(GIVE, sentence):
            if found[2] in held.get(found[1], []):
                held[found[1]].remove(found[2])
            held.setdefault(found[3], []).append(found[2])
    if found := re.fullmatch(r"What is (\w+) holding", question):
        return {" ".join(held.get(found[1], [])) or "nothing"}
    found = re.fullmatch(r"How many objects is (\w+) holding", question)
    assert found
    return {("none", "one", "two", "three")[len(held.get(found[1], []))]}


def cells(sentences: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Rooms on a grid, from where they lie from each other."""
    edges = []
    for sentence in sentences:
        found = re.fullmatch(r"The (\w+) is (\w+) of the (\w+)", sentence)
        assert found
        (x, y), (one, _, other) = SIDES[found[2]], found.groups()
        edges += [(other, one, x, y), (one, other, -x, -y)]
    place = {edges[0][0]: (0, 0)}
    for _ in edges:
        for start, end, x, y in edges:
            if start in place:
                cell = (place[start][0] + x, place[start][1] + y)
                assert place.setdefault(end, cell) == cell
    assert len(set(place.values())) == len(place)
    return place


def beside(sentences: Sequence[str], question: str) -> set[str]:
    place = cells(sentences)
    if found := re.fullmatch(r"What is (\w+) of the (\w+)", question):
        (x, y), (u, v) = SIDES[found[1]], place[found[2]]
    else:
        found = re.fullmatch(r"What is the (\w+) (\w+) of", question)
        assert found
        (x, y), (u, v) = SIDES[found[2]], place[found[1]]
        x, y = -x, -y
    # Any room on that side, however far.
    return {
        room
        for room, (a, b) in place.items()
        if (a, b) != (u, v) and (a - u) * y == (b - v) * x and (a - u) * x + (b - v) * y > 0
    }


def paths(sentences: Sequence[str], question: str) -> set[str]:
    place = cells(sentences)
    found = re.fullmatch(r"How do you go from the (\w+) to the (\w+)", question)
    assert found
    for steps in range(1, 7):
        answers = set()
        for way in itertools.product(("north", "south", "east", "west"), repeat=steps):
            x, y = place[found[1]]
            for step in way:
                x, y = x + SIDES[step][0], y + SIDES[step][1]
                if (x, y) not in place.values():
                    break
            else:
                if (x, y) == place[found[2]]:
                    answers.add(" ".join(step[0] for step in way))
        if answers:
            return answers
    return set()


def times(sentences: Sequence[str], question: str) -> set[str]:
    slots = ("yesterday", "this morning", "this afternoon", "this evening")
    found = re.fullmatch(r"Where was (\w+) before the (\w+)", question)
    assert found
    day: dict[int, str] = {}
    for sentence in sentences:
        told = re.search(rf"(\w+) {MOVE}", sentence)
        (slot,) = (number for number, words in enumerate(slots) if words in sentence.lower())
        if told and told[1] == found[1]:
            day[slot] = told[2]
    (at,) = (slot for slot, room in day.items() if room == found[2])
    return {day[at - 1]}


def fears(sentences: Sequence[str], question: str) -> set[str]:
    one = {"Mice": "mouse", "Wolves": "wolf", "Cats": "cat", "Sheep": "sheep"}
    fear, kind = {}, {}
    for sentence in sentences:
        if found := re.fullmatch(r"(\w+) are afraid of (\w+)", sentence):
            fear[one[found[1]]] = one[found[2].capitalize()]
        elif found := re.fullmatch(r"(\w+) is a (\w+)", sentence):
            kind[found[1]] = found[2]
    found = re.fullmatch(r"What is (\w+) afraid of", question)
    assert found
    return {fear[kind[found[1]]]}


def parts(pattern: str, text: str) -> tuple[str, ...]:
    """The groups of a pattern that is the whole text."""
    found = re.fullmatch(pattern, text)
    assert found, text
    return found.groups()


def colours(sentences: Sequence[str], question: str) -> set[str]:
    kind, colour = {}, {}
    for sentence in sentences:
        name, what = parts(r"(\w+) is (?:a )?(\w+)", sentence)
        (kind if " is a " in sentence else colour)[name] = what
    asked = question.split()[-1]
    assert asked not in colour
    return {colour[other] for other in colour if kind.get(other) == kind[asked]}


def shapes(sentences: Sequence[str], question: str) -> set[str]:
    """All places on a grid of five by five at which the sentences are true."""
    told = [parts(rf"The (.+) is ({'|'.join(SIDES)}) the (.+)", sentence) for sentence in sentences]
    names = sorted({name for one, _, other in told for name in (one, other)})
    one, side, other = parts(rf"Is the (.+) ({'|'.join(SIDES)}) the (.+)", question)

    def straight(a: tuple[int, int], b: tuple[int, int], side: str) -> bool:
        x, y = SIDES[side]
        away = (a[0] - b[0], a[1] - b[1])
        return away[0] * y == away[1] * x and away[0] * x + away[1] * y > 0

    answers = set()
    # The first shape in the middle would lose places; all of them are tried, the second and third only where they fit.
    grid = list(itertools.product(range(5), repeat=2))
    for places in itertools.product(grid, repeat=len(names)):
        at = dict(zip(names, places))
        if all(straight(at[a], at[b], way) for a, way, b in told):
            x, y = SIDES[side]
            away = (at[one][0] - at[other][0], at[one][1] - at[other][1])
            answers.add("yes" if away[0] * x + away[1] * y > 0 else "no")
    return answers


def boxes(sentences: Sequence[str], question: str) -> set[str]:
    """All orders of the boxes at which the sentences are true."""
    pairs = []
    for sentence in sentences:
        if found := re.fullmatch(r"The (\w+) fits inside the (\w+)", sentence):
            pairs.append(found.groups())
        elif found := re.fullmatch(r"The (\w+) is bigger than the (\w+)", sentence):
            pairs.append((found[2], found[1]))
    names = sorted({name for pair in pairs for name in pair})
    if found := re.fullmatch(r"Does the (\w+) fit in the (\w+)", question):
        small, large = found.groups()
    else:
        found = re.fullmatch(r"Is the (\w+) bigger than the (\w+)", question)
        assert found
        large, small = found.groups()
    answers = set()
    for order in itertools.permutations(names):
        if all(order.index(a) < order.index(b) for a, b in pairs):
            answers.add("yes" if order.index(small) < order.index(large) else "no")
    return answers


def moods(sentences: Sequence[str], question: str) -> set[str]:
    goes = {"hungry": "kitchen", "thirsty": "kitchen", "bored": "garden", "tired": "bedroom"}
    name = next(word for word in question.split()[1:] if word[0].isupper())
    (mood,) = {found[1] for sentence in sentences if (found := re.fullmatch(rf"{name} is (\w+)", sentence))}
    return {goes[mood] if question.startswith("Where") else mood}
