"""Accounts with a journal."""


class BankError(Exception):
    pass


class Bank:
    def __init__(self):
        self.accounts = {}
        self.journal = []

    def open(self, name, balance=0):
        self.accounts[name] = balance
        self.journal.append(("open", name, balance))

    def balance(self, name):
        return self.accounts.get(name, 0)

    def transfer(self, source, target, amount, fee=0):
        """Moves money; the source pays the fee, which goes to the account "bank"."""
        self.accounts[source] -= amount
        if self.accounts[source] < 0:
            raise BankError(f"{source} has too little")
        self.accounts[target] += amount
        self.accounts[source] -= fee
        self.accounts["bank"] += fee
        self.journal.append(("transfer", source, target, amount, fee))

    def transfer_all(self, transfers):
        """Makes several transfers, all of them or none."""
        for transfer in transfers:
            self.transfer(*transfer)

    def total(self):
        return sum(self.accounts.values())
