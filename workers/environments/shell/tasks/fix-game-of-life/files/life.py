"""Conway's Game of Life on a torus: cells beyond an edge are those at the opposite one."""


def parse(text):
    return [[cell == "#" for cell in line] for line in text.split("\n")]


def show(grid):
    return "\n".join("".join("#" if cell else "." for cell in row) for row in grid)


def neighbours(grid, row, column):
    height, width = len(grid), len(grid[0])
    count = 0
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if down != 0 and right != 0:
                count += grid[(row + down) % height][(column + right) % width]
    return count


def step(grid):
    height, width = len(grid), len(grid)
    following = [[False] * width] * height
    for row in range(height):
        for column in range(width):
            count = neighbours(grid, row, column)
            following[row][column] = count == 3 or (grid[row][column] and count == 2)
    return following


def run(text, steps):
    grid = parse(text)
    for _ in range(1, steps):
        grid = step(grid)
    return show(grid)
