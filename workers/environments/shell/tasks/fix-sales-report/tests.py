def report(subject, text):
    subject.write("t/sales.csv", text)
    return subject.run("python3", "report.py", "t/sales.csv")


def test_the_example(subject):
    text = 'date,shop,product,count,price\n2024-01-02,Bern,"Tea, green",3,4.10\n2024-01-02,Basel,Coffee,1,0.10\n\n2024-01-03,Basel,Coffee,1,0.20\n2024-01-04,"Zürich, Main",Mug,10,7.99\n2024-01-05, Bern ,Coffee,2,"1,250.00"\n2024-01-06,Basel,Refund,-1,0.10\n'
    ran = report(subject, text)
    assert (ran.status, ran.stdout) == (0, "Bern\t2512.30\nZürich, Main\t79.90\nBasel\t0.20\n")


def test_columns_in_another_order(subject):
    ran = report(subject, "price,count,note,shop\n2.50,4,x,A\n1,1,y,B\n")
    assert (ran.status, ran.stdout) == (0, "A\t10.00\nB\t1.00\n")


def test_cents_are_exact(subject):
    rows = "0.10,1,A\n" * 1000 + "1.005,1,B\n" * 200
    ran = report(subject, "price,count,shop\n" + rows)
    assert ran.stdout == "B\t201.00\nA\t100.00\n"


def test_large_amounts_are_exact(subject):
    ran = report(subject, 'price,count,shop\n"9,007,199,254,740,993.01",1,A\n')
    assert ran.stdout == "A\t9007199254740993.01\n"


def test_equal_revenues_by_name(subject):
    ran = report(subject, "shop,count,price\nb,1,5\na,1,5.00\nc,2,3\n")
    assert ran.stdout == "c\t6.00\na\t5.00\nb\t5.00\n"


def test_broken_lines_are_skipped(subject):
    ran = report(subject, "shop,count,price\na,one,5\na,1,5\nb,1,\nb,2,x\n")
    assert (ran.status, ran.stdout) == (1, "a\t5.00\n")


def test_line_breaks_within_fields(subject):
    ran = report(subject, 'shop,product,count,price\nA,"two\nlines",2,1.25\n')
    assert (ran.status, ran.stdout) == (0, "A\t2.50\n")
