"""What a task forbids, kept out of a submission where it runs: in the process that examines it.

Words in a file say little: a ban that looks for them refuses comments and lets helpers through. So two things
that know Python look. Before any of the submission runs, its sources are parsed, from its module on through
all that it imports from the workspace, and refused if they use what is banned. While it runs, an audit hook,
which nothing can take away again, ends the process when it asks for it in another way: source text that is
compiled, other processes, modules that are patched or loaded by name.
"""

GUARD = r'''
import _thread, json, os, sys

_PRELOADED = dict(sys.modules)
_PATH, sys.path = sys.path, sys.path[1:]
import ast
sys.path = _PATH

_BY_NAME = {"importlib", "imp", "runpy", "pkgutil", "zipimport", "ctypes", "subprocess", "multiprocessing",
            "pty", "signal", "_signal", "_posixsubprocess", "_ctypes", "_imp"}
_BEHIND = {"codecs": {"_codecs", "encodings"}, "io": {"_io", "_pyio"}, "ast": {"_ast"},
           "re": {"_sre", "sre_compile", "sre_parse"}}
_DECODERS = {"getincrementaldecoder", "getdecoder", "getreader", "iterdecode", "lookup", "decode",
             "utf_8_decode", "open", "register_error"}
_TEXT = {"eval", "exec", "compile"}
_OUTSIDE = {"os.fork", "os.forkpty", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn",
            "subprocess.Popen", "ctypes.dlopen", "ctypes.dlsym", "cpython.PyInterpreterState_New"}
_SEARCHES = {"gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys.settrace", "sys.setprofile",
             "sys._current_frames", "sys._current_exceptions", "sys.monitoring.register_callback"}
_GIVE_FRAMES = {"inspect.py", "traceback.py", "bdb.py", "pdb.py"}
_FRAMES = {"tb_frame", "gi_frame", "cr_frame", "ag_frame"}


def admit(module, without, folder, descriptor):
    """Imports a submission, if its sources use nothing that is banned, and holds the ban from then on."""
    sources, set_all_traps = Sources(folder, without), set_traps
    problem = sources.problem(module)
    ours = {name: sys.modules.pop(name) for name in set(sys.modules) - set(_PRELOADED)}
    refuse, arm = watch(without, folder, frozenset(sources.seen), descriptor)
    if problem is not None:
        refuse(problem)
    sys.pycache_prefix = "/nonexistent"  # where there is no bytecode of other sources than these
    __import__(module)
    set_all_traps(without, {**ours, **sys.modules}, folder + os.sep, refuse)
    arm()


class Sources:
    """The files of a submission that its module reaches, each parsed."""

    def __init__(self, folder, without):
        self.folder, self.without = folder, set(without)
        for name in without:
            self.without |= _BEHIND.get(name, set())
        self.loaded = set(_PRELOADED) - {"__main__"}
        self.seen = set()
        self.named = {}
        for where, folders, names in os.walk(folder):
            for name in names:
                self.named.setdefault(name.partition(".")[0], []).append(os.path.join(where, name))
            for name in folders:
                self.named.setdefault(name, []).append(os.path.join(where, name, "__init__.py"))

    def problem(self, module):
        waiting = self.files(module.split("."), [self.folder])
        while waiting:
            path = waiting.pop()
            if path in self.seen or not os.path.isfile(path):
                continue
            self.seen.add(path)
            name = os.path.relpath(path, self.folder)
            if not path.endswith(".py"):
                return f"{name} has no source to look at"
            with open(path, "rb") as file:
                source = file.read()
            try:
                tree = ast.parse(source)
            except (SyntaxError, ValueError):
                continue
            found = self.uses(tree, path, waiting)
            if found:
                return f"{name} line {found[0]} uses {found[1]}"
        return None

    def files(self, parts, roots):
        """Where a module may be that is called so."""
        found = []
        for root in roots:
            path = root
            for part in parts:
                found.append(os.path.join(path, "__init__.py"))
                path = os.path.join(path, part)
            for suffix in (".py", ".pyc", ".so", os.sep + "__init__.py"):
                found.append(path + suffix)
            folder, start = os.path.split(path)
            if os.path.isdir(folder):
                found += [os.path.join(folder, name) for name in os.listdir(folder)
                          if name.startswith(start + ".") and name.endswith((".so", ".pyc"))]
        return found

    def own(self, name):
        """Files of the workspace that a module of this name is taken from; none: it is Python's."""
        if name in self.loaded:
            return []
        known = name in sys.stdlib_module_names
        places = [path for path in self.named.get(name, []) if not known or os.path.dirname(path) in
                  (self.folder, os.path.join(self.folder, name))]
        return sorted({os.path.dirname(path) if not path.endswith(os.sep + name + os.sep + "__init__.py")
                       else os.path.dirname(os.path.dirname(path)) for path in places})

    def uses(self, tree, path, waiting):
        outside, assigned = {}, set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    root = alias.name.partition(".")[0]
                    roots = self.own(root)
                    if roots:
                        waiting += self.files(alias.name.split("."), roots)
                    elif root in self.without or root in _BY_NAME:
                        return node.lineno, root
                    else:
                        outside[alias.asname or root] = root
            elif isinstance(node, ast.ImportFrom):
                module, roots = (node.module or "").split(".") if node.module else [], None
                if node.level:
                    folder = path
                    for _ in range(node.level):
                        folder = os.path.dirname(folder)
                    roots = [folder]
                else:
                    roots = self.own(module[0])
                for alias in node.names:
                    if roots:
                        waiting += self.files([*module, alias.name], roots) + self.files(module, roots)
                    elif module[0] in self.without or module[0] in _BY_NAME:
                        return node.lineno, module[0]
                    elif alias.name in self.without and (module[0] == "builtins" or alias.name not in _TEXT):
                        return node.lineno, alias.name
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                assigned.add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                assigned.add(node.name)
            elif isinstance(node, ast.arg):
                assigned.add(node.arg)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in assigned:
                if node.id in _TEXT & self.without or node.id in ("__import__", "__builtins__", "__loader__"):
                    return node.lineno, node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                root = outside.get(node.value.id)
                if root is None:
                    continue
                if node.attr in self.without and (root == "builtins" or node.attr not in _TEXT):
                    return node.lineno, f"{root}.{node.attr}"
                if (root, node.attr) in (("sys", "modules"), ("builtins", "__import__")):
                    return node.lineno, f"{root}.{node.attr}"
        return None


def watch(without, folder, files, descriptor):
    """Has the process end, once and for all, when it asks for what is banned.

    Gives what ends it, and what makes it stricter, by a second hook: a mark that a submission could find and
    take away is nowhere.
    """
    def refuse(what, write=os.write, end=os._exit, dumps=json.dumps, descriptor=descriptor):
        write(descriptor, dumps({"refused": what}).encode())
        end(0)

    banned = set(without).union(*(_BEHIND.get(name, ()) for name in without))
    if "codecs" in without:
        banned.add("encodings.utf_8")
    watched = frozenset({"import", "compile", "open", "sys._getframe", "code.__new__", "object.__getattr__",
                         "object.__setattr__", *_OUTSIDE, *_SEARCHES})

    def judge(event, args, armed, within=folder + os.sep, banned=frozenset(banned), files=files,
              frame_of=sys._getframe, refuse=refuse, importing=is_importing, text=bool(_TEXT & set(without)),
              outside=frozenset(_OUTSIDE), searches=frozenset(_SEARCHES), frames=frozenset(_FRAMES),
              giving=frozenset(_GIVE_FRAMES), writing=os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if event == "import":
            if args[0] in banned:
                frame = frame_of(2)
                while frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
                    frame = frame.f_back
                if frame is not None and frame.f_code.co_filename.startswith(within):
                    refuse(f"it uses {args[0]}")
        elif event == "compile":
            caller = frame_of(2).f_code.co_filename
            if caller.startswith("<frozen importlib"):
                name = args[1] if type(args[1]) is str else args[1].decode()
                if name.startswith(within) and name not in files:
                    refuse(f"it loads the module {name[len(within):]} by name")
            elif text and (caller.startswith(within) or armed and not importing(frame_of(2), within)):
                refuse("it compiles source text")
        elif event == "code.__new__":
            if frame_of(2).f_code.co_filename.startswith(within):
                refuse("it makes code")
        elif event in outside:
            refuse(f"it goes beyond its process ({event})")
        elif event in searches:
            refuse(f"it calls {event}")
        elif event == "sys._getframe" or event == "object.__getattr__" and args[1] in frames:
            caller = frame_of(2).f_code.co_filename
            if caller.startswith(within) or caller.rpartition("/")[2] in giving:
                refuse("it looks into frames")
        elif event == "open" and armed:
            if type(args[2]) is int and args[2] & writing:
                refuse("it writes files")
        elif event == "object.__setattr__" and args[1] in ("__code__", "__defaults__", "__kwdefaults__"):
            if args[0].__module__ == __name__:
                refuse("it patches the ban")

    def hooked(armed):
        def hook(event, args, judge=judge, armed=armed, watched=watched, inside=set(),
                 thread=_thread.get_ident):
            if event in watched and thread() not in inside:  # looking at a frame is an event as well
                inside.add(thread())
                try:
                    judge(event, args, armed)
                finally:
                    inside.discard(thread())
        sys.addaudithook(hook)

    hooked(False)
    return refuse, lambda hooked=hooked: hooked(True)


def is_importing(frame, within):
    """Whether Python's own modules are at work here as they are imported: no input reaches them."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(within) or name == "<examined>":
            return False
        if name.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def trap_for(value, name, within, refuse, importing=is_importing, frame_of=sys._getframe):
    def trap(*args, **kwargs):
        if not importing(frame_of(1), within):
            refuse(f"it uses {name}")
        return value(*args, **kwargs)
    return trap


def set_traps(without, modules, within, refuse):
    """Makes what is banned end the process when it is called, by whatever way it is reached."""
    for name in without:
        module = modules.get(name)
        if module is None:
            continue
        for key, value in list(vars(module).items()):
            if isinstance(value, type):  # which others may ask for by `isinstance`, or decode text by
                if value.__module__ == name != "codecs" and "__init__" in vars(value):
                    value.__init__ = trap_for(value.__init__, name, within, refuse)
            elif callable(value) and not key.startswith("__") and (name != "codecs" or key in _DECODERS):
                setattr(module, key, trap_for(value, name, within, refuse))
    if "codecs" in without:
        sys.modules.pop("encodings.utf_8", None)
    if {"re", "fnmatch", "glob"} & set(without):
        import _sre
        _sre.compile = trap_for(_sre.compile, "re", within, refuse)
'''
