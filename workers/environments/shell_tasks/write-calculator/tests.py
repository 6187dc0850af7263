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
    assert subject.evaluate(code, texts=list(EXPRESSIONS)) == list(EXPRESSIONS.values())


def test_integers_stay_integers(subject):
    code = "from calculator import evaluate\nresult = [type(evaluate(t)).__name__ for t in ('4 * 2', '4 / 2', '2e0', '7 // 2', '10 ** 30')]"
    assert subject.evaluate(code) == ["int", "float", "float", "int", "int"]
    assert subject.call("calculator.evaluate", "10 ** 30 + 1") == 10**30 + 1


def test_variables(subject):
    assert subject.call("calculator.evaluate", "x_1 * (y + 1)", {"x_1": 3, "y": 4}) == 15
    assert subject.call("calculator.evaluate", "min + max(min, 2)", {"min": 1}) == 3


def test_functions(subject):
    code = "from calculator import evaluate\nresult = [evaluate(text) for text in texts]"
    texts = ["max(1, 2 * 3, 5)", "min(4)", "abs(-3) + abs(2)", "round(2.567, 2)", "round(7 / 2 + 0.1)", "max(min(1, 2), abs(-9))"]
    assert subject.evaluate(code, texts=texts) == [6, 4, 5, 2.57, 4, 9]


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
    assert subject.evaluate(code, texts=texts) == []


def test_deep_nesting_is_no_crash(subject):
    code = """
from calculator import evaluate, CalculatorError
try:
    result = evaluate("(" * 60 + "1" + ")" * 60)
except CalculatorError:
    result = None
"""
    assert subject.evaluate(code) == 1


def test_python_does_not_do_the_work(subject):
    code = """
import ast, builtins
def refuse(*args, **kwargs):
    raise AssertionError("not allowed")
import calculator
builtins.eval = builtins.exec = builtins.compile = refuse
ast.parse = ast.literal_eval = refuse
result = calculator.evaluate("2 * (3 + 4) ** 2")
"""
    assert subject.evaluate(code) == 98
