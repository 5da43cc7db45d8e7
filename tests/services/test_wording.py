import pytest

from galley.services.wording import wording


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I reset a router?", "What's the best way to reset a router?"),
        ("how do you reset a router", "Could you tell me how to reset the router, please?"),
        ("In Lua, how do I copy a table?", "How do I copy a table in Lua?"),
        ("If it snows, what happens?", "What happens if it snows?"),
        ("Why is the sky blue?", "How come the sky is blue?"),
        ("Why isn't it raining?", "Why is it not raining?"),
        ("Is it safe to wait?", "Is waiting safe?"),
        ("How tall is K2?", "What is the height of K2?"),
        ("How much does a tent cost?", "What is the price of a tent?"),
        ("Is there a train to Rome from Paris?", "Is there a train from Paris to Rome?"),
        ("Which is warmer, tea or soup?", "What is warmer: soup or tea?"),
        ("How many cities are there in Peru?", "What's the number of cities in Peru?"),
        ("Who won on 4 July 1999?", "Who won on July 4th, 1999?"),
        ("What is 25% of 1,000?", "What is twenty-five percent of 1000?"),
        ("How far is 5km?", "how far is five kilometres"),
        ("What's the mayor's name?", "What is the name of the mayor?"),
        ("Will you tell me if whales sing?", "Do whales sing?"),
        ("May I pay the debt off early?", "May I pay off the debt early?"),
        ("What colour is a film\u2019s logo?", "Which color is a movie's logo?"),
    ],
)
def test_questions_that_say_the_same_have_one_wording(one: str, other: str) -> None:
    assert wording(one) == wording(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What does a nurse like?", "What is a nurse like?"),
        ("What do nurses do?", "What are nurses?"),
        ("What is my balance?", "What is a balance?"),
        ("What is my name?", "What is your name?"),
        ("What is a mole?", "What is the mole?"),
        ("Should we move to the US?", "Should we move to us?"),
        ("How many mW is 5 W?", "How many MW is 5 W?"),
        ("What is C?", "What is c?"),
        ("How do I learn C#?", "How do I learn C++?"),
        ("Is HTTPS slow?", "Is HTTP slow?"),
        ("Is -5 less than 3?", "Is 5 less than 3?"),
        ("What is 10\u00b2?", "What is 102?"),
        ("Is 1.5 large?", "Is 15 large?"),
        ("Is 5 > 3?", "Is 5 < 3?"),
        ("What's the dog's name?", "What's the dogs name?"),
        ("What's the red car's door worth?", "What's the red door of the car worth?"),
        ("How far is it from A to B?", "How far is it from B to A?"),
        (
            "Fly from Bonn to Rome or from Kiel to Oslo?",
            "Fly from Kiel to Rome or from Bonn to Oslo?",
        ),
        ("In France, who rules Spain?", "In Spain, who rules France?"),
        ("Who follows me?", "Whom do I follow?"),
        ("What causes rain?", "What does rain cause?"),
        ("Why can't I sleep if I drink tea?", "Why can I sleep if I don't drink tea?"),
        ("Which cakes have nuts but no milk?", "Which cakes have milk but no nuts?"),
        ("Who is the CEO of Fiat?", "Who was the CEO of Fiat?"),
        ("When do I get paid?", "When should I get paid?"),
        ("Can I record a call?", "Am I allowed to record a call?"),
        ("Can I park here?", "Can you park here?"),
        ("How do I stop smoking?", "How do I stop to smoke?"),
        ("Is there any bus?", "Is there every bus?"),
        ("Is he taller?", "Is she taller?"),
        ("How often do I feed a cat?", "How often should I feed a cat?"),
        ("tell me how Ann left", "tell me why Ann left"),
        ("A red car or bike?", "A red bike or car?"),
        ("How do you say hello in Thai?", "How do you say thanks in Thai?"),
        ("What does 'a' mean?", "What does 'the' mean?"),
        ("Define kid.", "Define child."),
        ("Rephrase this: the kid ate.", "Rephrase this: the child ate."),
        ("What does the find command do?", "What does the locate command do?"),
        ("How do I use lower in Python?", "How do I use reduce in Python?"),
        ("Is milk bad for me?", "Is milk bad?"),
        ("What year was Ann born?", "At what time was Ann born?"),
        ("What music is this?", "What kind of music is this?"),
        ("The odds of two sixes?", "The odds of exactly two sixes?"),
        ("How high is the plane?", "How tall is the plane?"),
        ("\u4f60\u597d\u5417", "\u4f60\u597d"),
        ("\u00bfQui\u00e9n es ella?", "\u00bfQui\u00e9n es \u00e9l?"),
    ],
)
def test_questions_that_only_look_alike_have_two(one: str, other: str) -> None:
    assert wording(one) != wording(other)


@pytest.mark.parametrize("text", ["", "?", "  \u2019 "])
def test_what_asks_nothing_has_no_wording(text: str) -> None:
    assert wording(text) == ""
