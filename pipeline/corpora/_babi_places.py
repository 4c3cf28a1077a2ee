"""bAbI, tasks 1, 6 and 9 to 14: persons move between rooms, and what is told of where they are."""

from __future__ import annotations

from pipeline.corpora._babi_stories import PRONOUNS, ROOMS, Dice, Setting, Story, people

WENT = ("went", "journeyed", "travelled", "moved")
THEN = ("Then", "After that", "Following that", "Afterwards")
TIMES = ("Yesterday", "This morning", "This afternoon", "This evening")
ROUNDS = 5


class Whereabouts:
    """What a reader knows of where persons are: the rooms that are left for each, and the statements that say so."""

    def __init__(self) -> None:
        self.rooms: dict[str, set[str]] = {}
        self.support: dict[str, tuple[int, ...]] = {}
        self.ruled_out: dict[tuple[str, str], tuple[int, ...]] = {}

    def told(self, person: str, rooms: set[str], *support: int) -> None:
        """The person is in one of these rooms now, whatever was known before."""
        self.rooms[person], self.support[person] = rooms, support
        self.ruled_out = {key: lines for key, lines in self.ruled_out.items() if key[0] != person}

    def told_not(self, person: str, room: str, line: int) -> None:
        left = self.rooms.get(person, set(ROOMS)) - {room}
        if room not in left and len(left) < len(self.rooms.get(person, ROOMS)):
            self.ruled_out[person, room] = (line,)
            self.support[person] = (*self.support.get(person, ()), line)
        self.rooms[person] = left

    def known(self, person: str) -> str | None:
        rooms = self.rooms.get(person, set())
        return next(iter(rooms)) if len(rooms) == 1 else None


def walk(dice: Dice, names: str, before: str | None = None) -> tuple[str, str]:
    """A room other than the one before, and a sentence by which it is reached."""
    room = dice.pick([room for room in ROOMS if room != before])
    return room, f"{names} {dice.pick(WENT)} to the {room}"


def two_walks(dice: Dice, story: Story, reader: Whereabouts, actors: tuple[str, ...]) -> None:
    """Two moves, each of a person to another room than the reader knows."""
    for _ in range(2):
        person = dice.pick(actors)
        room, text = walk(dice, person, reader.known(person))
        reader.told(person, {room}, story.say(text))


def single_fact(dice: Dice, setting: Setting) -> Story:
    """Task 1: where is a person who has moved?"""
    story, reader, actors = Story(), Whereabouts(), people(setting)
    for _ in range(ROUNDS * setting.length):
        two_walks(dice, story, reader, actors)
        ask_where(story, reader, dice.pick(list(reader.rooms)))
    return story


def ask_where(story: Story, reader: Whereabouts, person: str) -> None:
    story.ask(f"Where is {person}", str(reader.known(person)), *reader.support[person])


def yes_or_no(dice: Dice, setting: Setting) -> Story:
    """Task 6: is a person in a room? Half of the answers are yes."""
    story, reader, actors = Story(), Whereabouts(), people(setting)
    for _ in range(ROUNDS * setting.length):
        two_walks(dice, story, reader, actors)
        ask_whether(story, reader, dice, {"yes", "no"})
    return story


def ask_whether(story: Story, reader: Whereabouts, dice: Dice, answers: set[str]) -> None:
    """Ask whether a person is in a room, every possible answer as often as another."""
    found: dict[str, list[tuple[str, str]]] = {}
    for person, rooms in reader.rooms.items():
        for room in ROOMS:
            answer = "no" if room not in rooms else "yes" if len(rooms) == 1 else "maybe"
            # A room that nobody spoke of is ruled out by where the person is, if that is known.
            if answer != "no" or len(rooms) <= 2 or (person, room) in reader.ruled_out:
                found.setdefault(answer, []).append((person, room))
    possible = [answer for answer in sorted(answers) if answer in found]
    if possible:
        answer = dice.pick(possible)
        person, room = dice.pick(found[answer])
        support = reader.ruled_out.get((person, room), reader.support[person])
        story.ask(f"Is {person} in the {room}", answer, *support)


def negation(dice: Dice, setting: Setting) -> Story:
    """Task 9: persons are told to be, not to be, or no longer to be in a room."""
    story, reader, actors = Story(), Whereabouts(), people(setting)
    place = {person: dice.pick(ROOMS) for person in actors}
    for _ in range(ROUNDS * setting.length):
        for _ in range(2):
            person, kind = dice.pick(actors), dice.below(4)
            known = reader.known(person)
            if kind == 0 and known:  # leaves, and nobody says where to
                place[person] = dice.pick([room for room in ROOMS if room != known])
                line = story.say(f"{person} is no longer in the {known}")
                reader.told(person, set(ROOMS))
                reader.told_not(person, known, line)
            elif kind == 1:
                room = dice.pick([room for room in ROOMS if room != place[person]])
                reader.told_not(person, room, story.say(f"{person} is not in the {room}"))
            elif kind == 2:
                reader.told(person, {place[person]}, story.say(f"{person} is in the {place[person]}"))
            else:
                place[person], text = walk(dice, person, place[person])
                reader.told(person, {place[person]}, story.say(text))
        ask_whether(story, reader, dice, {"yes", "no"})
    return story


