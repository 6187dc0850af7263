import sys


def main():
    totals = {}
    for line in open(sys.argv[1]):
        date, shop, product, count, price = line.split(",")
        if date == "date":
            continue
        revenue = int(count) * float(price)
        totals[shop] = totals.get(shop, 0) + revenue
    for shop in sorted(totals, key=totals.get):
        print(shop, totals[shop])


main()
