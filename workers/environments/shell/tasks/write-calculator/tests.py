BANNED = ["eval", "exec", "compile", "ast"]


def evaluated(subject, code, **inputs):
    return subject.evaluate(code, of="calculator", without=BANNED, **inputs)


def calculated(subject, *arguments):
    code = "from calculator import evaluate\nresult = evaluate(*arguments)"
    return evaluated(subject, code, arguments=arguments)


EXPRESSIONS = {
    "1 + 2 * 3": 7,
    "(1 + 2) * 3": 9,
    "2 ** 3 ** 2": 512,
    "-2 ** 2": -4,
    "2 ** -1": 0.5,
    "10 - 4 - 3": 3,
    "7 // 2 * 2 + 7 % 2": 7,
    "-7 // 2": -4,
    "-7 % 3": 2,
    "8 / 4 / 2": 1.0,
    "- - 3": 3,
    "2 * -3": -6,
    "+5 - -5": 10,
    "1.5e2 + .5": 150.5,
    "((((1))))": 1,
    "2**-2**2": 0.0625,
    "3-2": 1,
    "100**0": 1,
}


def test_arithmetic(subject):
    code = "from calculator import evaluate\nresult = [evaluate(text) for text in texts]"
    assert evaluated(subject, code, texts=list(EXPRESSIONS)) == list(EXPRESSIONS.values())


def test_integers_stay_integers(subject):
    code = "from calculator import evaluate\nresult = [type(evaluate(t)).__name__ for t in ('4 * 2', '4 / 2', '2e0', '7 // 2', '10 ** 30')]"
    assert evaluated(subject, code) == ["int", "float", "float", "int", "int"]
    assert calculated(subject, "10 ** 30 + 1") == 10**30 + 1


def test_variables(subject):
    assert calculated(subject, "x_1 * (y + 1)", {"x_1": 3, "y": 4}) == 15
    assert calculated(subject, "min + max(min, 2)", {"min": 1}) == 3


def test_functions(subject):
    code = "from calculator import evaluate\nresult = [evaluate(text) for text in texts]"
    texts = ["max(1, 2 * 3, 5)", "min(4)", "abs(-3) + abs(2)", "round(2.567, 2)", "round(7 / 2 + 0.1)", "max(min(1, 2), abs(-9))"]
    assert evaluated(subject, code, texts=texts) == [6, 4, 5, 2.57, 4, 9]


def test_malformed_expressions_are_errors(subject):
    code = """
from calculator import evaluate, CalculatorError
result = []
for text in texts:
    try:
        result.append([text, repr(evaluate(text))])
    except CalculatorError as error:
        assert isinstance(error, ValueError)
"""
    texts = ["", "1 +", "* 2", "(1", "1)", "1 2", "a", "1 / 0", "1 % 0", "1 // 0", "max()", "abs(1, 2)", "min(1,)",
             "2 ** ** 3", "1..2", "foo(1)", "1 = 1", "0 ** -1", "abs", "__import__('os')", "1,2", "2 3", "1e"]  # fmt: skip
    assert evaluated(subject, code, texts=texts) == []


def test_deep_nesting_is_no_crash(subject):
    code = """
from calculator import evaluate, CalculatorError
try:
    result = evaluate("(" * 60 + "1" + ")" * 60)
except CalculatorError:
    result = None
"""
    assert evaluated(subject, code) == 1


def test_variables_are_no_constants(subject):
    code = "from calculator import evaluate\nresult = [evaluate('n * (n + k)', {'n': n, 'k': -1}) for n in numbers]"
    assert evaluated(subject, code, numbers=list(range(-4, 60, 7))) == [n * (n - 1) for n in range(-4, 60, 7)]


def test_precedence_of_many_operators(subject):
    code = "from calculator import evaluate\nresult = [evaluate(text) for text in texts]"
    texts = ["-3 ** 2 // 4 % 3", "2 - 3 * -4 ** 2 / 8", "-(2 + 3) % 4 * 2", "17 % 5 ** 2 // 3 - -1", "2 ** -(1 - 2) * 3"]
    assert evaluated(subject, code, texts=texts) == [0, 8.0, 6, 6, 6]


def test_letters_of_python_are_no_names(subject):
    code = """
from calculator import evaluate, CalculatorError
result = []
for text in texts:
    try:
        result.append([text, repr(evaluate(text, {"x": 3}))])
    except CalculatorError:
        pass
"""
    texts = ["x if x else 1", "not x", "x and x", "x.real", "x < 4", "1_000", "0x10", "1j", "x | 1", "~x", "lambda: x", "x; x"]
    assert evaluated(subject, code, texts=texts) == []
