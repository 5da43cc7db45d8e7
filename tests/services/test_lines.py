from galley.services.lines import Line, Splitter


def test_lines_are_found_wherever_pieces_end() -> None:
    text = b"one\n\n  \ntwo\r\nthree"

    for size in range(1, len(text) + 1):
        splitter, found = Splitter(10), list[Line]()
        for begin in range(0, len(text), size):
            found += splitter.feed(text[begin : begin + size])
        found += splitter.feed(b"\n")

        assert found == [Line(1, b"one", True), Line(4, b"two\r", True), Line(5, b"three", True)]


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() -> None:
    splitter = Splitter(3)

    found = splitter.feed(b"12") + splitter.feed(b"345") + splitter.feed(b"6\n123\n1234\n")

    assert found == [Line(1, b"123", False), Line(2, b"123", True), Line(3, b"123", False)]
