from shop.orders import Order
from shop.pricing import LOYAL_AFTER


class Customer:
    def __init__(self, name, orders=[]):
        self.name = name
        self.orders = orders

    def is_loyal(self):
        return len(self.orders) > LOYAL_AFTER

    def order(self, cents):
        return Order(self, cents)
