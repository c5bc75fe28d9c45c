"""Runs at the start of every Python process of a run: seeds, determinism switches, the watch on opened files.

The runner puts this folder first on PYTHONPATH. It stands alone (standard library, nothing of reprokit), because
every descendant pays for it, and it ends by handing over to the `sitecustomize` that it hides, if there is one.
"""

import atexit
import importlib.machinery
import importlib.util
import os
import sys
import zlib


def _seed_of_process(seed, process):
    """The run's seed in the first process; a derived one in each descendant, so that no two draw the same numbers."""
    return seed if process == "0" else zlib.crc32(f"{seed}/{process}".encode())


def _install_seeds(seed, strict):
    def seed_random(module):
        module.seed(seed)

    def seed_numpy(module):
        module.seed(seed)

    def seed_torch(module):
        module.manual_seed(seed)
        # MKL looks for the kernels of this CPU at the first call of its vector math. Where two threads are first at
        # once, one of them computes with other kernels: the first Adam step of one process in thirty, under load.
        for dtype in (module.float32, module.float64):
            module.ones(1, dtype=dtype).sqrt().exp()
        if strict:
            # use_deterministic_algorithms(True), which would load torch.compile for a second to set what
            # TORCHINDUCTOR_DETERMINISTIC has set
            module.set_deterministic_debug_mode("error")
            module.backends.cudnn.benchmark = False
            module.backends.cudnn.deterministic = True

    def seed_tensorflow(module):
        module.random.set_seed(seed)
        if strict:
            module.config.experimental.enable_op_determinism()

    def seed_keras(module):
        state, told = (
            sys.modules.get(f"keras.src.{name}") for name in ("backend.common.global_state", "utils.rng_utils")
        )
        if "tensorflow" in sys.modules or state is None or not hasattr(state, "set_global_attribute"):
            module.utils.set_random_seed(seed)
            return
        # what set_random_seed does, but for loading TensorFlow to seed it: it is seeded when the script loads it
        state.set_global_attribute(getattr(told, "GLOBAL_RANDOM_SEED", "global_random_seed"), seed)
        state.set_global_attribute("global_seed_generator", None)
        for name in ("random", "numpy.random", "torch"):
            if name in sys.modules:
                seeded[name](sys.modules[name])

    # a table of its own beside `client/frameworks`: every process of a run pays for what this file imports
    seeded = {
        "random": seed_random,
        "numpy.random": seed_numpy,
        "torch": seed_torch,
        "tensorflow": seed_tensorflow,
        "keras": seed_keras,
    }
    actions = dict(seeded)
    for name in list(actions):
        if name in sys.modules:
            actions.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, _AfterImport(actions))


class _AfterImport:
    """A finder that finds nothing itself: it lets the others find, and acts when the module has been executed."""

    def __init__(self, actions):
        self.actions = actions

    def find_spec(self, name, path=None, target=None):
        action = self.actions.get(name)
        if action is None:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None else None
            if spec is not None and spec.loader is not None:
                self._wrap(spec.loader, action, name)
                return spec
        return None

    def _wrap(self, loader, action, name):
        execute = loader.exec_module

        def exec_module(module):
            execute(module)
            self.actions.pop(name, None)
            action(module)

        loader.exec_module = exec_module


def _number_children(process):
    """Give each child its place in the family tree, from which its seed is derived.

    Children that execute the same are counted, and others are not: whether a library looks for fonts or processors by a
    program, as some do once and keep what was found in the home, must not give another seed to the ranks that follow.
    """
    try:
        import _posixsubprocess
    except ImportError:
        return
    original = _posixsubprocess.fork_exec
    counts: dict[str, int] = {}

    def fork_exec(*arguments):
        values = list(arguments)
        kind = _kind_of([os.fsdecode(word) for word in values[0]])
        counts[kind] = counts.get(kind, 0) + 1
        child = f"{process}.{kind}{counts[kind]}"
        if values[5] is None:
            os.environ["REPROKIT_PROCESS"] = child
        else:
            kept = [item for item in values[5] if not bytes(item).startswith(b"REPROKIT_PROCESS=")]
            values[5] = [*kept, b"REPROKIT_PROCESS=" + child.encode()]
        try:
            return original(*values)
        finally:
            os.environ["REPROKIT_PROCESS"] = process

    _posixsubprocess.fork_exec = fork_exec
    if "subprocess" in sys.modules:
        sys.modules["subprocess"]._fork_exec = fork_exec


