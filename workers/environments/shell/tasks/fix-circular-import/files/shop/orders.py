from shop.customers import Customer
from shop.pricing import discounted


class Order:
    def __init__(self, customer, cents):
        if not isinstance(customer, Customer):
            raise TypeError(f"an order needs a Customer, got {type(customer).__name__}")
        self.customer = customer
        self.cents = cents
        customer.orders.append(self)

    def total(self):
        return discounted(self)
