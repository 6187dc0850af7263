def test_most_frequent_come_first(subject):
    subject.write("in/a.txt", "b a c\nB a; b-d\n")
    ran = subject.run("bash", "top_words.sh", "in/a.txt", "2")
    assert (ran.status, ran.stdout) == (0, "3 b\n2 a\n")


def test_ties_are_in_alphabetical_order(subject):
    subject.write("in/b.txt", "pear fig apple Fig PEAR apple zoo")
    ran = subject.run("bash", "top_words.sh", "in/b.txt", "10")
    assert ran.stdout == "2 apple\n2 fig\n2 pear\n1 zoo\n"


def test_digits_and_punctuation_part_words(subject):
    subject.write("in/c.txt", "x1y2x it's_x\n\n...x\t\n")
    ran = subject.run("bash", "top_words.sh", "in/c.txt", "5")
    assert ran.stdout == "4 x\n1 it\n1 s\n1 y\n"


def test_sample(subject):
    subject.write("in/d.txt", 'The cat saw the dog. The dog saw the cat, too!\nIt\'s a cat-and-dog story: "dog", says the cat.\n')
    assert subject.run("bash", "top_words.sh", "in/d.txt", "3").stdout == "5 the\n4 cat\n4 dog\n"


def test_file_name_with_spaces(subject):
    subject.write("in/two words.txt", "one two two")
    assert subject.run("bash", "top_words.sh", "in/two words.txt", "1").stdout == "2 two\n"


def test_empty_file_prints_nothing(subject):
    subject.write("in/empty.txt", "12 34 !\n")
    ran = subject.run("bash", "top_words.sh", "in/empty.txt", "3")
    assert (ran.status, ran.stdout) == (0, "")


def test_missing_file_is_exit_code_2(subject):
    ran = subject.run("bash", "top_words.sh", "in/nowhere.txt", "3")
    assert (ran.status, ran.stdout) == (2, "")