def _kind_of(words):
    """Return what a command executes, in letters: the same for all ranks of a training, and on every machine.

    Numbers and folders are left out: they are descriptors, ports and temporary places.
    """
    told = [os.path.basename(word) for word in words[:1]]
    if told and told[0].startswith("python"):
        rest = iter(words[1:])
        for word in rest:
            if word in ("-W", "-X"):
                next(rest, None)
            elif word in ("-c", "-m") or not word.startswith("-"):
                told.append(next(rest, "") if word in ("-c", "-m") else os.path.basename(word))
                break
    return "".join(letter for letter in "-".join(told) if letter.isalpha() or letter in "-_")[:100]


def _report_at_exit(process):
    """Have the run's own process, and every one that saved, say as it ends what its numbers were computed with."""
    own = os.getpid()

    def report():
        connection = sys.modules.get("reprokit.client.connection")
        talked = connection is not None and connection.is_connected()
        if os.getpid() == own and (process == "0" or talked):
            from reprokit.client import at_exit

            at_exit.report()

    atexit.register(report)


def _lay_over(told):
    """Lay the inputs over the paths that `reprokit.vfs.setup` did in the process that this one comes from."""
    import json

    from reprokit.client.inputs import FolderLayer
    from reprokit.client.overlay.install import Overlay, install

    overlay = Overlay()
    for place, folder in json.loads(told):
        overlay.mount(place, FolderLayer(folder))
    install(overlay)


def _hand_over():
    """Execute the sitecustomize that this one hides."""
    own = os.path.dirname(os.path.abspath(__file__))
    others = [place for place in sys.path if os.path.abspath(place or ".") != own]
    others = [place for place in others if os.path.realpath(place or ".") != os.path.realpath(own)]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None and spec.origin != __file__:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def _start():
    process = os.environ.get("REPROKIT_PROCESS", "0")
    determinism = os.environ.get("REPROKIT_DETERMINISM", "off")
    if determinism != "off":
        _install_seeds(_seed_of_process(int(os.environ.get("REPROKIT_SEED", "0")), process), determinism == "strict")
    _number_children(process)
    _report_at_exit(process)
    policy = os.environ.get("REPROKIT_INPUTS", "off")
    if policy != "off":
        import reprokit_watch  # type: ignore[import-not-found]  # lies beside this file

        reprokit_watch.install()
    if os.environ.get("REPROKIT_VFS"):
        _lay_over(os.environ["REPROKIT_VFS"])
    if policy != "off" and os.environ.get("REPROKIT_ASKED"):
        _watch_variables(policy)


def _watch_variables(policy):
    """Note which variables the user's code reads: last, for what stands above reads its own."""
    import reprokit_variables  # type: ignore[import-not-found]  # it lies beside this file

    here = os.path.dirname(os.path.abspath(__file__)) + os.sep
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))) + os.sep
    token = os.environ.get("REPROKIT_TOKEN", "")
    reprokit_variables.watch(os.environ["REPROKIT_ASKED"], token, (here, package), policy)


if os.environ.get("REPROKIT_RUN_ID"):
    _start()
elif os.environ.get("REPROKIT_OBSERVED"):  # no run: `reprokit init` looks at what a script reads
    import reprokit_watch  # lies beside this file

    reprokit_watch.install()
_hand_over()
