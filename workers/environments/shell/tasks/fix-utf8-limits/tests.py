BAN = {"of": "limits", "without": ["codecs", "io"]}


def evaluated(subject, code, **inputs):
    return subject.evaluate(code, **BAN, **inputs)


def raised(subject, code):
    return subject.raised(code, **BAN)


def test_short_texts_stay(subject):
    code = "from limits import shorten\nresult = [shorten('abc', 3), shorten('äöü', 6), shorten('', 0)]"
    assert evaluated(subject, code) == ["abc", "äöü", ""]


def test_bytes_are_counted(subject):
    code = "from limits import shorten\nresult = [shorten(t, n) for t, n in (('abcdefgh', 6), ('äöüäöü', 8), ('€€€€', 9), ('😀😀😀', 8), ('a😀😀', 8))]"
    assert evaluated(subject, code) == ["abc...", "äö...", "€€...", "😀...", "a😀..."]


def test_other_endings(subject):
    code = "from limits import shorten\nresult = [shorten('abcdefgh', 6, '…'), shorten('abcdefgh', 3, ''), shorten('abcdef', 3)]"
    assert evaluated(subject, code) == ["abc…", "abc", "..."]


def test_ending_that_is_too_long_is_an_error(subject):
    assert "ValueError" in raised(subject, "from limits import shorten\nshorten('abcdef', 2)")
    assert "ValueError" in raised(subject, "from limits import shorten\nshorten('abcdef', 2, '…')")


def test_combined_characters_are_not_parted(subject):
    code = "from limits import shorten\nresult = [shorten(t, n, '') for t, n in cases]"
    cases = [
        ["xe\u0301yz", 2], ["xe\u0301yz", 4], ["e\u0301\u0302a", 3], ["a❤\ufe0fb", 4], ["a❤\ufe0fb", 7],
        ["x👩\u200d💻y", 5], ["x👩\u200d💻y", 8], ["x👩\u200d💻y", 11], ["x👩\u200d💻y", 12],
    ]  # fmt: skip
    expected = ["x", "xe\u0301", "", "a", "a❤\ufe0f", "x", "x", "x", "x👩\u200d💻"]
    assert evaluated(subject, code, cases=cases) == expected


def test_chunks_are_whole_characters(subject):
    code = "from limits import chunks\nresult = [[piece.decode() for piece in chunks(t.encode(), n)] for t, n in (('abcdefgh', 4), ('aäbö€', 4), ('😀😀', 5), ('a😀', 4), ('', 4), ('€€€', 7))]"
    assert evaluated(subject, code) == [["abcd", "efgh"], ["aäb", "ö", "€"], ["😀", "😀"], ["a", "😀"], [], ["€€", "€"]]


def test_chunks_of_no_use_are_an_error(subject):
    assert "ValueError" in raised(subject, "from limits import chunks\nchunks(b'abc', 3)")


def test_decoder_waits_for_whole_characters(subject):
    code = """
from limits import Decoder
decoder = Decoder()
data = "a€😀ä".encode()
result = [decoder.feed(data[i : i + 1]) for i in range(len(data))] + [decoder.close()]
"""
    assert evaluated(subject, code) == ["a", "", "", "€", "", "", "", "😀", "", "ä", ""]


def test_decoder_replaces_as_python_does(subject):
    code = """
import random
from limits import Decoder
rng = random.Random(5)
pool = [b"a", "ä".encode(), "€".encode(), "😀".encode(), b"\\x80", b"\\xff", b"\\xe2\\x82", b"\\xf0\\x9f", b"\\xed\\xa0\\x80", b"\\xc0\\xaf", b"\\xf4\\x90", b"\\xe0\\x80"]
result = []
for _ in range(3000):
    data = b"".join(rng.choice(pool) for _ in range(rng.randrange(8)))
    decoder, text, start = Decoder(), "", 0
    while start < len(data):
        end = start + rng.randrange(1, 4)
        text += decoder.feed(data[start:end])
        start = end
    text += decoder.close()
    if text != data.decode("utf-8", "replace"):
        result.append([data.hex(), text])
"""
    assert evaluated(subject, code) == []
