"""What a key may be given."""

from typing import get_args

from galley.core.caller import ADMIN_SCOPES, SCOPES
from galley.schemas.keys import Scope


def test_a_key_can_have_every_scope_that_there_is() -> None:
    assert get_args(Scope) == (*SCOPES, *ADMIN_SCOPES, "admin:*")
