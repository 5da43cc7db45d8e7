"""System prompts as the templates of most models take them."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from galley.schemas.chat import Message


def join_prompts(messages: Iterable[Message]) -> Iterator[Message]:
    """Say system prompts that follow each other as one; others stay as they are.

    Clients send several, and developers' as well; many templates know one system prompt at the
    beginning, and leave out or refuse what else there is.
    """
    for plain, group in groupby(messages, key=_is_plain_prompt):
        if plain:
            yield Message(role="system", content="\n".join(message.text for message in group))
        else:
            yield from group


def _is_plain_prompt(message: Message) -> bool:
    return message.role in ("system", "developer") and isinstance(message.content, str)
