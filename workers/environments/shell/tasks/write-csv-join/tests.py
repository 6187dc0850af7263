PEOPLE = 'id,name,city\n1,"Doe, Jane",Bern\n2,Ann,Basel\n3,Bo,\n'
VISITS = 'date,id,note\n2024-01-02,2,first\n2024-01-05,1,"said ""hello"""\n2024-01-09,2,second\n2024-02-01,7,unknown\n'


def join(subject, left, right, key):
    subject.write("t/left.csv", left)
    subject.write("t/right.csv", right)
    return subject.run("python3", "join.py", "t/left.csv", "t/right.csv", key)


def test_rows_are_joined(subject):
    ran = join(subject, PEOPLE, VISITS, "id")
    assert ran.status == 0
    assert ran.stdout.splitlines() == [
        "id,name,city,date,note",
        '1,"Doe, Jane",Bern,2024-01-05,"said ""hello"""',
        "2,Ann,Basel,2024-01-02,first",
        "2,Ann,Basel,2024-01-09,second",
        "3,Bo,,,",
    ]


def test_equal_column_names_are_told_apart(subject):
    ran = join(subject, "k,v\na,1\n", "k,v,w\na,2,3\n", "k")
    assert ran.stdout == "k,v,right.v,w\na,1,2,3\n"


def test_line_breaks_in_fields_survive(subject):
    ran = join(subject, 'k,text\na,"one\ntwo"\n', "k,z\na,9\n", "k")
    assert ran.stdout == 'k,text,z\na,"one\ntwo",9\n'


def test_repeated_keys_on_both_sides(subject):
    ran = join(subject, "k,l\na,1\na,2\n", "r,k\nx,a\ny,a\n", "k")
    assert ran.stdout == "k,l,r\na,1,x\na,1,y\na,2,x\na,2,y\n"


def test_right_without_rows(subject):
    assert join(subject, "k,l\na,1\n", "k,m,n\n", "k").stdout == "k,l,m,n\na,1,,\n"


def test_keys_are_compared_as_text(subject):
    assert join(subject, "k\n01\n1\n", "k,v\n1,x\n", "k").stdout == "k,v\n01,\n1,x\n"


def test_missing_key_is_exit_code_2(subject):
    for left, right in (("a,b\n1,2\n", "k,c\n1,2\n"), ("k,b\n1,2\n", "a,c\n1,2\n")):
        ran = join(subject, left, right, "k")
        assert (ran.status, ran.stdout) == (2, "")


def test_large_files_are_quick(subject):
    rows = "".join(f"{number},x{number}\n" for number in range(40_000))
    ran = join(subject, "k,v\n" + rows, "k,w\n" + rows, "k")
    assert ran.stdout.count("\n") == 40_001
