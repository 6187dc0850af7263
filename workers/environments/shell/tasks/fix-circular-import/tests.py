def test_main_prints_what_it_should(subject):
    ran = subject.run("python3", "main.py")
    assert (ran.status, ran.stdout) == (0, "Ann 1000\nAnn 2000\nAnn 2704\nBob 1000\n")


def test_every_module_can_be_imported_first(subject):
    for module in ("shop", "shop.orders", "shop.customers", "shop.pricing"):
        assert subject.run("python3", "-c", f"import {module}").status == 0


def test_every_order_of_imports_works(subject):
    modules = ("shop", "shop.orders", "shop.customers", "shop.pricing")
    for first in modules:
        for second in modules:
            code = f"import {first}, {second}\nfrom shop import Customer\nresult = Customer('c').order(5).total()"
            assert subject.evaluate(code) == 5


def test_everything_stays_where_it_was(subject):
    code = """
from shop import Customer, Order
import shop.orders, shop.customers, shop.pricing
result = [Customer.__module__, Order.__module__, shop.pricing.discounted.__module__,
          shop.orders.Order is Order, shop.customers.Customer is Customer]
"""
    assert subject.evaluate(code) == ["shop.customers", "shop.orders", "shop.pricing", True, True]


def test_customers_do_not_share_orders(subject):
    code = "from shop import Customer\na, b = Customer('a'), Customer('b')\na.order(1); a.order(2)\nresult = [len(a.orders), len(b.orders)]"
    assert subject.evaluate(code) == [2, 0]


def test_only_the_loyal_get_the_discount(subject):
    code = "from shop import Customer\nc = Customer('c')\norders = [c.order(999) for _ in range(2)]\nbefore = [o.total() for o in orders]\nthird = c.order(999).total()\nresult = [before, third, c.is_loyal()]"
    assert subject.evaluate(code) == [[999, 999], 899, True]


def test_order_needs_a_customer(subject):
    assert "TypeError" in subject.raised("from shop import Order\nOrder('Ann', 5)")


def test_customers_may_bring_orders(subject):
    code = "from shop import Customer\na = Customer('a')\na.order(1)\nb = Customer('b', a.orders)\nresult = len(b.orders)"
    assert subject.evaluate(code) == 1
