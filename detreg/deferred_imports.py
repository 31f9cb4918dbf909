"""Imports of what is hardly ever used, put off until it is used.

The libraries of a training import far more than a training needs: MMDetection imports scikit-learn
for tracking, torchvision imports torch's compiler for one operator. That is half of the time to the
first step.
"""

import gc
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Union


@contextmanager
def defer_imports(*names: str) -> Iterator[None]:
    """Let the modules of these names, and those inside them, be imported when they are used.

    Inside the block `import name` and `from name import part` give stand-ins. A part imports the
    real module when it is called, asked for an attribute, compared with an instance, or made the
    base of a class. After the block, imports of these modules give the real ones. Modules that are
    imported already stay as they are.
    """
    missing = [name for name in names if name not in sys.modules]
    finder = _StandInFinder(missing)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.remove()


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Collect no garbage inside the block.

    Imports make a million objects and hardly any garbage, which takes a seventh of their time to
    find out.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _StandInFinder(MetaPathFinder, Loader):
    """Finds a stand-in for each module of some names, and for those inside them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        for name in self.names:
            if fullname == name or fullname.startswith(f"{name}."):
                return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(self, spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: a stand-in has no code."""

    def remove(self) -> None:
        """Give way to the real modules, also in the modules that have a stand-in as a part."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

        for name, module in list(sys.modules.items()):
            if not isinstance(module, _StandIn) or module._finder is not self:
                continue
            del sys.modules[name]
            parent_name, _, part = name.rpartition(".")
            parent = sys.modules.get(parent_name)
            if parent is not None and vars(parent).get(part) is module:
                delattr(parent, part)


class _StandIn(ModuleType):
    """Stands in for a module that nothing has been used of."""

    _finder: _StandInFinder

    def __init__(self, finder: _StandInFinder, name: str) -> None:
        super().__init__(name)
        self._finder = finder

    def __getattr__(self, name: str) -> object:
        # Python asks modules for names such as __file__, which must stay missing.
        if name.startswith("__"):
            raise AttributeError(name)
        real = sys.modules.get(self.__name__)
        if real is None or isinstance(real, _StandIn):
            return _DeferredPart(self, name)
        return getattr(real, name)


class _DeferredPart:
    """Stands in for a function, a class or a module inside a module."""

    def __init__(self, module: _StandIn, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self._import()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._import(), name)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._import())

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._import())

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return (self._import(),)

    def __or__(self, other: object) -> object:
        return Union[self, other]  # noqa: UP007 (only types have a | b)

    def __ror__(self, other: object) -> object:
        return Union[other, self]  # noqa: UP007

    def _import(self) -> Any:
        """Import the real module, and return its part."""
        self._module._finder.remove()
        module = importlib.import_module(self._module.__name__)
        try:
            return getattr(module, self._name)
        except AttributeError:
            return importlib.import_module(f"{module.__name__}.{self._name}")
