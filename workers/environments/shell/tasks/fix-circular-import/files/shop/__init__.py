from shop.orders import Order
from shop.customers import Customer

__all__ = ["Customer", "Order"]
