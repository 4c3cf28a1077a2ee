"""bAbI, tasks 2, 3, 5, 7 and 8: persons get, drop and give objects, and move with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

from pipeline.corpora._babi_places import WENT
from pipeline.corpora._babi_stories import ROOMS, Dice, Setting, Story, people

OBJECTS = ("apple", "football", "milk")
GOT, DROPPED = ("got", "took", "grabbed", "picked up"), ("dropped", "put down", "discarded", "left")
GAVE = ("gave", "handed", "passed")
NUMBERS = ("none", "one", "two", "three")
QUESTIONS, LONGEST = 5, 40  # of a story, and its statements


class Sighting(NamedTuple):
    """A room that an object or person is known to have been in, and the statements that say so."""

    room: str
    support: tuple[int, ...]


class House:
    """Persons and objects in rooms; what is the case, and what a reader can know of it.

    Nobody says where persons and objects are at first, nor does anybody hold one. A reader learns of a room by a move,
    or as somebody gets an object whose room is known.
    """

    def __init__(self, dice: Dice, setting: Setting):
        self.dice, self.story, self.actors = dice, Story(), people(setting)
        self.place = {name: dice.pick(ROOMS) for name in (*self.actors, *OBJECTS)}
        self.holder: dict[str, str] = {}
        self.got: dict[str, int] = {}  # the statement since when somebody holds an object
        self.seen: dict[str, Sighting] = {}  # of persons
        self.path: dict[str, list[Sighting]] = {name: [] for name in OBJECTS}  # of objects, without repeats
        self.handled: dict[str, list[int]] = {}  # the statements by which a person got or lost objects
        self.gifts: list[tuple[str, str, str, int]] = []  # giver, receiver, object, statement

    def act(self, kinds: tuple[str, ...]) -> None:
        """Let a random person do something of a random kind that can be done."""
        while True:
            kind, person = self.dice.pick(kinds), self.dice.pick(self.actors)
            held = [name for name in OBJECTS if self.holder.get(name) == person]
            here = [name for name in OBJECTS if name not in self.holder and self.place[name] == self.place[person]]
            others = [other for other in self.actors if other != person and self.place[other] == self.place[person]]
            if kind == "go":
                return self.go(person)
            if kind == "get" and here:
                return self.get(person, self.dice.pick(here))
            if kind == "drop" and held:
                return self.drop(person, self.dice.pick(held))
            if kind == "give" and held and others:
                return self.give(person, self.dice.pick(others), self.dice.pick(held))

    def go(self, person: str) -> None:
        room = self.dice.pick([room for room in ROOMS if room != self.place[person]])
        line = self.story.say(f"{person} {self.dice.pick(WENT)} to the {room}")
        self.seen[person] = Sighting(room, (line,))
        for name in (person, *(name for name, holder in self.holder.items() if holder == person)):
            self.place[name] = room
            if name != person:
                self._found(name, Sighting(room, (line, self.got[name])))

    def get(self, person: str, name: str) -> None:
        line = self.story.say(f"{person} {self.dice.pick(GOT)} the {name}")
        self.holder[name], self.got[name] = person, line
        self.handled.setdefault(person, []).append(line)
        if person in self.seen:
            self._found(name, Sighting(self.seen[person].room, (*self.seen[person].support, line)))
        elif self.path[name]:
            self.seen[person] = Sighting(self.path[name][-1].room, (*self.path[name][-1].support, line))

    def drop(self, person: str, name: str) -> None:
        line = self.story.say(f"{person} {self.dice.pick(DROPPED)} the {name}")
        del self.holder[name], self.got[name]
        self.handled[person].append(line)

    def give(self, person: str, other: str, name: str) -> None:
        line = self.story.say(f"{person} {self.dice.pick(GAVE)} the {name} to {other}")
        self.holder[name], self.got[name] = other, line
        for one in (person, other):
            self.handled.setdefault(one, []).append(line)
        self.gifts.append((person, other, name, line))

    def _found(self, name: str, sighting: Sighting) -> None:
        if not self.path[name] or self.path[name][-1].room != sighting.room:
            self.path[name].append(sighting)


def two_facts(dice: Dice, setting: Setting) -> Story:
    """Task 2: where is an object that somebody holds?"""
    house = House(dice, setting)
    story, wanted = house.story, QUESTIONS * setting.length
    while len(story.questions) < wanted and len(story.statements) < LONGEST * setting.length:
        house.act(("go", "go", "get", "drop"))
        held = [name for name, person in house.holder.items() if person in house.seen]
        if held and len(story.statements) > 2 and dice.below(2):
            name = dice.pick(held)
            room, support = house.seen[house.holder[name]]
            story.ask(f"Where is the {name}", room, house.got[name], *support)
    return story


def three_facts(dice: Dice, setting: Setting) -> Story:
    """Task 3: where was an object before a room? Exactly three statements tell."""
    house = House(dice, setting)
    story, wanted = house.story, QUESTIONS * setting.length
    while len(story.questions) < wanted and len(story.statements) < LONGEST * setting.length:
        house.act(("go", "go", "get", "drop"))
        found = []
        for name, path in house.path.items():
            rooms = [sighting.room for sighting in path]
            for before, after in itertools.pairwise(path):
                support = {*before.support, *after.support}
                if rooms.count(after.room) == 1 and len(support) == 3:
                    found.append((name, before.room, after.room, support))
        if found and dice.below(2):
            name, room, later, support = dice.pick(found)
            story.ask(f"Where was the {name} before the {later}", room, *support)
    return story


def three_arguments(dice: Dice, setting: Setting) -> Story:
    """Task 5: who gave what to whom last?"""
    house = House(dice, setting)
    story, wanted = house.story, QUESTIONS * setting.length
    while len(story.questions) < wanted and len(story.statements) < LONGEST * setting.length:
        before = len(house.gifts)
        house.act(("go", "get", "give", "give", "give"))
        if len(house.gifts) == before:
            continue
        for _ in range(dice.below(4)):
            house.act(("go", "get"))
        giver, receiver, name, line = dice.pick(house.gifts)
        last = {
            "what": [gift for gift in house.gifts if gift[:2] == (giver, receiver)][-1][3],
            "receiver": [gift for gift in house.gifts if gift[2] == name][-1][3],
            "whom": [gift for gift in house.gifts if (gift[0], gift[2]) == (giver, name)][-1][3],
            "who": [gift for gift in house.gifts if gift[1:3] == (receiver, name)][-1][3],
        }
        asked = [
            ("what", f"What did {giver} give to {receiver} last", name),
            ("receiver", f"Who received the {name} last", receiver),
            ("receiver", f"Who gave the {name} last", giver),
            ("whom", f"Who did {giver} give the {name} to last", receiver),
            ("who", f"Who gave the {name} to {receiver} last", giver),
        ]
        if asked := [question for question in asked if last[question[0]] == line]:
            _, text, answer = dice.pick(asked)
            story.ask(text, answer, line)
    return story


def counting(dice: Dice, setting: Setting) -> Story:
    """Task 7: how many objects does a person hold?"""
    return holdings(dice, setting, "How many objects is {} holding", lambda held: NUMBERS[len(held)])


def lists(dice: Dice, setting: Setting) -> Story:
    """Task 8: which objects does a person hold, in the order in which they came?"""
    return holdings(dice, setting, "What is {} holding", lambda held: " ".join(held) or "nothing")


def holdings(dice: Dice, setting: Setting, question: str, answer: Callable[[list[str]], str]) -> Story:
    """Ask what persons hold who have had something, after every second statement from when one has."""
    house = House(dice, setting)
    story = house.story
    while len(story.questions) < QUESTIONS * setting.length and len(story.statements) < LONGEST * setting.length:
        house.act(("go", "get", "get", "drop", "give"))
        if not house.handled or (story.questions and len(story.statements) < story.questions[-1].statements + 2):
            continue
        answers: dict[str, list[str]] = {}
        for person in house.handled:
            held = [name for name, holder in house.holder.items() if holder == person]
            answers.setdefault(answer(sorted(held, key=house.got.__getitem__)), []).append(person)
        said = dice.pick(list(answers))
        person = dice.pick(answers[said])
        story.ask(question.format(person), said, *house.handled[person])
    return story
