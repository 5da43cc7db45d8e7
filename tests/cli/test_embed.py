import json

from tests.cli.conftest import Galley
from tests.loopback import http, scripted_server


def reply(*vectors: list[float]) -> bytes:
    data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return http(json.dumps({"data": data, "model": "m", "usage": usage}))


def test_several_texts_are_compared_with_each_other(galley: Galley) -> None:
    with scripted_server(reply([1, 0], [0.8, 0.6])) as server:
        shown = galley("embed", "a cat", "[b]a kitten", "--server", server.base_url)

    rows = [line.split() for line in shown.stdout.splitlines()]
    assert rows[1] == ["1", "a", "cat", "1.00", "0.80"]
    assert rows[2] == ["2", "[b]a", "kitten", "0.80", "1.00"]


def test_one_text_shows_its_vector(galley: Galley) -> None:
    with scripted_server(reply([0.6, 0.8])) as server:
        shown = galley("embed", "a cat", "--server", server.base_url)

    assert "0.6000, 0.8000" in shown.stdout
    assert "1.0000" in shown.stdout


def test_lines_of_a_pipe_are_texts_and_json_has_them_beside_their_vectors(galley: Galley) -> None:
    with scripted_server(reply([1, 0], [0, 1])) as server:
        shown = galley("embed", "--json", "--server", server.base_url, stdin="one\n\ntwo\n")

    assert json.loads(shown.stdout) == [
        {"text": "one", "embedding": [1.0, 0.0]},
        {"text": "two", "embedding": [0.0, 1.0]},
    ]


def test_no_text_is_wrong_usage(galley: Galley) -> None:
    shown = galley("embed", stdin="\n")

    assert shown.exit_code == 2
    assert "There is no text" in shown.stderr
