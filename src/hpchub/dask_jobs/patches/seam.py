"""Whether upstream is as we know it, asked before anything of it is changed."""

from __future__ import annotations

from types import ModuleType


class Misfit(ImportError):
    """Something of upstream is not as we know it; the text says what, and what is there."""


def shape(thing: object) -> str:
    """A thing of upstream as a line to compare: a function's parameters, a constant's value, or what kind it is."""
    import inspect  # Dask imports it anyway, and nobody else shall pay for it

    if thing is None or isinstance(thing, bool | int | str):
        return repr(thing)
    if isinstance(thing, type):
        return "class"
    if not callable(thing):
        return type(thing).__name__  # "module" is one
    signature = inspect.signature(thing)
    parameters = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def find(owner: object, name: str) -> object:
    """What has this dotted name below a module or class. Raises Misfit."""
    found = owner
    for part in name.split("."):
        if not hasattr(found, part):
            raise Misfit(f"{_named(owner)}.{name} is not there")
        found = getattr(found, part)
    return found


def check(owner: object, name: str, expected: str) -> None:
    """Raise Misfit unless this name is there, in the shape that is expected."""
    there = shape(find(owner, name))
    if there != expected:
        raise Misfit(f"{_named(owner)}.{name} is {there}, where {expected} was expected")


def _named(owner: object) -> str:
    if isinstance(owner, ModuleType):
        return owner.__name__
    return f"{getattr(owner, '__module__', '?')}.{getattr(owner, '__qualname__', owner)}"
