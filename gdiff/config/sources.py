"""What a configuration may draw on besides gdiff: a folder, and packages of the user's own."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from gdiff.errors import UserError, require

# Entry points by which an installed package says that it brings parts for gdiff.
_GROUP = "gdiff.plugins"


@dataclass(frozen=True)
class Sources:
    """Where a command was given, and the packages whose classes its configuration may name.

    Attributes:
        folder: of the command, where plug-ins may lie.
        plugins: packages named by --plugin, in that folder or installed.
        installed: packages that say of themselves that they are plug-ins.
        base: that paths are relative to, if not the folder.
    """

    folder: Path
    plugins: tuple[str, ...] = ()
    installed: tuple[str, ...] = ()
    base: Path | None = None

    def path(self, given: Path) -> Path:
        """A path of a configuration, absolute."""
        return (self.base or self.folder) / os.path.expanduser(given)

    @classmethod
    def of(cls, plugins: Sequence[str] = ()) -> "Sources":
        """Those of a command given here.

        Raises:
            UserError: a plug-in is not there.
        """
        installed = tuple(point.module for point in entry_points(group=_GROUP))
        found = cls(Path.cwd(), tuple(plugins), installed)
        for name in plugins:
            require(
                found._spec(name) is not None,
                f"--plugin {name}: there is no package of this name in {found.folder}, and none "
                "is installed",
            )
        return found

    def config_dirs(self) -> list[Path]:
        """The folders `configs` that plug-ins bring."""
        specs = filter(None, map(self._spec, dict.fromkeys([*self.plugins, *self.installed])))
        roots = [Path(root) for spec in specs for root in spec.submodule_search_locations or ()]
        return [root / "configs" for root in roots if (root / "configs").is_dir()]

    def module(self, name: str, named: str) -> ModuleType:
        """Import a module that a configuration names, of gdiff or of a plug-in.

        Raises:
            UserError: it is of another package, is not there, or fails; `named` starts the line.
        """
        allowed = ("gdiff", *self.plugins, *self.installed)
        require(
            any(f"{name}.".startswith(f"{package}.") for package in allowed),
            f"{named} is not inside gdiff: if you trust that package, add --plugin "
            f"{name.partition('.')[0]}",
        )
        try:
            with self._reachable():
                return importlib.import_module(name)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                raise UserError(f"{named} does not exist") from error
            if name.startswith("gdiff."):
                raise
            raise UserError(
                f"{named} cannot be imported ({type(error).__name__}: {error}); GDIFF_DEBUG=1 "
                "shows where"
            ) from error

    def _spec(self, package: str) -> ModuleSpec | None:
        try:
            with self._reachable():
                return importlib.util.find_spec(package)
        except (ImportError, ValueError):  # no name of a package, or of one inside another
            return None

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """The folder comes first among those that are searched, if a plug-in may lie there."""
        path = str(self.folder)
        if self.plugins:
            importlib.invalidate_caches()
            sys.path.insert(0, path)
        try:
            yield
        finally:
            if self.plugins:
                sys.path.remove(path)
