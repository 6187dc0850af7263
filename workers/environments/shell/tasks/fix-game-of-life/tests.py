def test_no_step_changes_nothing(subject):
    assert subject.call("life.run", "#.\n.#\n..", 0) == "#.\n.#\n.."


def test_blinker(subject):
    assert subject.call("life.run", ".....\n..#..\n..#..\n..#..\n.....", 1) == ".....\n.....\n.###.\n.....\n....."
    assert subject.call("life.run", ".....\n..#..\n..#..\n..#..\n.....", 2) == ".....\n..#..\n..#..\n..#..\n....."


def test_grid_need_not_be_square(subject):
    assert subject.call("life.run", "......\n.##...\n.##...\n......", 3) == "......\n.##...\n.##...\n......"
    assert subject.call("life.run", "....\n.##.\n.##.\n....\n....\n....", 1) == "....\n.##.\n.##.\n....\n....\n...."


def test_glider_crosses_the_edges(subject):
    glider = ".#....\n..#...\n###...\n......\n......\n......"
    assert subject.call("life.run", glider, 24) == glider
    assert subject.call("life.run", glider, 4) == "......\n..#...\n...#..\n.###..\n......\n......"


def test_newline_at_the_end(subject):
    assert subject.call("life.run", "....\n.##.\n.##.\n....\n", 1) == "....\n.##.\n.##.\n...."


def test_neighbours(subject):
    code = "from life import neighbours, parse\ngrid = parse('###\\n###\\n###')\nresult = [neighbours(grid, 1, 1), neighbours(grid, 0, 0)]"
    assert subject.evaluate(code) == [8, 8]
