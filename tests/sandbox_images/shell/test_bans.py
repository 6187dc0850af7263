"""What a task bans can be neither used nor hidden, and is not refused to those who only name it."""

import pytest

from tests.helpers.shell import graded, output, shell_session
from workers.errors import ToolsetError
from workers.sandbox.base import Session
from workers.sandbox.process import ProcessSandbox

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

TESTS = """
def test_it(subject):
    code = "from submission import answer\\nresult = answer(text)"
    ban = {"of": "submission", "without": ["eval", "exec", "compile", "ast", "re", "codecs"]}
    assert subject.evaluate(code, text="20+22", **ban) == 42
"""
HONEST = """
def answer(text):
    one, other = text.split("+")
    return int(one) + int(other)
"""
REFUSED = {
    "by its name": "def answer(text):\n    return eval(text)",
    "by another name": "from builtins import eval as do\ndef answer(text):\n    return do(text)",
    "by the module of all names": "import builtins as b\ndef answer(text):\n    return b.eval(text)",
    "by a dictionary": "import builtins\ndef answer(text):\n    return vars(builtins)['eva' + 'l'](text)",
    "by a default": "def answer(text, do=getattr(__import__('builtins'), 'eval')):\n    return do(text)",
    "in a class": "class A:\n    do = staticmethod(eval)\ndef answer(text):\n    return A.do(text)",
    "by map": "import builtins\ndef answer(t):\n    return list(map(getattr(builtins, 'ev' + 'al'), [t]))[0]",
    "by the library": "import timeit\ndef answer(text):\n    k = []\n"
    "    timeit.timeit(f'k.append({text})', number=1, globals={'k': k})\n    return k[0]",
    "in a thread": "import builtins, threading\ndef answer(text):\n    kept = []\n"
    "    go = lambda: kept.append(vars(builtins)['ev' + 'al'](text))\n"
    "    t = threading.Thread(target=go)\n    t.start()\n    t.join()\n    return kept[0]",
    "with ast, out of another module": "import dataclasses\ndef answer(text):\n"
    "    return vars(dataclasses)['inspect'].ast.literal_eval(text.replace('+', ',') ) and 42",
    "with re, before it is called": "import re\nform = re.compile('(.*)[+](.*)')\ndef answer(text):\n"
    "    return sum(map(int, form.match(text).groups()))",
    "with re, out of another module": "from json import scanner\ndef answer(text):\n"
    "    return sum(map(int, vars(scanner)['re'].findall('[0-9]+', text)))",
    "with re, imported from another": "from json.scanner import re\ndef answer(text):\n    return 42",
    "with the engine behind re": "import _sre\ndef answer(text):\n    return 42",
    "with a module by its name": "import importlib\nx = importlib.import_module('re')\n" + HONEST,
    "with a table of modules": "import sys\nx = sys.modules['re']\n" + HONEST,
    "another process": "import os, sys\ndef answer(text):\n"
    "    return int(os.popen(f'{sys.executable} -c \"print({text})\"').read())",
    "a fork": "import os\n" + HONEST.replace("    one,", "    os.fork()\n    one,"),
    "a file": "def answer(text):\n    open('made.py', 'w').write(f'x = {text}')\n"
    "    import made\n    return made.x",
    "frames": "import sys\nx = sys._getframe()\n" + HONEST,
    "frames, by the library": "import inspect\nx = inspect.stack()\n" + HONEST,
    "frames of tracebacks": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n"
    "    x = e.__traceback__.tb_frame\n" + HONEST,
    "a search for the guard": "import gc\nx = gc.get_objects()\n" + HONEST,
    "a trace": "import sys\nsys.settrace(lambda *a: None)\n" + HONEST,
    "the guard's marks": "import __main__\nfor name in list(vars(__main__)):\n"
    "    if not name.startswith('__'):\n        vars(__main__)[name] = lambda *a, **k: None\n"
    "import builtins\ndef answer(text):\n    return vars(builtins)['ev' + 'al'](text)",
}
TAKEN = {
    "words": '"""Neither eval nor exec; import ast, import re."""\n# import codecs\n' + HONEST,
    "own functions of such names": "def compile(text):\n    return text.split('+')\n"
    "class Regex:\n    re = codecs = 0\n    def eval(self, text):\n"
    "        return sum(map(int, compile(text)))\n"
    "def answer(text):\n    return Regex().eval(text)",
    "modules that use what is banned": "from dataclasses import dataclass\n"
    "from collections import namedtuple\n"
    "import enum, typing, textwrap, string, decimal, inspect\nP = namedtuple('P', 'a b')\n@dataclass\n"
    "class Sum:\n    a: int\n    b: int\n    def value(self):\n        return self.a + self.b\n"
    "def answer(text):\n    return Sum(*P(*map(int, text.split('+')))).value()",
    "threads": "from concurrent.futures import ThreadPoolExecutor\ndef answer(text):\n"
    "    with ThreadPoolExecutor() as pool:\n        return sum(pool.map(int, text.split('+')))",
    "files that it reads": "def answer(text):\n    open(__file__).read()\n"
    "    return sum(map(int, text.split('+')))",
    "a module that is found late": "def answer(text):\n    import fractions\n"
    "    return int(sum(map(fractions.Fraction, text.split('+'))))",
}


