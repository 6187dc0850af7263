from shop import Customer

ann, bob = Customer("Ann"), Customer("Bob")
for cents in (1000, 2000, 3005):
    print("Ann", ann.order(cents).total())
print("Bob", bob.order(1000).total())
