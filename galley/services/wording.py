"""Which questions say the same in other words.

A question is brought to one wording: small words that never change an answer go, and what always
means the same is written in one way (`sayings.txt`, `synonyms.txt`). Two questions are the same
when the same words remain in the same order. So every number, unit, name, negation, quantifier,
comparative and direction counts, and so does every word that nobody has thought of: what is not
known to be the same is different.

Questions about words are left as they are, and in questions about programs no word stands for
another: there, `find` and `locate` are two commands.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import product

from galley.services.words import Words, among, plain_words

_LONGEST_PHRASE = 12
_QUESTION_WORDS = among("how what which why when where who whom whose whether if")
_AUXILIARIES = among("be was do did will would can could should must may might")
# What comes after one of these belongs to another clause.
_ENDS_FRAME = _QUESTION_WORDS | among("that because while and but")
_ABOUT_WORDS = among(
    "say says said spell spelled spelling pronounce pronounced pronunciation mean means meaning "
    "meant define definition translate translation word words letter letters syllable syllables "
    "rhyme rhymes plural singular synonym synonyms antonym antonyms abbreviation acronym stand "
    "stands digit digits numeral numerals uppercase lowercase capitalize anagram character "
    "characters sentence sentences phrase phrases grammar grammatical rewrite rephrase paraphrase "
    "proofread noun verb adjective adverb etymology slang hyphen comma apostrophe term called"
)
_ABOUT_PROGRAMS = among(
    "command function method keyword operator statement property attribute tag class code script "
    "api syntax variable library module package compiler terminal shell bash zsh linux unix git "
    "docker kubernetes sql mysql postgresql sqlite oracle mongodb redis html css javascript "
    "typescript node react vue angular python java kotlin swift rust golang ruby php perl lua "
    "scala haskell matlab r c c++ c# .net excel vba regex pandas numpy pytorch tensorflow django "
    "flask spring rails vim emacs"
)
_WORD = re.compile(r"[^\W\d_]+")
_QUOTED = re.compile("[\"\u201c\u201d\u00ab]|(?:^|\\s)['\u2018]\\w")
_POLITE: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern, re.IGNORECASE), left)
    for pattern, left in (
        (r"^\s*(?:hi|hey|hello|ok|okay|quick question)\s*[,.!:]\s*", ""),
        (r"^\s*(?:please|kindly),?\s+", ""),
        (r"(?:[.!?;]|\s*,)\s*(?:please|thanks|thank you|thanks in advance)[\s.!?]*$", ""),
        (r"\b((?:can|could|would|will) you) (?:please|kindly) ", r"\1 "),
        (r"^\s*(?:would you say|do you think) (?:that )?", ""),
    )
)
_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_AUXILIARY = "be|was|do|did|will|can|have"
_PHRASAL = "pay|turn|switch|take|put|fill|clean|pick|throw|write|shut|call|hand|back"
_BEFORE_NAME = "(^|\\b(?:be|was|of|in|on|for|to|from|with|about|summarize|explain|list|give me) )"
_AHEAD = "(?= (?:in|on|at|with|for|from|to|by) |$)"
_MOVES: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), moved)
    for pattern, moved in (
        # how much does a tent cost: what is the price of a tent
        (r"^(?:how much|what) (?:do |will )?it cost to (.+)$", r"what price of \1"),
        (r"^(?:how much|what) (?:do |be )?(.+) cost$", r"what price of \1"),
        (r"^how much (?:do )?(.+) weigh$", r"what weight \1"),
        (r"^what do (.+) mean$", r"what mean \1"),
        (r"^how much be (?=\d)", "what be "),
        # how many rooms are there, how many rooms does it have
        (r"^how many (\S+(?: \S+)??) (?:be there|there be|there) ", r"how many \1 "),
        (r"^how many (.+?) be (in|on|at) ", r"how many \1 \2 "),
        (r"^how many (\S+) do (.+) have$", r"how many \1 in \2"),
        # how do a fox and a wolf differ
        (r"^how do (.+) differ from (.+)$", r"what be difference between \1 and \2"),
        (r"^how do (.+ and .+) differ\b", r"what be difference between \1"),
        (r"^how be (.+) different from (.+)$", r"what be difference between \1 and \2"),
        # how long does a letter take to arrive
        (r"^how long do (?!it )(.+?) take to ", r"how long take \1 to "),
        (r"^how long do it take (.+?) to ", r"how long take \1 to "),
        # which river is the longest in Asia
        (r"^what (\S+) be (\S+est|most \S+) (in|on|of) ", r"what be \2 \1 \3 "),
        (r"^what be (best|worst|easiest|fastest|cheapest) ", r"\1 "),
        (r"^what be ((?:\S+ ){1,3}?)for ", r"what be \1of "),
        # why isn't my phone charging
        (rf"^((?:why |what |how )?(?:{_AUXILIARY})) not (my \S+|\S+) ", r"\1 \2 not "),
        # turn the radio off
        (
            rf"\b({_PHRASAL}) ((?:my )?\S+) (on|off|up|out|down|away)(?= (?:early|late|again|in|at|"
            r"for|without|when|if|after|before)\b|$)",
            r"\1 \3 \2",
        ),
        # is it wise to wait: is waiting wise
        (r"^be (\S+) go to ", r"will \1 "),
        (r"^be it (\S+) to (.+?)( than .+)?$", r"be \2 \1\3"),
        (r"\b(start|like|love|hate|prefer|continue) to ", r"\1 "),
        (r"^be (.+?) able to ", r"can \1 "),
        (r"\bturn ((?:(?!into ).)+) into ", r"convert \1 to "),
        (r"\b(convert|translate|transform)\b(.*?) into ", r"\1\2 to "),
        # to Rome from Paris: from Paris to Rome
        (
            r"\bto ((?:(?!to |from ).)+?) from (\S+(?: (?!in |at |on |by |to )\S+)*)(?! to )",
            r"from \2 to \1",
        ),
        # the girl's name: the name of the girl
        (rf"{_BEFORE_NAME}(\S+) 's (\S+){_AHEAD}", r"\1\3 of \2"),
        (
            r"^(what|who) (be|was) ((?:\S+ ){1,3}?)'s ((?:(?!in |on |of )\S+ ?)+)$",
            r"\1 \2 \4 of \3",
        ),
        (rf"\b(\d{{1,2}})(?:st|nd|rd|th)? ({_MONTHS})\b", r"\2 \1"),
        (rf"\b({_MONTHS}) (\d{{1,2}})(?:st|nd|rd|th)\b", r"\1 \2"),
    )
)


def wording(question: str) -> str:
    """Return the one wording of `question`; equal for questions that say the same."""
    question = _without_politeness(question)
    if _QUOTED.search(question) or not _ABOUT_WORDS.isdisjoint(_WORD.findall(question.lower())):
        return " ".join(question.split())
    words = plain_words(question)
    phrases = _phrases("sayings.txt")
    if _ABOUT_PROGRAMS.isdisjoint(word.lower() for word in words):
        phrases = phrases | _phrases("synonyms.txt")
    text = _asked(" ".join(_rewritten(_rewritten(words, phrases), phrases)))
    for pattern, moved in _MOVES:
        text = pattern.sub(moved, text)
    return " ".join(_framed(text.split()))


def _without_politeness(question: str) -> str:
    for pattern, left in _POLITE:
        question = pattern.sub(left, question)
    return question


@cache
def _phrases(name: str) -> dict[Words, Words]:
    """What stands for what, by the words of the longer wording."""
    found: dict[Words, Words] = {}
    for line in files("galley.services").joinpath(name).read_text().splitlines():
        if line and not line.startswith("#"):
            one, _, others = line.partition("=")
            found |= dict.fromkeys(map(plain_words, _written_out(others)), plain_words(one))
    return found


def _written_out(line: str) -> Iterator[str]:
    """Cut at the bars outside of braces, and choose in turn among what is inside of them."""
    for phrase in re.split(r"\|(?![^{]*\})", line):
        parts = [part.split("|") for part in re.split(r"[{}]", phrase)]
        yield from (" ".join(chosen) for chosen in product(*parts))


def _rewritten(words: Words, phrases: Mapping[Words, Words]) -> Words:
    """Replace every known phrase, the longest first, by what stands for it."""
    found: list[str] = []
    start = 0
    while start < len(words):
        meant, length = _phrase_at(words, start, phrases)
        found += meant
        start += length
    return tuple(found)


def _phrase_at(words: Words, start: int, phrases: Mapping[Words, Words]) -> tuple[Words, int]:
    for length in range(min(_LONGEST_PHRASE, len(words) - start), 0, -1):
        meant = phrases.get(words[start : start + length])
        if meant is not None:
            return meant, length
    return words[start : start + 1], 1


def _asked(text: str) -> str:
    """Drop what only says that something is asked."""
    questions = "|".join([*sorted(_QUESTION_WORDS), "howto", "about"])
    text = re.sub(rf"\b(?:ask|explain) (?=(?:{questions})\b)", "", text)
    text = re.sub(r"^(?:if|whether) (?!.*\b(?:what|how|howto|why|when|who)\b)", "", text)
    text = re.sub(rf"^ask (?=(?:{'|'.join(sorted(_AUXILIARIES))}) )", "", text)
    return re.sub(r"^ask (?=.)", "what be ", text)


def _framed(words: list[str]) -> list[str]:
    """Put the first auxiliary to the front, wherever the sentence has it; `do` adds nothing."""
    first = next((n for n, word in enumerate(words) if word in _AUXILIARIES), len(words))
    if first == len(words) or _ENDS_FRAME.intersection(words[1:first]):
        return words
    rest = words[:first] + words[first + 1 :]
    return rest if words[first] == "do" else [f"<{words[first]}>", *rest]
