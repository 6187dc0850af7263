def test_lines_are_filled_from_the_left(subject):
    text = "This is an example of text justification."
    assert subject.call("justify.justify", text, 16) == ["This    is    an", "example  of text", "justification.  "]


def test_uneven_gaps_are_wider_first(subject):
    assert subject.call("justify.justify", "a b c d eeeeeeeeee", 10) == ["a  b  c  d", "eeeeeeeeee"]
    assert subject.call("justify.justify", "aa bb cc ddddddddd", 11)[0] == "aa   bb  cc"


def test_single_word_is_set_to_the_left(subject):
    assert subject.call("justify.justify", "tremendous words", 12) == ["tremendous  ", "words       "]


def test_blanks_of_any_kind_part_words(subject):
    assert subject.call("justify.justify", "  one\ttwo\nthree  ", 7) == ["one two", "three  "]


def test_paragraphs(subject):
    lines = subject.call("justify.justify", "a bb\n\n  \n\ncc d e ff\n", 6)
    assert lines == ["a bb  ", "      ", "cc d e", "ff    "]


def test_long_words_are_broken(subject):
    assert subject.call("justify.justify", "ab abcdefghijk l mnopq", 5) == ["ab   ", "abcde", "fghij", "k   l", "mnopq"]


def test_word_of_twice_the_width(subject):
    assert subject.call("justify.justify", "abcdefgh x", 4) == ["abcd", "efgh", "x   "]


def test_nothing(subject):
    assert subject.call("justify.justify", " \n\n ", 10) == []


def test_width_must_be_positive(subject):
    assert "ValueError" in subject.raised("from justify import justify\njustify('a', 0)")
