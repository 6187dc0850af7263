NUMERALS = {
    1: "I", 4: "IV", 9: "IX", 14: "XIV", 40: "XL", 90: "XC", 400: "CD", 444: "CDXLIV", 900: "CM",
    1994: "MCMXCIV", 2024: "MMXXIV", 3888: "MMMDCCCLXXXVIII", 3999: "MMMCMXCIX",
}  # fmt: skip


def test_numbers_become_numerals(subject):
    code = "from roman import to_roman\nresult = [to_roman(number) for number in numbers]"
    assert subject.evaluate(code, numbers=list(NUMERALS)) == list(NUMERALS.values())


def test_numerals_become_numbers(subject):
    code = "from roman import from_roman\nresult = [from_roman(numeral) for numeral in numerals]"
    assert subject.evaluate(code, numerals=list(NUMERALS.values())) == list(NUMERALS)


def test_there_and_back_for_every_number(subject):
    code = "from roman import *\nresult = [from_roman(to_roman(number)) for number in range(1, 4000)]"
    assert subject.evaluate(code) == list(range(1, 4000))


def test_small_letters_are_read(subject):
    assert subject.call("roman.from_roman", "mcmxciv") == 1994


def test_numbers_out_of_range_are_errors(subject):
    for number in (0, -1, 4000):
        assert "ValueError" in subject.raised("from roman import to_roman\nto_roman(number)", number=number)


def test_malformed_numerals_are_errors(subject):
    code = """
from roman import from_roman
result = []
for numeral in numerals:
    try:
        from_roman(numeral)
    except ValueError:
        result.append(numeral)
"""
    malformed = ["", "IIII", "IC", "VX", "XM", "IIX", "VV", "MMMM", "ABC", "X X", "IXI"]
    assert subject.evaluate(code, numerals=malformed) == malformed