def indefinite(dice: Dice, setting: Setting) -> Story:
    """Task 10: a person is told to be in one of two rooms, neither of which they can have been in before."""
    story, reader, actors = Story(), Whereabouts(), people(setting)
    place = {person: dice.pick(ROOMS) for person in actors}
    for _ in range(ROUNDS * setting.length):
        for _ in range(2):
            person, kind = dice.pick(actors), dice.below(3)
            if kind == 0:
                before = reader.rooms.get(person, {place[person]})
                rooms = dice.some([room for room in ROOMS if room not in before], 2)
                place[person] = dice.pick(rooms)
                line = story.say(f"{person} is either in the {rooms[0]} or the {rooms[1]}")
                reader.told(person, set(rooms), line)
            elif kind == 1 and reader.known(person) == place[person]:
                reader.told(person, {place[person]}, story.say(f"{person} is in the {place[person]}"))
            else:
                before = reader.rooms.get(person, {place[person]})
                place[person] = dice.pick([room for room in ROOMS if room not in before])
                said = f"{person} {dice.pick(WENT)} to the {place[person]}"
                reader.told(person, {place[person]}, story.say(said))
        ask_whether(story, reader, dice, {"yes", "no", "maybe"})
    return story


def pronoun(dice: Dice, setting: Setting) -> Story:
    """Task 11: he or she is the person of the statement before."""
    story, reader, actors = Story(), Whereabouts(), people(setting)
    for _ in range(ROUNDS * setting.length):
        person = dice.pick(actors)
        room, text = walk(dice, person, reader.known(person))
        named = story.say(text)
        room, text = walk(dice, f"{dice.pick(THEN)} {PRONOUNS[person]}", room)
        reader.told(person, {room}, named, story.say(text))
        ask_where(story, reader, dice.pick(list(reader.rooms)))
    return story


def conjunction(dice: Dice, setting: Setting) -> Story:
    """Task 12: two persons move together."""
    story, reader = Story(), Whereabouts()
    for _ in range(ROUNDS * setting.length):
        for _ in range(2):
            pair_walks(story, reader, dice, people(setting))
        ask_where(story, reader, dice.pick(list(reader.rooms)))
    return story


def pair_walks(story: Story, reader: Whereabouts, dice: Dice, actors: tuple[str, ...]) -> tuple[list[str], str, int]:
    pair = dice.some(actors, 2)
    room = dice.pick([room for room in ROOMS if room not in map(reader.known, pair)])
    line = story.say(f"{pair[0]} and {pair[1]} {dice.pick(WENT)} to the {room}")
    for person in pair:
        reader.told(person, {room}, line)
    return pair, room, line


def compound_pronoun(dice: Dice, setting: Setting) -> Story:
    """Task 13: they are the two persons of the statement before."""
    story, reader = Story(), Whereabouts()
    for _ in range(ROUNDS * setting.length):
        pair, room, named = pair_walks(story, reader, dice, people(setting))
        room, text = walk(dice, f"{dice.pick(THEN)} they", room)
        line = story.say(text)
        for person in pair:
            reader.told(person, {room}, named, line)
        ask_where(story, reader, dice.pick(list(reader.rooms)))
    return story


def time(dice: Dice, setting: Setting) -> Story:
    """Task 14: each person is in one room at each of four times, which are told in any order."""
    story, actors = Story(), people(setting)
    day: dict[str, list[str]] = {person: [] for person in actors}
    for rooms in day.values():
        for _ in TIMES:
            rooms.append(dice.pick([room for room in ROOMS if not rooms or room != rooms[-1]]))
    lines: dict[tuple[str, int], int] = {}
    for number, (person, slot) in enumerate(dice.shuffled([(person, slot) for person in actors for slot in range(4)])):
        text = f"{person} {dice.pick(WENT)} to the {day[person][slot]}"
        when = TIMES[slot]
        front = dice.below(2)
        lines[person, slot] = story.say(f"{when} {text}" if front else f"{text} {when[0].lower()}{when[1:]}")
        # Rooms that a person is in once, and where the time before is told too.
        found = [
            (other, at) for other, at in lines if (other, at - 1) in lines and day[other].count(day[other][at]) == 1
        ]
        if number % 3 == 0 and number and found and len(story.questions) < ROUNDS:
            other, at = dice.pick(found)
            story.ask(
                f"Where was {other} before the {day[other][at]}",
                day[other][at - 1],
                lines[other, at - 1],
                lines[other, at],
            )
    return story
