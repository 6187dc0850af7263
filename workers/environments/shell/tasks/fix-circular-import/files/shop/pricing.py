from shop.orders import Order

LOYAL_AFTER = 2


def discounted(order: Order):
    """Loyal customers get a tenth off, rounded down to the cent in their favour."""
    if order.customer.is_loyal:
        return order.cents * 9 // 10
    return order.cents