async def worth(
    shells: ProcessSandbox, files: dict[str, str], command: str | None = None
) -> tuple[float | None, str]:
    session = await shell_session(shells, files)
    if command is not None:
        await output(session, command)
    scores = await graded(session, TESTS)
    await session.close()
    return scores.metrics["solved"], str(scores.details["failures"])


@pytest.mark.parametrize("how", REFUSED)
async def test_what_is_banned_is_refused(shells: ProcessSandbox, how: str) -> None:
    solved, why = await worth(shells, {"submission.py": REFUSED[how]})
    assert solved == 0.0 and "does not do the work itself" in why, why


@pytest.mark.parametrize("how", TAKEN)
async def test_what_is_not_banned_is_taken(shells: ProcessSandbox, how: str) -> None:
    assert await worth(shells, {"submission.py": TAKEN[how]}) == (1.0, "{}")


HELPERS = {
    "a module": ({"submission.py": "from helper import *", "helper.py": "import re\n" + HONEST}, None),
    "a package": (
        {
            "submission/__init__.py": "from .deep.one import answer",
            "submission/deep/__init__.py": "",
            "submission/deep/one.py": "from .. import two\n" + HONEST,
            "submission/two.py": "import codecs",
        },
        None,
    ),
    "a folder that is put on the path": (
        {
            "submission.py": "import sys\nsys.path.append('lib')\nfrom helper import answer",
            "lib/helper.py": "import re\n" + HONEST,
        },
        None,
    ),
    "bytecode without source": (
        {"submission.py": "from helper import answer", "helper.py": "import re\n" + HONEST},
        'python3 -c \'import py_compile; py_compile.compile("helper.py", "helper.pyc")\'; rm helper.py',
    ),
}


@pytest.mark.parametrize("how", HELPERS)
async def test_helpers_are_looked_at(shells: ProcessSandbox, how: str) -> None:
    solved, why = await worth(shells, *HELPERS[how])
    assert solved == 0.0 and "does not do the work itself" in why, why


async def test_bytecode_of_other_sources_is_not_run(shells: ProcessSandbox) -> None:
    stale = (
        "import py_compile; py_compile.compile('submission.py',"
        " invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    )
    command = f'python3 -c "{stale}" && mv honest.py submission.py'
    files = {"submission.py": "def answer(text):\n    return 41", "honest.py": HONEST}
    assert await worth(shells, files, command) == (1.0, "{}")


async def test_other_files_may_use_what_is_banned(shells: ProcessSandbox) -> None:
    files = {"submission.py": HONEST, "check.py": "import re, ast\nprint(eval('1'))"}
    assert await worth(shells, files) == (1.0, "{}")


async def test_ban_without_a_module_is_the_tasks_fault(session: Session) -> None:
    tests = "def test_it(subject):\n    subject.evaluate('result = 1', without=['re'])"
    with pytest.raises(ToolsetError, match="do not say of which module"):
        await graded(session, tests)


async def test_folder_that_was_made_anew_is_the_one_that_is_judged(session: Session) -> None:
    await session.call("write_file", {"path": "old.txt", "content": "old"})
    await output(session, 'here=$PWD; cd ..; rm -rf "$here"; mkdir "$here"; cd "$here"; echo new >new.txt')
    assert "new.txt" in (await session.call("list_files", {"path": "."})).content
    assert (await session.call("write_file", {"path": "more.txt", "content": "more"})).error is None
    tests = """
def test_it(subject):
    assert sorted(subject.files()) == ["more.txt", "new.txt"]
    subject.write("in/a.txt", "a")
    assert subject.run("cat", "in/a.txt", "more.txt", "new.txt").stdout == "amorenew\\n"
"""
    assert (await graded(session, tests)).metrics["solved"] == 1.0


async def test_tests_read_and_run_in_the_same_folder(session: Session) -> None:
    """A submission that moves its folder while it is examined shows no other one to the tests after that."""
    move = "import os\nhere = os.getcwd()\nos.rename(here, here + '2')\nos.mkdir(here)\n"
    await session.call("write_file", {"path": "submission.py", "content": move})
    tests = """
def test_it(subject):
    subject.evaluate("import submission")
    subject.write("a.txt", "a")
    assert subject.run("cat", "a.txt").stdout == "a"
    assert sorted(subject.files()) == ["a.txt", "submission.py"]
"""
    assert (await graded(session, tests)).metrics["solved"] == 1.0
