PRELUDE = """
from bank import Bank, BankError
bank = Bank()
bank.open("a", 1000)
bank.open("b")
def refused(function, *arguments):
    before = [dict(bank.accounts), list(bank.journal)]
    try:
        function(*arguments)
    except BankError:
        return before == [dict(bank.accounts), list(bank.journal)]
    return "not refused"
"""


def test_transfers_move_money(subject):
    code = PRELUDE + "bank.transfer('a', 'b', 300, 5)\nresult = [bank.balance('a'), bank.balance('b'), bank.balance('bank'), bank.total()]"
    assert subject.evaluate(code) == [695, 300, 5, 1000]


def test_journal_has_what_was_done(subject):
    code = PRELUDE + "bank.transfer('a', 'b', 300)\nresult = bank.journal"
    assert subject.evaluate(code) == [["open", "a", 1000], ["open", "b", 0], ["transfer", "a", "b", 300, 0]]


def test_too_little_money_changes_nothing(subject):
    code = PRELUDE + "result = [refused(bank.transfer, 'a', 'b', 1001), refused(bank.transfer, 'a', 'b', 1000, 1), refused(bank.transfer, 'b', 'a', 1)]"
    assert subject.evaluate(code) == [True, True, True]


def test_everything_may_be_spent(subject):
    assert subject.evaluate(PRELUDE + "bank.transfer('a', 'b', 990, 10)\nresult = bank.balance('a')") == 0


def test_amounts_are_whole_cents(subject):
    code = PRELUDE + "result = [refused(bank.transfer, 'a', 'b', *amounts) for amounts in ((0,), (-5,), (1.5,), (2.0,), ('7',), (True,), (1, -1), (1, 0.5), (1, False), (None,))]"
    assert subject.evaluate(code) == [True] * 10
    code = PRELUDE + "result = [refused(bank.open, 'new', balance) for balance in (-1, 0.5, True, '1', None)] + ['new' in bank.accounts]"
    assert subject.evaluate(code) == [True] * 5 + [False]


def test_accounts_are_opened_once_and_before_use(subject):
    code = PRELUDE + "result = [refused(bank.open, 'a', 5), refused(bank.open, 'bank'), refused(bank.balance, 'x'), refused(bank.transfer, 'a', 'x', 1), refused(bank.transfer, 'x', 'a', 1), refused(bank.transfer, 'a', 'a', 1)]"
    assert subject.evaluate(code) == [True] * 6


def test_several_transfers_are_all_or_none(subject):
    code = PRELUDE + "bank.transfer_all([('a', 'b', 600), ('b', 'a', 100, 1)])\nresult = [bank.balance('a'), bank.balance('b'), len(bank.journal), refused(bank.transfer_all, [('a', 'b', 400), ('b', 'a', 5000)]), refused(bank.transfer_all, [('a', 'b', 400), ('a', 'x', 1)])]"
    assert subject.evaluate(code) == [500, 499, 4, True, True]


def test_iterator_that_raises_changes_nothing(subject):
    code = PRELUDE + """
def transfers():
    yield ("a", "b", 10)
    raise RuntimeError
try:
    bank.transfer_all(transfers())
except RuntimeError:
    result = [bank.balance("a"), bank.balance("b"), len(bank.journal)]
"""
    assert subject.evaluate(code) == [1000, 0, 2]


def test_money_received_may_be_spent_in_the_same_batch(subject):
    code = PRELUDE + "bank.transfer_all(iter([('a', 'b', 1000), ('b', 'a', 1000)]))\nresult = [bank.balance('a'), bank.total()]"
    assert subject.evaluate(code) == [1000, 1000]
