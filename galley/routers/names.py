"""Names within paths: they may have slashes, and a bad one is refused as a name, not as a path."""

from starlette.convertors import PathConvertor, register_url_convertor


class _ModelConvertor(PathConvertor):
    """Anything, line breaks included."""

    regex = "(?s:.+)"


class _RouteConvertor(PathConvertor):
    """What is done with a route is told from its name by the last word."""

    regex = "(?s:.+)(?<!/promote)(?<!/rollback)(?<!/results)"


def register() -> None:
    """Make `{name:model}` and `{name:route}` known to paths."""
    register_url_convertor("model", _ModelConvertor())
    register_url_convertor("route", _RouteConvertor())
